//! Files that matter: written beside their place and renamed, so that a reader sees the old or the new, never half.

use super::{Result, StoreError};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether a file must survive a power cut. Flushing costs about 0.2 ms, so run state goes without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file and its name are on the disk when the call returns.
    Flushed,
    /// The file is whole for every reader, and may be gone after a power cut.
    Buffered,
}

/// Replaces `path` by `bytes` in one step.
///
/// # Errors
/// When the directory cannot be written; then nothing has changed.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".{name}.{}.{n}", std::process::id()));
    let fill = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        if durability == Durability::Flushed {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)?;
        if durability == Durability::Flushed
            && let Some(dir) = path.parent()
        {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    fill().map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        StoreError::io("write", path)(e)
    })
}

/// Files in a directory that were to replace others ([`write()`]) and whose writers are gone.
#[must_use]
pub fn abandoned_beside(dir: &Path) -> Vec<std::path::PathBuf> {
    let left = |name: &str| {
        // .<the file's name>.<process>.<number>
        let mut parts = name.strip_prefix('.')?.rsplitn(3, '.');
        let (n, pid, _) = (parts.next()?, parts.next()?, parts.next()?);
        n.parse::<u32>().ok()?;
        Some(super::process_start(pid.parse().ok()?).is_none())
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_left = |entry: &std::fs::DirEntry| {
        entry.file_name().to_str().and_then(left) == Some(true) && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    entries.filter(is_left).map(|entry| entry.path()).collect()
}

/// Removes them.
pub fn sweep_beside(dir: &Path) {
    for file in abandoned_beside(dir) {
        let _ = std::fs::remove_file(file);
    }
}

/// Flushes a directory: the names in it are on the disk when the call returns.
///
/// # Errors
/// When it cannot be flushed.
pub fn flush_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("flush", dir))
}

/// Reads a whole file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(StoreError::io("read", path))
}

/// Reads a JSON file.
///
/// # Errors
/// When it cannot be read, or is not the JSON that was expected.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| StoreError::Damaged { path: path.to_owned(), reason: e.to_string() })
}

/// Replaces `path` by `value` as JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|e| StoreError::Damaged {
        path: path.to_owned(),
        reason: format!("cannot be written as JSON: {e}"),
    })?;
    write(path, &bytes, durability)
}

/// Makes a directory and its parents, open to all readers as the process's umask says.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(StoreError::io("create", path))
}

/// Makes a directory that only its owner may enter; one that is there already must be ours.
///
/// # Errors
/// When it cannot be made, or belongs to another user.
pub fn make_private_dir(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) => return Err(StoreError::io("create", path)(e)),
    }
    let meta = std::fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: format!("it belongs to user {}, not to the user who runs sampan", meta.uid()),
        });
    }
    Ok(())
}

/// What the files in a directory and below hold, in bytes; one with several names counts once. What cannot be looked at
/// counts nothing.
#[must_use]
pub fn tree_size(path: &Path) -> u64 {
    let (mut sum, mut linked) = (0_u64, std::collections::HashSet::new());
    let mut ahead = vec![path.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                ahead.push(entry.path());
            } else if meta.is_file() && (meta.nlink() < 2 || linked.insert((meta.dev(), meta.ino()))) {
                sum = sum.saturating_add(meta.len());
            }
        }
    }
    sum
}

/// In what one tree differs from another: the first path that does, and how. Times do not count.
#[must_use]
pub fn difference(wanted: &Path, found: &Path) -> Option<String> {
    let mut ahead = vec![std::path::PathBuf::new()];
    while let Some(path) = ahead.pop() {
        let (a, b) = (wanted.join(&path), found.join(&path));
        let shown = || Path::new("/").join(&path).display().to_string();
        match differs(&a, &b) {
            Ok(None) => {}
            Ok(Some(how)) => return Some(format!("{} {how}", shown())),
            Err(e) => return Some(format!("{} cannot be read ({e})", shown())),
        }
        if a.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let names = |dir: &Path| -> std::collections::BTreeSet<std::ffi::OsString> {
                std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
            };
            let (there, others) = (names(&a), names(&b));
            if let Some(more) = others.difference(&there).next() {
                return Some(format!("{} should not be there", Path::new("/").join(&path).join(more).display()));
            }
            ahead.extend(there.iter().map(|name| path.join(name)));
        }
    }
    None
}

