//! Containers of pods: what is written down of them beside their record, and their life.

use super::pods::Pod;
use super::settings::{self, shown};
use super::v1::{
    Container as Listed, ContainerConfig, ContainerFilter, ContainerResources, ContainerState, ContainerStatus,
    ImageSpec, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode,
};
use super::{Node, identity, labelled, nanos, of_container, of_image, of_store};
use crate::client::SandboxClient;
use prost::Message;
use sampan_runtime::container::{self, Container, ContainerError, Status, Update, shared};
use sampan_runtime::grants::{Proc, Sees};
use sampan_runtime::image::Images;
use sampan_runtime::sandbox::log;
use sampan_runtime::store::{Durability, Lock, StoreError, files};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status as Refusal;

/// What kubelet asked for when it had a container made, in the container's directory.
const KEPT: &str = "cri.pb";

/// What is written down of a container beside its record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Asked {
    #[prost(string, tag = "1")]
    pub pod: String,
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// Where its log is; empty when nobody wants it.
    #[prost(string, tag = "3")]
    pub log: String,
}

impl Asked {
    pub fn config(&self) -> ContainerConfig {
        self.config.clone().unwrap_or_default()
    }
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub container: Container,
    pub asked: Asked,
}

impl Known {
    pub fn id(&self) -> &str {
        &self.container.record.id
    }

    fn of(container: Container) -> Option<Self> {
        let bytes = std::fs::read(container.dir.join(KEPT)).ok()?;
        let asked = Asked::decode(bytes.as_slice()).ok().filter(|asked| !asked.pod.is_empty())?;
        Some(Self { asked, container })
    }

    /// Whether a filter by the beginnings of ids, and by labels, wants it.
    pub fn fits(&self, id: &str, pod: &str, labels: &HashMap<String, String>) -> bool {
        let config = self.asked.config.as_ref();
        self.id().starts_with(id)
            && self.asked.pod.starts_with(pod)
            && config.is_some_and(|config| labelled(&config.labels, labels))
    }

    fn image(&self) -> ImageSpec {
        let spec = self.asked.config().image.unwrap_or_default();
        ImageSpec { image: shown(&spec, &spec.image), ..spec }
    }

    pub fn listed(&self, status: &Status) -> Listed {
        let config = self.asked.config();
        let record = &self.container.record;
        Listed {
            id: record.id.clone(),
            pod_sandbox_id: self.asked.pod.clone(),
            metadata: config.metadata,
            image: Some(self.image()),
            image_ref: record.image_id.clone(),
            image_id: record.image_id.clone(),
            state: state(status).into(),
            created_at: nanos(record.created),
            labels: config.labels,
            annotations: config.annotations,
        }
    }

    pub fn status(&self, status: &Status) -> ContainerStatus {
        let config = self.asked.config();
        let record = &self.container.record;
        let mut told = ContainerStatus {
            id: record.id.clone(),
            metadata: config.metadata,
            state: state(status).into(),
            created_at: nanos(record.created),
            image: Some(self.image()),
            image_ref: record.image_id.clone(),
            image_id: record.image_id.clone(),
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: self.asked.log.clone(),
            resources: Some(ContainerResources { linux: Some(self.resources()), windows: None }),
            ..ContainerStatus::default()
        };
        match status {
            Status::Created | Status::Restarting(_) => {}
            Status::Running(running) => told.started_at = nanos(running.started),
            Status::Exited(ended) => {
                told.started_at = ended.started.map(nanos).unwrap_or_default();
                told.finished_at = nanos(ended.finished);
                told.exit_code = ended.code.into();
                told.message = ended.error.clone().unwrap_or_default();
                told.reason = match ended.code {
                    _ if ended.out_of_memory => "OOMKilled",
                    0 => "Completed",
                    _ => "Error",
                }
                .into();
            }
        }
        told
    }

    fn resources(&self) -> LinuxContainerResources {
        let asked = self.asked.config().linux.and_then(|linux| linux.resources).unwrap_or_default();
        let limits = &self.container.record.limits;
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let period = if asked.cpu_period > 0 { asked.cpu_period } else { 100_000 };
        let quota = limits.nano_cpus.map(|cpus| signed(cpus).saturating_mul(period) / 1_000_000_000);
        LinuxContainerResources {
            memory_limit_in_bytes: limits.memory.map(signed).unwrap_or_default(),
            cpu_shares: limits.cpu_shares.map(signed).unwrap_or_default(),
            cpu_quota: quota.unwrap_or_default(),
            cpu_period: period,
            ..asked
        }
    }
}

