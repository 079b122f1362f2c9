//! The flags of `run` and `create` → the runtime's settings.

use crate::commands::pull;
use crate::format::time::parse_length;
use crate::health::HealthFlags;
use crate::limits::{LimitFlags, size};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sampan_runtime::container::restart::Policy;
use sampan_runtime::container::{Inside, Join, MountRequest, MountSource, Settings, id};
use sampan_runtime::grants::{Http, Network, Paths, Port, Publish, Rule, Secret, Shown};
use sampan_runtime::rootfs::normalize;
use sampan_runtime::sandbox::log::{self, Driver};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a container can be told, as Docker names it.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// Give the container this name
    #[arg(long)]
    name: Option<String>,
    /// Set an environment variable (NAME=value, or NAME to take it from here)
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Publish a port: [ip:][hostPort:]containerPort[/tcp|/udp]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish every exposed port at a port of the system's choice
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Let the container bind a port without publishing it
    #[arg(long, value_name = "PORT[/PROTO]")]
    expose: Vec<Port>,
    /// Mount a volume or a path of the host: [name|path:]path[:ro]
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// Mount, in full: type=bind|volume,source=…,target=…[,readonly]
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// Show a file of the host as a secret, in memory only: id=NAME,src=FILE[,target=PATH] or id=NAME,src=FILE,type=env[,target=VARIABLE]
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Let the container start programs of its image, as a shell does
    #[arg(long)]
    allow_spawn: bool,
    /// How long an HTTP request may stand still: 30s, 10m; 0 is for ever
    #[arg(long, value_name = "DURATION", value_parser = parse_length)]
    http_timeout: Option<Duration>,
    /// How many instances an HTTP service may have at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Http::MOST_INSTANCES)))]
    http_max_instances: Option<u32>,
    /// How many requests one instance of an HTTP service answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    http_reuse: Option<u32>,
    /// Bytes that the body of an HTTP request may have
    #[arg(long, value_name = "BYTES")]
    http_max_body: Option<u64>,
    /// Write a line for each HTTP request to the container's log
    #[arg(long)]
    http_access_log: bool,
    #[command(flatten)]
    limits: LimitFlags,
    /// Let the container's root not be written
    #[arg(long)]
    read_only: bool,
    /// Set a label (NAME=value)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Connect to: default, host, none, or a network made with `network create`
    #[arg(long, alias = "net", default_value = "default", value_name = "NETWORK")]
    network: String,
    /// Share the sandbox of this name with other containers that are trusted
    #[arg(long, value_name = "NAME")]
    pub sandbox: Option<String>,
    /// Go by this name too on the network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Have this address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Let the container call: all, public, HOST, *.SUFFIX, ADDRESS or CIDR, each with [:PORT]
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    allow_net: Vec<Rule>,
    /// When to start the container again by itself: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value_t)]
    restart: Policy,
    #[command(flatten)]
    health: HealthFlags,
    /// How the log is kept: json-file, cri or none
    #[arg(long, value_name = "DRIVER", default_value_t)]
    log_driver: Driver,
    /// Limits of the log: max-size=20m (-1 is none), max-file=5
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// Seconds that `stop` waits before it kills
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u32>,
    /// Pull the image: missing, always or never
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "WHEN")]
    pub pull: pull::Policy,
    /// Print nothing while pulling
    #[arg(short, long)]
    pub quiet: bool,
    /// Remove the container, and its anonymous volumes, when it ends
    #[arg(long)]
    pub rm: bool,
    /// An image, or a .wasm or .wat file
    #[arg(value_name = "IMAGE|FILE")]
    pub image: String,
    /// Arguments of the entrypoint
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    command: Vec<String>,
}

impl ContainerFlags {
    /// The Wasm file that was named instead of an image: a path, or an existing file with such a name.
    pub fn module(&self) -> Option<&Path> {
        let path = Path::new(&self.image);
        let named = path.extension().is_some_and(|e| e == "wasm" || e == "wat") && path.is_file();
        let spelled = ["./", "../", "/"].iter().any(|prefix| self.image.starts_with(prefix));
        (named || spelled).then_some(path)
    }

