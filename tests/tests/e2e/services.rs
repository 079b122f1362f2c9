//! HTTP services: components that are called for each request.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::{self, Http};
use sampan_tests::{Container, Dir, Run, Store, eventually};

fn both() -> [Container<'static>; 2] {
    let store = Store::shared(&["web", "web3"]);
    [store.detached("-p 8000 web"), store.detached("-p 8000 web3")]
}

#[test]
fn a_request_is_answered_as_soon_as_run_has_returned() {
    for web in both() {
        let answer = net::get(web.port("8000"), "/").expect(200);
        assert!(answer.text().contains("Hello from Sampan"), "{answer:?}");
        assert!(answer.text().contains("GET /"), "{answer:?}");
    }
}

#[test]
fn a_connection_takes_one_request_after_another() {
    for web in both() {
        let mut http = Http::connect(web.port("8000"));
        for n in 0..3 {
            http.send("GET", &format!("/?n={n}"), b"");
            assert!(http.answer().expect(200).text().contains(&format!("n={n}")));
        }
        http.send("GET", "/none", b"");
        http.answer().expect(404);
        http.send("GET", "/", b"");
        http.answer().expect(200);
    }
}

#[test]
fn a_body_of_megabytes_comes_back_unharmed() {
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    for web in both() {
        let answer = net::request(web.port("8000"), "POST", "/echo", &body).expect(200);
        assert!(answer.body == body, "{} of {} bytes came back", answer.body.len(), body.len());
    }
}

#[test]
fn a_large_answer_arrives_whole() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let answer = net::get(web.port("8000"), "/big?bytes=20000000").expect(200);
    assert_eq!(answer.body.len(), 20_000_000);
    assert!(answer.body.iter().all(|byte| *byte == b'.'));
}

#[test]
fn a_service_has_its_variables_and_its_files() {
    let store = Store::shared(&["web"]);
    let data = Dir::new().file("page", "a page");
    let web = store.detached(format!("-p 8000 -e MINE=1 -v '{data}:/data:ro' web"));
    let port = web.port("8000");
    assert!(net::get(port, "/env").expect(200).text().contains("MINE=1\n"));
    assert_eq!(net::get(port, "/file?path=/data/page").expect(200).text(), "a page");
    net::get(port, "/file?path=/../etc/passwd").expect(404);
}

#[test]
fn a_service_sees_the_headers_of_its_client() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let mut http = Http::connect(web.port("8000"));
    http.send_with("GET", "/headers", "x-mine: one\r\nX-Other: two\r\n", b"");
    let headers = http.answer().expect(200).text();
    assert!(headers.contains("x-mine: one\n") && headers.contains("x-other: two\n"), "{headers}");
}

#[test]
fn requests_are_answered_side_by_side() {
    for web in both() {
        let port = web.port("8000");
        // Each waits for a second, so one after the other they would take many.
        let begun = std::time::Instant::now();
        let all: Vec<_> = (0..8).map(|_| std::thread::spawn(move || net::get(port, "/slow?ms=1000"))).collect();
        for one in all {
            assert_eq!(one.join().unwrap().expect(200).text(), "waited 1000 ms\n");
        }
        assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
    }
}

#[test]
fn no_state_goes_from_one_request_of_wasi_0_2_to_the_next() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    for _ in 0..3 {
        assert!(net::get(web.port("8000"), "/").expect(200).text().contains("Visit 1 of this instance"));
    }
}

#[test]
fn one_instance_of_wasi_0_3_answers_several_requests() {
    let store = Store::shared(&["web3"]);
    let web = store.detached("-p 8000 web3");
    let mut http = Http::connect(web.port("8000"));
    for n in 1..=3 {
        http.send("GET", "/", b"");
        let text = http.answer().expect(200).text();
        assert!(text.contains(&format!("visit {n} of this instance")), "{text}");
    }
}

#[test]
fn a_trap_is_500_for_its_request_alone_and_a_backtrace_in_the_log() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    net::get(port, "/trap").expect(500);
    net::get(port, "/").expect(200);
    assert_eq!(web.status(), "running");
    eventually("the trap is in the log", || {
        let log = web.logs().stderr;
        log.contains("GET /trap") && log.contains("unreachable") && log.contains("::trap")
    });
}

#[test]
fn requests_that_never_end_do_not_keep_others_waiting() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    // As many as there are threads that answer, and more.
    let mut busy: Vec<Http> = (0..4).map(|_| Http::connect(port)).collect();
    for http in &mut busy {
        http.send("GET", "/spin", b"");
    }
    eventually("they are at it", || web.logs().stderr.matches("GET /spin").count() == 4);
    net::get(port, "/").expect(200);
    store.sampan(format!("kill {web}")).ok();
}

#[test]
fn what_a_service_writes_is_in_its_log() {
    for web in both() {
        net::get(web.port("8000"), "/none?of=these").expect(404);
        eventually("the line is in the log", || web.logs().stderr.contains("GET /none?of=these\n"));
    }
}

#[test]
fn a_client_that_goes_away_harms_nobody() {
    for web in both() {
        let port = web.port("8000");
        for _ in 0..5 {
            let mut http = Http::connect(port);
            http.send("GET", "/slow?ms=60000", b"");
        }
        let mut half = net::connect(port);
        std::io::Write::write_all(&mut half, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
            .unwrap();
        drop(half);
        let mut nonsense = net::connect(port);
        std::io::Write::write_all(&mut nonsense, b"\x16\x03\x01nonsense\r\n\r\n").unwrap();
        net::get(port, "/").expect(200);
        assert_eq!(web.status(), "running");
    }
}

#[test]
fn curl_speaks_http_2_to_a_service() {
    if lacks(&[Need::Tool("curl")]) {
        return;
    }
    for web in both() {
        let url = format!("http://127.0.0.1:{}/", web.port("8000"));
        let curl = |flags: &str| Run::new(["sh", "-euc", &format!("curl -sS --max-time 30 {flags} {url}")]);
        let versions = curl("--http2-prior-knowledge -w '%{http_version} %{http_code}' -o /dev/null").ok();
        versions.stdout_is("2 200");
        curl("--http1.0").ok().stdout_has("Hello from Sampan");
        curl("-I").ok().stdout_has("HTTP/1.1 200 OK");
    }
}

#[test]
fn more_requests_than_instances_are_all_answered() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    let all: Vec<_> = (0..300).map(|_| std::thread::spawn(move || net::get(port, "/slow?ms=300"))).collect();
    for one in all {
        one.join().unwrap().expect(200);
    }
}
