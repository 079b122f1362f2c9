//! WASI's addresses as those of the standard library, which can be read and written as text.

use std::net::{IpAddr, SocketAddr};

use wasip2::sockets::network::{IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};

/// Reads `ADDRESS:PORT`, or a port alone, which means every address of the container.
pub fn parse(text: &str) -> Result<SocketAddr, &'static str> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([0, 0, 0, 0], port))),
        Err(_) => text.parse().map_err(|_| "neither a port nor ADDRESS:PORT"),
    }
}

pub fn family(address: SocketAddr) -> IpAddressFamily {
    match address {
        SocketAddr::V4(_) => IpAddressFamily::Ipv4,
        SocketAddr::V6(_) => IpAddressFamily::Ipv6,
    }
}

pub fn to_wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) => IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port,
            address: v4.ip().octets().into(),
        }),
        SocketAddr::V6(v6) => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port,
            flow_info: v6.flowinfo(),
            address: v6.ip().segments().into(),
            scope_id: v6.scope_id(),
        }),
    }
}

pub fn from_wasi(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(v4) => SocketAddr::new(ip(IpAddress::Ipv4(v4.address)), v4.port),
        IpSocketAddress::Ipv6(v6) => SocketAddr::new(ip(IpAddress::Ipv6(v6.address)), v6.port),
    }
}

pub fn ip(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4(octets) => <[u8; 4]>::from(octets).into(),
        IpAddress::Ipv6(segments) => <[u16; 8]>::from(segments).into(),
    }
}
