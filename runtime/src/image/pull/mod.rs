//! Pulling: a registry → an image of the store.
//!
//! ```text
//! download  a blob → a file beside the store's content, resumed where an earlier pull left it
//! arrival   such a file, read while it is still coming
//! dirs      the layers' directories, each known when it is there
//! error     why there is no image
//! ```
//!
//! Everything is made in a scratch directory, as a build does: the layers are unpacked there while they come, the program is compiled, and only then the image and its name are put in place in one step. Blobs that have come are
//! linked into the scratch directory, so that no removal of another image can take them away meanwhile.

mod arrival;
mod dirs;
mod download;
mod error;

use super::formats::{self, Manifest, Shape};
use super::images::Finished;
use super::platform::{Index, Platform};
use super::{Image, ImageError, Images, Layer, Reference, blobs, unpack};
use crate::container::locate_in_layers;
use crate::digest;
use crate::events;
use crate::guest::code;
use crate::registry::{Access, Fetched, Registries, Repository};
use crate::store::{Durability, Scratch, Store, StoreError, files};
use arrival::{Arrival, BrokenOff, Coming};
use dirs::{Dirs, Place};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use download::{KEPT, sweep};
pub use error::PullError;

/// As many blobs come at once, as with Docker.
const AT_ONCE: usize = 3;
/// As many layers are unpacked at once, or wait for what they are unpacked from.
const UNPACKED_AT_ONCE: usize = 4;

/// How a pull goes on with one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It will come; its size.
    Wanted(u64),
    /// It is here already.
    Exists,
    /// So much of it is here, all in all.
    Has(u64),
    /// All of it is here, and is what it should be.
    Downloaded,
    /// It is being unpacked.
    Unpacking,
    /// It is unpacked.
    Done,
}

/// Is told how a pull goes on, from several threads.
pub trait Progress: Send + Sync {
    /// Something happened with a layer, which is named by its digest.
    fn layer(&self, digest: &str, step: Step);

    /// The program is being compiled.
    fn compiling(&self) {}
}

/// Tells nobody.
impl Progress for () {
    fn layer(&self, _digest: &str, _step: Step) {}
}

/// An image that was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// What it is called.
    pub name: Reference,
    /// What the name means at the registry: the digest of the manifest, or of the index it was chosen from.
    pub digest: String,
    /// Whether the name meant another image before, or none.
    pub is_new: bool,
    /// Why the image cannot be run here, if it cannot.
    pub warning: Option<String>,
}

/// Pulls an image, compiles its program and gives it its name.
///
/// # Errors
/// When the registry does not give it, what came is not what its digest says, it carries no Wasm or is of no format that
/// can be taken, or the store cannot be written. Then no image was made and no name has moved; blobs that came are kept
/// for the next try.
pub fn pull(
    store: &Store,
    registries: &Registries,
    reference: &Reference,
    platform: Option<&Platform>,
    progress: &Arc<dyn Progress>,
) -> Result<Pulled, PullError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(StoreError::io("start threads for", store.root()))?;
    let name = reference.pinned();
    sweep(store, KEPT);
    runtime
        .block_on(async {
            let repository = Repository::open(registries, reference, Access::Pull, &[]).await?;
            let found = find(&repository, &name, platform).await?;
            let pull = Pull { store, name, repository: Arc::new(repository), found, progress };
            // Another image's removal may take layers away that this one shares; then they are unpacked anew.
            let mut attempt = 1;
            loop {
                match pull.run().await {
                    Err(PullError::LayerRemoved) if attempt < 4 => attempt += 1,
                    other => return other,
                }
            }
        })
        .inspect(|pulled| {
            let attributes = [("name", pulled.name.familiar())];
            events::tell(store, events::Kind::Image, "pull", &pulled.image.id, attributes);
        })
}

/// What a registry has under a name.
struct Found {
    /// What the name means: the manifest's digest, or the index's.
    digest: String,
    manifest: Fetched,
    read: Manifest,
    config: bytes::Bytes,
    shape: Shape,
}

