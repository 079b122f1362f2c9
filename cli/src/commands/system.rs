//! `version` and `info`.

use crate::Context;
use crate::commands::filter;
use crate::format::{Template, humanize};
use anyhow::Result;
use clap::Args;
use rustix::thread::CapabilitySet;
use sampan_runtime::config::Config;
use sampan_runtime::container::{self, Status, volumes};
use sampan_runtime::guest::engine;
use sampan_runtime::image::Images;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// Show the version
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Show what this machine can do for sandboxes
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl VersionArgs {
    pub fn run(self, _: &Context) -> Result<ExitCode> {
        let (version, engine, os, arch) = (env!("CARGO_PKG_VERSION"), engine(), std::env::consts::OS, arch());
        let object = json!({ "Client": { "Version": version, "Engine": engine, "Os": os, "Arch": arch } });
        print(&object, self.format.as_deref(), || {
            format!(
                "Client:\n Version:           {version}\n Engine:            {engine}\n OS/Arch:           {os}/{arch}\n"
            )
        })
    }
}

impl InfoArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let containers = container::list(&store)?;
        let running = containers.iter().filter(|c| matches!(c.status(&store), Status::Running(_))).count();
        let (system, memory) = (rustix::system::uname(), rustix::system::sysinfo());
        let fences: Map<_, _> = fences().into_iter().map(|fence| (fence.name.to_owned(), fence.object())).collect();
        let config = Config::load()?;
        let object = json!({
            "Containers": containers.len(),
            "ContainersRunning": running,
            "ContainersPaused": 0,
            "ContainersStopped": containers.len() - running,
            "Images": Images::new(&store).list()?.len(),
            "Volumes": volumes::list(&store)?.len(),
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "Engine": engine(),
            "Driver": "overlay",
            "DockerRootDir": store.root(),
            "KernelVersion": system.release().to_string_lossy(),
            "OperatingSystem": operating_system(),
            "OSType": std::env::consts::OS,
            "Architecture": system.machine().to_string_lossy(),
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "MemTotal": memory.totalram.saturating_mul(memory.mem_unit.into()),
            "Name": system.nodename().to_string_lossy(),
            "ConfigFile": config.file.unwrap_or_default(),
            "AllowNet": config.network.allow_net,
            "Fences": fences,
        });
        print(&object, self.format.as_deref(), || info_text(&object))
    }
}

/// Prints an object as text, as JSON on one line, or through a template.
fn print(object: &Value, format: Option<&str>, text: impl FnOnce() -> String) -> Result<ExitCode> {
    filter::print(&match format {
        None | Some("") => text(),
        Some("json") => format!("{object}\n"),
        Some(format) => Template::parse(format)?.render(object)? + "\n",
    })
}

fn info_text(object: &Value) -> String {
    let plain = |key: &str| match object.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let mut text = String::new();
    for (heading, key) in [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Volumes", "Volumes"),
        ("Version", "ServerVersion"),
        ("Engine", "Engine"),
        ("Root Dir", "DockerRootDir"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        let _ = writeln!(text, "{heading}: {}", plain(key));
    }
    let rules: Vec<&str> = match object.get("AllowNet") {
        Some(Value::Array(rules)) => rules.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    if !plain("ConfigFile").is_empty() {
        let _ = writeln!(text, "Configuration: {}\n Allow Net: {}", plain("ConfigFile"), rules.join(", "));
    }
    let memory = object.get("MemTotal").and_then(Value::as_u64).unwrap_or_default();
    let _ = writeln!(text, "Total Memory: {}\nName: {}\nFences:", humanize::bytes_size(memory), plain("Name"));
    for (name, fence) in object.get("Fences").and_then(Value::as_object).into_iter().flatten() {
        let detail = fence.get("Detail").and_then(Value::as_str).unwrap_or_default();
        let stands = fence.get("Available") == Some(&Value::Bool(true));
        let _ = writeln!(text, " {name}: {}{detail}", if stands { "" } else { "missing: " });
    }
    text
}

/// The engine and its version.
fn engine() -> String {
    // The settings are named after the engine that they are for.
    let name = engine::SETTINGS.split('-').next().unwrap_or_default();
    let (name, version) = name.split_at(name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len()));
    format!("{name} {version}").trim_end().to_owned()
}

/// The machine in Go's words, which are Docker's.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn operating_system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Whether a fence can stand on this machine, as far as can be told without raising it.
struct Possible {
    name: &'static str,
    /// What it does, or what is missing for it.
    can: Result<String, String>,
}

impl Possible {
    fn object(&self) -> Value {
        let (Ok(detail) | Err(detail)) = &self.can;
        json!({ "Available": self.can.is_ok(), "Detail": detail })
    }
}

fn fences() -> Vec<Possible> {
    vec![
        Possible { name: "namespaces", can: namespaces() },
        Possible { name: "landlock", can: landlock(landlock_version()) },
        Possible { name: "seccomp", can: seccomp() },
        Possible { name: "overlay", can: overlay() },
    ]
}

fn namespaces() -> Result<String, String> {
    if rustix::thread::capabilities(None).is_ok_and(|all| all.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return Ok("mount".to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Err("root has no CAP_SYS_ADMIN here".to_owned());
    }
    for (path, closed) in [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ] {
        // Distributions have added the later two; where they are not there nothing is closed.
        let value = std::fs::read_to_string(path).unwrap_or_default();
        if value.trim() == closed {
            return Err(format!("user namespaces are switched off: {path} is {closed}"));
        }
    }
    Ok("user, mount".to_owned())
}

/// The version of the kernel's landlock, by landlock_create_ruleset(2); none if it has none or it is switched off.
fn landlock_version() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no ruleset, and answers with a number.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION) };
    u32::try_from(answer).ok().filter(|version| *version > 0)
}

fn landlock(version: Option<u32>) -> Result<String, String> {
    match version {
        None => Err("this kernel has no landlock, or it is switched off".to_owned()),
        Some(version @ 6..) => Ok(format!("files, signals, abstract sockets (version {version})")),
        Some(version) => Ok(format!("files, as far as version {version} can")),
    }
}

fn seccomp() -> Result<String, String> {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => Ok("allow list".to_owned()),
        _ => Err("this kernel has no seccomp filters".to_owned()),
    }
}

fn overlay() -> Result<String, String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.lines().any(|line| line.ends_with("\toverlay")) {
        true => Ok("image layers below a writable one".to_owned()),
        false => Err("this kernel does not list overlayfs; its module may be loaded when it is asked for".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_has_a_name_and_a_version() {
        assert_eq!(engine(), "wasmtime 48");
    }

    #[test]
    fn fences_tell_what_is_missing() {
        assert!(landlock(None).unwrap_err().contains("no landlock"));
        assert!(landlock(Some(7)).unwrap().contains("abstract sockets"));
        assert!(landlock(Some(3)).unwrap().contains("version 3"));
        let object = json!({"Containers": 1, "MemTotal": 1 << 30, "ConfigFile": "/c", "AllowNet": ["a", "b"], "Fences": {
            "landlock": {"Available": false, "Detail": "no"}, "seccomp": {"Available": true, "Detail": "yes"},
        }});
        let text = info_text(&object);
        for line in [
            "Containers: 1\n",
            "Configuration: /c\n Allow Net: a, b\n",
            "Total Memory: 1GiB\n",
            " landlock: missing: no\n",
            " seccomp: yes\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
