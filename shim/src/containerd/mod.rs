//! A containerd shim: what containerd starts to have a Wasm program run as one of its containers.
//!
//! The process that stays is the keeper of a [shared sandbox](sampan_runtime::sandbox), one for each pod (or each container
//! that stands alone), and its control socket is what containerd connects to. Containers that containerd owns are not in our
//! store: it has their bundles, their roots and their records, and we have the compiled code.
//!
//! ```text
//! call     the command line of a shim
//! group    which containers share a sandbox, where it is, and what it is made in
//! keep     the sandbox's process, from its beginning to its end
//! task     the Task API, with what containerd wants besides: events, and the pod's own container
//! grants   what a container of containerd's is granted
//! pods     containers that stand for a pod and run nothing
//! events   what is told to containerd
//! delete   clearing up after a shim that died
//! ```
//!
//! (containerd's `docs/runtime-v2.md`; `runtime/v2` in its version 1, `core/runtime/v2` in its version 2.)

mod call;
mod delete;
mod events;
mod grants;
mod group;
mod keep;
mod pods;
mod task;

pub use call::{Action, Call, NAME, Speaks, info};
pub use delete::delete;
pub use group::{Claim, Group};
pub use keep::Kept;

use sampan_runtime::sandbox::SandboxError;
use sampan_runtime::store::StoreError;
use std::path::PathBuf;

/// What a shim cannot do.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The command line.
    #[error("{0}: this program is started by containerd (`ctr run --runtime io.containerd.sampan.v1 …`)")]
    Call(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The system.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control socket.
    #[error("cannot serve {}: {source}", path.display())]
    Serve {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: ttrpc::Error,
    },
    /// A sandbox that does not answer.
    #[error("the sandbox at {} is there, and does not answer", .0.display())]
    Silent(PathBuf),
}

impl ShimError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
