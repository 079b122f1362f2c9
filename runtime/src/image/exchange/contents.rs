//! An archive → files in a scratch directory, each with its digest. The archive's names are never used as paths.

use super::BLOBS;
use crate::digest::{self, Hashing};
use crate::image::unpack::limits::{Gauge, Limits, PATH};
use crate::image::{ImageError, Result, packed};
use crate::store::{Scratch, StoreError};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// The most files that an archive of images may have: a layer is a few files, and an image has at most 127 layers.
const MOST: usize = 100_000;
/// The largest index, manifest or config, in bytes; registries have the same limit.
const LARGEST_JSON: u64 = 4 << 20;
/// As many links as one name may go through.
const MOST_LINKS: usize = 8;

/// The files of an archive.
#[derive(Debug)]
pub(super) struct Contents {
    files: BTreeMap<String, Member>,
    /// Docker once wrote a layer that two images share as a link.
    links: BTreeMap<String, String>,
}

/// One file of an archive.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Where it is now.
    pub path: PathBuf,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

pub(super) fn bad(reason: impl Into<String>) -> ImageError {
    ImageError::BadArchive { reason: reason.into() }
}

impl Contents {
    /// Reads an archive, compressed or not, to its end.
    pub fn read(archive: impl Read, scratch: &Scratch) -> Result<Self> {
        let mut archive = BufReader::with_capacity(1 << 16, archive);
        if archive.fill_buf().map_err(ImageError::ArchiveRead)?.is_empty() {
            return Err(bad("it is empty: name a file with -i, or write one to standard input"));
        }
        let archive = packed::unpacked(archive).map_err(ImageError::ArchiveRead)?;
        Self::unpack(BufReader::with_capacity(1 << 16, archive), scratch, Limits::of_environment()?)
    }

    fn unpack(archive: impl Read, scratch: &Scratch, limits: Limits) -> Result<Self> {
        let mut contents = Self { files: BTreeMap::new(), links: BTreeMap::new() };
        let (gauge, phase) = Gauge::new(archive, limits);
        let mut archive = tar::Archive::new(gauge);
        // What the archive's reader says may have pieces of the file in it.
        let no_tar = |e: std::io::Error| {
            let words: String = e.to_string().chars().take_while(|c| !c.is_control()).take(120).collect();
            bad(format!("it is no tar archive, or it is cut off: {words}"))
        };
        let mut entries = archive.entries().map_err(no_tar)?;
        loop {
            phase.headers();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(no_tar)?;
            phase.content();
            contents.add(&mut entry, scratch)?;
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(no_tar)?;
        }
        // Whoever writes to us through a pipe must not find it closed before its last zeroes.
        phase.content();
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(no_tar)?;
        Ok(contents)
    }

    fn add(&mut self, entry: &mut tar::Entry<'_, impl Read>, scratch: &Scratch) -> Result<()> {
        let count = self.files.len() + self.links.len();
        if count >= MOST || entry.path_bytes().len() > PATH {
            return Err(bad(format!("it has more than {MOST} files, or one with a name of more than {PATH} bytes")));
        }
        let bytes = entry.path_bytes().into_owned();
        let name = plain_name(Path::new(""), &String::from_utf8_lossy(&bytes));
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let path = scratch.path().join(format!("member-{count}"));
                let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
                let mut file = Hashing::new(file);
                std::io::copy(entry, &mut file).map_err(|e| match e.raw_os_error() {
                    // The system's own errors are of writing, or of reading what the user has named.
                    Some(_) => StoreError::io("unpack", &path)(e).into(),
                    None => bad(format!("{name} cannot be read: {e}")),
                })?;
                let (_, digest, size) = file.finish();
                if size != entry.size() {
                    return Err(bad(format!("it is cut off in the middle of {name}")));
                }
                if let Some(hex) = name.strip_prefix(BLOBS)
                    && digest::hex(&digest) != Some(hex)
                {
                    return Err(bad(format!("the content of {name} has the digest {digest}")));
                }
                self.links.remove(&name);
                self.files.insert(name, Member { path, digest, size });
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target);
                // A hard link's target is told from the archive's root, a symbolic one's from where the link is.
                let dir = match entry.header().entry_type() {
                    EntryType::Symlink => Path::new(&name).parent().unwrap_or(Path::new("")),
                    _ => Path::new(""),
                };
                let target = plain_name(dir, &target);
                self.files.remove(&name);
                self.links.insert(name, target);
            }
            _ => {}
        }
        Ok(())
    }

    /// The file of this name.
    pub fn get(&self, name: &str) -> Option<&Member> {
        let mut name = plain_name(Path::new(""), name);
        for _ in 0..MOST_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return self.files.get(&name),
            }
        }
        None
    }

    /// The blob of this digest.
    pub fn blob(&self, digest: &str) -> Option<&Member> {
        self.get(&format!("{BLOBS}{}", digest::hex(digest)?))
    }

    /// A few of the names, for a message.
    pub fn some_names(&self) -> String {
        let some: Vec<&str> = self.files.keys().map(String::as_str).take(5).collect();
        match some.as_slice() {
            [] => "no file at all".to_owned(),
            some if some.len() < self.files.len() => format!("{}, …", some.join(", ")),
            some => some.join(", "),
        }
    }
}

/// A name without `.`, `..` and slashes that mean nothing, from the archive's root.
fn plain_name(dir: &Path, name: &str) -> String {
    let mut clean = PathBuf::new();
    for component in dir.join(name).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean.to_string_lossy().into_owned()
}

impl Member {
    /// The file's bytes; for what is JSON, and so is small.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        if self.size > LARGEST_JSON {
            return Err(bad(format!("{name} has {} bytes, and {LARGEST_JSON} is the most for its kind", self.size)));
        }
        Ok(std::fs::read(&self.path).map_err(StoreError::io("read", &self.path))?)
    }

    /// The file as JSON of a shape.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(name)?).map_err(|e| bad(format!("{name} is not what was expected: {e}")))
    }

    /// The first bytes, which tell how a file is compressed.
    pub fn magic(&self) -> Result<[u8; 4]> {
        let mut magic = Vec::with_capacity(4);
        let read = File::open(&self.path).and_then(|file| file.take(4).read_to_end(&mut magic));
        read.map_err(StoreError::io("read", &self.path))?;
        magic.resize(4, 0);
        Ok(<[u8; 4]>::try_from(magic.as_slice()).unwrap_or_default())
    }
}
