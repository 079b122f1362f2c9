//! `--sandbox`: containers that share a sandbox.

use rustix::process::Signal;
use sampan_tests::command::kill;
use sampan_tests::container::Strike;
use sampan_tests::{Container, Dir, Store, eventually, net, until};
use std::collections::BTreeSet;
use std::path::Path;

/// A name for a sandbox that no other test has.
fn sandbox(container: &Container<'_>) -> String {
    format!("s-{container}")
}

/// So many containers in a sandbox of their own.
fn several<'a>(store: &'a Store, count: usize, line: &str) -> Vec<Container<'a>> {
    let all: Vec<_> = (0..count).map(|_| store.container("dense")).collect();
    let name = sandbox(&all[0]);
    for container in &all {
        store.sampan(format!("run -d --name {container} --sandbox {name} {line}")).ok();
    }
    all
}

fn names(all: &[Container<'_>]) -> String {
    all.iter().map(|container| container.name().to_owned()).collect::<Vec<_>>().join(" ")
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn place(store: &Store, container: &Container<'_>) -> std::path::PathBuf {
    store.run_dir().join("shared").join(sandbox(container))
}

#[test]
fn services_share_two_processes_and_each_has_its_port() {
    let store = Store::shared(&["web"]);
    let all = several(store, 30, "-p 8000 web");
    let processes: BTreeSet<_> = all.iter().map(|web| (web.host(), web.keeper())).collect();
    assert_eq!(processes.len(), 1);
    let ports: BTreeSet<u16> = all.iter().map(|web| web.port("8000")).collect();
    assert_eq!(ports.len(), all.len());
    for port in ports {
        net::get(port, "/").expect(200);
    }
    assert_eq!(all[3].inspect("{{.Sampan.Sandbox}}"), sandbox(&all[0]));
    assert_eq!(all[3].inspect("{{(index .Sampan.Fences \"seccomp\").Stands}}"), "true");
    // Each has its own log.
    let logged = |web: &Container<'_>| web.logs().stderr.matches("GET /").count();
    eventually("each has logged its request", || all.iter().all(|web| logged(web) == 1));
    store.sampan(format!("stop {}", names(&all))).ok();
    assert!(all.iter().all(|web| web.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 0"));
    let (host, keeper) = processes.into_iter().next().unwrap();
    eventually("the sandbox has ended", || !is_there(host) && !is_there(keeper));
    assert!(!place(store, &all[0]).exists());
}

#[test]
fn one_is_stopped_killed_or_removed_and_its_neighbours_go_on() {
    let store = Store::shared(&["web", "probe"]);
    let web = several(store, 4, "-p 8000 web");
    let name = sandbox(&web[0]);
    let spin = store.container("dense");
    store.sampan(format!("run -d --name {spin} --sandbox {name} probe spin")).ok();
    store.sampan(format!("stop {}", web[0])).ok();
    store.sampan(format!("kill {}", web[1])).ok();
    store.sampan(format!("rm -f {}", web[2])).ok();
    store.sampan(format!("stop {spin}")).ok();
    assert_eq!(web[0].inspect("{{.State.ExitCode}}"), "0");
    assert_eq!(web[1].inspect("{{.State.ExitCode}}"), "137");
    assert_eq!(spin.inspect("{{.State.ExitCode}}"), "143");
    assert!(!web[2].exists());
    net::get(web[3].port("8000"), "/").expect(200);
    // They come back into the sandbox that there is.
    store.sampan(format!("start {} {} {spin}", web[0], web[1])).ok();
    assert_eq!((web[0].host(), spin.host()), (web[3].host(), web[3].host()));
    net::get(web[0].port("8000"), "/").expect(200);
    store.sampan(format!("restart -t 0 {spin}")).ok();
    assert_eq!(spin.status(), "running");
}

#[test]
fn a_sandbox_is_made_once_however_many_want_it() {
    let store = Store::shared(&["probe"]);
    for _ in 0..5 {
        let all: Vec<_> = (0..8).map(|_| store.container("dense")).collect();
        let name = sandbox(&all[0]);
        std::thread::scope(|scope| {
            for container in &all {
                let line = format!("run -d --name {container} --sandbox {name} probe forever");
                scope.spawn(move || store.sampan(line).ok());
            }
        });
        let hosts: BTreeSet<u32> = all.iter().map(Container::host).collect();
        assert_eq!(hosts.len(), 1);
        // While some end, others come.
        std::thread::scope(|scope| {
            for container in &all {
                scope.spawn(move || {
                    store.sampan(format!("kill {container}")).ok();
                    store.sampan(format!("start {container}")).ok();
                });
            }
        });
        assert!(all.iter().all(|container| container.status() == "running"));
        assert_eq!(all.iter().map(Container::host).collect::<BTreeSet<u32>>().len(), 1);
    }
}

#[test]
fn of_a_killed_sandbox_all_have_exited_with_137_and_start_again() {
    let store = Store::shared(&["web", "probe"]);
    for who in [Strike::Host, Strike::Keeper, Strike::Both] {
        let all = several(store, 5, "-p 8000 web");
        let (host, keeper) = (all[0].host(), all[0].keeper());
        all[2].strike(who);
        eventually("its processes are gone", || !is_there(host) && !is_there(keeper));
        for web in &all {
            assert_eq!(web.inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 137", "{who:?}");
        }
        assert!(!place(store, &all[0]).exists(), "{who:?}");
        store.sampan(format!("start {}", names(&all))).ok();
        assert_eq!(all.iter().map(Container::host).collect::<BTreeSet<u32>>().len(), 1);
        all.iter().for_each(|web| drop(net::get(web.port("8000"), "/").expect(200)));
    }
}

#[test]
fn who_hangs_in_a_call_of_the_host_is_given_up_and_its_neighbours_go_on() {
    let store = Store::shared(&["probe", "web"]);
    let dir = Dir::new();
    let fifo = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let web = several(store, 1, "-p 8000 web");
    let name = sandbox(&web[0]);
    for (end, code) in [("kill", 137), ("stop -t 1", 143), ("rm -f", 0)] {
        let stuck = store.container("dense");
        store
            .sampan(format!("run -d --name {stuck} --sandbox {name} -v {}:/fifo probe cat /fifo", fifo.display()))
            .ok();
        let begun = std::time::Instant::now();
        store.sampan(format!("{end} {stuck}")).ok();
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{end}");
        if stuck.exists() {
            let state = stuck.inspect("{{.State.ExitCode}} {{.State.Error}}");
            assert!(state.starts_with(&format!("{code} ")) && state.contains("abandoned"), "{end}: {state}");
        }
        net::get(web[0].port("8000"), "/").expect(200);
    }
    let host = web[0].host();
    store.sampan(format!("stop {}", web[0])).ok();
    eventually("the abandoned go with their sandbox", || !is_there(host));
}

#[test]
fn everything_works_on_one_of_several() {
    let store = Store::shared(&["probe", "toolbox"]);
    let all = several(store, 2, "probe forever");
    let name = sandbox(&all[0]);
    let one = store.container("dense");
    let line = format!("run -d --name {one} --sandbox {name} -m 64m --cpus 0.5 -v /data probe forever");
    store.sampan(line).ok();
    one.says("ready");
    store.sampan(format!("exec {one} sh -c 'echo hi > /data/x; cat /data/x'")).ok().stdout_is("hi\n");
    let dir = Dir::new().file("from", "outside\n");
    store.sampan(format!("cp {} {one}:/to", dir.join("from").display())).ok();
    store.sampan(format!("exec {one} cat /to")).ok().stdout_is("outside\n");
    store.sampan(format!("exec {} cat /to", all[0])).fails(1);
    store.sampan(format!("stats --no-stream --format {{{{.Name}}}} {one}")).ok().stdout_is(&format!("{one}\n"));
    let wait = store.sampan(format!("wait {one}")).start();
    store.sampan(format!("kill {one}")).ok();
    wait.finish().ok().stdout_is("137\n");
    store.sampan(format!("logs {one}")).ok().stdout_has("ready");
    assert!(all.iter().all(|container| container.status() == "running"));
}

#[test]
fn in_the_foreground_too() {
    let store = Store::shared(&["probe", "toolbox"]);
    let stays = several(store, 1, "probe forever");
    for name in [sandbox(&stays[0]), "alone-in-front".to_owned()] {
        store.sampan(format!("run --rm --sandbox {name} probe exit 7")).fails(7);
        store.sampan(format!("run --rm --sandbox {name} probe args one two")).ok().stdout_has("two");
        let cat = store.sampan(format!("run --rm -i --sandbox {name} toolbox cat")).stdin("typed\n");
        cat.ok().stdout_is("typed\n");
        let _ = store.sampan(format!("run --rm --sandbox {name} probe nonsense")).run();
    }
    eventually("the sandbox has ended", || !store.run_dir().join("shared/alone-in-front").exists());
}

#[test]
fn what_cannot_share_is_refused() {
    let store = Store::shared(&["probe", "web"]);
    for restart in ["--restart always", "--restart on-failure", "--health-cmd true --health-on-failure restart"] {
        let refused = store.sampan(format!("run -d --sandbox xx {restart} probe forever")).fails(125);
        refused.stderr_has("--sandbox xx and --");
    }
    store.sampan("run -d --sandbox ../x probe").fails(125).stderr_has("invalid sandbox name");
    let all = several(store, 2, "-p 8000 web");
    store.sampan(format!("update --restart always {}", all[0])).fails(1).stderr_has("contradict");
    store.sampan(format!("pause {}", all[0])).fails(1).stderr_has("shares its sandbox");
    let other = store.container("dense");
    let taken = format!("run -d --name {other} --sandbox {} -p {}:8000 web", sandbox(&all[0]), all[0].port("8000"));
    store.sampan(taken).fails(125).stderr_has("already in use");
    assert!(!other.exists());
    let broken = format!("run -d --name {other} --sandbox {} probe-nowhere", sandbox(&all[0]));
    store.sampan(broken).fails(125);
    net::get(all[1].port("8000"), "/").expect(200);
}

#[test]
fn nothing_is_left_of_a_sandbox() {
    let store = Store::fresh(&["web", "probe"]);
    store.sampan("run -d --name first probe forever").ok();
    store.sampan("rm -f first").ok();
    let before = store.tree();
    for end in ["stop -t 2", "kill", "rm -f -v"] {
        for n in 0..5 {
            store.sampan(format!("run -d --name c{n} --sandbox box -v /data -p 8000 web")).ok();
        }
        store.sampan("run --rm --sandbox box probe args").ok();
        store.sampan(format!("{end} c0 c1 c2 c3 c4")).ok();
        store.sampan("rm -f -v c0 c1 c2 c3 c4").ok();
        until("nothing is left", || (store.tree() == before && store.processes().is_empty()).then_some(()));
    }
}

#[test]
fn a_client_that_dies_leaves_no_sandbox_behind_for_long() {
    let store = Store::shared(&["probe"]);
    let container = store.container("dense");
    let name = sandbox(&container);
    let run = store.sampan(format!("run --name {container} --sandbox {name} probe forever")).start();
    run.says("ready");
    kill(run.pid(), Signal::KILL);
    // As with any other, the container goes on without who looked on.
    assert_eq!(container.status(), "running");
    store.sampan(format!("rm -f {container}")).ok();
    eventually("the sandbox has ended", || !place(store, &container).exists());
}
