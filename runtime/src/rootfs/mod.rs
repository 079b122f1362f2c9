//! Files: layers + writable layer + volumes → the one tree that a guest is handed.
//!
//! Everything here happens in the sandbox's own mount namespace, beneath one directory, before (or beside) the fences:
//! the kernel composes the tree, and the guest gets a single preopen, `/`.

mod handed;
mod mount;
pub mod secrets;
pub mod view;

pub use handed::{Handed, lasting_place, mount_handed};

use crate::grants::{BindGrant, Grants, Paths, RootGrant, Shown};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// What goes wrong when a tree is put together.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// {action} failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A bind's source is not there.
    #[error("cannot mount {}: there is no such file or directory on the host", .0.display())]
    NoSource(PathBuf),
    /// A file on a directory or the other way round.
    #[error(
        "cannot mount {} on {}: one is a directory and the other is a file",
        from.display(), to.display()
    )]
    Mismatch {
        /// The host's path.
        from: PathBuf,
        /// The guest's path.
        to: PathBuf,
    },
    /// A mount that was handed over and cannot be made.
    #[error("cannot mount the container's root file system, which was handed over as {kind:?}: {reason}")]
    Handed {
        /// The type of file system.
        kind: String,
        /// Why not.
        reason: String,
    },
    /// Without a mount namespace a single file cannot be put into the tree.
    #[error(
        "cannot mount the single file {} without a mount namespace, which this system refuses: mount its directory",
        .0.display()
    )]
    FileWithoutNamespace(PathBuf),
    /// Without a mount namespace nothing can be masked.
    #[error("cannot mask {} or make it read-only without a mount namespace, which this system refuses", .0.display())]
    PathWithoutNamespace(PathBuf),
    /// A secret that cannot be shown.
    #[error("cannot show the secret {id}, which is in {}: {reason}", file.display())]
    Secret {
        /// Its name.
        id: String,
        /// Its file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

impl RootfsError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

type Result<T> = std::result::Result<T, RootfsError>;

/// One directory that a guest is handed, with the path that it has there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Preopen {
    /// The host's path.
    pub host: PathBuf,
    /// The guest's path.
    pub guest: String,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// Mounts the tree of `grants` at `target`, in a mount namespace of our own. `bundle` holds the writable layer.
///
/// # Errors
/// When the kernel refuses a mount or a source is missing.
pub fn assemble(grants: &Grants, bundle: &Path, target: &Path, rootless: bool) -> Result<Preopen> {
    match &grants.root {
        RootGrant::Layers(layers) if layers.is_empty() => mount::bind_at(&upper(bundle), target)?,
        RootGrant::Layers(layers) => mount::overlay(layers, &upper(bundle), &bundle.join("work"), target, rootless)?,
        RootGrant::Ready(path) => mount::bind_at(&bundle.join(path), target)?,
    }
    for bind in outermost_first(&grants.binds) {
        mount::bind_below(target, bind)?;
    }
    secrets::show(&grants.secrets, target)?;
    narrow(&grants.paths, target)?;
    if !grants.root_writable {
        mount::make_read_only(target)?;
    }
    Ok(preopen(target))
}

/// Masks paths of the tree at `target`, and makes others read-only. A link means what it leads to.
fn narrow(paths: &Paths, target: &Path) -> Result<()> {
    for path in &paths.masked {
        if let Some(place) = mount::place(target, path)? {
            mount::mask(&place, path)?;
        }
    }
    for path in &paths.read_only {
        if let Some(place) = mount::place(target, path)? {
            mount::guard(&place, path)?;
        }
    }
    Ok(())
}

/// Lays an empty tree in memory over the directory `target`, for mount points that nobody else sees.
///
/// # Errors
/// When the kernel refuses.
pub fn cover(target: &Path) -> Result<()> {
    mount::memory(target)
}

/// Puts a file in the place of another, which is left alone where there is none.
///
/// # Errors
/// When the one is not there, or the system refuses.
pub fn stand_in(instead: &Path, place: &Path) -> Result<()> {
    if place.exists() { mount::stand_in(instead, place) } else { Ok(()) }
}

/// Takes away the tree at `target`; who has something of it open keeps that.
///
/// # Errors
/// When nothing is mounted there.
pub fn take_down(target: &Path) -> Result<()> {
    mount::take_down(target)
}

/// What a guest is handed of a tree that is (or will be) at `target`.
#[must_use]
pub fn preopen(target: &Path) -> Preopen {
    Preopen { host: target.to_owned(), guest: "/".into(), writable: true }
}

/// The same tree where no namespace is to be had: the layers are copied once into the bundle, and each bind is a
/// preopen of its own.
///
/// # Errors
/// When a copy fails, or a bind is a single file.
pub fn fallback(grants: &Grants, bundle: &Path) -> Result<Vec<Preopen>> {
    let root = match &grants.root {
        RootGrant::Layers(layers) => {
            let root = upper(bundle);
            let done = bundle.join(COPIED);
            if !done.exists() {
                for layer in layers.iter().rev() {
                    copy_tree(layer, &root)?;
                }
                std::fs::write(&done, b"").map_err(RootfsError::io("write", &done))?;
            }
            root
        }
        RootGrant::Ready(path) => bundle.join(path),
    };
    if let Some(secret) = grants.secrets.iter().find(|secret| matches!(secret.shown, Shown::File(_))) {
        return Err(RootfsError::FileWithoutNamespace(secret.source.clone()));
    }
    for path in grants.paths.masked.iter().chain(&grants.paths.read_only) {
        if mount::place(&root, path)?.is_some() {
            return Err(RootfsError::PathWithoutNamespace(path.clone()));
        }
    }
    let mut all = vec![Preopen { host: root, guest: "/".into(), writable: grants.root_writable }];
    for bind in &grants.binds {
        let meta = std::fs::metadata(&bind.source).map_err(|_| RootfsError::NoSource(bind.source.clone()))?;
        if !meta.is_dir() {
            return Err(RootfsError::FileWithoutNamespace(bind.source.clone()));
        }
        let guest = bind.destination.to_string_lossy().into_owned();
        all.push(Preopen { host: bind.source.clone(), guest, writable: bind.writable });
    }
    Ok(all)
}

/// Makes the bundle's writable layer.
///
/// # Errors
/// When the directories cannot be made.
pub fn make_writable_layer(bundle: &Path) -> Result<()> {
    for dir in [upper(bundle), bundle.join("work")] {
        std::fs::create_dir_all(&dir).map_err(RootfsError::io("create", dir))?;
    }
    Ok(())
}

/// Says that the layers were copied into the writable layer.
const COPIED: &str = "copied";

/// Whether the bundle's writable layer is a copy of all layers, and not only what was written over them.
#[must_use]
pub fn is_copied(bundle: &Path) -> bool {
    bundle.join(COPIED).exists()
}

/// The bundle's writable layer.
#[must_use]
pub fn upper(bundle: &Path) -> PathBuf {
    bundle.join("upper")
}

/// A path below `/` without `.`, `..` and links: the textual rule of Docker for a mount's destination.
#[must_use]
pub fn normalize(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// A bind below another bind must be mounted after it.
fn outermost_first(binds: &[BindGrant]) -> Vec<&BindGrant> {
    let mut sorted: Vec<_> = binds.iter().collect();
    sorted.sort_by_key(|bind| bind.destination.components().count());
    sorted
}

/// Removes a file, a link or a tree; nothing there is a success.
fn remove_any(path: &Path) -> Result<()> {
    let gone = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    gone.map_err(RootfsError::io("remove", path))
}

/// Copies a layer over what is there; a whiteout removes. Names of one file are so in the copy too.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_beside(from, to, &mut HashMap::new())
}

/// `linked` has the copies of files with several names, by device and inode.
fn copy_beside(from: &Path, to: &Path, linked: &mut HashMap<(u64, u64), PathBuf>) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
    let copy = |action: &'static str, path: &Path, r: std::io::Result<()>| r.map_err(RootfsError::io(action, path));
    if crate::image::is_opaque(from) {
        // What lies below is hidden; mounts cannot be here, since this is no mounted tree.
        for old in std::fs::read_dir(to).map_err(RootfsError::io("read", to))?.flatten() {
            remove_any(&old.path())?;
        }
    }
    for entry in std::fs::read_dir(from).map_err(RootfsError::io("read", from))? {
        let entry = entry.map_err(RootfsError::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(RootfsError::io("look at", &source))?;
        if !kind.is_dir() || !target.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            remove_any(&target)?;
        }
        if kind.is_dir() {
            copy("create", &target, std::fs::create_dir_all(&target))?;
            copy_beside(&source, &target, linked)?;
        } else if kind.is_symlink() {
            let link = std::fs::read_link(&source).map_err(RootfsError::io("read", &source))?;
            copy("create", &target, symlink(link, &target))?;
        } else if kind.is_file() {
            let meta = entry.metadata().map_err(RootfsError::io("look at", &source))?;
            let id = (meta.dev(), meta.ino());
            if let Some(first) = linked.get(&id) {
                copy("link", &target, std::fs::hard_link(first, &target))?;
                continue;
            }
            copy("copy to", &target, std::fs::copy(&source, &target).map(drop))?;
            if meta.nlink() > 1 {
                linked.insert(id, target);
            }
        } else if !kind.is_char_device() {
            continue;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn destinations_stay_below_the_root() {
        assert_eq!(normalize("/a/../../etc/./x"), PathBuf::from("/etc/x"));
        assert_eq!(normalize("data"), PathBuf::from("/data"));
    }

    #[test]
    fn a_copied_tree_has_the_upper_layers_files_and_no_whiteouts() {
        let dir = crate::store::files::tests::temp_dir();
        let (lower, top, out) = (dir.join("l"), dir.join("t"), dir.join("o"));
        for d in [&lower, &top, &out] {
            std::fs::create_dir(d).unwrap();
        }
        std::fs::write(lower.join("a"), "old").unwrap();
        std::fs::create_dir(lower.join("d")).unwrap();
        std::fs::write(lower.join("d/f"), "x").unwrap();
        std::fs::write(top.join("a"), "new").unwrap();
        std::os::unix::fs::symlink("a", top.join("link")).unwrap();
        std::fs::hard_link(top.join("a"), top.join("again")).unwrap();
        copy_tree(&lower, &out).unwrap();
        copy_tree(&top, &out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("link")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(out.join("d/f")).unwrap(), "x");
        assert_eq!(out.join("again").metadata().unwrap().nlink(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
