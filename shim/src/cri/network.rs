//! A pod's network: a namespace, and the plugins of the Container Network Interface that connect it
//! (<https://www.cni.dev/docs/spec/>, version 1.0.0).

use super::pods::Pod;
use super::{Node, Options};
use sampan_runtime::network::namespace;
use sampan_runtime::store::{Durability, files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tonic::Status;

/// What the interface in the pod is called.
const INTERFACE: &str = "eth0";
/// What the plugins were told and have answered, in the pod's directory.
const KEPT: &str = "cni.json";

/// A configuration: plugins that are called one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Network {
    #[serde(default, rename = "cniVersion")]
    version: String,
    name: String,
    plugins: Vec<Map<String, Value>>,
    #[serde(default, rename = "disableCheck")]
    disable_check: bool,
}

/// What is kept of a pod's connection, so that it is taken down as it was set up.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    network: Network,
    runtime: Value,
    result: Value,
}

/// The first configuration of the directory, by name.
fn find(options: &Options) -> Result<Network, String> {
    let dir = &options.cni_configs;
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.retain(|path| {
        path.extension().is_some_and(|kind| ["conf", "conflist", "json"].iter().any(|known| kind == *known))
    });
    all.sort();
    let path = all.first().ok_or_else(|| {
        format!(
            "there is no CNI configuration in {}: put one there, as a network of Kubernetes does when it is installed, or run \
             pods on the node's own network (hostNetwork)",
            dir.display()
        )
    })?;
    let read = || -> Result<Network, String> {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        let whole: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        if whole.contains_key("plugins") {
            return serde_json::from_value(Value::Object(whole)).map_err(|e| e.to_string());
        }
        let text = |key: &str| whole.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Network { version: text("cniVersion"), name: text("name"), plugins: vec![whole], disable_check: false })
    };
    read().map_err(|reason| format!("the CNI configuration {} cannot be read: {reason}", path.display()))
}

/// Why a pod cannot be connected at this moment, if it cannot.
pub(super) fn trouble(options: &Options) -> Option<String> {
    find(options).err()
}

/// Makes the pod's namespace and connects it; its addresses.
pub(super) fn set_up(node: &Node, pod: &Pod) -> Result<Vec<String>, Status> {
    let network = find(&node.options).map_err(Status::failed_precondition)?;
    let path = node.pod_network(&pod.id);
    namespace::make(&path)
        .map_err(|e| Status::internal(format!("cannot make the network namespace {}: {e}", path.display())))?;
    let mut kept = Kept { network, runtime: port_mappings(pod), result: Value::Null };
    // Written before, so that what is half done is undone.
    let keep = |kept: &Kept| {
        files::write_json(&node.pod_dir(&pod.id).join(KEPT), kept, Durability::Buffered).map_err(super::of_store)
    };
    keep(&kept)?;
    for plugin in &kept.network.plugins {
        let call = Call { node, pod, network: &kept.network, runtime: &kept.runtime, command: "ADD" };
        let result = call.plugin(plugin, &kept.result).map_err(Status::unavailable)?;
        kept.result = serde_json::from_slice(&result)
            .map_err(|e| Status::unavailable(format!("the CNI plugin {} answers no JSON: {e}", kind(plugin))))?;
    }
    keep(&kept)?;
    let ips = kept.result.get("ips").and_then(Value::as_array).cloned().unwrap_or_default();
    let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next().map(str::to_owned);
    let addresses: Vec<String> = ips.iter().filter_map(address).collect();
    match addresses.is_empty() {
        true => Err(Status::unavailable(format!("the CNI network {} gave the pod no address", kept.network.name))),
        false => Ok(addresses),
    }
}

