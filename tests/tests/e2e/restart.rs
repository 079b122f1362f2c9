//! Restart policies, and what a person does to a container that runs.

use sampan_tests::container::Strike;
use sampan_tests::{Container, Store, eventually, net};

fn made<'a>(store: &'a Store, flags: &str) -> Container<'a> {
    store.detached(flags)
}

fn restarts(container: &Container<'_>) -> u32 {
    container.inspect("{{.RestartCount}}").parse().unwrap()
}

#[test]
fn a_policy_is_shown_and_a_bad_one_refused() {
    let store = Store::shared(&["probe"]);
    let container = made(store, "--restart on-failure:5 probe forever");
    assert_eq!(
        container.inspect("{{json .HostConfig.RestartPolicy}}"),
        r#"{"MaximumRetryCount":5,"Name":"on-failure"}"#
    );
    for bad in ["sometimes", "always:3", "on-failure:many"] {
        store.sampan(format!("run --restart {bad} probe")).fails(125).stderr_has("unless-stopped");
    }
    store.sampan("run --rm --restart always probe").fails(125).stderr_has("--rm and --restart contradict");
}

#[test]
fn what_fails_is_started_again_so_many_times() {
    let store = Store::shared(&["probe"]);
    let container = made(store, "--restart on-failure:2 probe exit 3");
    // Between two tries it is seen as exited for the moment that a start takes.
    eventually("it is given up", || container.status() == "exited" && restarts(&container) == 2);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "3");
    // A person's start begins anew.
    let _ = store.sampan(format!("start {container}")).run();
    eventually("it is given up again", || container.status() == "exited" && restarts(&container) == 2);
}

#[test]
fn what_ends_well_is_started_again_only_where_that_is_wanted() {
    let store = Store::shared(&["probe"]);
    let content = made(store, "--restart on-failure probe args done");
    let busy = made(store, "--restart always probe args done");
    eventually("it was started again twice", || busy.logs().stdout.matches("done").count() > 2);
    assert_eq!((content.status().as_str(), restarts(&content)), ("exited", 0));
    store.sampan(format!("rm -f {busy}")).ok();
    assert!(!busy.exists());
}

#[test]
fn a_killed_host_is_started_again_with_its_ports() {
    let store = Store::shared(&["web"]);
    let web = made(store, "--restart unless-stopped -p 8000 web");
    let (host, keeper) = (web.host(), web.keeper());
    web.strike(Strike::Host);
    eventually("it runs again", || {
        let pid: u32 = web.inspect("{{.State.Pid}}").parse().unwrap();
        pid != 0 && pid != host
    });
    net::get(web.port("8000"), "/").expect(200);
    assert_eq!((web.keeper(), restarts(&web)), (keeper, 1));
    store.sampan(format!("stop {web}")).ok();
    assert_eq!(web.status(), "exited");
}

#[test]
fn what_was_stopped_or_killed_by_a_person_stays_so() {
    let store = Store::shared(&["probe"]);
    for (end, code) in [("stop", "143"), ("kill", "137"), ("stop -t 0", "137")] {
        let container = made(store, "--restart always probe forever");
        store.sampan(format!("{end} {container}")).ok();
        assert_eq!(container.inspect("{{.State.Status}} {{.State.ExitCode}}"), format!("exited {code}"), "{end}");
        store.sampan(format!("rm {container}")).ok();
    }
}

/// One whose next start is far away.
fn waiting(store: &Store) -> Container<'_> {
    let container = made(store, "--restart always probe exit 1");
    eventually("its pauses are long", || restarts(&container) > 5 && container.status() == "restarting");
    container
}

#[test]
fn one_that_waits_is_listed_and_its_start_is_called_off() {
    let store = Store::shared(&["probe"]);
    for command in ["stop", "kill", "rm -f"] {
        let container = waiting(store);
        let row = store.sampan(format!("ps --filter name={container} --format {{{{.Status}}}}")).ok().line();
        assert!(row.starts_with("Restarting (1) "), "{row}");
        assert_eq!(container.inspect("{{.State.Running}} {{.State.Restarting}}"), "true true");
        store.sampan(format!("rm {container}")).fails(1).stderr_has("is running");
        store.sampan(format!("{command} {container}")).ok();
        assert_eq!(container.exists(), command != "rm -f");
        if container.exists() {
            assert_eq!(container.status(), "exited");
            store.sampan(format!("rm {container}")).ok();
        }
    }
}

#[test]
fn a_keeper_that_is_killed_while_it_waits_leaves_an_ended_container() {
    let store = Store::shared(&["probe"]);
    let container = waiting(store);
    let keeper = container.inspect("{{.Sampan.Keeper}}").parse().unwrap();
    sampan_tests::command::kill(keeper, rustix::process::Signal::KILL);
    eventually("it is over", || container.status() == "exited");
    store.sampan("system restore").ok().stdout_has(container.name());
    eventually("it is tried again", || container.logs().code == 0 && container.status() != "exited");
}

