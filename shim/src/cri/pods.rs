//! Pods: what is written down of them, and their life.
//!
//! `pods/<id>/` in the store has `pod.pb`, which makes it a pod, and the files that its containers see: `resolv.conf` and
//! `hostname`. Its network namespace is a file in the run directory, which a reboot takes away.

use super::containers::Known;
use super::v1::{
    NamespaceMode, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus,
};
use super::{Node, labelled, nanos, network, of_store};
use prost::Message;
use sampan_runtime::container::id;
use sampan_runtime::sandbox::cgroup;
use sampan_runtime::store::{Durability, StoreError, files};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tonic::Status;

/// What is written down of a pod.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pod {
    #[prost(string, tag = "1")]
    pub id: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "2")]
    pub created: i64,
    #[prost(bool, tag = "3")]
    pub stopped: bool,
    #[prost(string, tag = "4")]
    pub handler: String,
    #[prost(message, optional, tag = "5")]
    pub config: Option<PodSandboxConfig>,
    /// Its addresses; none on the node's own network.
    #[prost(string, repeated, tag = "6")]
    pub addresses: Vec<String>,
    /// Which boot of the machine it belongs to.
    #[prost(string, tag = "7")]
    pub boot: String,
}

const RECORD: &str = "pod.pb";

impl Pod {
    pub fn config(&self) -> PodSandboxConfig {
        self.config.clone().unwrap_or_default()
    }

    pub fn metadata(&self) -> PodSandboxMetadata {
        self.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default()
    }

    /// The name of the sandbox that its containers share.
    pub fn sandbox(&self) -> String {
        format!("pod-{}", id::short(&self.id))
    }

    /// The cgroup of its sandbox, beneath the one that kubelet has made for the pod.
    pub fn cgroup(&self) -> Option<String> {
        let parent = self.config.as_ref()?.linux.as_ref()?.cgroup_parent.trim_end_matches('/').to_owned();
        (!parent.is_empty()).then(|| format!("{parent}/{}{}", cgroup::OWN, id::short(&self.id)))
    }

    /// Whether it is on the node's own network.
    pub fn on_node(&self) -> bool {
        on_node(&self.config())
    }

    /// Whether a filter by the beginning of an id, and by labels, wants it.
    pub fn fits(&self, id: &str, labels: &HashMap<String, String>) -> bool {
        self.id.starts_with(id) && self.config.as_ref().is_some_and(|config| labelled(&config.labels, labels))
    }

    fn state(&self) -> PodSandboxState {
        let ready = !self.stopped && self.boot == boot();
        if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }

    fn listed(self) -> PodSandbox {
        let state = self.state().into();
        let config = self.config.unwrap_or_default();
        PodSandbox {
            id: self.id,
            metadata: config.metadata,
            state,
            created_at: self.created,
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: self.handler,
        }
    }
}

