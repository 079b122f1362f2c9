//! Containers: the record of one, and its life: create → run → stop → remove. A container outlives any run of it.
//!
//! ```text
//! id         ids and names
//! record     what is written down of a container
//! egress     who lets a container call whom
//! create     settings + image → a container's directory and its name
//! find       a name or the first digits of an id → the container; listing them; whether one runs
//! program    the entrypoint's path → its compiled code
//! export     a container's files → an archive
//! commit     a container's files and settings → an image
//! copy       files into a container and out of it
//! diff       what a container has changed in its image's files
//! freeze     a container that stands still while it is looked at
//! garbage    compiled code that no container and no image needs
//! life       running one: the keeper's part from the lock to the record of its end
//! shared     running several in one sandbox: its keeper's part
//! remove     taking one away
//! check      whether all of them are whole
//! volumes    directories that outlive containers
//! networks   networks that users make, and who has which address
//! ```

pub(crate) mod check;
mod commit;
mod copy;
mod create;
mod diff;
mod egress;
mod export;
mod find;
mod freeze;
pub mod garbage;
pub mod health;
pub mod id;
pub mod life;
pub mod networks;
mod program;
mod record;
mod remove;
pub mod restart;
mod settings;
pub mod shared;
mod update;
pub mod volumes;

pub use commit::{CommitSettings, commit};
pub use copy::{Copied, CopyError, CopyOptions, copy_archive_in, copy_in, copy_out, copy_out_as_archive};
pub(crate) use create::{PATH, set as set_variable};
pub use create::{create, create_and_lease};
pub use diff::diff;
pub use export::export;
pub use find::{find, list};
pub use freeze::Frozen;
pub use life::Lease;
pub use networks::NetworkError;
pub(crate) use program::search;
pub use program::{locate_in_image, locate_in_layers, locate_program, program_of};
pub use record::{Container, Ended, Given, Giver, Joined, MountKind, MountPoint, Record, Restarting, Running, Status};
pub use remove::remove;
pub use settings::{Inside, Join, MountRequest, MountSource, Settings};
pub use update::{Update, update};

use crate::config::ConfigError;
use crate::grants::GrantError;
use crate::guest::code::CodeError;
use crate::image::build::BuildError;
use crate::image::{ImageError, LayerError};
use crate::rootfs::RootfsError;
use crate::sandbox::SandboxError;
use crate::store::StoreError;
use std::path::PathBuf;

/// What goes wrong with containers.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image that is made of a container.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What it has written.
    #[error(transparent)]
    Written(#[from] LayerError),
    /// Files on their way in or out.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The grants.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The program.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The tree.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// No container has this name or id.
    #[error("no such container: {0}")]
    NotFound(String),
    /// Several containers' ids begin so.
    #[error("{prefix:?} is ambiguous: the ids of {count} containers begin with it; give more digits")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// A name against the rule.
    #[error("invalid {what} name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// A name that somebody else has.
    #[error(
        "the container name {name:?} is already in use by container {}: remove that container to use its name again",
        id::short(by)
    )]
    NameInUse {
        /// The name.
        name: String,
        /// The id of who has it.
        by: String,
    },
    /// Neither the image nor the user says what to run.
    #[error("no command specified: the image has neither ENTRYPOINT nor CMD, so name a program after the image")]
    NoCommand,
    /// The program is not there.
    #[error("exec: {program:?}: no such file in the image{}", searched(path.as_ref()))]
    NoProgram {
        /// What was to be run.
        program: String,
        /// The PATH that was searched, if it was.
        path: Option<String>,
    },
    /// A script, and what its first line names is not there.
    #[error("exec: {script:?}: it is a script for {interpreter:?}, and there is no such program in the image")]
    NoInterpreter {
        /// The script.
        script: String,
        /// What would run it.
        interpreter: String,
    },
    /// Scripts that name each other.
    #[error("exec: {0:?}: too many scripts, each of which names the next in its first line")]
    Scripts(String),
    /// The program is a directory.
    #[error("exec: {0:?}: is a directory, and a Wasm program was wanted")]
    ProgramIsDirectory(String),
    /// Something that cannot be done to a running container.
    #[error("container {} is running: {hint}", id::short(id))]
    Running {
        /// Which one.
        id: String,
        /// What to do.
        hint: &'static str,
    },
    /// A container that is gone when it ends cannot be started again.
    #[error("container {} is removed when it ends (--rm), so it can have no restart policy", id::short(.0))]
    RemovedAtItsEnd(String),
    /// A restart policy where the sandbox is shared.
    #[error(
        "--sandbox {0} and {1} contradict each other: who is started again gets a fresh sandbox, and this one is \
         shared with others; leave one of them out"
    )]
    SharedRestart(String, &'static str),
    /// Something that needs a running container.
    #[error("container {} is not running", id::short(.0))]
    NotRunning(String),
    /// A container that did not stop where it was.
    #[error(
        "container {} cannot be paused: {reason}; --pause=false takes its files as they are written",
        id::short(id)
    )]
    NotFrozen {
        /// Which one.
        id: String,
        /// Why not.
        reason: String,
    },
    /// A mount that cannot be made.
    #[error("invalid mount {given:?}: {reason}")]
    BadMount {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such volume.
    #[error("no such volume: {0}")]
    NoVolume(String),
    /// A volume that is about to be needed.
    #[error("volume {0} is in use by a container that is made right now")]
    VolumeWanted(String),
    /// A volume that is needed.
    #[error("volume {name} is in use by container {}: remove the container first", id::short(by))]
    VolumeInUse {
        /// The volume.
        name: String,
        /// The id of a container that mounts it.
        by: String,
    },
}

fn searched(path: Option<&String>) -> String {
    path.map_or_else(String::new, |path| format!(" (searched PATH={path})"))
}

impl ContainerError {
    /// The exit code that `docker run` has for it: 127 when the program is not there, 126 when it cannot be run, 125
    /// for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoProgram { .. } => 127,
            Self::Code(CodeError::Compile { .. })
            | Self::ProgramIsDirectory(_)
            | Self::NoInterpreter { .. }
            | Self::Scripts(_) => 126,
            _ => 125,
        }
    }
}

/// The result of what is done with containers.
pub type Result<T, E = ContainerError> = std::result::Result<T, E>;

/// Where a container's runs have their sockets and state.
pub(crate) fn run_place(store: &crate::store::Store, id: &str) -> PathBuf {
    store.run_path().join(id::short(id))
}

/// The socket of a sandbox, in its place.
pub(crate) fn socket(place: &std::path::Path) -> PathBuf {
    place.join("sock")
}
