//! The two logs: a line for each request on standard output, in nginx's format `combined`, and what went wrong on
//! standard error.

use http::{HeaderMap, HeaderName, Request, header};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A number for each connection, as nginx has it in its log of errors.
pub fn next_connection() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The parts of the date: day, month's name, year, time.
fn now() -> [String; 4] {
    // Sun, 06 Nov 1994 08:49:37 GMT (RFC 9110, 5.6.7)
    let text = httpdate::fmt_http_date(SystemTime::now());
    let mut words = text.split(' ').skip(1).map(str::to_owned);
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// A line on standard error.
pub fn notice(level: &str, words: &str) {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let [day, month, year, time] = now();
    let month = MONTHS.find(&month).map_or(0, |at| at / 3 + 1);
    eprintln!("{year}/{month:02}/{day} {time} [{level}] 1#1: {words}");
}

/// What a request's lines are made of.
pub struct Line {
    client: IpAddr,
    connection: u64,
    request: String,
    host: String,
    referer: String,
    agent: String,
    /// The status of the answer.
    pub status: u16,
    /// The bytes of its body that were handed over.
    pub sent: u64,
}

impl Line {
    pub fn new<B>(client: IpAddr, connection: u64, request: &Request<B>) -> Self {
        let text = format!("{} {} {:?}", request.method(), request.uri(), request.version());
        let field = |name| value(request.headers(), &name);
        Self {
            client,
            connection,
            request: text,
            host: field(header::HOST),
            referer: field(header::REFERER),
            agent: field(header::USER_AGENT),
            status: 200,
            sent: 0,
        }
    }

    /// Says what went wrong.
    pub fn error(&self, words: &str) {
        let (number, client) = (self.connection, self.client);
        let request = format!("client: {client}, request: \"{}\", host: \"{}\"", self.request, self.host);
        notice("error", &format!("*{number} {words}, {request}"));
    }
}

/// The answer is over when nobody has its body any more.
impl Drop for Line {
    fn drop(&mut self) {
        let Self { client, request, referer, agent, status, sent, .. } = self;
        let [day, month, year, time] = now();
        println!(
            "{client} - - [{day}/{month}/{year}:{time} +0000] \"{request}\" {status} {sent} \"{referer}\" \"{agent}\""
        );
    }
}

/// The value of a field, with nothing in it that could end a line or a quotation.
fn value(headers: &HeaderMap, name: &HeaderName) -> String {
    let Some(value) = headers.get(name) else { return "-".into() };
    let mut text = String::new();
    for byte in value.as_bytes() {
        match byte {
            b'"' | b'\\' | 0..32 | 127.. => drop(write!(text, "\\x{byte:02X}")),
            byte => text.push(char::from(*byte)),
        }
    }
    text
}
