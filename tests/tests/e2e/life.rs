//! A container's life: background and foreground, stop, kill, wait, start, rm.

use rustix::process::Signal;
use sampan_tests::files::unique;
use sampan_tests::net::{self, Http};
use sampan_tests::{Store, eventually, tree};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_container_in_the_background_outlives_all_that_started_it() {
    let store = Store::shared(&["web"]);
    let web = store.container("outlives");
    // A session of its own whose processes are all killed, as when a terminal goes away the hard way.
    let script = format!("setsid --wait sh -c 'sampan run -d --name {web} -p 8000 web; kill -9 0'");
    let id = store.shell(&script).run().line();
    assert_eq!(id, web.id());
    net::get(web.port("8000"), "/").expect(200);
}

#[test]
fn a_container_in_the_background_holds_nothing_of_its_caller() {
    let store = Store::shared(&["probe"]);
    // Command substitution waits until nobody holds its pipe any more; the harness looks at the same.
    let container = store.container("holds");
    let script = format!("id=$(sampan run -d --name {container} probe forever 2>&1); echo \"$id\"");
    assert_eq!(store.shell(&script).ok().line(), container.id());
    let keeper = container.keeper();
    for fd in 0..3 {
        assert_eq!(std::fs::read_link(format!("/proc/{keeper}/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
    }
    assert_eq!(std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn an_idle_service_is_stopped_at_once_with_0() {
    let store = Store::shared(&["web", "web3"]);
    for image in ["web", "web3"] {
        let web = store.detached(format!("-p 8000 {image}"));
        net::get(web.port("8000"), "/").expect(200);
        // A client that keeps its connection open and asks nothing is no reason to wait.
        let mut idle = Http::connect(web.port("8000"));
        idle.send("GET", "/", b"");
        idle.answer().expect(200);
        let begun = Instant::now();
        store.sampan(format!("stop {web}")).ok().stdout_is(&format!("{web}\n"));
        assert!(begun.elapsed() < Duration::from_secs(5), "it had ten seconds, and took {:?}", begun.elapsed());
        assert_eq!((web.status(), web.wait()), ("exited".into(), 0));
    }
}

#[test]
fn a_request_in_hand_is_answered_before_the_service_stops() {
    let store = Store::shared(&["web", "web3"]);
    for image in ["web", "web3"] {
        let web = store.detached(format!("-p 8000 {image}"));
        let port = web.port("8000");
        let mut http = Http::connect(port);
        http.send("GET", "/slow?ms=1500", b"");
        eventually("the request is in hand", || web.logs().stderr.contains("GET /slow"));
        let stop = store.sampan(format!("stop {web}")).start();
        assert_eq!(http.answer().expect(200).text(), "waited 1500 ms\n");
        stop.finish().ok();
        assert_eq!(web.wait(), 0);
        assert!(!net::is_open(port));
    }
}

#[test]
fn a_request_that_takes_longer_than_the_grace_is_cut_off() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let mut http = Http::connect(web.port("8000"));
    http.send("GET", "/slow?ms=600000", b"");
    eventually("the request is in hand", || web.logs().stderr.contains("GET /slow"));
    store.sampan(format!("stop --time 1 {web}")).ok();
    assert_eq!(web.wait(), 137);
}

#[test]
fn a_program_that_computes_or_sleeps_is_stopped_with_143() {
    let store = Store::shared(&["probe", "probe-component"]);
    for guest in ["probe spin", "probe forever", "probe-component spin", "probe-component forever"] {
        let container = store.detached(guest);
        let begun = Instant::now();
        store.sampan(format!("stop {container}")).ok();
        assert!(begun.elapsed() < Duration::from_secs(5), "{guest} had ten seconds, and took {:?}", begun.elapsed());
        assert_eq!(container.wait(), 143, "{guest}");
    }
}

#[test]
fn a_program_that_reads_sees_the_end_of_its_input_and_ends_as_it_likes() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("-i probe stdin");
    assert_eq!(container.status(), "running");
    store.sampan(format!("stop {container}")).ok();
    assert_eq!(container.wait(), 0);
}

#[test]
fn a_server_of_sockets_is_gone_after_stop() {
    let store = Store::shared(&["tcp", "p3"]);
    for guest in ["tcp", "p3 tcp"] {
        let tcp = store.detached(format!("-p 7000 {guest}"));
        tcp.says("listening on");
        let port = tcp.port("7000");
        store.sampan(format!("stop --time 2 {tcp}")).ok();
        assert_eq!(tcp.status(), "exited");
        assert!(!net::is_open(port));
        // What it says of its closed socket is no flood.
        assert!(tcp.logs().stderr.len() < 100_000, "{} bytes", tcp.logs().stderr.len());
    }
}

#[test]
fn no_grace_and_kill_are_137() {
    let store = Store::shared(&["probe", "web"]);
    for guest in ["probe spin", "probe forever", "web"] {
        for command in ["stop --time 0", "stop -t 0", "kill", "kill -s SIGKILL", "kill --signal 9"] {
            let container = store.detached(guest);
            store.sampan(format!("{command} {container}")).ok().stdout_is(&format!("{container}\n"));
            assert_eq!((container.status(), container.wait()), ("exited".into(), 137), "{command} {guest}");
        }
    }
}

#[test]
fn kill_with_a_gentle_signal_asks_as_stop_does() {
    let store = Store::shared(&["probe"]);
    for signal in ["TERM", "SIGINT", "1", "QUIT"] {
        let container = store.detached("probe forever");
        store.sampan(format!("kill -s {signal} {container}")).ok();
        assert_eq!(container.wait(), 143);
    }
}

#[test]
fn the_grace_of_a_container_is_its_own() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --stop-timeout 1 web");
    let mut http = Http::connect(web.port("8000"));
    http.send("GET", "/slow?ms=600000", b"");
    eventually("the request is in hand", || web.logs().stderr.contains("GET /slow"));
    let begun = Instant::now();
    store.sampan(format!("stop {web}")).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(web.wait(), 137);
}

#[test]
fn to_stop_what_does_not_run_is_no_mistake() {
    let store = Store::shared(&["probe"]);
    let container = store.container("stopped");
    store.sampan(format!("create --name {container} probe exit 3")).ok();
    store.sampan(format!("stop {container}")).ok();
    assert_eq!(container.status(), "created");
    store.sampan(format!("start -a {container}")).fails(3);
    store.sampan(format!("stop {container}")).ok();
    assert_eq!(container.wait(), 3);
}

#[test]
fn several_are_stopped_and_removed_by_one_command_and_one_failure_fails_it() {
    let store = Store::shared(&["probe"]);
    let (one, other) = (store.detached("probe forever"), store.detached("probe forever"));
    let both = format!("{one}\n{other}\n");
    let failed = store.sampan(format!("stop {one} nobody-here {other}")).fails(1);
    failed.stdout_is(&both).stderr_has("no such container: nobody-here");
    store.sampan(format!("rm {one} {other}")).ok().stdout_is(&both);
    assert!(!one.exists() && !other.exists());
}

#[test]
fn wait_returns_when_the_container_ends_and_prints_its_code() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("-i probe stdin");
    let mut waiting = store.sampan(format!("wait {container}")).start();
    let second = store.sampan(format!("wait {container} {container}")).start();
    assert!(waiting.is_running());
    store.sampan(format!("kill {container}")).ok();
    waiting.finish().ok().stdout_is("137\n");
    second.finish().ok().stdout_is("137\n137\n");
    store.sampan(format!("wait {container}")).ok().stdout_is("137\n");
}

#[test]
fn a_container_starts_again_after_every_way_to_end() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    for end in ["stop", "kill", "stop --time 0", "stop"] {
        store.sampan(format!("{end} {web}")).ok();
        assert_eq!(web.status(), "exited");
        store.sampan(format!("start {web}")).ok().stdout_is(&format!("{web}\n"));
        net::get(web.port("8000"), "/").expect(200);
    }
    // Started already is as good as started.
    let host = web.host();
    store.sampan(format!("start {web}")).ok();
    assert_eq!(web.host(), host);
}

