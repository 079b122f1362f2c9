//! The instances of an HTTP service: how often one is used, what is counted of them, and what is written of requests.

use sampan_shim::v1::{HttpRequest, HttpResponse, SandboxClient};
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, Http};
use sampan_tests::{Container, Dir, Run, Store, eventually};
use ttrpc::asynchronous::Client;

/// What `sampan.v1` says of a container's requests.
fn counts(store: &Store, container: &Container<'_>) -> ttrpc::Result<HttpResponse> {
    let id = container.id();
    let socket = format!("unix://{}", store.run_dir().join(&id[..12]).join("sock").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = SandboxClient::new(Client::connect(&socket).await.unwrap());
        let request = HttpRequest { id, ..HttpRequest::default() };
        client.http(ttrpc::context::with_timeout(60_000_000_000), &request).await
    })
}

#[test]
fn an_instance_is_used_as_often_as_was_asked_for() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --http-reuse 3 web");
    let mut http = Http::connect(web.port("8000"));
    for n in [1, 2, 3, 1, 2, 3, 1] {
        http.send("GET", "/", b"");
        let text = http.answer().expect(200).text();
        assert!(text.contains(&format!("Visit {n} of this instance")), "{text}");
    }
}

#[test]
fn an_instance_that_broke_is_not_used_again() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --http-reuse 1000 web");
    let mut http = Http::connect(web.port("8000"));
    for (path, status, visit) in [("/", 200, "Visit 1"), ("/trap", 500, "500"), ("/", 200, "Visit 1")] {
        http.send("GET", path, b"");
        let text = http.answer().expect(status).text();
        assert!(text.contains(visit), "{text}");
    }
}

#[test]
fn wasi_0_3_can_do_without_reuse() {
    let store = Store::shared(&["web3"]);
    let web = store.detached("-p 8000 --http-reuse 1 web3");
    let mut http = Http::connect(web.port("8000"));
    for _ in 0..3 {
        http.send("GET", "/", b"");
        let text = http.answer().expect(200).text();
        assert!(text.contains("visit 1 of this instance"), "{text}");
    }
}

#[test]
fn requests_and_instances_are_counted() {
    let store = Store::shared(&["web", "probe"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    for (path, status) in [("/", 200), ("/", 200), ("/none", 404), ("/trap", 500)] {
        net::get(port, path).expect(status);
    }
    let mut slow = Http::connect(port);
    slow.send("GET", "/slow?ms=60000", b"");
    eventually("the slow one has an instance", || counts(store, &web).unwrap().instances_in_use == 1);
    let seen = counts(store, &web).unwrap();
    let mut requests: Vec<_> = seen.requests.into_iter().collect();
    requests.sort_unstable();
    assert_eq!(requests, [(200, 2), (404, 1), (500, 1)]);
    assert_eq!(seen.latency.iter().map(|bucket| bucket.count).sum::<u64>(), 4);
    assert!(seen.latency_sum_us > 0 && seen.instantiation_us > 0 && seen.connections >= 1);
    assert_eq!(seen.instances_made, 5);
    drop(slow);
    eventually("an idle service has no instance", || {
        let seen = counts(store, &web).unwrap();
        (seen.instances_in_use, seen.connections) == (0, 0)
    });

    let other = store.detached("probe forever");
    assert!(counts(store, &other).unwrap_err().to_string().contains("no HTTP service"));
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let store = Store::shared(&["web"]);
    let silent = store.detached("-p 8000 web");
    let web = store.detached("-p 8000 --http-access-log web");
    for web in [&silent, &web] {
        net::get(web.port("8000"), "/none?of=these").expect(404);
        assert_eq!(net::request(web.port("8000"), "POST", "/echo", b"body").expect(200).body, b"body");
    }
    eventually("the lines are there", || web.logs().stdout.lines().count() == 2);
    let log = web.logs().stdout;
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("127.0.0.1 - - [") && lines[0].contains("] \"GET /none?of=these HTTP/1.1\" 404 10 "));
    assert!(lines[1].contains("\"POST /echo HTTP/1.1\" 200 4 "), "{log}");
    assert_eq!(silent.logs().stdout, "");
}

#[test]
fn a_short_answer_has_its_length() {
    let store = Store::shared(&["hello-http"]);
    let hello = store.detached("-p 8000 hello-http");
    let answer = net::get(hello.port("8000"), "/").expect(200);
    assert_eq!((answer.header("content-length").as_deref(), answer.text().as_str()), (Some("14"), "Hello, world!\n"));
}

#[test]
fn trailers_and_many_streams_go_over_http_2() {
    if lacks(&[Need::Tool("nghttp"), Need::Tool("h2load")]) {
        return;
    }
    let store = Store::shared(&["web3", "hello-http"]);
    let web = store.detached("-p 8000 web3");
    let data = Dir::new().file("body", "a body");
    let echo = format!("http://127.0.0.1:{}/echo", web.port("8000"));
    let said = Run::new(["nghttp", "-v", "--trailer", "x-sum: 7", "-d"]).arg(data.join("body")).arg(echo).ok();
    assert!(said.stdout.contains("a body"), "{said:?}");
    let received = said.stdout.split("recv HEADERS").nth(2).unwrap_or_default();
    assert!(received.contains("x-sum") || said.stdout.contains("recv (stream_id=13) x-sum: 7"), "{}", said.stdout);

    let hello = store.detached("-p 8000 hello-http");
    let url = format!("http://127.0.0.1:{}/", hello.port("8000"));
    let load = Run::new(["h2load", "-n", "5000", "-c", "10", "-m", "50", &url]).ok();
    load.stdout_has("5000 succeeded, 0 failed, 0 errored");
}
