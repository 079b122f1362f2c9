//! An archive → a directory, never outside of it, whatever the archive says.
//!
//! The directory is ours alone while it is filled, so nothing changes between a look and what follows from it. Every
//! name is walked from the directory's root, one component after the other; a link on the way is followed as the
//! image's root would have it, and the last component is never followed. Reading order, names and attributes follow
//! the OCI image specification, layer.md.

use crate::digest::Hashing;
use crate::image::entry::{self, MOST_LINKS, Node};
use crate::image::unpack::Below;
use crate::image::unpack::limits::{DIRECTORY_NAMES, Gauge, Limits, PATH};
use crate::store::StoreError;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// As much of a file is copied at once.
const PIECE: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("its archive cannot be read: {0}")]
    Archive(std::io::Error),
    #[error("entry {name:?} {reason}")]
    Entry { name: String, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, Error>;

/// Unpacks an archive into the new directory `root`, and gives the digest of the archive.
pub(super) fn unpack(archive: impl Read, below: &mut Below<'_>, root: &Path, limits: Limits) -> Result<String> {
    make_dir(root)?;
    let as_root = rustix::process::geteuid().is_root();
    let mut target = Target {
        root,
        below,
        stack: Vec::new(),
        as_root,
        limits,
        made: 0,
        written: 0,
        names: 0,
        dirs: BTreeMap::new(),
        piece: vec![0; PIECE],
    };
    let (gauge, phase) = Gauge::new(Hashing::new(archive), limits);
    let mut archive = tar::Archive::new(gauge);
    let mut entries = archive.entries().map_err(Error::Archive)?;
    loop {
        phase.headers();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(Error::Archive)?;
        phase.content();
        target.add(&mut entry)?;
        // What nobody took is no header of the next one.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(Error::Archive)?;
    }
    target.finish()?;
    // The digest is that of the whole archive, and what follows its end mark belongs to it.
    phase.content();
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(Error::Archive)?;
    Ok(rest.into_inner().finish().1)
}

/// The directory that is being filled.
struct Target<'a> {
    root: &'a Path,
    /// The layers below, which may be under way themselves.
    below: &'a mut Below<'a>,
    /// The image as it is so far: this directory on top of the layers below. Empty until somebody asks.
    stack: Vec<PathBuf>,
    as_root: bool,
    limits: Limits,
    /// How many files, directories and links there are so far.
    made: u64,
    /// How many bytes were written: a sparse file is short in the archive and long here.
    written: u64,
    /// How many bytes the directories' names take.
    names: usize,
    /// The directories made so far and what they shall be. Set at the end: a directory that we may not write would
    /// take no files, and every file changes its directory's time.
    dirs: BTreeMap<PathBuf, Attributes>,
    /// Where a piece of a file is while it is copied.
    piece: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    mtime: i64,
    owner: (u32, u32),
}

impl Attributes {
    fn of_entry(header: &tar::Header) -> Self {
        let id = |id: std::io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        Self {
            mode: drop_setuid(header.mode().unwrap_or(0o644)),
            mtime: header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0),
            owner: (id(header.uid()), id(header.gid())),
        }
    }

    fn of_dir(meta: &Metadata) -> Self {
        Self { mode: drop_setuid(meta.mode()), mtime: meta.mtime(), owner: (meta.uid(), meta.gid()) }
    }
}

/// Nothing of an image is ever executed by the host, least of all as somebody else.
fn drop_setuid(mode: u32) -> u32 {
    mode & 0o1777
}

