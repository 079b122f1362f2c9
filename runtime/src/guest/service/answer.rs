//! One request, from its head to its answer, which is the guest's or says why there is none.

use super::access::Access;
use super::body::{Answer, Draft, Moves, Upload, Whole};
use super::instances::{Answered, Guest};
use super::{Crowded, Service, Way};
use crate::guest::command::ending_of;
use crate::guest::stdio::Channel;
use http::header::{CONNECTION, HOST, HeaderValue, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

/// How long a guest may go on that has given its whole answer, when there is no other limit.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// How long one may go on whose client has gone.
const ALONE: Duration = Duration::from_secs(1);

/// Why a request has no answer of its guest.
enum Failure {
    /// The request cannot be taken.
    Refused(StatusCode, &'static str),
    /// There is no room for one more instance.
    Crowded,
    /// Its body is larger than it may be.
    TooLarge,
    /// Nothing moved for too long.
    Stuck { waiting_for_client: bool },
    /// The guest broke, or said that it has no answer.
    Guest(wasmtime::Error),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        let crowded = error.is::<Crowded>()
            || error.downcast_ref::<InstantiationError<()>>().is_some_and(|e| e.error.is::<Crowded>());
        if crowded {
            Self::Crowded
        } else if error.is::<ExpirationError>() {
            Self::Stuck { waiting_for_client: false }
        } else {
            Self::Guest(error)
        }
    }
}

type Drafted = Result<Response<Draft>, Failure>;

/// A request in the guest's hands.
pub(super) struct Exchange {
    service: Arc<Service>,
    method: Method,
    uri: Uri,
    access: Option<Box<Access>>,
}

/// Answers one request.
pub(super) async fn answer(
    service: Arc<Service>,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let begun = Instant::now();
    let access = service.settings().access_log.then(|| Box::new(Access::new(peer, &request)));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut exchange = Exchange { service, method, uri, access };
    let drafted = match fit(request, exchange.service.settings().max_body) {
        Err(failure) => Err(failure),
        Ok(request) if request.body().is_end_stream() => exchange.call(request, None).await,
        Ok(request) => {
            let (head, body) = request.into_parts();
            let (body, moves) = Upload::new(body, exchange.service.settings().max_body);
            exchange.call(hyper::Request::from_parts(head, body), Some(moves)).await
        }
    };
    let response = drafted.unwrap_or_else(|failure| exchange.excuse(&failure));
    exchange.service.figures.answered(response.status().as_u16(), begun.elapsed());
    if let Some(access) = &mut exchange.access {
        access.answered(response.status(), begun);
    }
    turn().await;
    Ok(response.map(|draft| draft.into_answer(exchange)))
}

/// Lets whoever else has sent a request go first. Guests that run one after the other find their code in the
/// processor's caches, and answers that leave one after the other wake a client once: together that is a third of what a
/// request costs. Where nobody waits, it is one more turn of the loop.
async fn turn() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Refuses what cannot be handed to a guest.
fn fit(mut request: hyper::Request<Incoming>, most: Option<u64>) -> Result<hyper::Request<Incoming>, Failure> {
    if request.method() == Method::CONNECT {
        let words = "501 Not Implemented: this service is no proxy, and takes no tunnels\n";
        return Err(Failure::Refused(StatusCode::NOT_IMPLEMENTED, words));
    }
    if upgrades(request.headers()) {
        let words = "501 Not Implemented: a guest cannot take over a connection, so there are no WebSockets\n";
        return Err(Failure::Refused(StatusCode::NOT_IMPLEMENTED, words));
    }
    if request.body().size_hint().lower() > most.unwrap_or(u64::MAX) {
        return Err(Failure::TooLarge);
    }
    if request.uri().authority().is_none() {
        let bad = Failure::Refused(StatusCode::BAD_REQUEST, "400 Bad Request: one Host header was wanted\n");
        match request.headers().get(HOST) {
            Some(host) if host.to_str().is_ok() => {}
            // RFC 9112 asks for it from version 1.1 on (section 3.2).
            None if request.version() < Version::HTTP_11 => {
                request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
            }
            _ => return Err(bad),
        }
    }
    Ok(request)
}

/// Whether the connection should become another protocol's. HTTP/2 is no such: who asks for it by an upgrade is answered
/// in HTTP/1.1, as RFC 9110 has it (section 7.8).
fn upgrades(headers: &HeaderMap) -> bool {
    let Some(wanted) = headers.get(UPGRADE) else { return false };
    let has = |value: &HeaderValue, word: &str| {
        value.to_str().is_ok_and(|all| all.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
    };
    headers.get_all(CONNECTION).iter().any(|value| has(value, "upgrade")) && has(wanted, "websocket")
}

impl Exchange {
    async fn call<B>(&self, request: hyper::Request<B>, upload: Option<Arc<Moves>>) -> Drafted
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        match &self.service.way {
            Way::Fresh(instances) => {
                let room = self.service.room.place().await.map_err(|_| Failure::Crowded)?;
                let (guest, answered) = instances.call(request, room);
                self.attend(guest, answered, upload).await
            }
            Way::Shared(handler) => {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                let mut call = std::pin::pin!(handler.handle((), request));
                let mut patience = Patience::new(self.timeout(), upload.as_deref());
                let answer = poll_fn(|cx| match call.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(answer.map_err(Failure::from)),
                    Poll::Pending => patience.poll(cx).map(Err),
                })
                .await;
                let streams = |body| Draft::Streams { body, before: Whole::default(), guest: None, upload };
                Ok(answer?.map(streams))
            }
        }
    }

    /// Runs the guest until its answer begins. Often that is all of its life, and then the answer is whole.
    async fn attend(&self, mut guest: Guest, mut answered: Answered, upload: Option<Arc<Moves>>) -> Drafted {
        let mut patience = Patience::new(self.timeout(), upload.as_deref());
        let (answer, ended) = poll_fn(|cx| {
            let ended = match guest.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Guest(error))),
                Poll::Pending => false,
            };
            match answered.try_recv() {
                Ok(answer) => Poll::Ready(Ok((answer, ended))),
                Err(_) if ended => Poll::Ready(Err(Failure::Guest(wasmtime::format_err!("the guest gave no answer")))),
                Err(_) => patience.poll(cx).map(Err),
            }
        })
        .await
        .map_err(|failure| match &upload {
            Some(upload) if upload.is_too_large() => Failure::TooLarge,
            _ => failure,
        })?;
        let answer = answer.map_err(|code| match (&upload, code) {
            (Some(upload), _) if upload.is_too_large() => Failure::TooLarge,
            (_, ErrorCode::HttpRequestBodySize(_)) => Failure::TooLarge,
            (_, code) => Failure::Guest(wasmtime::format_err!("the guest's answer is an error: {code}")),
        })?;
        Ok(answer.map(|body| match ended {
            true => Draft::ended(body),
            false => Draft::Streams { body, before: Whole::default(), guest: Some(guest), upload },
        }))
    }

    pub(super) fn timeout(&self) -> Duration {
        self.service.settings().timeout
    }

    /// The answer of a request that has none of its guest.
    fn excuse(&self, failure: &Failure) -> Response<Draft> {
        let mut retry = false;
        let (status, text) = match failure {
            Failure::Refused(status, text) => (*status, *text),
            Failure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "413 Content Too Large\n"),
            Failure::Crowded => {
                retry = true;
                let most = self.service.settings().max_instances;
                self.service.say(format_args!(
                    "refused with 503: all {most} instances are busy; more are given by --http-max-instances"
                ));
                (StatusCode::SERVICE_UNAVAILABLE, "503 Service Unavailable\n")
            }
            Failure::Stuck { waiting_for_client: true } => (StatusCode::REQUEST_TIMEOUT, "408 Request Timeout\n"),
            Failure::Stuck { waiting_for_client: false } => {
                self.stuck();
                (StatusCode::GATEWAY_TIMEOUT, "504 Gateway Timeout\n")
            }
            Failure::Guest(error) => {
                self.failed(error);
                (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n")
            }
        };
        let mut response = Response::new(Draft::Whole(text.into()));
        *response.status_mut() = status;
        if retry {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(failure, Failure::TooLarge | Failure::Stuck { .. }) {
            // What is left of the request is not waited for.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Says that nothing of a request has moved for too long.
    pub(super) fn stuck(&self) {
        let (method, uri, timeout) = (&self.method, &self.uri, self.timeout());
        self.service.say(format_args!(
            "{method} {uri} ended: nothing of it moved for {timeout:?}; longer is given by --http-timeout"
        ));
    }

    /// Says how a guest broke, where its user looks first.
    pub(super) fn failed(&self, error: &wasmtime::Error) {
        let ending = ending_of(error, &self.service.control);
        let words = ending.message.unwrap_or_else(|| format!("{error:#}"));
        if ending.out_of_memory {
            return self.service.say(format_args!("{} {} ended: {words}", self.method, self.uri));
        }
        let line = format!("{} {}: {words}\n", self.method, self.uri);
        let _ = self.service.surroundings.output.write(Channel::Stderr, line.as_bytes());
    }

    /// Takes note of the end of an answer of so many bytes; a guest that is not done goes on for a while without
    /// anybody who waits for it, and sees that its client has gone.
    pub(super) fn over(&self, bytes: u64, whole: bool, guest: Option<Guest>) {
        if let Some(access) = &self.access {
            let line = access.line(bytes, whole);
            let _ = self.service.surroundings.output.write(Channel::Stdout, line.as_bytes());
        }
        let (Some(guest), Ok(_)) = (guest, tokio::runtime::Handle::try_current()) else { return };
        let timeout = match self.timeout() {
            _ if !whole => ALONE,
            Duration::ZERO => AFTERWARDS,
            timeout => timeout,
        };
        let exchange = Self {
            service: Arc::clone(&self.service),
            method: self.method.clone(),
            uri: self.uri.clone(),
            access: None,
        };
        self.service.tasks.spawn(async move {
            match tokio::time::timeout(timeout, guest).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => exchange.failed(&error),
                Err(_) => exchange.service.say(format_args!(
                    "{} {} ended: its guest went on for {timeout:?} after {}",
                    exchange.method,
                    exchange.uri,
                    if whole { "its answer" } else { "its client had gone" }
                )),
            }
        });
    }
}

/// Waits for something to move.
struct Patience<'a> {
    timeout: Duration,
    upload: Option<&'a Moves>,
    /// Made when the guest first waits: most never do.
    sleep: Option<(Pin<Box<Sleep>>, u64)>,
}

