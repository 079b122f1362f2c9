//! Many idle services: in one sandbox that they share, and each in a sandbox of its own.

use super::{Bench, pss_kib};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a machine is watched while nothing should happen.
const WATCHED: Duration = Duration::from_secs(5);

/// The table: how many, how they were started, what each takes, and how often they wake up.
pub fn density(bench: &Bench, shared: usize, alone: usize) -> Result<()> {
    println!("\n## Density: idle HTTP services, each asked once\n");
    println!(
        "| what | containers | processes | started by `sampan start` of all in, s | each, ms | each, KiB PSS | the same \
         before the first request | kernel, KiB each | answered | wake-ups in {} s |",
        WATCHED.as_secs()
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    one(bench, "in one sandbox", shared, &["--sandbox", "dense"])?;
    one(bench, "each in a sandbox of its own", alone, &[])
}

fn one(bench: &Bench, what: &str, count: usize, flags: &[&str]) -> Result<()> {
    let names: Vec<String> = (0..count).map(|n| format!("dense{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        let create = ["create", "--name", name, "-p", "127.0.0.1::8000"];
        bench.sampan(&[&create[..], flags, &["web"]].concat())?;
    }
    let kernel = kernel_kib()?;
    let begun = Instant::now();
    bench.sampan(&[&["start"][..], &names].concat())?;
    let took = begun.elapsed();
    let (pids, ports) = running(bench, &names)?;
    ensure!(ports.len() == count, "{} of {count} run", ports.len());
    // Idle means idle for a while: what starting took is given back then.
    std::thread::sleep(Duration::from_secs(2));
    let kernel = kernel_kib()?.saturating_sub(kernel);
    let fresh = pss(&pids)?;
    let answered = ports.iter().filter(|port| answers(**port)).count();
    std::thread::sleep(Duration::from_secs(3));
    let asked = pss(&pids)?;
    let before = switches(&pids);
    std::thread::sleep(WATCHED);
    let woken = switches(&pids).saturating_sub(before);
    let each = |kib: u64| kib as f64 / count as f64;
    println!(
        "| {what} | {count} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {answered} | {woken} |",
        pids.len(),
        took.as_secs_f64(),
        took.as_secs_f64() * 1e3 / count as f64,
        each(asked),
        each(fresh),
        each(kernel),
    );
    bench.sampan(&[&["rm", "-f"][..], &names].concat())?;
    Ok(())
}

/// The processes of all, and the port of each.
fn running(bench: &Bench, names: &[&str]) -> Result<(BTreeSet<u32>, Vec<u16>)> {
    let format = "{{.State.Pid}} {{.Sampan.Keeper}} {{(index (index .NetworkSettings.Ports \"8000/tcp\") 0).HostPort}}";
    let told = bench.sampan(&[&["inspect", "-f", format][..], names].concat())?;
    let (mut pids, mut ports) = (BTreeSet::new(), Vec::new());
    for line in told.lines() {
        let mut words = line.split_whitespace();
        for _ in 0..2 {
            pids.insert(words.next().context("a process was wanted")?.parse()?);
        }
        ports.push(words.next().context("a port was wanted")?.parse()?);
    }
    Ok((pids, ports))
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn pss(pids: &BTreeSet<u32>) -> Result<u64> {
    pids.iter().map(|pid| pss_kib(&pid.to_string()).map(u64::from)).sum()
}

/// How often threads of these processes have been woken up and gone back to wait.
fn switches(pids: &BTreeSet<u32>) -> u64 {
    let of_thread = |path: std::path::PathBuf| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let threads = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    pids.iter().flat_map(threads).map(|thread| of_thread(thread.path())).sum()
}

/// What the kernel has for itself: its objects, stacks of threads and page tables.
fn kernel_kib() -> Result<u64> {
    let all = std::fs::read_to_string("/proc/meminfo")?;
    let line = |name: &str| -> Option<u64> {
        all.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    Ok(["Slab:", "KernelStack:", "PageTables:"].iter().filter_map(|name| line(name)).sum())
}
