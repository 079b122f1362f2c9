//! What containers use: `stats`.

use sampan_tests::net;
use sampan_tests::{Container, Store, eventually};

/// The facts of one container, by name.
fn stats(container: &Container<'_>) -> serde_json::Value {
    let run = Store::shared(&[]).sampan(format!("stats --no-stream --format json {container}")).ok();
    run.json()
}

fn number(value: &serde_json::Value, key: &str) -> f64 {
    let text = value[key].as_str().unwrap();
    text.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{key} is {text}"))
}

#[test]
fn a_guest_that_computes_takes_a_processor_and_one_that_sleeps_none() {
    let store = Store::shared(&["probe"]);
    let (busy, idle) = (store.detached("--cpus 0.5 probe spin"), store.detached("-m 32m probe forever"));
    busy.says("spinning");
    idle.says("ready");
    eventually("it takes half a processor", || (45.0..=55.0).contains(&number(&stats(&busy), "CPUPerc")));
    let asleep = stats(&idle);
    assert!(number(&asleep, "CPUPerc") < 1.0, "{asleep}");
    assert_eq!(asleep["PIDs"], "1");
    assert!(asleep["MemUsage"].as_str().unwrap().ends_with(" / 32MiB"), "{asleep}");
    assert!(number(&asleep, "MemPerc") > 1.0, "{asleep}");
    store.sampan(format!("kill {busy}")).ok();
}

#[test]
fn bytes_and_requests_of_a_service_are_counted() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    for _ in 0..5 {
        net::get(web.port("8000"), "/big?bytes=100000").expect(200);
    }
    let seen = stats(&web);
    assert_eq!((&seen["Requests"], &seen["PIDs"]), (&"5".into(), &"0".into()));
    let (received, sent) = seen["NetIO"].as_str().unwrap().split_once(" / ").unwrap();
    assert!(sent.starts_with("50") && sent.ends_with("kB"), "{sent}");
    assert!(received.ends_with('B') && received != "0B", "{received}");
}

#[test]
fn bytes_of_sockets_are_counted() {
    let store = Store::shared(&["tcp", "serve"]);
    for image in ["tcp", "serve"] {
        let server = store.detached(format!("-p 7000 {image}"));
        let port = server.port("7000");
        eventually("it listens", || net::is_open(port));
        assert_eq!(net::exchange(port, &[b'x'; 3000]).len(), 3000);
        assert_eq!(stats(&server)["NetIO"], "3kB / 3kB", "{image}");
    }
}

#[test]
fn what_runs_is_listed_and_the_rest_on_demand() {
    let store = Store::fresh(&["probe"]);
    let running = store.detached("probe forever");
    let ended = store.container("ended");
    store.sampan(format!("run --name {ended} probe exit 0")).ok();
    let table = store.sampan("stats --no-stream").ok();
    let heading = "CONTAINER ID   NAME";
    table.stdout_has(heading).stdout_has("MEM USAGE / LIMIT").stdout_has(running.name()).stdout_lacks(ended.name());
    let names = store.sampan("stats -a --no-stream --format '{{.Name}} {{.PIDs}}'").ok();
    names.stdout_has(&format!("{ended} 0")).stdout_has(&format!("{running} 1"));
    store.sampan("stats --no-stream nobody").fails(1).stderr_has("no such container");
}

#[test]
fn programs_are_instances() {
    let store = Store::shared(&["toolbox"]);
    let shell = store.container("shell");
    let script = "sleep 60 & sleep 60 & echo ready; wait";
    store.sampan(format!("run -d --allow-spawn --name {shell} toolbox sh -c")).arg(script).ok();
    shell.says("ready");
    eventually("all three are there", || stats(&shell)["PIDs"] == "3");
    store.sampan(format!("kill {shell}")).ok();
}
