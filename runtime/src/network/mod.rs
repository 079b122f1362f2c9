//! The network of a container that has no network: what a guest may bind, what it sees, and where that really is.
//!
//! A guest's bind opens one listener of the host: the published address, or a port of 127.0.0.1 that nobody was told.
//! The guest sees its own view: the port that it bound. [`View`] keeps the two beside each other; [`sockets`] puts it
//! between the guest and wasmtime-wasi's sockets.

pub mod http;
mod names;
pub mod outside;
pub mod reserve;
pub mod sockets;

use crate::grants::{Egress, Grants, Network, Port, Ports, Protocol, Publish};
use outside::{Outside, Unresolved};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a guest was not given a socket; told to the guest as `access-denied`, and to people in these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A port that was not granted.
    #[error("bind to port {0} denied: publish it with -p HOST:{number}, or grant it with --expose {0}", number = .0.number)]
    Bind(Port),
    /// A name that was to be looked up.
    #[error("look-up of {0:?} denied: allow it with --allow-net {0}")]
    Name(String),
    /// A name that leads to this machine or its link, which only a rule that names the address grants.
    #[error("look-up of {name:?} denied: it leads to {ip}, which a name cannot grant; allow it with --allow-net {ip}")]
    Leads {
        /// The name.
        name: String,
        /// Where it leads.
        ip: IpAddr,
    },
    /// A peer that was not granted.
    #[error("connection to {0} denied: allow it with --allow-net {0}")]
    Peer(SocketAddr),
    /// A port of a peer that was granted by its name at others.
    #[error("connection to {name}:{port} denied: allow it with --allow-net {name}:{port}", port = .address.port())]
    Port {
        /// The name that has led there.
        name: String,
        /// Where it led.
        address: SocketAddr,
    },
    /// A request to somebody who was not granted.
    #[error("request to {0} denied: allow it with --allow-net {0}")]
    Request(String),
}

/// What people are told of a guest's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was not given a socket.
    Denied(Denied),
    /// It called somebody for the first time, by name or by address.
    Called(String),
    /// A connection failed in a way that the guest's own error does not tell.
    Failed(String),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(denied) => denied.fmt(f),
            Self::Called(whom) => write!(f, "called {whom}"),
            Self::Failed(words) => f.write_str(words),
        }
    }
}

/// A port that a guest has bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The transport.
    pub protocol: Protocol,
    /// What the guest asked for, with the port that it sees.
    pub guest: SocketAddr,
    /// Where the host listens.
    pub real: SocketAddr,
    /// Whether only the guest itself may connect.
    pub private: bool,
}

/// What one container sees of the network. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct View(Arc<Inner>);

/// Where events are told to people.
pub type Tell = Box<dyn Fn(&Event) + Send + Sync>;

struct Inner {
    network: Network,
    published: Vec<Publish>,
    ports: Vec<Port>,
    egress: Egress,
    outside: Arc<dyn Outside>,
    tell: Tell,
    client: http::Client,
    state: Mutex<State>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("network", &self.network)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    reserved: Vec<reserve::Reservation>,
    bound: Vec<Bound>,
    /// The local ports of the guest's own connections to its own listeners.
    own: BTreeSet<u16>,
    /// Who has sent datagrams to the guest, and may be answered.
    correspondents: BTreeSet<SocketAddr>,
    /// Where names have led, and the ports that their rules grant there.
    led: BTreeMap<IpAddr, Led>,
    /// What has been told already: a guest that tries again and again fills no disk.
    told: BTreeSet<String>,
    /// Who may be connected to at this moment.
    reached: BTreeSet<(Protocol, SocketAddr)>,
}

/// How an address came to be granted.
#[derive(Debug)]
struct Led {
    by: String,
    ports: Ports,
}

