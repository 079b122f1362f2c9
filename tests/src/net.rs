//! Free ports and HTTP, by hand: a client library would hide what is to be seen.

use crate::wait::PATIENCE;
use crate::{OrFail, fail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of the host that nobody has. It lies below those that the system gives to outgoing connections, so that none
/// of another test takes it before ours does.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test runs at once begin at different places.
    let begin = 12_000 + (std::process::id() % 180) as u16 * 100;
    for _ in 0..2000 {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let free = TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok();
        if free {
            return port;
        }
    }
    fail("this machine has no free port")
}

/// Whether somebody listens for TCP connections at this port of the loopback.
#[must_use]
pub fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A connection to a port of the loopback, on which nothing waits for ever.
#[track_caller]
#[must_use]
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).or_fail(format_args!("cannot connect to port {port}"));
    stream.set_read_timeout(Some(PATIENCE)).or_fail("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).or_fail("a time limit");
    stream
}

/// Sends bytes to a port of the loopback, closes that direction and returns what comes back.
#[track_caller]
#[must_use]
pub fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    stream.write_all(bytes).or_fail("cannot send");
    stream.shutdown(std::net::Shutdown::Write).or_fail("cannot end");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).or_fail("cannot receive");
    answer
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header lines, as they came.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header, by its name in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    /// Fails the test unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        if self.status != status {
            fail(format_args!("the status is {}, not {status}: {}", self.status, self.text()));
        }
        self
    }
}

/// A connection that takes one request after another.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    /// Connects to a port of the loopback.
    #[track_caller]
    #[must_use]
    pub fn connect(port: u16) -> Self {
        Self { stream: BufReader::new(connect(port)) }
    }

    /// Sends a request and leaves its answer for later.
    #[track_caller]
    pub fn send(&mut self, method: &str, target: &str, body: &[u8]) {
        self.send_with(method, target, "", body);
    }

    /// The same with header lines of the test's own.
    #[track_caller]
    pub fn send_with(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{headers}\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).or_fail("cannot send a request");
        // Beside the reading: a service that echoes answers before it has everything.
        let mut writer = stream.try_clone().or_fail("cannot clone a socket");
        let body = body.to_owned();
        std::thread::spawn(move || writer.write_all(&body));
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).or_fail("cannot send");
    }

    /// Waits until an answer has begun to come.
    #[track_caller]
    pub fn is_answered(&mut self) {
        self.stream.fill_buf().or_fail("no answer begins");
    }

    /// Reads an answer; `None` when the connection ends before it is whole.
    #[must_use]
    pub fn answer_or_end(&mut self) -> Option<Response> {
        self.try_answer().ok()
    }

    /// Reads an answer.
    #[track_caller]
    #[must_use]
    pub fn answer(&mut self) -> Response {
        self.try_answer().or_fail("cannot read an HTTP answer")
    }

    fn try_answer(&mut self) -> anyhow::Result<Response> {
        let status = self.line()?;
        let number = status.split(' ').nth(1).and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| anyhow::anyhow!("no status line: {status:?}"))?;
        let mut response = Response { status: number, headers: vec![], body: vec![] };
        loop {
            match self.line()? {
                end if end.is_empty() => break,
                header => response.headers.push(header),
            }
        }
        response.body = if let Some(length) = response.header("content-length") {
            let mut body = vec![0; length.parse()?];
            self.stream.read_exact(&mut body)?;
            body
        } else if response.header("transfer-encoding").is_some() {
            self.chunks()?
        } else {
            let mut body = Vec::new();
            self.stream.read_to_end(&mut body)?;
            body
        };
        Ok(response)
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16)?;
            let before = body.len();
            (&mut self.stream).take(size as u64).read_to_end(&mut body)?;
            anyhow::ensure!(body.len() == before + size, "a chunk was cut short");
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        Ok(line.trim_end().to_owned())
    }
}

/// One GET on a connection of its own.
#[track_caller]
#[must_use]
pub fn get(port: u16, target: &str) -> Response {
    request(port, "GET", target, b"")
}

/// One request on a connection of its own.
#[track_caller]
#[must_use]
pub fn request(port: u16, method: &str, target: &str, body: &[u8]) -> Response {
    let mut http = Http::connect(port);
    http.send(method, target, body);
    http.answer()
}