/// How the thing at one path differs from that at another, but for what is in a directory.
fn differs(wanted: &Path, found: &Path) -> std::io::Result<Option<&'static str>> {
    let a = std::fs::symlink_metadata(wanted)?;
    let b = match std::fs::symlink_metadata(found) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some("is lost")),
        other => other?,
    };
    if a.file_type() != b.file_type() || a.rdev() != b.rdev() {
        return Ok(Some("is of another kind"));
    }
    if a.mode() != b.mode() || (a.uid(), a.gid()) != (b.uid(), b.gid()) {
        return Ok(Some("has another mode or owner"));
    }
    if a.is_symlink() {
        return Ok((std::fs::read_link(wanted)? != std::fs::read_link(found)?).then_some("leads elsewhere"));
    }
    if !a.is_file() {
        return Ok(None);
    }
    Ok((a.len() != b.len() || !same_content(wanted, found)?).then_some("has another content"))
}

fn same_content(one: &Path, other: &Path) -> std::io::Result<bool> {
    use std::io::{BufRead, BufReader};
    let open = |path| File::open(path).map(|file| BufReader::with_capacity(1 << 16, file));
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let n = a.len().min(b.len());
        if n == 0 {
            return Ok(a.len() == b.len());
        }
        if a.get(..n) != b.get(..n) {
            return Ok(false);
        }
        one.consume(n);
        other.consume(n);
    }
}

/// How often a directory tree is removed again that somebody still makes files in.
const TRIES: u32 = 16;

/// Removes a directory tree, also one that holds directories without permissions (an overlay's work directory).
/// Nothing there is a success.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    let gone = |r: std::io::Result<()>| match r {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let mut removed = gone(std::fs::remove_dir_all(path));
    for _ in 0..TRIES {
        match removed.as_ref().map_err(std::io::Error::kind) {
            Err(std::io::ErrorKind::PermissionDenied) => open_up(path),
            // Somebody made a file in it meanwhile, a lock say, who does not know yet that it goes.
            Err(std::io::ErrorKind::DirectoryNotEmpty) => {}
            _ => break,
        }
        removed = gone(std::fs::remove_dir_all(path));
    }
    removed.map_err(StoreError::io("remove", path))
}

/// Gives the owner every right on the directories below `path`.
fn open_up(path: &Path) {
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fresh directory for one test.
    pub(crate) fn temp_dir() -> std::path::PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sampan-unit-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let dir = temp_dir();
        let path = dir.join("f");
        write(&path, b"old", Durability::Flushed).unwrap();
        // A directory cannot be replaced by a file: the rename fails after the bytes were written.
        let sub = dir.join("d");
        std::fs::create_dir(&sub).unwrap();
        assert!(write(&sub, b"new", Durability::Buffered).is_err());
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_killed_writer_left_is_told_from_what_is_being_written() {
        let dir = temp_dir();
        let mine = format!(".record.json.{}.0", std::process::id());
        for name in [".record.json.4194305.7", &mine, ".hidden", "record.json", ".record.json.x.1"] {
            std::fs::write(dir.join(name), b"").unwrap();
        }
        assert_eq!(abandoned_beside(&dir), [dir.join(".record.json.4194305.7")]);
        sweep_beside(&dir);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_tree_with_a_closed_directory_is_removed() {
        let dir = temp_dir();
        let closed = dir.join("work/work");
        std::fs::create_dir_all(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&dir).unwrap();
        assert!(!dir.exists());
        remove_tree(&dir).unwrap();
    }
}
