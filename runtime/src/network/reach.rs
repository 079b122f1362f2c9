//! Whom a guest reaches: its own listeners, its peers, and those beyond its network whom its rules grant.

use super::outside::Unresolved;
use super::view::{Led, MOST_REMEMBERED, View, literal};
use super::{Denied, Event, Unreached};
use crate::grants::{Network, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

impl View {
    /// The address that a connection of the guest to one of its peers comes from.
    #[must_use]
    pub fn source(&self, protocol: Protocol, real: SocketAddr) -> Option<SocketAddr> {
        let twin = self.among_peers()?.on_loopback();
        let known = self.state().reached.get(&(protocol, real)).copied();
        let to_peer = real.ip().is_loopback() && known.is_some_and(|known| known != real);
        to_peer.then(|| SocketAddr::new(twin.into(), 0))
    }

    /// Where a connection or datagram to `guest` really goes.
    ///
    /// # Errors
    /// When that peer was not granted, or does not listen.
    pub async fn reach(&self, protocol: Protocol, guest: SocketAddr) -> Result<SocketAddr, Unreached> {
        if let Some(own) = self.own(protocol, guest) {
            return Ok(own);
        }
        let guest = SocketAddr::new(guest.ip().to_canonical(), guest.port());
        if self.is_peer(guest.ip()) {
            let real = self.0.outside.listener(protocol, guest).await.ok_or(Unreached::NobodyListens)?;
            remember(&mut self.state().reached, (protocol, real), guest);
            return Ok(real);
        }
        let called = match self.state().led.get(&guest.ip()) {
            Some(led) if led.ports.has(guest.port()) => Ok(format!("{}:{}", led.by, guest.port())),
            _ if self.0.egress.covers(guest.ip(), guest.port()) => Ok(guest.to_string()),
            Some(led) => Err(Denied::Port { name: led.by.clone(), address: guest }),
            None => Err(Denied::Peer(guest)),
        };
        match called {
            Ok(called) if self.0.network != Network::None => self.tell(&Event::Called(called)),
            Ok(_) => return Err(self.deny(Denied::Peer(guest)).into()),
            Err(denied) => return Err(self.deny(denied).into()),
        }
        remember(&mut self.state().reached, (protocol, guest), guest);
        Ok(guest)
    }

    /// Remembers who has sent a datagram, and says whom the guest takes that for: an answer goes back to there.
    pub fn received_from(&self, real: SocketAddr) -> SocketAddr {
        let seen = self.seen(Protocol::Udp, real);
        remember(&mut self.state().correspondents, seen, real);
        seen
    }

    /// Where a datagram to `guest` really goes: to a listener of the guest's own, or back to who has sent one.
    ///
    /// # Errors
    /// When that peer was not granted.
    pub async fn reach_datagram(&self, guest: SocketAddr) -> Result<SocketAddr, Unreached> {
        let correspondent = self.state().correspondents.get(&guest).copied();
        match correspondent {
            Some(real) => Ok(real),
            None => self.reach(Protocol::Udp, guest).await,
        }
    }

    /// Looks a name up: an address is no name, `localhost` is the guest itself, and every other has to be granted. Of the
    /// addresses those are left out that its rules do not grant.
    ///
    /// # Errors
    /// When it was not granted, or has no address.
    pub async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if let Some(ip) = literal(name) {
            return Ok(vec![ip]);
        }
        if self.0.has_peers {
            match self.0.outside.peers(name).await {
                Err(Unresolved::NoSuchName) => {}
                found => return found,
            }
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
        match state.led.get_mut(&ip) {
            Some(led) => {
                led.ports.join(ports);
                name.clone_into(&mut led.by);
            }
            None => remember(&mut state.led, ip, Led { by: name.to_owned(), ports }),
        }
        true
    }
}

/// Adds to what does not grow without end.
fn remember<K: Ord, V>(all: &mut BTreeMap<K, V>, key: K, value: V) {
    if all.len() >= MOST_REMEMBERED {
        all.pop_first();
    }
    all.insert(key, value);
}
