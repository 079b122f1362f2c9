//! Networks that users make: `networks/<name>/network.json` says what one is, `networks/<name>/addresses/<ip>` is a
//! symbolic link whose text is the id of the container that has the address, so taking one is one system call.

use super::id;
use crate::events;
use crate::grants::{Address, Egress};
use crate::store::{Durability, Lock, Store, StoreError, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// What goes wrong with networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is none of this name.
    #[error("there is no network {0:?}: make it with `sampan network create {0}`")]
    NotFound(String),
    /// There is one of this name.
    #[error("there is a network {0:?} already: remove it with `sampan network rm {0}`, or take another name")]
    Exists(String),
    /// The name of a network that is always there.
    #[error("the network {0} is always there: it can be neither made nor removed")]
    BuiltIn(String),
    /// A name that is none.
    #[error(
        "invalid network name {0:?}: wanted two or more letters, digits, '_', '.' or '-', the first a letter or digit"
    )]
    BadName(String),
    /// Its addresses are another network's.
    #[error("the subnet {subnet} has addresses of the network {other}: choose another one")]
    Overlaps {
        /// What was wanted.
        subnet: Address,
        /// Whose they are.
        other: String,
    },
    /// No subnet is left.
    #[error("all subnets from 10.89.0.0/24 on are taken: remove a network, or give one with --subnet")]
    NoSubnet,
    /// Every address is taken.
    #[error("the network {0} has no address left: remove a container of it")]
    Full(String),
    /// The address that was asked for cannot be had.
    #[error("the address {ip} cannot be had in the network {network}: {reason}")]
    NoAddress {
        /// The address.
        ip: Ipv4Addr,
        /// The network.
        network: String,
        /// Why.
        reason: String,
    },
    /// Containers are on it.
    #[error("the network {network} is used by the container {}: remove that first", id::short(by))]
    InUse {
        /// The network.
        network: String,
        /// The container's id.
        by: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its name.
    pub name: String,
    /// 64 hex digits.
    pub id: String,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub subnet: Address,
    /// Whom its containers may call beyond it.
    pub egress: Egress,
    /// Whether the configuration lets them call nobody either.
    #[serde(default)]
    pub internal: bool,
}

/// What a new network shall be.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses; the next that are free without a wish.
    pub subnet: Option<Address>,
    /// Whom its containers may call beyond it.
    pub egress: Egress,
    /// Whether the configuration lets them call nobody either.
    pub internal: bool,
}

/// The names of the networks that are always there.
pub const BUILT_IN: [&str; 4] = ["bridge", "default", "host", "none"];

/// Makes a network.
///
/// # Errors
/// When the name or the addresses are taken, or the store cannot be written; then nothing is left of it.
pub fn create(store: &Store, wish: Wish) -> Result<NetworkRecord> {
    let name = wish.name.clone();
    if BUILT_IN.contains(&name.as_str()) {
        return Err(NetworkError::BuiltIn(name));
    }
    if !id::is_name(&name) {
        return Err(NetworkError::BadName(name));
    }
    let dir = store.networks();
    files::make_dir(&dir)?;
    let _lock = Lock::wait(&store.root().join("networks.lock"))?;
    let known = list(store)?;
    if known.iter().any(|network| network.name == name) {
        return Err(NetworkError::Exists(name));
    }
    let taken = |subnet: Address| known.iter().find(|network| network.subnet.overlaps(subnet));
    let subnet = match wish.subnet {
        Some(subnet) => match taken(subnet) {
            Some(other) => return Err(NetworkError::Overlaps { subnet, other: other.name.clone() }),
            None => subnet,
        },
        None => subnets().find(|subnet| taken(*subnet).is_none()).ok_or(NetworkError::NoSubnet)?,
    };
    let subnet = Address { ip: subnet.network(), ..subnet };
    let id = id::new_id().map_err(StoreError::io("draw an id for a network in", &dir))?;
    let created = jiff::Timestamp::now();
    let Wish { labels, egress, internal, .. } = wish;
    let record = NetworkRecord { name, id, created, labels, subnet, egress, internal };
    let scratch = store.scratch()?;
    let made = scratch.path().join("network");
    files::make_dir(&made.join("addresses"))?;
    files::write_json(&made.join("network.json"), &record, Durability::Flushed)?;
    let place = dir.join(&record.name);
    std::fs::rename(&made, &place).map_err(StoreError::io("create", place))?;
    files::flush_dir(&dir)?;
    events::tell(store, events::Kind::Network, "create", &record.id, [("name", record.name.clone())]);
    Ok(record)
}

