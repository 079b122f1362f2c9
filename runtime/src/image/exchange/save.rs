//! Images → an archive, written as a stream: nothing but the index is held in memory.

use super::{BLOBS, CONTAINERD_NAME, DOCKER_MANIFEST, INDEX, LAYOUT, REF_NAME};
use crate::digest::{self, Hashing};
use crate::image::blobs;
use crate::image::images::again_if_removed;
use crate::image::index::MANIFEST_TYPE;
use crate::image::{Image, ImageError, Images, Layer, Reference, Result, unpack};
use crate::store::{Scratch, StoreError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use tar::{EntryType, Header};

/// What kind of archive is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout that is a Docker archive too, as Docker since 25 writes it: every tool can load it.
    #[default]
    Both,
    /// An OCI image layout and nothing else.
    Oci,
    /// A Docker archive as before Docker 25: a config and uncompressed layers for each image.
    Docker,
}

/// An image that is to be saved, and under which names.
struct Chosen {
    image: Image,
    names: Vec<Reference>,
    manifest_size: u64,
}

impl Images<'_> {
    /// Writes images into an archive. An image that is asked for by a name gets that name in the archive, and a name
    /// without a tag means all tags of that repository, as with `docker save`; one that is asked for by its id gets
    /// none.
    ///
    /// # Errors
    /// When there is no such image, a blob is not what its name says, or the archive cannot be written.
    pub fn save(&self, wanted: &[String], format: ArchiveFormat, out: impl Write) -> Result<()> {
        let scratch = self.store.scratch()?;
        let chosen = again_if_removed(self.store, || self.pin(wanted, &scratch))?;
        let mut archive = tar::Builder::new(out);
        match format {
            ArchiveFormat::Docker => write_docker(&mut archive, &chosen, &scratch)?,
            ArchiveFormat::Oci | ArchiveFormat::Both => write_layout(&mut archive, &chosen, &scratch, format)?,
        }
        let mut out = archive.into_inner().map_err(ImageError::ArchiveWrite)?;
        out.flush().map_err(ImageError::ArchiveWrite)
    }

    /// Finds the images, and links their blobs into the scratch directory: somebody may remove them meanwhile.
    fn pin(&self, wanted: &[String], scratch: &Scratch) -> Result<Vec<Chosen>> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for wanted in wanted {
            for (image, names) in self.meant(wanted)? {
                if let Some(known) = chosen.iter_mut().find(|c| c.image.manifest == image.manifest) {
                    known.names.extend(names);
                    known.names.sort();
                    known.names.dedup();
                    continue;
                }
                for digest in blobs_of(&image) {
                    let (from, to) = (blobs::path(self.store, digest)?, held(scratch, digest));
                    if !to.exists() {
                        std::fs::hard_link(&from, &to).map_err(StoreError::io("read", from))?;
                    }
                }
                let path = held(scratch, &image.manifest);
                let manifest_size = path.metadata().map_err(StoreError::io("look at", path))?.len();
                chosen.push(Chosen { image, names, manifest_size });
            }
        }
        Ok(chosen)
    }

    /// The images that a word means, with the names that are meant by it.
    fn meant(&self, wanted: &str) -> Result<Vec<(Image, Vec<Reference>)>> {
        // All tags of a repository: a name that becomes another one when it gets a tag.
        let bare = format!("{wanted}:latest").parse::<Reference>().ok().filter(|_| !wanted.contains('@'));
        if let Some(bare) = bare {
            let of_repository = |image: Image| {
                let is_meant = |name: &&Reference| name.same_repository(&bare) && name.tag().is_some();
                let names: Vec<_> = image.names.iter().filter(is_meant).cloned().collect();
                (!names.is_empty()).then_some((image, names))
            };
            let all: Vec<_> = self.list()?.into_iter().filter_map(of_repository).collect();
            if !all.is_empty() {
                return Ok(all);
            }
        }
        let found = self.look_up(wanted)?;
        let named = wanted.parse::<Reference>().is_ok_and(|name| name.digest().is_none());
        let names = if named { found.by_name } else { Vec::new() };
        Ok(vec![(found.image, names)])
    }
}

fn blobs_of(image: &Image) -> impl Iterator<Item = &str> {
    [&image.manifest, &image.id].into_iter().chain(image.layers.iter().map(|layer| &layer.digest)).map(String::as_str)
}

/// Where a blob is held.
fn held(scratch: &Scratch, digest: &str) -> PathBuf {
    scratch.path().join(digest::hex(digest).unwrap_or("none"))
}

