//! The same without root: a user namespace instead of root's rights.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::{Dir, Store, net};
use std::os::unix::fs::{PermissionsExt, chown};

const NEEDS: &[Need] = &[Need::Tool("setpriv"), Need::UserNamespaces];

#[test]
fn a_user_builds_and_runs() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    store.sampan("run --rm probe args a b").ok().stdout_is("a b\n".replace(' ', "\n").as_str()).stderr_is("");
    store.sampan("run --rm probe trap").fails(134).stderr_has("innermost");
}

#[test]
fn a_user_has_layers_and_volumes() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    store.sampan("run --name box probe mkdir /made").ok();
    store.sampan("start -a box").fails(1).stderr_has("exist");
    store.sampan("run --rm probe rm /probe.wasm").ok();
    store.sampan("run --rm -v data:/data probe write /data/f hello").ok();
    store.sampan("run --rm -v data:/data:ro probe cat /data/f").ok().stdout_is("hello");
    store.sampan("run --rm --read-only probe write /f x").fails(1);
    store.sampan("rm box").ok();
    store.sampan("volume rm data").ok();
}

#[test]
fn a_users_bind_gives_the_users_rights_and_no_more() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    let data = Dir::new().file("mine", "x").file("closed", "secret");
    if sampan_tests::needs::is_root() {
        chown(data.path(), Some(65534), Some(65534)).unwrap();
        std::fs::set_permissions(data.join("closed"), PermissionsExt::from_mode(0o600)).unwrap();
        let failed = store.sampan(format!("run --rm -v '{data}:/data' probe cat /data/closed")).fails(1);
        failed.stdout_is("").stderr_has("ermission denied");
    }
    store.sampan(format!("run --rm -v '{data}:/data' probe write /data/new y")).ok();
    assert_eq!(data.read("new"), "y");
}

#[test]
fn a_user_publishes_ports_and_stops_what_runs() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["web"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    assert!(net::get(port, "/").expect(200).text().contains("Hello from Sampan"));
    store.sampan(format!("stop {web}")).ok();
    assert_eq!(web.wait(), 0);
    store.sampan(format!("start {web}")).ok();
    net::get(web.port("8000"), "/").expect(200);
    store.sampan(format!("rm -f {web}")).ok();
}

#[test]
fn a_users_sandbox_has_every_fence() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    let container = store.detached("probe forever");
    super::fences::all_stand(&container);
    assert!(container.inspect("{{.Sampan.Fences.namespaces.Detail}}").contains("user"));
}

#[test]
fn nothing_of_a_user_is_left_after_rm() {
    if lacks(NEEDS) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    store.sampan("run --rm probe args").ok();
    let before = store.tree();
    store.sampan("run --rm -v /data probe write /data/f x").ok();
    let container = store.detached("--rm probe forever");
    store.sampan(format!("stop {container}")).ok();
    sampan_tests::eventually("the container is gone", || store.tree() == before);
}

#[test]
fn low_ports_are_not_a_users() {
    if lacks(NEEDS)
        || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").is_ok_and(|n| n.trim() == "0")
    {
        return;
    }
    let store = Store::rootless(&["hello"]);
    store.sampan("run --rm -p 81:81 hello").fails(125).stdout_is("").stderr_has("below 1024");
}
