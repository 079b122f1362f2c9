//! What is written down of a container: `record.json` when it is made, `running.json` in the run directory while it
//! runs, `ended.json` when it has ended.

use super::health::{Check, Health, OnFailure};
use super::restart::Policy;
use super::settings::Inside;
use crate::grants::{Address, Egress, Http, Limits, Network, Paths, Port, Proc, Publish, Secret};
use crate::guest::KILLED;
use crate::sandbox::{Exit, Fences, log};
use crate::store::Durability;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A container: where it lies and what is written down of it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its directory, which is its OCI bundle.
    pub dir: PathBuf,
    /// What was settled when it was made.
    pub record: Record,
}

/// What was settled when a container was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// The image as the user named it; the file for a container without an image.
    pub image: String,
    /// The image's id; empty without one.
    pub image_id: String,
    /// The entrypoint, as settled.
    pub entrypoint: Vec<String>,
    /// The command, as settled.
    pub command: Vec<String>,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// The image's labels and the user's.
    pub labels: BTreeMap<String, String>,
    /// The sandbox that it shares with others, by its name.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// Where that sandbox is made.
    #[serde(default)]
    pub inside: Inside,
    /// How it is connected.
    pub network: Network,
    /// The network of its user's that it is on.
    #[serde(default)]
    pub joined: Option<Joined>,
    /// Whom it may call beyond its own network.
    #[serde(default)]
    pub egress: Egress,
    /// Who has given it these rules; one that several have given stands with each.
    #[serde(default)]
    pub egress_from: Vec<Given>,
    /// Published ports, as wished: host port 0 lets the system choose at each start.
    pub published: Vec<Publish>,
    /// Ports that it may bind.
    pub exposed: Vec<Port>,
    /// What is mounted.
    pub mounts: Vec<MountPoint>,
    /// What it alone may know: where that is, and never what.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// What of its tree it may see or change less of.
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    pub paths: Paths,
    /// What its programs are told of themselves and each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proc: Option<Proc>,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// Whether its streams are a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether it may start programs of its own tree.
    #[serde(default)]
    pub allow_spawn: bool,
    /// How its requests are answered, if it is an HTTP service.
    #[serde(default)]
    pub http: Http,
    /// What it may use of the machine.
    #[serde(default)]
    pub limits: Limits,
    /// The grace period of `stop`, in seconds.
    pub stop_timeout: u32,
    /// What becomes of it when it ends.
    #[serde(default)]
    pub restart: Policy,
    /// How its log is kept.
    #[serde(default)]
    pub log: log::Config,
    /// How its health is checked.
    #[serde(default)]
    pub health: Option<Check>,
    /// What is done when it is unhealthy.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// A container's place in a network that its user made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The network's name.
    pub network: String,
    /// The container's address.
    pub address: Address,
    /// Names that it goes by there besides its own.
    pub aliases: Vec<String>,
}

/// Rules of egress, and who has given them to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Who.
    pub by: Giver,
    /// Which.
    pub rules: Egress,
}

/// Who gives a container rules of egress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Giver {
    /// Whoever made it.
    Settings,
    /// A network that it is on.
    Network(String),
    /// A configuration file.
    File(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Bind or volume.
    pub kind: MountKind,
    /// The volume's name; empty for a bind.
    pub name: String,
    /// The host's path.
    pub source: PathBuf,
    /// The guest's path.
    pub destination: PathBuf,
    /// Whether the guest may write there.
    pub writable: bool,
    /// Whether what is mounted below it stays as it is, where the guest may not write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shallow: bool,
}

/// What kind of thing is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume that was named.
    Volume,
    /// A volume that goes with its container when that is removed with `-v` or `--rm`.
    Anonymous,
}

impl MountKind {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume | Self::Anonymous => "volume",
        }
    }
}

