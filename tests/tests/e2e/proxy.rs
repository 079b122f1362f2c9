//! nginx as a reverse proxy in front of a service: the real one, as an ordinary process of this machine.

use sampan_shim::v1::{HttpRequest, SandboxClient};
use sampan_tests::command::Started;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, Http, free_port};
use sampan_tests::{Container, Dir, Run, Store, eventually};
use std::io::{Read, Write};

/// nginx, and the port at which it listens.
struct Proxy {
    port: u16,
    _dir: Dir,
    _nginx: Started,
}

impl Proxy {
    fn before(upstream: u16) -> Self {
        let (port, dir) = (free_port(), Dir::new());
        let conf = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
            events {{ worker_connections 256; }}
            http {{
                access_log off;
                client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
                uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
                upstream app {{ server 127.0.0.1:{upstream}; keepalive 4; }}
                server {{
                    listen 127.0.0.1:{port};
                    client_max_body_size 0;
                    location / {{
                        proxy_pass http://app;
                        proxy_http_version 1.1;
                        proxy_set_header Connection '';
                        proxy_set_header X-Forwarded-For $remote_addr;
                        proxy_request_buffering off;
                        proxy_buffering off;
                    }}
                }}
            }}"
        );
        let dir = dir.file("nginx.conf", conf);
        let log = dir.join("error.log").display().to_string();
        let nginx = Run::new(["nginx", "-e", &log, "-p", &dir.to_string(), "-c", "nginx.conf"]).start();
        eventually("nginx listens", || net::is_open(port));
        Self { port, _dir: dir, _nginx: nginx }
    }
}

/// The connections that a service has at this moment.
fn connections(store: &Store, container: &Container<'_>) -> u64 {
    let id = container.id();
    let socket = format!("unix://{}", store.run_dir().join(&id[..12]).join("sock").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = SandboxClient::new(ttrpc::asynchronous::Client::connect(&socket).await.unwrap());
        let request = HttpRequest { id, ..HttpRequest::default() };
        client.http(ttrpc::context::with_timeout(60_000_000_000), &request).await.unwrap().connections
    })
}

#[test]
fn requests_come_through_on_connections_that_are_kept() {
    if lacks(&[Need::Tool("nginx")]) {
        return;
    }
    let store = Store::shared(&["web", "web3"]);
    for image in ["web", "web3"] {
        let web = store.detached(format!("-p 127.0.0.1::8000 {image}"));
        let proxy = Proxy::before(web.port("8000"));
        // A connection each on this side, and one for all of them on the other.
        for _ in 0..20 {
            assert!(net::get(proxy.port, "/").expect(200).text().contains("Hello from Sampan"));
        }
        assert_eq!(connections(store, &web), 1, "{image}");
        net::get(proxy.port, "/none").expect(404);
        if image == "web" {
            let headers = net::get(proxy.port, "/headers").expect(200).text();
            assert!(headers.contains("x-forwarded-for: 127.0.0.1\n"), "{headers}");
            // What breaks off behind it is seen before it, and the next request is none the worse.
            net::get(proxy.port, "/trap").expect(500);
            net::get(proxy.port, "/").expect(200);
        }
    }
}

#[test]
fn bodies_are_streamed_both_ways() {
    if lacks(&[Need::Tool("nginx")]) {
        return;
    }
    let store = Store::shared(&["web", "web3"]);
    for image in ["web", "web3"] {
        let web = store.detached(format!("-p 127.0.0.1::8000 {image}"));
        let proxy = Proxy::before(web.port("8000"));
        // In turns: of a large body that comes back while it is sent, nginx 1.22 forgets the rest, whoever echoes it.
        const PIECE: usize = 60_000;
        let piece = format!("{PIECE:x}\r\n{}\r\n", "~".repeat(PIECE));
        let mut stream = net::connect(proxy.port);
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let mut buffer = vec![0; 64 << 10];
        for round in 0..200 {
            stream.write_all(piece.as_bytes()).unwrap();
            let mut back = 0;
            while back < PIECE {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "{image}: it ended in round {round}");
                back += buffer[..read].iter().filter(|byte| **byte == b'~').count();
            }
        }
        stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
        let mut rest = Vec::new();
        while !rest.windows(4).any(|part| part == b"last") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{image}: it ended after {:?}", String::from_utf8_lossy(&rest));
            rest.extend(&buffer[..read]);
        }
    }
}

#[test]
fn a_service_that_is_gone_is_502_and_one_that_came_back_is_found() {
    if lacks(&[Need::Tool("nginx")]) {
        return;
    }
    let store = Store::shared(&["web"]);
    let port = free_port();
    let web = store.detached(format!("-p 127.0.0.1:{port}:8000 web"));
    let proxy = Proxy::before(port);
    let mut kept = Http::connect(proxy.port);
    let mut ask = |status: u16| {
        kept.send("GET", "/", b"");
        kept.answer().expect(status)
    };
    for _ in 0..3 {
        ask(200);
        store.sampan(format!("stop {web}")).ok();
        // The connection that nginx has kept ends with the service, and a new one finds nobody.
        assert!(ask(502).text().contains("502 Bad Gateway"));
        store.sampan(format!("start {web}")).ok();
        ask(200);
    }
    // A request in hand is finished before a service goes.
    let mut slow = Http::connect(proxy.port);
    slow.send("GET", "/slow?ms=1500", b"");
    eventually("it is at it", || web.logs().stderr.contains("/slow?ms=1500"));
    store.sampan(format!("stop {web}")).ok();
    slow.answer().expect(200);
    ask(502);
}
