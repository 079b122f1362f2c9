//! Many containers, many requests, much output.

use sampan_tests::net::Http;
use sampan_tests::{Store, eventually};

#[test]
#[ignore = "long: two hundred containers"]
fn two_hundred_containers_run_at_once() {
    const MANY: usize = 200;
    let store = Store::fresh(&["probe"]);
    store.sampan("run --rm probe args").ok();
    let before = store.tree();
    // Four at a time: as many as somebody with a script might start.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for m in (n..MANY).step_by(4) {
                    store.sampan(format!("run -d --name box-{m} -p 7000 probe forever")).ok();
                }
            });
        }
    });
    let listed = store.sampan("ps --format {{.Names}}").ok();
    let mut names: Vec<_> = listed.lines().iter().map(|name| (*name).to_owned()).collect();
    names.sort();
    let mut wanted: Vec<_> = (0..MANY).map(|n| format!("box-{n}")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    let ports = store.sampan("ps --format {{.Ports}}").ok();
    let different: std::collections::BTreeSet<_> = ports.lines().into_iter().collect();
    assert_eq!(different.len(), MANY, "each has a port of its own");
    store.sampan(format!("stop {}", names.join(" "))).ok();
    store.sampan("ps -q").ok().stdout_is("");
    assert_eq!(store.sampan("ps -aq --filter exited=143").ok().lines().len(), MANY);
    store.sampan(format!("rm {}", names.join(" "))).ok();
    eventually("nothing is left", || store.tree() == before && store.processes().is_empty());
}

#[test]
#[ignore = "long: a thousand containers"]
fn a_thousand_services_share_a_sandbox() {
    const MANY: usize = 1000;
    let store = Store::fresh(&["web"]);
    let _ = store.sampan("run --rm web --no-such-flag").run();
    let before = store.tree();
    let names: Vec<String> = (0..MANY).map(|n| format!("box-{n}")).collect();
    for name in &names {
        store.sampan(format!("create --name {name} --sandbox many -p 8000 web")).ok();
    }
    let all = names.join(" ");
    store.sampan(format!("start {all}")).ok();
    let ports = store
        .sampan(format!("inspect -f '{{{{(index (index .NetworkSettings.Ports \"8000/tcp\") 0).HostPort}}}}' {all}"))
        .ok();
    let ports: std::collections::BTreeSet<u16> = ports.lines().iter().map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports.len(), MANY, "each has a port of its own");
    for port in ports {
        sampan_tests::net::get(port, "/").expect(200);
    }
    assert_eq!(store.processes().len(), 2);
    // One after the other comes and goes, and nothing of them stays in the sandbox.
    let host = store.sampan("inspect -f {{.State.Pid}} box-0").ok().line();
    let descriptors = || std::fs::read_dir(format!("/proc/{host}/fd")).unwrap().count();
    let open = descriptors();
    for name in &names[1..300] {
        store.sampan(format!("restart {name}")).ok();
    }
    eventually("descriptors are given back", || descriptors() <= open + 10);
    let mounts = std::fs::read_to_string(format!("/proc/{host}/mountinfo")).unwrap();
    assert!(mounts.lines().filter(|line| line.contains("/trees/")).count() <= MANY + 10);
    store.sampan(format!("rm -f {all}")).ok();
    eventually("nothing is left", || store.tree() == before && store.processes().is_empty());
}

#[test]
#[ignore = "long: hundreds of containers"]
fn hundreds_of_short_runs_side_by_side_leave_nothing() {
    let store = Store::fresh(&["hello"]);
    store.sampan("run --rm hello").ok();
    let before = store.tree();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    store.sampan("run --rm -v /data hello").ok().stdout_is("Hello from Sampan!\n").stderr_is("");
                }
            });
        }
    });
    eventually("nothing is left", || store.tree() == before && store.processes().is_empty());
}

#[test]
#[ignore = "long: a hundred megabytes"]
fn a_hundred_megabytes_of_log_are_all_there() {
    const LINES: usize = 1_500_000;
    let store = Store::fresh(&["probe"]);
    store.sampan(format!("run -d --name box probe lines {LINES}")).ok();
    let follow = store.shell("sampan logs -f box | tail -n 1").start();
    store.sampan("wait box").ok().stdout_is("0\n");
    let last = format!("line {LINES}\n");
    follow.finish().ok().stdout_is(&last);
    let log = store.sampan("inspect -f {{.LogPath}} box").ok().line();
    assert!(std::fs::metadata(log).unwrap().len() > 100_000_000);
    store.shell("sampan logs box | wc -l").ok().stdout_is(&format!("{LINES}\n"));
    let sums = store.shell(&format!("sampan logs box | sha256sum; seq -f 'line %.0f' {LINES} | sha256sum")).ok();
    assert_eq!(sums.lines()[0], sums.lines()[1]);
    store.sampan("logs --tail 1 box").ok().stdout_is(&last);
}

#[test]
#[ignore = "long: two hundred restarts"]
fn a_service_is_restarted_two_hundred_times_on_one_port() {
    let store = Store::fresh(&["web"]);
    let port = sampan_tests::net::free_port();
    store.sampan(format!("run -d --name box -p {port}:8000 web")).ok();
    for n in 0..200 {
        let mut http = Http::connect(port);
        http.send("GET", "/", b"");
        http.answer().expect(200);
        // With a connection that lingers.
        store.sampan(if n % 2 == 0 { "stop box" } else { "kill box" }).ok();
        store.sampan("start box").ok();
    }
}

#[test]
#[ignore = "long: twenty thousand requests"]
fn a_service_does_not_grow_with_its_requests() {
    let store = Store::fresh(&["web", "web3"]);
    for image in ["web", "web3"] {
        let web = store.detached(format!("-p 8000 {image}"));
        let (port, host) = (web.port("8000"), web.host());
        let memory = || {
            let text = std::fs::read_to_string(format!("/proc/{host}/smaps_rollup")).unwrap();
            let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let ask = |times: usize| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut http = Http::connect(port);
                        for _ in 0..times {
                            http.send("GET", "/", b"");
                            http.answer().expect(200);
                        }
                    });
                }
            });
        };
        ask(500);
        let before = memory();
        ask(2000);
        let after = memory();
        assert!(after < before + 20_000, "{image} has grown from {before} to {after} KiB");
    }
}