/// What is written down while a container runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The keeper's process.
    pub keeper: u32,
    /// The host's process.
    pub host: u32,
    /// When its first instruction was next.
    pub started: jiff::Timestamp,
    /// Where the host listens for its ports.
    pub ports: Vec<(Port, SocketAddr)>,
    /// The fences around it.
    pub fences: Option<Fences>,
    /// The digest of the program.
    pub program: String,
    /// How often it was started again by its restart policy.
    #[serde(default)]
    pub restarts: u32,
    /// Which of its sandbox's trees is its own.
    #[serde(default)]
    pub tree: usize,
    /// Whether it is paused, which a file of its own says.
    #[serde(skip)]
    pub paused: bool,
    /// What is known of its health, which a file of its own says too.
    #[serde(skip)]
    pub health: Option<Health>,
}

/// What is written down while a container waits to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// The process that waits.
    pub keeper: u32,
    /// Which restart it will be, from 1.
    pub tries: u32,
    /// How long it waits, in milliseconds.
    pub pause_ms: u64,
    /// How the last run ended.
    pub code: u8,
    /// When.
    pub ended: jiff::Timestamp,
}

/// What is written down when a container has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit code.
    pub code: u8,
    /// Whether it, or a program that it had started, was ended because it wanted more memory than there may be.
    #[serde(default)]
    pub out_of_memory: bool,
    /// When it started; `None` if it never did.
    pub started: Option<jiff::Timestamp>,
    /// When it ended.
    pub finished: jiff::Timestamp,
    /// What the runtime has to say of it.
    pub error: Option<String>,
    /// The fences that were around it.
    pub fences: Option<Fences>,
    /// Whether somebody had asked for it.
    #[serde(default)]
    pub asked: bool,
    /// How often it had been started again by its restart policy.
    #[serde(default)]
    pub restarts: u32,
}

/// Beside the record from the start of a run to the record of its end: when it started. The run directory is gone when
/// the machine starts again, and this is not.
pub(super) const STARTED: &str = "started.json";

impl Ended {
    /// An end that nobody has seen.
    pub(super) fn unknown(error: &str) -> Self {
        Self {
            code: KILLED,
            out_of_memory: false,
            started: None,
            finished: jiff::Timestamp::now(),
            error: Some(error.to_owned()),
            fences: None,
            asked: false,
            restarts: 0,
        }
    }

    /// What an end says by itself.
    pub(super) fn of(exit: &Exit) -> Self {
        Self {
            code: exit.code,
            out_of_memory: exit.out_of_memory,
            started: None,
            finished: exit.at,
            error: exit.message.clone(),
            fences: None,
            asked: false,
            restarts: 0,
        }
    }
}

/// What a container is at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Made and never run.
    Created,
    /// Running.
    Running(Running),
    /// Over, and to be started again.
    Restarting(Restarting),
    /// Over.
    Exited(Ended),
}

impl Status {
    /// Docker's word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running(running) if running.paused => "paused",
            Self::Running(_) => "running",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) => "exited",
        }
    }

    /// Whether it runs, or will again by itself: a keeper has it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Restarting(_))
    }
}

impl Record {
    /// The name of its network.
    #[must_use]
    pub fn network_name(&self) -> &str {
        self.joined.as_ref().map_or(self.network.as_str(), |joined| &joined.network)
    }

    /// Whether its runs must be known after a power cut: whether it is to be started again depends on them.
    pub(super) fn durability(&self) -> Durability {
        if self.restart == Policy::No { Durability::Buffered } else { Durability::Flushed }
    }

    /// What its peers know it by, in lower case: its name, its aliases and its short id, which is its host name.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let aliases = self.joined.iter().flat_map(|joined| &joined.aliases);
        let names = std::iter::once(&self.name).chain(aliases).map(|name| name.to_ascii_lowercase());
        let mut names: Vec<String> = names.chain([super::id::short(&self.id).to_owned()]).collect();
        names.dedup();
        names
    }

    /// The address that it knows itself by; none under `host`.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match (&self.joined, self.network) {
            (Some(joined), _) => Some(joined.address),
            (None, Network::Default) => Some(Address::alone(&self.id)),
            (None, Network::Host | Network::None) => None,
        }
    }

    /// The program and its arguments.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.command).cloned().collect()
    }
}
