//! What protects an HTTP service, and its host, from requests and from its own guest.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, Http, Response};
use sampan_tests::{Container, Run, Store, eventually};

fn web(flags: &str) -> Container<'static> {
    Store::shared(&["web"]).detached(format!("-p 8000 {flags} web"))
}

fn raw(port: u16, request: &str) -> Response {
    let mut http = Http::connect(port);
    http.send_raw(request.as_bytes());
    http.answer()
}

#[test]
fn a_guest_that_never_answers_is_504_and_harms_nobody() {
    let store = Store::shared(&["web", "web3"]);
    for (image, paths) in [("web", &["/spin", "/slow?ms=60000"][..]), ("web3", &["/slow?ms=60000"])] {
        let web = store.detached(format!("-p 8000 --http-timeout 400ms {image}"));
        let port = web.port("8000");
        for path in paths {
            net::get(port, path).expect(504);
            net::get(port, "/").expect(200);
        }
        eventually("its diagnostics name the flag", || {
            let said = web.diagnostics();
            said.contains("/slow?ms=60000") && said.contains("--http-timeout")
        });
    }
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_body_is_408() {
    let web = web("--http-timeout 400ms");
    let answer = raw(web.port("8000"), "POST /headers HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345");
    answer.expect(200);
    // /echo has begun its answer by then, so that one is cut off.
    let mut http = Http::connect(web.port("8000"));
    http.send_raw(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf");
    assert_eq!(http.answer_or_end(), None);
    net::get(web.port("8000"), "/").expect(200);
}

#[test]
fn an_answer_that_moves_is_not_cut_however_long_it_takes() {
    let web = web("--http-timeout 600ms");
    let mut http = Http::connect(web.port("8000"));
    http.send_raw(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..12 {
        // The pace of a client is what is tested here.
        std::thread::sleep(std::time::Duration::from_millis(150));
        http.send_raw(b"4\r\ntick\r\n");
    }
    http.send_raw(b"0\r\n\r\n");
    assert_eq!(http.answer().expect(200).text(), "tick".repeat(12));
}

#[test]
fn who_finds_every_instance_busy_waits_and_is_then_503() {
    let web = web("--http-max-instances 1");
    let port = web.port("8000");
    let mut first = Http::connect(port);
    first.send("GET", "/slow?ms=1500", b"");
    eventually("it is at it", || web.logs().stderr.contains("/slow?ms=1500"));
    net::get(port, "/").expect(200);
    first.answer().expect(200);

    let mut endless = Http::connect(port);
    endless.send("GET", "/slow?ms=600000", b"");
    eventually("it is at it", || web.logs().stderr.contains("/slow?ms=600000"));
    let refused = net::get(port, "/").expect(503);
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    eventually("its diagnostics name the flag", || web.diagnostics().contains("--http-max-instances"));
    drop(endless);
    // The instance of a client that is gone is gone too.
    net::get(port, "/").expect(200);
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let web = web("--http-max-body 1000");
    let port = web.port("8000");
    assert_eq!(net::request(port, "POST", "/echo", &[b'.'; 1000]).expect(200).body.len(), 1000);
    net::request(port, "POST", "/echo", &[b'.'; 1001]).expect(413);
    let mut http = Http::connect(port);
    http.send_raw(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    http.send_raw(format!("3e9\r\n{}\r\n0\r\n\r\n", ".".repeat(1001)).as_bytes());
    // The guest may have begun its answer before the limit was met.
    assert!(http.answer_or_end().is_none_or(|answer| answer.status == 413 || answer.status == 500));
    net::get(port, "/").expect(200);
}

#[test]
fn heads_of_requests_have_limits() {
    let web = web("");
    let port = web.port("8000");
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    raw(port, &format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n")).expect(431);
    let large = "v".repeat(70_000);
    raw(port, &format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\n\r\n")).expect(431);
    raw(port, &format!("GET / HTTP/1.1\r\nhost: x\r\nx-good: {}\r\n\r\n", "v".repeat(30_000))).expect(200);
    raw(port, "GET / HTTP/1.1\r\n\r\n").expect(400);
    raw(port, "GET / HTTP/1.0\r\n\r\n").expect(200);
    raw(port, "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n").expect(501);
}

#[test]
fn websockets_are_refused_and_http_2_by_upgrade_is_answered_in_http_1() {
    let web = web("");
    let port = web.port("8000");
    let upgrade = |to: &str| format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: {to}\r\n\r\n");
    let refused = raw(port, &upgrade("websocket")).expect(501);
    assert!(refused.text().contains("WebSocket"), "{refused:?}");
    raw(port, &upgrade("h2c")).expect(200);
    if lacks(&[Need::Tool("curl")]) {
        return;
    }
    let curl = format!(
        "curl -sS --max-time 30 --http2 -o /dev/null -w '%{{http_version}} %{{http_code}}' http://127.0.0.1:{port}/"
    );
    Run::new(["sh", "-euc", &curl]).ok().stdout_is("1.1 200");
}

#[test]
fn a_connection_goes_on_after_what_was_refused() {
    let web = web("");
    let mut http = Http::connect(web.port("8000"));
    for path in ["/trap", "/none", "/"] {
        http.send("GET", path, b"");
        http.answer().expect(match path {
            "/trap" => 500,
            "/none" => 404,
            _ => 200,
        });
    }
}

#[test]
fn what_no_service_can_be_given_is_refused() {
    let store = Store::shared(&["web"]);
    for flags in [
        "--http-max-instances 0",
        "--http-max-instances 1001",
        "--http-reuse 0",
        "--http-timeout soon",
        "--http-timeout=-1s",
        "--http-max-body much",
    ] {
        let refused = store.sampan(format!("run --rm {flags} web")).run();
        assert!(refused.code != 0 && refused.stderr.contains("--http-"), "{flags}: {refused:?}");
    }
}

#[test]
fn inspect_shows_what_was_given() {
    let store = Store::shared(&["web"]);
    let web =
        store.detached("-p 8000 --http-timeout 1m30s --http-max-instances 7 --http-reuse 9 --http-access-log web");
    let shown = web.inspect("{{json .Sampan.Grants.Http}}");
    for part in ["\"TimeoutMs\":90000", "\"MaxInstances\":7", "\"Reuse\":9", "\"AccessLog\":true"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}
