//! TCP echo through `wasi:sockets`, beside a native server on tokio: 64 KiB to and fro on one connection, in alternation.

use crate::Bench;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const MESSAGE: usize = 64 << 10;
/// Interleaved rounds; the median counts.
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// The server without a sandbox.
pub fn native(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    })
}

/// The table.
pub fn echo(bench: &Bench) -> Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut native = Command::new(std::env::current_exe()?).args(["native-echo", &address.to_string()]).spawn()?;
    let measured = beside(bench, address);
    native.kill()?;
    native.wait()?;
    let medians = measured?;
    let first = medians.first().map_or(f64::NAN, |(_, rate)| *rate);
    println!(
        "\n## TCP echo, messages of 64 KiB on one connection\n\n| server | MB/s each way | × native |\n| --- | --- | --- |"
    );
    for (name, rate) in medians {
        println!("| {name} | {:.0} | {:.2} |", rate / 1e6, rate / first);
    }
    Ok(())
}

fn beside(bench: &Bench, native: SocketAddr) -> Result<Vec<(&'static str, f64)>> {
    let mut servers = vec![("tokio, native", native)];
    for (name, sample, container) in [
        ("sampan, WASI 0.2 (`samples/tcp`)", "tcp", "echo-tcp"),
        ("sampan, WASI 0.3 (`samples/p3`)", "p3", "echo-p3"),
        ("sampan, WASI 0.1 (`samples/serve`)", "serve", "echo-serve"),
    ] {
        bench.sampan(&["build", "-q", "-t", sample, &bench.samples.join(sample).to_string_lossy()])?;
        let args: &[&str] = match sample {
            "tcp" => &["7000"],
            "p3" => &["tcp"],
            _ => &[],
        };
        bench.sampan(&[&["run", "-d", "--name", container, "-p", "127.0.0.1::7000", sample], args].concat())?;
        let port = bench.sampan(&["port", container, "7000"])?;
        servers.push((name, port.parse().with_context(|| format!("no address: {port}"))?));
    }
    let mut streams = Vec::new();
    for (name, address) in &servers {
        streams.push((*name, connect(*address)?, Vec::new()));
    }
    for round in 0..=ROUNDS {
        for (name, stream, rates) in &mut streams {
            let rate = exchange(stream).with_context(|| format!("{name} has broken off"))?;
            // The first round warms.
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    drop(bench.sampan(&["rm", "-f", "echo-tcp", "echo-p3", "echo-serve"])?);
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(streams.into_iter().map(|(name, _, rates)| (name, median(rates))).collect())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // A published port may take a connection before its guest does, and then drop it.
        let answers = |mut stream: TcpStream| -> std::io::Result<TcpStream> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])?;
            Ok(stream)
        };
        match TcpStream::connect(address).and_then(answers) {
            Ok(stream) => return Ok(stream),
            Err(error) => ensure!(Instant::now() < deadline, "{address} does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes a second that go there and come back.
fn exchange(stream: &mut TcpStream) -> Result<f64> {
    let (message, mut answer) = (vec![7; MESSAGE], vec![0; MESSAGE]);
    let (begun, mut bytes) = (Instant::now(), 0.0);
    while begun.elapsed() < ROUND {
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        bytes += MESSAGE as f64;
    }
    Ok(bytes / begun.elapsed().as_secs_f64())
}
