//! What a container has written → the paths that differ from its image, as `docker diff` lists them.

use super::build::commit::Written;
use super::entry::{self, Node};
use super::layer::{LayerError, Plan};
use super::{copied, upper};
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was there and is another now, or something in it is.
    Changed,
    /// It was not there.
    Added,
    /// It is there no more.
    Deleted,
}

impl Change {
    /// Docker's letter.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Changed => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// The paths that differ from what these layers (topmost first) have, in their order; absolute.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn changed(written: &Written, layers: &[PathBuf]) -> Result<Vec<(PathBuf, Change)>, LayerError> {
    let plan = match written {
        Written::Upper(dir) => upper::changes(dir, None)?,
        Written::Copy(copy, layers) => copied::changes(copy, layers)?,
    };
    of_plan(&plan, layers)
}

fn of_plan(plan: &Plan, layers: &[PathBuf]) -> Result<Vec<(PathBuf, Change)>, LayerError> {
    let mut all = BTreeMap::new();
    let absolute = |path: &Path| Path::new("/").join(path);
    for (path, entry) in plan.listed() {
        match entry {
            Listed::There => {
                let before = entry::resolve(layers, &path, false)?.node;
                let change = match before {
                    Node::Missing | Node::Blocked(_) => Change::Added,
                    _ => Change::Changed,
                };
                all.entry(absolute(&path)).or_insert(change);
            }
            Listed::Gone => {
                all.insert(absolute(&path), Change::Deleted);
            }
            Listed::Emptied => {
                // All that was in it, but for what is there again.
                for dir in entry::directories_at(layers, &path)? {
                    let names = std::fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?;
                    for name in names.flatten().map(|entry| entry.file_name()) {
                        let path = path.join(&name);
                        let there = !matches!(entry::resolve(layers, &path, false)?.node, Node::Missing);
                        if there && !plan.has(&path) {
                            all.entry(absolute(&path)).or_insert(Change::Deleted);
                        }
                    }
                }
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// What a layer says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// It brings it.
    There,
    /// The layers below have it no more.
    Gone,
    /// What the layers below have in this directory is gone.
    Emptied,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

    #[test]
    fn every_path_has_the_letter_that_docker_would_give_it() {
        let dir = temp_dir();
        let (over, below) = (dir.join("upper"), dir.join("lower"));
        let write = |path: PathBuf| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for path in ["etc/kept", "etc/changed", "etc/deleted", "cache/old", "cache/again"] {
            write(below.join(path));
        }
        for path in ["etc/changed", "etc/new", "cache/again", "data/deep/file"] {
            write(over.join(path));
        }
        mknodat(CWD, over.join("etc/deleted"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let marked =
            entry::OPAQUE.iter().any(|name| lsetxattr(over.join("cache"), *name, b"y", XattrFlags::empty()).is_ok());
        assert!(marked);
        let lines: Vec<String> = changed(&Written::Upper(over), &[below])
            .unwrap()
            .into_iter()
            .map(|(path, change)| format!("{} {}", change.letter(), path.display()))
            .collect();
        assert_eq!(
            lines,
            [
                "C /cache",
                "C /cache/again",
                "D /cache/old",
                "A /data",
                "A /data/deep",
                "A /data/deep/file",
                "C /etc",
                "C /etc/changed",
                "D /etc/deleted",
                "A /etc/new"
            ]
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
