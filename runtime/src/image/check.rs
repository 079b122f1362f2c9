//! Are the images whole? The index and the blobs that it names by their digests, unpacked layers by their archives, and
//! what belongs to no image.
//!
//! All is looked at without a lock first, since hashing takes its time. Only what seems wrong then is looked at again
//! under the lock of the index, when nobody puts blobs in place or takes them away.

use super::index::{self, Change};
use super::unpack;
use super::{Image, Images, Layer, Result, blobs, cache};
use crate::check::{Finding, REPAIR, Report, names_in};
use crate::digest;
use crate::store::{Store, StoreError, files};
use rustix::fs::{CWD, RenameFlags};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Goes through the images. `user` names a running container that has this layer below it.
pub(crate) fn check(store: &Store, report: &mut Report, user: &dyn Fn(&Path) -> Option<String>) {
    let mut blobs = Blobs { store, known: HashMap::new(), doubted: None };
    let first = match Census::take(store, &mut blobs) {
        Ok(census) => census,
        Err(error) => {
            let index = store.content().join("index.json");
            let advice = "bring it back from a copy of the store; without one, remove it, and pull and build again";
            return report.note(Finding::wrong("the list of images", error, &index, advice));
        }
    };
    report.counts.images = first.manifests;
    let changed = first.changed_layers(store, report);

    // A store that cannot be written is changed by nobody.
    let lock = Change::begin(store).ok();
    blobs.doubt();
    let Ok(census) = Census::take(store, &mut blobs) else { return };
    census.tell(store, report, &blobs);
    for chain_id in changed.iter().filter(|id| census.layers.contains_key(*id)) {
        census.tell_layer(store, report, chain_id, user);
    }
    census.tell_leftovers(store, report);
    for step in cache::unreadable(store) {
        let finding = Finding::left("a step of the build cache", "it cannot be read", &step);
        report.mend(finding, || std::fs::remove_file(&step).map(|()| true));
    }
    drop(lock);
}

/// What is known of blobs, each hashed once.
struct Blobs<'a> {
    store: &'a Store,
    /// By digest: what is wrong with it, if anything.
    known: HashMap<String, Option<String>>,
    /// What seemed wrong and is looked at again; other blobs that are not known yet came while we looked.
    doubted: Option<BTreeSet<String>>,
}

impl Blobs<'_> {
    /// Forgets what seemed wrong, so that it is looked at again, and takes the rest as it is.
    fn doubt(&mut self) {
        let doubted = self.known.extract_if(|_, problem| problem.is_some()).map(|(digest, _)| digest).collect();
        self.doubted = Some(doubted);
    }

    /// What is wrong with a blob, if anything. `size` is what it should have, where that is told.
    fn problem(&mut self, digest: &str, size: Option<u64>) -> Option<String> {
        if let Some(known) = self.known.get(digest) {
            return known.clone();
        }
        if self.doubted.as_ref().is_some_and(|doubted| !doubted.contains(digest)) {
            return self.there(digest).err();
        }
        let problem = self.there(digest).and_then(|path| right(&path, digest, size)).err();
        self.known.insert(digest.to_owned(), problem.clone());
        problem
    }

    fn there(&self, digest: &str) -> std::result::Result<PathBuf, String> {
        let path = blobs::path(self.store, digest).map_err(|e| e.to_string())?;
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() => Ok(path),
            Ok(_) => Err("is no file".to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("is lost".to_owned()),
            Err(e) => Err(format!("cannot be looked at ({e})")),
        }
    }
}

/// Whether a file is what a digest says; else what it is.
fn right(path: &Path, digest: &str, size: Option<u64>) -> std::result::Result<(), String> {
    let unreadable = |e: std::io::Error| format!("cannot be read ({e})");
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if let Some(size) = size.filter(|size| *size != length) {
        return Err(format!("is damaged ({length} bytes, where {size} were recorded)"));
    }
    match digest::of_all(file).map_err(unreadable)? {
        found if found == digest => Ok(()),
        found => Err(format!("is damaged (its content has the digest {found})")),
    }
}

