//! The configuration file: what it grants, where it lies, and what is said when it cannot be used.

use sampan_tests::{Dir, Run, Store};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

/// A server that shouts back what it is told.
fn shouting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut text) = (stream.unwrap(), String::new());
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        }
    });
    address
}

fn allowing(rule: &str) -> Dir {
    Dir::new().file("sampan/config.toml", format!("[network]\nallow-net = [\"{rule}\"]\n"))
}

#[test]
fn what_it_allows_every_container_may_call_and_inspect_says_why() {
    let store = Store::fresh(&["tcp"]);
    let address = shouting();
    let dir = allowing(&address.to_string());
    let file = dir.join("sampan/config.toml");
    let sampan = |line: String| store.sampan(line).env("SAMPAN_CONFIG", &file);
    let call = |flags: &str| sampan(format!("run --rm {flags} tcp connect {address} hello"));
    call("").ok().stdout_has("HELLO");
    call("--network host").ok().stdout_has("HELLO");
    // Where nobody can be called it opens no way.
    call("--network none").fails(1).stderr_has("access-denied");
    for (name, flags) in [("app", "-o egress=10.0.0.0/8"), ("plain", ""), ("closed", "--internal"), ("none", "")] {
        let flags = if name == "none" { "-o egress=none" } else { flags };
        sampan(format!("network create {flags} the-{name}")).ok();
    }
    for (network, is_closed) in [("app", false), ("plain", false), ("closed", true), ("none", true)] {
        let run = call(&format!("--network the-{network}")).run();
        assert_eq!(run.code, i32::from(is_closed), "{network}: {run:?}");
        assert_eq!(run.stderr.contains("denied"), is_closed, "{network}: {run:?}");
        let shown = sampan(format!("network inspect -f '{{{{.Internal}}}}' the-{network}")).ok();
        shown.stdout_is(&format!("{is_closed}\n"));
    }
    sampan("create --name box --network the-app --allow-net a.com tcp".to_owned()).ok();
    let shown = |what: &str| store.sampan(format!("inspect -f '{{{{json .Sampan.Grants.{what}}}}}' box")).ok();
    shown("AllowNet").stdout_is(&format!("[\"a.com\",\"10.0.0.0/8\",\"{address}\"]\n"));
    shown("AllowNetFrom").stdout_is(&format!(
        "[{{\"From\":\"--allow-net\",\"Rule\":\"a.com\"}},{{\"From\":\"network the-app\",\"Rule\":\"10.0.0.0/8\"}},\
         {{\"From\":\"{}\",\"Rule\":\"{address}\"}}]\n",
        file.display()
    ));
    let info = sampan("info".to_owned()).ok();
    info.stdout_has(&format!("Configuration: {}\n Allow Net: {address}\n", file.display()));
}

#[test]
fn a_step_of_a_build_may_call_them_too() {
    let store = Store::fresh(&["tcp"]);
    let address = shouting();
    let dir = allowing(&address.to_string());
    let context = Dir::context(&format!("FROM tcp\nRUN [\"/tcp.wasm\", \"connect\", \"{address}\", \"hello\"]\n"));
    let build = || store.sampan(format!("build --progress plain '{context}'"));
    build().fails(1).stderr_has(&format!("connection to {address} denied"));
    build().env("SAMPAN_CONFIG", dir.join("sampan/config.toml")).ok().stdout_has(&format!("called {address}"));
}

#[test]
fn the_users_own_is_found_and_what_is_wrong_with_it_leaves_nothing() {
    let store = Store::fresh(&["tcp"]);
    let home = allowing("here.test");
    let look = |script: &str| -> Run {
        store.shell(&format!("unset SAMPAN_CONFIG; {script}")).env("XDG_CONFIG_HOME", home.path())
    };
    look("sampan info -f '{{.ConfigFile}} {{.AllowNet}}'")
        .ok()
        .stdout_is(&format!("{home}/sampan/config.toml [here.test]\n"));
    let before = store.tree();
    for (text, words) in [
        ("[network]\nallow_net = []\n", &["line 2: unknown field `allow_net`, expected `allow-net`"][..]),
        ("[nets]\n", &["line 1: unknown field `nets`, expected `network`"]),
        ("[network]\nallow-net = [\"https://a.com\"]\n", &["line 2: ", "invalid network rule", "wanted all, public"]),
        ("[network\n", &["line 1: "]),
    ] {
        std::fs::write(home.join("sampan/config.toml"), text).unwrap();
        let mut failed = look("sampan run --rm tcp").fails(125);
        for part in [&*format!("cannot use the configuration {home}/sampan/config.toml: ")].iter().chain(words) {
            failed = failed.stderr_has(part);
        }
    }
    store.sampan("run --rm tcp").env("SAMPAN_CONFIG", "/none/such").fails(125).stderr_has("there is no such file");
    assert_eq!(store.tree(), before);
}
