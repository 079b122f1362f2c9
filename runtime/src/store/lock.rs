//! Locks that end with their holder: the kernel drops them when the process dies, however it dies.

use super::{Result, StoreError};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The constant has the type of fcntl's commands in libc, and the field is a short.
#[allow(clippy::cast_possible_truncation, reason = "the value is 1")]
const F_WRLCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, reason = "the value is 0")]
const F_RDLCK: libc::c_short = libc::F_RDLCK as libc::c_short;

/// A lock on a file, held as long as the value lives: exclusive but for [`Lock::share`].
///
/// It is an open-file-description lock (`fcntl(2)`, `F_OFD_SETLK`), so a child that inherits the descriptor shares it,
/// and [`Lock::is_held`] can look without taking it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock on `path`, waiting for whoever has it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn wait(path: &Path) -> Result<Self> {
        let file = open(path)?;
        loop {
            match set(&file, libc::F_OFD_SETLKW, F_WRLCK) {
                Ok(()) => return Ok(Self { file }),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(StoreError::io("lock", path)(e)),
            }
        }
    }

    /// Takes the lock on `path` if nobody has it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match set(&file, libc::F_OFD_SETLK, F_WRLCK) {
            Ok(()) => Ok(Some(Self { file })),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
            Err(e) => Err(StoreError::io("lock", path)(e)),
        }
    }

    /// Takes a share of the lock on `path`, a file that is there already: several may have one, and while somebody has,
    /// nobody has the lock for himself alone. `None` if somebody has.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn share(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        match set(&file, libc::F_OFD_SETLK, F_RDLCK) {
            Ok(()) => Ok(Some(Self { file })),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
            Err(e) => Err(StoreError::io("lock", path)(e)),
        }
    }

    /// The descriptor of the lock, which outlives an exec and is still locked then.
    ///
    /// # Errors
    /// When its flags cannot be set.
    pub fn hand_on(self) -> std::io::Result<OwnedFd> {
        rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty())?;
        Ok(self.file.into())
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The lock behind a descriptor that was handed on.
    #[must_use]
    pub fn taken_over(lock: OwnedFd) -> Self {
        let _ = rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::CLOEXEC);
        Self { file: lock.into() }
    }

    /// Whether the file that is locked is still the one at `path`: who had it before may have removed it.
    #[must_use]
    pub fn is_of(&self, path: &Path) -> bool {
        let place = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
        let there = std::fs::symlink_metadata(path).ok();
        there.is_some_and(|there| self.file.metadata().is_ok_and(|ours| place(&ours) == place(&there)))
    }

    /// Whether somebody has the lock on `path`, or a share of it. No file means nobody.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        let mut lock = whole_file(F_WRLCK);
        // SAFETY: F_OFD_GETLK reads and writes one struct flock, which `lock` is, for the length of the call.
        let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        asked == 0 && i32::from(lock.l_type) != libc::F_UNLCK
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(StoreError::io("open", path))
}

fn whole_file(kind: libc::c_short) -> libc::flock {
    // SAFETY: struct flock is plain numbers, for which all zeroes is a value: the whole file, from its start.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind;
    lock
}

fn set(file: &File, command: libc::c_int, kind: libc::c_short) -> std::io::Result<()> {
    let lock = whole_file(kind);
    // SAFETY: the set commands read one struct flock, which `lock` is, for the length of the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_and_ends_with_its_value() {
        let dir = crate::store::files::tests::temp_dir();
        let path = dir.join("lock");
        assert!(!Lock::is_held(&path));
        let held = Lock::wait(&path).unwrap();
        assert!(Lock::is_held(&path));
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(!Lock::is_held(&path));
        let shares = (Lock::share(&path).unwrap().unwrap(), Lock::share(&path).unwrap().unwrap());
        assert!(Lock::is_held(&path) && Lock::try_take(&path).unwrap().is_none());
        drop(shares);
        assert!(!Lock::is_held(&path));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