    /// The settings that the flags say.
    pub fn settings(self) -> Result<Settings> {
        let module = self.module().map(Path::to_owned);
        let mut entrypoint = self.entrypoint.map(|program| match program.as_str() {
            "" => vec![],
            _ => vec![program],
        });
        if let Some(module) = &module {
            if !module.is_file() {
                bail!("cannot run {}: there is no such file", module.display());
            }
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            entrypoint = Some(entrypoint.unwrap_or_else(|| vec![format!("/{name}")]));
        }
        let (network, join) = connection(&self.network, self.network_alias, self.ip)?;
        if network == Network::None && !self.allow_net.is_empty() {
            bail!("--network none leaves nobody whom --allow-net could allow: leave one of them out");
        }
        if self.rm && self.restart != Policy::No {
            bail!("--rm and --restart contradict each other: what is removed at its end cannot be started again");
        }
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(read_env_file(file)?);
        }
        env.extend(self.env.iter().filter_map(|v| variable(v)));
        let published =
            self.publish.iter().map(|p| Publish::parse(p)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        let volumes = self.volume.iter().map(|v| parse_volume(v));
        let mounts = self.mount.iter().map(|m| parse_mount(m));
        let defaults = Http::default();
        let http = Http {
            timeout: self.http_timeout.unwrap_or(defaults.timeout),
            max_instances: self.http_max_instances.unwrap_or(defaults.max_instances),
            reuse: self.http_reuse,
            max_body: self.http_max_body,
            access_log: self.http_access_log,
        };
        Ok(Settings {
            name: self.name,
            image: self.image,
            entrypoint,
            command: self.command,
            env,
            working_dir: self.workdir.map(absolute_workdir).transpose()?,
            labels: parse_labels(&self.label),
            sandbox: self.sandbox,
            inside: Inside::default(),
            published: published.collect(),
            publish_all: self.publish_all,
            exposed: self.expose,
            mounts: volumes.chain(mounts).collect::<Result<_>>()?,
            secrets: secrets(&self.secret)?,
            paths: Paths::default(),
            proc: None,
            read_only: self.read_only,
            network,
            join,
            egress: self.allow_net.into(),
            auto_remove: self.rm,
            open_stdin: self.interactive,
            tty: self.tty,
            allow_spawn: self.allow_spawn,
            http,
            limits: self.limits.limits(),
            stop_timeout: self.stop_timeout,
            restart: self.restart,
            health: self.health.check()?,
            on_failure: self.health.health_on_failure,
            log: log_config(self.log_driver, &self.log_opt)?,
            module,
        })
    }
}

/// `--network`: one of the networks that are always there, or one that the user has made.
fn connection(name: &str, aliases: Vec<String>, ip: Option<Ipv4Addr>) -> Result<(Network, Option<Join>)> {
    if let Some(alias) = aliases.iter().find(|alias| !id::is_name(alias)) {
        bail!("--network-alias {alias}: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is a name");
    }
    match name.parse() {
        Ok(network) if aliases.is_empty() && ip.is_none() => Ok((network, None)),
        Ok(_) => bail!(
            "--network-alias and --ip are for networks that `sampan network create` has made, and {name} is none: give \
             one with --network"
        ),
        Err(_) if name.starts_with("container:") => {
            bail!("--network {name}: containers do not share a network; put both on one that `network create` has made")
        }
        Err(_) => Ok((Network::Default, Some(Join { network: name.to_owned(), aliases, ip }))),
    }
}

/// `--log-driver` and `--log-opt`.
fn log_config(driver: Driver, options: &[String]) -> Result<log::Config> {
    let mut config = log::Config { driver, ..log::Config::default() };
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let bad = |wanted: &str| anyhow::anyhow!("--log-opt {option}: {wanted}");
        match name {
            _ if driver == Driver::None => bail!("--log-opt {option}: the log driver none has no options"),
            "max-size" if value == "-1" => config.max_size = None,
            "max-size" => {
                let size = size(value).ok().filter(|size| *size > 0);
                config.max_size = Some(size.ok_or_else(|| bad("a size is written like 512k, 10m or 1g"))?);
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                config.max_files = files.ok_or_else(|| bad("there may be 1 to 1000 files"))?;
            }
            _ => return Err(bad("the options are max-size and max-file")),
        }
    }
    Ok(config)
}

