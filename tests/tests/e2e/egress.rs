//! Egress: whom a guest may call, and that it may call nobody else.

use sampan_shim::v1::{NetworkRequest, NetworkResponse, SandboxClient};
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, free_port};
use sampan_tests::{Container, Dir, Store, eventually};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

/// A machine of its own: two addresses, names for them, and servers that say who they are.
const NETWORK: &[Need] = &[Need::Root, Need::Tool("unshare"), Need::Tool("ip"), Need::Tool("python3")];

/// What `sampan.v1` says that a container was refused.
fn refused(store: &Store, container: &Container<'_>) -> ttrpc::Result<NetworkResponse> {
    let id = container.id();
    let socket = format!("unix://{}", store.run_dir().join(&id[..12]).join("sock").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = SandboxClient::new(ttrpc::asynchronous::Client::connect(&socket).await.unwrap());
        let request = NetworkRequest { id, ..NetworkRequest::default() };
        client.network(ttrpc::context::with_timeout(60_000_000_000), &request).await
    })
}

#[test]
fn what_is_refused_is_counted_each_time() {
    let store = Store::shared(&["python", "web"]);
    let script = "import socket as s, time\n\
                  def tries(what):\n    \
                      try: what()\n    \
                      except OSError: print(\"refused\", flush=True)\n\
                  for _ in range(3): tries(lambda: s.create_connection((\"10.1.1.1\", 80)))\n\
                  tries(lambda: s.socket().bind((\"0.0.0.0\", 99)))\n\
                  for _ in range(2): tries(lambda: s.getaddrinfo(\"nobody.test\", 80))\n\
                  time.sleep(600)\n";
    let files = Dir::new().file("tries.py", script);
    let python = store.detached(format!("-v '{files}:/srv:ro' python python /srv/tries.py"));
    eventually("it has tried", || python.logs().stdout.matches("refused").count() == 6);
    let counts = refused(store, &python).unwrap();
    assert_eq!((counts.connections_refused, counts.binds_refused), (3, 1), "{counts:?}");
    assert_eq!((counts.look_ups_refused, counts.requests_refused), (2, 0), "{counts:?}");
    assert_eq!(python.diagnostics().matches("10.1.1.1:80 denied").count(), 1);
    let web = store.detached("-p 8000 web");
    assert_eq!(refused(store, &web).unwrap(), NetworkResponse::default());
    for _ in 0..2 {
        net::get(web.port("8000"), "/fetch?url=http://10.1.1.1/").expect(502);
    }
    let counts = refused(store, &web).unwrap();
    assert_eq!((counts.requests_refused, counts.connections_refused), (2, 0), "{counts:?}");
    let stats = store.sampan(format!("stats --no-stream --format '{{{{.Refused}}}}' {python} {web}")).ok();
    assert_eq!(stats.stdout, "6\n2\n");
}

/// Runs a script where 192.0.2.1 and 192.0.2.2 are addresses of this machine and answer HTTP at port 80, and
/// `peer.test`, `other.test` and `evil.test` (which leads to the loopback) are names.
fn with_peers(store: &Store, script: &str) -> sampan_tests::Output {
    let hosts = "192.0.2.1 peer.test a.svc.test\n192.0.2.2 other.test\n127.0.0.1 evil.test\n";
    let dir = Dir::new().file("hosts", hosts).file("one/who", "one").file("two/who", "two").file("own/who", "own");
    let set_up = r#"
        ip link set lo up
        ip addr add 192.0.2.1/32 dev lo
        ip addr add 192.0.2.2/32 dev lo
        mount --bind hosts /etc/hosts
        servers=
        serve() {
            python3 -u -m http.server --bind "$2" -d "$1" 80 >"$1.out" 2>&1 &
            servers="$servers $!"
            until [ -f "$1.out" ] && grep -q Serving "$1.out"; do :; done
        }
        trap 'kill $servers' EXIT
        serve one 192.0.2.1; serve two 192.0.2.2; serve own 127.0.0.1
        get='GET /who HTTP/1.0

'
    "#;
    store.shell(&format!("{set_up}{script}")).dir(dir.path()).under("unshare --mount --net").ok()
}

