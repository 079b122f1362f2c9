//! Ports: what is published, what is granted, and what is denied.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, free_port};
use sampan_tests::store::sample_file;
use sampan_tests::{Container, Dir, Store, eventually, until};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

/// Waits until an echo server of the samples listens.
fn listening<'a>(container: Container<'a>) -> Container<'a> {
    container.says("listening on");
    container
}

#[test]
fn tcp_echoes_through_a_published_port() {
    let store = Store::shared(&["tcp"]);
    let tcp = listening(store.detached("-p 7000 tcp"));
    let port = tcp.port("7000");
    assert_eq!(net::exchange(port, b"hello"), b"hello");
    let long = "0123456789".repeat(100_000);
    assert!(net::exchange(port, long.as_bytes()) == long.as_bytes());
    // It sees the port that it has bound, and its peers as they are.
    tcp.says("peer 127.0.0.1:");
    tcp.logs().stdout_has(":7000\n");
}

#[test]
fn a_port_can_be_published_at_several_addresses() {
    let store = Store::shared(&["tcp", "p3"]);
    let ports = [free_port(), free_port(), free_port()];
    let flags: String = ports.iter().map(|port| format!("-p 127.0.0.1:{port}:7000 ")).collect();
    for guest in ["tcp", "p3 tcp"] {
        let container = listening(store.detached(format!("{flags} {guest}")));
        for port in ports {
            let long = port.to_string().repeat(100_000);
            assert!(net::exchange(port, long.as_bytes()) == long.as_bytes(), "{guest} at {port}");
        }
        store.sampan(format!("rm -f {container}")).ok();
    }
}

#[test]
fn many_peers_are_served_at_once() {
    let store = Store::shared(&["tcp"]);
    let tcp = listening(store.detached("-p 7000 tcp"));
    let port = tcp.port("7000");
    let mut open: Vec<_> = (0..20).map(|_| net::connect(port)).collect();
    for (n, stream) in open.iter_mut().enumerate().rev() {
        use std::io::{Read, Write};
        let text = format!("peer {n:04}");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, text.as_bytes());
    }
}

#[test]
fn udp_echoes_through_a_published_port() {
    let store = Store::shared(&["tcp"]);
    let udp = listening(store.detached("-p 7000/udp tcp udp"));
    let port = udp.port("7000/udp");
    for _ in 0..2 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.port()), (&b"hello"[..], port));
    }
}

#[test]
fn a_component_of_wasi_0_3_serves_tcp() {
    let store = Store::shared(&["p3"]);
    let tcp = listening(store.detached("-p 7000 p3 tcp"));
    assert_eq!(net::exchange(tcp.port("7000"), b"hello"), b"hello");
    let port = tcp.port("7000");
    assert_eq!(net::exchange(port, b"again"), b"again");
}

#[test]
fn python_serves_a_directory_on_a_published_port() {
    let store = Store::shared(&["python"]);
    let data = Dir::new().file("page.html", "<h1>hello</h1>");
    let python = store.detached(format!("-p 8000 -v '{data}:/srv:ro' -w /srv python python -m http.server 8000"));
    let port = python.port("8000");
    eventually("it listens", || net::is_open(port));
    assert_eq!(net::get(port, "/page.html").expect(200).text(), "<h1>hello</h1>");
    net::get(port, "/none").expect(404);
}

#[test]
fn python_listens_where_no_host_is_said() {
    let store = Store::shared(&["python"]);
    let script = "import socket\n\
                  s = socket.socket()\n\
                  s.bind((\"\", 8000))\n\
                  s.listen()\n\
                  while True:\n    \
                      with s.accept()[0] as c: c.sendall(f\"hello from {socket.gethostname()}\".encode())\n";
    let files = Dir::new().file("serve.py", script);
    let python = store.detached(format!("-p 8000 -e HOSTNAME=box -v '{files}:/srv:ro' python python /srv/serve.py"));
    let port = python.port("8000");
    eventually("it listens", || net::is_open(port) && net::exchange(port, b"") == b"hello from box");
}

