//! Mounts, by the file-descriptor interface of mount(2)'s successors (fsopen, open_tree, move_mount): no path is
//! resolved twice, and nothing is seen half mounted.

use super::{Result, RootfsError};
use crate::grants::BindGrant;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What every mount that a guest sees is: no set-uid, no devices, no programs of the host.
pub(super) const SAFE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Mounts an overlay of `layers` (topmost first) below the writable `upper` at `target`.
pub(super) fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path, rootless: bool) -> Result<()> {
    let mount = match overlay_by_parts(layers, upper, work, rootless) {
        Ok(mount) => mount,
        // Before Linux 6.7 layers cannot be added one by one, and one option holds at most 255 bytes there.
        Err(rustix::io::Errno::INVAL) => return overlay_by_string(layers, upper, work, target, rootless),
        Err(e) => return Err(RootfsError::io("mount the layers at", target)(e.into())),
    };
    attach(&mount, target)
}

fn overlay_by_parts(layers: &[PathBuf], upper: &Path, work: &Path, rootless: bool) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(fs.as_fd(), "workdir", work)?;
    if rootless {
        fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    } else {
        // What is in the upper directory is then all that was written, whatever this kernel's own defaults: `commit`,
        // `export` and `diff` read it from outside.
        fsconfig_set_string(fs.as_fd(), "redirect_dir", "off")?;
        fsconfig_set_string(fs.as_fd(), "metacopy", "off")?;
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, SAFE)
}

fn overlay_by_string(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path, rootless: bool) -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lower: Vec<_> = layers.iter().map(|l| escape(l)).collect();
    let userxattr = if rootless { "userxattr," } else { "redirect_dir=off,metacopy=off," };
    let options =
        format!("{userxattr}lowerdir={},upperdir={},workdir={}", lower.join(":"), escape(upper), escape(work));
    let options =
        std::ffi::CString::new(options).map_err(|e| RootfsError::io("mount the layers at", target)(e.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("overlay", target, "overlay", flags, Some(options.as_c_str()))
        .map_err(|e| RootfsError::io("mount the layers at", target)(e.into()))
}

/// Mounts an empty file system in memory at `target`.
pub(super) fn memory(target: &Path) -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", target, "tmpfs", flags, Some(c"mode=0700,size=16m"))
        .map_err(|e| RootfsError::io("mount memory at", target)(e.into()))
}

/// Unmounts all that is at `target` and below.
pub(super) fn take_down(target: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|e| RootfsError::io("unmount", target)(e.into()))
}

/// Shows the directory `source` at `target`.
pub(super) fn bind_at(source: &Path, target: &Path) -> Result<()> {
    attach(&clone_tree(source)?, target)
}

/// A new file system in memory that is mounted nowhere yet (ramfs: what is in it is never swapped out).
pub(super) fn secret_memory() -> Result<OwnedFd> {
    let make = || {
        let fs = fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(fs.as_fd(), "mode", "0755")?;
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, SAFE)
    };
    make().map_err(|e: rustix::io::Errno| RootfsError::io("make a file system in memory for", "secrets")(e.into()))
}

/// Mounts it below `root`, read-only from now on.
pub(super) fn memory_below(root: &Path, memory: &OwnedFd, destination: &Path) -> Result<()> {
    set_attributes(memory, SAFE.union(MountAttrFlags::MOUNT_ATTR_RDONLY), 0)
        .map_err(RootfsError::io("make read-only", destination))?;
    let place = make_place(root, destination, true)?;
    move_onto(memory, &place).map_err(|e| RootfsError::io("mount on", destination)(e.into()))
}

/// Where a path of the tree at `root` is; no link leads out of it.
pub(super) fn resolve(root: &Path, path: &Path) -> Result<PathBuf> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| RootfsError::io("open", root)(e.into()))?;
    let found = rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
        .map_err(|e| RootfsError::io("open", path)(e.into()))?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::read_link(&link).map_err(RootfsError::io("find", path))
}

/// Mounts a directory or file of the host at its destination below `root`; the destination is resolved there, so a
/// link of the image cannot lead it out, and is made where it is missing.
pub(super) fn bind_below(root: &Path, bind: &BindGrant) -> Result<()> {
    let tree = clone_tree(&bind.source)?;
    if !bind.writable {
        let depth = if bind.shallow { 0 } else { libc::AT_RECURSIVE as libc::c_uint };
        set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY, depth)
            .map_err(RootfsError::io("make read-only", &bind.source))?;
    }
    let is_dir = std::fs::metadata(&bind.source).is_ok_and(|m| m.is_dir());
    let place = make_place(root, &bind.destination, is_dir)?;
    move_onto(&tree, &place).map_err(|e| match e {
        rustix::io::Errno::NOTDIR | rustix::io::Errno::INVAL | rustix::io::Errno::ISDIR => {
            RootfsError::Mismatch { from: bind.source.clone(), to: bind.destination.clone() }
        }
        e => RootfsError::io("mount on", &bind.destination)(e.into()),
    })
}

