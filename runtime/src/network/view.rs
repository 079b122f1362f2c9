//! What one container sees of the network: the addresses that it knows, beside the real ones.

use super::outside::Outside;
use super::refusals::Counting;
use super::traffic::Traffic;
use super::{Bound, Denied, Event, http, reserve, splice};
use crate::grants::{Address, Egress, Grants, Network, Port, Ports, Protocol, Publish};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::AbortHandle;

/// What one container sees of the network. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct View(pub(super) Arc<Inner>);

/// Where events are told to people.
pub type Tell = Box<dyn Fn(&Event) + Send + Sync>;

pub(super) struct Inner {
    pub(super) network: Network,
    /// The address that the guest knows itself by.
    pub(super) address: Option<Address>,
    /// Whether it has peers on a network of its user's.
    pub(super) has_peers: bool,
    pub(super) published: Vec<Publish>,
    pub(super) ports: Vec<Port>,
    pub(super) egress: Egress,
    pub(super) outside: Arc<dyn Outside>,
    pub(super) tell: Tell,
    pub(super) client: http::Client,
    pub(super) refusals: Arc<Counting>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) state: Mutex<State>,
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
pub(super) struct State {
    pub(super) reserved: Vec<reserve::Reservation>,
    pub(super) bound: Vec<Bound>,
    /// The local ports of the guest's own connections to its own listeners.
    pub(super) own: BTreeSet<u16>,
    /// Who has sent datagrams to the guest, and may be answered: the address that it sees, and the real one.
    pub(super) correspondents: BTreeMap<SocketAddr, SocketAddr>,
    /// Where names have led, and the ports that their rules grant there.
    pub(super) led: BTreeMap<IpAddr, Led>,
    /// What has been told already: a guest that tries again and again fills no disk.
    pub(super) told: BTreeSet<String>,
    /// What passes on what comes to further addresses of its ports.
    pub(super) splices: Vec<AbortHandle>,
    /// Whom the guest may connect to at this moment: the real address, and the one that it knows.
    pub(super) reached: BTreeMap<(Protocol, SocketAddr), SocketAddr>,
}

/// How an address came to be granted.
#[derive(Debug)]
pub(super) struct Led {
    pub(super) by: String,
    pub(super) ports: Ports,
}

