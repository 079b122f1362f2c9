//! What the instructions of a stage have made so far; at the end, the image.

use super::args::{Args, Platform};
use super::digests::Digests;
use super::settings::Settings;
use super::{BuildError, BuildOptions, Problem, expand};
use crate::digest;
use crate::image::formats::{Descriptor, Manifest, OCI_CONFIG};
use crate::image::images::Finished;
use crate::image::index::{Change, MANIFEST_TYPE};
use crate::image::layer::{Blob, Plan};
use crate::image::{Image, Images, Layer, Reference, blobs, cache, chain_ids, entry, unpack};
use crate::store::{Durability, Scratch, Store, StoreError, files};
use oci_spec::image::{Arch, History, ImageConfiguration, Os, RootFs};
use serde::Serialize;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What all stages of a build share.
#[derive(Debug)]
pub(super) struct Build<'a> {
    pub store: &'a Store,
    pub options: &'a BuildOptions,
    pub scratch: &'a Scratch,
    /// The character that escapes in this Dockerfile.
    pub escape: char,
    pub args: Args,
    pub digests: Digests,
    /// The latest time that a file may bear.
    pub latest: Option<i64>,
    /// Whether a step was done that was not cached.
    pub fresh: Cell<bool>,
    next: Cell<usize>,
}

impl<'a> Build<'a> {
    pub fn new(store: &'a Store, options: &'a BuildOptions, scratch: &'a Scratch, escape: char) -> Self {
        Self {
            store,
            options,
            scratch,
            escape,
            args: Args::new(options),
            digests: Digests::of(store, &options.context),
            latest: options.source_date.map(|date| date.as_second().max(0)),
            fresh: Cell::new(false),
            next: Cell::new(0),
        }
    }

    /// A path in the scratch directory that nobody has been given yet.
    pub fn scratch(&self, what: &str) -> PathBuf {
        self.next.set(self.next.get() + 1);
        self.scratch.path().join(format!("{what}-{}", self.next.get()))
    }
}

/// An image in the making.
#[derive(Debug, Clone)]
pub(super) struct Stage<'a> {
    pub build: &'a Build<'a>,
    /// What it is called in messages.
    pub name: String,
    /// How the image will be run.
    pub settings: Settings,
    /// The ARGs declared so far.
    pub args: BTreeMap<String, Option<String>>,
    /// Whether CMD was given here, and not only by the image below.
    pub cmd_is_ours: bool,
    pub author: Option<String>,
    pub base: Option<Image>,
    history: Vec<History>,
    /// Lowest first, those of the image below included.
    layers: Vec<Layer>,
    /// The layers' directories, topmost first.
    dirs: Vec<PathBuf>,
}

impl<'a> Stage<'a> {
    /// Nothing yet.
    pub fn new(build: &'a Build<'a>, name: String) -> Self {
        Self {
            build,
            name,
            settings: Settings::default(),
            args: BTreeMap::new(),
            cmd_is_ours: false,
            author: None,
            base: None,
            history: Vec::new(),
            layers: Vec::new(),
            dirs: Vec::new(),
        }
    }

    /// Goes on from an image: its layers, settings and history.
    pub fn start_from(&mut self, base: Image) -> Result<(), Problem> {
        let store = self.build.store;
        self.dirs = Images::new(store).layer_dirs(&base)?;
        self.layers.clone_from(&base.layers);
        // Read anew, since what the OCI specification does not know of is lost in its types, and Docker knows more.
        let whole: Value = files::read_json(&blobs::path(store, &base.id)?)?;
        self.settings = whole.get("config").and_then(Value::as_object).map(Settings::of).unwrap_or_default();
        self.history = base.config.history().clone().unwrap_or_default();
        self.author.clone_from(base.config.author());
        self.base = Some(base);
        Ok(())
    }

    /// Goes on from another stage: all of it but its ARGs.
    pub fn go_on(other: &Self, name: String) -> Self {
        Self { name, args: BTreeMap::new(), cmd_is_ours: false, ..other.clone() }
    }

    /// The directories of the layers so far, topmost first.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// A layer to be filled, on top of those so far.
    pub fn plan(&self) -> Plan {
        Plan::new(self.dirs.clone(), self.build.latest)
    }

    /// A word of an instruction with the values of ENV's variables, and of ARG's where there is none.
    pub fn expand(&self, word: &str) -> Result<String, Problem> {
        expand::word(word, self.build.escape, &|name| self.variable(name))
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        self.settings.variable(name).or_else(|| self.args.get(name).cloned().flatten())
    }