/// What a network gets that asks for no subnet: 10.89.0.0/24 and those after it.
fn subnets() -> impl Iterator<Item = Address> {
    (89..=255_u8).flat_map(|a| (0..=255_u8).map(move |b| Address { ip: Ipv4Addr::new(10, a, b, 0), prefix: 24 }))
}

/// The network of this name, id, or beginning of an id.
///
/// # Errors
/// When there is none.
pub fn inspect(store: &Store, wanted: &str) -> Result<NetworkRecord> {
    let none = || NetworkError::NotFound(wanted.to_owned());
    if id::is_name(wanted)
        && let Ok(record) = files::read_json(&store.networks().join(wanted).join("network.json"))
    {
        return Ok(record);
    }
    let mut fits = list(store)?.into_iter().filter(|network| wanted.len() >= 3 && network.id.starts_with(wanted));
    fits.next().filter(|_| fits.next().is_none()).ok_or_else(none)
}

/// Every network that users have made, by name.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<NetworkRecord>> {
    let entries = match std::fs::read_dir(store.networks()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", store.networks())(e).into()),
    };
    let read = |entry: std::fs::DirEntry| files::read_json(&entry.path().join("network.json")).ok();
    let mut all: Vec<NetworkRecord> = entries.flatten().filter_map(read).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The containers that have an address of a network: their ids and addresses.
///
/// # Errors
/// When the store cannot be read.
pub fn holders(store: &Store, network: &NetworkRecord) -> Result<Vec<(String, Ipv4Addr)>> {
    let dir = addresses(store, &network.name);
    let entries = std::fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?;
    let holder = |entry: std::fs::DirEntry| {
        let ip = entry.file_name().to_str()?.parse().ok()?;
        let id = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        is_there(store, &id).then_some((id, ip))
    };
    let mut all: Vec<_> = entries.flatten().filter_map(holder).collect();
    all.sort_by_key(|(_, ip)| *ip);
    Ok(all)
}

/// Removes a network that no container is on.
///
/// # Errors
/// When there is none, or a container has an address of it.
pub fn remove(store: &Store, wanted: &str) -> Result<NetworkRecord> {
    if BUILT_IN.contains(&wanted) {
        return Err(NetworkError::BuiltIn(wanted.to_owned()));
    }
    let network = inspect(store, wanted)?;
    let dir = store.networks().join(&network.name);
    let _lock = Lock::wait(&dir.join("lock"))?;
    if let Some((by, _)) = holders(store, &network)?.into_iter().next() {
        return Err(NetworkError::InUse { network: network.name, by });
    }
    let scratch = store.scratch()?;
    std::fs::rename(&dir, scratch.path().join("network")).map_err(StoreError::io("remove", dir))?;
    let _ = std::fs::remove_dir(store.network_members(&network.name));
    events::tell(store, events::Kind::Network, "destroy", &network.id, [("name", network.name.clone())]);
    Ok(network)
}

fn addresses(store: &Store, network: &str) -> PathBuf {
    store.networks().join(network).join("addresses")
}

/// Whether there is, or is about to be, a container of this id.
pub(super) fn is_there(store: &Store, id: &str) -> bool {
    let dir = store.containers().join(id);
    dir.join("record.json").exists() || Lock::is_held(&dir.join("lock"))
}

/// Takes an address of a network for a container whose directory is there and locked.
///
/// # Errors
/// When there is no such network, or the address (or every one) is taken.
pub fn take_address(store: &Store, network: &NetworkRecord, id: &str, wanted: Option<Ipv4Addr>) -> Result<Address> {
    let name = &network.name;
    // Not while it is being removed.
    let lock = store.networks().join(name).join("lock");
    let gone = || NetworkError::NotFound(name.clone());
    let held = Lock::wait(&lock).map_err(|e| if e.is_not_found() { gone() } else { e.into() })?;
    if !held.is_of(&lock) {
        return Err(gone());
    }
    let dir = addresses(store, name);
    if let Some(ip) = wanted {
        let no = |reason: String| NetworkError::NoAddress { ip, network: name.clone(), reason };
        if !network.subnet.hosts().any(|host| host.ip == ip) {
            return Err(no(format!("it is none of {} for containers", network.subnet)));
        }
        return match take(store, &dir, ip, id)? {
            None => Ok(Address { ip, prefix: network.subnet.prefix }),
            Some(by) => Err(no(format!("the container {} has it", id::short(&by)))),
        };
    }
    for host in network.subnet.hosts() {
        if take(store, &dir, host.ip, id)?.is_none() {
            return Ok(host);
        }
    }
    Err(NetworkError::Full(name.clone()))
}

