//! What a container has used of its machine, as its sandbox counts it.

use super::account::Account;
use crate::network::traffic::Traffic;
use serde::{Deserialize, Serialize};

/// What a container has used since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// How long its threads have been on a processor, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it was held up because it was ahead of its share of the processors, and how long, in microseconds.
    pub held: u64,
    /// See `held`.
    pub held_us: u64,
    /// How many bytes of memory are on its account at this moment.
    pub memory: u64,
    /// How many may be.
    pub memory_limit: u64,
    /// How many instances it has at this moment: its program and those that this has started, or what answers requests.
    pub instances: u64,
    /// How many bytes have come to its sockets.
    pub received: u64,
    /// How many have left them.
    pub sent: u64,
    /// The threads that work for it, by the system's numbers.
    pub tasks: Vec<u32>,
}

impl Usage {
    /// What is on an account at this moment, and what has passed the network.
    pub(super) fn of(account: &Account, traffic: &Traffic) -> Self {
        let cpu = account.cpu();
        let ((held, held_for), (received, sent)) = (cpu.held_up(), traffic.counts());
        Self {
            cpu_ns: u64::try_from(cpu.used().as_nanos()).unwrap_or(u64::MAX),
            held,
            held_us: u64::try_from(held_for.as_micros()).unwrap_or(u64::MAX),
            memory: account.memory(),
            memory_limit: account.memory_limit(),
            instances: account.instances(),
            received,
            sent,
            tasks: cpu.tasks(),
        }
    }
}
