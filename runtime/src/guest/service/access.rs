//! The access log: a line for each request, in the form that NCSA's server wrote first and every reader of logs knows
//! (its "common log format"), and after it how long the request took.

use http::{StatusCode, Version};
use std::net::SocketAddr;
use std::time::Instant;

/// What is written of one request.
pub(super) struct Access {
    peer: SocketAddr,
    at: jiff::Timestamp,
    request: String,
    status: StatusCode,
    begun: Instant,
}

impl Access {
    pub(super) fn new<B>(peer: SocketAddr, request: &hyper::Request<B>) -> Self {
        let version = match request.version() {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let target = request.uri().path_and_query().map_or("*", |target| target.as_str());
        Self {
            peer,
            at: jiff::Timestamp::now(),
            request: format!("{} {} {version}", request.method(), quotable(target)),
            status: StatusCode::OK,
            begun: Instant::now(),
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode, begun: Instant) {
        (self.status, self.begun) = (status, begun);
    }

    /// The line; an answer that was broken off has a `-` after its bytes.
    pub(super) fn line(&self, bytes: u64, whole: bool) -> String {
        let Self { peer, at, request, status, begun } = self;
        let at = at.strftime("%d/%b/%Y:%H:%M:%S +0000");
        let cut = if whole { "" } else { "-" };
        let (ip, status, took) = (peer.ip(), status.as_u16(), begun.elapsed().as_secs_f64());
        format!("{ip} - - [{at}] \"{request}\" {status} {bytes}{cut} {took:.6}\n")
    }
}

/// What a client has sent cannot end the quotation.
fn quotable(target: &str) -> String {
    target.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_readers_of_logs_expect() {
        let request = hyper::Request::get("http://h/a?b=%22\\").body(()).unwrap();
        let mut access = Access::new("[::1]:80".parse().unwrap(), &request);
        access.at = "2026-11-22T03:49:20Z".parse().unwrap();
        access.answered(StatusCode::NOT_FOUND, Instant::now());
        let line = access.line(14, false);
        let (front, took) = line.rsplit_once(' ').unwrap();
        assert_eq!(front, r#"::1 - - [22/Nov/2026:03:49:20 +0000] "GET /a?b=%22\\ HTTP/1.1" 404 14-"#);
        assert!(took.trim_end().parse::<f64>().unwrap() < 10.0);
    }
}
