//! The tree that layers and what was written over them make together → an archive of all its files.

use super::entry::{self, Node};
use super::unpack::{open_archive, within_root};
use super::{Image, ImageError, Result, blobs};
use crate::store::{Store, StoreError};
use rustix::fs::OFlags;
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Writes the tree of these directories (topmost first) as an archive. Links that unpacking made relative are what the
/// layers of `image` say.
///
/// # Errors
/// When a file cannot be read, or the archive cannot be written.
pub(crate) fn export(store: &Store, dirs: &[PathBuf], image: Option<&Image>, out: impl Write) -> Result<()> {
    let originals = Originals { store, image, links: OnceCell::new() };
    let mut packer = Packer::new(out);
    walk(&mut packer, dirs, Path::new(""), &originals)?;
    packer.finish()?.flush().map_err(ImageError::ArchiveWrite)
}

fn walk(packer: &mut Packer<impl Write>, here: &[PathBuf], at: &Path, originals: &Originals<'_>) -> Result<()> {
    let mut names = BTreeSet::new();
    for dir in here {
        names.extend(names_in(dir)?);
    }
    for name in names {
        let path = at.join(&name);
        match entry::look(here, &name)? {
            Node::Dir(merged) => {
                if let Some(top) = merged.first() {
                    packer.dir(&path, &look_at(top)?)?;
                }
                walk(packer, &merged, &path, originals)?;
            }
            // The topmost directory that has the name has the file: what hides it would have hidden it above.
            Node::File(host) => {
                let meta = look_at(&host)?;
                if meta.is_file() {
                    packer.file(&path, &host, &meta)?;
                }
            }
            Node::Link { target, host } => packer.link(&path, originals.of(&path, &target)?, &look_at(&host)?)?,
            Node::Missing | Node::Blocked(_) => {}
        }
    }
    Ok(())
}

/// What the links of an image's layers said before they were unpacked. Unpacking makes absolute ones relative, so that
/// they mean the image's root; the layers' blobs still have them as they were.
struct Originals<'a> {
    store: &'a Store,
    image: Option<&'a Image>,
    /// Read when the first link is met.
    links: OnceCell<HashMap<PathBuf, Vec<PathBuf>>>,
}

impl Originals<'_> {
    /// What a link said that now says `target`.
    fn of<'t>(&'t self, path: &Path, target: &'t Path) -> Result<&'t Path> {
        let links = match self.links.get() {
            Some(links) => links,
            None => {
                let read = self.read()?;
                self.links.get_or_init(|| read)
            }
        };
        let dir = path.parent().unwrap_or(Path::new(""));
        // Only what becomes this very target: the link may have been replaced since.
        let fits = |original: &&PathBuf| within_root(dir, original) == target;
        Ok(links.get(path).and_then(|all| all.iter().find(fits)).map_or(target, PathBuf::as_path))
    }

    fn read(&self) -> Result<HashMap<PathBuf, Vec<PathBuf>>> {
        let mut links: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
        let mut dirs: Vec<PathBuf> = Vec::new();
        for layer in self.image.iter().flat_map(|image| &image.layers) {
            dirs.insert(0, blobs::layer_dir(self.store, &layer.chain_id)?);
            let blob = blobs::path(self.store, &layer.digest)?;
            let failed = || StoreError::io("read", &blob);
            let mut archive = match open_archive(layer, &blob) {
                Ok(archive) => tar::Archive::new(archive),
                // What is no archive has no links.
                Err(ImageError::LayerType { .. }) => continue,
                Err(error) => return Err(error),
            };
            for entry in archive.entries().map_err(failed())? {
                let entry = entry.map_err(failed())?;
                if entry.header().entry_type() != EntryType::Symlink {
                    continue;
                }
                let bytes = entry.link_name_bytes().unwrap_or_default();
                let target = Path::new(OsStr::from_bytes(&bytes)).to_owned();
                let name = entry.path_bytes();
                let name = Path::new(OsStr::from_bytes(&name));
                let (Some(dir), Some(leaf)) = (name.parent(), name.file_name()) else { continue };
                let dir = entry::resolve(&dirs, dir, true)?.path;
                if within_root(&dir, &target) != target {
                    links.entry(dir.join(leaf)).or_default().push(target);
                }
            }
        }
        Ok(links)
    }
}

/// Writes files into an archive. Paths are relative to the tree's root.
struct Packer<W: Write> {
    archive: tar::Builder<W>,
    /// Files with several names, and the first of them: `(device, inode)`.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Without root all files are ours, which inside means root's.
    as_root: bool,
}

impl<W: Write> Packer<W> {
    fn new(out: W) -> Self {
        let as_root = rustix::process::geteuid().is_root();
        Self { archive: tar::Builder::new(out), linked: HashMap::new(), as_root }
    }