#[test]
fn a_port_goes_where_it_is_published() {
    let store = Store::shared(&["tcp"]);
    let port = free_port();
    for publish in [format!("{port}:7000"), format!("127.0.0.1:{port}:7000"), format!("{port}:7000/tcp")] {
        let tcp = listening(store.detached(format!("-p {publish} tcp")));
        assert_eq!(tcp.port("7000"), port);
        assert_eq!(net::exchange(port, b"hello"), b"hello");
        let address = store.sampan(format!("port {tcp}")).ok().line();
        let ip = if publish.starts_with("127") { "127.0.0.1" } else { "0.0.0.0" };
        assert_eq!(address, format!("7000/tcp -> {ip}:{port}"));
        // The next one has the port at once, though connections to the last one linger.
        store.sampan(format!("rm -f {tcp}")).ok();
    }
}

#[test]
fn a_port_of_the_loopback_is_not_open_elsewhere() {
    let store = Store::shared(&["web"]);
    let port = free_port();
    let _web = store.detached(format!("-p 127.0.0.1:{port}:8000 web"));
    net::get(port, "/").expect(200);
    // All of 127.0.0.0/8 is the loopback, and only this one address was published.
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_err());
}

#[test]
fn an_ipv6_address_can_be_published() {
    if lacks(&[Need::Ipv6]) {
        return;
    }
    let store = Store::shared(&["web"]);
    let port = free_port();
    let web = store.detached(format!("-p [::1]:{port}:8000 web"));
    store.sampan(format!("port {web} 8000")).ok().stdout_is(&format!("[::1]:{port}\n"));
    assert!(std::net::TcpStream::connect(("::1", port)).is_ok());
    assert!(!net::is_open(port));
}

#[test]
fn a_service_can_be_published_at_two_ports() {
    let store = Store::shared(&["web"]);
    let (one, other) = (free_port(), free_port());
    let web = store.detached(format!("-p {one}:8000 -p {other}:8000 web"));
    net::get(one, "/").expect(200);
    net::get(other, "/").expect(200);
    assert_eq!(store.sampan(format!("port {web}")).ok().lines().len(), 2);
}

#[test]
fn ranges_of_ports_are_published_pairwise() {
    let store = Store::shared(&["tcp"]);
    let (first, second) = until("two free ports in a row", || {
        let (one, two) = (free_port(), free_port());
        (two == one + 1).then_some((one, two))
    });
    let tcp = listening(store.detached(format!("-p {first}-{second}:7000-7001 tcp 7001")));
    assert_eq!((tcp.port("7000"), tcp.port("7001")), (first, second));
    assert_eq!(net::exchange(second, b"hello"), b"hello");
}

#[test]
fn every_exposed_port_is_published_with_capital_p() {
    let store = Store::shared(&["tcp"]);
    let tcp = listening(store.detached("-P --expose 7001 --expose 53/udp tcp"));
    assert_eq!(net::exchange(tcp.port("7000"), b"hello"), b"hello");
    let ports = store.sampan(format!("port {tcp}")).ok();
    let inside: Vec<&str> = ports.lines().iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(inside, ["53/udp", "7000/tcp", "7001/tcp"]);
}

#[test]
fn an_exposed_port_can_be_bound_and_is_not_on_the_host() {
    let store = Store::shared(&["tcp"]);
    let port = free_port();
    let tcp = listening(store.detached(format!("--expose {port} tcp {port}")));
    assert!(!net::is_open(port));
    store.sampan(format!("port {tcp}")).ok().stdout_is("");
    store.sampan(format!("port {tcp} {port}")).fails(1).stderr_has(&format!("no public port {port}/tcp"));
    assert_eq!(tcp.inspect(&format!("{{{{json (index .NetworkSettings.Ports \"{port}/tcp\")}}}}")), "null");
}

#[test]
fn a_port_that_was_not_granted_is_denied_with_the_flags_that_would_grant_it() {
    let store = Store::shared(&["tcp", "p3"]);
    for (guest, port, told) in [
        ("tcp 7001", "7001/tcp", "access-denied"),
        ("tcp udp 7000", "7000/udp", "access-denied"),
        ("p3 tcp 7001", "7001/tcp", "AccessDenied"),
    ] {
        let number = port.split('/').next().unwrap();
        let failed = store.sampan(format!("run --rm {guest}")).fails(1).stderr_has(told);
        failed.stderr_has(&format!("-p HOST:{number}")).stderr_has(&format!("--expose {port}"));
    }
}

