//! Reserving the host's ports before the guest runs, so that a port in use is an error of the command and not a
//! surprise of the guest.

use crate::grants::{Grants, Network, Port, Protocol, Publish};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// A port of the host that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish {port} at {address}: {}", explain(source, address))]
pub struct PortInUse {
    /// The host's address.
    pub address: SocketAddr,
    /// The container's port.
    pub port: Port,
    /// What the system said.
    pub source: std::io::Error,
}

fn explain(error: &std::io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("port {} is already in use on the host", address.port()),
        std::io::ErrorKind::PermissionDenied => {
            format!("{error}: ports below 1024 are for root (or see net.ipv4.ip_unprivileged_port_start)")
        }
        _ => error.to_string(),
    }
}

/// What is known of a reservation besides its socket: what it is for, its address, and whether it is private.
pub type Reserved = (Publish, SocketAddr, bool);

/// How a program comes to its listening sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// By itself, when it runs.
    Itself,
    /// It is handed one for each granted TCP port; with a number, for that port if none was granted.
    Handed(Option<u16>),
}

/// A port of the host that is ours: bound and not listening. It is given up at the moment that the guest binds it.
#[derive(Debug)]
pub struct Reservation {
    /// What it is for.
    pub publish: Publish,
    /// The address, with the port that the system chose where none was asked for.
    pub address: SocketAddr,
    /// Whether it is there for a granted port that is not published, which its guest and its peers alone find.
    pub private: bool,
    socket: OwnedFd,
}

impl Reservation {
    /// A reservation that another process has made.
    #[must_use]
    pub fn from_parts((publish, address, private): Reserved, socket: OwnedFd) -> Self {
        Self { publish, address, private, socket }
    }

    /// Lets a socket that sets SO_REUSEADDR, as the engine's do, bind the port beside this one.
    pub fn share(&self) {
        let _ = sockopt::set_socket_reuseaddr(&self.socket, true);
    }

    /// Turns the reservation into a listener.
    ///
    /// # Errors
    /// When somebody else listens there already.
    pub fn listen(self) -> std::io::Result<std::net::TcpListener> {
        rustix::net::listen(&self.socket, 1024)?;
        // Its connections inherit this. Those that it closes first linger for a minute (TIME_WAIT), and without it nobody
        // could have the port again until then: both sides must have it set.
        self.share();
        Ok(self.socket.into())
    }

    /// What is known of it besides its socket.
    #[must_use]
    pub fn parts(&self) -> Reserved {
        (self.publish, self.address, self.private)
    }

    /// The socket that holds the port.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

/// Reserves every published port, in their order, and then what else a program is to be handed: its host process can open
/// no socket by itself.
///
/// # Errors
/// When one of them cannot be had; then none is kept.
pub fn reserve(grants: &Grants, opens: Opens) -> Result<Vec<Reservation>, PortInUse> {
    let handed = match opens {
        Opens::Handed(otherwise) => unpublished(grants, otherwise),
        Opens::Itself => Vec::new(),
    };
    let published = match (grants.network, opens) {
        (Network::Default, _) | (Network::Host, Opens::Handed(_)) => grants.published.as_slice(),
        _ => &[],
    };
    let published = published.iter().map(|publish| one(publish, false));
    published.chain(handed.iter().map(|publish| one(publish, true))).collect()
}

/// The TCP ports that were granted without an address of the host, with one: somewhere on the loopback interface, or as they
/// are on the host's network.
fn unpublished(grants: &Grants, otherwise: Option<u16>) -> Vec<Publish> {
    let host = |port: Port| match grants.network {
        Network::Host => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port.number),
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    };
    if grants.network == Network::None {
        return Vec::new();
    }
    let mut ports = grants.ports();
    ports.retain(|port| port.protocol == Protocol::Tcp);
    if ports.is_empty() {
        ports.extend(otherwise.map(|number| Port { number, protocol: Protocol::Tcp }));
    }
    ports.retain(|port| !grants.published.iter().any(|publish| publish.port == *port));
    ports.into_iter().map(|port| Publish { host: host(port), port }).collect()
}