#[test]
fn a_container_in_the_foreground_is_stopped_by_the_signals_of_a_terminal() {
    let store = Store::shared(&["probe", "web"]);
    for signal in [Signal::INT, Signal::TERM] {
        for (guest, code) in [("probe forever", 143), ("probe spin", 143), ("web", 0)] {
            let container = store.container("signal");
            let run = store.sampan(format!("run --name {container} {guest}")).start();
            eventually("it runs", || container.exists() && container.status() == "running");
            run.signal(signal);
            run.finish().fails(code);
            assert_eq!((container.status(), container.wait()), ("exited".into(), code));
        }
    }
}

#[test]
fn a_second_signal_means_now() {
    let store = Store::shared(&["web"]);
    let web = store.container("twice");
    let run = store.sampan(format!("run --name {web} -p 8000 web")).start();
    eventually("it runs", || web.exists() && web.status() == "running");
    let mut http = Http::connect(web.port("8000"));
    http.send("GET", "/slow?ms=600000", b"");
    eventually("the request is in hand", || web.logs().stderr.contains("GET /slow"));
    run.signal(Signal::INT);
    eventually("it takes no more", || !net::is_open(web.port("8000")));
    run.signal(Signal::INT);
    run.finish().fails(137);
}

#[test]
fn a_container_in_the_foreground_can_be_seen_and_stopped_from_elsewhere() {
    let store = Store::shared(&["probe"]);
    for (end, code) in [("stop", 143), ("kill", 137)] {
        let container = store.container("elsewhere");
        let run = store.sampan(format!("run --name {container} probe forever")).start();
        run.says("ready");
        store.sampan(format!("{end} {container}")).ok();
        run.finish().fails(code);
    }
}

