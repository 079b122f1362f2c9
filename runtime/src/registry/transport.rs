//! A request → an answer: connections, proxies, redirects, back-off, deadlines.

use super::hosts::Trust;
use super::{RegistryError, Result, tls};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// How often a request is sent before its failure counts.
const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A registry that wants a longer pause than this is told to the user instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// How long a connection may say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How long somebody on this machine may take to say that TLS is nothing to them, or nothing at all.
const SOON: Duration = Duration::from_secs(5);
const REDIRECTS: usize = 10;
/// How much of a file is read at once for an upload.
const PIECE: usize = 256 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, std::io::Error>;

/// What is sent along with a request; it can be sent again.
#[derive(Debug, Clone, Default)]
pub(super) enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A whole file of this size; the counter is told of each piece.
    File(PathBuf, u64, Counter),
}

/// Is told how many bytes have gone.
#[derive(Clone)]
pub struct Counter(pub Arc<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

/// A request, as often as it takes to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub payload: Payload,
    /// What is asked for, in words.
    pub what: String,
}

/// Connections to one host, and to those that it sends us to.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client<HttpsConnector<Connect>, Body>,
    authority: String,
    /// For hosts that we are redirected to: they are none of this host's certificates' business.
    elsewhere: tokio::sync::OnceCell<Client<HttpsConnector<Connect>, Body>>,
    /// What was sent of files, to see whether anything moves.
    sent: Arc<AtomicU64>,
}

impl Transport {
    pub fn new(authority: &str, scheme: &str, trust: &Trust) -> Result<Self> {
        // The system's certificates take a while to read, and plain HTTP asks for none.
        let unused = Trust { skip_verify: true, ..Trust::default() };
        let client = client(if scheme == "http" { &unused } else { trust })?;
        Ok(Self { client, authority: authority.to_owned(), elsewhere: Default::default(), sent: Arc::default() })
    }

    /// Whether there is an answer at all, soon and at the first try.
    pub async fn answers(&self, ask: &Ask) -> bool {
        let answer = tokio::time::timeout(SOON, self.once(ask, &ask.uri, true, None));
        answer.await.is_ok_and(|answer| answer.is_ok())
    }

    /// Sends a request until there is an answer that is no passing failure, following redirects of what only reads.
    /// `authorize` adds to the headers of what goes to this host, and to no other.
    pub async fn send(&self, ask: &Ask, authorize: Option<HeaderValue>) -> Result<Response<Incoming>> {
        let mut uri = ask.uri.clone();
        let (mut attempt, mut redirects) = (1, 0);
        loop {
            let here = uri.authority() == ask.uri.authority() && uri.scheme() == ask.uri.scheme();
            let answer = self.once(ask, &uri, here, authorize.as_ref()).await;
            let pause = match &answer {
                Ok(response) if is_redirect(response.status()) && reads(&ask.method) => {
                    redirects += 1;
                    if redirects > REDIRECTS {
                        return Err(self.odd(ask, "it redirects without end".to_owned()));
                    }
                    uri = follow(&uri, response.headers()).map_err(|reason| self.odd(ask, reason))?;
                    continue;
                }
                Ok(response) if is_passing(response.status()) => wanted_pause(response.headers(), attempt),
                Err(Failure { passing: true, .. }) => Some(pause(attempt)),
                _ => None,
            };
            match pause {
                Some(pause) if attempt < ATTEMPTS => tokio::time::sleep(pause).await,
                _ => return answer.map_err(|failure| failure.error),
            }
            // A redirect may be for once only.
            uri = ask.uri.clone();
            attempt += 1;
        }
    }

    async fn once(
        &self,
        ask: &Ask,
        uri: &Uri,
        here: bool,
        authorize: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(self.body(&ask.payload)?);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        // What hosts.toml adds is for its host alone; elsewhere goes only what the question needs.
        let kept = |name: &HeaderName| here || *name == header::ACCEPT || *name == header::RANGE;
        headers.extend(ask.headers.iter().filter(|(name, _)| kept(name)).map(|(n, v)| (n.clone(), v.clone())));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("sampan/", env!("CARGO_PKG_VERSION"))));
        match &ask.payload {
            Payload::File(_, size, _) => drop(headers.insert(header::CONTENT_LENGTH, (*size).into())),
            Payload::Empty if ask.method == Method::POST || ask.method == Method::PUT => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            _ => {}
        }
        if let Some(value) = authorize.filter(|_| here) {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        let client = if here { &self.client } else { self.elsewhere.get_or_try_init(async || elsewhere()).await? };
        let answer = client.request(request);
        tokio::pin!(answer);
        // Large files take long to send: what counts is whether anything moves.
        let mut seen = self.sent.load(Ordering::Relaxed);
        let answered = loop {
            match tokio::time::timeout(SILENCE, &mut answer).await {
                Ok(answered) => break answered,
                Err(_) if self.sent.swap(seen, Ordering::Relaxed) != seen => {
                    seen = self.sent.load(Ordering::Relaxed);
                }
                Err(_) => {
                    let (host, what) = (self.authority.clone(), ask.what.clone());
                    let error = RegistryError::Silent { host, what, seconds: SILENCE.as_secs() };
                    return Err(Failure { error, passing: false });
                }
            }
        };
        answered.map_err(|e| {
            let host = uri.authority().map_or_else(|| self.authority.clone(), ToString::to_string);
            Failure { passing: is_worth_another_try(&e), error: RegistryError::Unreachable { host, reason: chain(&e) } }
        })
    }

    fn body(&self, payload: &Payload) -> Result<Body, Failure> {
        let whole = |bytes: Bytes| Full::new(bytes).map_err(|never| match never {}).boxed();
        match payload {
            Payload::Empty => Ok(whole(Bytes::new())),
            Payload::Bytes(bytes) => Ok(whole(bytes.clone())),
            Payload::File(path, _, counter) => {
                let mut file = std::fs::File::open(path).map_err(RegistryError::file("read", path))?;
                let (sent, counter) = (self.sent.clone(), counter.clone());
                let pieces = futures::stream::poll_fn(move |_| {
                    let mut piece = vec![0; PIECE];
                    Poll::Ready(match file.read(&mut piece) {
                        Ok(0) => None,
                        Ok(n) => {
                            piece.truncate(n);
                            let n = u64::try_from(n).unwrap_or_default();
                            sent.fetch_add(n, Ordering::Relaxed);
                            (counter.0)(n);
                            Some(Ok(Frame::data(piece.into())))
                        }
                        Err(e) => Some(Err(e)),
                    })
                });
                Ok(BodyExt::boxed(StreamBody::new(pieces)))
            }
        }
    }

    fn odd(&self, ask: &Ask, reason: String) -> RegistryError {
        RegistryError::Answer { host: self.authority.clone(), what: ask.what.clone(), reason }
    }
}

