//! Services under load for a long time: their memory stays what it was, and nothing stays open.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::{Container, Output, Run, Store, eventually, net};
use std::time::{Duration, Instant};

/// How long they are called, in seconds, unless `SAMPAN_LOAD_SECONDS` says otherwise.
const SECONDS: u64 = 600;
/// How often their memory is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What a process may have more at the end, in KiB: its pages go to and fro.
const SLACK: u64 = 4096;

/// The proportional set size of a container's two processes, in KiB.
fn memory(pids: &[String]) -> u64 {
    let pss = |pid: &String| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default().to_owned();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    pids.iter().map(pss).sum()
}

/// Sockets alone: directories are kept open for the instances to come.
fn open_sockets(pid: &str) -> usize {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

struct Loaded {
    name: &'static str,
    container: Container<'static>,
    pids: Vec<String>,
    sockets: usize,
    seen: Vec<u64>,
}

#[test]
#[ignore = "long: ten minutes of load"]
fn memory_is_flat_over_ten_minutes_of_load() {
    if lacks(&[Need::Tool("h2load")]) {
        return;
    }
    let seconds = std::env::var("SAMPAN_LOAD_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SECONDS);
    let store = Store::shared(&["hello-http", "web3"]);
    // Each request of web3 is a line of its log, so that one is called at a measured pace.
    let services = [
        ("fresh, HTTP/1.1", "hello-http", "", "--h1 -c 32"),
        ("fresh, HTTP/2", "hello-http", "", "-c 4 -m 8"),
        ("used again, HTTP/1.1", "hello-http", "--http-reuse 1000", "--h1 -c 32"),
        ("WASI 0.3", "web3", "", "--h1 -c 8 --rps 50"),
    ];
    let mut all = Vec::new();
    let mut loads = Vec::new();
    for (name, image, flags, load) in services {
        let container = store.detached(format!("-p 127.0.0.1::8000 {flags} {image}"));
        let pids = container.inspect("{{.State.Pid}} {{.Sampan.Keeper}}");
        let pids: Vec<String> = pids.split(' ').map(str::to_owned).collect();
        let port = container.port("8000");
        net::get(port, "/").expect(200);
        let sockets = open_sockets(&pids[0]);
        let command = format!("h2load -t 1 -D {seconds} {load} http://127.0.0.1:{port}/");
        loads.push(Run::new(command.split(' ')).start());
        all.push(Loaded { name, container, pids, sockets, seen: vec![] });
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        // The pace of the looks is what this sleep is for, and nothing waits for it.
        std::thread::sleep(LOOK);
        for one in &mut all {
            one.seen.push(memory(&one.pids));
        }
    }
    let ended: Vec<Output> = loads.into_iter().map(|load| load.finish().ok()).collect();
    for (one, load) in all.iter().zip(&ended) {
        let third = one.seen.len() / 3;
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        // The first third has the warming up in it.
        let (before, after) = (most(&one.seen[third..2 * third]), most(&one.seen[2 * third..]));
        let requests = load.stdout.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
        eprintln!("{}: {before} KiB, at the end {after} KiB; {requests}", one.name);
        assert!(after <= before + before / 10 + SLACK, "{}: from {before} to {after} KiB: {:?}", one.name, one.seen);
        load.clone().stdout_has(" 0 4xx, 0 5xx");
        eventually("its connections are closed", || open_sockets(&one.pids[0]) <= one.sockets);
        net::get(one.container.port("8000"), "/").expect(200);
    }
}