    /// What names the layers so far.
    pub fn chain_id(&self) -> &str {
        self.layers.last().map_or("", |layer| layer.chain_id.as_str())
    }

    /// Writes the instruction into the history, and what it added into a layer. Whether the cache had that.
    pub fn record(&mut self, text: &str, added: Option<Plan>) -> Result<bool, Problem> {
        let Some(plan) = added.filter(|plan| !plan.is_empty()) else {
            self.note(text, true);
            return Ok(false);
        };
        let content = plan.digest(|host, stamp| self.build.digests.digest(host, stamp))?;
        let key = digest::of(format!("layer 1\n{}\n{:?}\n{content}", self.chain_id(), self.build.latest).as_bytes());
        if let Some(Some(layer)) = self.cached(&key) {
            self.put(text, Some(layer))?;
            return Ok(true);
        }
        self.add(&key, text, &plan)?;
        Ok(false)
    }

    /// A word on the last line of the history, and whose work it and the image are.
    pub fn sign(&mut self, author: Option<String>, comment: Option<String>) {
        if let Some(line) = self.history.last_mut() {
            line.set_author(author.clone());
            line.set_comment(comment);
        }
        self.author = author.or_else(|| self.author.take());
    }

    /// What the cache has for a key.
    pub fn cached(&self, key: &str) -> Option<Option<Layer>> {
        (!self.build.options.no_cache).then(|| cache::find(self.build.store, key)).flatten()
    }

    /// Goes on with a layer that is in the store, or with none.
    pub fn put(&mut self, text: &str, layer: Option<Layer>) -> Result<(), Problem> {
        self.note(text, layer.is_none());
        if let Some(layer) = layer {
            self.dirs.insert(0, blobs::layer_dir(self.build.store, &layer.chain_id)?);
            self.layers.push(layer);
        }
        Ok(())
    }

    /// Makes a layer, puts it into the store and remembers it by this key.
    pub fn add(&mut self, key: &str, text: &str, plan: &Plan) -> Result<(), Problem> {
        let store = self.build.store;
        self.build.fresh.set(true);
        if plan.is_empty() {
            cache::keep(store, key, text, None)?;
            return self.put(text, None);
        }
        let made = self.build.scratch("layer");
        std::fs::create_dir(&made).map_err(StoreError::io("create", &made))?;
        let (blob, dir) = (made.join("blob"), made.join("dir"));
        let Blob { digest, size, diff_id, steady } = plan.write(&blob)?;
        let mut diff_ids: Vec<String> = self.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        diff_ids.push(diff_id.clone());
        let chain_id = chain_ids(&diff_ids).pop().unwrap_or_default();
        let layer = Layer { digest, media_type: LAYER_TYPE.to_owned(), size, diff_id, chain_id, file: None };
        // What comes next must see it, and so must the first run: both get it here.
        unpack::unpack(&layer, &blob, &self.dirs, &dir)?;
        unpack::flush(&made)?;
        // Under the lock, so that nobody sweeps it before somebody needs it.
        let lock = Change::begin(store)?;
        let place = blobs::path(store, &layer.digest)?;
        std::fs::rename(&blob, &place).map_err(StoreError::io("write", place))?;
        unpack::put_in_place(store, &layer.chain_id, &dir)?;
        // A file that changed while it was copied is not what the key says. Another key keeps the layer until the build is done.
        let key = if steady { key.to_owned() } else { digest::of(format!("torn {}", layer.digest).as_bytes()) };
        cache::keep(store, &key, text, Some(&layer))?;
        drop(lock);
        self.put(text, Some(layer))
    }

    fn note(&mut self, text: &str, empty: bool) {
        let mut line = History::default();
        line.set_created_by(Some(text.to_owned())).set_empty_layer(empty.then_some(true));
        self.history.push(line);
    }

