//! The store: where images, layers, compiled code, containers and volumes lie, and the run directory beside it.
//!
//! ```text
//! version                the store's format; an older one is migrated, a newer one refused
//! content/               an OCI image layout: blobs/sha256/…, index.json; nothing else names images
//! layers/<chain id>/     unpacked layers, never written after they are complete
//! code/<engine>/         compiled code; derived data, can be deleted at any time
//! containers/<id>/       bundle, record, writable layer, log
//! names/<name>           a container's name: a symbolic link whose text is the id, so taking a name is one system call
//! volumes/<name>/
//! networks/<name>/       a network that a user made, and who has which of its addresses
//! downloads/<digest>     what has come of a blob; swept after a week
//! tmp/<pid>.<start>.<n>  what is being made; swept when its maker is gone
//! ```

pub mod files;
mod lock;
mod tmp;

use std::path::{Path, PathBuf};

pub use files::Durability;
pub use lock::Lock;
pub use tmp::{Scratch, process_start};

/// The store's format that this build reads and writes.
pub const VERSION: u32 = 1;

/// What goes wrong with the store itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// {action} {path}: {source}
    #[error("cannot {action} {}: {}", path.display(), explain(source))]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store was written by a newer Sampan.
    #[error(
        "the store {} has format {found}, and this sampan reads up to {VERSION}: use a newer sampan, or name another store with --root",
        root.display()
    )]
    Newer {
        /// The store's root.
        root: PathBuf,
        /// The format found there.
        found: u32,
    },
    /// The store was written by an older Sampan, and nobody knows any more how to read it.
    #[error(
        "the store {} has format {found}, and this sampan reads format {VERSION}: save its images with the sampan that \
         wrote it, or name another store with --root",
        root.display()
    )]
    Older {
        /// The store's root.
        root: PathBuf,
        /// The format found there.
        found: u32,
    },
    /// The file that says the format is lost.
    #[error(
        "the store {} has images and no version file, so nobody knows its format: if this sampan has written it, `echo \
         {VERSION} > {}` brings it back",
        root.display(), root.join("version").display()
    )]
    NoVersion {
        /// The store's root.
        root: PathBuf,
    },
    /// The file that says the format is not a number.
    #[error("the store {} has an unreadable version file ({found:?}): is this a sampan store?", root.display())]
    NotAStore {
        /// The store's root.
        root: PathBuf,
        /// What the file holds.
        found: String,
    },
    /// A file of the store does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
}

/// The system's words, with what to do where the cause is the machine and not the call.
fn explain(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => {
            format!("{error}: free some space, or name a store on another disk with --root")
        }
        K::ReadOnlyFilesystem => format!("{error}: name a store that can be written with --root or SAMPAN_ROOT"),
        K::PermissionDenied => format!("{error}: run as the store's owner, or name another store with --root"),
        _ => error.to_string(),
    }
}

impl StoreError {
    /// Wraps what the system said of `action` on `path`; for `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the cause is that a file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// The result of what touches the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An open store: two directories, and where things lie in them.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    run: PathBuf,
}

impl Store {
    /// Opens the store at `root` with its run directory `run`, making both where they are missing.
    ///
    /// # Errors
    /// When the directories cannot be made, or hold the store of a newer version.
    pub fn open(root: &Path, run: &Path) -> Result<Self> {
        let store = Self { root: root.to_owned(), run: run.to_owned() };
        match std::fs::read_to_string(root.join("version")) {
            Ok(text) => store.check_version(&text)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => store.make()?,
            Err(e) => return Err(StoreError::io("read", root.join("version"))(e)),
        }
        Ok(store)
    }