impl View {
    /// The view that `grants` give, with the host's ports that were reserved for it. `outside` finds the addresses of
    /// those whom it may call.
    #[must_use]
    pub fn new(grants: &Grants, reserved: Vec<reserve::Reservation>, outside: Arc<dyn Outside>, tell: Tell) -> Self {
        let published = grants
            .published
            .iter()
            .enumerate()
            .map(|(n, publish)| {
                // In the same order, since one port can be published twice at addresses of the system's choice.
                let real = reserved.get(n).filter(|r| r.publish == *publish).map_or(publish.host, |r| r.address);
                Publish { host: real, ..*publish }
            })
            .collect();
        Self(Arc::new(Inner {
            network: grants.network,
            address: grants.address,
            has_peers: grants.member.is_some(),
            published,
            ports: grants.ports(),
            egress: grants.egress.clone(),
            outside,
            tell,
            client: http::Client::default(),
            refusals: Arc::default(),
            traffic: Arc::default(),
            state: Mutex::new(State { reserved, ..State::default() }),
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its bytes are counted.
    #[must_use]
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.0.traffic
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
        if self.0.network == Network::Host {
            return Ok((guest, false));
        }
        if guest.ip().is_loopback() {
            return Ok((SocketAddr::new(localhost(guest.ip()), 0), true));
        }
        // What its peers may come to is at its address's twin, so that they see who answers.
        let loopback = || match self.among_peers() {
            Some(address) if guest.is_ipv4() => SocketAddr::new(address.on_loopback().into(), 0),
            _ => SocketAddr::new(localhost(guest.ip()), 0),
        };
        if guest.port() == 0 {
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

    /// Where it is counted what the guest was refused.
    #[must_use]
    pub fn refusals(&self) -> Arc<Counting> {
        Arc::clone(&self.0.refusals)
    }

    /// Counts a denial, tells it and hands it back.
    pub(super) fn deny(&self, denied: Denied) -> Denied {
        self.0.refusals.count(&denied);
        self.tell(&Event::Denied(denied.clone()));
        denied
    }

    /// Tells an event, once.
    pub(super) fn tell(&self, event: &Event) {
        let new = {
            let mut state = self.state();
            state.told.len() < MOST_TOLD && state.told.insert(event.to_string())
        };
        if new {
            (self.0.tell)(event);
        }
    }

    /// The first publication of a port that fits the guest's address family.
    fn published_at(&self, port: Port, ip: IpAddr) -> Option<&Publish> {
        let fits = |p: &&Publish| p.port == port && p.host.is_ipv4() == ip.is_ipv4();
        if self.0.network == Network::None { None } else { self.0.published.iter().find(fits) }
    }

    /// Remembers what a bind became. What comes to further addresses of the port goes there too.
    pub fn bound(&self, bound: Bound) {
        let port = Port { number: bound.guest.port(), protocol: bound.protocol };
        let is_private = bound.guest.ip().is_loopback();
        let further: Vec<reserve::Reservation> = {
            let mut state = self.state();
            state.reserved.retain(|r| r.address != bound.real);
            state.bound.retain(|b| b.guest != bound.guest || b.protocol != bound.protocol);
            state.bound.push(bound);
            let further =
                |r: &mut reserve::Reservation| !is_private && port.protocol == Protocol::Tcp && r.publish.port == port;
            state.reserved.extract_if(.., further).collect()
        };
        for reservation in further {
            let address = reservation.address;
            match splice::start(reservation, reachable(bound.real)) {
                Ok(splice) => self.state().splices.push(splice),
                Err(e) => self.tell(&Event::Failed(format!("cannot listen at {address} for port {port}: {e}"))),
            }
        }
        if self.among_peers().is_some() && bound.real.is_ipv4() && !is_private {
            self.0.outside.listens(bound.protocol, bound.guest.port(), bound.real);
        }
    }

    /// Frees the host's ports that are still held, for a guest that has ended where others go on.
    pub fn close(&self) {
        let mut state = self.state();
        state.reserved.clear();
        state.splices.drain(..).for_each(|splice| splice.abort());
    }

    /// Every listener of the guest.
    #[must_use]
    pub fn listeners(&self) -> Vec<Bound> {
        self.state().bound.clone()
    }

    /// The real address of one of the guest's own listeners.
    pub(super) fn own(&self, protocol: Protocol, guest: SocketAddr) -> Option<SocketAddr> {
        let state = self.state();
        let same = |b: &&Bound| {
            b.protocol == protocol
                && b.guest.port() == guest.port()
                && (b.guest.ip() == guest.ip() || (self.is_self(guest.ip()) && b.guest.ip().is_unspecified()))
        };
        state.bound.iter().find(same).map(|bound| reachable(bound.real))
    }

    /// The address that peers know it by, if it has any.
    pub(super) fn among_peers(&self) -> Option<Address> {
        self.0.address.filter(|_| self.0.has_peers)
    }

    /// Whether an address is one of its own network.
    pub(super) fn is_peer(&self, ip: IpAddr) -> bool {
        self.among_peers().is_some_and(|own| own.contains(ip))
    }

    /// Whether an address is one that the guest knows itself by.
    pub(super) fn is_self(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.0.address.is_some_and(|own| IpAddr::V4(own.ip) == ip)
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

    /// The address that the guest sees for its own end of a socket: its own, whatever the host's is.
    #[must_use]
    pub fn seen_here(&self, protocol: Protocol, real: SocketAddr) -> SocketAddr {
        let seen = self.seen(protocol, real);
        let Some(own) = self.0.address.filter(|_| seen.is_ipv4() && !seen.ip().is_unspecified()) else { return seen };
        let everywhere =
            |b: &Bound| b.protocol == protocol && b.real.port() == real.port() && b.guest.ip().is_unspecified();
        // At its own loopback it is whom it asked for.
        if is_at_home(seen.ip()) && !self.state().bound.iter().any(everywhere) {
            return seen;
        }
        SocketAddr::new(own.ip.into(), seen.port())
    }

    /// The address that the guest sees for one of its listeners' real ones, or for what it connected to.
    #[must_use]
    pub fn seen(&self, protocol: Protocol, real: SocketAddr) -> SocketAddr {
        let state = self.state();
        if let Some(peer) = state.reached.get(&(protocol, real)).filter(|known| **known != real) {
            return *peer;
        }
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
            // A peer that has called, by its twin.
            None => match self.among_peers().and_then(|own| own.of_loopback(real.ip())) {
                Some(peer) => SocketAddr::new(peer.into(), real.port()),
                None => real,
            },
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
            Use::TcpConnect => known(Protocol::Tcp) || state.reached.contains_key(&(Protocol::Tcp, address)),
            Use::UdpSend => {
                known(Protocol::Udp)
                    || state.correspondents.values().any(|real| *real == address)
                    || state.reached.contains_key(&(Protocol::Udp, address))
            }
            Use::TcpAccept => true,
            // Whoever may send to a published port gets an answer there.
            Use::UdpReceive => true,
        }
    }
}

/// How many peers are remembered.
pub(super) const MOST_REMEMBERED: usize = 4096;
/// How many different events are told.
const MOST_TOLD: usize = 256;

/// The address that a host's name is without being looked up: one that is written as such, in brackets or not, and
/// `localhost`, which is the guest itself (RFC 6761, section 6.3).
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let is_localhost = host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost");
    let written = || host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    if is_localhost { Some(Ipv4Addr::LOCALHOST.into()) } else { written() }
}

/// Where a listener can be reached from this machine: one at every address is at the loopback too.
pub(super) fn reachable(real: SocketAddr) -> SocketAddr {
    let ip = if real.ip().is_unspecified() { localhost(real.ip()) } else { real.ip() };
    SocketAddr::new(ip, real.port())
}

/// Whether an address is of the loopback that every guest has to itself; the rest of 127.0.0.0/8 holds twins.
pub(super) fn is_at_home(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// The loopback address of the family of `like`.
pub(super) fn localhost(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::{Http, Limits, RootGrant};
    use crate::network::outside::Nobody;
    use futures::FutureExt;

    fn grants(network: Network, published: Vec<Publish>, expose: &str) -> Grants {
        Grants {
            args: vec!["/a".into()],
            env: vec![],
            cwd: "/".into(),
            root: RootGrant::Layers(vec![]),
            root_writable: true,
            binds: vec![],
            secrets: vec![],
            paths: crate::grants::Paths::default(),
            proc: None,
            network,
            address: None,
            member: None,
            published,
            exposed: expose.split_terminator(',').map(|p| p.parse().unwrap()).collect(),
            egress: Egress::default(),
            http: Http::default(),
            limits: Limits::default(),
            stdin: false,
            terminal: false,
            spawn: false,
        }
    }

    fn view(network: Network, publish: &str, expose: &str) -> View {
        let published = if publish.is_empty() { vec![] } else { Publish::parse(publish).unwrap() };
        View::new(&grants(network, published, expose), vec![], Arc::new(Nobody), Box::new(|_| {}))
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
        let reach = |to| view.reach(Protocol::Tcp, addr(to)).now_or_never().unwrap();
        assert_eq!(reach("127.0.0.1:8000"), Ok(real));
        assert_eq!(view.seen(Protocol::Tcp, real), addr("127.0.0.1:8000"));
        assert!(reach("127.0.0.1:40001").is_err());
        assert!(reach("10.0.0.1:80").is_err());
    }

    #[test]
    fn a_further_address_that_cannot_be_had_is_told() {
        let published = Publish::parse("127.0.0.1::8000").unwrap();
        let granted = grants(Network::Default, published, "");
        let reserved = reserve::reserve(&granted, reserve::Opens::Itself).unwrap();
        // Its reservation is shared, and somebody else was faster to listen.
        reserved[0].share();
        let _other = std::net::TcpListener::bind(reserved[0].address).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let tell = Box::new(move |event: &Event| tell.lock().unwrap().push(event.to_string()));
        let view = View::new(&granted, reserved, Arc::new(Nobody), tell);
        let (guest, real) = (addr("0.0.0.0:8000"), addr("127.0.0.1:40001"));
        view.bound(Bound { protocol: Protocol::Tcp, guest, real, private: false });
        assert!(told.lock().unwrap()[0].contains("for port 8000/tcp"), "{told:?}");
        assert_eq!(view.listeners().len(), 1);
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