/// Why there is no answer, and whether the next attempt may have one.
struct Failure {
    error: RegistryError,
    passing: bool,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, passing: false }
    }
}

/// Reads the rest of an answer, up to `limit` bytes. Longer ones are cut off there.
pub(super) async fn read_to_limit(answer: Response<Incoming>, limit: usize) -> Result<Bytes, String> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        let room = limit.saturating_sub(bytes.len());
        bytes.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        if bytes.len() >= limit {
            break;
        }
    }
    Ok(bytes.into())
}

/// The next piece of a body; none at its end.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(format!("nothing came for {} seconds", SILENCE.as_secs())),
            Ok(None) => return Ok(None),
            Ok(Some(Err(e))) => return Err(chain(&e)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn client(trust: &Trust) -> Result<Client<HttpsConnector<Connect>, Body>> {
    let connector = HttpsConnector::from((Connect::new(), tls::config(trust)?));
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn elsewhere() -> Result<Client<HttpsConnector<Connect>, Body>> {
    client(&Trust::default())
}

/// Opens connections: straight, or through the proxy that `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name. A proxy is used
/// for TLS only, so that it sees nothing.
#[derive(Clone, Debug)]
struct Connect {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Connect {
    fn new() -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        Self { http, proxies: Arc::new(Matcher::from_env()) }
    }
}

impl Service<Uri> for Connect {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let proxy = self.proxies.intercept(&to).filter(|_| to.scheme_str() == Some("https"));
        Box::pin(async move {
            match proxy {
                None => Ok(http.call(to).await?),
                Some(proxy) => {
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
                    if let Some(auth) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(auth.clone());
                    }
                    Ok(tunnel.call(to).await?)
                }
            }
        })
    }
}

/// A pause that grows, never the same for two who were turned away at once.
pub(super) fn pause(attempt: u32) -> Duration {
    let base = FIRST_PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1)).min(64);
    let mut random = [0; 1];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    base.mul_f64(0.75 + f64::from(random[0]) / 512.0)
}

/// As long as the registry says (RFC 9110, `Retry-After`, in seconds); none if that is too long.
fn wanted_pause(headers: &HeaderMap, attempt: u32) -> Option<Duration> {
    let said = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    match said.map(Duration::from_secs) {
        Some(said) if said > LONGEST_PAUSE => None,
        Some(said) => Some(said.max(pause(attempt))),
        None => Some(pause(attempt)),
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn reads(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// A host that is not there will not be there in a second; one that hangs up may well be.
fn is_worth_another_try(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as K;
            let passing = [K::ConnectionReset, K::ConnectionAborted, K::BrokenPipe, K::UnexpectedEof, K::TimedOut];
            return passing.contains(&io.kind());
        }
        cause = error.source();
    }
    !error.is_connect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = error.source();
    }
    text
}

/// Where `Location` leads from `base` (RFC 3986, section 5, for the forms that registries use).
pub(super) fn follow(base: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).ok_or("it names no Location")?;
    let bad = |e: &dyn std::fmt::Display| format!("its Location {location:?} is none: {e}");
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map(ToString::to_string).unwrap_or_default();
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    text.parse().map_err(|e: http::uri::InvalidUri| bad(&e))
}

/// A header's value from what a file or a registry says.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header"))?;
    let value = HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} is none"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_followed_from_where_it_was_said() {
        let base: Uri = "http://r:5000/v2/a/blobs/uploads/".parse().unwrap();
        for (location, leads_to) in [
            ("https://s3.example/x?sig=1", "https://s3.example/x?sig=1"),
            ("//other/x", "http://other/x"),
            ("/v2/a/blobs/uploads/1?_state=x", "http://r:5000/v2/a/blobs/uploads/1?_state=x"),
            ("1?x", "http://r:5000/v2/a/blobs/uploads/1?x"),
        ] {
            let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static(location))]);
            assert_eq!(follow(&base, &headers).unwrap().to_string(), leads_to);
        }
        assert!(follow(&base, &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_pause_is_as_long_as_the_registry_wants_it() {
        let said = |text| HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(wanted_pause(&said("3600"), 1), None);
        assert_eq!(wanted_pause(&said("2"), 1), Some(Duration::from_secs(2)));
        assert!(wanted_pause(&HeaderMap::new(), 3).unwrap() >= FIRST_PAUSE * 3);
        assert!(pause(1) < pause(3));
    }
}
