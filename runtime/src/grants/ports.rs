//! Ports: what a container may bind, and where the host listens for it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A port or a publication that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port {given:?}: {reason}; wanted [ip:][hostPort:]containerPort[/tcp|/udp]")]
pub struct PortError {
    /// What was given.
    pub given: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A container's port, as `8000/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Port {
    /// The number that the guest binds.
    pub number: u16,
    /// Its transport.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for Port {
    type Error = PortError;
    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl FromStr for Port {
    type Err = PortError;
    fn from_str(given: &str) -> Result<Self, PortError> {
        let fail = |reason: &str| PortError { given: given.to_owned(), reason: reason.to_owned() };
        let (number, protocol) = split_protocol(given)?;
        let number: u16 = number.parse().map_err(|_| fail("a port is a number from 1 to 65535"))?;
        if number == 0 {
            return Err(fail("port 0 names no port"));
        }
        Ok(Self { number, protocol })
    }
}

fn split_protocol(given: &str) -> Result<(&str, Protocol), PortError> {
    match given.rsplit_once('/') {
        None => Ok((given, Protocol::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Ok((rest, Protocol::Udp)),
        Some((_, other)) => Err(PortError {
            given: given.to_owned(),
            reason: format!("unknown protocol {other:?}, tcp and udp are known"),
        }),
    }
}

/// One publication: a port of the container at an address of the host. Host port 0 lets the system choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The container's port.
    pub port: Port,
    /// The host's address, the wildcard where none was given.
    pub host: SocketAddr,
}

impl Publish {
    /// Publishes `port` at a port of the system's choice.
    #[must_use]
    pub fn anywhere(port: Port) -> Self {
        Self { port, host: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) }
    }

    /// Reads `[ip:][hostPort:]containerPort[/protocol]`, where both ports may be ranges of one length
    /// (`8000-8002:9000-9002`), as `docker run -p` does.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn parse(given: &str) -> Result<Vec<Self>, PortError> {
        let fail = |reason: &str| PortError { given: given.to_owned(), reason: reason.to_owned() };
        let (rest, protocol) = split_protocol(given)?;
        let (rest, container) = match rest.rsplit_once(':') {
            Some((rest, container)) => (Some(rest), container),
            None => (None, rest),
        };
        let (ip, host) = match rest {
            None => (None, ""),
            Some(rest) if rest.ends_with(']') => (Some(rest), ""),
            Some(rest) => match rest.rsplit_once(':') {
                Some((ip, host)) => (Some(ip), host),
                None => (None, rest),
            },
        };
        let ip: IpAddr = match ip {
            None | Some("") => Ipv4Addr::UNSPECIFIED.into(),
            Some(ip) => ip
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .map_err(|_| fail("the part before the ports is not an IP address"))?,
        };
        let container = range(container).ok_or_else(|| fail("the container port is not a number from 1 to 65535"))?;
        if container.0 == 0 {
            return Err(fail("the container port is missing or 0"));
        }
        let count = container.1 - container.0;
        let host = match host {
            "" => None,
            host => Some(range(host).ok_or_else(|| fail("the host port is not a number from 0 to 65535"))?),
        };
        if let Some((first, last)) = host
            && last - first != count
        {
            return Err(fail("the two port ranges differ in length"));
        }
        Ok((0..=count)
            .map(|i| Self {
                port: Port { number: container.0 + i, protocol },
                host: SocketAddr::new(ip, host.map_or(0, |(first, _)| first + i)),
            })
            .collect())
    }
}

/// `a` or `a-b` with `a <= b`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let all = Publish::parse(text).unwrap();
        assert_eq!(all.len(), 1);
        format!("{} {}", all[0].host, all[0].port)
    }

    #[test]
    fn the_forms_of_docker() {
        assert_eq!(one("8080:8000"), "0.0.0.0:8080 8000/tcp");
        assert_eq!(one("8000"), "0.0.0.0:0 8000/tcp");
        assert_eq!(one("127.0.0.1:8080:8000/udp"), "127.0.0.1:8080 8000/udp");
        assert_eq!(one("127.0.0.1::8000"), "127.0.0.1:0 8000/tcp");
        assert_eq!(one("[::1]:8080:8000"), "[::1]:8080 8000/tcp");
        let range = Publish::parse("8000-8001:9000-9001").unwrap();
        assert_eq!((range[1].host.port(), range[1].port.number), (8001, 9001));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (given, word) in [
            ("8080:0", "missing or 0"),
            ("x:80", "host port"),
            ("80:x", "container port"),
            ("80/sctp", "protocol"),
            ("300.0.0.1:80:80", "IP address"),
            ("1-3:5-6", "length"),
            ("80:99999", "container port"),
        ] {
            let error = Publish::parse(given).unwrap_err().to_string();
            assert!(error.contains(word), "{given}: {error}");
        }
        assert!("0".parse::<Port>().is_err());
        assert!("80/tcp".parse::<Port>().is_ok());
    }
}