#[test]
fn of_two_that_want_one_name_exactly_one_gets_it() {
    let store = Store::shared(&["probe"]);
    for _ in 0..5 {
        let container = store.container("both");
        let all: Vec<_> =
            (0..4).map(|_| store.sampan(format!("run -d --name {container} probe forever")).start()).collect();
        let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().map(|run| run.finish()).partition(|run| run.code == 0);
        assert_eq!(won.len(), 1, "{won:?} {lost:?}");
        assert_eq!(won[0].line(), container.id());
        for run in lost {
            run.fails(125)
                .stdout_is("")
                .stderr_has(&format!("{container}\" is already in use"))
                .stderr_has(&container.id()[..12]);
        }
    }
}

#[test]
fn of_several_that_start_one_container_exactly_one_runs_it() {
    let store = Store::shared(&["probe"]);
    let container = store.container("both");
    store.sampan(format!("create --name {container} probe forever")).ok();
    let mut all: Vec<_> = (0..4).map(|_| store.sampan(format!("start -a {container}")).start()).collect();
    eventually("one runs", || all.iter_mut().filter_map(|run| run.is_running().then_some(())).count() == 1);
    eventually("it is seen", || container.status() == "running");
    store.sampan(format!("kill {container}")).ok();
    let mut codes: Vec<i32> = all.into_iter().map(|run| run.finish().code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [125, 125, 125, 137]);
}

#[test]
fn many_commands_at_once_on_one_container_all_come_to_an_end() {
    let store = Store::shared(&["probe"]);
    for _ in 0..3 {
        let container = store.detached("probe forever");
        let all: Vec<_> = ["stop", "kill", "wait", "logs -f", "inspect", "stop", "rm -f", "kill", "rm -f", "start"]
            .map(|command| store.sampan(format!("{command} {container}")).start())
            .into();
        for command in all {
            // Who comes too late may be told so.
            let output = command.finish();
            assert!(matches!(output.code, 0 | 1 | 125), "{output}");
            assert!(!output.stderr.contains("panicked"), "{output}");
        }
        store.sampan(format!("rm -f {container}")).ok();
        assert!(!container.exists());
    }
}

#[test]
fn a_removal_by_force_comes_before_a_start_at_the_same_time() {
    let store = Store::shared(&["probe"]);
    for _ in 0..10 {
        let container = store.detached("probe forever");
        let removal = store.sampan(format!("rm -f {container}")).start();
        // The lock is free for a moment between the end and the removal.
        while container.exists() && store.sampan(format!("start {container}")).run().code != 0 {}
        removal.finish().ok();
        assert!(!container.exists());
    }
}

#[test]
fn what_runs_is_not_removed_unless_by_force() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    store.sampan(format!("rm {container}")).fails(1).stderr_has("is running").stderr_has("-f");
    assert_eq!(container.status(), "running");
    store.sampan(format!("rm -f {container}")).ok().stdout_is(&format!("{container}\n"));
    assert!(!container.exists());
}

#[test]
fn a_removed_containers_name_is_free() {
    let store = Store::shared(&["probe"]);
    let container = store.container("again");
    for n in 0..3 {
        store.sampan(format!("run --name {container} probe exit {n}")).fails(n);
        store.sampan(format!("run --name {container} probe args")).fails(125).stderr_has("already in use");
        store.sampan(format!("rm {container}")).ok();
    }
}

