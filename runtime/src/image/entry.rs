//! Paths in a stack of layer directories, without mounting it: what a path means is worked out as overlayfs would.
//!
//! One directory of the image is the union of directories of the layers, so a walk carries a list of host directories,
//! topmost first. An upper file or whiteout hides what is below it; an upper directory is merged with those below
//! until one is opaque. Links are followed within the image: an absolute one starts again at its root, and no `..`
//! leads out of it. The walk costs one look per component and layer, and reads no directory.

use crate::store::{Result, StoreError};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows on one path.
pub(crate) const MOST_LINKS: usize = 40;

/// The extended attributes that make a directory opaque: overlayfs reads the first when root mounted it, the second
/// when mounted with `userxattr`.
pub(crate) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// What lies at a path.
#[derive(Debug)]
pub(crate) enum Node {
    /// A directory: the host directories that merge into it, topmost first; never empty.
    Dir(Vec<PathBuf>),
    /// A regular file, on the host.
    File(PathBuf),
    /// A symbolic link that was not followed: what it says, and where it is on the host.
    Link { target: PathBuf, host: PathBuf },
    /// Nothing.
    Missing,
    /// No such path can be: something that is no directory is in the way (there, within the image), or links go round.
    Blocked(PathBuf),
}

/// What [`resolve`] found.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The path within the image, relative to its root, with links resolved.
    pub path: PathBuf,
    pub node: Node,
}

/// Finds the regular file that an absolute path means in stacked layer directories (topmost first): where it is on the
/// host, or nothing if there is no such file.
///
/// # Errors
/// When a directory cannot be looked into.
pub fn find_in_layers(dirs: &[PathBuf], path: &str) -> Result<Option<PathBuf>> {
    match resolve(dirs, Path::new(path), true)?.node {
        Node::File(file) => Ok(Some(file)),
        _ => Ok(None),
    }
}

/// The directories that merge into the one that a path means, topmost first; none if it means no directory.
///
/// # Errors
/// When a directory cannot be looked into.
pub(crate) fn directories_at(dirs: &[PathBuf], path: &Path) -> Result<Vec<PathBuf>> {
    match resolve(dirs, path, true)?.node {
        Node::Dir(merged) => Ok(merged),
        _ => Ok(Vec::new()),
    }
}

/// Walks a path from the image's root. A link at its end is followed if `follow` says so.
pub(crate) fn resolve(dirs: &[PathBuf], path: &Path, follow: bool) -> Result<Resolved> {
    // The directories from the root down to where the walk is, so that `..` can go back.
    let mut stack = vec![dirs.to_vec()];
    let mut at = PathBuf::new();
    let mut ahead: Vec<OsString> = Vec::new();
    push_components(&mut ahead, path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            if at.pop() {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().map(Vec::as_slice).unwrap_or_default();
        match look(here, &name)? {
            Node::Dir(merged) => {
                stack.push(merged);
                at.push(name);
            }
            Node::Link { target, .. } if follow || !ahead.is_empty() => {
                links += 1;
                if links > MOST_LINKS {
                    return Ok(Resolved { node: Node::Blocked(at.join(&name)), path: at.join(name) });
                }
                if target.is_absolute() {
                    stack.truncate(1);
                    at = PathBuf::new();
                }
                push_components(&mut ahead, &target);
            }
            Node::File(_) if !ahead.is_empty() => {
                return Ok(Resolved { node: Node::Blocked(at.join(&name)), path: at.join(name) });
            }
            Node::Missing => {
                at.push(name);
                while let Some(name) = ahead.pop() {
                    if name == ".." {
                        at.pop();
                    } else {
                        at.push(name);
                    }
                }
                return Ok(Resolved { path: at, node: Node::Missing });
            }
            node => {
                at.push(name);
                return Ok(Resolved { path: at, node });
            }
        }
    }
    let merged = stack.pop().filter(|merged| !merged.is_empty());
    Ok(Resolved { path: at, node: merged.map_or(Node::Missing, Node::Dir) })
}

/// Puts a path's components on the stack of what is ahead: the first on top.
pub(crate) fn push_components(ahead: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => ahead.push(name.to_owned()),
            Component::ParentDir => ahead.push("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// One name in one directory of the image.
pub(crate) fn look(here: &[PathBuf], name: &OsStr) -> Result<Node> {
    let mut merged = Vec::new();
    for (i, dir) in here.iter().enumerate() {
        let path = dir.join(name);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io("look at", path)(e)),
        };
        if meta.is_dir() {
            let lowest = i + 1 == here.len() || is_opaque(&path);
            merged.push(path);
            if lowest {
                break;
            }
        } else if !merged.is_empty() || is_whiteout(&meta) {
            break;
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).map_err(StoreError::io("read", &path))?;
            return Ok(Node::Link { target, host: path });
        } else {
            return Ok(Node::File(path));
        }
    }
    Ok(if merged.is_empty() { Node::Missing } else { Node::Dir(merged) })
}

