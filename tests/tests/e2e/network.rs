//! Networks that users make: containers find each other there by name and address, and nowhere else.

use sampan_tests::container::Strike;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::{Dir, Output, Store, eventually, net};
use std::io::Read as _;

/// A network that is removed when the value is dropped.
struct Net<'a>(&'a Store, String);

impl<'a> Net<'a> {
    fn create(store: &'a Store, flags: &str) -> Self {
        let name = format!("net-{}", sampan_tests::files::unique());
        store.sampan(format!("network create {flags} {name}")).ok();
        Self(store, name)
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        let _ = self.0.sampan(format!("network rm -f {}", self.1)).run();
    }
}

impl std::fmt::Display for Net<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

fn connect(store: &Store, flags: &str, to: &str) -> Output {
    store.sampan(format!("run --rm {flags} tcp connect {to} hello")).run()
}

#[test]
fn containers_find_each_other_by_name_alias_id_and_address() {
    let store = Store::shared(&["tcp", "p3"]);
    let network = Net::create(store, "");
    let db = store.detached(format!("--network {network} --network-alias store --network-alias Vault tcp"));
    db.says("listening on");
    let ip = db.inspect(&format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"));
    let short = &db.id()[..12];
    for name in [db.name(), "store", "vault", short, &ip] {
        let run = connect(store, &format!("--network {network}"), &format!("{name}:7000")).ok();
        run.stdout_has("hello").stdout_has(&format!("to {ip}:7000")).stdout_has("connected from 10.");
    }
    store.sampan(format!("run --rm --network {network} p3 connect store:7000 hello")).ok().stdout_has("hello");
    // The other side sees who calls, and not the loopback that it comes over.
    db.logs().stdout_has("peer 10.").stdout_lacks("127.");
    connect(store, &format!("--network {network}"), "store:7001").fails(1).stderr_has("connection-refused");
}

#[test]
fn nobody_else_finds_them() {
    let store = Store::shared(&["tcp"]);
    let (network, other) = (Net::create(store, ""), Net::create(store, ""));
    let db = store.detached(format!("--network {network} --network-alias store tcp"));
    db.says("listening on");
    let ip = db.inspect("{{.NetworkSettings.IPAddress}}");
    for flags in ["", "--network host", &format!("--network {other}")] {
        connect(store, flags, "store:7000").fails(1).stderr_has("\"store\" denied");
        connect(store, flags, &format!("{ip}:7000")).fails(1).stderr_has(&format!("connection to {ip}:7000 denied"));
    }
    // Two on the default network do not find each other either.
    let alone = store.detached("tcp");
    alone.says("listening on");
    connect(store, "", &format!("{}:7000", alone.name())).fails(1).stderr_has("denied");
}

#[test]
fn datagrams_go_to_and_fro_between_peers() {
    let store = Store::shared(&["tcp", "python"]);
    let network = Net::create(store, "");
    let udp = store.detached(format!("--network {network} --network-alias echo --expose 7000/udp tcp udp"));
    udp.says("listening on");
    let send = "import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.settimeout(30); \
                u.sendto(b\"hello\", (\"echo\", 7000)); data, who = u.recvfrom(99); \
                print(data.decode(), who == (s.gethostbyname(\"echo\"), 7000))";
    store.sampan(format!("run --rm --network {network} python python -c '{send}'")).ok().stdout_is("hello True\n");
}

#[test]
fn a_service_is_called_by_name_over_http_and_calls_others() {
    let store = Store::shared(&["web"]);
    let network = Net::create(store, "");
    let _api = store.detached(format!("--network {network} --network-alias api web"));
    let front = store.detached(format!("--network {network} -p 8000 web"));
    let fetch = |url: &str| net::get(front.port("8000"), &format!("/fetch?url={url}"));
    assert!(fetch("http://api:8000/").expect(200).text().contains("Hello from Sampan"));
    // Itself too, by its own name.
    assert!(fetch(&format!("http://{}:8000/", front.name())).expect(200).text().contains("Hello"));
    assert!(fetch("http://localhost:8000/").expect(200).text().contains("Hello"));
    let refused = fetch("http://api:1/").expect(502).text();
    assert!(refused.contains("ConnectionRefused"), "{refused}");
    let denied = fetch("http://nobody.example/").expect(502).text();
    assert!(denied.contains("Denied"), "{denied}");
}

#[test]
fn a_peer_that_ends_is_gone_and_comes_back_with_its_address() {
    let store = Store::shared(&["tcp"]);
    let network = Net::create(store, "");
    let db = store.detached(format!("--network {network} --network-alias store tcp"));
    db.says("listening on");
    let ip = db.inspect("{{.NetworkSettings.IPAddress}}");
    let call = || connect(store, &format!("--network {network}"), "store:7000");
    call().ok();
    store.sampan(format!("stop {db}")).ok();
    call().fails(1).stderr_has("\"store\" denied");
    store.sampan(format!("start {db}")).ok();
    eventually("it listens again", || call().code == 0);
    assert_eq!(db.inspect("{{.NetworkSettings.IPAddress}}"), ip);
    // What a keeper has left that was killed misleads nobody.
    db.strike(Strike::Both);
    call().fails(1).stderr_has("\"store\" denied");
    store.sampan(format!("start {db}")).ok();
    eventually("it listens again", || call().code == 0);
}

#[test]
fn two_of_one_alias_are_both_found() {
    let store = Store::shared(&["tcp"]);
    let network = Net::create(store, "");
    let flags = format!("--network {network} --network-alias web");
    let (a, b) = (store.detached(format!("{flags} tcp")), store.detached(format!("{flags} tcp")));
    let found = store.sampan(format!("run --rm --network {network} tcp lookup web")).ok();
    let ips = [&a, &b].map(|container| container.inspect("{{.NetworkSettings.IPAddress}}"));
    assert_ne!(ips[0], ips[1]);
    found.stdout_has(&ips[0]).stdout_has(&ips[1]);
}

#[test]
fn what_a_network_lets_out_its_containers_may_call() {
    let store = Store::shared(&["tcp"]);
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let network = Net::create(store, &format!("-o egress={address}"));
    // What it is told is taken before it hangs up, which would be an error to who still speaks.
    std::thread::spawn(move || server.accept().map(|(mut client, _)| client.read(&mut [0; 16])));
    connect(store, &format!("--network {network}"), &address.to_string()).ok();
    store
        .sampan(format!("network inspect -f '{{{{.Options.egress}}}}' {network}"))
        .ok()
        .stdout_is(&format!("{address}\n"));
    for (flags, why) in [
        ("-o egress=10.0.0.1/8", "invalid network rule"),
        ("-o mtu=1500", "unknown option"),
        ("--internal -o egress=all", "different things"),
        ("-d overlay", "no network driver"),
        ("--subnet 192.168.0.0/24", "invalid subnet"),
    ] {
        store.sampan(format!("network create {flags} never")).run().stderr_has(why);
    }
    store.sampan("network inspect never").fails(1);
}

#[test]
fn networks_are_listed_looked_at_and_removed_as_docker_has_it() {
    let store = Store::fresh(&["hello"]);
    let id = store.sampan("network create --label tier=db --subnet 10.99.0.0/16 app").ok().line();
    store.sampan("network create web").ok();
    store.sampan("network create app").fails(1).stderr_has("already");
    store.sampan("network create host").fails(1).stderr_has("always there");
    store.sampan("network create --subnet 10.99.7.0/24 never").fails(1).stderr_has("network app");
    let listed = store.sampan("network ls --format '{{.Name}} {{.Driver}}'").ok();
    listed.stdout_is("default bridge\nhost host\nnone null\napp bridge\nweb bridge\n");
    store.sampan("network ls -q --no-trunc -f label=tier=db").ok().stdout_is(&format!("{id}\n"));
    store.sampan("network ls -q -f type=custom -f name=web --format '{{.Name}}'").ok();
    store.sampan("create --name box --network app --ip 10.99.3.4 hello").ok();
    assert_eq!(store.sampan("inspect -f '{{.NetworkSettings.IPAddress}}' box").ok().line(), "10.99.3.4");
    store.sampan("create --name two --network app --ip 10.99.3.4 hello").fails(125).stderr_has("has it");
    store.sampan("create --name two --network app --ip 10.98.3.4 hello").fails(125).stderr_has("none of");
    store.sampan("create --name two --network nowhere hello").fails(125).stderr_has("sampan network create nowhere");
    store.sampan("create --name two --network-alias x hello").fails(125).stderr_has("--network");
    store
        .sampan("ps -aq -f network=app")
        .ok()
        .stdout_is(&format!("{}\n", &store.sampan("inspect -f '{{.Id}}' box").ok().line()[..12]));
    store.sampan("network rm app").fails(1).stderr_has("is used by the container");
    store.sampan("network prune -f").ok().stdout_is("Deleted Networks:\nweb\n\n");
    store.sampan("rm box").ok();
    store.sampan("network rm app").ok().stdout_is("app\n");
    store.sampan("network rm app").fails(1).stderr_has("there is no network");
    store.sampan("network rm -f app").ok();
}

#[test]
fn of_many_at_once_each_has_an_address_of_its_own() {
    let store = Store::fresh(&["hello"]);
    store.sampan("network create --subnet 10.99.0.0/28 app").ok();
    let script = "for n in 1 2 3 4 5 6 7 8; do sampan create --name c$n --network app hello >/dev/null & done; wait
                  for n in 1 2 3 4 5 6 7 8; do sampan inspect -f '{{.NetworkSettings.IPAddress}}' c$n; done | sort -u | wc -l
                  for n in 1 2 3 4 5; do sampan network create same >/dev/null 2>&1 && echo made & done; wait";
    store.shell(script).ok().stdout_is("8\nmade\n");
}

#[test]
fn it_works_without_root() {
    if lacks(&[Need::Root, Need::UserNamespaces]) {
        return;
    }
    let store = Store::rootless(&["tcp"]);
    store.sampan("network create app").ok();
    let db = store.detached("--network app --network-alias store tcp");
    db.says("listening on");
    connect(&store, "--network app", "store:7000").ok().stdout_has("hello");
}

#[test]
fn two_python_programs_talk_by_name() {
    let store = Store::shared(&["python"]);
    let network = Net::create(store, "");
    let page = Dir::new().file("page", "hello from a peer");
    let server = store.detached(format!(
        "--network {network} --network-alias files --expose 8000 -v '{page}:/srv:ro' -w /srv python python -m http.server 8000"
    ));
    let ask = "import urllib.request as r; print(r.urlopen(\"http://files:8000/page\").read().decode())";
    let call = || store.sampan(format!("run --rm --network {network} python python -c '{ask}'")).run();
    eventually("it answers", || call().code == 0);
    call().ok().stdout_is("hello from a peer\n");
    let _ = server;
}
