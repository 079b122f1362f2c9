//! Grants: everything that a guest is given, and nothing else exists for it.
//!
//! A front end's settings and the image's configuration become [`Grants`] once, when a container is created. They
//! travel to the sandbox as an OCI runtime bundle's `config.json` ([`Grants::to_spec`], [`Grants::from_spec`]): what
//! the specification has a field for goes there, the rest goes into annotations under `dev.sampan.`.

mod address;
pub mod capabilities;
mod egress;
mod http;
mod limits;
mod paths;
mod ports;
mod proc;
mod reach;
mod resources;
mod secret;

pub use address::{Address, AddressError};
pub use egress::{Egress, Ports, Rule, RuleError};
pub use http::Http;
pub use limits::Limits;
pub use paths::Paths;
pub use ports::{Port, PortError, Protocol, Publish};
pub use proc::{Proc, Sees};
pub use reach::Sockets;
pub use resources::{Resources, SHARES};
pub use secret::{Secret, Shown};

use oci_spec::runtime::{Mount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// A bundle that cannot be read as grants.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// A field that we need is not there.
    #[error("the bundle's config.json has no {0}")]
    Missing(&'static str),
    /// A field has a value that we cannot read.
    #[error("the bundle's config.json has an unreadable {field}: {reason}")]
    Unreadable {
        /// Which one.
        field: String,
        /// Why.
        reason: String,
    },
    /// A mount of a kind that we do not have.
    #[error("cannot mount {destination:?} of type {kind:?}: bind is what a guest can be given")]
    MountKind {
        /// Where it was wanted.
        destination: PathBuf,
        /// What was wanted.
        kind: String,
    },
    /// The bundle could not be put together.
    #[error("cannot write the bundle: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
}

/// How a container is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A virtual address of its own; granted ports are published.
    #[default]
    Default,
    /// The host's addresses and ports as they are.
    Host,
    /// Nothing but its own loopback.
    None,
}

impl Network {
    /// The word that `--network` takes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Host => "host",
            Self::None => "none",
        }
    }
}

impl std::str::FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" | "bridge" => Ok(Self::Default),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            other => Err(format!("unknown network {other:?}: default, host and none are always there")),
        }
    }
}

/// A directory or a single file of the host, seen below the guest's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindGrant {
    /// The host's path, absolute.
    pub source: PathBuf,
    /// The guest's path, absolute.
    pub destination: PathBuf,
    /// Whether the guest may change it.
    pub writable: bool,
    /// Whether what is mounted below it stays as it is, where the guest may not change it.
    pub shallow: bool,
}

/// The tree that a guest sees as `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootGrant {
    /// Our own: unpacked layers (topmost first) below the bundle's private writable layer.
    Layers(Vec<PathBuf>),
    /// A directory that whoever made the bundle has put together.
    Ready(PathBuf),
}

/// A container's place in a network that its user made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The network's name.
    pub network: String,
    /// The names that its peers know it by, in lower case.
    pub names: Vec<String>,
}

/// Everything that a guest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// The program and its arguments; the first is the guest's path in its own tree.
    pub args: Vec<String>,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// What `/` is.
    pub root: RootGrant,
    /// Whether the guest may write to what `/` is.
    pub root_writable: bool,
    /// What is mounted below `/`.
    pub binds: Vec<BindGrant>,
    /// What it alone may know.
    pub secrets: Vec<Secret>,
    /// What of its tree it may see or change less of.
    pub paths: Paths,
    /// What its programs are told of themselves and each other; nothing without it.
    pub proc: Option<Proc>,
    /// How it is connected.
    pub network: Network,
    /// The address that it knows itself by; none under `host`, and in a bundle that is not ours.
    pub address: Option<Address>,
    /// The network of its user's that it is on.
    pub member: Option<Membership>,
    /// Ports with an address of the host.
    pub published: Vec<Publish>,
    /// Ports that the guest may bind without one.
    pub exposed: Vec<Port>,
    /// Whom it may call beyond its own network.
    pub egress: Egress,
    /// Whether standard input is open.
    pub stdin: bool,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Whether it may start programs of its own tree.
    pub spawn: bool,
    /// How its requests are answered, if it is an HTTP service.
    pub http: Http,
    /// What it may use of the machine.
    pub limits: Limits,
}

