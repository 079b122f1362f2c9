//! An archive → files, each written beside its place and renamed.

use super::{Copied, CopyError};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, EntryType, Header};

/// Whose the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Owner {
    /// As the archive says.
    Same,
    /// Root's.
    Root,
    /// Ours.
    Ours,
}

/// Reads an archive to its end, and fails when it is none or has names that lead elsewhere.
pub(super) fn check(archive: &mut (impl Read + Seek)) -> Result<(), CopyError> {
    let bad = |e: std::io::Error| CopyError(format!("this is no tar archive: {e}"));
    {
        let mut entries = Archive::new(&mut *archive);
        let mut any = false;
        for entry in entries.entries().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            any = true;
            below(Path::new(OsStr::from_bytes(&entry.path_bytes())))?;
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(bad)?;
        }
        // An empty archive is two blocks of zeros.
        let rest = entries.into_inner();
        if !any && rest.stream_position().map_err(bad)? == 0 {
            return Err(bad(ErrorKind::UnexpectedEof.into()));
        }
    }
    archive.rewind().map_err(bad)
}

/// A name of an archive, relative to where it is unpacked.
fn below(name: &Path) -> Result<PathBuf, CopyError> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => return Err(CopyError(format!("the archive has {name:?}, with \"..\" in it"))),
            _ => {}
        }
    }
    Ok(path)
}

/// What the names of an archive mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// There is one thing in it, whose own name does not matter, as [`super::pack`] makes it.
    One,
    /// They are below a directory.
    Below,
}

/// Unpacks an archive: the one thing in it as `target`, or everything below the directory `target`.
pub(super) fn unpack(archive: &mut File, target: &Path, names: Names, owner: Owner) -> Result<Copied, CopyError> {
    let bad = |e: std::io::Error| CopyError(format!("cannot read the archive: {e}"));
    let one = names == Names::One;
    let mut copied = Copied::default();
    let mut dirs = Vec::new();
    for entry in Archive::new(archive).entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let name = below(Path::new(OsStr::from_bytes(&entry.path_bytes())))?;
        let rest: PathBuf = if one { name.components().skip(1).collect() } else { name };
        let host = if rest.as_os_str().is_empty() { target.to_owned() } else { target.join(rest) };
        let failed = |e: std::io::Error| CopyError::io("write", &host, &e);
        if !one && let Some(parent) = host.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let header = entry.header().clone();
        match header.entry_type() {
            EntryType::Directory => match host.metadata() {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(failed(ErrorKind::NotADirectory.into())),
                Err(_) => {
                    std::fs::create_dir(&host).map_err(failed)?;
                    dirs.push((host.clone(), header));
                }
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                copied.bytes += file(&host, &mut entry, &header, owner).map_err(failed)?;
            }
            EntryType::Symlink => {
                let link = entry.link_name_bytes().unwrap_or_default().into_owned();
                let beside = beside(&host);
                let make = || {
                    std::os::unix::fs::symlink(OsStr::from_bytes(&link), &beside)?;
                    own(&beside, &header, owner)?;
                    std::fs::rename(&beside, &host)
                };
                make().inspect_err(|_| drop(std::fs::remove_file(&beside))).map_err(failed)?;
            }
            EntryType::Link => {
                let first = entry.link_name_bytes().unwrap_or_default().into_owned();
                let first = target.join(below(Path::new(OsStr::from_bytes(&first)))?);
                let beside = beside(&host);
                let make = || std::fs::hard_link(&first, &beside).and_then(|()| std::fs::rename(&beside, &host));
                make().inspect_err(|_| drop(std::fs::remove_file(&beside))).map_err(failed)?;
            }
            // Devices and pipes mean nothing to a guest, and the rest is notes of the archiver.
            _ => {}
        }
    }
    // At the end: a directory that may not be written takes no files, and every file changes its time.
    for (dir, header) in dirs.iter().rev() {
        adorn(dir, header, owner).map_err(|e| CopyError::io("write", dir, &e))?;
    }
    Ok(copied)
}

fn beside(host: &Path) -> PathBuf {
    let name = host.file_name().unwrap_or_default().to_string_lossy();
    // A name may have 255 bytes.
    let short: String = name.chars().take(50).collect();
    host.with_file_name(format!(".{short}.cp{}", std::process::id()))
}

fn file(host: &Path, content: &mut impl Read, header: &Header, owner: Owner) -> std::io::Result<u64> {
    if host.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(ErrorKind::IsADirectory.into());
    }
    let beside = beside(host);
    let mut write = || {
        let mut file = File::create_new(&beside)?;
        let bytes = std::io::copy(content, &mut file)?;
        drop(file);
        adorn(&beside, header, owner)?;
        std::fs::rename(&beside, host)?;
        Ok(bytes)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// Mode, time and owner.
fn adorn(path: &Path, header: &Header, owner: Owner) -> std::io::Result<()> {
    own(path, header, owner)?;
    // Nothing that comes out of a container or goes into one runs as somebody else.
    std::fs::set_permissions(path, Permissions::from_mode(header.mode().unwrap_or(0o644) & 0o1777))?;
    let at = Timespec { tv_sec: header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), tv_nsec: 0 };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &Timestamps { last_access: at, last_modification: at },
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn own(path: &Path, header: &Header, owner: Owner) -> std::io::Result<()> {
    let id = |id: std::io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok());
    let (uid, gid) = match owner {
        Owner::Same => (id(header.uid()), id(header.gid())),
        Owner::Root => (Some(0), Some(0)),
        Owner::Ours => return Ok(()),
    };
    match lchown(path, uid, gid) {
        // Who is not root has only files of his own.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(()),
        done => done,
    }
}
