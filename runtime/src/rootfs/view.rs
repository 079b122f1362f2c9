//! `/proc` of containers that share a sandbox: a directory in the sandbox's own memory, in which its host process tells of
//! the programs that see each other, and of the kernel's `/proc` the tables of sockets, of the sandbox's network alone.

use super::{Result, RootfsError, mount};
use crate::grants::{BindGrant, Proc, Sees};
use std::path::{Path, PathBuf};

/// Where the directories are, beside the trees.
const DIR: &str = "proc";
/// The name among them of that for all of the sandbox; no id is like it.
const SANDBOX: &str = "sandbox";
/// Beside these, and in each, the directory of tables.
const NET: &str = "net";
/// The tables of sockets (proc_net(5)).
const TABLES: [&str; 4] = ["tcp", "tcp6", "udp", "udp6"];

/// Where it is told of the programs that a container sees.
#[must_use]
pub fn place(trees: &Path, id: &str, proc: &Proc) -> PathBuf {
    let name = match &proc.sees {
        Sees::Own => id,
        Sees::Sandbox => SANDBOX,
        Sees::Container(id) => id,
    };
    trees.join(DIR).join(name)
}

/// Makes such a directory, if it is missing, with places for what is mounted there.
///
/// # Errors
/// When the sandbox's memory is used up.
pub fn make(place: &Path) -> Result<()> {
    for dir in ["self", NET] {
        let dir = place.join(dir);
        std::fs::create_dir_all(&dir).map_err(RootfsError::io("create", &dir))?;
    }
    Ok(())
}

/// Mounts the kernel's tables where containers get them from. To be done once, by a process in the sandbox's network: they
/// are those of whoever mounts them.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tables(trees: &Path) -> Result<()> {
    let dir = trees.join(DIR).join(NET);
    std::fs::create_dir_all(&dir).map_err(RootfsError::io("create", &dir))?;
    for table in TABLES {
        let (source, place) = (Path::new("/proc/self/net").join(table), dir.join(table));
        // Without IPv6 there are no tables of it.
        if source.exists() {
            std::fs::write(&place, b"").map_err(RootfsError::io("create", &place))?;
            mount::fleeting(&source, &place)?;
        }
    }
    Ok(())
}

/// What is mounted in a container's tree for it.
#[must_use]
pub fn binds(trees: &Path, place: &Path) -> [BindGrant; 2] {
    let bind = |source: PathBuf, destination: &str| {
        let destination = destination.into();
        BindGrant { source, destination, writable: false, shallow: false }
    };
    [bind(place.to_owned(), "/proc"), bind(trees.join(DIR).join(NET), "/proc/net")]
}

/// Removes such a directory, when nobody sees it any more. That for all of the sandbox goes with its memory.
pub fn remove(place: &Path) {
    if place.file_name().is_some_and(|name| name != SANDBOX) {
        let _ = std::fs::remove_dir_all(place);
    }
}
