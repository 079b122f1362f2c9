//! Virtual addresses: what a container is called by its peers, and where that is on the host's loopback.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address that cannot be a container's or a network's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid subnet {given:?}: {reason}; wanted a part of 10.0.0.0/8 such as 10.89.1.0/24, /16 to /29")]
pub struct AddressError {
    /// What was given.
    pub given: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// An address in its network, as `10.89.0.2/24`. It lies in 10.0.0.0/8, so that it has a twin in 127.0.0.0/8: the
/// loopback address that its connections come from and that its unpublished ports are at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    /// The address itself.
    pub ip: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(given: &str) -> Result<Self, AddressError> {
        let fail = |reason| AddressError { given: given.to_owned(), reason };
        let (ip, prefix) = given.split_once('/').ok_or_else(|| fail("it has no prefix"))?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| fail("before the slash stands no IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| fail("after the slash stands no number"))?;
        if ip.octets()[0] != 10 || ip.octets()[1..3] == [0, 0] {
            return Err(fail("it lies elsewhere"));
        }
        if !(16..=29).contains(&prefix) {
            return Err(fail("the prefix is too short or too long"));
        }
        Ok(Self { ip, prefix })
    }
}

impl Address {
    /// The address of a container that is on no network of its user's: nobody else can call it, so that two may have
    /// the same. Drawn from its id.
    #[must_use]
    pub fn alone(id: &str) -> Self {
        let byte = |n: usize| id.get(n..n + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(2);
        Self { ip: Ipv4Addr::new(10, 88, byte(0), byte(2).clamp(2, 254)), prefix: 16 }
    }

    /// The first address of the network, which is the network's own.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.to_bits() & self.mask())
    }

    /// The second, which is nobody's: other engines have a gateway there, and programs that ask get an answer.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network().to_bits() | 1)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether an address belongs to the same network.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if ip.to_bits() & self.mask() == self.network().to_bits())
    }

    /// Whether two networks have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().into()) || other.contains(self.network().into())
    }

    /// The addresses that its network has for containers, in order.
    pub fn hosts(self) -> impl Iterator<Item = Self> {
        let (first, last) = (self.network().to_bits(), self.network().to_bits() | !self.mask());
        let prefix = self.prefix;
        (first + 2..last).map(move |bits| Self { ip: Ipv4Addr::from_bits(bits), prefix })
    }

    /// Its twin on the host's loopback.
    #[must_use]
    pub fn on_loopback(self) -> Ipv4Addr {
        let [_, a, b, c] = self.ip.octets();
        Ipv4Addr::new(127, a, b, c)
    }

    /// The address of the same network whose twin this is.
    #[must_use]
    pub fn of_loopback(self, ip: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V4(ip) = ip else { return None };
        let [first, a, b, c] = ip.octets();
        let twin = Ipv4Addr::new(10, a, b, c);
        (first == 127 && self.contains(twin.into())).then_some(twin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_knows_its_network_and_its_twin() {
        let a = address("10.89.1.7/24");
        assert_eq!((a.network(), a.gateway()), (Ipv4Addr::new(10, 89, 1, 0), Ipv4Addr::new(10, 89, 1, 1)));
        assert!(a.contains("10.89.1.200".parse().unwrap()) && !a.contains("10.89.2.7".parse().unwrap()));
        assert_eq!(a.on_loopback(), Ipv4Addr::new(127, 89, 1, 7));
        assert_eq!(a.of_loopback("127.89.1.9".parse().unwrap()), Some(Ipv4Addr::new(10, 89, 1, 9)));
        assert_eq!(a.of_loopback("127.0.0.1".parse().unwrap()), None);
        assert_eq!(a.hosts().next().map(|a| a.to_string()), Some("10.89.1.2/24".into()));
        assert_eq!(address("10.89.1.0/29").hosts().count(), 5);
        assert!(a.overlaps(address("10.89.0.0/16")) && address("10.89.0.0/16").overlaps(a));
        assert!(!a.overlaps(address("10.89.2.0/24")));
    }

    #[test]
    fn what_has_no_twin_is_refused() {
        for bad in ["192.168.0.0/24", "10.0.0.0/16", "10.0.0.0/8", "10.1.0.0/30", "10.1.0.0", "x/24", "fd00::/64"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!(Address::alone("00ff").to_string(), "10.88.0.254/16");
    }
}
