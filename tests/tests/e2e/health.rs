//! Health checks.

use sampan_tests::{Container, Store, eventually};

const QUICK: &str = "--health-interval 50ms --health-retries 2";

fn health(container: &Container<'_>) -> String {
    container.inspect("{{.State.Health.Status}}")
}

#[test]
fn a_service_that_answers_is_healthy_by_http_and_tcp() {
    let store = Store::shared(&["web"]);
    for check in ["--health-http 8000/", "--health-tcp 8000"] {
        let web = store.detached(format!("-p 8000 {check} {QUICK} web"));
        eventually("it is healthy", || health(&web) == "healthy");
        let row = store
            .sampan(format!("ps --filter health=healthy --filter name={web} --format {{{{.Status}}}}"))
            .ok()
            .line();
        assert!(row.ends_with("(healthy)"), "{row}");
    }
}

#[test]
fn what_answers_badly_becomes_unhealthy_and_says_why() {
    let store = Store::shared(&["web"]);
    let web = store.detached(format!("-p 8000 --health-http 8000/none-such {QUICK} web"));
    eventually("it is unhealthy", || health(&web) == "unhealthy");
    let log = web.inspect("{{json .State.Health.Log}}");
    assert!(log.contains("HTTP/1.1 404") && log.contains(r#""ExitCode":1"#), "{log}");
    let told =
        store.sampan(format!("events --since 1m --until 0s --filter container={web} --format {{{{.Action}}}}")).ok();
    told.stdout_has("health_status: unhealthy");
    let closed = store.detached(format!("--health-tcp 7 {QUICK} web"));
    eventually("it is unhealthy", || health(&closed) == "unhealthy");
    assert!(closed.inspect("{{json .State.Health.Log}}").contains("publish it with -p"));
}

#[test]
fn a_command_in_the_container_is_asked() {
    let store = Store::shared(&["probe"]);
    let dir = sampan_tests::files::Dir::new();
    std::fs::write(
        dir.join("Dockerfile"),
        "FROM probe\nHEALTHCHECK --interval=50ms --retries=1 CMD [\"/probe.wasm\", \"cat\", \"/state\"]\n",
    )
    .unwrap();
    let image = format!("checked-{}", std::process::id());
    store.sampan(format!("build -q -t {image} {}", dir.path().display())).ok();
    let container = store.detached(format!("{image} forever"));
    eventually("it is unhealthy", || health(&container) == "unhealthy");
    store.sampan(format!("exec {container} /probe.wasm write /state fine")).ok();
    eventually("it is healthy", || health(&container) == "healthy");
    assert!(container.inspect("{{json .State.Health.Log}}").contains("fine"));
    let silent = store.detached(format!("--no-healthcheck {image} forever"));
    assert_eq!(silent.inspect("{{json .Config.Healthcheck}}"), "null");
    drop((container, silent));
    store.sampan(format!("rmi -f {image}")).ok();
}

#[test]
fn an_unhealthy_container_is_started_again_or_ended_where_that_is_wanted() {
    let store = Store::shared(&["probe"]);
    let sick =
        |action: &str| store.detached(format!("--health-tcp 7 {QUICK} --health-on-failure {action} probe forever"));
    let again = sick("restart");
    eventually("it was started again", || again.inspect("{{.RestartCount}}").parse::<u32>().unwrap() > 1);
    let (killed, stopped) = (sick("kill"), sick("stop"));
    assert_eq!((killed.wait(), stopped.wait()), (137, 143));
}

#[test]
fn bad_flags_are_told() {
    let store = Store::shared(&["probe"]);
    for (flags, words) in [
        ("--health-http web", "write a port"),
        ("--health-tcp 80 --no-healthcheck", "exclude each other"),
        ("--health-interval 1us", "shorter than a millisecond"),
        ("--health-on-failure cry", "restart"),
    ] {
        store.sampan(format!("run --rm {flags} probe")).fails(125).stderr_has(words);
    }
}