pub fn absolute_workdir(dir: String) -> Result<String> {
    if !dir.starts_with('/') {
        bail!("the working directory {dir:?} is invalid: it must be an absolute path");
    }
    Ok(dir)
}

/// `NAME=value` as it is; `NAME` from our own environment, if it is set there.
pub fn variable(given: &str) -> Option<String> {
    if given.contains('=') {
        return Some(given.to_owned());
    }
    std::env::var(given).ok().map(|value| format!("{given}={value}"))
}

/// Docker's format: a variable a line, `#` begins a comment line, nothing is quoted.
pub fn read_env_file(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the env file {}", path.display()))?;
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            bail!("{}:{}: {name:?} is no name for a variable", path.display(), n + 1);
        }
        all.extend(variable(line));
    }
    Ok(all)
}

/// `NAME=value` pairs; a name alone has an empty value.
pub fn parse_labels(given: &[String]) -> BTreeMap<String, String> {
    given.iter().map(|l| l.split_once('=').unwrap_or((l, ""))).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// `-v [source:]destination[:options]`.
fn parse_volume(given: &str) -> Result<MountRequest> {
    let bad = |reason: String| anyhow::anyhow!("invalid volume {given:?}: {reason}; wanted [name|path:]path[:ro]");
    let parts: Vec<&str> = given.split(':').collect();
    let (source, destination, options) = match parts.as_slice() {
        [destination] => ("", *destination, ""),
        [source, destination] => (*source, *destination, ""),
        [source, destination, options] => (*source, *destination, *options),
        _ => return Err(bail_parts(given)),
    };
    if !destination.starts_with('/') {
        return Err(bad(format!("the container's path {destination:?} is not absolute")));
    }
    let mut writable = true;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => writable = false,
            "rw" => writable = true,
            // SELinux relabelling and consistency hints mean nothing here, and every Docker user's scripts have them.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => return Err(bad(format!("unknown option {other:?}"))),
        }
    }
    let source = if source.is_empty() {
        MountSource::Anonymous
    } else if source.starts_with('/') || source.starts_with('.') {
        MountSource::Bind { path: std::path::absolute(source)?, create: true }
    } else if id::is_name(source) {
        MountSource::Volume(source.to_owned())
    } else {
        return Err(bad(format!("{source:?} is neither a path nor a volume's name")));
    };
    Ok(MountRequest { source, destination: destination.to_owned(), writable, shallow: false })
}

fn bail_parts(given: &str) -> anyhow::Error {
    anyhow::anyhow!("invalid volume {given:?}: too many colons; wanted [name|path:]path[:ro]")
}

/// `--secret id=…,src=…[,type=mount|env][,target=…]`, in the words of `docker build` and `podman run`.
fn secrets(given: &[String]) -> Result<Vec<Secret>> {
    let mut all: Vec<Secret> = Vec::new();
    for text in given {
        let secret = parse_secret(text).map_err(|reason| anyhow::anyhow!("invalid secret {text:?}: {reason}"))?;
        if all.iter().any(|other| other.id == secret.id || other.shown == secret.shown) {
            bail!("invalid secret {text:?}: another has its id or its target");
        }
        all.push(secret);
    }
    Ok(all)
}

fn parse_secret(given: &str) -> Result<Secret, String> {
    let (mut id, mut source, mut kind, mut target) = (None, None, "mount", None);
    for part in given.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "id" => id = Some(value).filter(|id| is_secrets_id(id)),
            "src" | "source" => source = Some(value).filter(|path| !path.is_empty()),
            "type" if matches!(value, "mount" | "file") => kind = "mount",
            "type" if value == "env" => kind = "env",
            "target" | "dst" | "destination" => target = Some(value).filter(|target| !target.is_empty()),
            _ => return Err(format!("{part:?} is none of id=NAME, src=FILE, type=mount|env and target=…")),
        }
    }
    let id = id.ok_or("it needs id=NAME, of letters, digits, _, . and -")?.to_owned();
    let source = source.ok_or("it needs src=FILE")?;
    let source = std::path::absolute(source).map_err(|e| e.to_string())?;
    if !source.is_file() {
        return Err(format!("there is no file {}", source.display()));
    }
    let shown = match (kind, target) {
        ("env", Some(name)) if name.contains('=') => return Err(format!("{name:?} is no name of a variable")),
        ("env", name) => Shown::Variable(name.unwrap_or(&id).to_owned()),
        (_, Some(path)) if path.starts_with('/') => Shown::File(normalize(path)),
        (_, name) => Shown::File(normalize(&format!("{}/{}", Secret::DIR, name.unwrap_or(&id)))),
    };
    Ok(Secret { id, source, shown })
}