impl View {
    /// The view that `grants` give, with the host's ports that were reserved for it. `outside` finds the addresses of
    /// those whom it may call.
    #[must_use]
    pub fn new(grants: &Grants, reserved: Vec<reserve::Reservation>, outside: Arc<dyn Outside>, tell: Tell) -> Self {
        let published = grants
            .published
            .iter()
            .map(|publish| {
                let real = reserved.iter().find(|r| r.publish == *publish).map_or(publish.host, |r| r.address);
                Publish { host: real, ..*publish }
            })
            .collect();
        Self(Arc::new(Inner {
            network: grants.network,
            published,
            ports: grants.ports(),
            egress: grants.egress.clone(),
            outside,
            tell,
            client: http::Client::default(),
            state: Mutex::new(State { reserved, ..State::default() }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The published ports with the addresses that the host gave them.
    #[must_use]
    pub fn published(&self) -> &[Publish] {
        &self.0.published
    }

    /// Hands over every reservation, for a server of our own that listens there.
    #[must_use]
    pub fn take_reserved(&self) -> Vec<reserve::Reservation> {
        std::mem::take(&mut self.state().reserved)
    }

    /// Where the host shall listen when the guest binds `guest`.
    ///
    /// # Errors
    /// When the port was not granted.
    pub fn place(&self, protocol: Protocol, guest: SocketAddr) -> Result<(SocketAddr, bool), Denied> {
        let loopback = || SocketAddr::new(localhost(guest.ip()), 0);
        if self.0.network == Network::Host {
            return Ok((guest, false));
        }
        if guest.ip().is_loopback() || guest.port() == 0 {
            return Ok((loopback(), true));
        }
        let port = Port { number: guest.port(), protocol };
        if let Some(publish) = self.published_at(port, guest.ip()) {
            let ours = |r: &reserve::Reservation| r.publish.port == port && r.address == publish.host;
            let mut state = self.state();
            match protocol {
                // Shared from here on and given up when the guest has it: the port is never free in between.
                Protocol::Tcp => state.reserved.iter().filter(|r| ours(r)).for_each(reserve::Reservation::share),
                Protocol::Udp => state.reserved.retain(|r| !ours(r)),
            }
            return Ok((publish.host, false));
        }
        if self.0.ports.contains(&port) && self.0.network != Network::None {
            return Ok((loopback(), true));
        }
        Err(self.deny(Denied::Bind(port)))
    }

    /// Tells a denial and hands it back.
    fn deny(&self, denied: Denied) -> Denied {
        self.tell(&Event::Denied(denied.clone()));
        denied
    }

    /// Tells an event, once.
    fn tell(&self, event: &Event) {
        let new = {
            let mut state = self.state();
            state.told.len() < MOST_TOLD && state.told.insert(event.to_string())
        };
        if new {
            (self.0.tell)(event);
        }
    }

    /// The publication of a port that fits the guest's address family; a second address of the same port is spliced
    /// by the network issue.
    fn published_at(&self, port: Port, ip: IpAddr) -> Option<&Publish> {
        let fits = |p: &&Publish| p.port == port && p.host.is_ipv4() == ip.is_ipv4();
        if self.0.network == Network::None { None } else { self.0.published.iter().find(fits) }
    }

    /// Remembers what a bind became.
    pub fn bound(&self, bound: Bound) {
        let mut state = self.state();
        state.reserved.retain(|r| r.address != bound.real);
        state.bound.retain(|b| b.guest != bound.guest || b.protocol != bound.protocol);
        state.bound.push(bound);
    }

    /// Every listener of the guest.
    #[must_use]
    pub fn listeners(&self) -> Vec<Bound> {
        self.state().bound.clone()
    }

    /// Where a connection or datagram to `guest` really goes.
    ///
    /// # Errors
    /// When that peer was not granted.
    pub fn reach(&self, protocol: Protocol, guest: SocketAddr) -> Result<SocketAddr, Denied> {
        if let Some(own) = self.own(protocol, guest) {
            return Ok(own);
        }
        let guest = SocketAddr::new(guest.ip().to_canonical(), guest.port());
        let called = match self.state().led.get(&guest.ip()) {
            Some(led) if led.ports.has(guest.port()) => Ok(format!("{}:{}", led.by, guest.port())),
            _ if self.0.egress.covers(guest.ip(), guest.port()) => Ok(guest.to_string()),
            Some(led) => Err(Denied::Port { name: led.by.clone(), address: guest }),
            None => Err(Denied::Peer(guest)),
        };
        match called {
            Ok(called) if self.0.network != Network::None => self.tell(&Event::Called(called)),
            Ok(_) => return Err(self.deny(Denied::Peer(guest))),
            Err(denied) => return Err(self.deny(denied)),
        }
        remember(&mut self.state().reached, (protocol, guest));
        Ok(guest)
    }

    /// The real address of one of the guest's own listeners.
    fn own(&self, protocol: Protocol, guest: SocketAddr) -> Option<SocketAddr> {
        let state = self.state();
        let same = |b: &&Bound| {
            b.protocol == protocol
                && b.guest.port() == guest.port()
                && (b.guest.ip() == guest.ip() || (guest.ip().is_loopback() && b.guest.ip().is_unspecified()))
        };
        let bound = state.bound.iter().find(same)?;
        let ip = if bound.real.ip().is_unspecified() { localhost(bound.real.ip()) } else { bound.real.ip() };
        Some(SocketAddr::new(ip, bound.real.port()))
    }

    /// Whether a real address is a listener of the guest's own, which tells its guest from others by their ports.
    #[must_use]
    pub fn is_own(&self, protocol: Protocol, real: SocketAddr) -> bool {
        self.state().bound.iter().any(|b| b.protocol == protocol && b.real.port() == real.port())
            && real.ip().is_loopback()
    }

    /// Remembers that a local port is one of the guest's own connections.
    pub fn own_client(&self, port: u16) {
        self.state().own.insert(port);
    }

    /// The address that the guest sees for one of its listeners' real ones, or for what it connected to.
    #[must_use]
    pub fn seen(&self, protocol: Protocol, real: SocketAddr) -> SocketAddr {
        let state = self.state();
        let same = |b: &&Bound| {
            b.protocol == protocol
                && b.real.port() == real.port()
                && (b.real.ip() == real.ip() || b.real.ip().is_unspecified())
        };
        match state.bound.iter().find(same) {
            Some(b) if b.guest.ip().is_unspecified() && !real.ip().is_unspecified() => {
                SocketAddr::new(real.ip(), b.guest.port())
            }
            Some(b) => b.guest,
            None => real,
        }
    }

    /// Whether a listener may take a connection: a private one only from the guest itself.
    #[must_use]
    pub fn admits(&self, listener: SocketAddr, remote: SocketAddr) -> bool {
        let state = self.state();
        let private = state.bound.iter().any(|b| {
            b.private && b.protocol == Protocol::Tcp && b.real.port() == listener.port() && b.guest.ip().is_loopback()
        });
        !private || state.own.contains(&remote.port())
    }

    /// Whether the engine may use a real address; the last check, below the rewriting.
    #[must_use]
    pub fn permits(&self, address: SocketAddr, what: wasmtime_wasi::sockets::SocketAddrUse) -> bool {
        use wasmtime_wasi::sockets::SocketAddrUse as Use;
        let state = self.state();
        let known = |protocol| {
            state.bound.iter().any(|b| {
                b.protocol == protocol
                    && b.real.port() == address.port()
                    && (b.real.ip() == address.ip() || b.real.ip().is_unspecified() && address.ip().is_loopback())
            })
        };
        match what {
            // An explicit bind has been placed by us already; an implicit one is the start of a connection.
            Use::TcpBind | Use::UdpBind => true,
            // A listener that was never bound would be open to everybody at a port of its own.
            Use::TcpListen => known(Protocol::Tcp),
            Use::TcpConnect => known(Protocol::Tcp) || state.reached.contains(&(Protocol::Tcp, address)),
            Use::UdpSend => {
                known(Protocol::Udp)
                    || state.correspondents.contains(&address)
                    || state.reached.contains(&(Protocol::Udp, address))
            }
            Use::TcpAccept => true,
            // Whoever may send to a published port gets an answer there.
            Use::UdpReceive => true,
        }
    }

    /// Remembers who has sent a datagram: an answer goes back to there and nowhere else.
    pub fn received_from(&self, remote: SocketAddr) {
        remember(&mut self.state().correspondents, remote);
    }

    /// Where a datagram to `guest` really goes: to a listener of the guest's own, or back to who has sent one.
    ///
    /// # Errors
    /// When that peer was not granted.
    pub fn reach_datagram(&self, guest: SocketAddr) -> Result<SocketAddr, Denied> {
        if self.state().correspondents.contains(&guest) {
            return Ok(guest);
        }
        self.reach(Protocol::Udp, guest)
    }

    /// Looks a name up: an address is no name, `localhost` is the guest itself, and every other has to be granted. Of the
    /// addresses those are left out that its rules do not grant.
    ///
    /// # Errors
    /// When it was not granted, or has no address.
    pub async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        if is_localhost(name) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        if self.0.network == Network::None || !self.0.egress.names(name) {
            self.deny(Denied::Name(name.to_owned()));
            return Err(Unresolved::Denied);
        }
        let mut found = self.0.outside.resolve(name).await?;
        let mut left_out = None;
        found.retain_mut(|ip| {
            *ip = ip.to_canonical();
            let kept = self.led(name, *ip) || self.0.egress.covers_any(*ip);
            left_out = left_out.or((!kept).then_some(*ip));
            kept
        });
        match left_out {
            Some(ip) if found.is_empty() => {
                self.deny(Denied::Leads { name: name.to_owned(), ip });
                Err(Unresolved::Denied)
            }
            _ if found.is_empty() => Err(Unresolved::NoSuchName),
            _ => Ok(found),
        }
    }

    /// Remembers that a name has led to an address, if its rules grant it.
    fn led(&self, name: &str, ip: IpAddr) -> bool {
        let Some(ports) = self.0.egress.leads(name, ip) else { return false };
        let mut state = self.state();
        if let Some(led) = state.led.get_mut(&ip) {
            led.ports.join(ports);
            name.clone_into(&mut led.by);
        } else {
            if state.led.len() >= MOST_REMEMBERED {
                state.led.pop_first();
            }
            state.led.insert(ip, Led { by: name.to_owned(), ports });
        }
        true
    }
}

/// Adds to a set that does not grow without end.
fn remember<T: Ord>(set: &mut BTreeSet<T>, item: T) {
    if set.len() >= MOST_REMEMBERED {
        set.pop_first();
    }
    set.insert(item);
}

/// How many peers are remembered.
const MOST_REMEMBERED: usize = 4096;
/// How many different events are told.
const MOST_TOLD: usize = 256;

/// Whether a name means the guest itself (RFC 6761, section 6.3).
fn is_localhost(name: &str) -> bool {
    name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost")
}

/// The loopback address of the family of `like`.
fn localhost(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::RootGrant;

    fn view(network: Network, publish: &str, expose: &str) -> View {
        let grants = Grants {
            args: vec!["/a".into()],
            env: vec![],
            cwd: "/".into(),
            root: RootGrant::Layers(vec![]),
            root_writable: true,
            binds: vec![],
            network,
            published: if publish.is_empty() { vec![] } else { Publish::parse(publish).unwrap() },
            exposed: expose.split_terminator(',').map(|p| p.parse().unwrap()).collect(),
            egress: Egress::default(),
            stdin: false,
            spawn: false,
        };
        View::new(&grants, vec![], Arc::new(outside::Nobody), Box::new(|_| {}))
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_guest_binds_what_it_was_granted_and_nothing_else() {
        let view = view(Network::Default, "127.0.0.1:8080:8000", "9000");
        assert_eq!(view.place(Protocol::Tcp, addr("0.0.0.0:8000")), Ok((addr("127.0.0.1:8080"), false)));
        assert_eq!(view.place(Protocol::Tcp, addr("0.0.0.0:9000")), Ok((addr("127.0.0.1:0"), true)));
        assert_eq!(view.place(Protocol::Tcp, addr("127.0.0.1:5555")), Ok((addr("127.0.0.1:0"), true)));
        assert!(view.place(Protocol::Tcp, addr("0.0.0.0:22")).is_err());
        assert!(view.place(Protocol::Udp, addr("0.0.0.0:8000")).is_err());
        let words = view.place(Protocol::Tcp, addr("0.0.0.0:22")).unwrap_err().to_string();
        assert!(words.contains("-p HOST:22") && words.contains("22/tcp"), "{words}");
    }

    #[test]
    fn none_has_its_loopback_only() {
        let view = view(Network::None, "8080:8000", "9000");
        assert!(view.place(Protocol::Tcp, addr("0.0.0.0:8000")).is_err());
        assert!(view.place(Protocol::Tcp, addr("0.0.0.0:9000")).is_err());
        assert!(view.place(Protocol::Tcp, addr("127.0.0.1:8000")).is_ok());
    }

    #[test]
    fn own_listeners_are_reached_and_others_are_not() {
        let view = view(Network::Default, "", "8000");
        let (guest, real) = (addr("0.0.0.0:8000"), addr("127.0.0.1:40001"));
        view.bound(Bound { protocol: Protocol::Tcp, guest, real, private: true });
        assert_eq!(view.reach(Protocol::Tcp, addr("127.0.0.1:8000")), Ok(real));
        assert_eq!(view.seen(Protocol::Tcp, real), addr("127.0.0.1:8000"));
        assert!(view.reach(Protocol::Tcp, addr("127.0.0.1:40001")).is_err());
        assert!(view.reach(Protocol::Tcp, addr("10.0.0.1:80")).is_err());
    }

    #[test]
    fn a_private_loopback_listener_takes_its_own_only() {
        let view = view(Network::Default, "", "");
        let (guest, real) = (addr("127.0.0.1:7000"), addr("127.0.0.1:40002"));
        view.bound(Bound { protocol: Protocol::Tcp, guest, real, private: true });
        assert!(!view.admits(real, addr("127.0.0.1:50000")));
        view.own_client(50000);
        assert!(view.admits(real, addr("127.0.0.1:50000")));
    }
}
