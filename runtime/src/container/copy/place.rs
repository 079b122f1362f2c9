//! What a destination means: the rules of `docker cp`.

use super::{CopyError, trimmed};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// Its last name.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether only what is in the directory is meant (`DIR/.`).
    pub contents: bool,
}

/// Where a source goes that is copied to `to`: the path that the file or directory itself has then.
pub(super) fn settle(to: &str, source: &Source) -> Result<PathBuf, CopyError> {
    let wants_dir = to.ends_with('/') || to.ends_with("/.") || matches!(to, "." | "..");
    let path = trimmed(to);
    let refuse = |words: String| Err(CopyError(words));
    match (std::fs::metadata(&path), source.is_dir) {
        (Ok(meta), _) if meta.is_dir() && !source.contents => {
            let target = path.join(&source.name);
            match (target.symlink_metadata(), source.is_dir) {
                (Ok(there), true) if !there.is_dir() && !target.is_dir() => {
                    refuse(format!("cannot overwrite {}, which is no directory, with a directory", target.display()))
                }
                (Ok(there), false) if there.is_dir() => {
                    refuse(format!("cannot overwrite the directory {} with a file", target.display()))
                }
                _ => Ok(target),
            }
        }
        (Ok(meta), true) if meta.is_dir() => Ok(path),
        (Ok(_), true) => refuse(format!("cannot copy a directory to the file {to}")),
        (Ok(_), false) if wants_dir => refuse(format!("{to} is a file, and a directory was wanted")),
        // What a link means is written, and not the link.
        (Ok(_), false) => path.canonicalize().map_err(|e| CopyError::io("follow", &path, &e)),
        (Err(_), false) if wants_dir => refuse(format!("the directory {to} is not there: make it first")),
        (Err(_), _) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(PathBuf::from);
            match parent {
                Some(parent) if !parent.is_dir() => {
                    refuse(format!("the directory {} is not there: make it first", parent.display()))
                }
                _ => Ok(path),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;

    #[test]
    fn as_docker_says() {
        let dir = temp_dir();
        std::fs::create_dir_all(dir.join("d/name")).unwrap();
        std::fs::create_dir(dir.join("e")).unwrap();
        std::fs::write(dir.join("f"), "").unwrap();
        std::fs::write(dir.join("e/name"), "").unwrap();
        let settle = |to: &str, is_dir: bool, contents: bool| {
            let source = Source { name: "name".into(), is_dir, contents };
            let target = settle(&format!("{}/{to}", dir.display()), &source);
            target.map(|path| path.strip_prefix(&dir).unwrap().to_string_lossy().into_owned()).ok()
        };
        let at = |path: &str| Some(path.to_owned());
        // A file.
        assert_eq!(settle("new", false, false), at("new"));
        assert_eq!(settle("new/", false, false), None);
        assert_eq!(settle("none/new", false, false), None);
        assert_eq!(settle("f", false, false), at("f"));
        assert_eq!(settle("f/", false, false), None);
        assert_eq!(settle("e", false, false), at("e/name"));
        assert_eq!(settle("e/.", false, false), at("e/name"));
        assert_eq!(settle("d", false, false), None);
        // A directory.
        assert_eq!(settle("new", true, false), at("new"));
        assert_eq!(settle("new/", true, false), at("new"));
        assert_eq!(settle("f", true, false), None);
        assert_eq!(settle("d", true, false), at("d/name"));
        assert_eq!(settle("e", true, false), None);
        assert_eq!(settle("d", true, true), at("d"));
        assert_eq!(settle("new", true, true), at("new"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
