//! The files of a layer → its blob. The same files give the same bytes: entries are sorted, owners are 0 unless an
//! instruction says another, and nothing of the machine or the moment gets in.

use super::changed::Listed;
use super::entry::{self, Node};
use crate::digest::Hashing;
use crate::store::StoreError;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// How the name of a deletion begins, and the name that says that a whole directory's former content is gone: OCI image
/// specification, layer.md, "Whiteouts".
const WHITEOUT: &str = ".wh.";
const OPAQUE_MARK: &str = ".wh..wh..opq";

/// Why something cannot be in a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Something cannot be put where it shall be.
    #[error("cannot put {from:?} at {to:?}: {reason}")]
    Placement {
        /// The source.
        from: PathBuf,
        /// The place in the image.
        to: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A directory cannot be made since something else is there.
    #[error("cannot make the directory {path:?} in the image: something that is no directory is in the way")]
    NotADirectory {
        /// Where.
        path: PathBuf,
    },
    /// A source cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer below cannot be looked into, or the new one not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    /// Wraps what the system said of reading a source; for `map_err`.
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }
}

type Result<T> = std::result::Result<T, LayerError>;

/// The files of a layer to be. Paths are relative to the image's root and lead through no links.
#[derive(Debug)]
pub(super) struct Plan {
    /// The layers below, topmost first.
    below: Vec<PathBuf>,
    /// The latest time that a file may bear.
    latest: Option<i64>,
    /// The mode that files and directories get, instead of their own.
    mode: Option<u32>,
    /// Whom what is put here belongs to: user and group.
    owner: (u32, u32),
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    what: What,
    mode: u32,
    mtime: u64,
    owner: (u32, u32),
}

#[derive(Debug, Clone)]
enum What {
    Dir,
    File {
        host: PathBuf,
        stamp: Stamp,
    },
    Link {
        target: PathBuf,
    },
    /// Another name of a file of this layer.
    Same {
        path: PathBuf,
    },
    /// It says that the layers below do not have this, in the archive's words (`.wh.`).
    Gone,
}

/// A file's identity, which no write leaves unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970.
    modified: i128,
    changed: i128,
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: time(meta.mtime(), meta.mtime_nsec()),
            changed: time(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// What tells the file from all others of this machine, now.
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether another write would give it other times: clocks of file systems step by up to 10 ms, and some by 2 s.
    pub fn is_settled(&self, now: i128) -> bool {
        let step: i128 = if self.changed % 1_000_000_000 == 0 { 2_000_000_000 } else { 20_000_000 };
        self.changed.max(self.modified).saturating_add(step) < now
    }

    /// Makes it seem older.
    #[cfg(test)]
    pub fn age(&mut self, nanoseconds: i128) {
        self.changed -= nanoseconds;
        self.modified -= nanoseconds;
    }
}

/// A finished blob.
#[derive(Debug)]
pub(super) struct Blob {
    pub digest: String,
    pub size: u64,
    /// The digest of the archive, uncompressed.
    pub diff_id: String,
    /// Whether every file was while it was written what it was when it was looked at.
    pub steady: bool,
}

