//! Directories of a test's own, and what lies in a tree.

use crate::{OrFail, fail};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A text that no other test of this machine has at the same time; short, since it ends up in the paths of sockets.
#[must_use]
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory that goes away with its value.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// A new directory, which everybody may enter: some tests run a command as another user.
    #[must_use]
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sampan-e2e-{}", unique()));
        std::fs::create_dir_all(&path).or_fail(path.display());
        Self(path)
    }

    /// A build context with this Dockerfile.
    #[must_use]
    pub fn context(dockerfile: &str) -> Self {
        Self::new().file("Dockerfile", dockerfile)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where something in it is.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// Puts a file there, and the directories that lead to it.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.0)).or_fail(path.display());
        std::fs::write(&path, content).or_fail(path.display());
        self
    }

    /// Puts a symbolic link there.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.join(path)).or_fail(path);
        self
    }

    /// Puts a copy of a file there.
    #[must_use]
    pub fn copy(self, path: &str, from: &Path) -> Self {
        std::fs::copy(from, self.join(path)).or_fail(format_args!("cannot copy {}", from.display()));
        self
    }

    /// The text of a file.
    #[track_caller]
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.join(path)).or_fail(path)
    }
}

impl Default for Dir {
    fn default() -> Self {
        Self::new()
    }
}

impl Display for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every path below a directory with its kind, for comparing a tree before and after; `skip` names directories whose
/// content does not count.
#[track_caller]
#[must_use]
pub fn tree(root: &Path, skip: &[&str]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    walk(root, root, skip, &mut all);
    all
}

fn walk(root: &Path, dir: &Path, skip: &[&str], all: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Ok(kind) = entry.file_type() else { fail(format_args!("{name} went away while we looked")) };
        let mark = if kind.is_dir() { "/" } else { "" };
        let goes_down = kind.is_dir() && !skip.contains(&name.as_str());
        all.insert(format!("{name}{mark}"));
        if goes_down {
            walk(root, &path, skip, all);
        }
    }
}
