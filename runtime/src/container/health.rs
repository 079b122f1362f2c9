//! Health checks: whether a container that runs does what it is for.
//!
//! The keeper asks, in intervals, over the container's own ports or by a command inside of it, and writes what it finds
//! to `health.json` in the run directory.

use super::run_place;
use super::{Container, Record};
use crate::grants::{Network, Protocol};
use crate::sandbox::Keeper;
use crate::sandbox::exec::{ExecSpec, ExecStdio};
use crate::store::{Durability, Store, files};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a container's health is checked, in the shape of an image's `Healthcheck` (Docker image specification 1.2): times
/// in nanoseconds, and 0 or nothing for what was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// `["NONE"]`, `["CMD", program, argument…]`, `["CMD-SHELL", line]`, `["HTTP", "8000/path"]` or `["TCP", "8000"]`;
    /// the latter two are our own.
    pub test: Vec<String>,
    /// Between two checks; 30 seconds.
    pub interval: u64,
    /// How long a check may take; 30 seconds.
    pub timeout: u64,
    /// How long failures do not count after the start; not at all.
    pub start_period: u64,
    /// Between two checks in that time; 5 seconds.
    pub start_interval: u64,
    /// How many failures in a row make it unhealthy; 3.
    pub retries: u32,
}

impl Check {
    /// These settings over others; `None` when there is nothing to check, or nothing to be checked.
    #[must_use]
    pub fn over(self, below: Option<&Self>) -> Option<Self> {
        let below = below.cloned().unwrap_or_default();
        let first = |ours: u64, theirs: u64| if ours > 0 { ours } else { theirs };
        let check = Self {
            test: if self.test.is_empty() { below.test } else { self.test },
            interval: first(self.interval, below.interval),
            timeout: first(self.timeout, below.timeout),
            start_period: first(self.start_period, below.start_period),
            start_interval: first(self.start_interval, below.start_interval),
            retries: if self.retries > 0 { self.retries } else { below.retries },
        };
        let nothing = check.test.first().is_none_or(|word| word == "NONE");
        (!nothing).then_some(check)
    }

    fn time(nanoseconds: u64, otherwise: u64) -> Duration {
        if nanoseconds > 0 { Duration::from_nanos(nanoseconds) } else { Duration::from_secs(otherwise) }
    }
}

/// What becomes of a container that is unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Nothing.
    #[default]
    None,
    /// It is killed and started again, whatever its restart policy.
    Restart,
    /// It is killed.
    Kill,
    /// It is stopped, in its own time.
    Stop,
}

/// A word that names none of them.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is nothing to do with an unhealthy container: there are none, restart, kill and stop")]
pub struct NoAction(String);

impl FromStr for OnFailure {
    type Err = NoAction;

    fn from_str(text: &str) -> Result<Self, NoAction> {
        match text {
            "none" => Ok(Self::None),
            "restart" => Ok(Self::Restart),
            "kill" => Ok(Self::Kill),
            "stop" => Ok(Self::Stop),
            other => Err(NoAction(other.to_owned())),
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Stop => "stop",
        })
    }
}

/// What is known of a container's health, in Docker's words and shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// How it is.
    pub status: State,
    /// How many checks in a row have failed.
    pub failing_streak: u32,
    /// The last five checks, the newest at the end.
    pub log: Vec<Checked>,
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not known yet.
    #[default]
    Starting,
    /// Well.
    Healthy,
    /// Not well.
    Unhealthy,
}

impl State {
    /// Docker's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// When it began.
    pub start: jiff::Timestamp,
    /// When it ended.
    pub end: jiff::Timestamp,
    /// 0 when all was well; -1 when it took too long.
    pub exit_code: i32,
    /// What it said, 4 KiB of it.
    pub output: String,
}

/// How many checks are remembered.
const REMEMBERED: usize = 5;
/// How much of what one said.
const SAID: usize = 4 << 10;

impl Health {
    /// Takes the result of a check; failures in the time of the start do not count.
    fn take(&mut self, checked: Checked, starting: bool, retries: u32) {
        if checked.exit_code == 0 {
            self.failing_streak = 0;
            self.status = State::Healthy;
        } else if !starting {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = State::Unhealthy;
            }
        }
        self.log.push(checked);
        let surplus = self.log.len().saturating_sub(REMEMBERED);
        self.log.drain(..surplus);
    }
}

const FILE: &str = "health.json";

/// What is known of a running container's health; `None` if it is not checked.
#[must_use]
pub fn of(store: &Store, record: &Record) -> Option<Health> {
    record.health.as_ref()?;
    Some(files::read_json(&run_place(store, &record.id).join(FILE)).unwrap_or_default())
}

/// Checks a container until the future is dropped; it is over by itself when the container is unhealthy and something
/// is to be done about it.
pub(super) async fn watch(store: &Store, keeper: &Keeper, container: &Container, check: &Check, place: &Path) {
    let record = &container.record;
    let (interval, timeout) = (Check::time(check.interval, 30), Check::time(check.timeout, 30));
    let start_interval = Check::time(check.start_interval, 5);
    let retries = if check.retries > 0 { check.retries } else { 3 };
    let (begun, start_period) = (Instant::now(), Duration::from_nanos(check.start_period));
    let mut health = Health::default();
    let write = |health: &Health| {
        // What cannot be written is not seen; the checks go on.
        let _ = files::write_json(&place.join(FILE), health, Durability::Buffered);
    };
    write(&health);
    loop {
        let starting = || health.status == State::Starting && begun.elapsed() < start_period;
        tokio::time::sleep(if starting() { start_interval } else { interval }).await;
        if keeper.is_paused() {
            continue;
        }
        let (starting, start) = (starting(), jiff::Timestamp::now());
        let probed = tokio::time::timeout(timeout, probe(store, keeper, container, &check.test)).await;
        let (exit_code, output) = match probed {
            Ok(Ok((code, output))) => (code, output),
            Ok(Err(reason)) => (1, reason),
            Err(_) => (-1, format!("the check took longer than {timeout:?}")),
        };
        let before = health.status;
        health.take(Checked { start, end: jiff::Timestamp::now(), exit_code, output }, starting, retries);
        write(&health);
        if health.status != before {
            container.tell(store, &format!("health_status: {}", health.status.word()), []);
        }
        if health.status == State::Unhealthy && record.on_failure != OnFailure::None {
            return;
        }
    }
}

