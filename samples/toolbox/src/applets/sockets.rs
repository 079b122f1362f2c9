//! Commands on the network: its sockets, as `/proc/net` tells of them (proc_net(5)), and what WASI has not.

use super::{Flags, output, written};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP's states, by their numbers (tcp_states.h).
const STATES: [&str; 12] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];
const CLOSED: usize = 7;
const LISTENS: usize = 10;

/// One socket of a table.
#[derive(Debug, PartialEq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: usize,
    /// Bytes that wait to be sent, and to be taken.
    waiting: (u64, u64),
}

fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (sends, takes) = fields.get(4)?.split_once(':')?;
    let bytes = |text| u64::from_str_radix(text, 16).ok();
    Some(Socket {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        state: usize::from_str_radix(fields.get(3)?, 16).ok()?,
        waiting: (bytes(sends)?, bytes(takes)?),
    })
}

/// An address is words of 32 bits, each as a little-endian machine reads it.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_le_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn shown(address: SocketAddr) -> String {
    let port = if address.port() == 0 { "*".to_owned() } else { address.port().to_string() };
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => format!("0.0.0.0:{port}"),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => format!(":::{port}"),
        ip => format!("{ip}:{port}"),
    }
}

pub fn netstat(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "lantuwe46", &[])?;
    let kinds: Vec<&str> = match (flags.has('t'), flags.has('u')) {
        (true, false) => vec!["tcp", "tcp6"],
        (false, true) => vec!["udp", "udp6"],
        _ => vec!["tcp", "tcp6", "udp", "udp6"],
    };
    let tables: Vec<(&str, String)> = kinds
        .into_iter()
        .filter_map(|kind| Some((kind, std::fs::read_to_string(format!("/proc/net/{kind}")).ok()?)))
        .collect();
    if tables.is_empty() {
        return Err("this container has no table of sockets: it has no /proc/net".to_owned());
    }
    let which = match (flags.has('l'), flags.has('a')) {
        (_, true) => "servers and established",
        (true, false) => "only servers",
        (false, false) => "w/o servers",
    };
    let mut out = output();
    written(writeln!(out, "Active Internet connections ({which})"))?;
    written(writeln!(out, "Proto Recv-Q Send-Q {:<23} {:<23} State", "Local Address", "Foreign Address"))?;
    for (kind, table) in &tables {
        for socket in table.lines().skip(1).filter_map(socket) {
            let udp = kind.starts_with("udp");
            let serves = if udp { socket.state == CLOSED } else { socket.state == LISTENS };
            if !flags.has('a') && serves != flags.has('l') {
                continue;
            }
            let state = if udp && serves { "" } else { STATES.get(socket.state).copied().unwrap_or_default() };
            let (local, remote) = (shown(socket.local), shown(socket.remote));
            let (sends, takes) = socket.waiting;
            written(writeln!(out, "{kind:<5} {takes:>6} {sends:>6} {local:<23} {remote:<23} {state}"))?;
        }
    }
    written(out.flush())?;
    Ok(0)
}

/// Says whom it would ask, as everywhere, and that it may not.
pub fn ping(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "46qc:s:i:t:w:W:I:", &[])?;
    let [host] = flags.rest.as_slice() else { return Err("one host is needed".to_owned()) };
    let address = host.parse::<IpAddr>().map(|ip| format!(" ({ip})")).unwrap_or_default();
    let size = flags.value('s').map_or(Ok(56), super::number)?;
    written(writeln!(io::stdout(), "PING {host}{address}: {size} data bytes"))?;
    Err("permission denied (are you root?): WASI has no raw sockets".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000001:000000ff 00:00000000 00000000     0        0 12 1";
        let read = socket(line).unwrap();
        assert_eq!(shown(read.local), "127.0.0.1:8080");
        assert_eq!((shown(read.remote).as_str(), read.state, read.waiting), ("0.0.0.0:*", LISTENS, (1, 255)));
        let local = address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(shown(local), "::1:80");
        assert_eq!(shown(address("00000000000000000000000000000000:0000").unwrap()), ":::*");
        for bad in ["", "1", "0100007F", "0100007:1", "0100007F:G", "  sl  local_address rem_address   st tx_queue"] {
            assert_eq!((address(bad), socket(bad)), (None, None), "{bad}");
        }
    }
}