impl Target<'_> {
    fn add(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |reason: String| Error::Entry { name: name.clone(), reason };
        let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let attributes = Attributes::of_entry(entry.header());
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        if let Some(length) =
            [Some(entry.path_bytes()), entry.link_name_bytes()].iter().flatten().map(|n| n.len()).max()
            && length > PATH
        {
            let shown: String = name.chars().take(40).collect();
            let reason = format!("has a name or a link of {length} bytes, and {PATH} is the most");
            return Err(Error::Entry { name: format!("{shown}…"), reason });
        }
        self.count().map_err(refuse_with(&refuse))?;
        let Some((parent, leaf)) = self.place(&path).map_err(refuse_with(&refuse))? else {
            // The root itself. Its attributes are the runtime's: a root that cannot be entered helps nobody.
            return Ok(());
        };
        if leaf.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, leaf.as_bytes()).map_err(refuse_with(&refuse));
        }
        let path = parent.join(&leaf);
        let host = self.root.join(&path);
        let done = match kind {
            EntryType::Directory => return self.dir(&path, attributes).map_err(refuse_with(&refuse)),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.clear(&path)?;
                self.file(&host, attributes, entry)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = within_root(&parent, Path::new(OsStr::from_bytes(&target)));
                self.clear(&path)?;
                std::os::unix::fs::symlink(target, &host).and_then(|()| self.adorn_link(&host, attributes))
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.link_target(&target).map_err(refuse_with(&refuse))?;
                // A link to itself is there already, and clearing its place would lose it.
                if target == host {
                    return Ok(());
                }
                self.clear(&path)?;
                std::fs::hard_link(target, &host)
            }
            // Devices and pipes mean nothing to a guest, and the rest is notes of the archiver.
            _ => return Ok(()),
        };
        done.map_err(|e| match e.kind() {
            // What reading the archive gives, as against the system's own errors.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
                refuse(format!("cannot be unpacked: {e}"))
            }
            _ => StoreError::io("unpack", host)(e).into(),
        })
    }

    /// One thing more in the layer.
    fn count(&mut self) -> std::result::Result<(), Trouble> {
        self.made += 1;
        match self.made > self.limits.entries {
            true => Err(Trouble::Refused(format!("is too much: {}", self.limits.too_many_entries()))),
            false => Ok(()),
        }
    }

    /// Where an entry goes: the directory, made if missing, relative to the root and without links, and the name in
    /// it. `None` is the root itself.
    fn place(&mut self, path: &Path) -> std::result::Result<Option<(PathBuf, OsString)>, Trouble> {
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(Trouble::Refused("has \"..\" in its name".to_owned()));
        }
        // An absolute name is taken from the layer's root, as other unpackers do.
        let mut ahead = Vec::new();
        entry::push_components(&mut ahead, path);
        if ahead.is_empty() {
            return Ok(None);
        }
        let leaf = ahead.remove(0);
        let (mut at, mut links) = (PathBuf::new(), 0);
        while let Some(name) = ahead.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let Some(link) = self.enter(&next)? else {
                at = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(Trouble::Refused(format!("goes through too many links, the last of them {next:?}")));
            }
            if link.is_absolute() {
                at = PathBuf::new();
            }
            entry::push_components(&mut ahead, &link);
        }
        Ok(Some((at, leaf)))
    }

    /// Sees to it that there is a directory, or tells the link that is there instead.
    fn enter(&mut self, path: &Path) -> std::result::Result<Option<PathBuf>, Trouble> {
        let host = self.root.join(path);
        match host.symlink_metadata() {
            Ok(meta) if meta.is_dir() => Ok(None),
            Ok(meta) if meta.is_symlink() => Ok(Some(std::fs::read_link(&host).map_err(StoreError::io("read", host))?)),
            Ok(meta) if entry::is_whiteout(&meta) => {
                self.dir(path, IMPLIED)?;
                Ok(None)
            }
            Ok(_) => Err(Trouble::Refused(format!("goes through {path:?}, which is no directory"))),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Not in this layer: it is what it is below, since making it anew would change it for the whole image.
                let attributes = match entry::resolve(self.stack()?, path, false)?.node {
                    Node::Link { target, .. } => return Ok(Some(target)),
                    Node::Dir(merged) => merged.first().and_then(|dir| dir.symlink_metadata().ok()),
                    _ => None,
                };
                self.dir(path, attributes.as_ref().map_or(IMPLIED, Attributes::of_dir))?;
                Ok(None)
            }
            Err(e) => Err(StoreError::io("look at", host)(e).into()),
        }
    }

    /// The directories of the image, topmost first. What this layer brings itself is found without those below.
    fn stack(&mut self) -> std::result::Result<&[PathBuf], Trouble> {
        if self.stack.is_empty() {
            let below =
                (self.below)().ok_or_else(|| Trouble::Refused("lies on a layer that is not there".to_owned()))?;
            self.stack.push(self.root.to_owned());
            self.stack.extend(below);
        }
        Ok(&self.stack)
    }

    fn dir(&mut self, path: &Path, attributes: Attributes) -> std::result::Result<(), Trouble> {
        let host = self.root.join(path);
        let there = host.symlink_metadata().ok();
        if !there.as_ref().is_some_and(Metadata::is_dir) {
            self.clear(path)?;
            self.count()?;
            make_dir(&host)?;
            if there.is_some_and(|meta| entry::is_whiteout(&meta)) {
                make_opaque(&host)?;
            }
        }
        if self.dirs.insert(path.to_owned(), attributes).is_none() {
            self.names = self.names.saturating_add(path.as_os_str().len());
        }
        match self.names > DIRECTORY_NAMES {
            true => {
                Err(Trouble::Refused(format!("is too much: the directories' names take over {DIRECTORY_NAMES} bytes")))
            }
            false => Ok(()),
        }
    }

    fn file(&mut self, host: &Path, attributes: Attributes, content: &mut impl Read) -> std::io::Result<()> {
        // The name was cleared, and this would not follow a link.
        let mut file = File::create_new(host)?;
        let mut length = 0_u64;
        loop {
            let read = match content.read(&mut self.piece) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            let Some(piece) = self.piece.get(..read).filter(|piece| !piece.is_empty()) else { break };
            let read = u64::try_from(read).unwrap_or(u64::MAX);
            self.written = self.written.saturating_add(read);
            if self.written > self.limits.bytes {
                return Err(std::io::Error::new(ErrorKind::InvalidData, self.limits.too_many_bytes()));
            }
            file.write_all(piece)?;
            length = length.saturating_add(read);
        }
        if self.as_root {
            unless_unmapped(std::os::unix::fs::fchown(&file, Some(attributes.owner.0), Some(attributes.owner.1)))?;
        }
        file.set_permissions(Permissions::from_mode(attributes.mode & 0o777))?;
        Ok(rustix::fs::futimens(&file, &times(attributes.mtime))?)
    }

    fn adorn_link(&self, host: &Path, attributes: Attributes) -> std::io::Result<()> {
        if self.as_root {
            unless_unmapped(std::os::unix::fs::lchown(host, Some(attributes.owner.0), Some(attributes.owner.1)))?;
        }
        Ok(rustix::fs::utimensat(CWD, host, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Where a hard link's target is on the host: something that this archive brought earlier.
    fn link_target(&mut self, name: &[u8]) -> std::result::Result<PathBuf, Trouble> {
        let shown = String::from_utf8_lossy(name);
        let refused = |why: &str| Trouble::Refused(format!("is a hard link to {shown:?}, which {why}"));
        let place = self.place(Path::new(OsStr::from_bytes(name)))?;
        let (parent, leaf) = place.ok_or_else(|| refused("is the root"))?;
        let host = self.root.join(parent).join(leaf);
        match host.symlink_metadata() {
            Ok(meta) if meta.is_file() || meta.is_symlink() => Ok(host),
            Ok(_) => Err(refused("is no file")),
            Err(_) => Err(refused("is not in this layer")),
        }
    }

    /// `.wh.NAME` deletes NAME of the layers below; `.wh..wh..opq` deletes all that they have in this directory.
    fn whiteout(&mut self, parent: &Path, mark: &[u8]) -> std::result::Result<(), Trouble> {
        if mark == OPAQUE_MARK {
            return Ok(make_opaque(&self.root.join(parent))?);
        }
        let name = mark.strip_prefix(WHITEOUT).unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            // Notes of aufs, for which whiteouts were invented.
            return Ok(());
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(Trouble::Refused("deletes nothing that has a name".to_owned()));
        }
        let host = self.root.join(parent).join(OsStr::from_bytes(name));
        match host.symlink_metadata() {
            // A whiteout speaks of the layers below, so what this layer brings itself stays.
            Ok(meta) if meta.is_dir() => Ok(make_opaque(&host)?),
            Ok(_) => Ok(()),
            // Linux lets anybody make this one device (since 5.8): it opens nothing.
            Err(_) => rustix::fs::mknodat(CWD, &host, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|e| StoreError::io("create the whiteout", host)(e.into()).into()),
        }
    }

    /// Takes away what is at this place: the later entry wins.
    fn clear(&mut self, path: &Path) -> std::result::Result<(), StoreError> {
        let host = self.root.join(path);
        match host.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {
                // Paths are ordered by their components, so what is below one stands behind it.
                let below: Vec<PathBuf> = self
                    .dirs
                    .range(path.to_owned()..)
                    .map(|(dir, _)| dir)
                    .take_while(|d| d.starts_with(path))
                    .cloned()
                    .collect();
                for dir in below {
                    self.names = self.names.saturating_sub(dir.as_os_str().len());
                    self.dirs.remove(&dir);
                }
                std::fs::remove_dir_all(&host).map_err(StoreError::io("replace", host))
            }
            Ok(_) => std::fs::remove_file(&host).map_err(StoreError::io("replace", host)),
            Err(_) => Ok(()),
        }
    }

    /// Gives the directories their attributes, the deepest first.
    fn finish(&self) -> std::result::Result<(), StoreError> {
        let mut all: Vec<_> = self.dirs.iter().collect();
        all.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, attributes) in all {
            let host = self.root.join(path);
            let set = || -> std::io::Result<()> {
                if self.as_root {
                    let (uid, gid) = attributes.owner;
                    unless_unmapped(std::os::unix::fs::lchown(&host, Some(uid), Some(gid)))?;
                }
                rustix::fs::utimensat(CWD, &host, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
                std::fs::set_permissions(&host, Permissions::from_mode(attributes.mode))
            };
            set().map_err(StoreError::io("unpack", &host))?;
        }
        Ok(())
    }
}