#[test]
fn a_guest_connects_to_nobody_else() {
    let store = Store::shared(&["tcp"]);
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let address = host.local_addr().unwrap();
    let failed = store.sampan(format!("run --rm tcp connect {address} hello")).fails(1);
    failed.stdout_is("").stderr_has("access-denied").stderr_has(&format!("connection to {address} denied"));
    assert!(host.accept().is_err(), "somebody knocked");
    // Not even with another container that is published on this very host.
    let tcp = store.detached("-p 7000 tcp");
    tcp.says("listening on");
    let failed = store.sampan(format!("run --rm tcp connect 127.0.0.1:{} hi", tcp.port("7000"))).fails(1);
    failed.stderr_has("access-denied");
    tcp.logs().stdout_lacks("peer");
}

#[test]
fn a_guest_looks_up_no_names_but_its_own() {
    let store = Store::shared(&["tcp", "p3"]);
    let failed = store.sampan("run --rm tcp lookup example.com").fails(1).stdout_is("");
    failed.stderr_has("access-denied").stderr_has("\"example.com\" denied");
    let failed = store.sampan("run --rm p3 connect example.com:80 hello").fails(1);
    failed.stderr_has("look-up of \"example.com\" denied: allow it with --allow-net example.com");
    store.sampan("run --rm tcp lookup localhost").ok().stdout_has("127.0.0.1\n");
}

#[test]
fn a_service_calls_nobody_else() {
    let store = Store::shared(&["web"]);
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let web = store.detached("-p 8000 web");
    let url = format!("http://{}/", host.local_addr().unwrap());
    let answer = net::get(web.port("8000"), &format!("/fetch?url={url}")).expect(502).text();
    assert!(answer.to_lowercase().contains("denied"), "{answer}");
    assert!(host.accept().is_err(), "somebody knocked");
}

#[test]
fn an_address_is_granted_with_its_port_and_no_other() {
    let store = Store::shared(&["tcp", "p3"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut text) = (stream.unwrap(), String::new());
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        }
    });
    for rule in [address.to_string(), "127.0.0.0/8".to_owned(), format!("10.0.0.0/8,{address}")] {
        let run = store.sampan(format!("run --rm --allow-net {rule} tcp connect {address} hello")).ok();
        run.stdout_has("HELLO").stdout_has(&format!("to {address}")).stderr_is("");
    }
    store.sampan(format!("run --rm --allow-net {address} p3 connect {address} hello")).ok().stdout_has("HELLO");
    // Neither the next port nor a rule for everybody leads to this machine.
    for rule in [&*address.to_string(), "all", "public"] {
        let run = store.sampan(format!("run --rm --allow-net {rule} tcp connect {other} hello")).fails(1);
        run.stderr_has(&format!("connection to {other} denied"));
    }
    store.sampan(format!("run --rm --network host --allow-net {address} tcp connect {address} hello")).ok();
    store.sampan(format!("run --rm --network host tcp connect {address} hello")).fails(1).stderr_has("denied");
}

#[test]
fn datagrams_go_where_they_are_granted() {
    let store = Store::shared(&["python"]);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((n, from)) = peer.recv_from(&mut buffer) {
            peer.send_to(&buffer[..n].to_ascii_uppercase(), from).unwrap();
        }
    });
    let send = format!(
        "import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.settimeout(30); \
         u.sendto(b\"hello\", (\"127.0.0.1\", {})); print(u.recv(99).decode())",
        address.port()
    );
    let run = |flags: &str| store.sampan(format!("run --rm {flags} python python -c '{send}'"));
    run(&format!("--allow-net {address}")).ok().stdout_is("HELLO\n");
    run("").fails(1).stderr_has(&format!("connection to {address} denied: allow it with --allow-net {address}"));
}

