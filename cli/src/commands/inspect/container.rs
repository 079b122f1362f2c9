//! A container in Docker's shape.

use super::{list_or_null, set};
use crate::commands::{port, ps};
use rustix::process::{Resource, getrlimit};
use sampan_runtime::container::networks;
use sampan_runtime::container::{self, Container, Given, Giver, MountKind, MountPoint, Record, Status};
use sampan_runtime::grants::{Limits, Port, SHARES, Secret, Shown};
use sampan_runtime::image::Images;
use sampan_runtime::sandbox::{Fence, Fences, log};
use sampan_runtime::store::Store;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// Docker's way to write that something has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Everything known of a container; with `size` also how much it has written, which takes a walk through its files.
pub fn describe(store: &Store, container: &Container, size: bool) -> Value {
    let record = &container.record;
    let status = container.status(store);
    let args = record.args();
    let (path, args) = args.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let mut object = json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": path,
        "Args": args,
        "State": state(&status),
        "Image": record.image_id,
        "LogPath": log::place(&container.dir),
        "Name": format!("/{}", record.name),
        "RestartCount": restarts(&status),
        "Driver": "overlay",
        "Platform": "wasm",
        "HostConfig": host_config(record),
        "Mounts": record.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config(record),
        "NetworkSettings": network_settings(store, record, &status),
        "Sampan": ours(record, &status),
    });
    if size && let Some(object) = object.as_object_mut() {
        let written = ps::written(&container.dir);
        let image = Images::new(store).find(&record.image_id).map_or(0, |image| image.size);
        object.insert("SizeRw".to_owned(), written.into());
        object.insert("SizeRootFs".to_owned(), written.saturating_add(image).into());
    }
    object
}

fn state(status: &Status) -> Value {
    let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| NEVER.to_owned(), |time| time.to_string());
    let (pid, started) = match status {
        Status::Running(running) => (running.host, Some(running.started)),
        Status::Exited(ended) => (0, ended.started),
        Status::Created | Status::Restarting(_) => (0, None),
    };
    let (code, error, finished) = match status {
        Status::Exited(ended) => (ended.code, ended.error.as_deref(), Some(ended.finished)),
        Status::Restarting(waiting) => (waiting.code, None, Some(waiting.ended)),
        _ => (0, None, None),
    };
    let out_of_memory = matches!(status, Status::Exited(ended) if ended.out_of_memory);
    let mut state = json!({
        "Status": status.word(),
        "Running": status.is_running(),
        "Paused": status.word() == "paused",
        "Restarting": matches!(status, Status::Restarting(_)),
        "OOMKilled": out_of_memory,
        "Dead": false,
        "Pid": pid,
        "ExitCode": code,
        "Error": error.unwrap_or_default(),
        "StartedAt": time(started),
        "FinishedAt": time(finished),
    });
    if let (Status::Running(running), Some(state)) = (status, state.as_object_mut()) {
        state.extend(running.health.as_ref().map(|health| ("Health".to_owned(), json!(health))));
    }
    state
}

fn log_config(log: log::Config) -> Value {
    let size = log.max_size.map_or_else(|| "-1".to_owned(), |size| size.to_string());
    let options = match log.driver {
        log::Driver::None => json!({}),
        _ => json!({ "max-size": size, "max-file": log.max_files.to_string() }),
    };
    json!({ "Type": log.driver.to_string(), "Config": options })
}

/// How often its restart policy has started it again in a row.
fn restarts(status: &Status) -> u32 {
    match status {
        Status::Running(running) => running.restarts,
        Status::Restarting(waiting) => waiting.tries,
        Status::Exited(ended) => ended.restarts,
        Status::Created => 0,
    }
}

/// Its ports and its place in its network. The address is one that it and its peers know; the host has no such one.
fn network_settings(store: &Store, record: &Record, status: &Status) -> Value {
    let address = record.address();
    let network = record.joined.as_ref().and_then(|joined| networks::inspect(store, &joined.network).ok());
    let ip = address.map(|address| address.ip.to_string()).unwrap_or_default();
    let prefix = address.map_or(0, |address| address.prefix);
    let gateway = address.map(|address| address.gateway().to_string()).unwrap_or_default();
    let place = json!({
        "Aliases": record.joined.as_ref().map(|joined| &joined.aliases),
        "DNSNames": record.joined.as_ref().map(|_| record.names()),
        "Gateway": gateway,
        "IPAddress": ip,
        "IPPrefixLen": prefix,
        "NetworkID": network.map(|network| network.id).unwrap_or_default(),
    });
    let networks: Map<String, Value> = [(record.network_name().to_owned(), place)].into_iter().collect();
    json!({
        "Gateway": gateway,
        "IPAddress": ip,
        "IPPrefixLen": prefix,
        "Networks": networks,
        "Ports": ports(record, status),
    })
}

