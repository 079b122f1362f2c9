//! Registries: the client side of the OCI distribution specification (v1.1), which Docker's registries speak too.
//!
//! Knows names, digests and HTTP; knows nothing of the store. What comes is verified against what was asked for before
//! anybody sees it.
//!
//! ```text
//! hosts        certs.d/<host>/hosts.toml → the endpoints that are asked, in order
//! tls          certificates and keys → a TLS configuration
//! transport    a request → an answer: connections, proxies, redirects, back-off, deadlines
//! auth         a challenge and credentials → what is sent along
//! credentials  what `docker login` and `podman login` wrote, and what `sampan login` writes
//! repository   one repository at its endpoints: manifests, blobs, uploads
//! download     one blob, resumed where it broke off
//! file         a file of the web, for ADD
//! ```

mod auth;
pub mod credentials;
mod download;
mod error;
mod file;
mod hosts;
mod repository;
mod tls;
mod transport;

pub use credentials::{Credential, Credentials};
pub use download::Sink;
pub use error::RegistryError;
pub use file::{FetchError, fetch};
pub use hosts::Hosts;
pub use repository::{Access, Fetched, Repository, Uploaded};
pub use transport::Counter;

/// The result of what is asked of a registry.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Where registries are and who we are to them.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// The endpoints of each registry.
    pub hosts: Hosts,
    /// The credentials.
    pub credentials: Credentials,
}

impl Registries {
    /// As the environment and the files of this machine have it.
    #[must_use]
    pub fn from_env() -> Self {
        Self { hosts: Hosts::from_env(), credentials: Credentials::from_env() }
    }
}