/// A layer, and what lies below it, lowest first.
#[derive(Clone)]
struct Placed {
    layer: Layer,
    below: Vec<String>,
    owner: String,
}

/// Everything that the index and the build cache name.
#[derive(Default)]
struct Census {
    manifests: usize,
    /// What is wrong: whose blob, which one, and what.
    problems: Vec<(Owner, &'static str, String, String)>,
    /// Names that two images have.
    doubled: Vec<String>,
    blobs: BTreeSet<String>,
    layers: BTreeMap<String, Placed>,
    /// Whether an image cannot be read, so that nobody knows what it needs.
    unknown: bool,
}

/// Whose blob it is.
#[derive(Clone)]
enum Owner {
    Image(String),
    Step { key: String, text: String },
}

impl Owner {
    fn words(&self) -> String {
        match self {
            Self::Image(name) => format!("image {name}"),
            Self::Step { text, .. } => format!("the build cache's step {text:?}"),
        }
    }
}

impl Census {
    fn take(store: &Store, blobs: &mut Blobs<'_>) -> Result<Self> {
        let bytes = index::read(store)?;
        let entries = index::entries(store, &bytes)?;
        let mut census = Self::default();
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut seen = BTreeSet::new();
        for entry in &entries {
            if let Some(name) = entry.name()
                && names.insert(name, entry.digest).is_some_and(|other| other != entry.digest)
            {
                census.doubled.push(name.to_owned());
            }
            if seen.insert(entry.digest) {
                census.add_image(store, blobs, entry, &entries);
            }
        }
        census.manifests = seen.len();
        for kept in cache::all(store)? {
            let Some(layer) = kept.layer else { continue };
            let owner = Owner::Step { key: kept.key, text: kept.text };
            census.add_blob(blobs, &owner, "layer", &layer.digest, Some(layer.size));
            // What lies below it is not recorded, so its directory is compared only where an image has it too.
            census.blobs.insert(layer.digest.clone());
        }
        Ok(census)
    }

    fn add_blob(
        &mut self,
        blobs: &mut Blobs<'_>,
        owner: &Owner,
        kind: &'static str,
        digest: &str,
        size: Option<u64>,
    ) -> bool {
        self.blobs.insert(digest.to_owned());
        match blobs.problem(digest, size) {
            None => true,
            Some(problem) => {
                self.problems.push((owner.clone(), kind, digest.to_owned(), problem));
                false
            }
        }
    }