/// Finds the manifest that is meant, and looks at it and its config before anything large comes.
async fn find(repository: &Repository, name: &Reference, platform: Option<&Platform>) -> Result<Found, PullError> {
    let image = name.familiar();
    let version = name.digest().or(name.tag()).unwrap_or_default();
    let first = repository.manifest(version).await?;
    let digest = first.digest.clone();
    let bad = |reason: String| PullError::Format { image: image.clone(), reason };
    let manifest = if is_index(&first).map_err(bad)? {
        let index: Index = serde_json::from_slice(&first.bytes).map_err(|e| bad(format!("its index: {e}")))?;
        let chosen = index.select(platform).map_err(|there| PullError::NoPlatform {
            image: image.clone(),
            wanted: platform.map(ToString::to_string),
            there,
        })?;
        digest::hex(&chosen.digest).ok_or_else(|| bad(format!("its index names {:?}", chosen.digest)))?;
        let fetched = repository.manifest(&chosen.digest).await?;
        if u64::try_from(fetched.bytes.len()) != Ok(chosen.size) {
            let size = fetched.bytes.len();
            return Err(bad(format!("its manifest has {size} bytes, and its index says {}", chosen.size)));
        }
        if is_index(&fetched).map_err(bad)? {
            return Err(bad("its index leads to another index".to_owned()));
        }
        fetched
    } else {
        first
    };
    let read: Manifest = serde_json::from_slice(&manifest.bytes).map_err(|e| bad(format!("its manifest: {e}")))?;
    for digest in std::iter::once(&read.config.digest).chain(read.layers.iter().map(|layer| &layer.digest)) {
        digest::hex(digest).ok_or_else(|| bad(format!("its manifest names {digest:?}, which is no sha256 digest")))?;
    }
    let config = repository.document(&read.config.digest, read.config.size).await?;
    let shape = formats::shape(&read, &config).map_err(bad)?;
    formats::carries_wasm(&read, &shape)
        .map_err(|found| PullError::Native { image: image.clone(), platform: found })?;
    if let Some(wanted) = platform {
        let (os, architecture) = (shape.config.os().to_string(), shape.config.architecture().to_string());
        let variant = shape.config.variant().clone();
        if !wanted.fits(&os, &architecture, variant.as_deref()) {
            let (wanted, there) = (Some(wanted.to_string()), vec![format!("{os}/{architecture}")]);
            return Err(PullError::NoPlatform { image, wanted, there });
        }
    }
    Ok(Found { digest, manifest, read, config, shape })
}

/// Whether this is an index. What it says of itself counts; the registry's word only where it says nothing.
fn is_index(fetched: &Fetched) -> Result<bool, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: Option<u32>,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let head: Head = serde_json::from_slice(&fetched.bytes).map_err(|e| format!("its manifest is no JSON: {e}"))?;
    let media_type = head.media_type.unwrap_or_else(|| fetched.media_type.clone());
    if head.schema_version == Some(1) || media_type.contains("manifest.v1") && !media_type.contains("oci") {
        return Err("its manifest has Docker's schema 1, from before 2016: have it pushed again".to_owned());
    }
    match (head.manifests, head.config) {
        (Some(_), None) => Ok(true),
        (None, Some(_)) => Ok(false),
        // Either would do for somebody; that two readers see two images in one digest is an attack.
        (Some(_), Some(_)) => Err("it is a manifest and an index at once".to_owned()),
        (None, None) => {
            Err(format!("what is there is neither an image manifest nor an index, but of the type {media_type:?}"))
        }
    }
}

