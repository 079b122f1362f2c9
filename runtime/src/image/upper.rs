//! What an overlay's writable directory holds → the files of a layer.
//!
//! overlayfs (Linux: Documentation/filesystems/overlayfs.rst) writes a deletion as the device 0/0, or where it cannot make
//! one as an empty file with an attribute; a directory whose former content is gone bears the attribute `opaque`. In an
//! archive both are files whose names begin with `.wh.` (OCI image specification, layer.md).

use super::entry::{is_opaque, is_whiteout};
use super::layer::{LayerError, Plan};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The attributes, each in root's name space and in a user's.
const WHITEOUT: [&str; 2] = ["trusted.overlay.whiteout", "user.overlay.whiteout"];
const REDIRECT: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];
const METACOPY: [&str; 2] = ["trusted.overlay.metacopy", "user.overlay.metacopy"];

/// The changes that the directory `upper` of an overlay holds, as the plan of a layer that makes the same of the layers
/// under it. Owners are 0 and no time is later than `latest` (seconds since 1970), so that the same changes give the
/// same layer; sockets, pipes and devices are passed over, as no guest can open one.
///
/// # Errors
/// When something cannot be read, or has a name that an archive cannot hold.
pub(super) fn changes(upper: &Path, latest: Option<i64>) -> Result<Plan, LayerError> {
    let mut walk = Walk { plan: Plan::new(Vec::new(), latest), seen: HashMap::new() };
    walk.dir(upper, Path::new(""))?;
    Ok(walk.plan)
}

