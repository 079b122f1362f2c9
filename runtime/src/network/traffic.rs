//! How many bytes have gone to a container and come from it, counted where they pass.

use bytes::Bytes;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamResult};

/// The bytes of one container's sockets, without those of its own loopback.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Counts bytes that the container has got.
    pub fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that the container has sent.
    pub fn send(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes it has got, and how many it has sent.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// Something whose bytes are counted.
#[derive(Debug)]
pub struct Counted<T> {
    inner: T,
    traffic: Arc<Traffic>,
}

impl<T> Counted<T> {
    /// Counts what passes through `inner`.
    pub fn new(inner: T, traffic: &Arc<Traffic>) -> Self {
        Self { inner, traffic: Arc::clone(traffic) }
    }

    /// What is counted.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        self.traffic.receive(buffer.filled().len().saturating_sub(before));
        Poll::Ready(done)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes));
        self.traffic.send(*done.as_ref().unwrap_or(&0));
        Poll::Ready(done)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices));
        self.traffic.send(*done.as_ref().unwrap_or(&0));
        Poll::Ready(done)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted<DynInputStream> {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Counted<DynInputStream> {
    fn read(&mut self, most: usize) -> StreamResult<Bytes> {
        let read = self.inner.read(most);
        self.traffic.receive(read.as_ref().map_or(0, Bytes::len));
        read
    }
    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted<DynOutputStream> {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Counted<DynOutputStream> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let count = bytes.len();
        let written = self.inner.write(bytes);
        self.traffic.send(if written.is_ok() { count } else { 0 });
        written
    }
    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }
    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// Has the two streams of a connection of WASI 0.2 counted.
///
/// # Errors
/// When the table has no such streams.
pub(super) fn count(
    table: &mut ResourceTable,
    traffic: &Arc<Traffic>,
    input: &Resource<DynInputStream>,
    output: &Resource<DynOutputStream>,
) -> wasmtime::Result<()> {
    let place = table.get_mut(input)?;
    let inner = std::mem::replace(place, Box::new(wasmtime_wasi::p2::pipe::ClosedInputStream));
    *place = Box::new(Counted::new(inner, traffic));
    let place = table.get_mut(output)?;
    let inner = std::mem::replace(place, Box::new(wasmtime_wasi::p2::pipe::ClosedOutputStream));
    *place = Box::new(Counted::new(inner, traffic));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn what_passes_is_counted_in_its_direction() {
        let traffic = Arc::new(Traffic::default());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = Counted::new(near, &traffic);
            near.write_all(b"abc").await.unwrap();
            far.write_all(b"12345").await.unwrap();
            let mut bytes = [0; 5];
            near.read_exact(&mut bytes).await.unwrap();
        });
        assert_eq!(traffic.counts(), (5, 3));
    }
}
