//! Files into a container and out of it.
//!
//! Whatever touches the container's tree happens in a child whose root is that tree (chroot(2)), so that no link leads out
//! of it, whoever changes it meanwhile. Of a running container the tree is the one that its keeper has mounted; that of a
//! stopped one is mounted for the child as a run would mount it. What passes between the two sides is a tar archive in a
//! scratch file: what cannot be read is found before anything is written.
//!
//! ```text
//! place      Docker's rules for what a destination means
//! pack       files → an archive
//! unpack     an archive → files
//! tree       a child in the container's tree
//! ```

mod pack;
mod place;
mod tree;
mod unpack;

use super::{Container, Result};
use crate::store::{Store, StoreError};
use pack::pack;
use place::{Source, settle};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use unpack::{Names, Owner, unpack};

/// How files are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOptions {
    /// Keep the owners, as numbers; without it files are root's in a container, and ours on the host.
    pub archive: bool,
    /// Follow a link that the source's path names.
    pub follow: bool,
}

/// How much was copied, in bytes of content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes of files.
    pub bytes: u64,
}

/// Why files could not be copied, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
pub struct CopyError(pub(super) String);

impl CopyError {
    fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Self(format!("cannot {action} {}: {error}", path.display()))
    }
}

/// Copies a file or directory of a container to a path of the host, by Docker's rules.
///
/// To be called while this process has one thread: it forks.
///
/// # Errors
/// When there is no such file, the destination does not fit it, or the system refuses.
pub fn copy_out(store: &Store, container: &Container, from: &str, to: &str, options: CopyOptions) -> Result<Copied> {
    let scratch = store.scratch()?;
    let (source, mut archive) = packed(store, container, &scratch.path().join("archive"), from, options)?;
    let target = settle(to, &source)?;
    let owner = if options.archive { Owner::Same } else { Owner::Ours };
    Ok(unpack(&mut archive, &target, Names::One, owner)?)
}

/// Writes a file or directory of a container as a tar archive.
///
/// To be called while this process has one thread: it forks.
///
/// # Errors
/// When there is no such file, or the archive cannot be written.
pub fn copy_out_as_archive(
    store: &Store,
    container: &Container,
    from: &str,
    options: CopyOptions,
    mut out: impl Write,
) -> Result<()> {
    let scratch = store.scratch()?;
    let (_, mut archive) = packed(store, container, &scratch.path().join("archive"), from, options)?;
    let write = |e: std::io::Error| CopyError(format!("cannot write the archive: {e}"));
    std::io::copy(&mut archive, &mut out).map_err(write)?;
    out.flush().map_err(write)?;
    Ok(())
}

/// Copies a file or directory of the host into a container, by Docker's rules.
///
/// To be called while this process has one thread: it forks.
///
/// # Errors
/// When there is no such file, the destination does not fit it, or the system refuses.
pub fn copy_in(store: &Store, container: &Container, from: &str, to: &str, options: CopyOptions) -> Result<Copied> {
    let scratch = store.scratch()?;
    let mut archive = spool(&scratch.path().join("archive"))?;
    let source = pack(Path::new(from), from, options.follow, &mut archive)?;
    archive.rewind().map_err(|e| CopyError(format!("cannot read the archive: {e}")))?;
    let owner = if options.archive { Owner::Same } else { Owner::Root };
    let to = absolute(to);
    tree::inside(store, container, move || {
        let target = settle(&to, &source)?;
        unpack(&mut archive, &target, Names::One, owner)
    })
}

/// Unpacks a tar archive into a directory of a container. What is no archive is refused before anything is written.
///
/// To be called while this process has one thread: it forks.
///
/// # Errors
/// When it is no archive, the directory is not there, or the system refuses.
pub fn copy_archive_in(
    store: &Store,
    container: &Container,
    mut from: impl Read,
    to: &str,
    options: CopyOptions,
) -> Result<Copied> {
    let scratch = store.scratch()?;
    let mut archive = spool(&scratch.path().join("archive"))?;
    let read = |e: std::io::Error| CopyError(format!("cannot read the archive: {e}"));
    std::io::copy(&mut from, &mut archive).map_err(read)?;
    archive.rewind().map_err(read)?;
    unpack::check(&mut archive)?;
    let owner = if options.archive { Owner::Same } else { Owner::Root };
    let to = absolute(to);
    tree::inside(store, container, move || {
        let is_dir = std::fs::metadata(&to).is_ok_and(|meta| meta.is_dir());
        if !is_dir {
            return Err(CopyError(format!("{to} is no directory in the container, and an archive goes into one")));
        }
        unpack(&mut archive, Path::new(&to), Names::Below, owner)
    })
}

/// The files of a container in an archive.
fn packed(
    store: &Store,
    container: &Container,
    spooled: &Path,
    from: &str,
    options: CopyOptions,
) -> Result<(Source, File)> {
    let mut archive = spool(spooled)?;
    let mut filled = archive.try_clone().map_err(StoreError::io("write", spooled))?;
    let from = absolute(from);
    let source = tree::inside(store, container, move || pack(Path::new(&from), &from, options.follow, &mut filled))?;
    archive.rewind().map_err(StoreError::io("read", spooled))?;
    Ok((source, archive))
}

fn spool(path: &Path) -> Result<File> {
    let open = File::options().read(true).write(true).create_new(true).open(path);
    Ok(open.map_err(StoreError::io("create", path))?)
}

/// A path of a container begins at its root, whether it says so or not.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The path without what is only said at its end: `/`, `/.`.
fn trimmed(path: &str) -> PathBuf {
    // Its components have neither.
    Path::new(path).components().collect()
}