    /// Opens the store that `root` names, or the usual one: `/var/lib/sampan` for root, `$XDG_DATA_HOME/sampan` for
    /// others. The run directory is chosen to fit: `/run/sampan` or `$XDG_RUNTIME_DIR/sampan`, below it one for each
    /// store that is not the usual one.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn locate(root: Option<&Path>) -> Result<Self> {
        let uid = rustix::process::geteuid();
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let usual = if uid.is_root() {
            PathBuf::from("/var/lib/sampan")
        } else {
            env("XDG_DATA_HOME")
                .or_else(|| env("HOME").map(|home| home.join(".local/share")))
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/sampan-{}", uid.as_raw())))
                .join("sampan")
        };
        let run = if uid.is_root() {
            PathBuf::from("/run/sampan")
        } else {
            env("XDG_RUNTIME_DIR")
                .map(|dir| dir.join("sampan"))
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/sampan-run-{}", uid.as_raw())))
        };
        match root {
            None => Self::open(&usual, &run),
            Some(root) => {
                let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
                let run = if root == usual { run } else { run.join(format!("r-{:08x}", short_hash(&root))) };
                Self::open(&root, &run)
            }
        }
    }

    fn check_version(&self, text: &str) -> Result<()> {
        match text.trim().parse::<u32>() {
            Ok(VERSION) => Ok(()),
            // There is no older format yet: the first that follows brings its migration here.
            Ok(found @ 0..VERSION) => Err(StoreError::Older { root: self.root.clone(), found }),
            Ok(found) => Err(StoreError::Newer { root: self.root.clone(), found }),
            Err(_) => Err(StoreError::NotAStore { root: self.root.clone(), found: text.trim().to_owned() }),
        }
    }

    fn make(&self) -> Result<()> {
        // The version comes last and nothing goes before it, so this is no store that somebody was making.
        if self.content().join("index.json").exists() {
            // Unless somebody else has made it since we looked.
            return match std::fs::read_to_string(self.root.join("version")) {
                Ok(text) => self.check_version(&text),
                Err(_) => Err(StoreError::NoVersion { root: self.root.clone() }),
            };
        }
        files::make_private_dir(&self.root)?;
        for dir in ["content/blobs/sha256", "layers", "code", "containers", "names", "volumes", "tmp"] {
            files::make_dir(&self.root.join(dir))?;
        }
        let layout = self.content().join("oci-layout");
        files::write(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#, Durability::Flushed)?;
        // Last, since it says that the rest is there.
        files::write(&self.root.join("version"), format!("{VERSION}\n").as_bytes(), Durability::Flushed)
    }

    /// The store's root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The OCI image layout that holds every image.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    /// Unpacked layers, a directory each, named by the chain id's hex digits.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Compiled code.
    #[must_use]
    pub fn code(&self) -> PathBuf {
        self.root.join("code")
    }

    /// What builds remember; made when first needed.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Containers, a directory each, named by the id.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Containers' names.
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Volumes, a directory each, named by the volume's name.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Networks that users made.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// The directory of a network's members in the run directory.
    #[must_use]
    pub fn network_members(&self, network: &str) -> PathBuf {
        self.run.join("networks").join(network)
    }

    /// A new scratch directory under `tmp/`; what is in it is removed with the value, or by the next sweep.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::make(&self.root.join("tmp"))
    }

    /// Removes what dead processes left half made.
    pub fn sweep(&self) {
        tmp::sweep(&self.root.join("tmp"));
    }

    /// What dead processes left half made, in scratch directories.
    #[must_use]
    pub fn abandoned(&self) -> Vec<PathBuf> {
        tmp::abandoned(&self.root.join("tmp"))
    }

    /// The run directory: sockets, locks and state of what runs now. Made when first asked for.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to another user.
    pub fn run_dir(&self) -> Result<&Path> {
        files::make_private_dir(&self.run)?;
        Ok(&self.run)
    }

    /// The run directory's path, whether it is there or not.
    #[must_use]
    pub fn run_path(&self) -> &Path {
        &self.run
    }
}

/// FNV-1a, to tell stores apart in the run directory; not for anything that an enemy may choose.
fn short_hash(path: &Path) -> u32 {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_left_alone() {
        let dir = files::tests::temp_dir();
        let (root, run) = (dir.join("s"), dir.join("r"));
        Store::open(&root, &run).unwrap();
        std::fs::write(root.join("version"), "99\n").unwrap();
        let error = Store::open(&root, &run).unwrap_err().to_string();
        assert!(error.contains("format 99"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_older_store_and_one_without_a_version_are_told() {
        let dir = files::tests::temp_dir();
        let (root, run) = (dir.join("s"), dir.join("r"));
        Store::open(&root, &run).unwrap();
        std::fs::write(root.join("version"), "0\n").unwrap();
        assert!(matches!(Store::open(&root, &run), Err(StoreError::Older { found: 0, .. })));
        std::fs::remove_file(root.join("version")).unwrap();
        // Whoever was making it was killed: it is made to its end.
        Store::open(&root, &run).unwrap();
        std::fs::remove_file(root.join("version")).unwrap();
        std::fs::write(root.join("content/index.json"), "{}").unwrap();
        assert!(matches!(Store::open(&root, &run), Err(StoreError::NoVersion { .. })));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_that_is_no_store_is_told() {
        let dir = files::tests::temp_dir();
        std::fs::write(dir.join("version"), "hello").unwrap();
        assert!(matches!(Store::open(&dir, &dir), Err(StoreError::NotAStore { .. })));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