    fn header(&self, kind: EntryType, meta: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode() & 0o7777);
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        let (uid, gid) = if self.as_root { (meta.uid(), meta.gid()) } else { (0, 0) };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(0);
        header
    }

    fn dir(&mut self, path: &Path, meta: &Metadata) -> Result<()> {
        let mut header = self.header(EntryType::Directory, meta);
        let mut name = path.as_os_str().to_owned();
        name.push("/");
        self.archive.append_data(&mut header, Path::new(&name), std::io::empty()).map_err(ImageError::ArchiveWrite)
    }

    fn link(&mut self, path: &Path, target: &Path, meta: &Metadata) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, meta);
        header.set_mode(0o777);
        self.archive.append_link(&mut header, path, target).map_err(ImageError::ArchiveWrite)
    }

    fn file(&mut self, path: &Path, host: &Path, meta: &Metadata) -> Result<()> {
        if meta.nlink() > 1 {
            let key = (meta.dev(), meta.ino());
            if let Some(first) = self.linked.get(&key).cloned() {
                let mut header = self.header(EntryType::Link, meta);
                return self.archive.append_link(&mut header, path, first).map_err(ImageError::ArchiveWrite);
            }
            self.linked.insert(key, path.to_owned());
        }
        let mut header = self.header(EntryType::Regular, meta);
        header.set_size(meta.len());
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits();
        let flags = i32::try_from(flags).unwrap_or(libc::O_NOFOLLOW);
        let file = File::options().read(true).custom_flags(flags).open(host).map_err(StoreError::io("read", host))?;
        let mut content = Content { file, left: meta.len(), error: None };
        let written = self.archive.append_data(&mut header, path, &mut content);
        if let Some(error) = content.error {
            return Err(StoreError::io("read", host)(error).into());
        }
        written.map_err(ImageError::ArchiveWrite)
    }

    /// Ends the archive, and gives what it was written to.
    fn finish(self) -> Result<W> {
        self.archive.into_inner().map_err(ImageError::ArchiveWrite)
    }
}

/// A file's content, as long as it was when it was looked at: a container may be writing to it. What it lost since is
/// zeroes.
struct Content {
    file: File,
    left: u64,
    error: Option<std::io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|b| !b.is_empty()) else { return Ok(0) };
        let n = match self.file.read(buffer) {
            Ok(0) => {
                buffer.fill(0);
                buffer.len()
            }
            Ok(n) => n,
            Err(error) => {
                let told = error.kind().into();
                self.error = Some(error);
                return Err(told);
            }
        };
        self.left = self.left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
        Ok(n)
    }
}

/// The names in a directory, sorted, so that the same tree is the same archive.
fn names_in(dir: &Path) -> Result<Vec<OsString>> {
    let read = || -> std::io::Result<Vec<_>> { std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect() };
    let mut names = read().map_err(StoreError::io("list", dir))?;
    names.sort();
    Ok(names)
}

fn look_at(path: &Path) -> Result<Metadata> {
    Ok(path.symlink_metadata().map_err(StoreError::io("look at", path))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::find_in_layers;
    use crate::image::tests::Fixture;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    /// The entries of an archive: names and what they say (a file's content, a link's target).
    fn entries(archive: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(archive);
        let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut said =
                entry.link_name_bytes().map(|b| String::from_utf8(b.into_owned()).unwrap()).unwrap_or_default();
            entry.read_to_string(&mut said).unwrap();
            (name, said)
        };
        archive.entries().unwrap().map(entry).collect()
    }

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn an_export_has_the_merged_tree_and_the_links_as_they_were() {
        let fixture = Fixture::new();
        fixture.file("etc/conf", "old");
        fixture.file("etc/gone", "x");
        std::fs::create_dir(fixture.context().join("links")).unwrap();
        symlink("/etc/conf", fixture.context().join("links/absolute")).unwrap();
        symlink("etc/conf", fixture.context().join("links/relative")).unwrap();
        fixture.file("Dockerfile", "FROM scratch\nCOPY etc /etc\nCOPY links /links\n");
        let image = crate::image::build::build(&fixture.store, &fixture.options(&["base"]), &mut ()).unwrap();
        let layers = fixture.images().layer_dirs(&image).unwrap();
        let upper = fixture.dir.join("upper");
        write(upper.join("etc/conf"), "new");
        mknodat(CWD, upper.join("etc/gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let dirs: Vec<PathBuf> = [upper].into_iter().chain(layers.clone()).collect();
        assert!(find_in_layers(&dirs, "/links/absolute").unwrap().is_some());
        assert!(matches!(entry::resolve(&layers, Path::new("/links/absolute"), false).unwrap().node,
            Node::Link { target, .. } if target == Path::new("../etc/conf")));

        let mut archive = Vec::new();
        export(&fixture.store, &dirs, Some(&image), &mut archive).unwrap();
        let found = entries(&archive);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["etc/", "etc/conf", "links/", "links/absolute", "links/relative"]);
        assert_eq!(found["etc/conf"], "new");
        assert_eq!((found["links/absolute"].as_str(), found["links/relative"].as_str()), ("/etc/conf", "etc/conf"));
    }
}
