//! The sample that stands in for nginx, as those know it who follow a tutorial.

use sampan_tests::net::{self, Http, Response};
use sampan_tests::{Container, Dir, Store, until};
use std::io::{Read, Write};

/// Waits until it listens, and says where.
fn started(container: &Container<'_>) -> u16 {
    until("it serves", || container.logs().stderr.contains("serving /").then_some(()));
    container.port("80")
}

fn ask(port: u16, method: &str, target: &str, headers: &str) -> Response {
    let mut http = Http::connect(port);
    http.send_with(method, target, headers, b"");
    http.answer()
}

fn head(port: u16, target: &str) -> String {
    let mut stream = net::connect(port);
    write!(stream, "HEAD {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_says_welcome_and_logs_who_came() {
    let store = Store::shared(&["nginx"]);
    let nginx = store.detached("-p 80 nginx");
    let port = started(&nginx);
    let page = net::get(port, "/").expect(200);
    assert!(page.text().contains("<h1>Welcome to nginx"));
    assert_eq!(page.header("content-type").unwrap(), "text/html");
    let _ = ask(port, "GET", "/none?q=1", "user-agent: me \"too\"\r\nreferer: http://x/\r\n").expect(404);
    let lines = until("two lines", || Some(nginx.logs().stdout).filter(|log| log.lines().count() == 2));
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[0].starts_with("127.0.0.1 - - ["), "{}", lines[0]);
    let length = page.body.len();
    assert!(lines[0].ends_with(&format!(" +0000] \"GET / HTTP/1.1\" 200 {length} \"-\" \"-\"")), "{}", lines[0]);
    assert!(lines[1].ends_with("\"http://x/\" \"me \\x22too\\x22\""), "{}", lines[1]);
    nginx.logs().stderr_has("open() \"/usr/share/nginx/html/none\" failed");
}

#[test]
fn a_volume_is_served_as_nginx_does_it() {
    let store = Store::shared(&["nginx"]);
    let site = Dir::new()
        .file("index.html", "front")
        .file("style.css", "body {}")
        .file("app.js", "1")
        .file("logo.svg", "<svg/>")
        .file("data", "0123456789")
        .file("with space.txt", "space")
        .file("sub/index.htm", "below")
        .file("bare/file", "x");
    let nginx = store.detached(format!("-p 80 -v '{site}:/usr/share/nginx/html:ro' nginx"));
    let port = started(&nginx);
    for (target, kind) in [
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/app.js", "text/javascript"),
        ("/logo.svg", "image/svg+xml"),
        ("/data", "application/octet-stream"),
        ("/with%20space.txt", "text/plain"),
    ] {
        assert_eq!(net::get(port, target).expect(200).header("content-type").unwrap(), kind, "{target}");
    }
    assert_eq!(net::get(port, "/sub/").expect(200).text(), "below");
    assert_eq!(net::get(port, "//sub/../data").expect(200).text(), "0123456789");
    for (target, status) in [
        ("/bare/", 403),
        ("/none", 404),
        ("/data/", 404),
        ("/../../etc/passwd", 400),
        ("/%2e%2e/x", 400),
        ("/%00", 400),
    ] {
        let page = net::get(port, target).expect(status);
        assert!(page.text().contains(&format!("<h1>{status} ")), "{target}: {}", page.text());
    }
    let to = |target| net::get(port, target).expect(301).header("location").unwrap();
    assert_eq!(to("/sub"), "/sub/");
    assert_eq!(to("/sub?a=b"), "/sub/?a=b");
    assert_eq!(to("///sub"), "/sub/");
    assert_eq!(net::request(port, "POST", "/", b"x").expect(405).header("allow").unwrap(), "GET, HEAD");
    let head = head(port, "/data");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-length: 10\r\n"), "{head}");
}

