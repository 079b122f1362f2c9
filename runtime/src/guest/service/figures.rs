//! What is counted of a service.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the latency histogram's buckets, in microseconds; one more bucket has what took longer.
pub const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The counts of one service, of all of its life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many requests were answered, by status.
    pub requests: Vec<(u16, u64)>,
    /// How many requests took up to each of [`BOUNDS`], and how many took longer: from the end of the request's head to
    /// the beginning of its answer. Not cumulative.
    pub latency: Vec<u64>,
    /// The sum of these times, in microseconds.
    pub latency_sum_us: u64,
    /// How many instances answer requests at this moment.
    pub in_use: u64,
    /// How many instances have been made.
    pub instances: u64,
    /// How long making them took in all, in microseconds.
    pub instantiation_us: u64,
    /// How many connections are open at this moment.
    pub connections: u64,
}

/// Counts as they are counted.
pub(crate) struct Figures {
    /// From 100 up.
    statuses: [AtomicU64; 500],
    latency: [AtomicU64; BOUNDS.len() + 1],
    latency_sum: AtomicU64,
    in_use: AtomicU64,
    instances: AtomicU64,
    /// In nanoseconds: one takes some tens of microseconds.
    instantiation: AtomicU64,
    connections: AtomicU64,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Default for Figures {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            statuses: std::array::from_fn(|_| zero()),
            latency: std::array::from_fn(|_| zero()),
            latency_sum: zero(),
            in_use: zero(),
            instances: zero(),
            instantiation: zero(),
            connections: zero(),
        }
    }
}

impl Figures {
    pub(super) fn answered(&self, status: u16, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.statuses.get(usize::from(status.saturating_sub(100))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = self.latency.get(BOUNDS.partition_point(|bound| *bound < micros)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.latency_sum.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn instantiated(&self, took: Duration) {
        self.instances.fetch_add(1, Ordering::Relaxed);
        self.instantiation.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts an instance that answers, until the value is dropped.
    pub(super) fn using(self: &Arc<Self>) -> Gauge {
        Gauge::new(self, |figures| &figures.in_use)
    }

    /// Counts a connection, until the value is dropped.
    pub(super) fn connection(self: &Arc<Self>) -> Gauge {
        Gauge::new(self, |figures| &figures.connections)
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let status = |(n, count): (u16, &AtomicU64)| (n, read(count));
        Counts {
            requests: (100..).zip(&self.statuses).map(status).filter(|(_, count)| *count > 0).collect(),
            latency: self.latency.iter().map(read).collect(),
            latency_sum_us: read(&self.latency_sum),
            in_use: read(&self.in_use),
            instances: read(&self.instances),
            instantiation_us: read(&self.instantiation) / 1000,
            connections: read(&self.connections),
        }
    }
}

/// One more, for as long as it lives.
pub(super) struct Gauge {
    figures: Arc<Figures>,
    which: fn(&Figures) -> &AtomicU64,
}

impl Gauge {
    fn new(figures: &Arc<Figures>, which: fn(&Figures) -> &AtomicU64) -> Self {
        which(figures).fetch_add(1, Ordering::Relaxed);
        Self { figures: Arc::clone(figures), which }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.which)(&self.figures).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fall_into_their_buckets() {
        let figures = Arc::new(Figures::default());
        for (status, micros) in [(200, 100), (200, 101), (599, 20_000_000), (999, 0)] {
            figures.answered(status, Duration::from_micros(micros));
        }
        let using = figures.using();
        let counts = figures.counts();
        assert_eq!(counts.requests, [(200, 2), (599, 1)]);
        assert_eq!((counts.latency[0], counts.latency[1], counts.latency[BOUNDS.len()]), (2, 1, 1));
        assert_eq!((counts.latency.len(), counts.in_use), (BOUNDS.len() + 1, 1));
        drop(using);
        assert_eq!(figures.counts().in_use, 0);
    }
}