/// A place below `root` as it is now, if there is one; no link leads out of the tree.
pub(super) fn place(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| RootfsError::io("open", root)(e.into()))?;
    match rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(place) => Ok(Some(place)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(RootfsError::io("open", path)(e.into())),
    }
}

/// Covers a place with nothing: a directory with an empty one, and all else with a device that cannot be opened there.
pub(super) fn mask(place: &OwnedFd, path: &Path) -> Result<()> {
    let cover = |e: rustix::io::Errno| RootfsError::io("mask", path)(e.into());
    let stat = rustix::fs::fstat(place).map_err(cover)?;
    let nothing = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => empty_dir().map_err(cover)?,
        _ => clone_tree(Path::new("/dev/null"))?,
    };
    set_attributes(&nothing, MountAttrFlags::MOUNT_ATTR_RDONLY, 0).map_err(RootfsError::io("mask", path))?;
    move_onto(&nothing, place).map_err(cover)
}

fn empty_dir() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "mode", "0755")?;
    fsconfig_set_string(fs.as_fd(), "nr_inodes", "1")?;
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, SAFE)
}

/// Makes a place read-only, but not what is mounted below it.
pub(super) fn guard(place: &OwnedFd, path: &Path) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = flags | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    let guard = |e: rustix::io::Errno| RootfsError::io("make read-only", path)(e.into());
    let tree = open_tree(place.as_fd(), "", flags).map_err(guard)?;
    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY, 0).map_err(RootfsError::io("make read-only", path))?;
    move_onto(&tree, place).map_err(guard)
}

/// Mounts a file on another, of this namespace.
pub(super) fn stand_in(instead: &Path, place: &Path) -> Result<()> {
    let tree = clone_tree(instead)?;
    let onto = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| RootfsError::io("open", place)(e.into()))?;
    move_onto(&tree, &onto).map_err(|e| RootfsError::io("mount on", place)(e.into()))
}

/// The same for a file of `/proc/net`, whose place in its directory is another after each look at it, by whomever; and then
/// the kernel knows no place for the mount.
pub(super) fn fleeting(instead: &Path, place: &Path) -> Result<()> {
    const TIMES: usize = 100;
    let mut done = stand_in(instead, place);
    for _ in 1..TIMES {
        match done {
            Err(RootfsError::Io { ref source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                done = stand_in(instead, place);
            }
            done => return done,
        }
    }
    done
}

/// Takes the right to write from the mount at `target`, not from those below it.
pub(super) fn make_read_only(target: &Path) -> Result<()> {
    let root = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| RootfsError::io("open", target)(e.into()))?;
    set_attributes(&root, MountAttrFlags::MOUNT_ATTR_RDONLY, 0).map_err(RootfsError::io("make read-only", target))
}

/// Mounts what has no place yet on what was opened.
fn move_onto(mount: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), "", place.as_fd(), "", flags)
}

/// Puts what was made at a place.
pub(super) fn attach(mount: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| RootfsError::io("mount at", target)(e.into()))
}

/// What is at `source`, to be shown elsewhere.
pub(super) fn clone_tree(source: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, flags).map_err(|e| match e {
        rustix::io::Errno::NOENT => RootfsError::NoSource(source.to_owned()),
        e => RootfsError::io("mount", source)(e.into()),
    })?;
    set_attributes(&tree, SAFE, libc::AT_RECURSIVE as libc::c_uint).map_err(RootfsError::io("mount", source))?;
    Ok(tree)
}

/// mount_setattr(2), which rustix does not have.
pub(super) fn set_attributes(mount: &OwnedFd, attributes: MountAttrFlags, flags: libc::c_uint) -> std::io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        // Private: what is mounted here is nobody else's business.
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string and `attr` is a live struct mount_attr of the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as libc::c_uint | flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Opens the place of a mount below `root`, making it and what leads to it where missing.
fn make_place(root: &Path, destination: &Path, is_dir: bool) -> Result<OwnedFd> {
    let io = |action| RootfsError::io(action, destination);
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| RootfsError::io("open", root)(e.into()))?;
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    let look = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    if let Ok(place) = look(relative) {
        return Ok(place);
    }
    let mut made = PathBuf::new();
    let parents = relative.parent().unwrap_or(Path::new(""));
    for part in parents.components() {
        let parent = look(&made).map_err(|e| io("open")(e.into()))?;
        made.push(part);
        if look(&made).is_err() {
            rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))
                .map_err(|e| io("create")(e.into()))?;
        }
    }
    let parent = look(parents).map_err(|e| io("open")(e.into()))?;
    let name = relative.file_name().unwrap_or_default();
    if is_dir {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(|e| io("create")(e.into()))?;
    } else {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map_err(|e| io("create")(e.into()))?;
    }
    look(relative).map_err(|e| io("open")(e.into()))
}
