//! The streams of `kubectl exec`, `attach` and `port-forward`: kubelet asks for a place by gRPC, and connects there. A place is
//! a token that works once and for a minute, on the loopback interface (k8s.io/kubelet/pkg/cri/streaming).
//!
//! ```text
//! connection  streams, whatever is spoken
//! spdy        SPDY's frames and streams
//! dictionary  what its headers are packed with
//! websocket   the same as channels
//! terminal    exec and attach: the streams of a program
//! forward     port-forward: connections into a pod
//! ```

mod connection;
mod dictionary;
mod forward;
mod spdy;
mod terminal;
mod websocket;

use super::Node;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tonic::Status;

/// How long a token waits for its client.
const LIFE: Duration = Duration::from_secs(60);
/// How many wait at a time.
const MOST: usize = 1000;
/// How long the streams of a session may take to be opened.
const PATIENCE: Duration = Duration::from_secs(30);
const VERSIONS: &str = "x-stream-protocol-version";

/// What a place is for.
#[derive(Debug, Clone)]
pub(super) enum Session {
    Exec { container: String, args: Vec<String>, streams: Streams },
    Attach { container: String, streams: Streams },
    Forward { pod: String },
}

impl Session {
    fn word(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::Forward { .. } => "portforward",
        }
    }
}

/// Which streams a client will open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    /// As a request has them: a terminal says everything by its standard output.
    pub fn of(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Self, Status> {
        if tty && stderr {
            return Err(Status::invalid_argument(
                "a terminal has no standard error of its own: ask for tty or for stderr",
            ));
        }
        if !stdin && !stdout && !stderr {
            return Err(Status::invalid_argument("one of stdin, stdout and stderr must be asked for"));
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }

    fn count(self) -> usize {
        let each = [self.stdin, self.stdout, self.stderr, self.tty];
        // One for the error.
        1 + each.into_iter().filter(|wanted| *wanted).count()
    }
}

/// Where clients connect.
#[derive(Debug)]
pub(super) struct Places {
    address: SocketAddr,
    waiting: Mutex<HashMap<String, (Instant, Session)>>,
}

impl Places {
    /// Opens the server's socket.
    pub async fn open() -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        Ok((Self { address: listener.local_addr()?, waiting: Mutex::default() }, listener))
    }

    /// A place for a session: its URL.
    pub fn offer(&self, session: Session) -> Result<String, Status> {
        let token = crate::cri::draw_id()?;
        let url = format!("http://{}/{}/{token}", self.address, session.word());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| since.elapsed() < LIFE);
        if waiting.len() >= MOST {
            return Err(Status::resource_exhausted(format!("{MOST} sessions wait for their clients")));
        }
        waiting.insert(token, (Instant::now(), session));
        Ok(url)
    }

    fn take(&self, path: &str) -> Option<Session> {
        let (word, token) = path.strip_prefix('/')?.split_once('/')?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, session) = waiting.remove(token)?;
        (since.elapsed() < LIFE && session.word() == word).then_some(session)
    }
}

/// Serves sessions until the future is dropped.
pub(super) async fn serve(node: Arc<Node>, listener: TcpListener) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let each = service_fn(|request| {
                let node = Arc::clone(&node);
                async move { Ok::<_, Infallible>(answer(&node, request)) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let _ = server.serve_connection(TokioIo::new(stream), each).with_upgrades().await;
        });
    }
}

/// What a client asks this place to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    Spdy,
    WebSocket,
}

impl Upgrade {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let upgrade = headers.get(UPGRADE)?.to_str().ok()?;
        match upgrade {
            spdy if spdy.eq_ignore_ascii_case("spdy/3.1") => Some(Self::Spdy),
            websocket if websocket.eq_ignore_ascii_case("websocket") => Some(Self::WebSocket),
            _ => None,
        }
    }

    /// The header by which protocols are offered and chosen.
    fn header(self) -> HeaderName {
        match self {
            Self::Spdy => HeaderName::from_static(VERSIONS),
            Self::WebSocket => SEC_WEBSOCKET_PROTOCOL,
        }
    }

    /// The protocols that are spoken for a session, the best first.
    fn protocols(self, session: &Session) -> &'static [&'static str] {
        match (self, session) {
            (Self::Spdy, Session::Exec { .. } | Session::Attach { .. }) => &["v4.channel.k8s.io"],
            (Self::Spdy, Session::Forward { .. }) => &["portforward.k8s.io"],
            (Self::WebSocket, Session::Exec { .. } | Session::Attach { .. }) => &websocket::PROTOCOLS,
            (Self::WebSocket, Session::Forward { .. }) => &[],
        }
    }

    /// The answer that makes the change.
    fn accepted(self, protocol: &'static str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answers = response.headers_mut();
        answers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        answers.insert(self.header(), HeaderValue::from_static(protocol));
        match self {
            Self::Spdy => drop(answers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"))),
            Self::WebSocket => {
                answers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
                let accept = HeaderValue::try_from(websocket::accept(key));
                answers.extend(accept.map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
            }
        }
        response
    }
}

fn answer(node: &Arc<Node>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = |status, text: &str| {
        let mut response = Response::new(Full::from(format!("{text}\n")));
        *response.status_mut() = status;
        response
    };
    let Some(upgrade) = Upgrade::of(request.headers()) else {
        return plain(StatusCode::BAD_REQUEST, "this place is for streams: upgrade to SPDY/3.1 or WebSocket");
    };
    let Some(session) = node.places.take(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "there is no such session: a token works once, and for a minute");
    };
    let offered = request.headers().get_all(upgrade.header()).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<String> = offered.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
    let known = upgrade.protocols(&session);
    let Some(protocol) = known.iter().find(|name| offered.iter().any(|offered| offered == *name)) else {
        let known = if known.is_empty() { "none; take SPDY/3.1".to_owned() } else { known.join(", ") };
        return plain(StatusCode::FORBIDDEN, &format!("of the protocols {offered:?} none is spoken here, but {known}"));
    };
    let response = upgrade.accepted(protocol, request.headers());
    let upgraded = hyper::upgrade::on(&mut request);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let Ok(io) = upgraded.await.map(TokioIo::new) else { return };
        let connection = match (upgrade, &session) {
            (Upgrade::WebSocket, Session::Exec { streams, .. } | Session::Attach { streams, .. }) => {
                websocket::speak(io, *streams).await
            }
            _ => spdy::speak(io),
        };
        match session {
            Session::Exec { container, args, streams } => {
                terminal::serve(&node, connection, &container, Some(&args), streams).await;
            }
            Session::Attach { container, streams } => {
                terminal::serve(&node, connection, &container, None, streams).await;
            }
            Session::Forward { pod } => forward::forward(&node, connection, &pod).await,
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_for_one_client() {
        let (places, _listener) = Places::open().await.unwrap();
        let offer = || {
            let url = places.offer(Session::Forward { pod: "p".into() }).unwrap();
            let path = url.strip_prefix(&format!("http://{}", places.address)).unwrap();
            path.to_owned()
        };
        let path = offer();
        assert!(matches!(places.take(&path), Some(Session::Forward { .. })));
        assert!(places.take(&path).is_none(), "it works once");
        // What was meant for one thing is spent by the try to use it for another.
        let path = offer();
        assert!(places.take(&path.replace("portforward", "exec")).is_none() && places.take(&path).is_none());
        assert!(["", "/", "/portforward/", "/portforward/x"].iter().all(|path| places.take(path).is_none()));
    }
}