    /// Makes the image of what is there, and puts it in place.
    pub fn finish(self, names: &[Reference]) -> Result<Image, BuildError> {
        let store = self.build.store;
        let system = self.system()?;
        let key = digest::of(self.config(system, None).to_string().as_bytes());
        let options = self.build.options;
        let known = (!options.no_cache).then(|| cache::time_of_image(store, &key)).flatten();
        let created = options.source_date.or(known).unwrap_or_else(jiff::Timestamp::now);
        let mut made = Vec::new();
        let config = self.config(system, Some(created));
        let config = self.blob("config", OCI_CONFIG, &config, &mut made)?;
        let layer = |layer: &Layer| Descriptor::new(&layer.media_type, layer.digest.clone(), layer.size);
        let manifest = Manifest::of(config, self.layers.iter().map(layer).collect());
        let id = manifest.config.digest.clone();
        let manifest = self.blob("manifest", MANIFEST_TYPE, &manifest, &mut made)?;
        // Nothing new: then nothing need be written, nor flushed.
        if let Some(image) = Images::new(store).is_there(&manifest.digest, names)? {
            self.build.digests.save();
            return Ok(image);
        }
        let image = Images::new(store).publish(Finished {
            scratch: self.build.scratch,
            blobs: made,
            unpacked: Vec::new(),
            manifest: (manifest.digest, manifest.size),
            id,
            names: names.to_vec(),
            base: self.base,
            needs: self.layers,
        })?;
        cache::keep_image(store, &key, created, &image.id);
        self.build.digests.save();
        Ok(image)
    }

    /// The image's config as it is so far.
    pub fn image_config(&self) -> Result<ImageConfiguration, BuildError> {
        let config = self.config(self.system()?, self.build.options.source_date);
        Ok(serde_json::from_value(config).map_err(|e| unwritable("config", &e))?)
    }

    /// The image's config. Its objects are sorted: labels, ports and volumes are maps that have no order of their own, and
    /// the image's id must not depend on how they happen to lie.
    fn config(&self, system: &str, created: Option<jiff::Timestamp>) -> Value {
        let created = created.map(|time| time.to_string());
        let mut rootfs = RootFs::default();
        rootfs.set_diff_ids(self.layers.iter().map(|layer| layer.diff_id.clone()).collect());
        let time = |line: &History| {
            let mut line = line.clone();
            if line.created().is_none() {
                line.set_created(created.clone());
            }
            line
        };
        let mut config = ImageConfiguration::default();
        config
            .set_created(created.clone())
            .set_author(self.author.clone())
            .set_architecture(Arch::Wasm)
            .set_os(Os::Other(system.to_owned()))
            .set_config(Some(self.settings.config()))
            .set_rootfs(rootfs)
            .set_history(Some(self.history.iter().map(time).collect()));
        let mut whole = serde_json::to_value(&config).unwrap_or_default();
        if let Some(config) = whole.get_mut("config").and_then(Value::as_object_mut) {
            config.extend(self.settings.rest.clone());
        }
        whole.sort_all_objects();
        whole
    }

    /// The "operating system" that the entrypoint is made for, told from its first bytes: a component is for WASI 0.2
    /// and later, a core module for 0.1.
    fn system(&self) -> Result<&'static str, BuildError> {
        const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";
        const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
        let wanted = self.build.options.platform;
        let words = [&self.settings.entrypoint, &self.settings.cmd];
        let mut start = Vec::new();
        if let Some(program) = words.into_iter().flatten().find_map(|words| words.first())
            && let Some((file, _)) = super::run::find_program(self, program)?
        {
            let read = std::fs::File::open(&file).and_then(|f| f.take(8).read_to_end(&mut start));
            read.map_err(StoreError::io("read", file))?;
        }
        let found = match start.as_slice() {
            start if *start == COMPONENT => Some(Platform::Wasip2),
            start if *start == MODULE => Some(Platform::Wasip1),
            _ => None,
        };
        match (wanted, found) {
            (Some(wanted), Some(found)) if wanted != Platform::Wasi && wanted != found => {
                Err(BuildError::OtherPlatform { wanted: wanted.system(), found: found.system() })
            }
            (Some(wanted), _) => Ok(wanted.system()),
            (None, found) => Ok(found.unwrap_or_default().system()),
        }
    }

    /// Writes a JSON blob into the scratch directory.
    fn blob(
        &self,
        name: &str,
        media_type: &str,
        value: &impl Serialize,
        made: &mut Vec<(String, PathBuf)>,
    ) -> Result<Descriptor, BuildError> {
        let path = self.build.scratch(name);
        let bytes = blobs::document(value)?;
        files::write(&path, &bytes, Durability::Buffered)?;
        let digest = digest::of(&bytes);
        made.push((digest.clone(), path));
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// A file of the stage, by its path.
    pub fn file(&self, path: &str) -> Result<Option<PathBuf>, StoreError> {
        entry::find_in_layers(&self.dirs, path)
    }
}

fn unwritable(name: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Damaged { path: name.into(), reason: format!("cannot be written as JSON: {error}") }
}
