//! Which containers share a sandbox: those of a pod. It is found by the name of the group.

use super::{Call, ShimError};
use sampan_runtime::container::Inside;
use sampan_runtime::network::namespace;
use sampan_runtime::sandbox::{self, TREES};
use sampan_runtime::store::{Lock, Store, files};
use serde::Deserialize;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What names the group of a container, as containerd's own shim has it.
const LABELS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// How long somebody who makes or ends a sandbox may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is read of a bundle before anything else is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head {
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
    mounts: Option<Vec<Mount>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mount {
    destination: PathBuf,
    source: PathBuf,
}

/// A group of containers with one sandbox.
#[derive(Debug)]
pub struct Group {
    place: PathBuf,
    inside: Inside,
    /// Whether its network namespace is made with it.
    own_network: bool,
}

impl Group {
    /// The group of a bundle.
    ///
    /// # Errors
    /// When the bundle cannot be read.
    pub fn of(store: &Store, call: &Call) -> Result<Self, ShimError> {
        let head: Head = files::read_json(&call.bundle.join("config.json"))?;
        Ok(Self::from(store, call, &head))
    }

    fn from(store: &Store, call: &Call, head: &Head) -> Self {
        let labelled = |label: &&str| head.annotations.as_ref().and_then(|all| all.get(*label));
        let name = LABELS.iter().find_map(labelled).unwrap_or(&call.id);
        let namespaces = head.linux.as_ref().and_then(|linux| linux.namespaces.as_deref()).unwrap_or_default();
        let network = namespaces.iter().find(|namespace| namespace.kind == "network");
        let path = network.and_then(|network| network.path.clone()).filter(|path| !path.as_os_str().is_empty());
        let mounts = head.mounts.as_deref().unwrap_or_default();
        let instead = |file: &str| mounts.iter().find(|m| m.destination == Path::new(file)).map(|m| m.source.clone());
        Self {
            // Two containerds may have containers of the same name.
            place: place(store, &format!("{}\n{}\n{name}", call.address, call.namespace)),
            own_network: network.is_some() && path.is_none(),
            inside: Inside {
                network: path,
                resolv_conf: instead("/etc/resolv.conf"),
                hosts: instead("/etc/hosts"),
                cgroup: None,
            },
        }
    }

    /// Where it has its lock and its socket.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.place)
    }

    /// Where it answers, as containerd has addresses.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Takes the right to make the sandbox; `None` when it is there and answers.
    ///
    /// # Errors
    /// When it is there and does not answer, or the run directory cannot be written.
    pub fn claim(&self) -> Result<Option<Claim>, ShimError> {
        let (begun, path) = (Instant::now(), self.place.join("lock"));
        loop {
            // Whoever had it may take the directory away at this moment: then the next try finds none.
            let made = std::fs::create_dir_all(&self.place);
            match Lock::try_take(&path) {
                Ok(Some(lock)) if lock.is_of(&path) => {
                    let _ = std::fs::remove_file(self.socket());
                    return Ok(Some(Claim { place: self.place.clone(), lock }));
                }
                Err(error) if !error.is_not_found() => return Err(error.into()),
                Err(_) => made.map_err(ShimError::io("create", &self.place))?,
                Ok(_) => {}
            }
            if UnixStream::connect(self.socket()).is_ok() {
                return Ok(None);
            }
            if begun.elapsed() > PATIENCE {
                return Err(ShimError::Silent(self.socket()));
            }
            // Somebody makes it or ends it at this moment.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes the right of a sandbox that is there no more; `None` when somebody has it.
    pub(super) fn claim_now(&self) -> Result<Option<Claim>, ShimError> {
        match Lock::try_take(&self.place.join("lock")) {
            Ok(lock) => Ok(lock.map(|lock| Claim { place: self.place.clone(), lock })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the sandbox, in the namespaces that its first container asks for.
    ///
    /// To be called while this process has one thread: it forks.
    pub(super) fn make(&self, store: &Store) -> Result<sandbox::Keeper, ShimError> {
        if self.own_network {
            namespace::enter_new().map_err(ShimError::io("make", "a network namespace"))?;
        }
        Ok(sandbox::launch_shared(&self.place, &store.run_dir()?.join(TREES), &self.inside)?)
    }
}

fn socket(place: &Path) -> PathBuf {
    place.join("sock")
}

/// Where the sandbox of a group is: a socket's path has 108 bytes (unix(7)).
fn place(store: &Store, name: &str) -> PathBuf {
    // FNV-1a, twice with different beginnings: names are not secret, and two of them must not meet by accident.
    let hash =
        |basis: u64| name.bytes().fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let name = format!("{:016x}{:08x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9ae1_6a3b_2f90_404f) >> 32);
    store.run_path().join("containerd").join(name)
}

/// The right to make the sandbox of a group: while it lives, nobody else makes it.
#[derive(Debug)]
pub struct Claim {
    place: PathBuf,
    lock: Lock,
}

impl Claim {
    /// The descriptor of its lock, which a child needs that makes the sandbox.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.lock.descriptor()
    }

    /// Takes the directory away: from then on another may be there.
    pub fn give_up(self) {
        let _ = files::remove_tree(&self.place);
        drop(self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::Action;

    fn call(id: &str) -> Call {
        Call {
            action: Action::Start,
            namespace: "default".into(),
            id: id.into(),
            address: "/run/containerd/containerd.sock".into(),
            ttrpc: String::new(),
            publisher: String::new(),
            bundle: PathBuf::new(),
        }
    }

    fn group(id: &str, config: &str) -> Group {
        let dir = std::env::temp_dir().join("sampan-no-such-store");
        let store = Store::open(&dir, &dir.join("run")).unwrap();
        Group::from(&store, &call(id), &serde_json::from_str(config).unwrap())
    }

    #[test]
    fn a_pod_is_one_group_and_others_stand_alone() {
        let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        let place = |id, config| group(id, config).place;
        assert_eq!(place("a", pod), place("b", pod));
        assert_ne!(place("a", "{}"), place("b", "{}"));
        assert_ne!(place("a", "{}"), place("a", pod));
        let named = r#"{"annotations":{"io.containerd.runc.v2.group":"g","io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_ne!(place("a", named), place("a", pod));
        assert!(group("a", pod).socket().to_string_lossy().len() < 108);
    }

    #[test]
    fn the_network_is_the_nodes_a_given_one_or_a_new_one() {
        let with = |namespace: &str| group("a", &format!(r#"{{"linux":{{"namespaces":[{namespace}]}}}}"#));
        let (none, own) = (with(r#"{"type":"pid"}"#), with(r#"{"type":"network"}"#));
        assert!(none.inside.network.is_none() && !none.own_network);
        assert!(own.inside.network.is_none() && own.own_network);
        let given = with(r#"{"type":"network","path":"/run/netns/x"}"#);
        assert_eq!((given.inside.network, given.own_network), (Some("/run/netns/x".into()), false));
    }

    #[test]
    fn names_are_looked_up_by_the_pods_own_files() {
        let mounts =
            r#"{"mounts":[{"destination":"/etc/resolv.conf","source":"/s/resolv.conf"},{"destination":"/proc"}]}"#;
        let group = group("a", mounts);
        assert_eq!(group.inside.resolv_conf, Some("/s/resolv.conf".into()));
        assert_eq!(group.inside.hosts, None);
    }
}
