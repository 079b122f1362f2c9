//! Standard streams of a guest. Output goes to the keeper through one pipe, framed, so that the order of the guest's
//! writes is kept across the two streams and a full pipe holds the guest back.

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// What a frame is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// The guest's standard output.
    Stdout = 1,
    /// The guest's standard error.
    Stderr = 2,
    /// What the runtime has to say of the guest.
    Diagnostic = 3,
    /// The same, of what went as it should.
    Note = 4,
}

impl Channel {
    /// Reads a frame's first byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Diagnostic),
            4 => Some(Self::Note),
            _ => None,
        }
    }
}

/// A frame's head: the channel, and the length of what follows in four bytes, little-endian.
pub const HEAD: usize = 5;
/// The smallest page that a system of ours has.
const PAGE: usize = 4096;

/// The writing end of the pipe to the keeper; `None` when it was closed before its guest's end.
#[derive(Debug, Clone)]
pub struct Pipe {
    file: Arc<Mutex<Option<File>>>,
    /// Whether the thread that writes has others to work for.
    gives_way: bool,
}

impl Pipe {
    /// Takes the pipe's descriptor.
    #[must_use]
    pub fn new(pipe: OwnedFd) -> Self {
        Self { file: Arc::new(Mutex::new(Some(File::from(pipe)))), gives_way: false }
    }

    /// The same for threads of a runtime that have others to work for: who has to wait lets those go on elsewhere.
    #[must_use]
    pub fn giving_way(self) -> Self {
        Self { gives_way: true, ..self }
    }

    /// One of the two streams for the engine.
    #[must_use]
    pub fn stream(&self, channel: Channel) -> Output {
        Output { pipe: self.clone(), channel }
    }

    /// Writes one frame, waiting for room.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn write(&self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        let in_runtime = || Handle::try_current().is_ok_and(|r| r.runtime_flavor() == RuntimeFlavor::MultiThread);
        if self.gives_way && !self.has_room(bytes.len()) && in_runtime() {
            return tokio::task::block_in_place(|| self.write_all(channel, bytes));
        }
        self.write_all(channel, bytes)
    }

    /// Whether so much can be written without waiting: a pipe that can be written takes a page.
    fn has_room(&self, bytes: usize) -> bool {
        let Ok(file) = self.file.try_lock() else { return false };
        let Some(file) = &*file else { return true };
        let mut fds = [PollFd::new(file, PollFlags::OUT)];
        bytes + HEAD <= PAGE && matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    fn write_all(&self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(1 << 20) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes();
            let head = [channel as u8, length[0], length[1], length[2], length[3]];
            let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let file = held.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let mut slices = [IoSlice::new(&head), IoSlice::new(part)];
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                match file.write_vectored(rest) {
                    Ok(n) => IoSlice::advance_slices(&mut rest, n),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }
}

impl Pipe {
    /// What closes the pipe under a guest that is given up, and does not keep it open itself.
    pub fn closer(&self) -> impl Fn() + Send + Sync + use<> {
        let pipe = Arc::downgrade(&self.file);
        move || {
            // A guest that holds it is writing, and then it is not stuck for long.
            if let Some(pipe) = pipe.upgrade()
                && let Ok(mut file) = pipe.try_lock()
            {
                *file = None;
            }
        }
    }
}

/// One of a guest's output streams.
#[derive(Debug, Clone)]
pub struct Output {
    pipe: Pipe,
    channel: Channel,
}

impl Output {
    /// Writes, waiting for room.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.pipe.write(self.channel, bytes)
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pipe.write(self.channel, &bytes).map_err(|_| StreamError::Closed)
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.pipe.write(self.channel, bytes).map(|()| bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A guest's standard input: a file of any kind, read when the guest reads; it can be closed from outside.
#[derive(Debug, Clone)]
pub struct Input(Arc<InputState>);

#[derive(Debug)]
struct InputState {
    file: Mutex<tokio::fs::File>,
    closed: tokio::sync::watch::Sender<bool>,
}

impl Input {
    /// Takes the descriptor.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        let file = Mutex::new(tokio::fs::File::from_std(File::from(file)));
        Self(Arc::new(InputState { file, closed: tokio::sync::watch::Sender::new(false) }))
    }

    /// Lets every read from now on, and one that waits, see the end.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        let mut watch = self.0.closed.subscribe();
        let closing = Box::pin(async move { watch.wait_for(|closed| *closed).await.map(drop).unwrap_or(()) });
        Box::new(Reader { input: self.clone(), closing })
    }
}

struct Reader {
    input: Input,
    closing: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if *self.input.0.closed.borrow() || self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut file = self.input.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *file).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn frames_keep_the_order_of_the_streams() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let pipe = Pipe::new(writer);
        pipe.write(Channel::Stdout, b"a").unwrap();
        pipe.write(Channel::Stderr, b"bc").unwrap();
        drop(pipe);
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x01\x01\0\0\0a\x02\x02\0\0\0bc");
    }
}
