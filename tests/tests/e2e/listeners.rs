//! WASI 0.1 servers: the listening sockets that they are handed.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, Http, free_port};
use sampan_tests::store::sample_file;
use sampan_tests::{Container, Dir, Run, Store, eventually, until};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// Waits until a server of the samples listens.
fn listening<'a>(container: Container<'a>) -> Container<'a> {
    container.says("listening on");
    container
}

/// Ten megabytes that are no two kilobytes the same.
fn long() -> Vec<u8> {
    (0..2_500_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Sends and receives at once, as no single thread can without a limit.
fn echoed(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = net::connect(port);
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_owned();
    let sending = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    back
}

/// The server in an image that exposes nothing.
fn bare(store: &Store, tag: &str) {
    let context = Dir::context("FROM scratch\nCOPY serve.wasm /serve.wasm\nENTRYPOINT [\"/serve.wasm\"]\n");
    store.build_from(tag, &context.copy("serve.wasm", &sample_file("serve")));
}

#[test]
fn a_server_with_calls_that_wait_echoes_and_sees_its_peers_half_close() {
    let store = Store::shared(&["serve"]);
    let serve = listening(store.detached("-p 7000 serve"));
    let port = serve.port("7000");
    assert_eq!(net::exchange(port, b"hello"), b"hello");
    let long = long();
    assert!(echoed(port, &long) == long);
    // One that went away without a word does not end it.
    drop(net::connect(port));
    assert_eq!(net::exchange(port, b"again"), b"again");
}

#[test]
fn a_thousand_connections_are_served_with_poll() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let store = Store::shared(&["serve"]);
    let serve = listening(store.detached("-p 7000 serve many"));
    let port = serve.port("7000");
    let mut open: Vec<_> = (0..1000).map(|_| net::connect(port)).collect();
    for round in 0..2 {
        for (n, stream) in open.iter_mut().enumerate().rev() {
            let text = format!("{round} {n:04}");
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = vec![0; text.len()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, text.as_bytes());
        }
    }
    // With all of them there, one more moves a lot.
    let long = long();
    assert!(echoed(port, &long) == long);
    store.sampan(format!("stop {serve}")).ok();
    assert_eq!(serve.wait(), 0);
}

#[test]
fn sock_recv_peeks_and_waits_for_all_and_sock_shutdown_closes_one_way() {
    let store = Store::shared(&["serve"]);
    let serve = listening(store.detached("-p 7000 serve fixed"));
    let mut stream = net::connect(serve.port("7000"));
    stream.write_all(b"01234").unwrap();
    // It has peeked by now or will; the rest comes later, and it waits for it.
    stream.write_all(b"56789").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "01 0123456789\n");
    // Its end is the end of one direction.
    stream.write_all(b"and more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    serve.says("rest: and more");
}

#[test]
fn a_server_sees_its_sockets_and_its_files_behind_them() {
    let store = Store::shared(&["serve"]);
    let expected = |names: &str| {
        format!(
            "listening on {names}\nroot true\npoll 0 in time true\naccept Err(WouldBlock)\nread true\nboth 1 true\n"
        )
    };
    store.sampan("run --rm serve look").ok().stdout_is(&expected("7000/tcp"));
    // By number, whatever the order; UDP is not for WASI 0.1.
    let ports = "-p 127.0.0.1::9000 -p 127.0.0.1::9000 --expose 80 --expose 53/udp";
    store.sampan(format!("run --rm {ports} serve look")).ok().stdout_is(&expected("80/tcp:7000/tcp:9000/tcp"));
}

#[test]
fn who_was_granted_no_port_is_handed_nothing() {
    let store = Store::shared(&["serve"]);
    bare(store, "listeners-none");
    for run in ["run --rm listeners-none", "run --rm --network none -p 7000 serve"] {
        store.sampan(run).fails(1).stdout_is("listening on \n").stderr_has("no socket was handed over");
    }
}

#[test]
fn a_port_goes_where_it_is_published_and_to_both_places() {
    let store = Store::shared(&["serve"]);
    let (one, other) = (free_port(), free_port());
    let serve = listening(store.detached(format!("-p {one}:7000 -p 127.0.0.1:{other}:7000 serve")));
    assert_eq!(net::exchange(one, b"one"), b"one");
    assert_eq!(net::exchange(other, b"other"), b"other");
    assert!(TcpStream::connect(("127.0.0.2", one)).is_ok());
    assert!(TcpStream::connect(("127.0.0.2", other)).is_err());
    assert_eq!(store.sampan(format!("port {serve}")).ok().lines().len(), 2);
    store.sampan(format!("stop {serve}")).ok();
    assert!(!net::is_open(one) && !net::is_open(other));
    // And again from the start.
    store.sampan(format!("start {serve}")).ok();
    eventually("it listens again", || net::is_open(other));
}

#[test]
fn an_exposed_port_is_open_and_told_to_nobody() {
    let store = Store::shared(&["serve"]);
    let serve = listening(store.detached("serve"));
    store.sampan(format!("port {serve}")).ok().stdout_is("");
    store.sampan(format!("stop {serve}")).ok();
    assert_eq!(serve.wait(), 0);
    serve.logs().stdout_has("stopped");
}

#[test]
fn on_the_hosts_network_a_server_has_the_hosts_port() {
    let store = Store::shared(&["serve"]);
    bare(store, "listeners-host");
    let port = free_port();
    let _serve = listening(store.detached(format!("--network host --expose {port} listeners-host")));
    assert_eq!(net::exchange(port, b"hello"), b"hello");
}

#[test]
fn who_waits_in_a_call_is_stopped_and_killed_all_the_same() {
    let store = Store::shared(&["serve"]);
    let serve = listening(store.detached("-p 7000 serve"));
    store.sampan(format!("kill {serve}")).ok();
    assert_eq!(serve.wait(), 137);
    // In a read, which nobody closes: it has its grace period, and no more.
    let serve = listening(store.detached("-p 7000 serve"));
    let mut stream = net::connect(serve.port("7000"));
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    store.sampan(format!("stop -t 1 {serve}")).ok();
    assert_eq!(serve.wait(), 137);
}

#[test]
fn a_server_without_descriptors_says_so_and_goes_on_when_it_has_some() {
    let store = Store::shared(&["serve"]);
    let serve = store.container("hungry");
    store.shell(&format!("ulimit -n 100; sampan run -d --name {serve} -p 7000 serve hungry")).ok();
    let serve = listening(serve);
    let port = serve.port("7000");
    let open: Vec<_> = (0..100).map(|_| net::connect(port)).collect();
    serve.says("connections, then No file descriptors available");
    let dir = store.root().join("containers").join(serve.id());
    until("a line for people", || {
        let told = std::fs::read_to_string(dir.join("diagnostics.log")).ok()?;
        (told.matches("a connection waits outside: Too many open files").count() == 1).then_some(())
    });
    // It has let the first ones go, and those that waited came in.
    drop(open);
    store.sampan(format!("stop {serve}")).ok();
    assert_eq!(serve.wait(), 0);
}

#[test]
fn go_serves_http_with_its_own_library() {
    let store = Store::shared(&["go-web"]);
    let web = listening(store.detached("-p 8000 go-web"));
    let port = web.port("8000");
    let mut http = Http::connect(port);
    for n in 0..3 {
        http.send("POST", "/echo", format!("body {n}").as_bytes());
        assert_eq!(http.answer().expect(200).text(), format!("body {n}"));
    }
    // Files of the image lie behind the sockets among its descriptors.
    assert_eq!(net::get(port, "/files/go-web.wasm").expect(200).body, std::fs::read(sample_file("go-web")).unwrap());
    let long = long();
    assert!(net::request(port, "POST", "/echo", &long).expect(200).body == long);
    if lacks(&[Need::Tool("curl")]) {
        return;
    }
    let url = format!("http://localhost:{port}/");
    let curl = Run::new(["curl", "-sS", "-v", url.as_str(), url.as_str()]).ok();
    curl.stdout_is("Hello from Go\nHello from Go\n").stderr_has("Re-using existing");
}

#[test]
fn go_serves_fifty_at_once() {
    let store = Store::shared(&["go-web"]);
    let web = listening(store.detached("-p 8000 go-web"));
    let port = web.port("8000");
    // All of them wait at once, and one that says nothing holds up none.
    let idle = net::connect(port);
    let peers: Vec<_> = (0..50)
        .map(|n| {
            std::thread::spawn(move || {
                let mut http = Http::connect(port);
                for target in ["/", "/slow?ms=100", "/"] {
                    http.send("GET", target, b"");
                    let _ = http.answer().expect(200);
                }
                http.send("POST", "/echo", format!("peer {n}").as_bytes());
                assert_eq!(http.answer().expect(200).text(), format!("peer {n}"));
            })
        })
        .collect();
    for peer in peers {
        peer.join().unwrap();
    }
    drop(idle);
}

#[test]
fn go_finishes_what_is_in_hand_when_it_is_stopped() {
    let store = Store::shared(&["go-web"]);
    let web = listening(store.detached("-p 8000 go-web"));
    let port = web.port("8000");
    let mut http = Http::connect(port);
    http.send("GET", "/", b"");
    let _ = http.answer().expect(200);
    http.send("GET", "/slow?ms=1000", b"");
    store.sampan(format!("stop {web}")).ok();
    assert_eq!(http.answer().expect(200).text(), "after 1000 ms\n");
    assert_eq!(web.wait(), 0);
    assert!(!net::is_open(port));
}
