//! `port`, and what the other commands tell of a container's ports.

use crate::Context;
use crate::commands::filter;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::{self, Record, Running, Status};
use sampan_runtime::grants::{Port, Protocol};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

/// List a container's ports
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Name or id
    container: String,
    /// Only where this port of the container is published, as PORT[/tcp|/udp]
    port: Option<Port>,
}

impl PortArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        let mut text = String::new();
        if let Status::Running(running) = found.status(&store) {
            for (port, host) in published(&found.record, &running) {
                match self.port {
                    None => writeln!(text, "{port} -> {host}")?,
                    Some(wanted) if wanted == port => writeln!(text, "{host}")?,
                    Some(_) => {}
                }
            }
        }
        match self.port {
            Some(port) if text.is_empty() => bail!("no public port {port} published for {}", self.container),
            _ => filter::print(&text),
        }
    }
}

/// The published ports of a running container with where the host listens for each, in order.
///
/// A service listens for each port that it was granted; those that were not published are its keeper's secret.
pub fn published(record: &Record, running: &Running) -> Vec<(Port, SocketAddr)> {
    let is_published = |port: &Port| record.published.iter().any(|publish| publish.port == *port);
    let mut ports: Vec<_> = running.ports.iter().filter(|(port, _)| is_published(port)).copied().collect();
    ports.sort_unstable();
    ports
}

/// The ports that a container may bind without being published, in order.
pub fn only_exposed(record: &Record) -> Vec<Port> {
    let is_published = |port: &Port| record.published.iter().any(|publish| publish.port == *port);
    let mut ports: Vec<_> = record.exposed.iter().filter(|port| !is_published(port)).copied().collect();
    ports.sort_unstable();
    ports
}

/// The ports of a running container as Docker's listing shows them: `0.0.0.0:8080->8000/tcp, 9000/tcp`.
pub fn listing(record: &Record, running: &Running) -> String {
    let exposed = only_exposed(record).into_iter().map(|port| (port, None));
    join(published(record, running).into_iter().map(|(port, host)| (port, Some(host))).chain(exposed).collect())
}

/// Docker's way to save room: what has the same number on both sides, or none on the host's, is one range as long as
/// the numbers follow each other; it stands before what has two numbers.
fn join(mut ports: Vec<(Port, Option<SocketAddr>)>) -> String {
    struct Range {
        key: (Option<IpAddr>, Protocol),
        first: u16,
        last: u16,
        done: bool,
    }
    ports.sort_by_key(|(port, host)| (port.number, host.map(|h| (h.ip(), h.port())), port.protocol));
    let mut ranges: Vec<Range> = Vec::new();
    let mut mapped = Vec::new();
    for (port, host) in ports {
        if let Some(host) = host.filter(|host| host.port() != port.number) {
            mapped.push(format!("{host}->{port}"));
            continue;
        }
        let key = (host.map(|host| host.ip()), port.protocol);
        let (first, last) = (port.number, port.number);
        match ranges.iter_mut().find(|range| !range.done && range.key == key) {
            Some(range) if range.last.checked_add(1) == Some(port.number) => range.last = port.number,
            Some(range) => {
                range.done = true;
                ranges.push(Range { key, first, last, done: false });
            }
            None => ranges.push(Range { key, first, last, done: false }),
        }
    }
    let shown = ranges.iter().map(|range| {
        let numbers = match range.last {
            last if last == range.first => last.to_string(),
            last => format!("{}-{last}", range.first),
        };
        let (ip, protocol) = range.key;
        match ip {
            None => format!("{numbers}/{protocol}"),
            Some(IpAddr::V4(ip)) => format!("{ip}:{numbers}->{numbers}/{protocol}"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{numbers}->{numbers}/{protocol}"),
        }
    });
    shown.chain(mapped).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_worded_as_docker_words_them() {
        let text = |ports: &[(&str, &str)]| {
            join(ports.iter().map(|(port, host)| (port.parse().unwrap(), host.parse().ok())).collect())
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[("8000/tcp", "0.0.0.0:8080")]), "0.0.0.0:8080->8000/tcp");
        assert_eq!(text(&[("9000/tcp", ""), ("80/tcp", "[::]:8080")]), "9000/tcp, [::]:8080->80/tcp");
        assert_eq!(
            text(&[("81/tcp", "0.0.0.0:81"), ("80/tcp", "0.0.0.0:80"), ("80/tcp", "[::]:80"), ("53/udp", "")]),
            "53/udp, 0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp"
        );
        assert_eq!(text(&[("80/tcp", ""), ("81/tcp", ""), ("83/tcp", "")]), "80-81/tcp, 83/tcp");
    }
}