/// One check: an exit code and what was said.
async fn probe(
    store: &Store,
    keeper: &Keeper,
    container: &Container,
    test: &[String],
) -> Result<(i32, String), String> {
    let words: Vec<&str> = test.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["TCP", port] => {
            let address = listener(keeper, container, port)?;
            let connected = TcpStream::connect(address).await;
            connected.map_err(|e| format!("cannot connect to port {port}: {e}"))?;
            Ok((0, format!("port {port} is open")))
        }
        ["HTTP", target] => {
            let at = target.find('/').unwrap_or(target.len());
            let (port, path) = target.split_at(at);
            http(listener(keeper, container, port)?, if path.is_empty() { "/" } else { path }).await
        }
        ["CMD-SHELL", line] => command(store, keeper, container, &["sh", "-c", line]).await,
        ["CMD", args @ ..] => command(store, keeper, container, args).await,
        other => Err(format!("{other:?} is no check that is known")),
    }
}

/// Where a port of the container is really listened to.
fn listener(keeper: &Keeper, container: &Container, port: &str) -> Result<SocketAddr, String> {
    let number: u16 = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    if container.record.network == Network::Host {
        return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), number));
    }
    let snapshot = keeper.look(&container.record.id).map_err(|e| e.to_string())?;
    let is_it =
        |(port, _): &&(crate::grants::Port, SocketAddr)| port.number == number && port.protocol == Protocol::Tcp;
    let (_, real) = snapshot.ports.iter().find(is_it).ok_or_else(|| {
        format!(
            "port {number} cannot be reached from outside of the container: publish it with -p, or check by a command"
        )
    })?;
    let ip = match real.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, real.port()))
}

/// A GET: healthy is what answers with a status of 200 to 399, as kubelet has it.
async fn http(address: SocketAddr, path: &str) -> Result<(i32, String), String> {
    let failed = |e: std::io::Error| format!("GET {path}: {e}");
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sampan-health\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    (&mut stream).take(SAID as u64).read_to_end(&mut answer).await.map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default().to_owned();
    let status: Option<u16> = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    match status {
        Some(200..400) => Ok((0, line)),
        Some(_) => Ok((1, line)),
        None => Err(format!("GET {path}: what answers speaks no HTTP")),
    }
}

/// A command in the container. What it says is taken while it runs, so that it does not wait for us; when the future is
/// dropped, it ends.
async fn command(
    store: &Store,
    keeper: &Keeper,
    container: &Container,
    args: &[&str],
) -> Result<(i32, String), String> {
    let failed = |e: std::io::Error| format!("cannot make a pipe for the check: {e}");
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let errors = writer.try_clone().map_err(failed)?;
    let mut said = tokio::net::unix::pipe::Receiver::from_owned_fd(reader).map_err(failed)?;
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    let spec = ExecSpec { args, toolbox: true, ..ExecSpec::default() };
    let streams = ExecStdio::Streams([None, Some(writer), Some(errors)]);
    let listen = async {
        let (mut output, mut block) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = said.read(&mut block).await {
            let room = SAID.saturating_sub(output.len()).min(read);
            output.extend_from_slice(block.get(..room).unwrap_or_default());
        }
        String::from_utf8_lossy(&output).into_owned()
    };
    let (exit, output) = tokio::join!(keeper.exec(store, &container.record.id, spec, streams), listen);
    exit.map(|exit| (exit.code.into(), output)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(exit_code: i32) -> Checked {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Checked { start: now, end: now, exit_code, output: String::new() }
    }

    #[test]
    fn so_many_failures_in_a_row_are_too_many() {
        let mut health = Health::default();
        health.take(checked(1), true, 2);
        assert_eq!((health.status, health.failing_streak), (State::Starting, 0));
        for (code, status) in [
            (1, State::Starting),
            (0, State::Healthy),
            (1, State::Healthy),
            (-1, State::Unhealthy),
            (1, State::Unhealthy),
            (0, State::Healthy),
        ] {
            health.take(checked(code), false, 2);
            assert_eq!(health.status, status);
        }
        assert_eq!((health.failing_streak, health.log.len()), (0, REMEMBERED));
    }

    #[test]
    fn settings_lie_over_the_images() {
        let image = Check { test: vec!["CMD".into(), "a".into()], interval: 5, retries: 7, ..Check::default() };
        let merged = Check { interval: 9, ..Check::default() }.over(Some(&image)).unwrap();
        assert_eq!((merged.test, merged.interval, merged.retries), (image.test.clone(), 9, 7));
        assert_eq!(Check { test: vec!["NONE".into()], ..Check::default() }.over(Some(&image)), None);
        assert_eq!(Check::default().over(None), None);
        let docker = r#"{"Test":["CMD-SHELL","true"],"Interval":1000000000,"Retries":2}"#;
        let read: Check = serde_json::from_str(docker).unwrap();
        assert_eq!((read.interval, read.retries, read.timeout), (1_000_000_000, 2, 0));
    }
}