#[test]
fn a_container_with_rm_leaves_nothing_at_all() {
    let store = Store::fresh(&["probe", "web"]);
    store.sampan("run --rm probe args").ok();
    let before = store.tree();
    let same = |what: &str| {
        eventually(what, || store.tree() == before);
        eventually(what, || store.processes().is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&store.root().display().to_string()), "{what}: {mounts}");
        assert!(!mounts.contains(&store.run_dir().display().to_string()), "{what}: {mounts}");
    };
    store.sampan("run --rm -v /data probe write /data/f x").ok();
    same("after a good end");
    store.sampan("run --rm probe trap").fails(134);
    same("after a trap");
    store.sampan("run -d --rm probe exit 3").ok();
    same("after an end in the background");
    for end in ["stop", "kill", "rm -f"] {
        for guest in ["probe forever", "-p 8000 web"] {
            store.sampan(format!("run -d --rm --name box {guest}")).ok();
            store.sampan(format!("{end} box")).ok();
            same(&format!("after {end} of {guest}"));
        }
    }
    let run = store.sampan("run --rm probe forever").start();
    run.says("ready");
    run.signal(Signal::TERM);
    run.finish().fails(143);
    same("after a signal");
}

#[test]
fn a_container_that_has_ended_leaves_no_process_and_no_run_state() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    let (id, host, keeper) = (container.id(), container.host(), container.keeper());
    assert!(store.run_dir().join(&id[..12]).exists());
    store.sampan(format!("stop {container}")).ok();
    for pid in [host, keeper] {
        eventually("its processes are gone", || !Path::new(&format!("/proc/{pid}")).exists());
    }
    let left = tree(store.run_dir(), &[]).into_iter().find(|path| path.contains(&id[..12]));
    assert_eq!(left, None);
}

#[test]
fn names_ids_and_beginnings_of_ids_mean_the_same_everywhere() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let id = web.id();
    for name in [web.name(), &format!("/{web}"), &id, &id[..12], &id[..20]] {
        store.sampan(format!("inspect -f {{{{.Id}}}} {name}")).ok().stdout_is(&format!("{id}\n"));
        store.sampan(format!("port {name} 8000")).ok();
        store.sampan(format!("logs {name}")).ok();
        store.sampan(format!("stop {name}")).ok().stdout_is(&format!("{name}\n"));
        store.sampan(format!("wait {name}")).ok().stdout_is("0\n");
        store.sampan(format!("start {name}")).ok().stdout_is(&format!("{name}\n"));
        store.sampan(format!("kill {name}")).ok();
        store.sampan(format!("start {name}")).ok();
    }
    store.sampan(format!("rm -f {}", &id[..12])).ok();
    assert!(!web.exists());
}

#[test]
fn a_beginning_that_several_ids_have_is_refused() {
    let store = Store::fresh(&["hello"]);
    let mut digits = std::collections::BTreeMap::new();
    // Of seventeen ids two begin with the same digit.
    let twice = (0..17).find_map(|_| {
        let id = store.sampan("create hello").ok().line();
        let count = digits.entry(id[..1].to_owned()).or_insert(0);
        *count += 1;
        (*count == 2).then(|| id[..1].to_owned())
    });
    let twice = twice.unwrap();
    store.sampan(format!("inspect --type container {twice}")).fails(1).stderr_has("ambiguous");
    store.sampan(format!("rm {twice}")).fails(1).stderr_has("ids of 2 containers");
}

#[test]
fn a_name_goes_before_the_beginning_of_an_id() {
    let store = Store::fresh(&["hello"]);
    let id = store.sampan("create hello").ok().line();
    let other = store.sampan(format!("create --name {} hello", &id[..6])).ok().line();
    store.sampan(format!("inspect -f {{{{.Id}}}} {}", &id[..6])).ok().stdout_is(&format!("{other}\n"));
}

#[test]
fn a_container_without_a_name_is_given_one() {
    let store = Store::shared(&["hello"]);
    let label = format!("test={}", unique());
    let id = store.sampan(format!("create -l {label} hello")).ok().line();
    let name = store.sampan(format!("ps -a --filter label={label} --format {{{{.Names}}}}")).ok().line();
    assert!(name.contains('_'), "{name}");
    store.sampan(format!("rm {name}")).ok();
    store.sampan(format!("inspect {id}")).fails(1);
}
