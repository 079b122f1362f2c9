//! Layers: archives in the content store → directories under `layers/`, each made apart and moved in place whole.

mod archive;
pub(crate) mod limits;
pub(super) mod zstd;

pub(super) use archive::within_root;

use super::formats::{self, Packing};
use super::{ImageError, Layer, Result, blobs};
use crate::store::{Store, StoreError};
use flate2::bufread::MultiGzDecoder;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// The directories of these layers (given lowest first), topmost first. Missing ones are unpacked.
pub(super) fn layer_dirs(store: &Store, layers: &[Layer]) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::with_capacity(layers.len());
    for layer in layers {
        dirs.push(blobs::layer_dir(store, &layer.chain_id)?);
    }
    let missing: Vec<usize> =
        (0..).zip(&dirs).filter(|(_, dir)| dir.symlink_metadata().is_err()).map(|(i, _)| i).collect();
    if !missing.is_empty() {
        unpack_missing(store, layers, &dirs, &missing)?;
    }
    dirs.reverse();
    Ok(dirs)
}

/// Unpacks some layers, lowest first, then flushes them at once and moves them in place.
fn unpack_missing(store: &Store, layers: &[Layer], dirs: &[PathBuf], missing: &[usize]) -> Result<()> {
    let scratch = store.scratch()?;
    // What lies below the next layer, topmost first.
    let mut below: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(&Layer, PathBuf)> = Vec::new();
    for (i, (layer, dir)) in layers.iter().zip(dirs).enumerate() {
        let mut dir = dir.clone();
        if missing.contains(&i) {
            dir = scratch.path().join(i.to_string());
            unpack(layer, &blobs::path(store, &layer.digest)?, &below, &dir)?;
            made.push((layer, dir.clone()));
        }
        below.insert(0, dir);
    }
    flush(scratch.path())?;
    made.iter().try_for_each(|(layer, dir)| put_in_place(store, &layer.chain_id, dir))
}

/// Finds the directories of the layers below one, topmost first; none if there will never be any. It is asked where a
/// layer puts something into a directory that it does not bring itself.
pub(super) type Below<'a> = dyn FnMut() -> Option<Vec<PathBuf>> + 'a;

/// Unpacks one layer's blob into a new directory. `below` are the directories of the layers under it, topmost first.
pub(super) fn unpack(layer: &Layer, blob: &Path, below: &[PathBuf], into: &Path) -> Result<()> {
    if is_file(layer) {
        return unpack_file(layer, blob, into);
    }
    let blob = File::open(blob).map_err(StoreError::io("read", blob))?;
    unpack_from(layer, blob, &mut || Some(below.to_vec()), into)
}

/// Whether a layer is one file and no archive.
pub(super) fn is_file(layer: &Layer) -> bool {
    matches!(formats::packing(&layer.media_type), Some(Packing::File))
}

/// The same for what is an archive, read from wherever the blob comes.
pub(super) fn unpack_from(layer: &Layer, blob: impl Read + 'static, below: &mut Below<'_>, into: &Path) -> Result<()> {
    let archive = uncompressed(layer, blob)?;
    let refused = |reason: String| ImageError::BadLayer { digest: layer.digest.clone(), reason };
    let diff_id = archive::unpack(archive, below, into, limits::Limits::of_environment()?).map_err(|e| match e {
        archive::Error::Store(e) => ImageError::Store(e),
        other => refused(other.to_string()),
    })?;
    // The chain id that names the directory follows from the diff ids, and an image's config could claim any: only
    // this keeps one image from giving its files to another.
    if diff_id != layer.diff_id {
        return Err(refused(format!("its archive has the digest {diff_id}, and the image says {}", layer.diff_id)));
    }
    Ok(())
}

/// A layer's archive, uncompressed.
pub(super) fn open_archive(layer: &Layer, blob: &Path) -> Result<Box<dyn Read>> {
    uncompressed(layer, File::open(blob).map_err(StoreError::io("read", blob))?)
}

fn uncompressed(layer: &Layer, blob: impl Read + 'static) -> Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(128 << 10, blob);
    Ok(match formats::packing(&layer.media_type) {
        Some(Packing::Tar) => Box::new(file),
        Some(Packing::Gzip) => Box::new(MultiGzDecoder::new(file)),
        Some(Packing::Zstd) => Box::new(zstd::Decoder::new(file)),
        Some(Packing::File) => Box::new(as_archive(layer, file)?),
        None => {
            let (digest, media_type) = (layer.digest.clone(), layer.media_type.clone());
            return Err(ImageError::LayerType { digest, media_type, accepted: formats::ACCEPTED });
        }
    })
}

