//! Reserving the host's ports before the guest runs, so that a port in use is an error of the command and not a
//! surprise of the guest.

use crate::grants::{Network, Protocol, Publish};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A port of the host that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish {port} at {address}: {}", explain(source, address))]
pub struct PortInUse {
    /// The host's address.
    pub address: SocketAddr,
    /// The container's port.
    pub port: crate::grants::Port,
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

/// A port of the host that is ours: bound and not listening. It is given up at the moment that the guest binds it.
#[derive(Debug)]
pub struct Reservation {
    /// What it is for.
    pub publish: Publish,
    /// The address, with the port that the system chose where none was asked for.
    pub address: SocketAddr,
    socket: OwnedFd,
}

impl Reservation {
    /// A reservation that another process has made.
    #[must_use]
    pub fn from_parts(publish: Publish, address: SocketAddr, socket: OwnedFd) -> Self {
        Self { publish, address, socket }
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

    /// The socket that holds the port.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

/// Reserves every published port.
///
/// # Errors
/// When one of them cannot be had; then none is kept.
pub fn reserve(network: Network, published: &[Publish]) -> Result<Vec<Reservation>, PortInUse> {
    if network != Network::Default {
        return Ok(Vec::new());
    }
    published.iter().map(one).collect()
}

fn one(publish: &Publish) -> Result<Reservation, PortInUse> {
    let fail = |e: rustix::io::Errno| PortInUse { address: publish.host, port: publish.port, source: e.into() };
    // Without SO_REUSEADDR first: such a bind keeps out even those who set it, so two of us cannot both have the port.
    // It is refused while old connections linger (TIME_WAIT), and then the weaker way must do.
    let socket = match hold(publish, false) {
        Err(rustix::io::Errno::ADDRINUSE) if publish.port.protocol == Protocol::Tcp => hold(publish, true),
        other => other,
    }
    .map_err(fail)?;
    let address = getsockname(&socket).map_err(fail)?.try_into().map_err(fail)?;
    Ok(Reservation { publish: *publish, address, socket })
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

    #[test]
    fn a_port_is_reserved_once() {
        let any = Publish::parse("127.0.0.1::80").unwrap();
        let first = reserve(Network::Default, &any).unwrap();
        let taken = Publish { host: first[0].address, ..any[0] };
        let error = reserve(Network::Default, &[taken]).unwrap_err().to_string();
        assert!(error.contains("already in use"), "{error}");
        drop(first);
        assert!(reserve(Network::Default, &[taken]).is_ok());
    }

    #[test]
    fn connections_that_linger_do_not_keep_the_port() {
        let any = Publish::parse("127.0.0.1::80").unwrap();
        let first = reserve(Network::Default, &any).unwrap().remove(0);
        let again = Publish { host: first.address, ..any[0] };
        let listener = first.listen().unwrap();
        let client = std::net::TcpStream::connect(again.host).unwrap();
        let (served, _) = listener.accept().unwrap();
        assert!(reserve(Network::Default, &[again]).is_err(), "a listener has its port alone");
        // The side that closes first is the one whose port lingers.
        drop(served);
        std::io::Read::read(&mut &client, &mut [0]).unwrap();
        drop((client, listener));
        assert!(reserve(Network::Default, &[again]).unwrap().remove(0).listen().is_ok());
    }

    #[test]
    fn a_listener_of_another_program_is_seen() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Publish { host: other.local_addr().unwrap(), ..Publish::parse("80").unwrap()[0] };
        assert!(reserve(Network::Default, &[taken]).is_err());
    }
}
