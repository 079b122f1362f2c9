//! An archive → images. Everything is read, checked and unpacked in a scratch directory; then all images of the archive
//! are put in place in one step, or none.

use super::contents::{Contents, Member, bad};
use super::{CONTAINERD_NAME, DOCKER_MANIFEST, INDEX, LAYOUT, REF_NAME};
use crate::digest;
use crate::image::formats::{self, Manifest, OCI_CONFIG, Shape};
use crate::image::images::New;
use crate::image::index::MANIFEST_TYPE;
use crate::image::{Image, ImageError, Images, Reference, Result, blobs, unpack};
use crate::store::{Durability, Scratch, Store, files};
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

const MANIFESTS: &[&str] = &[
    MANIFEST_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// How deep indexes may be nested.
const DEEPEST: usize = 4;

/// The images of an archive: checked, unpacked, and not in the store yet.
#[derive(Debug)]
pub struct Archive<'s> {
    store: &'s Store,
    scratch: Scratch,
    candidates: Vec<Candidate>,
    /// Blobs and where they are, each once.
    blobs: BTreeMap<String, PathBuf>,
    /// Unpacked layers by chain id.
    unpacked: BTreeMap<String, PathBuf>,
}

/// An image that is ready to be put in place.
#[derive(Debug)]
pub struct Candidate {
    /// The image's id.
    pub id: String,
    /// What the archive calls it.
    pub names: Vec<Reference>,
    /// Its config.
    pub config: ImageConfiguration,
    /// The directories of its layers, topmost first.
    pub layers: Vec<PathBuf>,
    manifest: (String, u64),
}

/// The file `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// An index, as far as it is needed to find the images.
#[derive(Deserialize)]
struct IndexView {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl<'s> Archive<'s> {
    /// Reads an archive of images: an OCI archive, a Docker archive, or one that is both; compressed or not.
    ///
    /// # Errors
    /// When it is none of these, when something in it is not what it says, or when the store cannot be written. Nothing
    /// of it is in the store then.
    pub fn read(store: &'s Store, archive: impl Read) -> Result<Self> {
        let scratch = store.scratch()?;
        let contents = Contents::read(archive, &scratch)?;
        let (blobs, unpacked) = (BTreeMap::new(), BTreeMap::new());
        let mut this = Self { store, scratch, candidates: Vec::new(), blobs, unpacked };
        let docker: Vec<DockerImage> =
            contents.get(DOCKER_MANIFEST).map(|m| m.json(DOCKER_MANIFEST)).transpose()?.unwrap_or_default();
        if let Some(index) = contents.get(INDEX) {
            this.read_layout(&contents, index, &docker)?;
        } else if docker.is_empty() {
            return Err(bad(format!(
                "it holds no images: wanted {INDEX} (an OCI archive) or {DOCKER_MANIFEST} (a Docker archive), found {}",
                contents.some_names()
            )));
        } else {
            docker.iter().try_for_each(|image| this.add_docker(&contents, image))?;
        }
        match this.candidates.is_empty() {
            true => Err(bad("its index names no image")),
            false => Ok(this),
        }
    }

    /// The images.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Puts all of them in place.
    ///
    /// # Errors
    /// When the store cannot be written; then none is there.
    pub fn publish(self) -> Result<Vec<Image>> {
        let new = |c: &Candidate| New { manifest: c.manifest.clone(), id: c.id.clone(), names: c.names.clone() };
        let images: Vec<New> = self.candidates.iter().map(new).collect();
        let blobs: Vec<_> = self.blobs.into_iter().collect();
        let unpacked: Vec<_> = self.unpacked.into_iter().collect();
        Images::new(self.store).publish_all(&self.scratch, &blobs, &unpacked, &images, (None, &[]))
    }

