//! `index.json`: which manifests the store has and what they are called.
//!
//! A reader takes no lock: the file is replaced whole. A writer holds `index.lock` from reading it to replacing it, and
//! whoever puts blobs in place or takes them away holds it too. So, under the lock, a blob that no manifest of the
//! index mentions belongs to nobody.

use super::{Reference, Result};
use crate::events;
use crate::store::{Durability, Lock, Store, StoreError, files};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The annotation that holds an image's name, as the OCI image layout has it.
const NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that holds an image's id, so that finding one by its id need not open every manifest.
const ID: &str = "dev.sampan.image.id";
const FILE: &str = "index.json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The bytes of `index.json`; none at all before the first image.
pub(super) fn read(store: &Store) -> Result<Vec<u8>> {
    match files::read(&store.content().join(FILE)) {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// What finding an image needs of one entry, borrowed from the file's bytes: this is on the way of every start.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Entry<'a> {
    /// The manifest's digest.
    pub digest: &'a str,
    #[serde(borrow, default)]
    annotations: Annotations<'a>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Annotations<'a> {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    name: Option<&'a str>,
    #[serde(rename = "dev.sampan.image.id")]
    id: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// The complete name, if the entry has one.
    pub fn name(&self) -> Option<&'a str> {
        self.annotations.name
    }

    /// The image's id, if whoever wrote the entry said it.
    pub fn id(&self) -> Option<&'a str> {
        self.annotations.id
    }
}

/// The entries of an index, as [`read`] gave it.
pub(super) fn entries<'a>(store: &Store, bytes: &'a [u8]) -> Result<Vec<Entry<'a>>> {
    #[derive(Deserialize)]
    struct View<'a> {
        #[serde(borrow)]
        manifests: Vec<Entry<'a>>,
    }
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let view: View<'a> = serde_json::from_slice(bytes)
        .map_err(|e| StoreError::Damaged { path: store.content().join(FILE), reason: e.to_string() })?;
    Ok(view.manifests)
}

/// The whole index, for changing it: what we do not know of is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// The names of an index and what each means, and the images that it has.
#[derive(Debug, Clone, Default)]
struct Known {
    names: BTreeMap<String, String>,
    images: BTreeSet<String>,
}

impl Known {
    fn of(index: &Index) -> Self {
        let id = |entry: &Descriptor| entry.annotations.get(ID).unwrap_or(&entry.digest).clone();
        let name = |entry: &Descriptor| Some((entry.annotations.get(NAME)?.clone(), id(entry)));
        Self {
            names: index.manifests.iter().filter_map(name).collect(),
            images: index.manifests.iter().map(id).collect(),
        }
    }

    /// Tells what has become of it.
    fn tell(&self, now: &Self, store: &Store) {
        let tell = |action, id: &String, name: Option<&String>| {
            let attributes = name.map(|name| ("name".to_owned(), familiar(name))).into_iter().collect();
            events::tell_all(store, events::Kind::Image, action, id, attributes);
        };
        for (name, id) in now.names.iter().filter(|(name, id)| self.names.get(*name) != Some(*id)) {
            tell("tag", id, Some(name));
        }
        for (name, id) in self.names.iter().filter(|(name, _)| !now.names.contains_key(*name)) {
            tell("untag", id, Some(name));
        }
        for id in self.images.difference(&now.images) {
            tell("delete", id, None);
        }
    }
}

/// A name as its user writes it.
pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// A change of the index; other writers wait until it is dropped. Nothing is changed before [`Change::save`].
#[derive(Debug)]
pub(super) struct Change {
    store: Store,
    path: PathBuf,
    index: Index,
    /// The names and images as the file has them, for telling what has changed.
    known: RefCell<Known>,
    _lock: Lock,
}

impl Change {
    pub fn begin(store: &Store) -> Result<Self> {
        let lock = Lock::wait(&store.content().join("index.lock"))?;
        let path = store.content().join(FILE);
        let mut index = match files::read_json(&path) {
            Err(e) if e.is_not_found() => {
                Index { schema_version: 2, media_type: String::new(), manifests: Vec::new(), rest: Default::default() }
            }
            other => other?,
        };
        INDEX_TYPE.clone_into(&mut index.media_type);
        let known = RefCell::new(Known::of(&index));
        Ok(Self { store: store.clone(), path, index, known, _lock: lock })
    }

    /// Puts the index in its place, for good.
    pub fn save(&self) -> Result<()> {
        files::write_json(&self.path, &self.index, Durability::Flushed)?;
        let now = Known::of(&self.index);
        self.known.replace(now.clone()).tell(&now, &self.store);
        Ok(())
    }

    /// Whether there is an entry for this manifest.
    pub fn has(&self, digest: &str) -> bool {
        self.index.manifests.iter().any(|entry| entry.digest == digest)
    }

    /// The manifests that there are entries for.
    pub fn digests(&self) -> BTreeSet<String> {
        self.index.manifests.iter().map(|entry| entry.digest.clone()).collect()
    }

