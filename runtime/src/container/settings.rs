//! What a front end asks for when it has a container made.

use super::health::{Check, OnFailure};
use super::restart::Policy;
use crate::grants::{Egress, Http, Limits, Network, Paths, Port, Proc, Publish, Secret};
use crate::sandbox::log;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What a front end asks for. Empty fields leave the image's word.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The name; drawn when `None`.
    pub name: Option<String>,
    /// The image as the user named it, or the Wasm file.
    pub image: String,
    /// Instead of the image's entrypoint; `Some(vec![])` takes it away.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command.
    pub command: Vec<String>,
    /// Over the image's environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Instead of the image's working directory.
    pub working_dir: Option<String>,
    /// Over the image's labels.
    pub labels: BTreeMap<String, String>,
    /// The sandbox that it is to share with others, by its name.
    pub sandbox: Option<String>,
    /// Where that sandbox is made.
    pub inside: Inside,
    /// Ports with an address of the host.
    pub published: Vec<Publish>,
    /// Whether every exposed port is published somewhere.
    pub publish_all: bool,
    /// Ports that it may bind besides the image's.
    pub exposed: Vec<Port>,
    /// What is mounted besides the image's volumes.
    pub mounts: Vec<MountRequest>,
    /// What it alone may know.
    pub secrets: Vec<Secret>,
    /// What of its tree it may see or change less of.
    pub paths: Paths,
    /// What its programs are told of themselves and each other, in `/proc`, where it shares a sandbox; nothing without it.
    pub proc: Option<Proc>,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// How it is connected.
    pub network: Network,
    /// The network of its user's that it joins, instead.
    pub join: Option<Join>,
    /// Whom it may call beyond its own network.
    pub egress: Egress,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// Whether its streams are a terminal.
    pub tty: bool,
    /// Whether it may start programs of its own tree.
    pub allow_spawn: bool,
    /// How its requests are answered, if it is an HTTP service.
    pub http: Http,
    /// What it may use of the machine.
    pub limits: Limits,
    /// The grace period of `stop`, in seconds; Docker's 10 when `None`.
    pub stop_timeout: Option<u32>,
    /// What becomes of it when it ends.
    pub restart: Policy,
    /// How its log is kept.
    pub log: log::Config,
    /// How its health is checked, over the image's word; `["NONE"]` takes that away.
    pub health: Check,
    /// What is done when it is unhealthy.
    pub on_failure: OnFailure,
    /// A Wasm file that is the program, for a container without an image.
    pub module: Option<PathBuf>,
}

/// What a sandbox is made in, where that is not what its maker is in itself: a pod, say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inside {
    /// A network namespace, by the path of a file that stands for it (ip-netns(8)).
    pub network: Option<PathBuf>,
    /// What names are looked up by instead of `/etc/resolv.conf` (resolv.conf(5)).
    pub resolv_conf: Option<PathBuf>,
    /// What is known of hosts instead of `/etc/hosts` (hosts(5)).
    pub hosts: Option<PathBuf>,
    /// A cgroup, by its path in each hierarchy; its last part begins with `sampan-`.
    pub cgroup: Option<String>,
}

/// A place in a network that a front end asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Join {
    /// The network's name, or id.
    pub network: String,
    /// Names besides the container's own.
    pub aliases: Vec<String>,
    /// An address of the network; any that is free without a wish.
    pub ip: Option<Ipv4Addr>,
}

/// A mount that a front end asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// What is mounted.
    pub source: MountSource,
    /// The guest's path, absolute.
    pub destination: String,
    /// Whether the guest may write there.
    pub writable: bool,
    /// Whether what is mounted below it stays as it is, where the guest may not write.
    pub shallow: bool,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the host; made as a directory if it is missing and `create` is set, as `-v` does.
    Bind {
        /// The path, absolute.
        path: PathBuf,
        /// Whether a missing one is made.
        create: bool,
    },
    /// A named volume, made if it is missing.
    Volume(String),
    /// A new volume without a name.
    Anonymous,
}