fn on_node(config: &PodSandboxConfig) -> bool {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

/// Which boot of the machine this is (random(4)).
fn boot() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Settings of a pod that would change what its containers may do, and that we do not have.
fn refuse_what_is_not_there(config: &PodSandboxConfig) -> Result<(), Status> {
    // That one of its containers wants to be privileged is refused to that one: the pod itself runs nothing.
    match config.linux.as_ref().and_then(|linux| linux.sysctls.keys().next()) {
        None => Ok(()),
        Some(sysctl) => Err(Status::invalid_argument(format!(
            "the pod sets the sysctl {sysctl}, and its programs have no kernel of their own: take it away"
        ))),
    }
}

impl Node {
    fn pods_dir(&self) -> PathBuf {
        self.store.root().join("pods")
    }

    /// Where a pod's files lie.
    pub(super) fn pod_dir(&self, id: &str) -> PathBuf {
        self.pods_dir().join(id)
    }

    /// The file that stands for a pod's network namespace.
    pub(super) fn pod_network(&self, id: &str) -> PathBuf {
        self.store.run_path().join("netns").join(id::short(id))
    }

    fn read_pod(&self, dir: &Path) -> Option<Pod> {
        // After a power cut it may be empty.
        Pod::decode(std::fs::read(dir.join(RECORD)).ok()?.as_slice()).ok().filter(|pod| !pod.id.is_empty())
    }

    fn write_pod(&self, pod: &Pod) -> Result<(), Status> {
        let path = self.pod_dir(&pod.id).join(RECORD);
        // No pod outlives the power: kubelet makes another, and one that is lost here is as one that is not ready.
        files::write(&path, &pod.encode_to_vec(), Durability::Buffered).map_err(of_store)
    }

    pub(super) fn pods(&self) -> Vec<Pod> {
        let entries = std::fs::read_dir(self.pods_dir()).into_iter().flatten().flatten();
        let mut all: Vec<Pod> = entries.filter_map(|entry| self.read_pod(&entry.path())).collect();
        all.sort_by_key(|pod| std::cmp::Reverse(pod.created));
        all
    }

    /// The pod of this id, or the only one whose id begins so.
    pub(super) fn pod(&self, wanted: &str) -> Result<Pod, Status> {
        let not_found = || Status::not_found(format!("there is no pod {wanted:?}"));
        if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        if let Some(pod) = self.read_pod(&self.pod_dir(wanted)) {
            return Ok(pod);
        }
        let mut fits = self.pods().into_iter().filter(|pod| pod.id.starts_with(wanted));
        match (fits.next(), fits.next()) {
            (Some(pod), None) => Ok(pod),
            _ => Err(not_found()),
        }
    }

    /// Makes a pod: its files, its network namespace and its record, which comes last.
    pub(super) fn run_pod(&self, config: PodSandboxConfig, handler: String) -> Result<String, Status> {
        self.handlers.of(&handler, &config.annotations)?;
        refuse_what_is_not_there(&config)?;
        let metadata = config.metadata.clone().unwrap_or_default();
        if metadata.name.is_empty() || metadata.uid.is_empty() {
            return Err(Status::invalid_argument("a pod needs metadata with a name and a uid"));
        }
        if self.pods().iter().any(|pod| pod.metadata() == metadata) {
            let PodSandboxMetadata { name, namespace, attempt, .. } = metadata;
            return Err(Status::already_exists(format!("the pod {namespace}/{name} is there, attempt {attempt}")));
        }
        let id = super::draw_id()?;
        let dir = self.pod_dir(&id);
        let mut pod = Pod {
            id: id.clone(),
            created: nanos(jiff::Timestamp::now()),
            handler,
            config: Some(config),
            boot: boot(),
            ..Pod::default()
        };
        let made = self.fill_pod(&dir, &mut pod).and_then(|()| self.write_pod(&pod));
        if let Err(error) = made {
            network::take_down(self, &pod);
            let _ = files::remove_tree(&dir);
            return Err(error);
        }
        Ok(id)
    }

    fn fill_pod(&self, dir: &Path, pod: &mut Pod) -> Result<(), Status> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |e| of_store(StoreError::io(action, path)(e))
        };
        std::fs::create_dir_all(dir).map_err(io("create", dir))?;
        let config = pod.config();
        if !config.log_directory.is_empty() {
            let logs = Path::new(&config.log_directory);
            std::fs::create_dir_all(logs).map_err(io("create", logs))?;
        }
        let resolv_conf = dir.join("resolv.conf");
        std::fs::write(&resolv_conf, self.resolv_conf(&config)).map_err(io("write", &resolv_conf))?;
        let hostname = dir.join("hostname");
        std::fs::write(&hostname, format!("{}\n", host_name(pod))).map_err(io("write", &hostname))?;
        if !pod.on_node() {
            pod.addresses = network::set_up(self, pod)?;
        }
        Ok(())
    }

    /// As kubelet wants it, or the node's own.
    fn resolv_conf(&self, config: &PodSandboxConfig) -> String {
        match &config.dns_config {
            Some(dns) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
                let mut text: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
                if !dns.searches.is_empty() {
                    text.push_str(&format!("search {}\n", dns.searches.join(" ")));
                }
                if !dns.options.is_empty() {
                    text.push_str(&format!("options {}\n", dns.options.join(" ")));
                }
                text
            }
            _ => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        }
    }

    /// Ends what runs in a pod, and takes its network down.
    pub(super) async fn stop_pod(self: &std::sync::Arc<Self>, wanted: &str) -> Result<(), Status> {
        let Ok(mut pod) = self.pod(wanted) else { return Ok(()) };
        for known in self.containers_of(&pod.id) {
            self.stop(&known, 0).await?;
        }
        super::apart(self, move |node| {
            network::take_down(node, &pod);
            pod.stopped = true;
            node.write_pod(&pod)?;
            if let Some(cgroup) = pod.cgroup() {
                cgroup::remove(&cgroup);
            }
            Ok(())
        })
        .await
    }

    /// Removes a pod and its containers.
    pub(super) async fn remove_pod(self: &std::sync::Arc<Self>, wanted: &str) -> Result<(), Status> {
        let Ok(pod) = self.pod(wanted) else { return Ok(()) };
        self.stop_pod(&pod.id).await?;
        let containers: Vec<Known> = self.containers_of(&pod.id);
        super::apart(self, move |node| {
            for known in &containers {
                node.remove(known)?;
            }
            // Without its record it is no pod any more; the rest goes now, or with a sweep.
            let dir = node.pod_dir(&pod.id);
            let _ = std::fs::remove_file(dir.join(RECORD));
            files::remove_tree(&dir).map_err(of_store)
        })
        .await
    }

    pub(super) fn pod_status(&self, pod: &Pod) -> PodSandboxStatus {
        let config = pod.config();
        let mut addresses = pod.addresses.iter().cloned();
        let ip = addresses.next().unwrap_or_default();
        let additional_ips = addresses.map(|ip| super::v1::PodIp { ip }).collect();
        let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = options.and_then(|context| context.namespace_options.clone());
        PodSandboxStatus {
            id: pod.id.clone(),
            metadata: config.metadata,
            state: pod.state().into(),
            created_at: pod.created,
            network: Some(PodSandboxNetworkStatus { ip, additional_ips }),
            linux: Some(super::v1::LinuxPodSandboxStatus { namespaces: Some(super::v1::Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: pod.handler.clone(),
        }
    }

    pub(super) fn list_pods(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let fits = |pod: &Pod| {
            pod.fits(&filter.id, &filter.label_selector)
                && filter.state.is_none_or(|wanted| wanted.state == i32::from(pod.state()))
        };
        self.pods().into_iter().filter(fits).map(Pod::listed).collect()
    }

    /// Takes away what a killed server has left half made.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(self.pods_dir()).into_iter().flatten().flatten() {
            if self.read_pod(&entry.path()).is_none() {
                let id = entry.file_name().to_string_lossy().into_owned();
                network::take_down(self, &Pod { id, ..Pod::default() });
                let _ = files::remove_tree(&entry.path());
            }
        }
        self.sweep_containers();
    }
}

/// What a pod's containers call their machine.
pub(super) fn host_name(pod: &Pod) -> String {
    let config = pod.config();
    if !config.hostname.is_empty() {
        return config.hostname;
    }
    let of_node = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    if pod.on_node() { of_node() } else { id::short(&pod.id).to_owned() }
}
