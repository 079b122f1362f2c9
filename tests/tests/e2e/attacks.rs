//! What a guest can do to its machine, and what does not become of it: the host goes on, and a neighbour answers.

use sampan_tests::net::{self, Http};
use sampan_tests::{Container, Dir, Run, Store, eventually};
use std::time::{Duration, Instant};

/// A service beside the attacker, in a sandbox of its own.
struct Neighbour(Container<'static>, u16);

impl Neighbour {
    fn new() -> Self {
        let web = Store::shared(&["web"]).detached("-p 8000 web");
        let port = web.port("8000");
        Self(web, port)
    }

    /// It answers, and before a person would ask again.
    #[track_caller]
    fn answers(&self) {
        for _ in 0..20 {
            let begun = Instant::now();
            net::get(self.1, "/").expect(200);
            assert!(begun.elapsed() < Duration::from_secs(2), "{} took {:?}", self.0, begun.elapsed());
        }
    }
}

fn probe(flags: &str, attack: &str) -> Run {
    Store::shared(&["probe"]).sampan(format!("run --rm {flags} probe attack {attack}"))
}

/// Attackers that never end by themselves: the neighbour answers beside them, and they can be stopped.
#[track_caller]
fn endless(flags: &str, command: &str, says: &str) {
    let neighbour = Neighbour::new();
    let attacker = Store::shared(&["probe"]).detached(format!("{flags} probe {command}"));
    attacker.says(says);
    neighbour.answers();
    let begun = Instant::now();
    Store::shared(&[]).sampan(format!("stop -t 2 {attacker}")).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    neighbour.answers();
}

#[test]
fn an_endless_loop() {
    endless("", "spin", "spinning");
}

#[test]
fn a_storm_of_polls() {
    endless("", "attack poll", "polling");
}

#[test]
fn memory_without_end() {
    let neighbour = Neighbour::new();
    probe("-m 64m", "memory").fails(137).stderr_has("out of memory");
    // Without a limit of its own: half of the machine's memory, or 4 GiB of addresses, whatever is less.
    let code = probe("", "memory").run().code;
    assert!([134, 137].contains(&code), "{code}");
    neighbour.answers();
}

#[test]
fn tables_without_end() {
    let wat = r#"(module (memory (export "memory") 1) (table $t 1 funcref)
        (func (export "_start") (loop $more
            (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000000)) (i32.const -1))))))"#;
    let (neighbour, dir) = (Neighbour::new(), Dir::new().file("tables.wat", wat));
    let store = Store::shared(&[]);
    store.sampan("run --rm -m 64m ./tables.wat").dir(dir.path()).fails(137).stderr_has("out of memory");
    neighbour.answers();
}

#[test]
fn recursion_without_end() {
    let neighbour = Neighbour::new();
    probe("", "stack").fails(134).stderr_has("call stack exhausted");
    neighbour.answers();
}

#[test]
fn files_opened_without_end() {
    let neighbour = Neighbour::new();
    let run = probe("--ulimit nofile=1000", "files /probe.wasm").ok();
    assert!(run.line().starts_with("99"), "{}", run.line());
    // Without a limit of its own it has what its process has, and that is not the neighbour's.
    let shell = "ulimit -n 4096; sampan run --rm probe attack files /probe.wasm";
    let run = Store::shared(&["probe"]).shell(shell).run();
    assert!(run.stdout.contains(" files: "), "{}", run.stdout);
    neighbour.answers();
}

#[test]
fn a_million_bytes_without_an_end_of_line() {
    let neighbour = Neighbour::new();
    let store = Store::shared(&["probe"]);
    let container = store.container("line");
    store.sampan(format!("run -d --name {container} probe attack log 1000000")).ok();
    assert_eq!(container.wait(), 0);
    assert_eq!(container.logs().stdout.len(), 1_000_000);
    neighbour.answers();
}

#[test]
fn a_sparse_file_of_four_gigabytes() {
    let neighbour = Neighbour::new();
    let store = Store::shared(&["probe"]);
    let container = store.container("sparse");
    store
        .sampan(format!("run --name {container} probe attack sparse /f 4294967296"))
        .ok()
        .stdout_is("4294967296 bytes\n");
    let upper = store.root().join("containers").join(container.id()).join("upper/f");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(upper).unwrap());
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
    neighbour.answers();
}

#[test]
fn ten_thousand_sockets() {
    let (neighbour, store) = (Neighbour::new(), Store::shared(&["tcp"]));
    let made = store.sampan("run --rm tcp sockets 10000").run();
    assert!(made.stdout.contains(" sockets"), "{made:?}");
    store.sampan("run --rm --ulimit nofile=100 tcp sockets 10000").ok().stdout_has("97 sockets: new-socket-limit");
    neighbour.answers();
}

#[test]
fn requests_without_end() {
    let (neighbour, store) = (Neighbour::new(), Store::shared(&["web"]));
    // Somebody who takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let web = store.detached(format!("-p 8000 -m 64m --http-timeout 2s --allow-net 127.0.0.1:{port} web"));
    let mut storm = Http::connect(web.port("8000"));
    storm.send("GET", &format!("/storm?url=http://127.0.0.1:{port}/&requests=2000"), b"");
    neighbour.answers();
    let answer = storm.answer();
    assert!([200, 500, 504].contains(&answer.status), "{}", answer.text());
    // It goes on itself, when its requests are over.
    eventually("the service answers again", || {
        let mut http = Http::connect(web.port("8000"));
        http.send("GET", "/", b"");
        http.answer().status == 200
    });
    neighbour.answers();
}