fn host_config(record: &Record) -> Value {
    let bind = |mount: &MountPoint| {
        let source = match mount.kind {
            MountKind::Bind => mount.source.to_string_lossy(),
            MountKind::Volume => mount.name.as_str().into(),
            // Nobody asked for it by a name.
            MountKind::Anonymous => return None,
        };
        let mode = if mount.writable { "" } else { ":ro" };
        Some(format!("{source}:{}{mode}", mount.destination.display()))
    };
    let binds: Vec<String> = record.mounts.iter().filter_map(bind).collect();
    let wished = record.published.iter().map(|publish| (publish.port, publish.host));
    json!({
        "Binds": list_or_null(&binds),
        "NetworkMode": record.network_name(),
        "PortBindings": by_port(wished, |host| json!({
            // Docker writes what was not said as nothing.
            "HostIp": if host.ip().is_unspecified() { String::new() } else { host.ip().to_string() },
            "HostPort": if host.port() == 0 { String::new() } else { host.port().to_string() },
        })),
        // `-P` has become bindings when the container was made.
        "PublishAllPorts": false,
        "AutoRemove": record.auto_remove,
        "ReadonlyRootfs": record.read_only,
        "MaskedPaths": record.paths.masked,
        "ReadonlyPaths": record.paths.read_only,
        // What was asked for; 0 is the default, as `Sampan.Limits` shows it.
        "Memory": record.limits.memory.unwrap_or(0),
        "NanoCpus": record.limits.nano_cpus.unwrap_or(0),
        "CpuShares": record.limits.cpu_shares.unwrap_or(0),
        "StorageOpt": record.limits.storage.map(|bytes| json!({ "size": bytes.to_string() })),
        "Ulimits": record.limits.open_files.map(|most| json!([{ "Name": "nofile", "Soft": most, "Hard": most }])),
        "LogConfig": log_config(record.log),
        "RestartPolicy": { "Name": record.restart.name(), "MaximumRetryCount": record.restart.times() },
    })
}

fn mount(mount: &MountPoint) -> Value {
    let is_bind = mount.kind == MountKind::Bind;
    json!({
        "Type": mount.kind.word(),
        "Name": mount.name,
        "Source": mount.source,
        "Destination": mount.destination,
        "Driver": if is_bind { "" } else { "local" },
        "Mode": if mount.writable { "" } else { "ro" },
        "RW": mount.writable,
        "Propagation": if is_bind { "rprivate" } else { "" },
    })
}

fn config(record: &Record) -> Value {
    // The name that the guest is told; there is no other.
    let hostname = record.env.iter().find_map(|variable| variable.strip_prefix("HOSTNAME="));
    let anonymous = record.mounts.iter().filter(|mount| mount.kind == MountKind::Anonymous);
    let mut volumes = anonymous.map(|mount| mount.destination.display().to_string()).peekable();
    json!({
        "Hostname": hostname.unwrap_or(container::id::short(&record.id)),
        "Domainname": "",
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "ExposedPorts": set(record.exposed.iter().map(Port::to_string)),
        "Tty": record.tty,
        "OpenStdin": record.open_stdin,
        "StdinOnce": false,
        "Env": env(record),
        "Cmd": list_or_null(&record.command),
        "Image": record.image,
        "Volumes": if volumes.peek().is_some() { set(volumes) } else { Value::Null },
        "WorkingDir": record.working_dir,
        "Entrypoint": list_or_null(&record.entrypoint),
        "Labels": record.labels,
        "StopTimeout": record.stop_timeout,
        "Healthcheck": record.health,
    })
}

/// The ports of a running container; none of one that does not run, as Docker has it.
fn ports(record: &Record, status: &Status) -> Value {
    let Status::Running(running) = status else { return json!({}) };
    let address = |host: SocketAddr| json!({ "HostIp": host.ip().to_string(), "HostPort": host.port().to_string() });
    let mut ports = by_port(port::published(record, running).into_iter(), address);
    ports.extend(port::only_exposed(record).into_iter().map(|port| (port.to_string(), Value::Null)));
    ports.into()
}

