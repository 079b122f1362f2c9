//! How other programs speak to Sampan: the faces of a sandbox, on its control socket, and of a whole store.
//!
//! `cri` is the face of a node to Kubernetes, and `metrics` to Prometheus. The rest is a sandbox's:
//! two services over ttrpc on one Unix socket: containerd's Task API, which others know, registered under the names of
//! both its versions (the messages are the same), and beside it `sampan.v1` for what that lacks.

pub mod client;
pub mod containerd;
mod create;
pub mod cri;
mod exec;
mod fifos;
pub mod metrics;
mod server;
mod side;
mod task;

pub use exec::{ExecProcess, More};
pub use server::Serving;

/// The generated messages and stubs of `sampan.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, unused_qualifications, reason = "generated")]
#[allow(missing_debug_implementations, dead_code, nonstandard_style, unused, reason = "generated")]
mod generated {
    pub mod sandbox {
        include!(concat!(env!("OUT_DIR"), "/sandbox.rs"));
    }
    pub mod sandbox_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/sandbox_ttrpc.rs"));
    }
}

/// The messages of `sampan.v1`.
pub mod v1 {
    pub use super::generated::sandbox::*;
    pub use super::generated::sandbox_ttrpc::SandboxClient;
}