impl Plan {
    pub fn new(below: Vec<PathBuf>, latest: Option<i64>) -> Self {
        Self { below, latest, mode: None, owner: (0, 0), entries: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this layer itself brings a directory there.
    pub fn has_dir(&self, path: &Path) -> bool {
        matches!(self.entries.get(path), Some(Entry { what: What::Dir, .. }))
    }

    /// The directories down to and with `path`. One that is in a layer below is repeated as it is there, since the
    /// topmost layer says what a directory is like; any other is new, for everybody to read.
    pub fn make_dirs(&mut self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().filter(|dir| *dir != Path::new("") && !self.has_dir(dir)).collect();
        for dir in missing.into_iter().rev() {
            if self.entries.contains_key(dir) {
                return Err(LayerError::NotADirectory { path: Path::new("/").join(dir) });
            }
            let (mode, mtime) = match entry::resolve(&self.below, dir, false)?.node {
                Node::Dir(merged) => {
                    let meta = merged.first().and_then(|host| host.symlink_metadata().ok());
                    meta.map_or((0o755, 0), |meta| (meta.mode(), meta.mtime()))
                }
                Node::Missing => (0o755, self.latest.unwrap_or(0)),
                _ => return Err(LayerError::NotADirectory { path: Path::new("/").join(dir) }),
            };
            self.put(dir, What::Dir, mode, mtime)?;
        }
        Ok(())
    }

    /// A directory with the attributes of one of the context.
    pub fn dir(&mut self, path: &Path, like: &Metadata) -> Result<()> {
        self.make_dirs(path)?;
        if path != Path::new("") {
            self.put(path, What::Dir, self.mode.unwrap_or(like.mode()), like.mtime())?;
        }
        Ok(())
    }

    /// A file, read from the host when the layer is written.
    pub fn file(&mut self, path: &Path, host: &Path, meta: &Metadata) -> Result<()> {
        self.place(path, host)?;
        let mode = self.mode.unwrap_or(meta.mode());
        self.put(path, What::File { host: host.to_owned(), stamp: Stamp::of(meta) }, mode, meta.mtime())
    }

    /// A symbolic link, copied as it is.
    pub fn link(&mut self, path: &Path, host: &Path, meta: &Metadata) -> Result<()> {
        self.place(path, host)?;
        let target = std::fs::read_link(host).map_err(LayerError::read(host))?;
        self.put(path, What::Link { target }, 0o777, meta.mtime())
    }

    /// A directory of an archive.
    pub fn own_dir(&mut self, path: &Path, mode: u32, mtime: i64) -> Result<()> {
        self.make_dirs(path)?;
        self.put(path, What::Dir, self.mode.unwrap_or(mode), mtime)
    }

    /// A file of an archive, whose content lies on the host.
    pub fn own_file(&mut self, path: &Path, host: &Path, meta: &Metadata, mode: u32, mtime: i64) -> Result<()> {
        self.place(path, host)?;
        let what = What::File { host: host.to_owned(), stamp: Stamp::of(meta) };
        self.put(path, what, self.mode.unwrap_or(mode), mtime)
    }

    /// A symbolic link of an archive.
    pub fn own_link(&mut self, path: &Path, target: &Path, mtime: i64) -> Result<()> {
        self.place(path, path)?;
        self.put(path, What::Link { target: target.to_owned() }, 0o777, mtime)
    }

    /// One more name of a file that was put here before.
    pub fn another_name(&mut self, path: &Path, first: &Path) -> Result<()> {
        self.place(path, path)?;
        let Some(entry) = self.entries.get(first).filter(|entry| !matches!(entry.what, What::Dir)) else {
            return Err(cannot_place(
                path,
                path,
                "it is a hard link to something that is not in the archive before it",
            ));
        };
        // Its content once more, since the order in which a layer is written is not that of the archive.
        self.entries.insert(path.to_owned(), entry.clone());
        Ok(())
    }

    /// Makes one file of the names that are one on the host (link(2)), once all of them are here.
    pub fn join_names(&mut self) {
        let mut first = HashMap::new();
        for (path, entry) in &mut self.entries {
            let What::File { stamp, .. } = &entry.what else { continue };
            match first.entry((stamp.id(), entry.mode, entry.owner)) {
                Vacant(free) => drop(free.insert(path.clone())),
                Occupied(taken) => entry.what = What::Same { path: PathBuf::clone(taken.get()) },
            }
        }
    }

    /// Makes way for something that is no directory.
    fn place(&mut self, path: &Path, host: &Path) -> Result<()> {
        self.make_dirs(path.parent().unwrap_or(path))?;
        if self.has_dir(path) || matches!(entry::resolve(&self.below, path, false)?.node, Node::Dir(_)) {
            return Err(cannot_place(host, path, "there is a directory, which would go with all that is in it"));
        }
        Ok(())
    }

    /// A directory as an overlay has it.
    pub(super) fn changed_dir(&mut self, path: &Path, meta: &Metadata) -> Result<()> {
        self.put(path, What::Dir, meta.mode(), meta.mtime())
    }

    /// Another name of a file that this layer brings.
    pub(super) fn same(&mut self, path: &Path, first: &Path, meta: &Metadata) -> Result<()> {
        self.put(path, What::Same { path: first.to_owned() }, meta.mode(), meta.mtime())
    }

    /// A file or link as an overlay has it, which may hide a directory of the layers below.
    pub(super) fn changed(&mut self, path: &Path, host: &Path, meta: &Metadata) -> Result<()> {
        let what = match meta.is_symlink() {
            true => What::Link { target: std::fs::read_link(host).map_err(LayerError::read(host))? },
            false => What::File { host: host.to_owned(), stamp: Stamp::of(meta) },
        };
        self.put(path, what, if meta.is_symlink() { 0o777 } else { meta.mode() }, meta.mtime())
    }

    /// A whiteout: the layers below have this no more.
    pub(super) fn gone(&mut self, path: &Path) {
        let mut mark = OsString::from(WHITEOUT);
        mark.push(path.file_name().unwrap_or_default());
        self.mark(path.with_file_name(mark));
    }

    /// What the layers below have in this directory is there no more.
    pub(super) fn opaque(&mut self, dir: &Path) {
        self.mark(dir.join(OPAQUE_MARK));
    }

    fn mark(&mut self, path: PathBuf) {
        // It must tell nothing of the moment, which for a deletion nobody asks about.
        self.entries.insert(path, Entry { what: What::Gone, mode: 0o644, mtime: 0, owner: (0, 0) });
    }

    fn put(&mut self, path: &Path, what: What, mode: u32, mtime: i64) -> Result<()> {
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT.as_bytes())) {
            let reason = "in an image's layer, a name that begins with \".wh.\" means that something is deleted";
            return Err(cannot_place(path, path, reason));
        }
        let mtime = mtime.min(self.latest.unwrap_or(i64::MAX));
        let mtime = u64::try_from(mtime).unwrap_or(0);
        let entry = Entry { what, mode: mode & 0o7777, mtime, owner: self.owner };
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Everything that the layer says, path by path, in their order; of a mark it is the path that it speaks of.
    pub(super) fn listed(&self) -> impl Iterator<Item = (PathBuf, Listed)> {
        self.entries.iter().map(|(path, entry)| {
            let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
            match (&entry.what, name.strip_prefix(WHITEOUT.as_bytes())) {
                (What::Gone, _) if name == OPAQUE_MARK.as_bytes() => {
                    (path.parent().map_or_else(PathBuf::new, Path::to_owned), Listed::Emptied)
                }
                (What::Gone, Some(name)) => (path.with_file_name(OsStr::from_bytes(name)), Listed::Gone),
                _ => (path.clone(), Listed::There),
            }
        })
    }

    /// Whether it brings something at this path.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// Whom what is put here from now on belongs to, and not to 0.
    pub fn set_owner(&mut self, owner: (u32, u32)) {
        self.owner = owner;
    }

    /// The mode that files and directories get from now on, and not their own.
    pub fn set_mode(&mut self, mode: u32) {
        self.mode = Some(mode);
    }

    /// What the layer will be, but for the times of its files: those of the context change with every checkout.
    /// `content` gives the digest of a file.
    pub fn digest(&self, content: impl Fn(&Path, &Stamp) -> Result<String>) -> Result<String> {
        let mut all = Hashing::new(std::io::sink());
        let mut add = |bytes: &[u8]| -> std::io::Result<()> {
            // Its length first, so that no two lists of parts look the same.
            all.write_all(&bytes.len().to_le_bytes())?;
            all.write_all(bytes)
        };
        for (path, entry) in &self.entries {
            let (kind, what): (u8, Cow<'_, [u8]>) = match &entry.what {
                What::Dir => (b'd', Cow::Borrowed(&[])),
                What::File { host, stamp } => (b'f', Cow::Owned(content(host, stamp)?.into_bytes())),
                What::Link { target } => (b'l', Cow::Borrowed(target.as_os_str().as_bytes())),
                What::Same { path } => (b'h', Cow::Borrowed(path.as_os_str().as_bytes())),
                What::Gone => (b'w', Cow::Borrowed(&[])),
            };
            let attributes = format!("{:o} {} {}", entry.mode, entry.owner.0, entry.owner.1);
            let parts = [&[kind], path.as_os_str().as_bytes(), attributes.as_bytes(), &what];
            parts.into_iter().try_for_each(&mut add).map_err(LayerError::read(path))?;
        }
        Ok(all.finish().1)
    }

    /// Writes the layer's blob.
    pub fn write(&self, blob: &Path) -> Result<Blob> {
        let failed = || StoreError::io("write", blob);
        let file = File::create_new(blob).map_err(failed())?;
        // Neither a time nor a file's name goes into the compressed form.
        let compressed = GzEncoder::new(Hashing::new(file), Compression::default());
        let (archive, steady) = self.archive(Hashing::new(compressed), blob)?;
        let (compressed, diff_id, _) = archive.finish();
        let (_, digest, size) = compressed.finish().map_err(failed())?.finish();
        Ok(Blob { digest, size, diff_id, steady })
    }

    /// Writes the files as an archive; `to` is what it is called in messages. Gives the writer back, and whether every file
    /// was what it was when it was looked at.
    pub fn archive<W: Write>(&self, out: W, to: &Path) -> Result<(W, bool)> {
        let mut archive = tar::Builder::new(out);
        let mut steady = true;
        for (path, entry) in &self.entries {
            steady &= append(&mut archive, path, entry, to)?;
        }
        let out = archive.into_inner().map_err(StoreError::io("write", to))?;
        Ok((out, steady))
    }

    /// Puts the files into a directory.
    pub fn write_into(&self, to: &Path) -> Result<()> {
        let make = |host: &Path, entry: &Entry| -> std::io::Result<()> {
            let is_dir = host.symlink_metadata().map(|meta| meta.is_dir());
            if !matches!(entry.what, What::Dir) && is_dir.is_ok_and(|is_dir| !is_dir) {
                std::fs::remove_file(host)?;
            }
            match &entry.what {
                What::Dir if host.is_dir() => {}
                What::Dir => std::fs::create_dir(host)?,
                What::Link { target } => return std::os::unix::fs::symlink(target, host),
                What::Same { path } => return std::fs::hard_link(to.join(path), host),
                What::Gone => return Ok(()),
                What::File { host: from, .. } => {
                    std::fs::copy(from, host)?;
                    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.mtime);
                    File::options().append(true).open(host)?.set_modified(time)?;
                }
            }
            // Whoever asked for the files must be able to enter and remove them.
            let own = if matches!(entry.what, What::Dir) { 0o700 } else { 0o600 };
            std::fs::set_permissions(host, std::fs::Permissions::from_mode(entry.mode & 0o777 | own))
        };
        std::fs::create_dir_all(to).map_err(StoreError::io("create", to))?;
        for (path, entry) in &self.entries {
            let host = to.join(path);
            make(&host, entry).map_err(StoreError::io("write", &host))?;
        }
        Ok(())
    }
}