    /// Sees to it that the manifest has an entry, if only one without a name.
    pub fn add(&mut self, digest: &str, media_type: Option<&str>, size: u64, image_id: &str) {
        if self.has(digest) {
            return;
        }
        self.index.manifests.push(Descriptor {
            media_type: media_type.unwrap_or(MANIFEST_TYPE).to_owned(),
            digest: digest.to_owned(),
            size,
            annotations: BTreeMap::from([(ID.to_owned(), image_id.to_owned())]),
            rest: Default::default(),
        });
    }

    /// Gives the name to a manifest that has an entry; whichever had it before loses it.
    pub fn name(&mut self, digest: &str, name: &str) {
        self.strip(name);
        if let Some(mut named) = self.index.manifests.iter().find(|entry| entry.digest == digest).cloned() {
            named.annotations.insert(NAME.to_owned(), name.to_owned());
            self.index.manifests.push(named);
        }
        self.tidy();
    }

    /// Takes the name away; an image that has no other stays without one.
    pub fn unname(&mut self, name: &str) {
        self.strip(name);
        self.tidy();
    }

    /// Takes away every entry of this manifest, and gives them for [`Change::restore`].
    pub fn remove(&mut self, digest: &str) -> Vec<Descriptor> {
        self.index.manifests.extract_if(.., |entry| entry.digest == digest).collect()
    }

    /// The same for every way in which an image is packed.
    pub fn remove_image(&mut self, id: &str, manifest: &str) -> Vec<Descriptor> {
        let is_it = |e: &Descriptor| e.digest == manifest || e.annotations.get(ID).is_some_and(|known| known == id);
        self.index.manifests.extract_if(.., |entry| is_it(entry)).collect()
    }

    /// Brings back what [`Change::remove`] took.
    pub fn restore(&mut self, entries: Vec<Descriptor>) {
        self.index.manifests.extend(entries);
    }

    fn strip(&mut self, name: &str) {
        for entry in &mut self.index.manifests {
            if entry.annotations.get(NAME).is_some_and(|n| n == name) {
                entry.annotations.remove(NAME);
            }
        }
    }

    /// One entry of an image without a name is enough, and none is needed beside one with a name; the same image packed
    /// in another way is the same image.
    fn tidy(&mut self) {
        let image = |e: &Descriptor| e.annotations.get(ID).unwrap_or(&e.digest).clone();
        let named = |e: &Descriptor| e.annotations.contains_key(NAME);
        let entries = std::mem::take(&mut self.index.manifests);
        let mut seen: BTreeSet<String> = entries.iter().filter(|e| named(e)).map(image).collect();
        self.index.manifests = entries.into_iter().filter(|e| named(e) || seen.insert(image(e))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;

    fn names(store: &Store) -> Vec<(String, Option<String>)> {
        let bytes = read(store).unwrap();
        let entries = entries(store, &bytes).unwrap();
        entries.iter().map(|e| (e.digest.to_owned(), e.name().map(str::to_owned))).collect()
    }

    #[test]
    fn a_name_moves_and_leaves_a_dangling_entry() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("s"), &dir.join("r")).unwrap();
        let (a, b) = (digest::of(b"a"), digest::of(b"b"));
        let mut change = Change::begin(&store).unwrap();
        change.add(&a, None, 1, "sha256:x");
        change.name(&a, "one");
        change.name(&a, "two");
        change.add(&b, None, 1, "sha256:y");
        change.name(&b, "one");
        change.name(&b, "two");
        change.save().unwrap();
        drop(change);
        let named = |d: &String, n: &str| (d.clone(), Some(n.to_owned()));
        assert_eq!(names(&store), [(a.clone(), None), named(&b, "one"), named(&b, "two")]);

        let mut change = Change::begin(&store).unwrap();
        change.unname("one");
        change.unname("two");
        change.unname("three");
        change.remove(&a);
        change.save().unwrap();
        assert_eq!(names(&store), [(b, None)]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_image_packed_anew_takes_the_place_of_the_old() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("s"), &dir.join("r")).unwrap();
        let mut change = Change::begin(&store).unwrap();
        for digest in [digest::of(b"a"), digest::of(b"b")] {
            change.add(&digest, None, 1, "sha256:x");
            change.name(&digest, "one");
        }
        assert_eq!(change.digests(), BTreeSet::from([digest::of(b"b")]));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_others_wrote_is_kept() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("s"), &dir.join("r")).unwrap();
        let theirs = format!(
            r#"{{"schemaVersion":2,"x":1,"manifests":[{{"mediaType":"m","digest":"{}","size":3,
               "platform":{{"os":"wasip1","architecture":"wasm"}},"annotations":{{"a":"b"}}}}]}}"#,
            digest::of(b"a")
        );
        std::fs::write(store.content().join(FILE), theirs).unwrap();
        let mut change = Change::begin(&store).unwrap();
        change.name(&digest::of(b"a"), "n");
        change.save().unwrap();
        let text = String::from_utf8(read(&store).unwrap()).unwrap();
        for part in [r#""x":1"#, r#""os":"wasip1""#, r#""a":"b""#, r#""mediaType":"m""#, r#".ref.name":"n""#] {
            assert!(text.contains(part), "{part} in {text}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