    fn read_layout(&mut self, contents: &Contents, index: &Member, docker: &[DockerImage]) -> Result<()> {
        if let Some(layout) = contents.get(LAYOUT) {
            let Layout { image_layout_version: version } = layout.json(LAYOUT)?;
            if version.split('.').next() != Some("1") {
                return Err(bad(format!("its image layout has the version {version:?}, and 1 is known")));
            }
        }
        let index: IndexView = index.json(INDEX)?;
        for descriptor in &index.manifests {
            let names = names_of(&descriptor.annotations)?;
            let Some(manifest) = find_manifest(contents, descriptor, 0)? else { continue };
            self.add_manifest(contents, &manifest, names)?;
        }
        // The other half of an archive that is both may know more names.
        for image in docker {
            let Some(config) = contents.get(&image.config) else { continue };
            let names = docker_names(image)?;
            if let Some(known) = self.candidates.iter_mut().find(|c| c.id == config.digest) {
                known.names.extend(names);
                dedupe(&mut known.names);
            }
        }
        Ok(())
    }

    /// An image by its manifest's descriptor.
    fn add_manifest(&mut self, contents: &Contents, descriptor: &Descriptor, names: Vec<Reference>) -> Result<()> {
        let what = format!("manifest {}", descriptor.digest);
        let member = checked(contents, &what, &descriptor.digest, descriptor.size)?.clone();
        let manifest: Manifest = member.json(&what)?;
        self.blobs.insert(member.digest.clone(), member.path.clone());
        let mut found = BTreeMap::new();
        for layer in &manifest.layers {
            let blob = checked(contents, &format!("layer {}", layer.digest), &layer.digest, layer.size)?;
            found.insert(layer.digest.clone(), blob.path.clone());
        }
        let config = &manifest.config;
        let config = checked(contents, &format!("config {}", config.digest), &config.digest, config.size)?;
        self.add(config, &manifest, &found, (member.digest, member.size), names)
    }

    /// An image of a Docker archive, which gets a manifest of our making.
    fn add_docker(&mut self, contents: &Contents, image: &DockerImage) -> Result<()> {
        let missing = |name: &str| bad(format!("{DOCKER_MANIFEST} names {name:?}, which is not in it"));
        let config = contents.get(&image.config).ok_or_else(|| missing(&image.config))?;
        let (mut layers, mut found) = (Vec::new(), BTreeMap::new());
        for name in image.layers.iter().flatten() {
            let member = contents.get(name).ok_or_else(|| missing(name))?;
            let media_type = match member.magic()? {
                [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
                [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
                _ => "application/vnd.oci.image.layer.v1.tar",
            };
            found.insert(member.digest.clone(), member.path.clone());
            layers.push(formats::Descriptor::new(media_type, member.digest.clone(), member.size));
        }
        let manifest = Manifest::of(formats::Descriptor::new(OCI_CONFIG, config.digest.clone(), config.size), layers);
        let path = self.scratch.path().join(format!("manifest-{}", self.candidates.len()));
        let bytes = blobs::document(&manifest)?;
        files::write(&path, &bytes, Durability::Buffered)?;
        let digest = digest::of(&bytes);
        self.blobs.insert(digest.clone(), path);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.add(config, &manifest, &found, (digest, size), docker_names(image)?)
    }

    /// Checks and unpacks an image of which all parts are found: `found` says where its layers' blobs are.
    fn add(
        &mut self,
        config: &Member,
        manifest: &Manifest,
        found: &BTreeMap<String, PathBuf>,
        place: (String, u64),
        names: Vec<Reference>,
    ) -> Result<()> {
        let id = config.digest.clone();
        if let Some(known) = self.candidates.iter_mut().find(|c| c.manifest == place) {
            known.names.extend(names);
            dedupe(&mut known.names);
            return Ok(());
        }
        let shape = formats::shape(manifest, &config.bytes(&format!("config {id}"))?);
        let Shape { config: said, layers } = shape.map_err(|reason| bad(format!("image {id}: {reason}")))?;
        let mut dirs: Vec<PathBuf> = Vec::new();
        for layer in layers {
            let Some(blob) = found.get(&layer.digest) else { continue };
            let dir = match self.unpacked.get(&layer.chain_id) {
                Some(dir) => dir.clone(),
                None => {
                    let dir = self.scratch.path().join(format!("dir-{}", self.unpacked.len()));
                    unpack::unpack(&layer, blob, &dirs, &dir)?;
                    self.unpacked.insert(layer.chain_id.clone(), dir.clone());
                    dir
                }
            };
            dirs.insert(0, dir);
            self.blobs.insert(layer.digest, blob.clone());
        }
        self.blobs.insert(id.clone(), config.path.clone());
        self.candidates.push(Candidate { id, names, config: said, layers: dirs, manifest: place });
        Ok(())
    }
}

/// The blob that a descriptor means, if it is there and is what the descriptor says.
fn checked<'c>(contents: &'c Contents, what: &str, digest: &str, size: u64) -> Result<&'c Member> {
    if digest::hex(digest).is_none() {
        return Err(bad(format!("{what} is named by no sha256 digest, and only these are known")));
    }
    let member = contents.blob(digest).ok_or_else(|| bad(format!("{what} is named in it and is not in it")))?;
    // The digest of a blob was compared with its name when it was read; a link may have led to another.
    if member.digest != digest || member.size != size {
        let (found, length) = (&member.digest, member.size);
        return Err(bad(format!(
            "{what} has {size} bytes by what is said of it, and {length} by its content ({found})"
        )));
    }
    Ok(member)
}

/// The manifest that a descriptor of an index means: itself, or of a nested index the one for Wasm. `None` for what is
/// no image, such as a signature.
fn find_manifest(contents: &Contents, descriptor: &Descriptor, depth: usize) -> Result<Option<Descriptor>> {
    let nested = match descriptor.media_type.as_str() {
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" | "" => {
            return Ok(Some(descriptor.clone()));
        }
        "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            let what = format!("index {}", descriptor.digest);
            checked(contents, &what, &descriptor.digest, descriptor.size)?.json::<IndexView>(&what)?
        }
        other => {
            return Err(ImageError::UnknownType {
                what: format!("manifest {}", descriptor.digest),
                found: other.to_owned(),
                accepted: MANIFESTS,
            });
        }
    };
    if depth >= DEEPEST {
        return Err(bad(format!("its indexes are nested deeper than {DEEPEST}")));
    }
    let chosen = choose(descriptor, &nested.manifests)?;
    find_manifest(contents, chosen, depth + 1)
}