fn state(status: &Status) -> ContainerState {
    match status {
        Status::Created => ContainerState::ContainerCreated,
        Status::Running(_) | Status::Restarting(_) => ContainerState::ContainerRunning,
        Status::Exited(_) => ContainerState::ContainerExited,
    }
}

impl Node {
    pub(super) fn containers(&self) -> Vec<Known> {
        container::list(&self.store).unwrap_or_default().into_iter().filter_map(Known::of).collect()
    }

    pub(super) fn containers_of(&self, pod: &str) -> Vec<Known> {
        self.containers().into_iter().filter(|known| known.asked.pod == pod).collect()
    }

    pub(super) fn container(&self, wanted: &str) -> Result<Known, Refusal> {
        let found = container::find(&self.store, wanted).map_err(of_container)?;
        Known::of(found).ok_or_else(|| Refusal::not_found(format!("{wanted} is no container of a pod")))
    }

    /// One that runs.
    pub(super) fn running(&self, wanted: &str) -> Result<Known, Refusal> {
        let known = self.container(wanted)?;
        match self.status_of(&known).is_running() {
            true => Ok(known),
            false => Err(Refusal::failed_precondition(format!("the container {} does not run", known.id()))),
        }
    }

    pub(super) fn status_of(&self, known: &Known) -> Status {
        known.container.status(&self.store)
    }

    pub(super) fn list_containers(&self, filter: Option<ContainerFilter>) -> Vec<Listed> {
        let filter = filter.unwrap_or_default();
        let fits = |known: &Known| known.fits(&filter.id, &filter.pod_sandbox_id, &filter.label_selector);
        let listed = |known: Known| known.listed(&self.status_of(&known));
        let in_state = |listed: &Listed| filter.state.is_none_or(|state| state.state == listed.state);
        self.containers().into_iter().filter(fits).map(listed).filter(in_state).collect()
    }

