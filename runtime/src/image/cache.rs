//! What builds have made, kept for the next build: a step's key → its layer, and a finished image's key → its time.
//!
//! `cache/steps/<key>` says which layer a step gave. The layer itself lies where all layers lie, and the entry keeps it
//! from being swept, until the image that has it is removed, the cache is pruned, or it grows beyond its limit.
//! `cache/images/<key>` says when an image with just this content was first built, so that to build it again gives the
//! same image.

use super::{Layer, Result, blobs};
use crate::digest;
use crate::store::{Durability, Store, StoreError, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Beyond this many bytes the steps that were not used for the longest time go.
const MOST_BYTES: u64 = 10 << 30;
/// Steps that were not used for so long go.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The instruction, for whoever looks at the cache.
    text: String,
    /// Nothing if the step changed no file.
    layer: Option<StoredLayer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredLayer {
    digest: String,
    media_type: String,
    size: u64,
    diff_id: String,
    chain_id: String,
}

/// A step that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The key, as hex digits.
    pub key: String,
    /// The instruction.
    pub text: String,
    /// The layer; none if the step changed no file.
    pub layer: Option<Layer>,
    /// When a build last used it.
    pub used: SystemTime,
}

/// When an image was first built.
#[derive(Debug, Serialize, Deserialize)]
struct Built {
    created: jiff::Timestamp,
    id: String,
}

fn steps(store: &Store) -> PathBuf {
    store.cache().join("steps")
}

fn image(store: &Store, key: &str) -> PathBuf {
    store.cache().join("images").join(key.trim_start_matches("sha256:"))
}

fn step(store: &Store, key: &str) -> PathBuf {
    steps(store).join(key.trim_start_matches("sha256:"))
}

/// What a step with this key gave, if that is known and still there. It counts as used now.
pub(super) fn find(store: &Store, key: &str) -> Option<Option<Layer>> {
    let path = step(store, key);
    let entry: Entry = files::read_json(&path).ok()?;
    let layer = entry.layer.map(layer);
    if let Some(layer) = &layer
        && !(blobs::path(store, &layer.digest).ok()?.exists()
            && blobs::layer_dir(store, &layer.chain_id).ok()?.is_dir())
    {
        return None;
    }
    let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    Some(layer)
}

/// Remembers what a step gave. The layer must be in its place, under the lock of the index.
pub(super) fn keep(store: &Store, key: &str, text: &str, layer: Option<&Layer>) -> Result<()> {
    let layer = layer.map(|layer| StoredLayer {
        digest: layer.digest.clone(),
        media_type: layer.media_type.clone(),
        size: layer.size,
        diff_id: layer.diff_id.clone(),
        chain_id: layer.chain_id.clone(),
    });
    files::make_dir(&steps(store))?;
    Ok(files::write_json(&step(store, key), &Entry { text: text.to_owned(), layer }, Durability::Buffered)?)
}

/// Every step that is kept, the one used last first.
pub(super) fn all(store: &Store) -> Result<Vec<Kept>> {
    let dir = steps(store);
    let mut all = Vec::new();
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        other => other.map_err(StoreError::io("list", &dir))?,
    };
    for file in entries {
        let file = file.map_err(StoreError::io("list", &dir))?;
        let key = file.file_name().to_string_lossy().into_owned();
        // What is being written, and what is damaged, keeps nothing.
        if let (true, Ok(entry)) = (digest::is_hex(&key, 64..=64), files::read_json::<Entry>(&file.path())) {
            let used = file.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Kept { key, text: entry.text, layer: entry.layer.map(layer), used });
        }
    }
    all.sort_by_key(|kept| std::cmp::Reverse(kept.used));
    Ok(all)
}

/// Forgets steps; their layers are swept next, unless an image has them.
pub(super) fn forget<'k>(store: &Store, keys: impl IntoIterator<Item = &'k Kept>) {
    for kept in keys {
        let _ = std::fs::remove_file(step(store, &kept.key));
    }
}

