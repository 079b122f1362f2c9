//! How often a guest was refused something of the network.

use super::Denied;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a guest was refused since its start, each time counted, also what is told once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Binds to ports that were not granted.
    pub binds: u64,
    /// Connections and datagrams to peers that were not granted.
    pub connections: u64,
    /// Look-ups of names that were not granted.
    pub look_ups: u64,
    /// HTTP requests to authorities that were not granted. One to a name on a network with peers counts as a look-up.
    pub requests: u64,
}

impl Refusals {
    /// How many there were of all kinds.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.binds + self.connections + self.look_ups + self.requests
    }
}

/// Refusals as they are counted.
#[derive(Debug, Default)]
pub struct Counting {
    binds: AtomicU64,
    connections: AtomicU64,
    look_ups: AtomicU64,
    requests: AtomicU64,
}

impl Counting {
    pub(super) fn count(&self, denied: &Denied) {
        let count = match denied {
            Denied::Bind(_) => &self.binds,
            Denied::Name(_) | Denied::Leads { .. } => &self.look_ups,
            Denied::Peer(_) | Denied::Port { .. } => &self.connections,
            Denied::Request(_) => &self.requests,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted so far.
    #[must_use]
    pub fn so_far(&self) -> Refusals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Refusals {
            binds: read(&self.binds),
            connections: read(&self.connections),
            look_ups: read(&self.look_ups),
            requests: read(&self.requests),
        }
    }
}
