//! What a sandbox has to ask of its keeper: behind the fences there is neither the system's resolver nor its certificates.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
}

/// Nobody answers: for guests that were granted no egress.
#[derive(Debug)]
pub struct Nobody;

impl Outside for Nobody {
    fn resolve(&self, _: &str) -> Resolving {
        Box::pin(async { Err(Unresolved::Denied) })
    }

    fn roots(&self) -> Roots {
        Box::pin(async { Err("there is no egress".to_owned()) })
    }
}