/// What an index has for Wasm: by its platform, best first, or by crun's annotation; else its only image, whatever it
/// says.
fn choose<'d>(index: &Descriptor, all: &'d [Descriptor]) -> Result<&'d Descriptor> {
    const WANTED: &str = "wasip2/wasm, wasip1/wasm, wasi/wasm, wasi/wasm32, linux/wasm, or the annotation \
                          module.wasm.image/variant=compat";
    // Attestations are about another manifest, and are said to be for no platform.
    let images: Vec<&Descriptor> =
        all.iter().filter(|d| d.platform.as_ref().is_none_or(|p| p.os != "unknown")).collect();
    let is = |d: &Descriptor, os: &str| {
        d.platform.as_ref().is_some_and(|p| p.os == os && matches!(p.architecture.as_str(), "wasm" | "wasm32"))
    };
    let compat = |d: &&&Descriptor| {
        d.annotations.get("module.wasm.image/variant").is_some_and(|v| matches!(v.as_str(), "compat" | "compat-smart"))
    };
    let best = ["wasip2", "wasip1", "wasi", "linux"].iter().find_map(|os| images.iter().find(|d| is(d, os)));
    match (best.or_else(|| images.iter().find(compat)), images.as_slice()) {
        (Some(best), _) | (None, [best]) => Ok(best),
        (None, _) => Err(ImageError::NoPlatform {
            digest: index.digest.clone(),
            found: images
                .iter()
                .map(|d| d.platform.as_ref().map_or_else(|| "?".to_owned(), |p| format!("{}/{}", p.os, p.architecture)))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            wanted: WANTED,
        }),
    }
}

/// The name that an entry of an index gives its image.
fn names_of(annotations: &BTreeMap<String, String>) -> Result<Vec<Reference>> {
    let said = annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME));
    Ok(said
        .map(|name| name.parse::<Reference>())
        .transpose()?
        .filter(|name| name.tag().is_some())
        .into_iter()
        .collect())
}

fn docker_names(image: &DockerImage) -> Result<Vec<Reference>> {
    image.repo_tags.iter().flatten().map(|name| Ok(name.parse::<Reference>()?)).collect()
}

fn dedupe(names: &mut Vec<Reference>) {
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.to_string()));
}
