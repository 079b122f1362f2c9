//! Processes killed from outside: the truth is told afterwards, and everything works again.

use rustix::process::Signal;
use sampan_tests::command::kill;
use sampan_tests::container::Strike;
use sampan_tests::{Container, Store, eventually, net};

/// A service whose sandbox has been struck, once it is seen to be over.
fn struck(store: &'static Store, who: Strike) -> Container<'static> {
    let web = store.detached("-p 8000 web");
    let (port, host) = (web.port("8000"), web.host());
    net::get(port, "/").expect(200);
    eventually("its log is written", || web.logs().stderr.contains("GET /"));
    web.strike(who);
    eventually("it is over", || web.status() == "exited");
    eventually("its host is gone", || !std::path::Path::new(&format!("/proc/{host}")).exists());
    assert!(!net::is_open(port));
    web
}

const EACH: [Strike; 3] = [Strike::Host, Strike::Keeper, Strike::Both];

#[test]
fn a_killed_sandbox_has_exited_with_137() {
    let store = Store::shared(&["web"]);
    for who in EACH {
        let web = struck(store, who);
        assert_eq!(web.inspect("{{.State.ExitCode}} {{.State.Running}} {{.State.Pid}}"), "137 false 0", "{who:?}");
        let row = store.sampan(format!("ps -a --filter name={web} --format {{{{.Status}}}}")).ok().line();
        assert!(row.starts_with("Exited (137) "), "{who:?}: {row}");
        store.sampan(format!("ps -q --filter name={web}")).ok().stdout_is("");
    }
}

#[test]
fn a_killed_container_works_on_with_every_command() {
    let store = Store::shared(&["web"]);
    for who in EACH {
        let web = struck(store, who);
        store.sampan(format!("wait {web}")).ok().stdout_is("137\n");
        store.sampan(format!("stop {web}")).ok();
        web.logs().stderr_has("GET /");
        store.sampan(format!("start {web}")).ok();
        net::get(web.port("8000"), "/").expect(200);
        assert_eq!(web.status(), "running");
        web.strike(who);
        eventually("it is over", || web.status() == "exited");
        store.sampan(format!("rm {web}")).ok();
        assert!(!web.exists());
    }
}

#[test]
fn a_killed_container_is_removed_or_started_as_the_first_thing_after() {
    let store = Store::shared(&["web"]);
    for who in EACH {
        for command in ["rm -f", "start", "stop", "logs", "port", "wait", "inspect"] {
            let web = store.detached("-p 8000 web");
            web.strike(who);
            store.sampan(format!("{command} {web}")).ok();
        }
    }
}

#[test]
fn those_who_wait_for_a_container_are_told_of_its_death() {
    let store = Store::shared(&["probe"]);
    for who in EACH {
        let container = store.detached("probe forever");
        let wait = store.sampan(format!("wait {container}")).start();
        let logs = store.sampan(format!("logs -f {container}")).start();
        logs.says("ready");
        container.strike(who);
        wait.finish().ok().stdout_is("137\n");
        logs.finish().ok();
    }
}

#[test]
fn a_killed_foreground_run_leaves_a_container_that_has_exited() {
    let store = Store::shared(&["probe"]);
    let container = store.container("killed");
    let run = store.sampan(format!("run --name {container} probe forever")).start();
    run.says("ready");
    eventually("its state is written", || container.status() == "running");
    let host = container.host();
    run.signal(Signal::KILL);
    run.finish().fails(-9);
    eventually("its host is gone", || !std::path::Path::new(&format!("/proc/{host}")).exists());
    assert_eq!((container.status(), container.wait()), ("exited".into(), 137));
}

#[test]
fn a_killed_host_ends_the_foreground_run_with_137() {
    let store = Store::shared(&["probe"]);
    let container = store.container("killed");
    let run = store.sampan(format!("run --name {container} probe forever")).start();
    run.says("ready");
    eventually("its state is written", || container.status() == "running");
    container.strike(Strike::Host);
    run.finish().fails(137);
    assert_eq!(container.wait(), 137);
}

#[test]
fn a_killed_container_with_rm_can_be_removed_and_its_name_is_free() {
    let store = Store::shared(&["probe"]);
    for who in EACH {
        let container = store.detached("--rm -v /data probe forever");
        container.strike(who);
        // Its keeper may have lived to remove it, or not.
        let running = format!("ps -q --filter name={container}");
        eventually("it is over", || store.sampan(&running).ok().stdout.is_empty());
        store.sampan(format!("rm -f -v {container}")).ok();
        store.sampan(format!("run --rm --name {container} probe args")).ok();
    }
}

#[test]
fn what_a_container_had_written_before_it_was_killed_is_in_its_log() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    container.says("ready");
    container.strike(Strike::Both);
    eventually("it is over", || container.status() == "exited");
    container.logs().stdout_is("ready\n");
}

#[test]
fn a_host_that_is_frozen_is_killed_when_its_grace_is_over() {
    let store = Store::shared(&["web"]);
    for end in ["stop --time 1", "kill", "rm -f"] {
        let web = store.detached("-p 8000 web");
        kill(web.host(), Signal::STOP);
        store.sampan(format!("{end} {web}")).ok();
        assert!(end == "rm -f" || web.wait() == 137);
    }
}