/// The annotations that carry what the OCI runtime specification has no field for.
mod annotation {
    pub const LAYERS: &str = "dev.sampan.layers";
    pub const NETWORK: &str = "dev.sampan.network";
    pub const ADDRESS: &str = "dev.sampan.address";
    pub const MEMBER: &str = "dev.sampan.member-of";
    pub const NAMES: &str = "dev.sampan.names";
    pub const PUBLISH: &str = "dev.sampan.publish";
    pub const EXPOSE: &str = "dev.sampan.expose";
    pub const EGRESS: &str = "dev.sampan.allow-net";
    pub const STDIN: &str = "dev.sampan.stdin";
    pub const SPAWN: &str = "dev.sampan.spawn";
    pub const SECRETS: &str = "dev.sampan.secrets";
}

impl Grants {
    /// The grants as an OCI runtime configuration.
    ///
    /// # Errors
    /// When oci-spec refuses a value.
    pub fn to_spec(&self) -> Result<Spec, GrantError> {
        let mut annotations = HashMap::new();
        let mut note = |key: &str, value: String| {
            if !value.is_empty() {
                annotations.insert(key.to_owned(), value);
            }
        };
        let root = match &self.root {
            RootGrant::Layers(layers) => {
                let layers: Vec<_> = layers.iter().map(|l| l.to_string_lossy()).collect();
                note(annotation::LAYERS, layers.join(":"));
                PathBuf::from("upper")
            }
            RootGrant::Ready(path) => path.clone(),
        };
        note(annotation::NETWORK, self.network.as_str().to_owned());
        note(annotation::ADDRESS, self.address.map(|address| address.to_string()).unwrap_or_default());
        if let Some(member) = &self.member {
            note(annotation::MEMBER, member.network.clone());
            note(annotation::NAMES, member.names.join(","));
        }
        note(annotation::PUBLISH, join(self.published.iter().map(|p| format!("{}={}", p.host, p.port))));
        note(annotation::EXPOSE, join(self.exposed.iter().map(Port::to_string)));
        note(annotation::EGRESS, self.egress.to_string());
        note(annotation::STDIN, if self.stdin { "true".into() } else { String::new() });
        note(annotation::SPAWN, if self.spawn { "true".into() } else { String::new() });
        note(annotation::SECRETS, Secret::note(&self.secrets));
        self.http.note(&mut note);
        let process = ProcessBuilder::default()
            .terminal(self.terminal)
            .args(self.args.clone())
            .env(self.env.clone())
            .cwd(&self.cwd)
            .no_new_privileges(true)
            .build()?;
        let mounts = self.binds.iter().map(bind_mount).collect::<Result<Vec<_>, _>>()?;
        let mut spec = SpecBuilder::default()
            .version("1.2.0")
            .process(process)
            .root(RootBuilder::default().path(root).readonly(!self.root_writable).build()?)
            .mounts(mounts)
            .annotations(annotations)
            .build()?;
        self.limits.write(&mut spec)?;
        self.paths.write(&mut spec);
        if let Some(proc) = &self.proc {
            proc.write(&mut spec)?;
        }
        Ok(spec)
    }