struct Walk {
    plan: Plan,
    /// Files with several names, and the first name that was met.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl Walk {
    fn dir(&mut self, host: &Path, path: &Path) -> Result<(), LayerError> {
        let mut names: Vec<OsString> = std::fs::read_dir(host)
            .and_then(|dir| dir.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(LayerError::read(host))?;
        // Which name of a file is the first must not depend on how the directory happens to lie.
        names.sort();
        for name in names {
            let (host, path) = (host.join(&name), path.join(&name));
            let meta = host.symlink_metadata().map_err(LayerError::read(&host))?;
            self.one(&host, &path, &meta)?;
        }
        Ok(())
    }

    fn one(&mut self, host: &Path, path: &Path, meta: &Metadata) -> Result<(), LayerError> {
        if is_whiteout(meta) || (meta.is_file() && meta.len() == 0 && has(host, WHITEOUT)) {
            self.plan.gone(path);
        } else if meta.is_dir() {
            refuse_if(has(host, REDIRECT), path, "the overlay keeps its content elsewhere (redirect_dir)")?;
            self.plan.changed_dir(path, meta)?;
            if is_opaque(host) {
                self.plan.opaque(path);
            }
            self.dir(host, path)?;
        } else if meta.is_file() || meta.is_symlink() {
            refuse_if(has(host, METACOPY), path, "the overlay keeps its content elsewhere (metacopy)")?;
            if meta.nlink() > 1 {
                let id = (meta.dev(), meta.ino());
                if let Some(first) = self.seen.get(&id) {
                    return self.plan.same(path, first, meta);
                }
                self.seen.insert(id, path.to_owned());
            }
            self.plan.changed(path, host, meta)?;
        }
        Ok(())
    }
}

fn has(host: &Path, names: [&str; 2]) -> bool {
    names.iter().any(|name| rustix::fs::lgetxattr(host, *name, &mut [0_u8; 0]).is_ok())
}

fn refuse_if(refused: bool, path: &Path, reason: &'static str) -> Result<(), LayerError> {
    match refused {
        true => Err(LayerError::Placement { from: path.to_owned(), to: Path::new("/").join(path), reason }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::entry::{Node, resolve};
    use crate::image::unpack;
    use crate::image::{Layer, entry};
    use crate::store::files::tests::temp_dir;
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn whiteout(path: &Path) {
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn mark(path: &Path, names: [&str; 2]) {
        assert!(names.iter().any(|name| lsetxattr(path, *name, b"y", XattrFlags::empty()).is_ok()));
    }

    /// Fills an upper directory: changed, new, deleted and replaced things.
    fn fill(upper: &Path) {
        write(&upper.join("etc/changed"), "new");
        write(&upper.join("a/deep/er/file"), "f");
        symlink("/etc/changed", upper.join("a/link")).unwrap();
        std::fs::hard_link(upper.join("etc/changed"), upper.join("a/second")).unwrap();
        whiteout(&upper.join("etc/deleted"));
        write(&upper.join("etc/deleted-too"), "");
        mark(&upper.join("etc/deleted-too"), WHITEOUT);
        write(&upper.join("var/cache/only"), "o");
        mark(&upper.join("var/cache"), entry::OPAQUE);
        // What was a directory is a file now.
        write(&upper.join("was-dir"), "file");
        mknodat(CWD, upper.join("pipe"), FileType::Fifo, Mode::empty(), 0).unwrap();
        std::fs::set_permissions(upper.join("a"), std::fs::Permissions::from_mode(0o750)).unwrap();
    }

    fn names(blob: &Path) -> Vec<String> {
        let file = flate2::read::GzDecoder::new(std::fs::File::open(blob).unwrap());
        let mut archive = tar::Archive::new(file);
        let all = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert!(header.mtime().unwrap() <= 100);
            let kind = match header.entry_type() {
                tar::EntryType::Link => "=",
                tar::EntryType::Symlink => "@",
                _ => "",
            };
            format!("{}{kind}", String::from_utf8(entry.path_bytes().into_owned()).unwrap())
        });
        all.collect()
    }

    #[test]
    fn an_upper_directory_becomes_a_layer_that_does_the_same() {
        let dir = temp_dir();
        let (upper, lower) = (dir.join("upper"), dir.join("lower"));
        fill(&upper);
        for path in ["etc/changed", "etc/deleted", "etc/deleted-too", "etc/kept", "var/cache/old", "was-dir/x"] {
            write(&lower.join(path), "old");
        }
        let blob = dir.join("blob");
        let made = changes(&upper, Some(100)).unwrap().write(&blob).unwrap();
        assert_eq!(
            names(&blob),
            [
                "a/",
                "a/deep/",
                "a/deep/er/",
                "a/deep/er/file",
                "a/link@",
                "a/second",
                "etc/",
                "etc/.wh.deleted",
                "etc/.wh.deleted-too",
                "etc/changed=",
                "var/",
                "var/cache/",
                "var/cache/.wh..wh..opq",
                "var/cache/only",
                "was-dir"
            ]
        );
        let layer = Layer {
            digest: made.digest.clone(),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            size: made.size,
            chain_id: made.diff_id.clone(),
            diff_id: made.diff_id,
            file: None,
        };
        let unpacked = dir.join("unpacked");
        unpack::unpack(&layer, &blob, std::slice::from_ref(&lower), &unpacked).unwrap();
        let dirs = [unpacked, lower];
        let read = |path: &str| match resolve(&dirs, Path::new(path), true).unwrap().node {
            Node::File(file) => Some(std::fs::read_to_string(file).unwrap()),
            _ => None,
        };
        for (path, expected) in [
            ("etc/changed", Some("new")),
            ("a/second", Some("new")),
            ("a/link", Some("new")),
            ("a/deep/er/file", Some("f")),
            ("etc/deleted", None),
            ("etc/deleted-too", None),
            ("etc/kept", Some("old")),
            ("var/cache/old", None),
            ("var/cache/only", Some("o")),
            ("was-dir", Some("file")),
        ] {
            assert_eq!(read(path).as_deref(), expected, "{path}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_same_changes_give_the_same_layer() {
        let dir = temp_dir();
        let digest = |name: &str| {
            let upper = dir.join(name);
            fill(&upper);
            changes(&upper, Some(100)).unwrap().write(&dir.join(format!("{name}.blob"))).unwrap().digest
        };
        assert_eq!(digest("one"), digest("two"));
        std::fs::create_dir(dir.join("empty")).unwrap();
        assert!(changes(&dir.join("empty"), None).unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_layer_cannot_say_is_refused() {
        let dir = temp_dir();
        let refused = |name: &str, make: &dyn Fn(&Path)| {
            let upper = dir.join(name);
            std::fs::create_dir(&upper).unwrap();
            make(&upper);
            changes(&upper, None).unwrap_err().to_string()
        };
        let moved = refused("moved", &|upper| {
            std::fs::create_dir(upper.join("d")).unwrap();
            mark(&upper.join("d"), REDIRECT);
        });
        assert!(moved.contains("redirect_dir"), "{moved}");
        let name = refused("name", &|upper| write(&upper.join(".wh.x"), ""));
        assert!(name.contains(".wh."), "{name}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
