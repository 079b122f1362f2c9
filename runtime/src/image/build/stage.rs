//! What the instructions so far have made; at the end, the image.

use super::settings::Settings;
use super::{BuildError, BuildOptions, Problem, expand};
use crate::image::images::{Content, Finished, Manifest};
use crate::image::index::MANIFEST_TYPE;
use crate::image::layer::{Blob, Plan};
use crate::image::{Image, Images, Layer, Reference, blobs, chain_ids, entry, unpack};
use crate::store::{Durability, Scratch, Store, StoreError, files};
use oci_spec::image::{Arch, History, ImageConfiguration, Os, RootFs};
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image in the making.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub store: &'a Store,
    /// The character that escapes in this Dockerfile.
    pub escape: char,
    /// How the image will be run.
    pub settings: Settings,
    /// Whether CMD was given here, and not only by the image below.
    pub cmd_is_ours: bool,
    scratch: &'a Scratch,
    created: jiff::Timestamp,
    /// The latest time that a file may bear.
    latest: Option<i64>,
    base: Option<Image>,
    author: Option<String>,
    history: Vec<History>,
    /// Lowest first, those of the image below included.
    layers: Vec<Layer>,
    /// The layers' directories, topmost first.
    dirs: Vec<PathBuf>,
    /// The blobs that were made, in the scratch directory.
    blobs: Vec<(String, PathBuf)>,
    /// The layers that were made, unpacked in the scratch directory, by chain id.
    unpacked: Vec<(String, PathBuf)>,
}

impl<'a> Stage<'a> {
    /// Nothing yet.
    pub fn new(store: &'a Store, scratch: &'a Scratch, options: &BuildOptions, escape: char) -> Self {
        Self {
            store,
            escape,
            settings: Settings::default(),
            cmd_is_ours: false,
            scratch,
            created: options.source_date.unwrap_or_else(jiff::Timestamp::now),
            latest: options.source_date.map(|date| date.as_second().max(0)),
            base: None,
            author: None,
            history: Vec::new(),
            layers: Vec::new(),
            dirs: Vec::new(),
            blobs: Vec::new(),
            unpacked: Vec::new(),
        }
    }

    /// Goes on from an image: its layers, settings and history.
    pub fn start_from(&mut self, base: Image) -> Result<(), Problem> {
        self.dirs = Images::new(self.store).layer_dirs(&base)?;
        self.layers.clone_from(&base.layers);
        self.settings = base.config.config().as_ref().map(Settings::from).unwrap_or_default();
        self.history = base.config.history().clone().unwrap_or_default();
        self.author.clone_from(base.config.author());
        self.base = Some(base);
        Ok(())
    }

    /// The directories of the layers so far, topmost first.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// A layer to be filled, on top of those so far.
    pub fn plan(&self) -> Plan {
        Plan::new(self.dirs.clone(), self.latest)
    }

    /// A word of an instruction with the values of ENV's variables.
    pub fn expand(&self, word: &str) -> Result<String, Problem> {
        expand::word(word, self.escape, &|name| self.settings.variable(name))
    }

    /// Writes what an instruction added into a layer, and the instruction into the history.
    pub fn record(&mut self, text: &str, added: Option<Plan>) -> Result<(), Problem> {
        let added = added.filter(|plan| !plan.is_empty());
        let mut line = History::default();
        line.set_created(Some(self.created.to_string())).set_created_by(Some(text.to_owned()));
        line.set_empty_layer(added.is_none().then_some(true));
        self.history.push(line);
        match added {
            Some(plan) => self.add_layer(&plan),
            None => Ok(()),
        }
    }

    /// A word on the last line of the history, and whose work it and the image are.
    pub fn sign(&mut self, author: Option<String>, comment: Option<String>) {
        if let Some(line) = self.history.last_mut() {
            line.set_author(author.clone());
            line.set_comment(comment);
        }
        self.author = author.or_else(|| self.author.take());
    }

