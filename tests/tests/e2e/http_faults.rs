//! Clients that misbehave, and a host that runs out of descriptors: a service goes on.

use sampan_tests::net::{self, Http};
use sampan_tests::{Container, Store, eventually};
use std::io::{Read, Write};

fn both() -> [Container<'static>; 2] {
    let store = Store::shared(&["web", "web3"]);
    [store.detached("-p 8000 web"), store.detached("-p 8000 web3")]
}

/// Numbers without order, the same in each run (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most + 1).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

#[test]
fn ten_thousand_requests_of_garbage_leave_a_service_as_it_was() {
    for web in both() {
        let port = web.port("8000");
        let mut noise = Noise(0x5EED);
        for n in 0..10_000 {
            let mut stream = net::connect(port);
            let head: &[u8] = match n % 4 {
                0 => b"",
                1 => b"GET / HTTP/1.1\r\n",
                2 => b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
                _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            };
            let _ = stream.write_all(head).and_then(|()| stream.write_all(&noise.bytes(200)));
            // Half of them wait for what comes back; an error is an answer too.
            if n % 2 == 0 {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 64]);
            }
        }
        net::get(port, "/").expect(200);
        assert_eq!(web.status(), "running");
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_takes_its_instance_with_it() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --http-max-instances 2 web");
    let port = web.port("8000");
    for _ in 0..20 {
        let mut stream = net::connect(port);
        stream.write_all(b"GET /big?bytes=100000000 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 4096]).unwrap();
    }
    // The guest saw its writes fail, and said so.
    eventually("the guest has noticed", || web.logs().stderr.matches("reply: ").count() >= 20);
    net::get(port, "/big?bytes=1000000").expect(200);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_loses_it() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --http-timeout 500ms --http-max-instances 1 web");
    let port = web.port("8000");
    let mut idle = net::connect(port);
    idle.write_all(b"GET /big?bytes=100000000 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    eventually("it is ended", || web.diagnostics().contains("/big?bytes=100000000"));
    net::get(port, "/").expect(200);
    drop(idle);
}

#[test]
fn requests_that_are_never_finished_keep_nobody_waiting() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 --http-max-instances 4 web");
    let port = web.port("8000");
    let slow: Vec<_> = (0..300)
        .map(|n| {
            let mut stream = net::connect(port);
            let begun = b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ";
            stream.write_all(begun.get(..n % begun.len()).unwrap_or_default()).unwrap();
            stream
        })
        .collect();
    for _ in 0..10 {
        net::get(port, "/").expect(200);
    }
    drop(slow);
}

#[test]
fn a_service_without_descriptors_says_so_once_and_recovers() {
    let store = Store::shared(&["web"]);
    let name = store.container("few");
    store.sampan(format!("run -d --name {name} -p 8000 web")).under("prlimit --nofile=40:40").ok();
    let port = name.port("8000");
    let mut crowd: Vec<Http> = (0..60).map(|_| Http::connect(port)).collect();
    eventually("it says so", || name.diagnostics().contains("new connections have to wait"));
    // Who was taken before is served.
    let first = crowd.first_mut().unwrap();
    first.send("GET", "/", b"");
    first.answer().expect(200);
    drop(crowd);
    net::get(port, "/").expect(200);
    eventually("it says so", || name.diagnostics().contains("connections are taken again"));
    assert_eq!(name.diagnostics().matches("have to wait").count(), 1, "{}", name.diagnostics());
}

#[test]
fn a_guest_that_traps_in_the_middle_of_its_answer_cuts_it_and_no_other() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let port = web.port("8000");
    let mut other = Http::connect(port);
    other.send("GET", "/slow?ms=1000", b"");
    for _ in 0..5 {
        net::get(port, "/trap").expect(500);
    }
    other.answer().expect(200);
}
