//! What is run inside a container beside its own program: one more instance in the same sandbox, with the container's
//! files, environment and network, and with streams of its own. It sees nothing of the running instance's memory.
//!
//! The keeper finds the program in the container's tree and has its code made ready; the host, which can do neither,
//! gets the code and the streams as descriptors.

use crate::guest::Description;
use crate::guest::code::CodeError;
use crate::image::ImageError;
use crate::rootfs::RootfsError;
use crate::sandbox::SandboxError;
use crate::sandbox::terminal::{Key, Terminal};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What is to be run inside a container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The program and its arguments; a name without a slash is looked for along PATH.
    pub args: Vec<String>,
    /// Over the container's environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Instead of the container's working directory.
    pub cwd: Option<String>,
    /// The digest of a program in the code cache, which is run instead of one in the container's tree.
    pub module: Option<String>,
    /// Whether the image `toolbox` stands in for a program that the container does not have.
    pub toolbox: bool,
}

/// The streams of what is run inside a container.
#[derive(Debug)]
pub enum ExecStdio {
    /// Standard input, output and error; one that is missing is empty, and takes everything.
    Streams([Option<OwnedFd>; 3]),
    /// The guest's end of a terminal, for all three, and the other one.
    Terminal(OwnedFd, Terminal),
}

impl ExecStdio {
    /// Where words for its user go.
    pub(super) fn errors(&self) -> Option<&OwnedFd> {
        match self {
            Self::Streams([_, _, errors]) => errors.as_ref(),
            Self::Terminal(guest, _) => Some(guest),
        }
    }
}

/// A program that could not be run inside a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox, or the container in it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The container's files.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The container's own settings.
    #[error("cannot read what the container was given: {0}")]
    Bundle(String),
    /// The program.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The image whose programs stand in for the container's.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No words.
    #[error("no command specified: name a program to run in the container")]
    NoCommand,
    /// The program is not there.
    #[error("exec: {program:?}: no such file in the container{searched}{hint}")]
    NoProgram {
        /// What was to be run.
        program: String,
        /// Where it was looked for, in words.
        searched: String,
        /// What would help, in words.
        hint: &'static str,
    },
    /// The program cannot be run.
    #[error("exec: {program:?}: {reason}")]
    NotExecutable {
        /// What was to be run.
        program: String,
        /// Why not.
        reason: String,
    },
    /// The working directory is not there.
    #[error("the working directory {0:?} is not there in the container: make it, or name another one")]
    NoDirectory(String),
    /// It ended before its first instruction.
    #[error("{0}")]
    NotStarted(String),
    /// The name is taken.
    #[error("container {id} has something that is called {exec:?} already")]
    Taken {
        /// The container.
        id: String,
        /// The name.
        exec: String,
    },
    /// There is no such thing.
    #[error("nothing that is called {exec:?} is run in container {id}")]
    NotFound {
        /// The container.
        id: String,
        /// The name.
        exec: String,
    },
}

impl ExecError {
    /// The exit code that `docker exec` has for it: 127 when the program is not there, 126 when it cannot be run, 1 for
    /// everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoProgram { .. } => 127,
            Self::NotExecutable { .. } | Self::NotStarted(_) | Self::NoDirectory(_) => 126,
            Self::Code(CodeError::Compile { .. }) => 126,
            _ => 1,
        }
    }
}

/// From the keeper to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ExecOrder {
    /// Run a program; its code and its streams come along as descriptors, in this order.
    Start(Box<ExecStart>),
    /// End it at once.
    Kill { id: String, exec: String },
    /// A key was pressed at its terminal that means this signal. The container's own program has an empty name.
    Key { id: String, exec: String, signal: Key },
}

/// What a program is run with inside a container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecStart {
    pub id: String,
    pub exec: String,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub description: Description,
    pub streams: Streams,
    /// The paths for which the program itself stands in where the container's tree has nothing.
    pub lent: Vec<PathBuf>,
}

/// Which streams come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Streams {
    /// Those of standard input, output and error that are true, in this order.
    Each([bool; 3]),
    /// One terminal.
    Terminal,
}

/// From the host to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ExecNews {
    /// Its first instruction is next.
    Started,
    /// A key was pressed, and has done what it does; what is typed after it can come.
    Pressed {
        /// The signal, if it ends the program itself.
        deadly: Option<Key>,
    },
    /// It has ended; the message has been told where its user looks, if it had started.
    Ended { code: u8, message: Option<String> },
}
