//! The members of a network while they run: a file each in the run directory, `networks/<network>/<id>.json`, written by
//! the keeper of the member and read by the keepers of its peers.

use super::view::reachable;
use crate::grants::{Address, Protocol};
use crate::store::{Durability, Lock, StoreError, files};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a member tells its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its address in the network.
    pub address: Address,
    /// The names that it goes by, in lower case.
    pub names: Vec<String>,
    /// Its bundle, whose lock is held while it lives.
    pub bundle: PathBuf,
    /// Where it listens.
    pub listeners: Vec<Listener>,
}

/// A port of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The transport.
    pub protocol: Protocol,
    /// The port that its peers know.
    pub port: u16,
    /// Where the host listens for it.
    pub real: SocketAddr,
}

/// A member that is known to its peers as long as this value lives.
#[derive(Debug)]
pub struct Registered {
    file: PathBuf,
    member: Member,
}

impl Registered {
    /// Makes a member known. `dir` is its network's in the run directory.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub fn new(dir: &Path, id: &str, member: Member) -> Result<Self, StoreError> {
        files::make_dir(dir)?;
        let registered = Self { file: dir.join(format!("{id}.json")), member };
        registered.write()?;
        Ok(registered)
    }

    /// Makes a port known; an earlier listener of that port is gone.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub fn listens(&mut self, listener: Listener) -> Result<(), StoreError> {
        let same = |known: &Listener| known.port == listener.port && known.protocol == listener.protocol;
        self.member.listeners.retain(|known| !same(known));
        self.member.listeners.push(listener);
        self.write()
    }

    fn write(&self) -> Result<(), StoreError> {
        files::write_json(&self.file, &self.member, Durability::Buffered)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The members that live. What a killed keeper has left is removed.
#[must_use]
pub fn members(dir: &Path) -> Vec<Member> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // One that cannot be read is being written or removed at this moment.
        let Ok(member) = files::read_json::<Member>(&entry.path()) else { continue };
        if Lock::is_held(&member.bundle.join("lock")) {
            all.push(member);
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    all
}

/// The addresses of those who go by a name.
#[must_use]
pub fn named(dir: &Path, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let mut found: Vec<Ipv4Addr> =
        members(dir).into_iter().filter(|m| m.names.contains(&name)).map(|m| m.address.ip).collect();
    found.sort_unstable();
    found.into_iter().map(IpAddr::V4).collect()
}

/// Where the listener of a peer really is.
#[must_use]
pub fn listener(dir: &Path, protocol: Protocol, at: SocketAddr) -> Option<SocketAddr> {
    let member = members(dir).into_iter().find(|m| IpAddr::V4(m.address.ip) == at.ip())?;
    let fits = |l: &&Listener| l.protocol == protocol && l.port == at.port() && l.real.is_ipv4();
    member.listeners.iter().find(fits).map(|listener| reachable(listener.real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_while_they_live() {
        let dir = files::tests::temp_dir();
        let (run, bundle) = (dir.join("networks/app"), dir.join("bundle"));
        std::fs::create_dir(&bundle).unwrap();
        let lock = Lock::wait(&bundle.join("lock")).unwrap();
        let address: Address = "10.89.0.2/24".parse().unwrap();
        let member = Member { address, names: vec!["db".into()], bundle, listeners: vec![] };
        let mut registered = Registered::new(&run, "ab", member).unwrap();
        let real = "0.0.0.0:40000".parse().unwrap();
        registered.listens(Listener { protocol: Protocol::Tcp, port: 5432, real }).unwrap();
        assert_eq!(named(&run, "DB."), [IpAddr::V4(address.ip)]);
        assert!(named(&run, "other").is_empty());
        let at = |port| SocketAddr::new(address.ip.into(), port);
        assert_eq!(listener(&run, Protocol::Tcp, at(5432)), Some("127.0.0.1:40000".parse().unwrap()));
        assert_eq!(listener(&run, Protocol::Udp, at(5432)), None);
        assert_eq!(listener(&run, Protocol::Tcp, at(1)), None);
        // Its keeper was killed: nobody holds the lock.
        drop(lock);
        assert!(members(&run).is_empty() && std::fs::read_dir(&run).unwrap().next().is_none());
        drop(registered);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
