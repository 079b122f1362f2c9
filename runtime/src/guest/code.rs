//! The cache of compiled code: derived data, made only by this machine's own compiler.
//!
//! `code/<settings>-<machine>/<sha256 of the wasm>.cwasm` is the code, `….json` what is known of it. What is in the
//! cache is mapped and executed, so it is trusted only as far as it is ours: opened without following links, owned by
//! us, not writable by others, and with the size, times and inode that were recorded when its hash was last checked;
//! otherwise the hash is checked again.
//!
//! `files/<device>-<inode>-<size>-<mtime>-<ctime>` is a link that says which digest a Wasm file has, so that a file
//! which did not change is not hashed at each start.

use super::compile::{self, CompileError};
use super::engine;
use super::kind::Description;
use crate::digest;
use crate::store::{Durability, Lock, Store, StoreError, files};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A guest's program that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The compiler.
    #[error("cannot run {}: {source}", path.display())]
    Compile {
        /// The Wasm file.
        path: PathBuf,
        /// What is wrong with it.
        source: CompileError,
    },
}

/// Compiled code, open, and what it is.
#[derive(Debug)]
pub struct Code {
    /// The code; its path is `/proc/self/fd/N` for the engine.
    pub file: File,
    /// What it is.
    pub description: Description,
    /// `sha256:` and the digest of the Wasm that it was made from.
    pub digest: String,
}

/// What is recorded beside the code.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    stamp: Stamp,
    /// `sha256:` and the digest of the code.
    pub(super) sha256: String,
    description: Description,
}

/// A file's identity, which no write leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: i128,
    ctime: i128,
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{:x}-{:x}-{:x}-{:x}-{:x}", self.device, self.inode, self.size, self.mtime, self.ctime)
    }
}

/// The code of the Wasm file at `path`, compiled now if it is not in the cache.
///
/// # Errors
/// When the file is no guest of ours, or the cache cannot be written.
pub fn prepare(store: &Store, path: &Path) -> Result<Code, CodeError> {
    let cache = Cache::open(store);
    let mut wasm = File::open(path).map_err(StoreError::io("open", path))?;
    let stamp = Stamp::of(&wasm.metadata().map_err(StoreError::io("look at", path))?);
    if let Some(digest) = cache.digest_of(&stamp)
        && let Some(code) = cache.get(&digest)
    {
        return Ok(code);
    }
    let digest = digest::of_all(&mut wasm).map_err(StoreError::io("read", path))?;
    let code = match cache.get(&digest) {
        Some(code) => code,
        None => {
            use std::io::Seek;
            wasm.rewind().map_err(StoreError::io("read", path))?;
            let (description, bytes) = compile::compile(wasm, stamp.size)
                .map_err(|source| CodeError::Compile { path: path.to_owned(), source })?;
            cache.put(store, digest, description, &bytes)?
        }
    };
    // A container's own copy is a file that nobody else will ask for.
    if !path.starts_with(store.containers()) {
        cache.remember(&stamp, &code.digest);
    }
    Ok(code)
}

/// The code of a digest (`sha256:` and 64 hex digits), if it is in the cache.
#[must_use]
pub fn cached(store: &Store, digest: &str) -> Option<Code> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_digest = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest { Cache::open(store).get(digest) } else { None }
}

/// A Wasm file may have so many bytes when a guest names it.
const MOST_WASM: u64 = 1 << 30;

/// The code of a Wasm file that a guest has named and may be writing at this moment, and whether it was compiled now;
/// `None` when it would have to be and may not.
///
/// # Errors
/// When the file is no guest of ours, or the cache cannot be written.
pub fn prepare_open(store: &Store, mut wasm: File, may_compile: bool) -> Result<Option<(Code, bool)>, CodeError> {
    use std::io::Seek;
    let path = Path::new("the program");
    let io = |action| StoreError::io(action, path);
    let meta = wasm.metadata().map_err(io("look at"))?;
    if !meta.is_file() || meta.len() > MOST_WASM {
        let words = format!("a file of at most {} MiB was wanted", MOST_WASM >> 20);
        return Err(CodeError::Compile { path: path.to_owned(), source: CompileError::Refused(words) });
    }
    let cache = Cache::open(store);
    wasm.rewind().map_err(io("read"))?;
    if let Some(code) = cache.get(&digest::of_all(&mut wasm).map_err(io("read"))?) {
        return Ok(Some((code, false)));
    }
    if !may_compile {
        return Ok(None);
    }
    // What is compiled must be what was hashed, so it is a copy that nobody else has.
    wasm.rewind().map_err(io("read"))?;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::memfd_create("wasm", flags).map_err(|e| io("copy")(e.into()))?);
    let size = std::io::copy(&mut wasm.take(MOST_WASM), &mut copy).map_err(io("copy"))?;
    copy.rewind().map_err(io("copy"))?;
    let digest = digest::of_all(&mut copy).map_err(io("read"))?;
    copy.rewind().map_err(io("copy"))?;
    let (description, bytes) =
        compile::compile(copy, size).map_err(|source| CodeError::Compile { path: path.to_owned(), source })?;
    Ok(Some((cache.put(store, digest, description, &bytes)?, true)))
}

