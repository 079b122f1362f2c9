//! Outgoing HTTP of guests (`wasi:http/outgoing-handler`, `wasi:http/client`): TLS on this side with the system's
//! certificates, connections kept for the next request, and the same peers as for sockets.

use super::outside::Unresolved;
use super::traffic::Counted;
use super::view::{Inner, View, literal};
use super::{Denied, Event, Unreached};
use crate::grants::{Network, Protocol};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::Scheme;
use http::{Request, Response, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tower_service::Service;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// What a guest that sets no time limits gets, as with the engine's own client.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a connection is kept for another request.
const IDLE: Duration = Duration::from_secs(30);
/// How many are kept for each peer.
const MOST_IDLE: usize = 32;

type Plain = Pool<Dialer, WasiBody>;
type Secure = Pool<HttpsConnector<Dialer>, WasiBody>;

/// One container's connections to its HTTP peers.
#[derive(Debug, Default)]
pub struct Client {
    plain: OnceLock<Plain>,
    secure: OnceCell<Secure>,
}

tokio::task_local! {
    /// The time limit of the request that a connection is opened for.
    static CONNECT: Duration;
}

impl View {
    /// Sends a guest's request.
    ///
    /// # Errors
    /// When its authority was not granted, or what the guest is to be told of the connection.
    pub async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Error> {
        let options = options.unwrap_or_default();
        let whom = authority(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        if !self.may_call(request.uri()) {
            self.deny(Denied::Request(whom));
            return Err(Error::HttpRequestDenied);
        }
        *request.version_mut() = Version::HTTP_11;
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let connect = options.connect_timeout.unwrap_or(PATIENCE);
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let sending = async {
            if secure { self.secure().await?.request(request).await } else { self.plain().request(request).await }
                .map_err(|e| self.explain(&whom, &e))
        };
        let sending = CONNECT.scope(connect, sending);
        let response = tokio::time::timeout(connect.saturating_add(first_byte), sending);
        let response = response.await.map_err(|_| Error::ConnectionReadTimeout)??;
        let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
        Ok(response.map(|incoming| Patient { incoming, between, late: None }.boxed_unsync()))
    }

    /// Whether a request may go there, as far as can be said before the name is looked up.
    fn may_call(&self, to: &Uri) -> bool {
        let host = to.host().unwrap_or_default();
        let ip = match literal(host) {
            Some(ip) => ip,
            None if self.0.has_peers => return true,
            None => return self.0.network != Network::None && self.0.egress.names(host),
        };
        let address = SocketAddr::new(ip, port(to));
        self.is_peer(ip)
            || self.own(Protocol::Tcp, address).is_some()
            || (self.0.network != Network::None && self.0.egress.covers(ip, address.port()))
    }

    fn plain(&self) -> &Plain {
        self.0.client.plain.get_or_init(|| builder().build(Dialer::of(self)))
    }

    async fn secure(&self) -> Result<&Secure, Error> {
        let make = async {
            let failed = |why: String| {
                self.tell(&Event::Failed(format!("TLS cannot be used: {why}")));
                Error::ConfigurationError
            };
            let mut roots = RootCertStore::empty();
            let found = self.0.outside.roots().await.map_err(failed)?;
            // Some of a system's certificates may be odd; the others serve.
            roots.add_parsable_certificates(found.into_iter().map(CertificateDer::from));
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| failed(e.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(config)
                .https_only()
                .enable_http1()
                .enable_http2()
                .wrap_connector(Dialer::of(self));
            Ok(builder().build(connector))
        };
        self.0.client.secure.get_or_try_init(|| make).await
    }

    /// What a failed request means for the guest; what its error codes cannot say is told to people.
    fn explain(&self, whom: &str, error: &hyper_util::client::legacy::Error) -> Error {
        let mut link: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(this) = link {
            if let Some(failed) = this.downcast_ref::<DialError>() {
                return match failed {
                    DialError::Denied(_) | DialError::Unresolved(Unresolved::Denied) => Error::HttpRequestDenied,
                    DialError::Unresolved(Unresolved::NoSuchName) => {
                        Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None }
                    }
                    DialError::Unresolved(Unresolved::Temporary(_)) => Error::DnsTimeout,
                    DialError::Connect(e) => match e.kind() {
                        std::io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                            Error::DestinationIpUnroutable
                        }
                        _ => Error::ConnectionRefused,
                    },
                };
            }
            if let Some(tls) = this.downcast_ref::<rustls::Error>() {
                self.tell(&Event::Failed(format!("request to {whom} failed: {tls}")));
                return match tls {
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                        Error::TlsCertificateError
                    }
                    _ => Error::TlsProtocolError,
                };
            }
            // The guest's own body had an error: it knows best.
            if this.downcast_ref::<Error>().is_some() {
                return Error::ConnectionTerminated;
            }
            if let Some(e) = this.downcast_ref::<hyper::Error>()
                && e.is_timeout()
            {
                return Error::HttpResponseTimeout;
            }
            // An error of I/O keeps its cause in a place of its own.
            link = match this.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => this.source(),
            };
        }
        if error.is_connect() { Error::ConnectionRefused } else { Error::HttpProtocolError }
    }

    /// Opens a connection to a peer by its name or address.
    async fn dial(&self, to: &Uri) -> Result<TcpStream, DialError> {
        let whom = authority(to).unwrap_or_default();
        let (host, port) = (to.host().unwrap_or_default(), port(to));
        let denied = || DialError::Denied(Denied::Request(whom.clone()));
        let found = self.look_up(host).await.map_err(|why| match why {
            Unresolved::Denied => denied(),
            other => DialError::Unresolved(other),
        })?;
        let mut failed = None;
        for ip in found {
            let real = match self.reach(Protocol::Tcp, SocketAddr::new(ip, port)).await {
                Ok(real) => real,
                Err(Unreached::Denied(denied)) => {
                    failed = failed.or(Some(DialError::Denied(denied)));
                    continue;
                }
                Err(Unreached::NobodyListens) => {
                    failed = Some(DialError::Connect(std::io::ErrorKind::ConnectionRefused.into()));
                    continue;
                }
            };
            match connect(real, self.source(Protocol::Tcp, real)).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    if let Ok(local) = stream.local_addr()
                        && self.is_own(Protocol::Tcp, real)
                    {
                        self.own_client(local.port());
                    }
                    return Ok(stream);
                }
                Err(e) => failed = Some(DialError::Connect(e)),
            }
        }
        Err(failed.unwrap_or_else(denied))
    }
}