#[test]
fn a_denial_is_kept_in_the_diagnostics_of_a_container_in_the_background() {
    let store = Store::shared(&["tcp"]);
    let tcp = store.detached("tcp 7001");
    assert_eq!(tcp.wait(), 1);
    tcp.logs().stderr_has("access-denied");
    let dir = store.root().join("containers").join(tcp.id());
    assert!(std::fs::read_to_string(dir.join("diagnostics.log")).unwrap().contains("--expose 7001/tcp"));
}

#[test]
fn a_guest_has_its_own_loopback_whatever_the_network() {
    let store = Store::shared(&["tcp"]);
    for network in ["default", "none", "host"] {
        store.sampan(format!("run --rm --network {network} tcp loopback")).ok().stdout_has("loopback ok\n");
    }
}

#[test]
fn without_a_network_nothing_can_be_bound() {
    let store = Store::shared(&["tcp", "web"]);
    let port = free_port();
    let failed = store.sampan(format!("run --rm --network none -p {port}:7000 tcp")).fails(1);
    failed.stderr_has("access-denied");
    let web = store.detached(format!("--network none -p {port}:8000 web"));
    assert_eq!(web.status(), "running");
    assert!(!net::is_open(port));
}

#[test]
fn on_the_hosts_network_a_port_is_the_hosts() {
    let store = Store::shared(&["tcp", "web"]);
    let port = free_port();
    let _tcp = listening(store.detached(format!("--network host tcp {port}")));
    assert_eq!(net::exchange(port, b"hello"), b"hello");
    let port = free_port();
    let _web = store.detached(format!("--network host --expose {port} web"));
    net::get(port, "/").expect(200);
}

#[test]
fn a_port_of_the_host_in_use_is_told_before_the_guest_runs() {
    let store = Store::shared(&["probe", "web"]);
    let other = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let data = Dir::new();
    for (flags, image) in [("", "probe write /data/ran x"), ("-d", "probe write /data/ran x"), ("-d", "web")] {
        let container = store.container("taken");
        let run = format!("run {flags} --name {container} -v '{data}:/data' -p {port}:7000 {image}");
        let failed = store.sampan(run).fails(125).stdout_is("");
        failed.stderr_has(&format!("port {port} is already in use"));
        assert!(!container.exists());
    }
    assert!(!data.join("ran").exists());
}

#[test]
fn a_port_is_taken_as_soon_as_a_container_that_has_it_runs() {
    let store = Store::shared(&["probe"]);
    let port = free_port();
    // It never binds what it was granted.
    for kind in ["tcp", "udp"] {
        let first = store.detached(format!("-p {port}:7000/{kind} probe forever"));
        let second = format!("run --rm -p {port}:7000/{kind} probe args");
        store.sampan(&second).fails(125).stderr_has(&format!("port {port} is already in use"));
        store.sampan(format!("stop {first}")).ok();
        store.sampan(&second).ok();
    }
}

#[test]
fn a_stopped_container_that_cannot_have_its_port_stays_and_says_why() {
    let store = Store::shared(&["web"]);
    let port = free_port();
    let web = store.container("back");
    store.sampan(format!("create --name {web} -p {port}:8000 web")).ok();
    let other = TcpListener::bind(("0.0.0.0", port)).unwrap();
    store.sampan(format!("start {web}")).fails(125).stderr_has("already in use");
    assert!(web.exists());
    drop(other);
    store.sampan(format!("start {web}")).ok();
    net::get(port, "/").expect(200);
}

#[test]
fn a_service_without_any_port_has_none_that_is_told() {
    let store = Store::shared(&["web"]);
    let context = Dir::context("FROM scratch\nCOPY web.wasm /web.wasm\nENTRYPOINT [\"/web.wasm\"]\n");
    store.build_from("ports-none", &context.copy("web.wasm", &sample_file("web")));
    let web = store.detached("ports-none");
    store.sampan(format!("port {web}")).ok().stdout_is("");
    assert_eq!(web.inspect("{{json .NetworkSettings.Ports}}"), "{}");
}
