//! A child whose root is a container's tree.

use super::CopyError;
use crate::container::{Container, ContainerError, Result, Running, Status};
use crate::grants::Grants;
use crate::rootfs;
use crate::sandbox::aside::in_child;
use crate::sandbox::fence::enter_namespaces;
use crate::sandbox::{Fence, TREES};
use crate::store::{Lock, Store, StoreError};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a container's tree is to be had.
enum Tree {
    /// Its keeper has mounted it.
    Mounted(OwnedFd),
    /// It is to be mounted.
    ToMount { grants: Box<Grants>, place: PathBuf },
}

/// Does some work in a child whose root is the container's tree, and hands over what that gives.
///
/// To be called while this process has one thread: it forks.
pub(super) fn inside<T: Serialize + DeserializeOwned>(
    store: &Store,
    container: &Container,
    work: impl FnOnce() -> Result<T, CopyError>,
) -> Result<T> {
    // Held until the child has ended: nobody else mounts what it has mounted.
    let (tree, _lock) = find(store, container)?;
    let done = in_child(|| enter(tree, &container.dir).and_then(|()| work()));
    let done = done.map_err(|(action, e)| CopyError(format!("cannot {action}: {e}")))?;
    let done =
        done.ok_or_else(|| CopyError("the child in the container's tree was killed before it was done".to_owned()))?;
    Ok(done?)
}

fn find(store: &Store, container: &Container) -> Result<(Tree, Option<Lock>)> {
    if let Status::Running(running) = container.status(store) {
        let tree = mounted(store, container, &running)?;
        // The process was its keeper when its tree was opened, only if it still is.
        return match container.status(store) {
            Status::Running(still) if still.keeper == running.keeper && still.started == running.started => {
                Ok((tree, None))
            }
            _ => Err(ContainerError::NotRunning(container.record.id.clone())),
        };
    }
    let id = container.record.id.clone();
    let lock = Lock::try_take(&container.dir.join("lock"))?
        .ok_or(ContainerError::Running { id, hint: "it starts or ends at this moment; try again" })?;
    let grants = Box::new(container.grants()?);
    let place = store.run_dir()?.join(TREES).join("0");
    std::fs::create_dir_all(&place).map_err(StoreError::io("create", &place))?;
    Ok((Tree::ToMount { grants, place }, Some(lock)))
}

fn mounted(store: &Store, container: &Container, running: &Running) -> Result<Tree> {
    let has_namespace = running.fences.as_ref().is_none_or(|fences| matches!(fences.namespaces, Fence::Stands(_)));
    let path = if has_namespace {
        let trees = store.run_dir()?.join(TREES);
        // Links on the way are to be ours, and not those of another root.
        let trees = trees.canonicalize().map_err(StoreError::io("follow", trees))?;
        let trees = trees.strip_prefix("/").unwrap_or(&trees).join(running.tree.to_string());
        Path::new("/proc").join(running.keeper.to_string()).join("root").join(trees)
    } else {
        let grants = container.grants()?;
        without_namespace(&grants, &container.dir)?
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty());
    Ok(Tree::Mounted(opened.map_err(|e| CopyError::io("open the container's tree at", &path, &e.into()))?))
}

/// The one directory that is the tree where nothing can be mounted.
fn without_namespace(grants: &Grants, bundle: &Path) -> Result<PathBuf, CopyError> {
    if !grants.binds.is_empty() {
        return Err(CopyError(
            "without a mount namespace, which this system refuses, a container with volumes is several directories: copy \
             files to or from its volumes themselves"
                .to_owned(),
        ));
    }
    let preopens = rootfs::fallback(grants, bundle).map_err(|e| CopyError(e.to_string()))?;
    let first = preopens.into_iter().next().map(|preopen| preopen.host);
    first.ok_or_else(|| CopyError("the container has no tree".to_owned()))
}

/// Makes the tree this process's root.
fn enter(tree: Tree, bundle: &Path) -> Result<(), CopyError> {
    let root = match tree {
        Tree::Mounted(root) => {
            if !rustix::process::geteuid().is_root() {
                become_root()?;
            }
            root
        }
        Tree::ToMount { grants, place } => {
            let path = match enter_namespaces() {
                Ok(namespaces) => {
                    let mounted = rootfs::assemble(&grants, bundle, &place, namespaces.rootless);
                    mounted.map_err(|e| CopyError(e.to_string()))?;
                    place
                }
                Err(_) => without_namespace(&grants, bundle)?,
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, &path, flags, Mode::empty())
                .map_err(|e| CopyError::io("open the container's tree at", &path, &e.into()))?
        }
    };
    let enter = || {
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(".")
    };
    enter().map_err(|e| CopyError(format!("cannot enter the container's tree: {}", std::io::Error::from(e))))
}

/// The right to change one's root, for who is not root: in a user namespace of one's own.
fn become_root() -> Result<(), CopyError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: this process has one thread and shares neither descriptors nor file-system state with another.
    let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
    made.map_err(|e| CopyError(format!("cannot enter the container's tree: unshare: {e}")))?;
    let map = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        std::fs::write(&path, text).map_err(|e| CopyError::io("write", &path, &e))
    };
    map("setgroups", "deny".into())?;
    map("uid_map", format!("0 {} 1", uid.as_raw()))?;
    map("gid_map", format!("0 {} 1", gid.as_raw()))
}