impl<'a> Patience<'a> {
    fn new(timeout: Duration, upload: Option<&'a Moves>) -> Self {
        Self { timeout, upload, sleep: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if self.timeout.is_zero() {
            return Poll::Pending;
        }
        let moves = self.upload.map_or(0, Moves::count);
        let (sleep, before) = self.sleep.get_or_insert_with(|| (Box::pin(tokio::time::sleep(self.timeout)), moves));
        while sleep.as_mut().poll(cx).is_ready() {
            if *before == moves {
                let waiting_for_client = self.upload.is_some_and(Moves::is_waiting);
                return Poll::Ready(Failure::Stuck { waiting_for_client });
            }
            *before = moves;
            sleep.as_mut().reset(tokio::time::Instant::now() + self.timeout);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_websockets_are_refused_as_upgrades() {
        let of = |connection: &'static str, upgrade: &'static str| {
            let headers =
                [(CONNECTION, HeaderValue::from_static(connection)), (UPGRADE, HeaderValue::from_static(upgrade))];
            upgrades(&headers.into_iter().collect())
        };
        assert!(of("keep-alive, Upgrade", "WebSocket"));
        assert!(!of("Upgrade, HTTP2-Settings", "h2c"));
        assert!(!of("keep-alive", "websocket"));
    }
}
