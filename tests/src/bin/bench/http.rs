//! Requests: `sampan` beside `wasmtime serve`, the same component, side by side in one run, with hyper alone as the
//! ceiling. Each server has the first processor to itself and wrk the second.
//!
//! How much of a large guest's time is its own, `perf` tells: the part of the samples that lie in compiled code. The rest is
//! what the server adds.
//!
//! `make bench`, or `bench http [SECONDS]` for this table alone.

use crate::{Bench, which};
use anyhow::{Context, Result, ensure};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Interleaved rounds; the median counts.
const ROUNDS: usize = 5;
/// A tick of the counters in `/proc/PID/stat`, in microseconds (`USER_HZ` is 100 everywhere).
const TICK: f64 = 10_000.0;

/// A server that is measured.
struct Server {
    name: &'static str,
    address: SocketAddr,
    pid: u32,
    /// Ends it.
    end: End,
    seen: Vec<Seen>,
}

enum End {
    Kill(Child),
    Remove(&'static str),
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Seen {
    rate: f64,
    /// Processor time of the server for one request, in microseconds.
    cpu: f64,
    p50: f64,
    p99: f64,
}

/// The tables: fresh instances, instances that are used again, 1,000 connections, WASI 0.3, and a large guest.
pub fn http(bench: &Bench, seconds: u32) -> Result<()> {
    let missing: Vec<&str> = ["wrk", "taskset"].into_iter().filter(|tool| which(tool).is_none()).collect();
    if !missing.is_empty() || std::thread::available_parallelism()?.get() < 2 {
        println!("\n## HTTP\n\n(left out: it takes two processors, wrk and taskset)");
        return Ok(());
    }
    bench.sampan(&["build", "-q", "-t", "hello-http", &bench.samples.join("hello-http").to_string_lossy()])?;
    bench.sampan(&["build", "-q", "-t", "web", &bench.samples.join("web").to_string_lossy()])?;
    bench.sampan(&["build", "-q", "-t", "web3", &bench.samples.join("web3").to_string_lossy()])?;
    let has_large = guest(bench, LARGE).is_file();
    if has_large {
        bench.sampan(&["build", "-q", "-t", LARGE, &bench.samples.join(LARGE).to_string_lossy()])?;
    }
    let fresh = ("sampan", &[][..], "wasmtime serve", &[][..]);
    let reused = (
        "sampan --http-reuse 1000",
        &["--http-reuse", "1000"][..],
        "wasmtime serve, 1,000 requests an instance",
        &["--max-instance-reuse-count", "1000"][..],
    );
    for (title, sample, path, connections, kind) in [
        ("a fresh instance for each request, 32 connections", "hello-http", "/", 32, fresh),
        ("instances used 1,000 times, 32 connections", "hello-http", "/", 32, reused),
        ("a fresh instance for each request, 1,000 connections", "hello-http", "/", 1000, fresh),
        ("a page that allocates and is logged, a fresh instance for each, 32 connections", "web", "/env", 32, fresh),
        ("WASI 0.3, 16 requests at a time in an instance and 128 in all, 32 connections", "web3", "/", 32, fresh),
        ("a large guest (JavaScript), a fresh instance for each request, 32 connections", LARGE, "/", 32, fresh),
        ("a large guest (JavaScript), instances used 1,000 times, 32 connections", LARGE, "/", 32, reused),
    ] {
        if sample == LARGE && !has_large {
            println!("\n## HTTP: {title}\n\n(left out: `samples/build.sh {LARGE}` makes it)");
            continue;
        }
        println!("\n## HTTP: {title} (`{sample}{path}`)\n");
        println!("| server | requests/s | CPU µs a request | p50 ms | p99 ms | requests/s × wasmtime | CPU × |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        let mut servers = start(bench, sample, kind)?;
        let measured = measure(&mut servers, path, connections, seconds);
        print(&servers);
        if sample == LARGE {
            print_own(&servers, path)?;
        }
        for server in servers {
            server.end(bench)?;
        }
        measured?;
    }
    Ok(())
}

/// The sample whose guest is large.
const LARGE: &str = "hello-js";

type Kind<'a> = (&'static str, &'a [&'a str], &'static str, &'a [&'a str]);

fn start(bench: &Bench, sample: &str, (ours, our_flags, theirs, their_flags): Kind<'_>) -> Result<Vec<Server>> {
    let address = free()?;
    let bench_itself = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut servers = vec![Server::spawn("hyper alone", address, &[&bench_itself, "native", &address.to_string()])?];
    if let Some(wasmtime) = which("wasmtime") {
        let address = free()?;
        let (wasmtime, wasm) = (wasmtime.to_string_lossy(), guest(bench, sample));
        let (address_word, wasm) = (address.to_string(), wasm.to_string_lossy().into_owned());
        let command = [&[&*wasmtime, "serve", "-Scli", "--addr", &address_word], their_flags, &[&wasm]].concat();
        servers.push(Server::spawn(theirs, address, &command)?);
    } else {
        eprintln!("there is no wasmtime here to stand beside");
    }
    let (name, address) = ("bench-http", free()?);
    let publish = format!("{address}:8000");
    let mut run = Command::new("taskset");
    run.args(["-c", "0"]).arg(&bench.sampan).args(["run", "-d", "--name", name, "-p", &publish]).args(our_flags);
    run.arg(sample).env("SAMPAN_ROOT", bench.root.path()).env_remove("RUST_BACKTRACE").stdout(Stdio::null());
    ensure!(run.status()?.success(), "sampan run failed");
    let pid = bench.sampan(&["inspect", "-f", "{{.State.Pid}}", name])?.parse()?;
    servers.push(Server { name: ours, address, pid, end: End::Remove(name), seen: vec![] });
    for server in &servers {
        let deadline = Instant::now() + Duration::from_secs(120);
        // Theirs compiles first.
        while TcpStream::connect(server.address).is_err() {
            ensure!(Instant::now() < deadline, "{} does not listen", server.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(servers)
}

fn guest(bench: &Bench, sample: &str) -> PathBuf {
    bench.samples.join(sample).join(format!("{sample}.wasm"))
}

fn measure(servers: &mut [Server], path: &str, connections: u32, seconds: u32) -> Result<()> {
    for round in 0..=ROUNDS {
        for server in servers.iter_mut() {
            // The first round warms.
            let seen = server.load(path, connections, if round == 0 { 1 } else { seconds })?;
            if round > 0 {
                server.seen.push(seen);
            }
        }
    }
    Ok(())
}

/// How much of a request's time is the guest's own, and how much the server adds.
fn print_own(servers: &[Server], path: &str) -> Result<()> {
    if which("perf").is_none() {
        println!("\n(how much of it is the guest's own is left out: it takes perf)");
        return Ok(());
    }
    println!("\n| server | the guest's own µs | what the server adds |\n| --- | --- | --- |");
    for server in servers.iter().filter(|server| server.name != "hyper alone") {
        let (cpu, share) = (server.median(|seen| seen.cpu), server.guests_share(path)?);
        println!("| {} | {:.0} | {:.0} |", server.name, cpu * share, cpu * (1.0 - share));
    }
    Ok(())
}

fn print(servers: &[Server]) {
    let peer = servers.iter().find(|server| server.name.starts_with("wasmtime"));
    for server in servers {
        let median = |of: fn(&Seen) -> f64| server.median(of);
        let times = |of: fn(&Seen) -> f64| peer.map_or(f64::NAN, |peer| server.median(of) / peer.median(of));
        println!(
            "| {} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
            server.name,
            median(|s| s.rate),
            median(|s| s.cpu),
            median(|s| s.p50),
            median(|s| s.p99),
            times(|s| s.rate),
            times(|s| s.cpu)
        );
    }
}

impl Server {
    fn spawn(name: &'static str, address: SocketAddr, command: &[&str]) -> Result<Self> {
        let mut pinned = Command::new("taskset");
        // A backtrace for every error that is made would be measured as the server's work.
        pinned.args(["-c", "0"]).args(command).env_remove("RUST_BACKTRACE");
        let child = pinned.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // taskset becomes what it starts.
        Ok(Self { name, address, pid: child.id(), end: End::Kill(child), seen: vec![] })
    }

    fn load(&self, path: &str, connections: u32, seconds: u32) -> Result<Seen> {
        let before = self.ticks()?;
        let output = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "--latency"])
            .args([format!("-c{connections}"), format!("-d{seconds}s"), format!("http://{}{path}", self.address)])
            .output()?;
        let ticks = self.ticks()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!text.contains("Non-2xx"), "{} answered with errors:\n{text}", self.name);
        let field = |line: &str, n: usize| {
            let found = text.lines().find(|l| l.contains(line)).and_then(|l| l.split_whitespace().nth(n));
            found.map(str::to_owned).with_context(|| format!("wrk says nothing of {line:?}:\n{text}"))
        };
        let requests: f64 = field("requests in", 0)?.parse()?;
        Ok(Seen {
            rate: field("Requests/sec:", 1)?.parse()?,
            cpu: ticks * TICK / requests,
            p50: milliseconds(&field("50%", 1)?)?,
            p99: milliseconds(&field("99%", 1)?)?,
        })
    }

    /// The part of its processor time under load that it spends in the guest's code: in a file of ours, or where an engine
    /// that compiles has put it.
    fn guests_share(&self, path: &str) -> Result<f64> {
        let data = std::env::temp_dir().join(format!("sampan-bench-{}.perf", std::process::id()));
        let load = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "-c32", "-d3s", &format!("http://{}{path}", self.address)])
            .stdout(Stdio::null())
            .spawn();
        let record = Command::new("perf")
            .args(["record", "-q", "-F", "1500", "-p", &self.pid.to_string(), "-o"])
            .arg(&data)
            .args(["--", "sleep", "2"])
            .status();
        load?.wait()?;
        ensure!(record?.success(), "perf record failed");
        let report =
            Command::new("perf").args(["report", "--no-children", "--sort", "dso", "-i"]).arg(&data).output()?;
        let _ = std::fs::remove_file(data);
        let text = String::from_utf8_lossy(&report.stdout);
        let of_guest = text.lines().filter(|line| line.contains(".cwasm") || line.contains("[JIT]"));
        let parts = of_guest.filter_map(|line| line.split_whitespace().next()?.strip_suffix('%')?.parse::<f64>().ok());
        Ok(parts.sum::<f64>() / 100.0)
    }

    /// Processor time of all its threads, in user mode and in the kernel (proc_pid_stat(5), fields 14 and 15).
    fn ticks(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let (_, rest) = stat.rsplit_once(')').context("no process name in its stat")?;
        let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()?)
    }

    fn median(&self, of: impl Fn(&Seen) -> f64) -> f64 {
        let mut all: Vec<f64> = self.seen.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn end(self, bench: &Bench) -> Result<()> {
        match self.end {
            End::Kill(mut child) => {
                child.kill()?;
                child.wait()?;
            }
            End::Remove(name) => drop(bench.sampan(&["rm", "-f", name])?),
        }
        Ok(())
    }
}

/// `1.23ms`, `890.00us`, `1.10s`.
fn milliseconds(text: &str) -> Result<f64> {
    for (unit, times) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * times);
        }
    }
    anyhow::bail!("{text:?} is no time")
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