    fn add_layer(&mut self, plan: &Plan) -> Result<(), Problem> {
        let number = self.layers.len();
        let made = self.scratch.path().join(format!("layer-{number}"));
        let Blob { digest, size, diff_id } = plan.write(&made)?;
        let mut diff_ids: Vec<String> = self.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        diff_ids.push(diff_id.clone());
        let chain_id = chain_ids(&diff_ids).pop().unwrap_or_default();
        let media_type = LAYER_TYPE.to_owned();
        let layer = Layer { digest: digest.clone(), media_type, size, diff_id, chain_id, file: None };
        // What comes next must see it, and so must the first run: both get it here.
        let dir = self.scratch.path().join(format!("dir-{number}"));
        unpack::unpack(&layer, &made, &self.dirs, &dir)?;
        self.dirs.insert(0, dir.clone());
        self.unpacked.push((layer.chain_id.clone(), dir));
        self.blobs.push((digest, made));
        self.layers.push(layer);
        Ok(())
    }

    /// Makes the image of what is there, and puts it in place.
    pub fn finish(mut self, names: &[Reference]) -> Result<Image, BuildError> {
        let config = self.config()?;
        let config = self.blob("config", CONFIG_TYPE, &config)?;
        let content = |layer: &Layer| Content {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST_TYPE.to_owned()),
            layers: self.layers.iter().map(content).collect(),
            config,
        };
        let id = manifest.config.digest.clone();
        let manifest = self.blob("manifest", MANIFEST_TYPE, &manifest)?;
        let image = Images::new(self.store).publish(Finished {
            scratch: self.scratch,
            blobs: self.blobs,
            unpacked: self.unpacked,
            manifest: (manifest.digest, manifest.size),
            id,
            names: names.to_vec(),
            base: self.base,
        })?;
        Ok(image)
    }

    /// The config as it is so far.
    pub fn config(&self) -> Result<ImageConfiguration, BuildError> {
        let mut rootfs = RootFs::default();
        rootfs.set_diff_ids(self.layers.iter().map(|layer| layer.diff_id.clone()).collect());
        let mut config = ImageConfiguration::default();
        config
            .set_created(Some(self.created.to_string()))
            .set_author(self.author.clone())
            .set_architecture(Arch::Wasm)
            .set_os(Os::Other(self.system()?.to_owned()))
            .set_config(Some(self.settings.config()))
            .set_rootfs(rootfs)
            .set_history(Some(self.history.clone()));
        Ok(config)
    }

    /// The "operating system" that the entrypoint is made for, told from its first bytes: a component is for WASI 0.2
    /// and later, a core module for 0.1.
    fn system(&self) -> Result<&'static str, BuildError> {
        const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";
        let words = [&self.settings.entrypoint, &self.settings.cmd];
        let Some(program) = words.into_iter().flatten().find_map(|words| words.first()) else { return Ok("wasip1") };
        let path = self.settings.absolute(program);
        let Some(file) = entry::find_in_layers(&self.dirs, &path.to_string_lossy())? else { return Ok("wasip1") };
        let mut start = Vec::new();
        let read = std::fs::File::open(&file).and_then(|f| f.take(8).read_to_end(&mut start));
        read.map_err(StoreError::io("read", file))?;
        Ok(if start == COMPONENT { "wasip2" } else { "wasip1" })
    }

    /// Writes a JSON blob. Its objects are sorted: labels, ports and volumes are maps that have no order of their own, and
    /// the image's id must not depend on how they happen to lie.
    fn blob(&mut self, name: &str, media_type: &str, value: &impl Serialize) -> Result<Content, BuildError> {
        let path = self.scratch.path().join(name);
        let mut value = serde_json::to_value(value).map_err(|e| StoreError::Damaged {
            path: path.clone(),
            reason: format!("cannot be written as JSON: {e}"),
        })?;
        value.sort_all_objects();
        let bytes = value.to_string().into_bytes();
        files::write(&path, &bytes, Durability::Buffered)?;
        let digest = blobs::digest_of(&bytes);
        self.blobs.push((digest.clone(), path));
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Content { media_type: media_type.to_owned(), digest, size })
    }
}