    /// Reads what an OCI runtime configuration grants.
    ///
    /// # Errors
    /// When a field that we need is missing or unreadable.
    pub fn from_spec(spec: &Spec) -> Result<Self, GrantError> {
        let process = spec.process().as_ref().ok_or(GrantError::Missing("process"))?;
        let root = spec.root().as_ref().ok_or(GrantError::Missing("root"))?;
        let note = |key: &str| spec.annotations().as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let layers = note(annotation::LAYERS);
        let ours = layers.is_some() || root.path().as_os_str() == "upper";
        Ok(Self {
            args: process.args().clone().filter(|a| !a.is_empty()).ok_or(GrantError::Missing("process.args"))?,
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().to_string_lossy().into_owned(),
            root: if ours {
                RootGrant::Layers(split(layers, ':').map(PathBuf::from).collect())
            } else {
                RootGrant::Ready(root.path().clone())
            },
            root_writable: !root.readonly().unwrap_or(false),
            binds: spec
                .mounts()
                .iter()
                .flatten()
                .filter(|m| !is_kernel_view(m))
                .map(bind_grant)
                .collect::<Result<_, _>>()?,
            secrets: Secret::read(note(annotation::SECRETS), annotation::SECRETS)?,
            paths: Paths::read(spec),
            proc: Proc::read(spec)?,
            network: match note(annotation::NETWORK) {
                None => Network::Default,
                Some(word) => word.parse().map_err(unreadable(annotation::NETWORK))?,
            },
            address: match note(annotation::ADDRESS) {
                None => None,
                Some(text) => Some(text.parse().map_err(unreadable(annotation::ADDRESS))?),
            },
            member: note(annotation::MEMBER).map(|network| Membership {
                network: network.to_owned(),
                names: split(note(annotation::NAMES), ',').map(str::to_owned).collect(),
            }),
            published: split(note(annotation::PUBLISH), ',')
                .map(|text| {
                    let (host, port) = text.split_once('=').ok_or_else(|| unreadable(annotation::PUBLISH)("no '='"))?;
                    Ok(Publish {
                        host: host.parse().map_err(unreadable(annotation::PUBLISH))?,
                        port: port.parse().map_err(unreadable(annotation::PUBLISH))?,
                    })
                })
                .collect::<Result<_, GrantError>>()?,
            exposed: split(note(annotation::EXPOSE), ',')
                .map(|port| port.parse().map_err(unreadable(annotation::EXPOSE)))
                .collect::<Result<_, GrantError>>()?,
            egress: Egress::parse(note(annotation::EGRESS).unwrap_or_default())
                .map_err(unreadable(annotation::EGRESS))?,
            stdin: note(annotation::STDIN) == Some("true"),
            terminal: process.terminal().unwrap_or(false),
            spawn: note(annotation::SPAWN) == Some("true"),
            http: Http::read(note)?,
            limits: Limits::read(spec)?,
        })
    }