/// Takes an address, or says who has it.
fn take(store: &Store, dir: &Path, ip: Ipv4Addr, id: &str) -> Result<Option<String>> {
    let link = dir.join(ip.to_string());
    loop {
        match std::os::unix::fs::symlink(id, &link) {
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("take the address", link)(e).into()),
        }
        let by = std::fs::read_link(&link).map(|by| by.to_string_lossy().into_owned()).unwrap_or_default();
        if is_there(store, &by) {
            return Ok(Some(by));
        }
        // Its container is gone; the network's lock keeps others from finding so at the same moment.
        std::fs::remove_file(&link).map_err(StoreError::io("take the address", &link))?;
    }
}

/// Gives an address back, if it is (still) the one of this id.
pub fn release_address(store: &Store, network: &str, ip: Ipv4Addr, id: &str) {
    let link = addresses(store, network).join(ip.to_string());
    if std::fs::read_link(&link).is_ok_and(|known| known.as_os_str() == id) {
        let _ = std::fs::remove_file(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, subnet: Option<&str>) -> Wish {
        Wish { name: name.into(), subnet: subnet.map(|s| s.parse().unwrap()), ..Wish::default() }
    }

    fn container(store: &Store, id: &str) {
        std::fs::create_dir(store.containers().join(id)).unwrap();
        std::fs::write(store.containers().join(id).join("record.json"), "{}").unwrap();
    }

    #[test]
    fn networks_have_addresses_of_their_own() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        assert!(list(&store).unwrap().is_empty());
        let app = create(&store, wish("app", None)).unwrap();
        let db = create(&store, wish("db", None)).unwrap();
        assert_eq!((app.subnet.to_string(), db.subnet.to_string()), ("10.89.0.0/24".into(), "10.89.1.0/24".into()));
        assert!(matches!(create(&store, wish("app", None)), Err(NetworkError::Exists(_))));
        assert!(matches!(create(&store, wish("host", None)), Err(NetworkError::BuiltIn(_))));
        let same = create(&store, wish("xy", Some("10.89.0.0/16")));
        assert!(same.unwrap_err().to_string().contains("network app"));
        assert_eq!(inspect(&store, &app.id[..12]).unwrap().name, "app");
        assert!(inspect(&store, "../app").is_err() && inspect(&store, "c").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_address_is_taken_once_and_free_when_its_container_is_gone() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let net = create(&store, wish("net", Some("10.90.0.0/29"))).unwrap();
        for (n, id) in ["one", "two", "three", "four", "five"].iter().enumerate() {
            container(&store, id);
            let address = take_address(&store, &net, id, None).unwrap();
            assert_eq!(address.ip.octets()[3], u8::try_from(n).unwrap() + 2);
        }
        assert!(matches!(take_address(&store, &net, "six", None), Err(NetworkError::Full(_))));
        assert!(matches!(remove(&store, "net"), Err(NetworkError::InUse { .. })));
        let third = Ipv4Addr::new(10, 90, 0, 4);
        let taken = take_address(&store, &net, "six", Some(third)).unwrap_err().to_string();
        assert!(taken.contains("three"), "{taken}");
        assert!(take_address(&store, &net, "six", Some(Ipv4Addr::new(10, 90, 0, 1))).is_err());
        std::fs::remove_dir_all(store.containers().join("three")).unwrap();
        assert_eq!(take_address(&store, &net, "six", None).unwrap().ip, third);
        release_address(&store, "net", third, "another");
        assert!(addresses(&store, "net").join(third.to_string()).is_symlink());
        for id in ["one", "two", "four", "five"] {
            std::fs::remove_dir_all(store.containers().join(id)).unwrap();
        }
        remove(&store, "net").unwrap();
        assert!(matches!(
            take_address(&store, &net, "x", None),
            Err(NetworkError::NotFound(_) | NetworkError::Store(_))
        ));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