/// A pull that has found its manifest.
struct Pull<'a> {
    store: &'a Store,
    name: Reference,
    repository: Arc<Repository>,
    found: Found,
    progress: &'a Arc<dyn Progress>,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Pulled, PullError> {
        let scratch = self.store.scratch()?;
        let unpacked = self.layers(&scratch).await?;
        // All of it is flushed before the image is put in place. That waits for the disk, so it may as well begin.
        flush_soon(scratch.path().to_owned());
        self.progress.compiling();
        let dirs: Vec<PathBuf> = unpacked.iter().rev().map(|layer| layer.dir.clone()).collect();
        let warning = self.compile(&dirs)?;
        if unpacked.iter().any(|layer| !layer.is_ours && layer.dir.symlink_metadata().is_err()) {
            return Err(PullError::LayerRemoved);
        }
        let Found { manifest, read, digest, .. } = &self.found;
        let images = Images::new(self.store);
        let before = images.find(&self.name.to_string()).ok().map(|image| image.manifest);
        let mut made = self.documents(&scratch)?;
        made.extend(read.layers.iter().map(|layer| (layer.digest.clone(), blob_in(&scratch, &layer.digest))));
        let image = images.publish(Finished {
            scratch: &scratch,
            blobs: unique(made),
            unpacked: unpacked.into_iter().filter(|l| l.is_ours).map(|l| (l.chain_id, l.dir)).collect(),
            manifest: (manifest.digest.clone(), u64::try_from(manifest.bytes.len()).unwrap_or(u64::MAX)),
            id: read.config.digest.clone(),
            names: vec![self.name.clone()],
            base: None,
            needs: Vec::new(),
        })?;
        // Nobody needs what came a second time.
        read.layers.iter().for_each(|layer| download::discard(self.store, &layer.digest));
        let is_new = before.as_ref() != Some(&manifest.digest);
        Ok(Pulled { image, name: self.name.clone(), digest: digest.clone(), is_new, warning })
    }

    /// Fetches what is not here, several blobs at once, and unpacks each layer as it comes.
    async fn layers(&self, scratch: &Scratch) -> Result<Vec<Unpacked>, PullError> {
        let blobs = unique(self.found.read.layers.iter().map(|l| (l.digest.clone(), l.size)).collect());
        for (digest, size) in &blobs {
            self.progress.layer(digest, Step::Wanted(*size));
        }
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut arrivals: BTreeMap<String, Arrival> = BTreeMap::new();
        let mut fetching: Vec<JoinHandle<Result<(), PullError>>> = Vec::new();
        for (digest, size) in blobs {
            let (store, repository, turns) = (self.store.clone(), self.repository.clone(), turns.clone());
            let (name, into, progress) = (digest.clone(), blob_in(scratch, &digest), self.progress.clone());
            let coming = Coming::default();
            arrivals.insert(digest, coming.arrival());
            // A task each, since to check digests takes a processor.
            fetching.push(tokio::spawn(async move {
                let turn = turns.acquire().await;
                download::fetch(&store, &repository, &name, size, &into, coming, &progress).await?;
                drop(turn);
                flush_soon(into);
                Ok(())
            }));
        }
        let dirs = Dirs::new(self.found.shape.layers.len());
        let all = self.found.shape.layers.iter().enumerate().map(|(number, layer)| {
            let arrival = arrivals.get(&layer.digest).cloned();
            self.unpack(scratch, dirs.place(number), layer, arrival)
        });
        let unpacked = futures::stream::iter(all).buffered(UNPACKED_AT_ONCE).try_collect().await;
        if !matches!(&unpacked, Err(Stopped::Because(_))) {
            for fetched in fetching {
                fetched.await.map_err(|e| PullError::Threads(e.to_string()))??;
            }
        }
        unpacked.map_err(|stopped| match stopped {
            Stopped::Because(error) => error,
            Stopped::BrokenOff => PullError::Threads("a layer broke off without a reason".to_owned()),
        })
    }

    async fn unpack(
        &self,
        scratch: &Scratch,
        place: Place,
        layer: &Layer,
        arrival: Option<Arrival>,
    ) -> Result<Unpacked, Stopped> {
        let chain_id = layer.chain_id.clone();
        let there = blobs::layer_dir(self.store, &chain_id)?;
        let mut arrival = arrival.ok_or(Stopped::BrokenOff)?;
        if there.symlink_metadata().is_ok() {
            place.fill(&there);
            arrival.whole().await?;
            self.progress.layer(&layer.digest, Step::Done);
            return Ok(Unpacked { chain_id, dir: there, is_ours: false });
        }
        arrival.begun().await?;
        let (dir, blob) = (scratch.path().join(format!("dir-{}", place.number())), blob_in(scratch, &layer.digest));
        let (into, layer, progress) = (dir.clone(), layer.clone(), self.progress.clone());
        let task = tokio::task::spawn_blocking(move || {
            unpack_arriving(&layer, arrival, &blob, &place, &into)?;
            place.fill(&into);
            progress.layer(&layer.digest, Step::Done);
            flush_soon(into);
            Ok::<_, Stopped>(())
        });
        task.await.map_err(|e| PullError::Threads(e.to_string()))??;
        Ok(Unpacked { chain_id, dir, is_ours: true })
    }

    /// Writes the manifest and the config as they came.
    fn documents(&self, scratch: &Scratch) -> Result<Vec<(String, PathBuf)>, PullError> {
        let Found { manifest, read, config, .. } = &self.found;
        let mut made = Vec::new();
        for (digest, bytes) in [(&manifest.digest, &manifest.bytes), (&read.config.digest, config)] {
            let path = blob_in(scratch, digest);
            files::write(&path, bytes, Durability::Buffered)?;
            made.push((digest.clone(), path));
        }
        Ok(made)
    }

    /// Compiles the program, so that no start has to. That it cannot be run is no reason not to have the image, since
    /// others may be built from it; that it is no Wasm is.
    fn compile(&self, dirs: &[PathBuf]) -> Result<Option<String>, PullError> {
        let config = &self.found.shape.config;
        let Some(program) = locate_in_layers(config, dirs).map_err(Box::new)? else { return Ok(None) };
        if let Some(what) = native(&program)? {
            return Err(PullError::Native { image: self.name.familiar(), platform: what });
        }
        match code::prepare(self.store, &program) {
            Ok(_) => Ok(None),
            Err(code::CodeError::Store(e)) => Err(e.into()),
            // Where it lay when it was compiled is nobody's business.
            Err(code::CodeError::Compile { source, .. }) => Ok(Some(source.to_string())),
        }
    }
}

