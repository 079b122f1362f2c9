//! What a container of containerd's is granted, beside what its bundle says.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sampan_runtime::config::Config;
use sampan_runtime::grants::{Egress, Grants, Network};
use sampan_runtime::network::namespace;
use std::path::Path;

/// What a pod's container is, in the annotations of containerd's CRI.
const TYPE: &str = "io.kubernetes.cri.container-type";
/// Whom a container may call.
const EGRESS: &str = "dev.sampan.allow-net";
/// How it is connected.
const NETWORK: &str = "dev.sampan.network";

fn note<'s>(spec: &'s Spec, key: &str) -> Option<&'s str> {
    spec.annotations().as_ref().and_then(|all| all.get(key)).map(String::as_str)
}

/// Whether a container stands for its pod, and runs nothing.
pub(super) fn is_pod(spec: &Spec) -> bool {
    note(spec, TYPE) == Some("sandbox")
}

/// Completes what a bundle grants. What the network reaches is for its namespace to say, unless the bundle's annotations do;
/// a program may start those of its tree.
pub(super) fn complete(spec: &Spec, grants: &mut Grants, config: &Config) -> Result<(), String> {
    refuse(spec)?;
    if note(spec, NETWORK).is_none() {
        grants.network = Network::Host;
    }
    if note(spec, EGRESS).is_none() && grants.network == Network::Host {
        grants.egress = Egress::parse("all,0.0.0.0/0,::/0").map_err(|e| e.to_string())?;
    }
    grants.egress.extend(config.egress(grants.network));
    grants.spawn = true;
    if grants.cwd != "/" && !grants.env.iter().any(|variable| variable.starts_with("PWD=")) {
        // Programs for WASI 0.1 have no other way to learn it.
        grants.env.push(format!("PWD={}", grants.cwd));
    }
    Ok(())
}

/// What would mislead its user if it were ignored.
fn refuse(spec: &Spec) -> Result<(), String> {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    if let Some(device) = devices.first() {
        let path = device.path().display();
        return Err(format!("a Wasm program cannot have the device {path}: it has no system calls for it"));
    }
    let hooks = spec.hooks().as_ref().and_then(|hooks| {
        let all = [
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ];
        all.into_iter().flatten().flatten().next()
    });
    if let Some(hook) = hooks {
        let path = hook.path().display();
        return Err(format!("the bundle wants the hook {path} to be run, and hooks are not supported: leave it out"));
    }
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let network = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    match network.and_then(|network| network.path().as_deref()).filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => same_network(path),
        None => Ok(()),
    }
}

/// All containers of a sandbox have one network.
fn same_network(path: &Path) -> Result<(), String> {
    match namespace::is_in(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "the container is to be in the network namespace {}, and the sandbox of its group is in another: give it a \
             group of its own",
            path.display()
        )),
        Err(e) => Err(format!("cannot look at the network namespace {}: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(more: &str) -> Result<Grants, String> {
        let process = r#""process":{"user":{"uid":0,"gid":0},"args":["/a"],"cwd":"/"},"root":{"path":"rootfs"}"#;
        let spec: Spec = serde_json::from_str(&format!(r#"{{"ociVersion":"1.0.2",{process}{more}}}"#)).unwrap();
        let mut grants = Grants::from_spec(&spec).unwrap();
        complete(&spec, &mut grants, &Config::default()).map(|()| grants)
    }

    #[test]
    fn the_namespace_is_the_fence_unless_the_bundle_has_one() {
        let open = completed("").unwrap();
        assert!(open.network == Network::Host && !open.egress.is_empty() && open.spawn);
        let narrow = completed(r#","annotations":{"dev.sampan.allow-net":"10.0.0.0/8"}"#).unwrap();
        assert_eq!(narrow.egress, Egress::parse("10.0.0.0/8").unwrap());
        let none = completed(r#","annotations":{"dev.sampan.network":"none"}"#).unwrap();
        assert!(none.network == Network::None && none.egress.is_empty());
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let device = r#","linux":{"devices":[{"path":"/dev/kvm","type":"c","major":10,"minor":232}]}"#;
        assert!(completed(device).unwrap_err().contains("/dev/kvm"));
        let hook = r#","hooks":{"createRuntime":[{"path":"/usr/bin/nerdctl"}]}"#;
        assert!(completed(hook).unwrap_err().contains("/usr/bin/nerdctl"));
        let namespace = |path| format!(r#","linux":{{"namespaces":[{{"type":"network","path":"{path}"}}]}}"#);
        assert!(completed(&namespace("/proc/self/ns/net")).is_ok());
        assert!(completed(&namespace("/proc/self/ns/mnt")).unwrap_err().contains("/proc/self/ns/mnt"));
    }
}