    /// Makes a container of a pod.
    pub(super) fn create(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Refusal> {
        let wanted = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = Images::new(&self.store).find(&wanted).map_err(of_image)?;
        let dir = self.pod_dir(&pod.id);
        let network = (!pod.on_node()).then(|| self.pod_network(&pod.id));
        let layers = Images::new(&self.store).layer_dirs(&image).map_err(of_image)?;
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let proc = Proc { sees: self.sees(pod, &security)?, ..identity::of(&security, &image, &layers)? };
        let handler = self.handlers.of(&pod.handler, &pod.config().annotations)?;
        let settings = settings::of(pod, handler, &dir, network, &config, proc)?;
        let log = match config.log_path.as_str() {
            "" => String::new(),
            path => Path::new(&pod.config().log_directory).join(path).to_string_lossy().into_owned(),
        };
        let made = container::create(&self.store, settings, Some(&image)).map_err(of_container)?;
        let asked = Asked { pod: pod.id.clone(), config: Some(config), log };
        let finish = || -> Result<(), Refusal> {
            if !asked.log.is_empty() {
                let link = log::place(&made.dir);
                std::os::unix::fs::symlink(&asked.log, &link)
                    .map_err(|e| of_store(StoreError::io("create", link)(e)))?;
            }
            // Without it a container is swept away: as little of it as of its pod outlives the power.
            files::write(&made.dir.join(KEPT), &asked.encode_to_vec(), Durability::Buffered).map_err(of_store)
        };
        finish().inspect_err(|_| drop(container::remove(&self.store, &made, false)))?;
        Ok(made.record.id)
    }

    /// Which programs of its pod a container sees. Where nothing is said, it is all.
    fn sees(&self, pod: &Pod, security: &LinuxContainerSecurityContext) -> Result<Sees, Refusal> {
        let options = security.namespace_options.clone().unwrap_or_default();
        let target = match options.pid() {
            NamespaceMode::Pod => return Ok(Sees::Sandbox),
            NamespaceMode::Container => return Ok(Sees::Own),
            NamespaceMode::Node => {
                let problem = "a Wasm program cannot see the processes of the node: take `hostPID` away";
                return Err(Refusal::invalid_argument(problem));
            }
            NamespaceMode::Target => self.container(&options.target_id)?,
        };
        if target.asked.pod != pod.id {
            let problem = format!("the container {} is not of this pod", target.id());
            return Err(Refusal::invalid_argument(problem));
        }
        Ok(match target.container.record.proc.as_ref().map(|proc| &proc.sees) {
            None | Some(Sees::Own) => Sees::Container(target.id().to_owned()),
            Some(other) => other.clone(),
        })
    }

    /// Starts a container in its pod's sandbox, which is made if there is none.
    pub(super) async fn start(self: &Arc<Self>, known: &Known) -> Result<(), Refusal> {
        let id = known.id();
        if let Status::Running(_) | Status::Exited(_) = self.status_of(known) {
            return Err(Refusal::failed_precondition(format!("the container {id} was started before")));
        }
        if !known.asked.log.is_empty() {
            // The file is there from the beginning, whatever the program says.
            open_log(&known.asked.log)?;
        }
        let sandbox = known.container.record.sandbox.clone().unwrap_or_default();
        if let Ok(client) = SandboxClient::connect(&shared::socket(&self.store, &sandbox)).await
            && let Some(answer) = client.join(id, None).await.map_err(|e| Refusal::unknown(e.to_string()))?
        {
            return match answer.code {
                0 => Ok(()),
                _ => Err(Refusal::unknown(answer.message)),
            };
        }
        let id = id.to_owned();
        let output = super::apart(self, move |node| {
            node.starter.start(&id).map_err(|e| Refusal::internal(format!("cannot start the sandbox's process: {e}")))
        });
        let output = output.await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Refusal::unknown(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// Ends a container within so many seconds. One that does not run has ended.
    pub(super) async fn stop(&self, known: &Known, grace: i64) -> Result<(), Refusal> {
        let (id, socket) = (known.id(), known.container.socket(&self.store));
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        while let Status::Running(_) = self.status_of(known) {
            let Ok(client) = SandboxClient::connect(&socket).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            match client.stop(id, grace).await {
                Err(error) if self.status_of(known).is_running() && !error.is_lost() => {
                    return Err(Refusal::unknown(error.to_string()));
                }
                _ => tokio::task::yield_now().await,
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, known: &Known) -> Result<(), Refusal> {
        loop {
            let runs = self.status_of(known).is_running();
            return match container::remove(&self.store, &known.container, true) {
                Err(_) if !known.container.dir.exists() => Ok(()),
                Err(ContainerError::NotFound(_)) => Ok(()),
                // Its keeper has written down its end, and lets go of it in a moment.
                Err(ContainerError::Running { .. }) if !runs => {
                    drop(Lock::wait(&known.container.dir.join("lock")));
                    continue;
                }
                other => other.map_err(of_container),
            };
        }
    }

    /// Changes what a container may use, also while it runs.
    pub(super) async fn update(&self, known: &Known, wanted: &LinuxContainerResources) -> Result<(), Refusal> {
        let resources = settings::limits(wanted).resources();
        if let Status::Running(_) = self.status_of(known) {
            let client = SandboxClient::connect(&known.container.socket(&self.store)).await;
            let client = client.map_err(|e| Refusal::unavailable(e.to_string()))?;
            client.limit(known.id(), &resources).await.map_err(|e| Refusal::failed_precondition(e.to_string()))?;
        }
        container::update(&known.container, Update { restart: None, resources }).map_err(of_container)
    }

    /// Makes a container's log anew where kubelet has renamed it: its keeper sees that with its next line.
    pub(super) fn reopen_log(&self, known: &Known) -> Result<(), Refusal> {
        if known.asked.log.is_empty() { Ok(()) } else { open_log(&known.asked.log) }
    }

    /// Takes away containers that a killed server had not finished making.
    pub(super) fn sweep_containers(&self) {
        for made in container::list(&self.store).unwrap_or_default() {
            let of_pod = made.record.sandbox.as_ref().is_some_and(|name| name.starts_with("pod-"));
            if of_pod && Known::of(made.clone()).is_none() {
                let _ = container::remove(&self.store, &made, true);
            }
        }
    }
}

fn open_log(path: &str) -> Result<(), Refusal> {
    let path = PathBuf::from(path);
    let open = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::File::options().create(true).append(true).open(&path).map(drop)
    };
    open().map_err(|e| of_store(StoreError::io("open the log", &path)(e)))
}
