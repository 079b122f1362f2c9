//! Scratch directories that say who makes something in them, so that what a dead process left can be swept.

use super::{Result, StoreError, files};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory under `tmp/`, removed with everything that is still in it when the value is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn make(tmp: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep(tmp);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = tmp.join(format!("{pid}.{}.{n}", process_start(pid).unwrap_or(0)));
        std::fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = files::remove_tree(&self.path);
    }
}

/// Removes the scratch of processes that are gone.
pub(super) fn sweep(tmp: &Path) {
    for path in abandoned(tmp) {
        let _ = files::remove_tree(&path);
    }
}

/// The scratch of processes that are gone.
pub(super) fn abandoned(tmp: &Path) -> Vec<PathBuf> {
    let is_abandoned = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().split('.').map_while(|part| part.parse::<u64>().ok());
        let alive = match (parts.next().and_then(|pid| u32::try_from(pid).ok()), parts.next()) {
            (Some(pid), Some(start)) => process_start(pid) == Some(start),
            _ => false,
        };
        !alive
    };
    let entries = std::fs::read_dir(tmp).into_iter().flatten().flatten();
    entries.filter(is_abandoned).map(|entry| entry.path()).collect()
}

/// When a process started, in clock ticks after boot (field 22 of `/proc/<pid>/stat`, proc(5)): together with its pid
/// it names a process for good. `None` when there is no such process.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything, so count from the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_swept_and_the_living_left() {
        let tmp = files::tests::temp_dir();
        let mine = Scratch::make(&tmp).unwrap();
        let dead = tmp.join("4194305.1.0");
        std::fs::create_dir(&dead).unwrap();
        sweep(&tmp);
        assert!(mine.path().exists());
        assert!(!dead.exists());
        let kept = mine.path().to_owned();
        drop(mine);
        assert!(!kept.exists());
        std::fs::remove_dir_all(tmp).unwrap();
    }
}
