//! What a container may use of its machine, and what becomes of it when it wants more.

use sampan_tests::net;
use sampan_tests::{Dir, Store, eventually};

#[test]
fn a_command_that_wants_more_memory_than_it_may_have_is_oom_killed() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        let container = store.container("oom");
        let run = store.sampan(format!("run --name {container} -m 32m {image} alloc 64000000")).fails(137);
        run.stdout_is("").stderr_has("out of memory").stderr_has("--memory");
        assert_eq!(container.inspect("{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
        let listed = store.sampan(format!("ps -a --filter name={container} --format {{{{.Status}}}}")).ok().line();
        assert!(listed.starts_with("Exited (137)"), "{listed}");
        store.sampan(format!("run --rm -m 128m {image} alloc 64000000")).ok().stdout_is("allocated 64000000 bytes\n");
    }
}

#[test]
fn what_a_module_has_from_its_start_counts_too() {
    let store = Store::shared(&[]);
    let dir = Dir::new().file("large.wat", r#"(module (memory (export "memory") 100) (func (export "_start")))"#).file(
        "tables.wat",
        r#"(module (memory (export "memory") 1) (table 1000000 funcref) (func (export "_start")))"#,
    );
    for file in ["large.wat", "tables.wat"] {
        let run = store.sampan(format!("run --rm -m 2m ./{file}")).dir(dir.path()).fails(137);
        run.stderr_has("out of memory");
        store.sampan(format!("run --rm -m 16m ./{file}")).dir(dir.path()).ok();
    }
}

#[test]
fn programs_of_one_container_share_its_memory() {
    let store = Store::shared(&["toolbox", "probe"]);
    store.build_from("limits-spawn", &Dir::context("FROM toolbox\nCOPY --from=probe /probe.wasm /bin/probe\n"));
    let container = store.container("oom");
    let script = "probe alloc 20000000; probe alloc 64000000; echo $?; probe alloc 20000000";
    let run = store.sampan(format!("run --name {container} -m 48m --allow-spawn limits-spawn sh -c")).arg(script).ok();
    // The first one's memory was given back when it ended.
    run.stdout_is("allocated 20000000 bytes\n137\nallocated 20000000 bytes\n").stderr_has("out of memory");
    assert_eq!(container.inspect("{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 0");
}

#[test]
fn a_request_that_wants_too_much_is_500_and_the_service_goes_on() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 -m 32m web");
    let port = web.port("8000");
    for _ in 0..3 {
        net::get(port, "/alloc?bytes=64000000").expect(500);
        assert_eq!(net::get(port, "/alloc?bytes=8000000").expect(200).text(), "allocated 8000000 bytes\n");
    }
    eventually("its diagnostics say so", || {
        let said = web.diagnostics();
        said.contains("/alloc?bytes=64000000") && said.contains("--memory")
    });
    assert_eq!(
        web.inspect("{{.State.OOMKilled}} {{.HostConfig.Memory}} {{.Sampan.Limits.Memory}}"),
        "false 33554432 33554432"
    );
}

#[test]
fn a_limit_that_was_not_asked_for_is_shown() {
    let store = Store::shared(&["hello"]);
    let container = store.container("default");
    store.sampan(format!("create --name {container} hello")).ok();
    assert_eq!(container.inspect("{{.HostConfig.Memory}}"), "0");
    let bytes: u64 = container.inspect("{{.Sampan.Limits.Memory}}").parse().unwrap();
    assert!(bytes > 32 << 20, "{bytes}");
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let store = Store::shared(&["hello"]);
    for (flags, words) in [("-m 1k", "64KiB"), ("-m lots", "512m"), ("--memory=-1", "size")] {
        store.sampan(format!("run --rm {flags} hello")).fails(125).stderr_has(words);
    }
}