/// Writes one entry. Whether its file is what it was when it was looked at.
fn append(archive: &mut tar::Builder<impl Write>, path: &Path, entry: &Entry, blob: &Path) -> Result<bool> {
    let failed = || StoreError::io("write", blob);
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(entry.mtime);
    header.set_uid(entry.owner.0.into());
    header.set_gid(entry.owner.1.into());
    header.set_size(0);
    match &entry.what {
        What::Dir => {
            header.set_entry_type(EntryType::Directory);
            let mut path = path.as_os_str().to_owned();
            path.push("/");
            archive.append_data(&mut header, Path::new(&path), std::io::empty()).map_err(failed())?;
        }
        What::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            archive.append_link(&mut header, path, target).map_err(failed())?;
        }
        What::Same { path: first } => {
            header.set_entry_type(EntryType::Link);
            archive.append_link(&mut header, path, first).map_err(failed())?;
        }
        What::Gone => {
            header.set_entry_type(EntryType::Regular);
            archive.append_data(&mut header, path, std::io::empty()).map_err(failed())?;
        }
        What::File { host, stamp } => {
            let size = stamp.size;
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            // The last component was no link when it was looked at, and must not have become one.
            let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(host);
            let file = file.map_err(LayerError::read(host))?;
            let mut content = Watched { inner: (&file).take(size), error: None };
            let written = archive.append_data(&mut header, path, &mut content);
            if let Some(error) = content.error {
                return Err(LayerError::read(host)(error));
            }
            written.map_err(failed())?;
            if content.inner.limit() > 0 {
                let shrunk = std::io::Error::new(ErrorKind::UnexpectedEof, "it became shorter while it was copied");
                return Err(LayerError::read(host)(shrunk));
            }
            let now = file.metadata().map_err(LayerError::read(host))?;
            return Ok(Stamp::of(&now) == *stamp);
        }
    }
    Ok(true)
}