#[test]
fn names_are_granted_and_lead_nowhere_else() {
    if lacks(NETWORK) {
        return;
    }
    let store = Store::fresh(&["tcp", "p3"]);
    let run = with_peers(
        &store,
        r#"
        ask() { sampan run --rm "$@" "$get" 2>err | tail -1 || true; grep 'sampan:.*denied' err || true; }
        ask --allow-net peer.test tcp connect peer.test:80
        ask --allow-net peer.test:80 p3 connect PEER.test:80
        ask --allow-net '*.svc.test' tcp connect a.svc.test:80
        echo - another port, another name, and the address of another
        ask --allow-net peer.test:81 tcp connect peer.test:80
        ask --allow-net peer.test:81 p3 connect peer.test:80
        ask --allow-net peer.test tcp connect other.test:80
        ask --allow-net peer.test tcp connect 192.0.2.1:80
        echo - everybody is nobody of this machine
        ask --allow-net all tcp connect other.test:80
        ask --allow-net all tcp connect 192.0.2.2:80
        ask --allow-net all tcp connect evil.test:80
        ask --allow-net evil.test tcp connect evil.test:80
        ask --allow-net evil.test,127.0.0.1 tcp connect evil.test:80
        "#,
    );
    run.stdout_is(
        "one\none\none\n\
         - another port, another name, and the address of another\n\
         sampan: connection to peer.test:80 denied: allow it with --allow-net peer.test:80\n\
         sampan: connection to peer.test:80 denied: allow it with --allow-net peer.test:80\n\
         sampan: look-up of \"other.test\" denied: allow it with --allow-net other.test\n\
         sampan: connection to 192.0.2.1:80 denied: allow it with --allow-net 192.0.2.1:80\n\
         - everybody is nobody of this machine\n\
         two\ntwo\n\
         sampan: look-up of \"evil.test\" denied: it leads to 127.0.0.1, which a name cannot grant; allow it with \
         --allow-net 127.0.0.1\n\
         sampan: look-up of \"evil.test\" denied: it leads to 127.0.0.1, which a name cannot grant; allow it with \
         --allow-net 127.0.0.1\n\
         own\n",
    );
}

#[test]
fn requests_go_over_tls_with_the_systems_certificates() {
    if lacks(NETWORK) || lacks(&[Need::Tool("openssl")]) {
        return;
    }
    let store = Store::fresh(&["web"]);
    let run = with_peers(
        &store,
        r#"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=peer.test \
            -addext subjectAltName=DNS:peer.test -addext basicConstraints=critical,CA:FALSE >/dev/null 2>&1
        openssl s_server -accept 443 -cert cert -key key -www >/dev/null 2>&1 &
        servers="$servers $!"
        until openssl s_client -connect 192.0.2.1:443 </dev/null >/dev/null 2>&1; do :; done
        fetch() { curl -sS "http://127.0.0.1:8080/fetch?url=$1" | head -c 300 | tr '\n' ' '; echo; }
        try() {
            sampan run -d --name web -p 8080:8080 "$@" web >/dev/null
            fetch https://peer.test/
            fetch https://other.test/
            fetch http://peer.test/who
            grep -e failed -e denied -e called "$(dirname "$(sampan inspect -f '{{.LogPath}}' web)")/diagnostics.log" | cut -d' ' -f2-
            sampan rm -f web >/dev/null
        }
        echo - trusted
        SSL_CERT_FILE="$PWD/cert" try --allow-net peer.test | sed 's/<HTML>.*/page/'
        echo - not trusted
        try --allow-net 'peer.test:443'
        "#,
    );
    run.stdout_is(
        "- trusted\npage\n\
         https://other.test/: HttpRequestDenied \none\n\
         called peer.test:443\n\
         request to other.test:443 denied: allow it with --allow-net other.test:443\n\
         called peer.test:80\n\
         - not trusted\n\
         https://peer.test/: TlsCertificateError \n\
         https://other.test/: HttpRequestDenied \n\
         http://peer.test/who: HttpRequestDenied \n\
         called peer.test:443\n\
         request to peer.test:443 failed: invalid peer certificate: UnknownIssuer\n\
         request to other.test:443 denied: allow it with --allow-net other.test:443\n\
         connection to peer.test:80 denied: allow it with --allow-net peer.test:80\n",
    );
}

#[test]
fn a_real_server_is_reached_when_it_was_granted() {
    if lacks(&[Need::Tool("redis-server")]) {
        return;
    }
    let (store, dir, port) = (Store::shared(&["python"]), Dir::new(), free_port());
    let server = sampan_tests::Run::new(["redis-server", "--port", &port.to_string(), "--save", ""]).dir(dir.path());
    let _server = server.start();
    eventually("redis listens", || net::is_open(port));
    let client = "import socket, sys\n\
                  s = socket.create_connection((\"127.0.0.1\", int(sys.argv[1])))\n\
                  f = s.makefile(\"rwb\")\n\
                  def ask(*words):\n    \
                      f.write(b\"*%d\\r\\n\" % len(words) + b\"\".join(b\"$%d\\r\\n%s\\r\\n\" % (len(w), w) for w in words))\n    \
                      f.flush(); return f.readline()\n\
                  print(ask(b\"SET\", b\"greeting\", b\"hello\"), ask(b\"APPEND\", b\"greeting\", b\" world\"))\n";
    let files = Dir::new().file("client.py", client);
    let run = |flags: &str| {
        store.sampan(format!("run --rm {flags} -v '{files}:/srv:ro' python python /srv/client.py {port}"))
    };
    run(&format!("--allow-net 127.0.0.1:{port}")).ok().stdout_is("b'+OK\\r\\n' b':11\\r\\n'\n");
    run("").fails(1).stderr_has(&format!("--allow-net 127.0.0.1:{port}"));
}