/// How a pod is connected: what the plugins have answered, and what they find now (CHECK, of which versions before 0.4.0 know
/// nothing).
pub(super) fn look(node: &Node, pod: &Pod) -> Option<Value> {
    let kept: Kept = files::read_json(&node.pod_dir(&pod.id).join(KEPT)).ok()?;
    let Kept { network, runtime, result } = &kept;
    let known = !network.disable_check && !["", "0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&network.version.as_str());
    let call = |plugin| Call { node, pod, network, runtime, command: "CHECK" }.plugin(plugin, result).map(drop);
    let found = match known.then(|| network.plugins.iter().try_for_each(call)) {
        None => "not checked".to_owned(),
        Some(Ok(())) => "as it was set up".to_owned(),
        Some(Err(problem)) => problem,
    };
    Some(json!({ "name": network.name, "result": result, "check": found }))
}

/// Disconnects a pod, and removes its namespace. What is gone already is fine: it is called again until it works.
pub(super) fn take_down(node: &Node, pod: &Pod) {
    let place = node.pod_dir(&pod.id).join(KEPT);
    if let Ok(kept) = files::read_json::<Kept>(&place) {
        for plugin in kept.network.plugins.iter().rev() {
            let call = Call { node, pod, network: &kept.network, runtime: &kept.runtime, command: "DEL" };
            if let Err(problem) = call.plugin(plugin, &kept.result) {
                eprintln!("sampan: pod {}: {problem}", pod.id);
            }
        }
        let _ = std::fs::remove_file(&place);
    }
    let path = node.pod_network(&pod.id);
    if let Err(e) = namespace::remove(&path) {
        eprintln!("sampan: cannot remove the network namespace {}: {e}", path.display());
    }
}

/// The ports of the node that lead to the pod (the capability `portMappings`).
fn port_mappings(pod: &Pod) -> Value {
    let config = pod.config();
    let wanted = config.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    let mapping = |mapping: &super::v1::PortMapping| {
        json!({
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": mapping.protocol().as_str_name().to_ascii_lowercase(),
            "hostIP": mapping.host_ip,
        })
    };
    json!({ "portMappings": wanted.map(mapping).collect::<Vec<_>>() })
}

fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// One call of the plugins.
struct Call<'a> {
    node: &'a Node,
    pod: &'a Pod,
    network: &'a Network,
    runtime: &'a Value,
    command: &'static str,
}

impl Call<'_> {
    fn plugin(&self, plugin: &Map<String, Value>, before: &Value) -> Result<Vec<u8>, String> {
        let kind = kind(plugin);
        let failed = |reason: String| format!("the CNI plugin {kind} failed to {}: {reason}", self.command);
        let dirs = &self.node.options.cni_plugins;
        let program = dirs.iter().map(|dir| dir.join(kind)).find(|path| !kind.contains('/') && path.is_file());
        let program = program.ok_or_else(|| {
            let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            format!("there is no CNI plugin {kind:?} in {}", dirs.join(", "))
        })?;
        let mut child = self.command(&program).spawn().map_err(|e| failed(e.to_string()))?;
        let config = self.config(plugin, before).to_string();
        if let Some(mut input) = child.stdin.take() {
            // One that reads nothing has something to say.
            let _ = input.write_all(config.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let words = format!("{} {}", text("msg"), text("details"));
        let words = match words.trim() {
            "" => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            words => words.to_owned(),
        };
        Err(failed(format!("{words} ({})", output.status)))
    }

    fn command(&self, program: &Path) -> Command {
        let path = self.node.pod_network(&self.pod.id);
        let metadata = self.pod.metadata();
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            metadata.namespace, metadata.name, self.pod.id, metadata.uid
        );
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", &self.pod.id)
            .env("CNI_NETNS", if path.exists() { path.as_os_str() } else { "".as_ref() })
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", args)
            .env("CNI_PATH", std::env::join_paths(&self.node.options.cni_plugins).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The plugin's own part, with what the specification adds to it ("Deriving execution configuration").
    fn config(&self, plugin: &Map<String, Value>, before: &Value) -> Value {
        let mut config = plugin.clone();
        config.insert("cniVersion".into(), self.network.version.clone().into());
        config.insert("name".into(), self.network.name.clone().into());
        let capabilities = config.remove("capabilities").unwrap_or_default();
        let asked = |name: &str| capabilities.get(name).and_then(Value::as_bool).unwrap_or(false);
        let runtime: Map<String, Value> = self
            .runtime
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| asked(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), runtime.into());
        }
        if !before.is_null() {
            config.insert("prevResult".into(), before.clone());
        }
        config.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_counts_in_either_form() {
        let dir = std::env::temp_dir().join(format!("sampan-cni-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let options = Options { cni_configs: dir.clone(), cni_plugins: vec![], ..Options::default() };
        assert!(trouble(&options).unwrap().contains("no CNI configuration"));
        std::fs::write(dir.join("20-b.conf"), r#"{"cniVersion":"1.0.0","name":"b","type":"bridge"}"#).unwrap();
        assert_eq!(find(&options).unwrap().name, "b");
        let list = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        std::fs::write(dir.join("10-a.conflist"), list).unwrap();
        std::fs::write(dir.join("00-readme"), "no configuration").unwrap();
        assert_eq!(find(&options).unwrap().plugins.len(), 2);
        std::fs::write(dir.join("05.conflist"), "{").unwrap();
        assert!(trouble(&options).unwrap().contains("05.conflist"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