/// The addresses of each port.
fn by_port(
    ports: impl Iterator<Item = (Port, SocketAddr)>,
    address: impl Fn(SocketAddr) -> Value,
) -> Map<String, Value> {
    let mut all = Map::new();
    for (port, host) in ports {
        let addresses = all.entry(port.to_string()).or_insert_with(|| json!([]));
        if let Some(addresses) = addresses.as_array_mut() {
            addresses.push(address(host));
        }
    }
    all
}

fn ours(record: &Record, status: &Status) -> Value {
    let (program, shown) = match status {
        Status::Running(running) => (Some(&running.program), running.fences.clone()),
        Status::Exited(ended) => (None, ended.fences.clone()),
        Status::Created | Status::Restarting(_) => (None, None),
    };
    let keeper = match status {
        Status::Running(running) => running.keeper,
        Status::Restarting(waiting) => waiting.keeper,
        _ => 0,
    };
    let http = json!({
        "TimeoutMs": record.http.timeout.as_millis(),
        "MaxInstances": record.http.max_instances,
        "Reuse": record.http.reuse,
        "MaxBody": record.http.max_body,
        "AccessLog": record.http.access_log,
    });
    let grants = json!({
        "AllowNet": record.egress,
        "AllowNetFrom": record.egress_from.iter().flat_map(given).collect::<Vec<_>>(),
        "Spawn": record.allow_spawn,
        "Secrets": record.secrets.iter().map(secret).collect::<Vec<_>>(),
        "Http": http,
    });
    let limits = limits(&record.limits);
    json!({ "Program": program, "Keeper": keeper, "Sandbox": record.sandbox, "Grants": grants, "Limits": limits, "Fences": shown.map(fences) })
}

/// The environment, in which a secret has a name and no value.
fn env(record: &Record) -> Vec<String> {
    let hidden = record.secrets.iter().filter_map(|secret| match &secret.shown {
        Shown::Variable(name) => Some(format!("{name}=(secret)")),
        Shown::File(_) => None,
    });
    record.env.iter().cloned().chain(hidden).collect()
}

/// Where a secret is, and how the guest sees it.
fn secret(secret: &Secret) -> Value {
    let (kind, target) = match &secret.shown {
        Shown::File(path) => ("mount", path.to_string_lossy().into_owned()),
        Shown::Variable(name) => ("env", name.clone()),
    };
    json!({ "Id": secret.id, "Source": secret.source, "Type": kind, "Target": target })
}

/// The limits that hold, also those that nobody asked for.
fn limits(limits: &Limits) -> Value {
    let processors = std::thread::available_parallelism().map_or(1, |all| u64::try_from(all.get()).unwrap_or(1));
    json!({
        "Memory": limits.memory.unwrap_or_else(Limits::default_memory),
        "NanoCpus": limits.nano_cpus.unwrap_or(processors * 1_000_000_000),
        "CpuShares": limits.cpu_shares.unwrap_or(SHARES),
        // Nothing is for ever.
        "Storage": limits.storage,
        "TimeoutMs": limits.timeout.map(|timeout| timeout.as_millis()),
        "OpenFiles": limits.open_files.or_else(|| getrlimit(Resource::Nofile).maximum),
    })
}

/// Each rule, and where it comes from.
fn given(given: &Given) -> Vec<Value> {
    let from = match &given.by {
        Giver::Settings => "--allow-net".to_owned(),
        Giver::Network(name) => format!("network {name}"),
        Giver::File(path) => path.display().to_string(),
    };
    given.rules.rules().iter().map(|rule| json!({ "Rule": rule, "From": from })).collect()
}