#[test]
fn the_system_restores_what_should_run() {
    let store = Store::fresh(&["probe"]);
    let run = |flags: &str| made(&store, &format!("{flags} probe forever"));
    let (always, unless, failing, none) =
        (run("--restart always"), run("--restart unless-stopped"), run("--restart on-failure"), run(""));
    let stopped = run("--restart unless-stopped");
    let stopped_always = run("--restart always");
    store.sampan(format!("stop {stopped} {stopped_always}")).ok();
    for container in [&always, &unless, &failing, &none] {
        container.strike(Strike::Both);
    }
    for container in [&always, &unless, &failing, &none] {
        eventually("it is over", || container.status() == "exited");
    }
    let restored = store.sampan("system restore").ok().stdout;
    for (container, runs) in
        [(&always, true), (&unless, true), (&failing, true), (&none, false), (&stopped, false), (&stopped_always, true)]
    {
        assert_eq!(restored.contains(container.name()), runs, "{restored}");
        assert_eq!(container.status(), if runs { "running" } else { "exited" });
    }
    store.sampan("system restore").ok().stdout_is("");
    store.sampan("system install --print").ok().stdout_has("system restore\n").stdout_has("[Install]");
}

#[test]
fn a_policy_is_changed_while_the_container_runs() {
    let store = Store::shared(&["probe"]);
    let container = made(store, "--restart always probe forever");
    store.sampan(format!("update --restart no {container}")).ok().stdout_is(&format!("{container}\n"));
    container.strike(Strike::Host);
    eventually("it stays ended", || container.status() == "exited");
    store.sampan(format!("update {container}")).fails(1).stderr_has("--restart");
    let temporary = made(store, "--rm probe forever");
    store.sampan(format!("update --restart always {temporary}")).fails(1).stderr_has("--rm");
}

#[test]
fn a_container_in_the_foreground_is_started_again_and_ctrl_c_ends_it() {
    let store = Store::shared(&["probe"]);
    let container = store.container("again");
    let run = store.sampan(format!("run --restart on-failure:3 --name {container} probe exit 4")).start();
    run.finish().fails(4);
    assert_eq!((container.status().as_str(), restarts(&container)), ("exited", 3));
    let other = store.container("again");
    let run = store.sampan(format!("run --restart always --name {other} probe args said")).start();
    eventually("it was started again", || other.exists() && restarts(&other) > 3);
    run.signal(rustix::process::Signal::INT);
    let output = run.finish();
    assert!(output.stdout.matches("said").count() > 3, "{output}");
    eventually("it is over", || other.status() == "exited");
}

#[test]
fn restart_stops_and_starts() {
    let store = Store::shared(&["web"]);
    let (web, stopped) = (made(store, "-p 8000 web"), made(store, "web"));
    store.sampan(format!("stop {stopped}")).ok();
    let host = web.host();
    store.sampan(format!("restart {web} {stopped}")).ok();
    assert!(web.host() != host && stopped.status() == "running");
    net::get(web.port("8000"), "/").expect(200);
    store.sampan("restart nobody").fails(1).stderr_has("nobody");
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    let store = Store::shared(&["web"]);
    let web = made(store, "-p 8000 web");
    let port = web.port("8000");
    store.sampan(format!("pause {web}")).ok().stdout_is(&format!("{web}\n"));
    assert_eq!(web.inspect("{{.State.Status}} {{.State.Paused}} {{.State.Running}}"), "paused true true");
    let row =
        store.sampan(format!("ps --filter status=paused --filter name={web} --format {{{{.Status}}}}")).ok().line();
    assert!(row.ends_with("(Paused)"), "{row}");
    store.sampan(format!("pause {web}")).fails(1).stderr_has("is paused");
    store.sampan(format!("exec {web} true")).fails(126).stderr_has("is paused");
    store.sampan(format!("stats --no-stream {web}")).ok().stdout_has(web.name());
    let asked = std::thread::spawn(move || net::get(port, "/"));
    store.sampan(format!("unpause {web}")).ok();
    asked.join().unwrap().expect(200);
    store.sampan(format!("unpause {web}")).fails(1).stderr_has("cannot be unpaused");
    assert_eq!(web.status(), "running");
    store.sampan(format!("stop {web}")).ok();
    store.sampan(format!("pause {web}")).fails(1).stderr_has("is not running");
}

#[test]
fn a_paused_container_is_stopped_killed_and_removed() {
    let store = Store::shared(&["probe"]);
    for (command, code) in [("stop", "143"), ("kill", "137")] {
        let container = made(store, "probe forever");
        store.sampan(format!("pause {container}")).ok();
        store.sampan(format!("{command} {container}")).ok();
        assert_eq!(container.inspect("{{.State.Status}} {{.State.ExitCode}}"), format!("exited {code}"));
    }
    let container = made(store, "probe forever");
    store.sampan(format!("pause {container}")).ok();
    store.sampan(format!("rm -f {container}")).ok();
    assert!(!container.exists());
}