pub(super) struct Cache {
    pub(super) dir: PathBuf,
}

impl Cache {
    pub(super) fn open(store: &Store) -> Self {
        Self { dir: store.code().join(format!("{}-{}", engine::SETTINGS, engine::machine())) }
    }

    fn places(&self, digest: &str) -> (PathBuf, PathBuf) {
        let digest = digest.trim_start_matches("sha256:");
        (self.dir.join(format!("{digest}.cwasm")), self.dir.join(format!("{digest}.json")))
    }

    fn digest_of(&self, stamp: &Stamp) -> Option<String> {
        let digest = std::fs::read_link(self.dir.join("files").join(stamp.name())).ok()?;
        Some(digest.to_str()?.to_owned())
    }

    /// The next start finds the digest by the file's identity; only a matter of speed, so errors do not count.
    fn remember(&self, stamp: &Stamp, digest: &str) {
        let _ = std::fs::create_dir_all(self.dir.join("files"));
        let _ = std::os::unix::fs::symlink(digest, self.dir.join("files").join(stamp.name()));
    }

    /// The code of a digest, if it is there and can be trusted.
    fn get(&self, digest: &str) -> Option<Code> {
        let (code, sidecar) = self.places(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&code, flags, Mode::empty()).ok()?);
        let meta = file.metadata().ok()?;
        if distrusted(&meta).is_some() {
            return None;
        }
        let mut known: Sidecar = files::read_json(&sidecar).ok()?;
        let stamp = Stamp::of(&meta);
        if stamp != known.stamp {
            if digest::of_all(&mut file).ok()? != known.sha256 {
                return None;
            }
            known.stamp = stamp;
            let _ = files::write_json(&sidecar, &known, Durability::Buffered);
        }
        Some(Code { file, description: known.description, digest: digest.to_owned() })
    }

    fn put(&self, store: &Store, digest: String, description: Description, bytes: &[u8]) -> Result<Code, CodeError> {
        files::make_private_dir(&self.dir)?;
        let scratch = store.scratch()?;
        let (code, sidecar) = self.places(&digest);
        // Whoever sweeps the cache must not take the code before what belongs to it is there.
        let _lock = Lock::wait(&self.dir.join("lock"))?;
        let beside = scratch.path().join("code");
        let write = || -> std::io::Result<Stamp> {
            let mut file = File::options().write(true).create_new(true).open(&beside)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            // What a power cut makes of it would be found out, but compiling it again takes far longer.
            file.sync_all()?;
            drop(file);
            std::fs::rename(&beside, &code)?;
            // A rename sets the time of change, so the stamp is taken after it.
            Ok(Stamp::of(&std::fs::symlink_metadata(&code)?))
        };
        let stamp = write().map_err(StoreError::io("write", &code))?;
        let known = Sidecar { stamp, sha256: digest::of(bytes), description };
        files::write_json(&sidecar, &known, Durability::Flushed)?;
        let file = File::open(&code).map_err(StoreError::io("open", &code))?;
        Ok(Code { file, description: known.description, digest })
    }
}

/// Why a file of the cache may not be what we have written.
pub(super) fn distrusted(meta: &Metadata) -> Option<String> {
    match meta {
        meta if !meta.is_file() => Some("it is no file".to_owned()),
        meta if meta.uid() != rustix::process::geteuid().as_raw() => Some(format!("it belongs to user {}", meta.uid())),
        meta if meta.mode() & 0o022 != 0 => Some("others may write it".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::kind::Kind;

    fn store() -> (PathBuf, Store) {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        (dir, store)
    }

    fn put(store: &Store, bytes: &[u8]) -> (Cache, PathBuf) {
        let cache = Cache::open(store);
        let description = Description { kind: Kind::Module, imports: vec![], exports: vec![], languages: vec![] };
        cache.put(store, "sha256:ab".into(), description, bytes).unwrap();
        let (code, _) = cache.places("sha256:ab");
        (cache, code)
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let (dir, store) = store();
        let (cache, code) = put(&store, b"code");
        assert!(cache.get("sha256:ab").is_some());
        std::fs::write(&code, b"cod3").unwrap();
        assert!(cache.get("sha256:ab").is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_untouched_copy_is_trusted_after_its_hash() {
        let (dir, store) = store();
        let (cache, code) = put(&store, b"code");
        let copy = dir.join("copy");
        std::fs::copy(&code, &copy).unwrap();
        std::fs::rename(&copy, &code).unwrap();
        assert!(cache.get("sha256:ab").is_some());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_others_may_write_and_links_are_refused() {
        let (dir, store) = store();
        let (cache, code) = put(&store, b"code");
        std::fs::set_permissions(&code, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(cache.get("sha256:ab").is_none());
        std::fs::set_permissions(&code, std::fs::Permissions::from_mode(0o600)).unwrap();
        let away = dir.join("away");
        std::fs::rename(&code, &away).unwrap();
        std::os::unix::fs::symlink(&away, &code).unwrap();
        assert!(cache.get("sha256:ab").is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