    /// Every port that the guest may bind, once each.
    #[must_use]
    pub fn ports(&self) -> Vec<Port> {
        let mut ports: Vec<Port> = self.published.iter().map(|p| p.port).chain(self.exposed.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

fn split(text: Option<&str>, separator: char) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(separator).filter(|part| !part.is_empty())
}

fn unreadable<E: std::fmt::Display>(field: &str) -> impl FnOnce(E) -> GrantError {
    let field = field.to_owned();
    move |reason| GrantError::Unreadable { field, reason: reason.to_string() }
}

fn bind_mount(bind: &BindGrant) -> Result<Mount, oci_spec::OciSpecError> {
    let mut options = vec!["rbind".to_owned()];
    // `ro` is for the mount alone, `rro` for those below it too (config.md, "Linux mount options").
    let access = match bind {
        BindGrant { writable: true, .. } => "rw",
        BindGrant { shallow: true, .. } => "ro",
        _ => "rro",
    };
    options.push(access.to_owned());
    MountBuilder::default().destination(&bind.destination).source(&bind.source).typ("bind").options(options).build()
}

/// `/proc`, `/sys` and their like, which every bundle made for Linux programs asks for: a guest has no kernel to look
/// at, so they are passed over rather than refused.
fn is_kernel_view(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2" | "tmpfs"))
}

fn bind_grant(mount: &Mount) -> Result<BindGrant, GrantError> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |option: &str| options.iter().any(|o| o == option);
    let is_bind = mount.typ().as_deref().is_none_or(|kind| kind == "bind") || has("bind") || has("rbind");
    if !is_bind {
        return Err(GrantError::MountKind {
            destination: mount.destination().clone(),
            kind: mount.typ().clone().unwrap_or_default(),
        });
    }
    Ok(BindGrant {
        source: mount.source().clone().ok_or(GrantError::Missing("source of a mount"))?,
        destination: mount.destination().clone(),
        writable: !has("ro") && !has("rro"),
        shallow: has("ro") && !has("rro"),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn full() -> Grants {
        Grants {
            args: vec!["/app.wasm".into(), "--port".into()],
            env: vec!["A=b=c".into()],
            cwd: "/srv".into(),
            root: RootGrant::Layers(vec!["/s/layers/b".into(), "/s/layers/a".into()]),
            root_writable: false,
            binds: vec![
                BindGrant { source: "/data".into(), destination: "/d".into(), writable: false, shallow: false },
                BindGrant { source: "/host".into(), destination: "/h".into(), writable: false, shallow: true },
                BindGrant { source: "/x".into(), destination: "/x".into(), writable: true, shallow: false },
            ],
            secrets: vec![Secret {
                id: "key".into(),
                source: "/k".into(),
                shown: Shown::File("/run/secrets/key".into()),
            }],
            paths: Paths { masked: vec!["/proc/kcore".into(), "/bin/ls".into()], read_only: vec!["/tmp".into()] },
            proc: Some(Proc { uid: 1, gid: 2, groups: vec![2, 3], sees: Sees::Container("c0".into()) }),
            network: Network::None,
            address: Some("10.89.0.2/24".parse().unwrap()),
            member: Some(Membership { network: "app".into(), names: vec!["web".into(), "www".into()] }),
            published: Publish::parse("127.0.0.1:8080:8000").unwrap(),
            exposed: vec!["8000/tcp".parse().unwrap(), "53/udp".parse().unwrap()],
            egress: Egress::parse("*.example.com:443,10.0.0.0/8").unwrap(),
            stdin: true,
            terminal: true,
            spawn: true,
            http: Http { access_log: true, ..Http::default() },
            limits: Limits { memory: Some(1 << 20), ..Limits::default() },
        }
    }

    #[test]
    fn a_bundle_says_everything() {
        let grants = full();
        let json = serde_json::to_string(&grants.to_spec().unwrap()).unwrap();
        let back = Grants::from_spec(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(back, grants);
        assert_eq!(back.ports().len(), 2);
        let bare = Grants {
            root: RootGrant::Layers(vec![]),
            stdin: false,
            terminal: false,
            spawn: false,
            exposed: vec![],
            published: vec![],
            egress: Egress::default(),
            address: None,
            member: None,
            paths: Paths::default(),
            proc: None,
            ..grants
        };
        assert_eq!(Grants::from_spec(&bare.to_spec().unwrap()).unwrap(), bare);
    }

    #[test]
    fn a_foreign_bundle_is_read_and_a_device_is_refused() {
        let spec = |mount: &str| -> Spec {
            serde_json::from_str(&format!(
                r#"{{"ociVersion":"1.0.2","process":{{"user":{{"uid":0,"gid":0}},"args":["/a"],"cwd":"/"}},"root":{{"path":"/run/x/rootfs"}},
                "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},{mount}]}}"#
            ))
            .unwrap()
        };
        let good = Grants::from_spec(&spec(r#"{"destination":"/d","source":"/s","options":["rbind","ro"]}"#)).unwrap();
        assert_eq!(good.root, RootGrant::Ready("/run/x/rootfs".into()));
        assert!(!good.binds[0].writable && good.binds[0].shallow && good.root_writable);
        let bad = Grants::from_spec(&spec(r#"{"destination":"/d","type":"ext4","source":"/dev/sda"}"#));
        assert!(bad.unwrap_err().to_string().contains("ext4"));
    }
}