fn write_layout(
    archive: &mut tar::Builder<impl Write>,
    chosen: &[Chosen],
    scratch: &Scratch,
    format: ArchiveFormat,
) -> Result<()> {
    append_bytes(archive, LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let manifests: Vec<Value> = chosen.iter().flat_map(|chosen| descriptors(chosen, format)).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    append_bytes(archive, INDEX, index.to_string().as_bytes())?;
    if format == ArchiveFormat::Both {
        let at = |digest: &str| format!("{BLOBS}{}", digest::hex(digest).unwrap_or_default());
        let manifest = docker_manifest(chosen, &at, &|layer| at(&layer.digest));
        append_bytes(archive, DOCKER_MANIFEST, manifest.as_bytes())?;
    }
    for dir in ["blobs/", BLOBS] {
        append_dir(archive, dir)?;
    }
    let mut written = BTreeSet::new();
    for digest in chosen.iter().flat_map(|chosen| blobs_of(&chosen.image)) {
        if written.insert(digest) {
            let name = format!("{BLOBS}{}", digest::hex(digest).unwrap_or_default());
            let path = held(scratch, digest);
            let file = File::open(&path).map_err(StoreError::io("read", &path))?;
            let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
            append(archive, &name, file, (size, digest))?;
        }
    }
    Ok(())
}

/// The entries of an index for one image: one for each name.
fn descriptors(chosen: &Chosen, format: ArchiveFormat) -> Vec<Value> {
    let image = &chosen.image;
    let descriptor = |annotations: Option<Value>| {
        let mut descriptor = json!({
            "mediaType": MANIFEST_TYPE,
            "digest": image.manifest,
            "size": chosen.manifest_size,
            "platform": { "os": image.config.os(), "architecture": image.config.architecture() },
        });
        if let (Some(annotations), Some(descriptor)) = (annotations, descriptor.as_object_mut()) {
            descriptor.insert("annotations".to_owned(), annotations);
        }
        descriptor
    };
    if chosen.names.is_empty() {
        return vec![descriptor(None)];
    }
    let named = |name: &Reference| {
        // Docker gives the tag here, and those who read OCI archives alone want the whole name.
        let short =
            if format == ArchiveFormat::Oci { name.to_string() } else { name.tag().unwrap_or_default().to_owned() };
        descriptor(Some(json!({ CONTAINERD_NAME: name.to_string(), REF_NAME: short })))
    };
    chosen.names.iter().map(named).collect()
}

fn docker_manifest(chosen: &[Chosen], config: &dyn Fn(&str) -> String, layer: &dyn Fn(&Layer) -> String) -> String {
    let image = |chosen: &Chosen| {
        let tags: Vec<String> = chosen.names.iter().map(Reference::familiar).collect();
        json!({
            "Config": config(&chosen.image.id),
            "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
            "Layers": chosen.image.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    };
    Value::Array(chosen.iter().map(image).collect()).to_string()
}

/// The older form: `manifest.json`, a config by its id, and layers by the digest of their archive.
fn write_docker(archive: &mut tar::Builder<impl Write>, chosen: &[Chosen], scratch: &Scratch) -> Result<()> {
    let config = |id: &str| format!("{}.json", digest::hex(id).unwrap_or_default());
    let name = |layer: &Layer| format!("{}.tar", digest::hex(&layer.diff_id).unwrap_or_default());
    append_bytes(archive, DOCKER_MANIFEST, docker_manifest(chosen, &config, &name).as_bytes())?;
    let mut written = BTreeSet::new();
    for Chosen { image, .. } in chosen {
        let path = held(scratch, &image.id);
        if written.insert(config(&image.id)) {
            let file = File::open(&path).map_err(StoreError::io("read", &path))?;
            let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
            append(archive, &config(&image.id), file, (size, &image.id))?;
        }
        for layer in &image.layers {
            if written.insert(name(layer)) {
                let blob = held(scratch, &layer.digest);
                if layer.file.is_some() {
                    return Err(ImageError::NoDockerForm { image: image.display_name() });
                }
                // An entry begins with its size, which only the whole archive tells.
                let size = count(unpack::open_archive(layer, &blob)?, &layer.digest)?;
                append(archive, &name(layer), unpack::open_archive(layer, &blob)?, (size, &layer.diff_id))?;
            }
        }
    }
    Ok(())
}

fn count(mut from: impl Read, digest: &str) -> Result<u64> {
    let damaged = |e: std::io::Error| StoreError::Damaged { path: digest.into(), reason: e.to_string() };
    Ok(std::io::copy(&mut from, &mut std::io::sink()).map_err(damaged)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append_dir(archive: &mut tar::Builder<impl Write>, name: &str) -> Result<()> {
    let mut header = header(EntryType::Directory, 0o755, 0);
    archive.append_data(&mut header, name, std::io::empty()).map_err(ImageError::ArchiveWrite)
}

fn append_bytes(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    archive.append_data(&mut header, name, bytes).map_err(ImageError::ArchiveWrite)
}

/// Writes one file, and checks it on the way: what is damaged here must not become somebody else's image.
fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    content: impl Read,
    (size, digest): (u64, &str),
) -> Result<()> {
    let mut content = Hashing::new(content.take(size));
    let mut header = header(EntryType::Regular, 0o644, size);
    archive.append_data(&mut header, name, &mut content).map_err(ImageError::ArchiveWrite)?;
    let (_, found, length) = content.finish();
    if found != digest || length != size {
        let reason = format!("its content has {length} bytes and the digest {found}; build, pull or load it again");
        return Err(StoreError::Damaged { path: name.into(), reason }.into());
    }
    Ok(())
}
