//! Compiled code that nobody needs any more. It is derived data, so a mistake here costs time and nothing else; still,
//! what an image or a container would have to compile anew is kept.
//!
//! A piece of code is needed when a file that it was made of is still there: in an unpacked layer, in what is being made
//! right now, or as a container's program. Which file that was is told by the links that the cache keeps for it.

use super::code::{Cache, CodeError, Stamp};
use crate::digest;
use crate::store::{Lock, Store, StoreError, files};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// What the cache of compiled code holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeUse {
    /// How many programs' code there is.
    pub total: usize,
    /// How many of them are needed.
    pub needed: usize,
    /// What it takes, in bytes.
    pub size: u64,
    /// What of that nobody needs, in bytes; code for other engines and machines is all of that kind.
    pub reclaimable: u64,
}

/// Looks at the cache. `programs` are the files that containers run.
///
/// # Errors
/// When the cache cannot be read.
pub fn usage(store: &Store, programs: &[PathBuf]) -> Result<CodeUse, CodeError> {
    Ok(Found::look(store, programs)?.usage)
}

/// Removes what nobody needs, and says what there was before.
///
/// # Errors
/// When the cache cannot be read or written.
pub fn sweep(store: &Store, programs: &[PathBuf]) -> Result<CodeUse, CodeError> {
    let cache = Cache::open(store);
    if !cache.dir.exists() && !store.code().exists() {
        return Ok(CodeUse::default());
    }
    files::make_private_dir(&cache.dir)?;
    // Nothing is put in the cache while it is swept; what is there already is in use by now, or will be compiled again.
    let _lock = Lock::wait(&cache.dir.join("lock"))?;
    let found = Found::look(store, programs)?;
    for path in &found.garbage {
        let removed = if path.is_dir() { files::remove_tree(path) } else { remove(path) };
        removed?;
    }
    files::sweep_beside(&cache.dir);
    Ok(found.usage)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Found {
    usage: CodeUse,
    garbage: Vec<PathBuf>,
}

impl Found {
    fn look(store: &Store, programs: &[PathBuf]) -> Result<Self, CodeError> {
        let cache = Cache::open(store);
        let mut found = Self::default();
        for dir in entries(&store.code()).filter(|dir| *dir != cache.dir) {
            found.usage.size = found.usage.size.saturating_add(files::tree_size(&dir));
            found.garbage.push(dir);
        }
        let links = cache.dir.join("files");
        let mut known: HashMap<String, String> = HashMap::new();
        for link in entries(&links) {
            let (Some(name), Ok(digest)) = (name_of(&link), std::fs::read_link(&link)) else { continue };
            known.insert(name, digest.to_string_lossy().into_owned());
        }
        let alive = alive(store, programs, &known);
        let mut needed: HashSet<String> = alive.iter().filter_map(|stamp| known.get(stamp)).cloned().collect();
        needed.extend(of_containers(store, programs)?);
        found.garbage.extend(known.keys().filter(|stamp| !alive.contains(*stamp)).map(|stamp| links.join(stamp)));
        for path in entries(&cache.dir) {
            let name = name_of(&path).unwrap_or_default();
            let Some((digest, kind)) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "cwasm" | "json"))
            else {
                continue;
            };
            let size = path.symlink_metadata().map_or(0, |meta| meta.len());
            let is_needed = needed.contains(&format!("sha256:{digest}"));
            found.usage.size = found.usage.size.saturating_add(size);
            if kind == "cwasm" {
                found.usage.total += 1;
                found.usage.needed += usize::from(is_needed);
            }
            if !is_needed {
                found.usage.reclaimable = found.usage.reclaimable.saturating_add(size);
                found.garbage.push(path);
            }
        }
        let others = found.garbage.iter().filter(|path| path.parent() == Some(&store.code()));
        let others = others.fold(0_u64, |sum, dir| sum.saturating_add(files::tree_size(dir)));
        found.usage.reclaimable = found.usage.reclaimable.saturating_add(others);
        Ok(found)
    }
}

/// Which of the known files are still there. The number of a file is in its directory's own entry, so only what may be
/// one of them is looked at.
fn alive(store: &Store, programs: &[PathBuf], known: &HashMap<String, String>) -> HashSet<String> {
    let inode = |stamp: &String| stamp.split('-').nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let inodes: HashSet<u64> = known.keys().filter_map(inode).collect();
    let mut alive = HashSet::new();
    let mut look = |path: &Path| {
        if let Ok(meta) = path.symlink_metadata() {
            let stamp = Stamp::of(&meta).name();
            if known.contains_key(&stamp) {
                alive.insert(stamp);
            }
        }
    };
    programs.iter().for_each(|program| look(program));
    let mut ahead = vec![store.layers(), store.root().join("tmp")];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                Ok(kind) if kind.is_file() && inodes.contains(&entry.ino()) => look(&entry.path()),
                _ => {}
            }
        }
    }
    alive
}

/// The digests of programs that containers have to themselves: no link is kept for these.
fn of_containers(store: &Store, programs: &[PathBuf]) -> Result<Vec<String>, CodeError> {
    let own = programs.iter().filter(|path| path.starts_with(store.containers()));
    let digest = |path: &PathBuf| {
        let mut file = File::open(path).ok()?;
        digest::of_all(&mut file).ok()
    };
    // One that went away meanwhile needs nothing.
    Ok(own.filter_map(digest).collect())
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