fn is_secrets_id(id: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !id.is_empty() && id.len() < 64 && id.chars().all(known) && id != "." && id != ".."
}

/// `--mount type=…,source=…,target=…,readonly`.
fn parse_mount(given: &str) -> Result<MountRequest> {
    let bad = |reason: String| anyhow::anyhow!("invalid mount {given:?}: {reason}");
    let (mut kind, mut source, mut target, mut writable) = ("volume", None, None, true);
    for field in given.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value),
            "target" | "destination" | "dst" => target = Some(value),
            "readonly" | "ro" => writable = !matches!(value, "" | "true" | "1"),
            other => return Err(bad(format!("unknown field {other:?}; known: type, source, target, readonly"))),
        }
    }
    let target = target.filter(|t| t.starts_with('/')).ok_or_else(|| bad("target must be an absolute path".into()))?;
    let source = match (kind, source) {
        ("bind", Some(path)) => MountSource::Bind { path: std::path::absolute(path)?, create: false },
        ("bind", None) => return Err(bad("a bind needs a source".into())),
        ("volume", Some(name)) => MountSource::Volume(name.to_owned()),
        ("volume", None) => MountSource::Anonymous,
        (other, _) => return Err(bad(format!("unknown type {other:?}; known: bind, volume"))),
    };
    Ok(MountRequest { source, destination: target.to_owned(), writable, shallow: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_in_docker_form() {
        let bind = parse_volume("/src:/dst:ro").unwrap();
        assert_eq!(bind.source, MountSource::Bind { path: "/src".into(), create: true });
        assert!(!bind.writable);
        assert_eq!(parse_volume("data:/d").unwrap().source, MountSource::Volume("data".into()));
        assert_eq!(parse_volume("/d").unwrap().source, MountSource::Anonymous);
        for bad in ["data:d", "a:/b:c", "/a:/b:ro:x", "b@d:/x"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_in_full() {
        let shown = |text: &str| parse_secret(&format!("src=/etc/hostname,{text}")).map(|secret| secret.shown);
        assert_eq!(shown("id=key"), Ok(Shown::File("/run/secrets/key".into())));
        assert_eq!(shown("id=key,target=db"), Ok(Shown::File("/run/secrets/db".into())));
        assert_eq!(shown("id=key,target=/etc/../k"), Ok(Shown::File("/k".into())));
        assert_eq!(shown("id=KEY,type=env"), Ok(Shown::Variable("KEY".into())));
        assert_eq!(shown("id=KEY,type=env,target=K"), Ok(Shown::Variable("K".into())));
        for bad in ["", "id=", "id=../x", "id=..", "id=k,type=x", "id=k,mode=0400", "id=k,type=env,target=A=B"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
        assert!(parse_secret("id=k").is_err() && parse_secret("id=k,src=/none").is_err());
    }

    #[test]
    fn mounts_in_full() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert!(!mount.writable && mount.destination == "/b");
        assert_eq!(parse_mount("source=v,target=/x").unwrap().source, MountSource::Volume("v".into()));
        for bad in ["type=tmpfs,target=/x", "type=bind,target=/x", "target=x", "size=3,target=/x"] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn env_files_and_labels() {
        let dir = std::env::temp_dir().join(format!("sampan-env-{}", std::process::id()));
        std::fs::write(&dir, "# c\nA=1 2\n\nB=\n").unwrap();
        assert_eq!(read_env_file(&dir).unwrap(), ["A=1 2", "B="]);
        std::fs::write(&dir, "A B=1\n").unwrap();
        assert!(read_env_file(&dir).unwrap_err().to_string().contains(":1:"));
        std::fs::remove_file(dir).unwrap();
        assert_eq!(parse_labels(&["a=b=c".into(), "d".into()])["a"], "b=c");
    }
}
