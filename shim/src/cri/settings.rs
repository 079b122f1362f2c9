//! A container as kubelet asks for it → settings.

use super::handlers::Handler;
use super::pods::{Pod, host_name};
use super::v1::{ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, MountPropagation};
use sampan_runtime::container::health::Check;
use sampan_runtime::container::{Inside, MountRequest, MountSource, Settings};
use sampan_runtime::grants::{Limits, Network, Paths, Proc};
use sampan_runtime::sandbox::log;
use std::path::{Path, PathBuf};
use tonic::Status;

/// What would mislead its user if it were ignored.
fn refuse(config: &ContainerConfig, security: &LinuxContainerSecurityContext) -> Result<(), Status> {
    let no = |problem: String| Err(Status::invalid_argument(problem));
    if security.privileged {
        return no(
            "a Wasm program cannot be privileged: there is no host for it to have; take `privileged` away".into()
        );
    }
    if security.run_as_group.is_some() && security.run_as_user.is_none() && security.run_as_username.is_empty() {
        return no("runAsGroup is set without runAsUser: a group is a user's".into());
    }
    if let Some(device) = config.devices.first() {
        return no(format!(
            "a Wasm program cannot have the device {}: it has no system calls for it",
            device.host_path
        ));
    }
    if let Some(mount) = config.mounts.iter().find(|m| m.propagation() == MountPropagation::PropagationBidirectional) {
        let path = &mount.container_path;
        return no(format!("the mount at {path} cannot be Bidirectional: a Wasm program mounts nothing"));
    }
    let mut recursive = config.mounts.iter().filter(|m| m.recursive_read_only);
    if let Some(mount) = recursive.find(|m| !m.readonly || m.propagation() != MountPropagation::PropagationPrivate) {
        let path = &mount.container_path;
        return no(format!(
            "the mount at {path} is to be read-only with all below it, so it must be read-only and private"
        ));
    }
    if let Some(mount) = config.mounts.iter().find(|m| m.image.as_ref().is_some_and(|image| !image.image.is_empty())) {
        return no(format!(
            "the mount at {} is of an image, and only paths of the node can be mounted",
            mount.container_path
        ));
    }
    Ok(())
}

/// The settings of a container of this pod, whose files lie in `dir`; `proc` is what its programs are told of themselves.
pub(super) fn of(
    pod: &Pod,
    handler: Handler,
    dir: &Path,
    network: Option<PathBuf>,
    config: &ContainerConfig,
    proc: Proc,
) -> Result<Settings, Status> {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    refuse(config, &security)?;
    let metadata = config.metadata.clone().unwrap_or_default();
    let of_pod = pod.metadata();
    let name =
        format!("k8s_{}_{}_{}_{}_{}", metadata.name, of_pod.name, of_pod.namespace, of_pod.uid, metadata.attempt);
    let mut env = vec![format!("HOSTNAME={}", host_name(pod))];
    env.extend(
        config.envs.iter().map(|variable| format!("{}={}", variable.key, String::from_utf8_lossy(&variable.value))),
    );
    Ok(Settings {
        // Longer ones are drawn; ps shows the labels too.
        name: Some(name).filter(|name| name.len() <= 200),
        image: config.image.as_ref().map(|image| shown(image, &image.image)).unwrap_or_default(),
        entrypoint: Some(config.command.clone()).filter(|command| !command.is_empty()),
        command: config.args.clone(),
        env,
        working_dir: Some(config.working_dir.clone()).filter(|dir| !dir.is_empty()),
        labels: config.labels.clone().into_iter().collect(),
        sandbox: Some(pod.sandbox()),
        inside: Inside {
            network,
            resolv_conf: Some(dir.join("resolv.conf")),
            hosts: mounted(config, "/etc/hosts"),
            cgroup: pod.cgroup(),
        },
        mounts: mounts(config, dir),
        proc: Some(proc),
        read_only: security.readonly_rootfs,
        paths: Paths {
            masked: security.masked_paths.iter().map(PathBuf::from).collect(),
            read_only: security.readonly_paths.iter().map(PathBuf::from).collect(),
        },
        network: Network::Host,
        egress: handler.egress,
        open_stdin: config.stdin,
        tty: config.tty,
        allow_spawn: handler.spawn,
        limits: limits(&linux.resources.unwrap_or_default()),
        log: log::Config { driver: log::Driver::Cri, max_size: None, max_files: 1 },
        // kubelet has probes of its own.
        health: Check { test: vec!["NONE".into()], ..Check::default() },
        ..Settings::default()
    })
}

/// What the pod's user calls the image; kubelet names it by its id.
pub(super) fn shown(image: &super::v1::ImageSpec, otherwise: &str) -> String {
    match image.user_specified_image.as_str() {
        "" => otherwise.to_owned(),
        name => name.to_owned(),
    }
}

/// The path of the node that is seen at a path of the container.
fn mounted(config: &ContainerConfig, path: &str) -> Option<PathBuf> {
    config.mounts.iter().find(|mount| mount.container_path == path).map(|mount| mount.host_path.clone().into())
}

fn mounts(config: &ContainerConfig, dir: &Path) -> Vec<MountRequest> {
    let asked = config.mounts.iter().map(|mount| MountRequest {
        source: MountSource::Bind { path: mount.host_path.clone().into(), create: true },
        destination: mount.container_path.clone(),
        writable: !mount.readonly,
        shallow: !mount.recursive_read_only,
    });
    let files = ["resolv.conf", "hostname"].map(|name| (dir.join(name), format!("/etc/{name}")));
    let ours = files.into_iter().filter_map(|(path, destination)| {
        let source = MountSource::Bind { path, create: false };
        let asked = mounted(config, &destination).is_some();
        (!asked).then_some(MountRequest { source, destination, writable: false, shallow: false })
    });
    asked.chain(ours).collect()
}

/// The limits of a container: bytes of memory, and a share of the processors.
pub(super) fn limits(resources: &LinuxContainerResources) -> Limits {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let quota = positive(resources.cpu_quota);
    let period = positive(resources.cpu_period).unwrap_or(100_000);
    let cpus = quota.map(|quota| u128::from(quota) * 1_000_000_000 / u128::from(period));
    Limits {
        memory: positive(resources.memory_limit_in_bytes).map(|bytes| bytes.max(Limits::LEAST_MEMORY)),
        nano_cpus: cpus.and_then(|cpus| u64::try_from(cpus).ok()).map(|cpus| cpus.max(Limits::LEAST_CPU)),
        cpu_shares: positive(resources.cpu_shares),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_part_of_its_period() {
        let resources = LinuxContainerResources { cpu_quota: 50_000, cpu_period: 100_000, ..Default::default() };
        assert_eq!(limits(&resources).nano_cpus, Some(500_000_000));
        assert_eq!(limits(&LinuxContainerResources { cpu_quota: -1, ..Default::default() }).nano_cpus, None);
        assert_eq!(
            limits(&LinuxContainerResources { memory_limit_in_bytes: 1, ..Default::default() }).memory,
            Some(65536)
        );
    }
}