#[test]
fn parts_and_what_is_known_already_are_told_apart() {
    let store = Store::shared(&["nginx"]);
    let site = Dir::new().file("data", "0123456789");
    let nginx = store.detached(format!("-p 80 -v '{site}:/usr/share/nginx/html' nginx"));
    let port = started(&nginx);
    let whole = net::get(port, "/data").expect(200);
    let (tag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    let part = ask(port, "GET", "/data", "range: bytes=2-4\r\n").expect(206);
    assert_eq!((part.text().as_str(), part.header("content-range").unwrap().as_str()), ("234", "bytes 2-4/10"));
    assert_eq!(ask(port, "GET", "/data", "range: bytes=-3\r\n").expect(206).text(), "789");
    let nowhere = ask(port, "GET", "/data", "range: bytes=10-\r\n").expect(416);
    assert_eq!(nowhere.header("content-range").unwrap(), "bytes */10");
    assert_eq!(ask(port, "GET", "/data", "range: bytes=0-1\r\nif-range: \"old\"\r\n").expect(200).body.len(), 10);
    let known = |headers: String| {
        let mut stream = net::connect(port);
        write!(stream, "GET /data HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for headers in [format!("if-none-match: {tag}\r\n"), format!("if-modified-since: {date}\r\n")] {
        let answer = known(headers);
        assert!(answer.starts_with("HTTP/1.1 304") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    let _ = ask(port, "GET", "/data", "if-match: \"other\"\r\n").expect(412);
    // A file that was written again is another.
    std::fs::write(site.join("data"), "0123456789a").unwrap();
    let answer = known(format!("if-none-match: {tag}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("0123456789a"), "{answer}");
}

#[test]
fn many_are_served_at_once_and_what_is_in_hand_is_finished() {
    let store = Store::shared(&["nginx"]);
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let site = Dir::new().file("index.html", "front").file("big", &big);
    let nginx = store.detached(format!("-p 80 -v '{site}:/usr/share/nginx/html:ro' nginx"));
    let port = started(&nginx);
    let peers: Vec<_> = (0..30)
        .map(|_| {
            std::thread::spawn(move || {
                let mut http = Http::connect(port);
                for _ in 0..10 {
                    http.send("GET", "/", b"");
                    assert_eq!(http.answer().expect(200).text(), "front");
                }
            })
        })
        .collect();
    for peer in peers {
        peer.join().unwrap();
    }
    let idle = Http::connect(port);
    let mut http = Http::connect(port);
    http.send("GET", "/big", b"");
    http.is_answered();
    // More than the buffers on the way hold, so that it is still being sent.
    let stop = std::thread::spawn({
        let line = format!("stop -t 30 {nginx}");
        move || Store::shared(&[]).sampan(line).ok()
    });
    until("it takes no new ones", || (!net::is_open(port)).then_some(()));
    assert!(http.answer().expect(200).body == big);
    stop.join().unwrap();
    drop(idle);
    assert_eq!(nginx.wait(), 0);
    nginx.logs().stderr_has("[notice] 1#1: exit");
}

#[test]
fn an_image_from_it_serves_and_a_configuration_is_refused() {
    let store = Store::fresh(&["nginx"]);
    let site = Dir::context("FROM nginx:alpine\nCOPY site /usr/share/nginx/html\n").file("site/index.html", "mine");
    let built = store.sampan(format!("build -q -t site '{site}'")).ok();
    built.stderr_has("nginx:alpine is nginx:latest here");
    let nginx = store.detached("-p 8000 -e NGINX_PORT=8000 site");
    until("it serves", || nginx.logs().stderr.contains("serving /").then_some(()));
    assert_eq!(net::get(nginx.port("8000"), "/").expect(200).text(), "mine");
    store.sampan("run --rm nginx nginx -t").ok().stderr_has("successful");
    store.sampan("run --rm nginx nginx -c /x").fails(1).stderr_has("reads no configuration");
    store.sampan("run --rm nginx nginx -g 'worker_processes 4;'").fails(1).stderr_has("reads no configuration");
    store.sampan("run --rm -e NGINX_PORT=http nginx").fails(1).stderr_has("NGINX_PORT is no port");
    let conf = Dir::new().file("default.conf", "server {}");
    let run = format!("run --rm -v '{conf}:/etc/nginx/conf.d' nginx");
    store.sampan(run).fails(1).stderr_has("there is /etc/nginx/conf.d");
}