    fn add_image(
        &mut self,
        store: &Store,
        blobs: &mut Blobs<'_>,
        entry: &index::Entry<'_>,
        entries: &[index::Entry<'_>],
    ) {
        let name = entries.iter().filter(|e| e.digest == entry.digest).find_map(|e| e.name());
        let name = name.map_or_else(
            || digest::hex(entry.id().unwrap_or(entry.digest)).unwrap_or(entry.digest).chars().take(12).collect(),
            index::familiar,
        );
        let owner = Owner::Image(name.clone());
        let images = Images::new(store);
        if !self.add_blob(blobs, &owner, "manifest", entry.digest, None) {
            self.unknown = true;
            return;
        }
        let Ok(manifest) = images.manifest(entry.digest) else {
            self.unknown = true;
            let problem = "is no image manifest".to_owned();
            return self.problems.push((owner, "manifest", entry.digest.to_owned(), problem));
        };
        let has_config = self.add_blob(blobs, &owner, "config", &manifest.config.digest, Some(manifest.config.size));
        for layer in &manifest.layers {
            self.add_blob(blobs, &owner, "layer", &layer.digest, Some(layer.size));
        }
        let image: Option<Image> = has_config.then(|| images.load(entry.digest, entries).ok()).flatten();
        let Some(image) = image else {
            self.unknown = true;
            if has_config {
                let problem = "does not fit its manifest".to_owned();
                self.problems.push((owner, "config", manifest.config.digest, problem));
            }
            return;
        };
        let mut below = Vec::new();
        for layer in image.layers {
            let chain_id = layer.chain_id.clone();
            let placed = Placed { layer, below: below.clone(), owner: name.clone() };
            self.layers.entry(chain_id.clone()).or_insert(placed);
            below.push(chain_id);
        }
    }

    /// The layers whose directories are not what their archives say.
    fn changed_layers(&self, store: &Store, report: &mut Report) -> Vec<String> {
        let mut changed = Vec::new();
        let bad: BTreeSet<&str> = self.problems.iter().map(|(_, _, digest, _)| digest.as_str()).collect();
        for (chain_id, placed) in &self.layers {
            let there = blobs::layer_dir(store, chain_id).is_ok_and(|dir| dir.symlink_metadata().is_ok());
            if !there || bad.contains(placed.layer.digest.as_str()) {
                continue;
            }
            match self.compare(store, placed) {
                Ok(None) => report.counts.layers += 1,
                Ok(Some(_)) => changed.push(chain_id.clone()),
                Err(Unable::Machine(why)) => {
                    report.skipped.push(format!("unpacked layers were not compared with their archives: {why}"));
                    return Vec::new();
                }
                // It was removed meanwhile, or is not whole: that is told later.
                Err(Unable::Archive(_)) => changed.push(chain_id.clone()),
            }
        }
        changed
    }

    /// Unpacks a layer once more, and says what is another in its directory.
    fn compare(&self, store: &Store, placed: &Placed) -> std::result::Result<Option<String>, Unable> {
        let scratch = store.scratch().map_err(|e| Unable::Machine(e.to_string()))?;
        let fresh = scratch.path().join("layer");
        self.unpack(store, placed, &fresh)?;
        let dir = blobs::layer_dir(store, &placed.layer.chain_id).map_err(|e| Unable::Archive(e.to_string()))?;
        Ok(files::difference(&fresh, &dir))
    }

    fn unpack(&self, store: &Store, placed: &Placed, into: &Path) -> std::result::Result<(), Unable> {
        let told = |error: super::ImageError| match error {
            super::ImageError::Store(StoreError::Io { source, path, .. })
                if source.kind() != std::io::ErrorKind::NotFound && path.starts_with(into) =>
            {
                Unable::Machine(source.to_string())
            }
            other => Unable::Archive(other.to_string()),
        };
        let dirs = placed.below.iter().rev().map(|id| blobs::layer_dir(store, id));
        let below = dirs.collect::<crate::store::Result<Vec<_>>>().map_err(|e| Unable::Archive(e.to_string()))?;
        let blob = blobs::path(store, &placed.layer.digest).map_err(|e| Unable::Archive(e.to_string()))?;
        unpack::unpack(&placed.layer, &blob, &below, into).map_err(told)
    }

    /// Tells what is wrong with blobs and names.
    fn tell(&self, store: &Store, report: &mut Report, blobs: &Blobs<'_>) {
        let mut told = BTreeSet::new();
        for (owner, kind, digest, problem) in &self.problems {
            let path = blobs::path(store, digest).unwrap_or_else(|_| store.content());
            let whose = owner.words();
            let mut finding = Finding::wrong(&whose, format!("its {kind} {digest} {problem}"), &path, "");
            let of_image = self.problems.iter().any(|(o, _, d, _)| d == digest && matches!(o, Owner::Image(_)));
            match owner {
                Owner::Image(name) => {
                    finding.advice = format!("pull, load or build it again, or remove it: sampan rmi {name}");
                    // As long as a damaged blob is there, what comes again would be taken for it.
                    if report.repairs() && told.insert(digest.clone()) && blobs.there(digest).is_ok() {
                        let _ = std::fs::remove_file(&path);
                        finding.advice =
                            format!("its bytes were removed, so that they can come again: {}", finding.advice);
                    }
                    report.note(finding);
                }
                Owner::Step { key, .. } => {
                    REPAIR.clone_into(&mut finding.advice);
                    report.mend(finding, || {
                        cache::forget_key(store, key);
                        if !of_image {
                            let _ = std::fs::remove_file(&path);
                        }
                        Ok::<_, StoreError>(true)
                    });
                }
            }
        }
        for name in &self.doubled {
            let advice = format!("say which is meant: sampan tag ID {}", index::familiar(name));
            let place = store.content().join("index.json");
            report.note(Finding::wrong(
                format!("image {}", index::familiar(name)),
                "two images have this name",
                &place,
                advice,
            ));
        }
    }

    /// Tells of an unpacked layer that is not what its archive says, if that is still so.
    fn tell_layer(&self, store: &Store, report: &mut Report, chain_id: &str, user: &dyn Fn(&Path) -> Option<String>) {
        let Some(placed) = self.layers.get(chain_id) else { return };
        let Ok(dir) = blobs::layer_dir(store, chain_id) else { return };
        if dir.symlink_metadata().is_err() {
            return;
        }
        let problem = match self.compare(store, placed) {
            Ok(None) => return,
            Ok(Some(difference)) => difference,
            Err(unable) => unable.words(),
        };
        let object = format!("image {}", placed.owner);
        let problem = format!("its layer is not as it was unpacked: {problem}");
        let mut finding = Finding::wrong(object, problem, &dir, REPAIR);
        if let Some(container) = user(&dir) {
            finding.advice = format!("stop the container {container}, which runs on it, then {REPAIR}");
            return report.note(finding);
        }
        report.mend(finding, || self.renew(store, placed, &dir).map(|()| true));
    }

    /// Unpacks a layer anew and puts it in the place of the old one, in one step.
    fn renew(&self, store: &Store, placed: &Placed, dir: &Path) -> std::result::Result<(), String> {
        let scratch = store.scratch().map_err(|e| e.to_string())?;
        let fresh = scratch.path().join("layer");
        self.unpack(store, placed, &fresh).map_err(Unable::words)?;
        unpack::flush(scratch.path()).map_err(|e| e.to_string())?;
        match rustix::fs::renameat_with(CWD, &fresh, CWD, dir, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(_) => {
                // A file system that cannot exchange: for a moment there is none, which is as if it had never been unpacked.
                let old = scratch.path().join("old");
                std::fs::rename(dir, &old).and_then(|()| std::fs::rename(&fresh, dir)).map_err(|e| e.to_string())
            }
        }
    }

    /// Tells of blobs and layers that nobody needs. While an image cannot be read nobody knows.
    fn tell_leftovers(&self, store: &Store, report: &mut Report) {
        if self.unknown {
            return;
        }
        let kept: BTreeSet<String> = cache::all(store)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|kept| kept.layer)
            .map(|layer| layer.chain_id)
            .collect();
        let blobs = store.content().join("blobs/sha256");
        for name in names_in(&blobs).into_iter().filter(|name| !self.blobs.contains(&format!("sha256:{name}"))) {
            self.tell_leftover(store, report, "a blob", &blobs.join(name));
        }
        let layers = store.layers();
        let needed = |name: &String| {
            let id = format!("sha256:{name}");
            self.layers.contains_key(&id) || kept.contains(&id)
        };
        for name in names_in(&layers).into_iter().filter(|name| !needed(name)) {
            self.tell_leftover(store, report, "an unpacked layer", &layers.join(name));
        }
    }

    fn tell_leftover(&self, store: &Store, report: &mut Report, what: &str, path: &Path) {
        let finding = Finding::left(what, "it belongs to no image", path);
        report.mend(finding, || -> Result<bool> {
            // Moved first: half a layer would look like a whole one.
            let scratch = store.scratch()?;
            let away = scratch.path().join("away");
            std::fs::rename(path, &away).map_err(StoreError::io("remove", path))?;
            Ok(true)
        });
    }
}

/// Why a layer could not be compared.
enum Unable {
    /// The machine has no room, or the store cannot be written.
    Machine(String),
    /// The archive is not what it should be.
    Archive(String),
}

impl Unable {
    fn words(self) -> String {
        match self {
            Self::Machine(why) | Self::Archive(why) => why,
        }
    }
}