/// A layer that is one file, as the archive that would make its directory.
fn as_archive(layer: &Layer, blob: impl Read + 'static) -> Result<impl Read + 'static> {
    let inside = inside(layer)?;
    let mut header = tar::Header::new_ustar();
    header.set_path(&inside).map_err(StoreError::io("describe", inside))?;
    header.set_mode(0o755);
    header.set_size(layer.size);
    header.set_cksum();
    let padding = layer.size.next_multiple_of(512) - layer.size;
    let end = std::io::repeat(0).take(padding + 1024);
    Ok(std::io::Cursor::new(header.as_bytes().to_vec()).chain(blob).chain(end))
}

/// Where the file of a layer that is one file belongs.
fn inside(layer: &Layer) -> Result<PathBuf> {
    let inside = Path::new(layer.file.as_deref().unwrap_or_default().trim_start_matches('/'));
    if inside.file_name().is_none() || !inside.components().all(|c| matches!(c, Component::Normal(_))) {
        let reason = "it is one file, and nothing says where it belongs".to_owned();
        return Err(ImageError::BadLayer { digest: layer.digest.clone(), reason });
    }
    Ok(inside.to_owned())
}

/// Makes a directory with a layer's one file in it. The blob is the file, so there is no other digest to check.
fn unpack_file(layer: &Layer, blob: &Path, into: &Path) -> Result<()> {
    let path = into.join(inside(layer)?);
    let make = || -> std::io::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or(into))?;
        let mut file = File::options().write(true).create_new(true).mode(0o755).open(&path)?;
        std::io::copy(&mut File::open(blob)?, &mut file).map(drop)
    };
    make().map_err(|e| StoreError::io("unpack", &path)(e).into())
}

/// Unpacks an archive that is no layer into a new directory; why not, if it cannot be.
pub(super) fn unpack_archive(archive: impl Read, into: &Path) -> std::result::Result<(), String> {
    archive::unpack(archive, &mut || Some(vec![]), into, limits::Limits::of_environment().map_err(|e| e.to_string())?)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Flushes what was made in a directory. A few files are flushed one by one; for many it is quicker to flush the whole
/// file system at once, though that takes along what others have written.
pub(super) fn flush(dir: &Path) -> Result<()> {
    const FEW: usize = 100;
    let mut made = vec![dir.to_owned()];
    let mut looked_at = 0;
    while let Some(next) = made.get(looked_at).filter(|_| made.len() <= FEW) {
        looked_at += 1;
        // What is neither a file nor a directory is flushed with its directory.
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file()) {
                made.push(entry.path());
            }
        }
    }
    let each = || made.iter().rev().try_for_each(|path| File::open(path)?.sync_all());
    if made.len() <= FEW && each().is_ok() {
        return Ok(());
    }
    let dir_file = File::open(dir).map_err(StoreError::io("open", dir))?;
    rustix::fs::syncfs(dir_file).map_err(|e| StoreError::io("flush", dir)(e.into()).into())
}

/// Moves an unpacked layer to where it is looked for. Whoever else was quicker made the same.
pub(super) fn put_in_place(store: &Store, chain_id: &str, made: &Path) -> Result<()> {
    let place = blobs::layer_dir(store, chain_id)?;
    let quicker = |e: &std::io::Error| matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty);
    let moved = match rustix::fs::renameat_with(CWD, made, CWD, &place, RenameFlags::NOREPLACE) {
        // Not every file system can promise to replace nothing; a plain rename still replaces no directory with files.
        Err(Errno::INVAL) => std::fs::rename(made, &place),
        other => other.map_err(std::io::Error::from),
    };
    match moved {
        Err(e) if !quicker(&e) => Err(StoreError::io("create", place)(e).into()),
        _ => Ok(()),
    }
}

/// Unpacks whatever it is, within small limits.
#[cfg(any(fuzzing, test))]
pub(crate) fn unpack_for_fuzzing(archive: &[u8], into: &Path) {
    let _ = archive::unpack(archive, &mut || Some(vec![]), into, limits::Limits { bytes: 1 << 20, entries: 1000 });
}

#[cfg(test)]
mod tests;