/// A directory that no entry describes.
const IMPLIED: Attributes = Attributes { mode: 0o755, mtime: 0, owner: (0, 0) };

/// What stops an entry: the store, or the entry itself, which is named by whoever knows its name.
enum Trouble {
    Store(StoreError),
    Refused(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn refuse_with(refuse: &impl Fn(String) -> Error) -> impl Fn(Trouble) -> Error {
    move |trouble| match trouble {
        Trouble::Store(error) => Error::Store(error),
        Trouble::Refused(reason) => refuse(reason),
    }
}

/// A new directory that we can fill, whatever the umask.
fn make_dir(host: &Path) -> std::result::Result<(), StoreError> {
    let make = || {
        std::fs::create_dir(host)?;
        std::fs::set_permissions(host, Permissions::from_mode(0o755))
    };
    make().map_err(StoreError::io("create", host))
}

/// Marks a directory opaque for whoever mounts it: as root, without, or first one and then the other.
fn make_opaque(host: &Path) -> std::result::Result<(), StoreError> {
    let mark = |name| rustix::fs::lsetxattr(host, name, b"y", XattrFlags::empty());
    let [trusted, user] = entry::OPAQUE.map(mark);
    trusted.or(user).map_err(|e| StoreError::io("mark as opaque", host)(e.into()))
}

/// The target of a link in `dir`, meaning the same place when looked up beneath the image's root and not from the
/// host's: an absolute one becomes relative, and one that climbs past the root stops there.
pub(in crate::image) fn within_root(dir: &Path, target: &Path) -> PathBuf {
    let depth = dir.components().count();
    let mut inner = target.components().peekable();
    let mut climbs = if target.is_absolute() { depth } else { 0 };
    while let Some(Component::RootDir | Component::CurDir | Component::ParentDir) = inner.peek() {
        if inner.next() == Some(Component::ParentDir) {
            climbs += 1;
        }
    }
    let mut path: PathBuf = std::iter::repeat_n("..", climbs.min(depth)).collect();
    path.extend(inner);
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

/// In a user namespace root may lack an owner for a number, or the right to give files away; then the files are ours.
fn unless_unmapped(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(()),
        other => other,
    }
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
