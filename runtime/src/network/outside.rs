//! What a sandbox has to ask of its keeper: behind the fences there is neither the system's resolver nor its certificates.

use crate::grants::Protocol;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unresolved {
    /// Nobody has that name.
    #[error("there is no such name")]
    NoSuchName,
    /// Whoever should know did not answer, or too many questions were asked at once.
    #[error("it cannot be found out now: {0}")]
    Temporary(String),
    /// The container may not ask.
    #[error("it may not be asked for")]
    Denied,
}

/// Addresses, or why there are none.
pub type Resolving = BoxFuture<'static, Result<Vec<IpAddr>, Unresolved>>;
/// Certificates in DER, one after the other, or why there are none.
pub type Roots = BoxFuture<'static, Result<Vec<Vec<u8>>, String>>;

/// Whoever is beyond the fences and answers.
pub trait Outside: std::fmt::Debug + Send + Sync {
    /// The addresses of a name, as the system's resolver has them.
    fn resolve(&self, name: &str) -> Resolving;
    /// The certificates that the system trusts.
    fn roots(&self) -> Roots;
    /// The addresses of those on the container's network who go by a name.
    fn peers(&self, name: &str) -> Resolving;
    /// Where the listener of a peer really is; none if nobody listens there.
    fn listener(&self, protocol: Protocol, at: SocketAddr) -> BoxFuture<'static, Option<SocketAddr>>;
    /// The guest listens: its peers shall find it there.
    fn listens(&self, protocol: Protocol, port: u16, real: SocketAddr);
}

/// Nobody answers.
#[derive(Debug)]
pub struct Nobody;

impl Outside for Nobody {
    fn resolve(&self, _: &str) -> Resolving {
        Box::pin(async { Err(Unresolved::Denied) })
    }

    fn roots(&self) -> Roots {
        Box::pin(async { Err("there is no egress".to_owned()) })
    }

    fn peers(&self, _: &str) -> Resolving {
        Box::pin(async { Err(Unresolved::Denied) })
    }

    fn listener(&self, _: Protocol, _: SocketAddr) -> BoxFuture<'static, Option<SocketAddr>> {
        Box::pin(async { None })
    }

    fn listens(&self, _: Protocol, _: u16, _: SocketAddr) {}
}