fn fences(fences: Fences) -> Value {
    let fence = |(name, fence): (&str, Fence)| {
        let (stands, detail) = match fence {
            Fence::Stands(detail) => (true, detail),
            Fence::Missing(reason) => (false, reason),
        };
        (name.to_owned(), json!({ "Stands": stands, "Detail": detail }))
    };
    fences.named().into_iter().map(fence).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_runtime::container::health::{Health, OnFailure};
    use sampan_runtime::container::restart::Policy;
    use sampan_runtime::container::{Ended, Running};
    use sampan_runtime::grants::{Egress, Http, Network, Publish};

    fn record() -> Record {
        Record {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            created: "2026-03-01T12:30:00.5Z".parse().unwrap(),
            image: "web:1".into(),
            image_id: "sha256:ab".into(),
            entrypoint: vec!["/app.wasm".into()],
            command: vec!["--port".into(), "8000".into()],
            env: vec!["HOSTNAME=h".into()],
            working_dir: "/".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            sandbox: None,
            inside: Default::default(),
            network: Network::Default,
            joined: None,
            published: [Publish::parse("8080:8000").unwrap(), Publish::parse("127.0.0.1::8000").unwrap()].concat(),
            exposed: vec!["8000".parse().unwrap(), "53/udp".parse().unwrap()],
            egress: Egress::parse("api.test:443").unwrap(),
            egress_from: vec![Given { by: Giver::Settings, rules: Egress::parse("api.test:443").unwrap() }],
            secrets: vec![],
            paths: sampan_runtime::grants::Paths::default(),
            proc: None,
            mounts: vec![MountPoint {
                kind: MountKind::Bind,
                name: String::new(),
                source: "/srv".into(),
                destination: "/data".into(),
                writable: false,
                shallow: false,
            }],
            read_only: false,
            auto_remove: true,
            open_stdin: false,
            tty: false,
            allow_spawn: false,
            http: Http::default(),
            limits: Limits { memory: Some(64 << 20), ..Limits::default() },
            stop_timeout: 10,
            restart: Policy::OnFailure(Some(3)),
            log: log::Config::default(),
            health: None,
            on_failure: OnFailure::None,
        }
    }

    #[test]
    fn a_running_container_has_dockers_shape() {
        let running = Running {
            keeper: 1,
            host: 2,
            started: "2026-03-01T12:30:01Z".parse().unwrap(),
            // The second is a service's own door for a port that was not published.
            ports: vec![
                ("8000".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()),
                ("9000".parse().unwrap(), "127.0.0.1:40000".parse().unwrap()),
            ],
            fences: Some(Fences {
                namespaces: Fence::Stands("mount".into()),
                no_new_privileges: Fence::Stands("set".into()),
                capabilities: Fence::Stands("dropped".into()),
                landlock: Fence::Missing("no".into()),
                seccomp: Fence::Stands("allow list".into()),
                sockets: Fence::Stands("none can be opened".into()),
            }),
            program: "sha256:cd".into(),
            restarts: 2,
            tree: 0,
            paused: true,
            health: Some(Health::default()),
        };
        let (record, status) = (record(), Status::Running(running));
        assert_eq!(
            ports(&record, &status),
            json!({"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": null})
        );
        assert_eq!((&state(&status)["Pid"], &state(&status)["Status"]), (&json!(2), &json!("paused")));
        assert_eq!(restarts(&status), 2);
        assert_eq!(state(&status)["FinishedAt"], NEVER);
        let ours = ours(&record, &status);
        assert_eq!(ours["Program"], "sha256:cd");
        assert_eq!(ours["Fences"]["landlock"], json!({"Stands": false, "Detail": "no"}));
        assert_eq!(ours["Fences"].as_object().unwrap().len(), 6);
    }

    #[test]
    fn what_was_asked_for_is_in_dockers_places() {
        let record = record();
        let host = host_config(&record);
        assert_eq!(host["Memory"], 64 << 20);
        assert_eq!(host["Binds"], json!(["/srv:/data:ro"]));
        assert_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(
            host["PortBindings"],
            json!({"8000/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": ""}]})
        );
        let config = config(&record);
        assert_eq!((&config["Hostname"], &config["Volumes"]), (&json!("h"), &Value::Null));
        assert_eq!(config["ExposedPorts"], json!({"8000/tcp": {}, "53/udp": {}}));
        assert_eq!(mount(&record.mounts[0])["Propagation"], "rprivate");
    }

    #[test]
    fn an_ended_one_tells_how_and_when() {
        let ended = Ended {
            code: 3,
            out_of_memory: true,
            started: None,
            finished: "2026-03-01T12:30:01.25Z".parse().unwrap(),
            error: Some("no".into()),
            fences: None,
            asked: false,
            restarts: 0,
        };
        let state = state(&Status::Exited(ended));
        assert_eq!(
            (&state["Status"], &state["ExitCode"], &state["Error"]),
            (&json!("exited"), &json!(3), &json!("no"))
        );
        assert_eq!(state["OOMKilled"], true);
        assert_eq!((&state["StartedAt"], &state["FinishedAt"]), (&json!(NEVER), &json!("2026-03-01T12:30:01.25Z")));
        let ours = ours(&record(), &Status::Created);
        assert_eq!((&ours["Program"], &ours["Keeper"], &ours["Fences"]), (&Value::Null, &json!(0), &Value::Null));
        assert_eq!(ours["Grants"]["AllowNet"], json!(["api.test:443"]));
        assert_eq!(ours["Grants"]["AllowNetFrom"], json!([{ "Rule": "api.test:443", "From": "--allow-net" }]));
        assert_eq!(ours["Grants"]["Spawn"], json!(false));
    }
}
