//! The bodies of requests and answers. An answer that is whole when its guest has ended goes out in one write, with
//! its length; one that is not is streamed, and its guest runs on in the request's own task, as its body is asked for.

use super::answer::Exchange;
use super::instances::Guest;
use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::{Error, WasiBody};

type Framed = Option<Result<Frame<Bytes>, Error>>;

/// Whether something of a body moves.
#[derive(Default)]
pub(super) struct Moves {
    count: AtomicU64,
    /// Whether the client is waited for.
    waiting: AtomicBool,
    too_large: AtomicBool,
}

impl Moves {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }
}

/// The body of a request, as far as it is allowed.
pub(super) struct Upload {
    body: Incoming,
    moves: Arc<Moves>,
    most: u64,
}

impl Upload {
    pub(super) fn new(body: Incoming, most: Option<u64>) -> (Self, Arc<Moves>) {
        let moves = Arc::new(Moves::default());
        (Self { body, moves: Arc::clone(&moves), most: most.unwrap_or(u64::MAX) }, moves)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Framed> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.moves.waiting.store(polled.is_pending(), Ordering::Relaxed);
        let frame = ready!(polled);
        self.moves.count.fetch_add(1, Ordering::Relaxed);
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            match self.most.checked_sub(data.len() as u64) {
                Some(left) => self.most = left,
                None => {
                    self.moves.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))));
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) enum Answer {
    /// All of it is here.
    Whole(Whole),
    /// It comes as the guest makes it.
    Streamed(Streamed),
}

/// A body that is all there.
#[derive(Default)]
pub(super) struct Whole {
    data: VecDeque<Bytes>,
    left: u64,
    trailers: Option<HeaderMap>,
}

/// An answer as its guest has left it.
pub(super) enum Draft {
    Whole(Whole),
    Streams {
        body: WasiBody,
        before: Whole,
        /// `None` when it has ended.
        guest: Option<Guest>,
        upload: Option<Arc<Moves>>,
    },
}

impl Draft {
    /// The answer of a guest that has ended.
    pub(super) fn ended(mut body: WasiBody) -> Self {
        let mut before = Whole::default();
        let mut nobody = Context::from_waker(Waker::noop());
        loop {
            match Pin::new(&mut body).poll_frame(&mut nobody) {
                Poll::Ready(None) => return Self::Whole(before),
                Poll::Ready(Some(Ok(frame))) => before.push(frame),
                // It was given up, or what ends it is still held: then it cannot be whole.
                Poll::Ready(Some(Err(_))) => {
                    return Self::Streams { body: broken(), before, guest: None, upload: None };
                }
                Poll::Pending => return Self::Streams { body, before, guest: None, upload: None },
            }
        }
    }

    pub(super) fn into_answer(self, exchange: Exchange) -> Answer {
        match self {
            Self::Whole(whole) => {
                exchange.over(whole.left, true, None);
                Answer::Whole(whole)
            }
            Self::Streams { body, before, guest, upload } => {
                Answer::Streamed(Streamed::new(body, before, guest, upload, exchange))
            }
        }
    }
}

/// A body that is not whole, and has no more.
fn broken() -> WasiBody {
    http_body_util::StreamBody::new(futures::stream::iter([Err(Error::HttpResponseIncomplete)])).boxed_unsync()
}

impl From<&'static str> for Whole {
    fn from(text: &'static str) -> Self {
        let data = Bytes::from_static(text.as_bytes());
        Self { left: data.len() as u64, data: [data].into(), trailers: None }
    }
}

impl Whole {
    fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                self.left += data.len() as u64;
                self.data.push_back(data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        match self.data.pop_front() {
            Some(data) => {
                self.left -= data.len() as u64;
                Some(Frame::data(data))
            }
            None => self.trailers.take().map(Frame::trailers),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Framed> {
        match &mut *self {
            Self::Whole(whole) => Poll::Ready(whole.pop().map(Ok)),
            Self::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.data.is_empty() && whole.trailers.is_none(),
            Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(Whole { left, trailers: None, .. }) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}

/// A body that is on its way.
pub(super) struct Streamed {
    body: WasiBody,
    /// What is here already.
    before: Whole,
    stream: Arc<Stream>,
    /// How many bytes have gone.
    bytes: u64,
    ended: bool,
    watch: Option<AbortHandle>,
}

/// What a streamed body and its watch have in common.
struct Stream {
    exchange: Exchange,
    /// `None` when the guest has ended.
    guest: Mutex<Option<Guest>>,
    upload: Option<Arc<Moves>>,
    moves: AtomicU64,
    failed: AtomicBool,
    waker: AtomicWaker,
}

impl Stream {
    fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed) + self.upload.as_ref().map_or(0, |upload| upload.count())
    }

    fn take(&self) -> Option<Guest> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets the guest go on. True when it has ended just now.
    fn run(&self, cx: &mut Context<'_>) -> bool {
        let mut guest = self.guest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = guest.as_mut() else { return false };
        let Poll::Ready(result) = running.as_mut().poll(cx) else { return false };
        *guest = None;
        drop(guest);
        if let Err(error) = result {
            self.failed.store(true, Ordering::Relaxed);
            self.exchange.failed(&error);
        }
        true
    }

    /// Ends a guest whose answer stands still.
    async fn watch(&self, timeout: Duration) {
        let mut before = self.moves();
        loop {
            tokio::time::sleep(timeout).await;
            let now = self.moves();
            if now == before {
                break;
            }
            before = now;
        }
        self.failed.store(true, Ordering::Relaxed);
        drop(self.take());
        self.waker.wake();
        self.exchange.stuck();
    }
}

impl Streamed {
    /// A body of which `before` has come already, and whose guest runs on.
    fn new(
        body: WasiBody,
        before: Whole,
        guest: Option<Guest>,
        upload: Option<Arc<Moves>>,
        exchange: Exchange,
    ) -> Self {
        let timeout = exchange.timeout();
        let stream = Arc::new(Stream {
            exchange,
            guest: Mutex::new(guest),
            upload,
            moves: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        // In a task of its own, since nobody asks for more of a body while its client takes nothing.
        let watch = (!timeout.is_zero()).then(|| {
            let stream = Arc::clone(&stream);
            tokio::spawn(async move { stream.watch(timeout).await }).abort_handle()
        });
        Self { body, before, stream, bytes: 0, ended: false, watch }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Framed> {
        if let Some(frame) = self.before.pop() {
            return self.sent(Some(Ok(frame)));
        }
        self.stream.waker.register(cx.waker());
        loop {
            // What is there goes first: a guest that is over, or about to fail, may have left something.
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
                return self.sent(frame);
            }
            if self.stream.failed.load(Ordering::Relaxed) {
                return self.sent(Some(Err(Error::HttpResponseIncomplete)));
            }
            let ended = self.stream.run(cx);
            // It may have written since the body was looked at.
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
                return self.sent(frame);
            }
            if !ended {
                return Poll::Pending;
            }
        }
    }

    fn sent(&mut self, frame: Framed) -> Poll<Framed> {
        self.stream.moves.fetch_add(1, Ordering::Relaxed);
        // The body of a guest that broke off ends like any other; its client must see that it is not whole.
        let frame = match frame {
            None if self.stream.failed.load(Ordering::Relaxed) => Some(Err(Error::HttpResponseIncomplete)),
            frame => frame,
        };
        match &frame {
            None => self.ended = true,
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.ended |= frame.is_trailers();
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        self.stream.exchange.over(self.bytes, self.ended, self.stream.take());
    }
}
