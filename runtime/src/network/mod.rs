//! The network of a container, which has none of the kernel's: what a guest may bind and whom it may call, what it sees,
//! and where that really is.
//!
//! A guest's bind opens one listener of the host: the published address, or a port of the loopback. The guest sees its
//! own view: the port that it bound, and a virtual address.
//!
//! ```text
//! reserve   published ports → sockets of the host, taken before the guest runs
//! view      what one container sees: its ports and addresses beside the real ones
//! reach     whom it reaches: its own listeners, its peers, and whom its rules grant
//! peers     the members of a network while they run, by the run directory
//! outside   what a sandbox has to ask of its keeper: names, certificates, peers
//! sockets   puts the view between the guest and wasmtime-wasi's sockets; names does so for look-up
//! refusals  how often it was refused something
//! own       the sockets that the engine keeps to itself
//! http      outgoing requests
//! traffic   how many bytes pass
//! splice    further addresses of a published port
//! ```

pub mod http;
mod names;
pub mod namespace;
pub mod outside;
pub mod own;
pub mod peers;
mod reach;
pub mod refusals;
pub mod reserve;
pub mod sockets;
mod splice;
pub mod traffic;
mod view;

pub use refusals::Refusals;
pub use view::{Tell, View};

use crate::grants::{Port, Protocol};
use std::net::{IpAddr, SocketAddr};

/// Why a guest was not given a socket; told to the guest as `access-denied`, and to people in these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A port that was not granted.
    #[error("bind to port {0} denied: publish it with -p HOST:{number}, or grant it with --expose {0}", number = .0.number)]
    Bind(Port),
    /// A name that was to be looked up.
    #[error("look-up of {0:?} denied: allow it with --allow-net {0}")]
    Name(String),
    /// A name that leads to this machine or its link, which only a rule that names the address grants.
    #[error("look-up of {name:?} denied: it leads to {ip}, which a name cannot grant; allow it with --allow-net {ip}")]
    Leads {
        /// The name.
        name: String,
        /// Where it leads.
        ip: IpAddr,
    },
    /// A peer that was not granted.
    #[error("connection to {0} denied: allow it with --allow-net {0}")]
    Peer(SocketAddr),
    /// A port of a peer that was granted by its name at others.
    #[error("connection to {name}:{port} denied: allow it with --allow-net {name}:{port}", port = .address.port())]
    Port {
        /// The name that has led there.
        name: String,
        /// Where it led.
        address: SocketAddr,
    },
    /// A request to somebody who was not granted.
    #[error("request to {0} denied: allow it with --allow-net {0}")]
    Request(String),
}

/// Why a peer cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// It was not granted.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It was, and has nothing at that port.
    #[error("nobody listens there")]
    NobodyListens,
}

/// What people are told of a guest's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was not given a socket.
    Denied(Denied),
    /// It called somebody for the first time, by name or by address.
    Called(String),
    /// A connection failed in a way that the guest's own error does not tell.
    Failed(String),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(denied) => denied.fmt(f),
            Self::Called(whom) => write!(f, "called {whom}"),
            Self::Failed(words) => f.write_str(words),
        }
    }
}

/// A port that a guest has bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The transport.
    pub protocol: Protocol,
    /// What the guest asked for, with the port that it sees.
    pub guest: SocketAddr,
    /// Where the host listens.
    pub real: SocketAddr,
    /// Whether only the guest itself may connect.
    pub private: bool,
}