fn one(publish: &Publish, private: bool) -> Result<Reservation, PortInUse> {
    let fail = |e: rustix::io::Errno| PortInUse { address: publish.host, port: publish.port, source: e.into() };
    // Without SO_REUSEADDR first: such a bind keeps out even those who set it, so two of us cannot both have the port.
    // It is refused while old connections linger (TIME_WAIT), and then the weaker way must do.
    let socket = match hold(publish, false) {
        Err(rustix::io::Errno::ADDRINUSE) if publish.port.protocol == Protocol::Tcp => hold(publish, true),
        other => other,
    }
    .map_err(fail)?;
    let address = getsockname(&socket).map_err(fail)?.try_into().map_err(fail)?;
    Ok(Reservation { publish: *publish, address, private, socket })
}

fn hold(publish: &Publish, reuse: bool) -> rustix::io::Result<OwnedFd> {
    let family = if publish.host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match publish.port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, reuse)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &publish.host)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(published: &[Publish]) -> Result<Vec<Reservation>, PortInUse> {
        published.iter().map(|publish| one(publish, false)).collect()
    }

    #[test]
    fn a_server_is_handed_every_granted_port() {
        let grants = |published: &str, exposed: &[&str], network| Grants {
            published: if published.is_empty() { vec![] } else { Publish::parse(published).unwrap() },
            exposed: exposed.iter().map(|port| port.parse().unwrap()).collect(),
            network,
            ..crate::grants::tests::full()
        };
        let handed = |grants: &Grants| {
            unpublished(grants, Some(8080)).iter().map(|p| format!("{}={}", p.host, p.port)).collect::<Vec<_>>()
        };
        let (usual, host) = (Network::Default, Network::Host);
        assert_eq!(handed(&grants("", &[], usual)), ["127.0.0.1:0=8080/tcp"]);
        assert_eq!(handed(&grants("80:8000", &["8000", "9000", "53/udp"], usual)), ["127.0.0.1:0=9000/tcp"]);
        assert_eq!(handed(&grants("", &["9000"], host)), ["0.0.0.0:9000=9000/tcp"]);
        assert!(handed(&grants("", &["9000"], Network::None)).is_empty());
        let grants = grants("127.0.0.1::8000", &["9000"], usual);
        let reserved = super::reserve(&grants, Opens::Handed(None)).unwrap();
        assert_eq!(reserved.iter().map(|r| r.private).collect::<Vec<_>>(), [false, true]);
        assert_eq!(super::reserve(&grants, Opens::Itself).unwrap().len(), 1);
    }

    #[test]
    fn a_port_is_reserved_once() {
        let any = Publish::parse("127.0.0.1::80").unwrap();
        let first = reserve(&any).unwrap();
        let taken = Publish { host: first[0].address, ..any[0] };
        let error = reserve(&[taken]).unwrap_err().to_string();
        assert!(error.contains("already in use"), "{error}");
        drop(first);
        assert!(reserve(&[taken]).is_ok());
    }

    #[test]
    fn connections_that_linger_do_not_keep_the_port() {
        let any = Publish::parse("127.0.0.1::80").unwrap();
        let first = reserve(&any).unwrap().remove(0);
        let again = Publish { host: first.address, ..any[0] };
        let listener = first.listen().unwrap();
        let client = std::net::TcpStream::connect(again.host).unwrap();
        let (served, _) = listener.accept().unwrap();
        assert!(reserve(&[again]).is_err(), "a listener has its port alone");
        // The side that closes first is the one whose port lingers.
        drop(served);
        std::io::Read::read(&mut &client, &mut [0]).unwrap();
        drop((client, listener));
        assert!(reserve(&[again]).unwrap().remove(0).listen().is_ok());
    }

    #[test]
    fn a_listener_of_another_program_is_seen() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Publish { host: other.local_addr().unwrap(), ..Publish::parse("80").unwrap()[0] };
        assert!(reserve(&[taken]).is_err());
    }
}