/// Connects, from an address if there is one to come from.
async fn connect(to: SocketAddr, from: Option<SocketAddr>) -> std::io::Result<TcpStream> {
    match from {
        None => TcpStream::connect(to).await,
        Some(from) => {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(from)?;
            socket.connect(to).await
        }
    }
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Pool::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(MOST_IDLE).pool_timer(TokioTimer::new());
    builder
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 })
}

/// `host:port` of a request, as a rule would name it.
fn authority(uri: &Uri) -> Option<String> {
    uri.host().map(|host| format!("{host}:{}", port(uri)))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Denied(Denied),
    #[error(transparent)]
    Unresolved(Unresolved),
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
}

/// Opens connections for the pool, which belongs to the view and so may not keep it alive.
#[derive(Debug, Clone)]
struct Dialer(Weak<Inner>);

impl Dialer {
    fn of(view: &View) -> Self {
        Self(Arc::downgrade(&view.0))
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Counted<TcpStream>>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let view = self.0.upgrade().map(View);
        let limit = CONNECT.try_with(|limit| *limit).unwrap_or(PATIENCE);
        Box::pin(async move {
            let late = |_| DialError::Connect(std::io::ErrorKind::TimedOut.into());
            let view = view.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))?;
            let stream = tokio::time::timeout(limit, view.dial(&to)).await.map_err(late)??;
            Ok(TokioIo::new(Counted::new(stream, view.traffic())))
        })
    }
}

impl Connection for Counted<TcpStream> {
    fn connected(&self) -> Connected {
        self.inner().connected()
    }
}

/// A response's body, whose peer may be silent for so long and no longer. It is handed on as it comes: the pace of the
/// guest is the pace of the peer.
struct Patient {
    incoming: Incoming,
    between: Duration,
    late: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.late = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let between = self.between;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(between)));
        late.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
