//! What containers and pods use, as kubelet's summary wants it.

use super::Node;
use super::containers::Known;
use super::pods::Pod;
use super::v1::{
    ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage, LinuxPodSandboxStats,
    MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats, ProcessUsage, UInt64Value,
};
use crate::client::SandboxClient;
use crate::v1::StatsResponse;
use futures::stream::{self, StreamExt};
use sampan_runtime::container::Status;
use sampan_runtime::store::files;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long one sandbox may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many are asked at once.
const AT_ONCE: usize = 16;

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn now() -> i64 {
    super::nanos(jiff::Timestamp::now())
}

/// A container, and what its sandbox says of it; `None` when it does not run.
#[derive(Debug)]
pub(super) struct Looked {
    pub known: Known,
    pub used: Option<StatsResponse>,
    layer: u64,
}

/// What a container makes the machine need: its own memory, and no less than its part of its sandbox's. An idle HTTP
/// service has no memory of its own, and who scales by memory takes nothing for "not known yet".
fn working_set(used: &StatsResponse) -> u64 {
    used.memory.max(used.pss / used.sharing.max(1))
}

fn memory(at: i64, working_set: u64, usage: u64) -> MemoryUsage {
    MemoryUsage {
        timestamp: at,
        working_set_bytes: some(working_set),
        usage_bytes: some(usage),
        rss_bytes: some(working_set),
        ..MemoryUsage::default()
    }
}

impl Looked {
    fn cpu(&self, at: i64) -> Option<CpuUsage> {
        let used = self.used.as_ref()?;
        Some(CpuUsage { timestamp: at, usage_core_nano_seconds: some(used.cpu_ns), ..CpuUsage::default() })
    }

    fn memory(&self, at: i64) -> Option<MemoryUsage> {
        let used = self.used.as_ref()?;
        Some(MemoryUsage {
            available_bytes: some(used.memory_limit.saturating_sub(used.memory)),
            ..memory(at, working_set(used), used.memory)
        })
    }

    pub fn stats(&self, layers: &Path) -> ContainerStats {
        let at = now();
        let config = self.known.asked.config();
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: self.known.id().to_owned(),
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            cpu: self.cpu(at),
            memory: self.memory(at),
            writable_layer: Some(FilesystemUsage {
                timestamp: at,
                fs_id: Some(FilesystemIdentifier { mountpoint: layers.to_string_lossy().into_owned() }),
                used_bytes: some(self.layer),
                inodes_used: some(0),
            }),
            ..ContainerStats::default()
        }
    }
}

impl Node {
    /// Asks the sandboxes of these.
    pub(super) async fn look(self: &Arc<Self>, all: Vec<Known>) -> Vec<Looked> {
        let ask = async |known: Known| {
            let asking = async {
                if !matches!(self.status_of(&known), Status::Running(_)) {
                    return None;
                }
                SandboxClient::connect(&known.container.socket(&self.store)).await.ok()?.stats(known.id()).await.ok()
            };
            let used = tokio::time::timeout(PATIENCE, asking).await.ok().flatten();
            let upper = sampan_runtime::rootfs::upper(&known.container.dir);
            let layer = tokio::task::spawn_blocking(move || files::tree_size(&upper)).await.unwrap_or_default();
            Looked { known, used, layer }
        };
        stream::iter(all).map(ask).buffered(AT_ONCE).collect().await
    }

    /// What a pod uses, of which these are the containers.
    pub(super) fn pod_stats(&self, pod: &Pod, containers: &[Looked]) -> PodSandboxStats {
        let at = now();
        let config = pod.config();
        let layers = self.store.containers();
        let mine: Vec<&Looked> = containers.iter().filter(|looked| looked.known.asked.pod == pod.id).collect();
        let sum = |get: fn(&StatsResponse) -> u64| {
            mine.iter().filter_map(|looked| looked.used.as_ref()).map(get).fold(0, u64::saturating_add)
        };
        let running = mine.iter().filter(|looked| looked.used.is_some()).count();
        let interface = NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: some(sum(|used| used.received)),
            tx_bytes: some(sum(|used| used.sent)),
            ..NetworkInterfaceUsage::default()
        };
        PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(CpuUsage {
                    timestamp: at,
                    usage_core_nano_seconds: some(sum(|used| used.cpu_ns)),
                    ..CpuUsage::default()
                }),
                memory: Some(memory(at, sum(working_set), sum(|used| used.memory))),
                network: Some(NetworkUsage { timestamp: at, default_interface: Some(interface), interfaces: vec![] }),
                process: Some(ProcessUsage {
                    timestamp: at,
                    // A keeper and a host for all of them.
                    process_count: some(if running > 0 { 2 } else { 0 }),
                }),
                containers: mine.iter().map(|looked| looked.stats(&layers)).collect(),
                ..LinuxPodSandboxStats::default()
            }),
            windows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_needs_its_own_memory_or_its_part_of_the_sandbox() {
        let used = |memory, pss, sharing| StatsResponse { memory, pss, sharing, ..StatsResponse::default() };
        assert_eq!(working_set(&used(0, 6000, 3)), 2000);
        assert_eq!(working_set(&used(5000, 6000, 3)), 5000);
        // A sandbox of an older version does not say how many.
        assert_eq!(working_set(&used(0, 6000, 0)), 6000);
    }
}