/// Tells errors of reading from errors of writing, which copying mixes up.
struct Watched<R> {
    inner: R,
    error: Option<std::io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let told = error.kind().into();
            self.error = Some(error);
            told
        })
    }
}

fn cannot_place(from: &Path, to: &Path, reason: &'static str) -> LayerError {
    let from = from.file_name().unwrap_or(OsStr::new("")).into();
    LayerError::Placement { from, to: Path::new("/").join(to), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;

    /// Path, type, mode, time and content.
    type Found = (String, EntryType, u32, u64, String);

    /// The entries of a plan's layer, and its digest.
    fn entries(plan: &Plan, blob: &Path) -> (Vec<Found>, String) {
        let _ = std::fs::remove_file(blob);
        let made = plan.write(blob).unwrap();
        assert_eq!(std::fs::metadata(blob).unwrap().len(), made.size);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(blob).unwrap()));
        let entry = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            (name, header.entry_type(), header.mode().unwrap(), header.mtime().unwrap(), content)
        };
        (archive.entries().unwrap().map(entry).collect(), made.digest)
    }

    #[test]
    fn layers_are_sorted_and_the_same_each_time() {
        let dir = temp_dir();
        let file = dir.join("f");
        std::fs::write(&file, "hi").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let meta = file.metadata().unwrap();
        let below = dir.join("below");
        std::fs::create_dir_all(below.join("tmp")).unwrap();
        std::fs::set_permissions(below.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let long = format!("new/{}", "n".repeat(120));
        let plan = |latest, reversed: bool| {
            let mut plan = Plan::new(vec![below.clone()], latest);
            let mut paths = ["z", "tmp/f", &long];
            if reversed {
                paths.reverse();
            }
            for path in paths {
                plan.file(Path::new(path), &file, &meta).unwrap();
            }
            plan
        };
        let (found, digest) = entries(&plan(None, false), &dir.join("blob"));
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["new/", &long, "tmp/", "tmp/f", "z"]);
        assert_eq!(found[0].1, EntryType::Directory);
        assert_eq!((found[0].2, found[0].3), (0o755, 0));
        assert_eq!(found[2].2, 0o1777);
        assert_eq!(found[4], ("z".to_owned(), EntryType::Regular, 0o640, 500, "hi".to_owned()));
        assert_eq!(entries(&plan(None, true), &dir.join("blob")).1, digest);
        let (found, _) = entries(&plan(Some(100), false), &dir.join("blob"));
        assert!(found.iter().all(|entry| entry.3 == 100), "{found:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_cannot_be_in_a_layer_is_refused() {
        let dir = temp_dir();
        std::fs::create_dir_all(dir.join("below/d")).unwrap();
        std::fs::write(dir.join("f"), "").unwrap();
        let meta = dir.join("f").metadata().unwrap();
        let mut plan = Plan::new(vec![dir.join("below")], None);
        plan.make_dirs(Path::new("e")).unwrap();
        for (path, words) in [(".wh.x", "deleted"), ("d", "there is a directory"), ("e", "there is a directory")] {
            let error = plan.file(Path::new(path), &dir.join("f"), &meta).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        plan.file(Path::new("g"), &dir.join("f"), &meta).unwrap();
        let error = plan.make_dirs(Path::new("g/h")).unwrap_err().to_string();
        assert!(error.contains("in the way"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
