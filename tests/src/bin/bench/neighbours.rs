//! A service under a steady rate of requests, beside containers that do their worst: by how much its slowest requests are
//! slower than in peace. What attacks has the first processor; the service and who asks it have the others.

use crate::{Bench, which};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How many requests a second.
const RATE: u32 = 500;
/// Rounds of peace and each attack in turn; the median counts.
const ROUNDS: usize = 5;

/// What the attackers do: the flags of their container, and what it runs. Each goes on until it is killed or begins anew.
const ATTACKS: &[(&str, &[&str])] = &[
    ("an endless loop", &["probe", "spin"]),
    ("a storm of polls", &["probe", "attack", "poll"]),
    ("memory without end", &["-m", "512m", "probe", "attack", "memory"]),
    ("a log without end of line", &["probe", "attack", "log", "50000000"]),
    ("a 4 GiB sparse file", &["probe", "attack", "sparse", "/f", "4294967296"]),
];

/// The table.
pub fn neighbours(bench: &Bench, seconds: u32) -> Result<()> {
    println!("\n## A neighbour: {RATE} requests a second beside an attack on the other processor\n");
    if which("taskset").is_none() || std::thread::available_parallelism()?.get() < 2 {
        println!("(left out: it takes two processors and taskset)");
        return Ok(());
    }
    bench.sampan(&["build", "-q", "-t", "web", &bench.samples.join("web").to_string_lossy()])?;
    let name = "bench-neighbour";
    let run = ["run", "-d", "--name", name, "-p", "127.0.0.1::8000", "web"];
    let mut server = pinned(bench, "1-", &run);
    ensure!(server.stdout(Stdio::null()).status()?.success(), "sampan run failed");
    let address: SocketAddr = bench.sampan(&["port", name, "8000"])?.trim().parse()?;
    let measured = measure(bench, address, seconds);
    bench.sampan(&["rm", "-f", name])?;
    let (peace, attacked) = measured?;
    println!("| beside | p50 ms | p99 ms | p99 × peace |\n| --- | --- | --- | --- |");
    println!("| nobody | {:.2} | {:.2} | 1.00 |", peace.0, peace.1);
    for ((what, _), (p50, p99)) in ATTACKS.iter().zip(attacked) {
        println!("| {what} | {p50:.2} | {p99:.2} | {:.2} |", p99 / peace.1);
    }
    Ok(())
}

fn pinned(bench: &Bench, processors: &str, args: &[&str]) -> Command {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let processors = if processors == "1-" { format!("1-{last}") } else { processors.to_owned() };
    let mut command = Command::new("taskset");
    command.args(["-c", &processors]).arg(&bench.sampan).args(args);
    command.env("SAMPAN_ROOT", bench.root.path()).env_remove("RUST_BACKTRACE");
    command
}

/// The 50th and the 99th percentile in peace, and beside each attack, in milliseconds.
type Times = (f64, f64);

fn measure(bench: &Bench, address: SocketAddr, seconds: u32) -> Result<(Times, Vec<Times>)> {
    let mut peace = Vec::new();
    let mut attacked = vec![Vec::new(); ATTACKS.len()];
    load(address, 1)?;
    for _ in 0..ROUNDS {
        peace.push(load(address, seconds)?);
        for ((_, args), seen) in ATTACKS.iter().zip(&mut attacked) {
            seen.push(beside(bench, args, || load(address, seconds))?);
        }
    }
    Ok((median(peace), attacked.into_iter().map(median).collect()))
}

/// Does something while an attacker is at it; one that has ended is started again.
fn beside<T>(bench: &Bench, args: &[&str], act: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacks = scope.spawn(|| -> Result<()> {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let mut run = pinned(bench, "0", &[&["run", "--rm", "--name", "bench-attacker"], args].concat());
                let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("taskset")?;
                while child.try_wait()?.is_none() && !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                if child.try_wait()?.is_none() {
                    let _ = bench.sampan(&["kill", "bench-attacker"]);
                    child.wait()?;
                }
            }
            Ok(())
        });
        std::thread::sleep(Duration::from_millis(300));
        let done = act();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        attacks.join().map_err(|_| anyhow::anyhow!("the attacker's thread has panicked"))??;
        done
    })
}

/// Asks at the rate, on one connection, and times each answer from the moment when it was to be asked for.
fn load(address: SocketAddr, seconds: u32) -> Result<Times> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    let request = format!("GET /env HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (begun, pace) = (Instant::now(), Duration::from_secs(1) / RATE);
    let mut times = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    for n in 0..RATE * seconds {
        let due = begun + pace * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        connection.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let read = connection.read(&mut buffer)?;
            ensure!(read > 0, "the service has closed the connection");
            answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        times.push(due.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(f64::NAN);
    Ok((at(50), at(99)))
}

/// Whether an answer with a length is all there.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

fn median(mut all: Vec<Times>) -> Times {
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all.get(all.len() / 2).copied().unwrap_or((f64::NAN, f64::NAN))
}