/// What was written down and cannot be read: after a power cut, say. Nobody takes it for anything.
pub(super) fn unreadable(store: &Store) -> Vec<PathBuf> {
    let named = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|file| file.file_name().to_str().is_some_and(|key| digest::is_hex(key, 64..=64)))
    };
    let steps = named(steps(store)).filter(|file| files::read_json::<Entry>(&file.path()).is_err());
    let images = named(store.cache().join("images"));
    let images = images.filter(|file| files::read_json::<Built>(&file.path()).is_err());
    steps.chain(images).map(|file| file.path()).collect()
}

/// Forgets one step.
pub(super) fn forget_key(store: &Store, key: &str) {
    let _ = std::fs::remove_file(step(store, key));
}

/// Removes what writers that were killed have left.
pub(super) fn sweep(store: &Store) {
    for dir in ["steps", "images", "contexts"] {
        files::sweep_beside(&store.cache().join(dir));
    }
}

/// Of these, what goes for the sake of the limits. `needed` are the chain ids of the layers that images have: what
/// they take is not the cache's.
pub(super) fn beyond_limits<'k>(all: &'k [Kept], needed: &BTreeSet<String>, now: SystemTime) -> Vec<&'k Kept> {
    let mut bytes: u64 = 0;
    let goes = |kept: &&Kept| {
        let own = kept.layer.as_ref().filter(|layer| !needed.contains(&layer.chain_id));
        bytes = bytes.saturating_add(own.map_or(0, |layer| layer.size));
        bytes > MOST_BYTES || now.duration_since(kept.used).is_ok_and(|age| age > LONGEST)
    };
    all.iter().filter(goes).collect()
}

/// When an image with this key was built first.
pub(super) fn time_of_image(store: &Store, key: &str) -> Option<jiff::Timestamp> {
    Some(files::read_json::<Built>(&image(store, key)).ok()?.created)
}

/// Remembers when an image was built; only for the next build, so errors do not count.
pub(super) fn keep_image(store: &Store, key: &str, created: jiff::Timestamp, id: &str) {
    let path = image(store, key);
    let built = Built { created, id: id.to_owned() };
    let dir = path.parent().unwrap_or(&path);
    let _ = files::make_dir(dir).and_then(|()| files::write_json(&path, &built, Durability::Buffered));
}

/// Forgets the times of the images that are no more: `there` tells which are.
pub(super) fn forget_images(store: &Store, there: impl Fn(&str) -> bool) {
    for file in std::fs::read_dir(store.cache().join("images")).into_iter().flatten().flatten() {
        if files::read_json::<Built>(&file.path()).is_ok_and(|built| !there(&built.id)) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn layer(stored: StoredLayer) -> Layer {
    Layer {
        digest: stored.digest,
        media_type: stored.media_type,
        size: stored.size,
        diff_id: stored.diff_id,
        chain_id: stored.chain_id,
        file: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_long_or_is_too_much_goes() {
        let now = SystemTime::now();
        let kept = |chain: &str, size: u64, days: u64| Kept {
            key: chain.to_owned(),
            text: String::new(),
            layer: Some(Layer {
                digest: String::new(),
                media_type: String::new(),
                size,
                diff_id: String::new(),
                chain_id: chain.to_owned(),
                file: None,
            }),
            used: now - Duration::from_secs(days * 24 * 3600),
        };
        let all = [
            kept("a", MOST_BYTES, 0),
            kept("b", MOST_BYTES - 5, 1),
            kept("c", 5, 2),
            kept("d", 1, 3),
            kept("e", 0, 31),
        ];
        let gone = |needed: &[&str]| {
            let needed = needed.iter().map(|id| (*id).to_owned()).collect();
            beyond_limits(&all, &needed, now).iter().map(|kept| kept.key.clone()).collect::<Vec<_>>().join("")
        };
        assert_eq!(gone(&["a"]), "de");
        assert_eq!(gone(&["a", "d"]), "e");
        assert_eq!(gone(&[]), "bcde");
    }
}