/// An unpacked layer: in the store already, or in the scratch directory.
struct Unpacked {
    chain_id: String,
    dir: PathBuf,
    is_ours: bool,
}

/// Why there is no layer.
enum Stopped {
    Because(PullError),
    /// Its blob will not come; why, its download says.
    BrokenOff,
}

impl From<PullError> for Stopped {
    fn from(error: PullError) -> Self {
        Self::Because(error)
    }
}

impl From<ImageError> for Stopped {
    fn from(error: ImageError) -> Self {
        Self::Because(error.into())
    }
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Because(error.into())
    }
}

impl From<BrokenOff> for Stopped {
    fn from(BrokenOff: BrokenOff) -> Self {
        Self::BrokenOff
    }
}

/// Unpacks a layer while its blob still comes, and once more if that starts over. Whether it is what it should be is
/// known when the blob is whole, so an archive that is none waits for that: it may be the registry's lie.
fn unpack_arriving(
    layer: &Layer,
    mut arrival: Arrival,
    blob: &Path,
    place: &Place,
    into: &Path,
) -> Result<(), Stopped> {
    let runtime = Handle::current();
    if unpack::is_file(layer) {
        runtime.block_on(arrival.whole())?;
        return Ok(unpack::unpack(layer, blob, &[], into)?);
    }
    loop {
        let (reader, attempt) = arrival.reader();
        let unpacked = unpack::unpack_from(layer, reader, &mut || place.below(), into);
        if runtime.block_on(arrival.whole())? == attempt {
            return Ok(unpacked?);
        }
        files::remove_tree(into)?;
    }
}

/// Begins to write a file or a directory to the disk. Before the image is put in place all of it is written; to begin now
/// leaves less to wait for then.
fn flush_soon(path: PathBuf) {
    tokio::task::spawn_blocking(move || match path.is_dir() {
        true => drop(unpack::flush(&path)),
        false => drop(std::fs::File::open(&path).and_then(|file| file.sync_all())),
    });
}

fn blob_in(scratch: &Scratch, digest: &str) -> PathBuf {
    scratch.path().join(format!("blob-{}", digest::hex(digest).unwrap_or("none")))
}

/// A layer can be in an image twice; its blob cannot.
fn unique<T>(all: Vec<(String, T)>) -> Vec<(String, T)> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|(digest, _)| seen.insert(digest.clone())).collect()
}

/// What kind of native program a file is, if it is one.
fn native(program: &Path) -> Result<Option<String>, PullError> {
    let mut head = Vec::new();
    let read = std::fs::File::open(program).and_then(|file| file.take(4).read_to_end(&mut head));
    read.map_err(StoreError::io("read", program))?;
    Ok(match head.as_slice() {
        [0x7f, b'E', b'L', b'F'] => Some("native Linux programs (ELF)".to_owned()),
        [b'M', b'Z', ..] => Some("native Windows programs".to_owned()),
        _ => None,
    })
}