/// Whether this says, in overlayfs's words, that the name is deleted.
pub(crate) fn is_whiteout(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

pub(crate) fn is_opaque(dir: &Path) -> bool {
    let mut value = [0_u8; 1];
    OPAQUE.iter().any(|name| rustix::fs::lgetxattr(dir, *name, &mut value) == Ok(1) && value == *b"y")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;
    use std::os::unix::fs::symlink;

    fn write(dir: &Path, path: &str) -> PathBuf {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"").unwrap();
        path
    }

    fn whiteout(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    #[test]
    fn upper_layers_hide_lower_ones() {
        let dir = temp_dir();
        let (upper, lower) = (dir.join("u"), dir.join("l"));
        let dirs = [upper.clone(), lower.clone()];
        let find = |path: &str| find_in_layers(&dirs, path).unwrap();
        let only_lower = write(&lower, "d/lower");
        write(&lower, "d/both");
        let both = write(&upper, "d/both");
        write(&lower, "d/deleted");
        whiteout(&upper.join("d/deleted"));
        write(&lower, "gone/x");
        whiteout(&upper.join("gone"));
        write(&lower, "f/x");
        write(&upper, "f");
        write(&lower, "g");
        let in_g = write(&upper, "g/x");
        write(&lower, "opaque/x");
        write(&upper, "opaque/y");
        let marked = OPAQUE.iter().any(|name| {
            rustix::fs::setxattr(upper.join("opaque"), *name, b"y", rustix::fs::XattrFlags::empty()).is_ok()
        });
        assert_eq!(find("/d/lower"), Some(only_lower));
        assert_eq!(find("/d/both"), Some(both.clone()));
        assert_eq!(find("d//./both"), Some(both));
        assert_eq!(find("/d/deleted"), None);
        assert_eq!(find("/gone/x"), None);
        assert_eq!(find("/f/x"), None);
        assert_eq!(find("/g/x"), Some(in_g));
        assert!(marked);
        assert_eq!(find("/opaque/x"), None);
        assert!(find("/opaque/y").is_some());
        assert_eq!(find("/d"), None);
        assert_eq!(find("/"), None);
        assert_eq!(find_in_layers(&[], "/x").unwrap(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn links_are_followed_within_the_image() {
        let dir = temp_dir();
        let (upper, lower) = (dir.join("u"), dir.join("l"));
        let dirs = [upper.clone(), lower.clone()];
        let target = write(&lower, "usr/lib/x");
        symlink("usr/lib", lower.join("lib")).unwrap();
        write(&upper, "a/b/c");
        symlink("/lib/x", upper.join("a/b/absolute")).unwrap();
        symlink("../../../../lib/x", upper.join("a/b/climbs")).unwrap();
        symlink("loop", upper.join("loop")).unwrap();
        symlink("/etc/passwd", upper.join("out")).unwrap();
        for path in ["/lib/x", "/a/b/absolute", "/a/b/climbs", "/../lib/x", "/a/../lib/../lib/x"] {
            assert_eq!(find_in_layers(&dirs, path).unwrap(), Some(target.clone()), "{path}");
        }
        for path in ["/loop", "/loop/x", "/out", "/lib/x/y"] {
            assert_eq!(find_in_layers(&dirs, path).unwrap(), None, "{path}");
        }
        let missing = resolve(&dirs, Path::new("/lib/new/file"), true).unwrap();
        assert!(matches!(missing.node, Node::Missing));
        assert_eq!(missing.path, Path::new("usr/lib/new/file"));
        assert!(matches!(resolve(&dirs, Path::new("/lib"), false).unwrap().node, Node::Link { .. }));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
