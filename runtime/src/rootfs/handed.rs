//! A tree that another program has prepared and hands over as mounts still to be made: containerd's root file systems.

use super::mount::{self, SAFE};
use super::{Result, RootfsError};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One mount, in the words of mount(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The type of its file system; `bind` for a directory that is there.
    pub kind: String,
    /// The device or directory.
    pub source: String,
    /// Options, some of which are the mount's and some its file system's.
    pub options: Vec<String>,
}

/// What its options say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read<'a> {
    bind: bool,
    read_only: bool,
    /// Of the file system.
    rest: Vec<&'a str>,
}

impl Handed {
    /// Options that change nothing for a guest: every mount of ours has the stricter meaning.
    const IDLE: [&'static str; 12] = [
        "rw", "defaults", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "rprivate",
        "private",
    ];

    fn read(&self) -> Read<'_> {
        let mut read = Read { bind: self.kind == "bind", ..Read::default() };
        for option in self.options.iter().map(String::as_str) {
            match option {
                "bind" | "rbind" => read.bind = true,
                "ro" => read.read_only = true,
                idle if Self::IDLE.contains(&idle) => {}
                other => read.rest.push(other),
            }
        }
        read
    }

    /// The directories of an overlay that are never written, topmost first, and the one that is.
    fn layers(&self) -> (Vec<PathBuf>, Option<PathBuf>) {
        let value = |name: &str| self.options.iter().find_map(|option| option.strip_prefix(name));
        if self.kind != "overlay" {
            return (Vec::new(), None);
        }
        let lower = value("lowerdir=").map(split).unwrap_or_default().into_iter().map(PathBuf::from).collect();
        (lower, value("upperdir=").map(PathBuf::from))
    }

    /// Makes the mount, at no place yet.
    fn make(&self) -> std::result::Result<OwnedFd, RootfsError> {
        let refused = |reason: String| RootfsError::Handed { kind: self.kind.clone(), reason };
        let read = self.read();
        let mut attributes = SAFE;
        if read.read_only {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        if read.bind {
            let tree = mount::clone_tree(Path::new(&self.source))?;
            mount::set_attributes(&tree, attributes, libc::AT_RECURSIVE as libc::c_uint)
                .map_err(|e| refused(e.to_string()))?;
            return Ok(tree);
        }
        if read.rest.contains(&"loop") {
            return Err(refused("loop devices are not set up here: use the overlayfs snapshotter".to_owned()));
        }
        let make = || {
            let fs = fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
            if !self.source.is_empty() {
                fsconfig_set_string(fs.as_fd(), "source", self.source.as_str())?;
            }
            for option in &read.rest {
                match option.split_once('=') {
                    Some(("lowerdir", all)) if self.kind == "overlay" => set_layers(&fs, all)?,
                    Some((name, value)) => fsconfig_set_string(fs.as_fd(), name, value)?,
                    None => fsconfig_set_flag(fs.as_fd(), *option)?,
                }
            }
            fsconfig_create(fs.as_fd())?;
            fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        };
        make().map_err(|e: rustix::io::Errno| {
            refused(format!(
                "{} (source {:?}, options {:?})",
                std::io::Error::from(e),
                self.source,
                read.rest.join(",")
            ))
        })
    }
}

/// From Linux 6.7 on layers are added one by one, as many as there are; before, all have to fit into one short option.
fn set_layers(fs: &OwnedFd, all: &str) -> rustix::io::Result<()> {
    for (n, layer) in split(all).iter().enumerate() {
        match fsconfig_set_string(fs.as_fd(), "lowerdir+", layer.as_str()) {
            Err(rustix::io::Errno::INVAL) if n == 0 => return fsconfig_set_string(fs.as_fd(), "lowerdir", all),
            other => other?,
        }
    }
    Ok(())
}

/// The directories of an overlay's `lowerdir`, where a backslash takes its meaning from a colon.
fn split(all: &str) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut letters = all.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => dirs.push(String::new()),
            letter => {
                let letter = if letter == '\\' { letters.next().unwrap_or(letter) } else { letter };
                if let Some(dir) = dirs.last_mut() {
                    dir.push(letter);
                }
            }
        }
    }
    dirs
}

/// Makes mounts at `target`, one over the other.
///
/// # Errors
/// When the kernel refuses one; then none is left.
pub fn mount_handed(mounts: &[Handed], target: &Path) -> Result<()> {
    for (done, handed) in mounts.iter().enumerate() {
        let mounted = handed.make().and_then(|made| mount::attach(&made, target));
        if let Err(error) = mounted {
            for _ in 0..done {
                let _ = mount::take_down(target);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Where a file of a tree that was mounted lies for good, if it is of a layer that is never written: a file that has one
/// place in all trees has its code in the cache.
#[must_use]
pub fn lasting_place(mounts: &[Handed], file: &Path) -> Option<PathBuf> {
    let [overlay] = mounts else { return None };
    let (lower, upper) = overlay.layers();
    if upper.is_some_and(|upper| upper.join(file).symlink_metadata().is_ok()) {
        return None;
    }
    lower
        .into_iter()
        .map(|layer| layer.join(file))
        .find(|place| place.symlink_metadata().is_ok_and(|meta| meta.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Handed {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Handed { kind: "overlay".into(), source: "overlay".into(), options }
    }

    #[test]
    fn the_options_of_a_mount_and_those_of_its_file_system() {
        let bind = Handed { kind: "bind".into(), source: "/x".into(), options: vec!["rbind".into(), "ro".into()] };
        assert_eq!(bind.read(), Read { bind: true, read_only: true, rest: vec![] });
        let handed = overlay(&["index=off", "userxattr", "lowerdir=/a"]);
        assert_eq!(handed.read().rest, ["index=off", "userxattr", "lowerdir=/a"]);
    }

    #[test]
    fn a_colon_in_a_name_does_not_part_layers() {
        assert_eq!(split(r"/a\:b:/c\\d:/e"), ["/a:b", r"/c\d", "/e"]);
    }

    #[test]
    fn a_file_of_a_lower_layer_has_a_lasting_place_until_it_is_written() {
        let dir = crate::store::files::tests::temp_dir();
        for name in ["upper", "top", "bottom"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("bottom/app"), "").unwrap();
        let place = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let lower = format!("lowerdir={}:{}", place("top"), place("bottom"));
        let mounts = [overlay(&[&format!("upperdir={}", place("upper")), &lower])];
        assert_eq!(lasting_place(&mounts, Path::new("app")), Some(dir.join("bottom/app")));
        std::fs::write(dir.join("top/app"), "").unwrap();
        assert_eq!(lasting_place(&mounts, Path::new("app")), Some(dir.join("top/app")));
        std::fs::write(dir.join("upper/app"), "").unwrap();
        assert_eq!(lasting_place(&mounts, Path::new("app")), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
