//! What is known of a container in its sandbox at one moment.

use crate::grants::Port;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, as Docker would show it.
    pub code: u8,
    /// Whether it, or a program that it had started, was ended because it wanted more memory than there may be.
    pub out_of_memory: bool,
    /// When.
    pub at: jiff::Timestamp,
    /// What the runtime has to say of it.
    pub message: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// On its way to its first instruction.
    Starting,
    /// Running.
    Running,
    /// Over.
    Ended(Exit),
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting | Self::Running => "running",
            Self::Ended(_) => "stopped",
        }
    }
}

impl Snapshot {
    /// One of which no more is known yet.
    pub(super) fn new(phase: Phase, pid: u32, bundle: PathBuf, program: String) -> Self {
        let (started, ports) = (None, vec![]);
        Self { phase, pid, bundle, tree: 0, started, ports, program, asked: false, settled: false }
    }
}

/// What is known of a container at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where it is in its life.
    pub phase: Phase,
    /// The host process that runs it.
    pub pid: u32,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Which of the sandbox's trees is its own.
    pub tree: usize,
    /// When its first instruction was next.
    pub started: Option<jiff::Timestamp>,
    /// Where the host listens for its ports.
    pub ports: Vec<(Port, SocketAddr)>,
    /// The digest of its program.
    pub program: String,
    /// Whether somebody has asked for its end.
    pub asked: bool,
    /// Whether its end is written down, so that those who wait for it may hear of it.
    pub settled: bool,
}
