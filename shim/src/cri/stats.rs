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

impl Looked {
    fn cpu(&self, at: i64) -> Option<CpuUsage> {
        let used = self.used.as_ref()?;
        Some(CpuUsage { timestamp: at, usage_core_nano_seconds: some(used.cpu_ns), ..CpuUsage::default() })
    }

    fn memory(&self, at: i64) -> Option<MemoryUsage> {
        let used = self.used.as_ref()?;
        Some(MemoryUsage {
            timestamp: at,
            working_set_bytes: some(used.memory),
            available_bytes: some(used.memory_limit.saturating_sub(used.memory)),
            usage_bytes: some(used.memory),
            rss_bytes: some(used.memory),
            ..MemoryUsage::default()
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
                memory: Some(MemoryUsage {
                    timestamp: at,
                    working_set_bytes: some(sum(|used| used.memory)),
                    usage_bytes: some(sum(|used| used.memory)),
                    rss_bytes: some(sum(|used| used.memory)),
                    ..MemoryUsage::default()
                }),
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