#[test]
fn what_was_granted_is_shown_and_what_makes_no_sense_is_refused() {
    let store = Store::shared(&["tcp"]);
    let box_ = store.container("box");
    store.sampan(format!("create --name {box_} --allow-net *.example.com:443,10.0.0.0/8 tcp")).ok();
    assert_eq!(box_.inspect("{{json .Sampan.Grants.AllowNet}}"), r#"["*.example.com:443","10.0.0.0/8"]"#);
    for rule in ["https://example.com", "10.0.0.1/8", "a.com:0", "[::1"] {
        let run = store.sampan(format!("run --rm --allow-net {rule} tcp")).fails(125);
        run.stderr_has("invalid network rule").stderr_has("wanted all, public, HOST");
    }
    store.sampan("run --rm --network none --allow-net all tcp").fails(125).stderr_has("--network none leaves nobody");
}

#[test]
fn diagnostics_are_shown_and_an_image_can_wish() {
    let store = Store::fresh(&["tcp"]);
    store.sampan("run --name box --allow-net 127.0.0.0/8 tcp connect 10.0.0.1:80").fails(1);
    let denied = "connection to 10.0.0.1:80 denied: allow it with --allow-net 10.0.0.1:80\n";
    store.sampan("logs --diagnostics box").ok().stdout_is(denied);
    store.sampan("logs --diagnostics --tail 0 box").ok().stdout_is("");
    assert!(store.sampan("logs --diagnostics -t box").ok().stdout.starts_with("20"));
    store.sampan("logs --diagnostics -f box").fails(125).stderr_has("cannot be used with");
    store.build_from("wish", &Dir::context("FROM tcp\nLABEL dev.sampan.allow-net=api.example.com:443\n"));
    let told = store.sampan("image inspect --capabilities wish").ok();
    told.stdout_has("It wishes for --allow-net api.example.com:443");
    // A wish grants nothing.
    let run = store.sampan("run --rm wish connect api.example.com:443").fails(1);
    run.stderr_has("look-up of \"api.example.com\" denied");
}

#[test]
fn run_of_a_build_calls_public_addresses_and_says_whom() {
    if lacks(NETWORK) {
        return;
    }
    let store = Store::fresh(&["tcp"]);
    let run = with_peers(
        &store,
        r#"
        step() { printf 'FROM tcp\n%s ["/tcp.wasm", "connect", "%s:80", "GET /who HTTP/1.0\\r\\n\\r\\n"]\n' "$1" "$2" >Dockerfile; }
        build() { sampan build --no-cache --progress plain "$@" . 2>&1 | grep -e called -e 'sampan:.*denied' -e '^one' -e '^own' || true; }
        step RUN peer.test; build
        step 'RUN --network=none' peer.test; build
        step RUN peer.test; build --network none
        step RUN 127.0.0.1; build
        step RUN 127.0.0.1; build --allow-net 127.0.0.1:80
        printf 'FROM scratch\nADD http://peer.test/who /who\n' >Dockerfile; sampan build -q -t added . >/dev/null
        sampan save added -o added.tar
        printf 'FROM scratch\nADD http://peer.test/none /who\n' >Dockerfile; sampan build . 2>&1 | grep 404
        "#,
    );
    run.stdout_is(
        "one\n => called peer.test:80\n\
         sampan: look-up of \"peer.test\" denied: allow it with --allow-net peer.test\n\
         sampan: look-up of \"peer.test\" denied: allow it with --allow-net peer.test\n\
         sampan: connection to 127.0.0.1:80 denied: allow it with --allow-net 127.0.0.1:80\n\
         own\n => called 127.0.0.1:80\n\
         sampan: Dockerfile:2:1: ADD http://peer.test/none failed: the server answered 404 Not Found\n",
    );
}
