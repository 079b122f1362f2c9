//! What a standard stream or a descriptor of a program stands for, and how it is read and written: the same for every
//! program that has it, so that those who share a file share its position.

use crate::guest::process::pipe::{ReadEnd, WriteEnd};
use crate::guest::stdio::{Input, Output};
use bytes::Bytes;
use futures::FutureExt;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// What a descriptor stands for. A clone is the same thing once more, as after dup(2).
#[derive(Debug, Clone)]
pub enum Stream {
    /// Empty to read, and takes everything.
    Null,
    /// A pipe's end to read.
    Reader(Arc<ReadEnd>),
    /// A pipe's end to write.
    Writer(Arc<WriteEnd>),
    /// An open file.
    File(Arc<OpenFile>),
    /// The container's standard input.
    Input(SharedInput),
    /// The container's standard output or error.
    Output(Output),
    /// A descriptor that was handed over from outside, to write.
    Handed(Arc<Handed>),
}

/// An open file with its one position.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: Arc<File>,
    /// Where the next read or write begins.
    pub position: Mutex<u64>,
    /// Whether writes go to the end.
    pub append: bool,
    /// Whether it was opened for reading.
    pub read: bool,
    /// Whether it was opened for writing.
    pub write: bool,
}

/// A pipe or a terminal whose other end is not in the container.
#[derive(Debug)]
pub struct Handed {
    /// The descriptor, which waits.
    pub file: File,
    /// Whether it is a terminal.
    pub terminal: bool,
}

impl Handed {
    /// Writes everything, waiting for room. Where the last reader is gone, it is as a pipe's.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write_all(bytes).map(|()| bytes.len()).map_err(|e| match Errno::from_io_error(&e) {
            // A terminal that nobody looks at any more.
            Some(Errno::IO) | None => Errno::PIPE.into(),
            Some(_) => e,
        })
    }
}

/// The container's standard input, which one program at a time reads.
#[derive(Clone)]
pub struct SharedInput {
    state: Arc<tokio::sync::Mutex<InputState>>,
    interrupts: Arc<Interrupts>,
    terminal: bool,
}

/// How a key breaks off the read of a program that can be told.
#[derive(Debug, Default)]
struct Interrupts {
    /// Such a program reads here.
    used: AtomicBool,
    /// A key that nobody has been told of.
    pending: AtomicBool,
    now: Notify,
}

impl Interrupts {
    /// Breaks off the read that waits, or the next one. False when nobody reads, or did not since the last key.
    fn interrupt(&self) -> bool {
        let taken = self.used.load(Ordering::SeqCst) && !self.pending.swap(true, Ordering::SeqCst);
        if taken {
            self.now.notify_one();
        }
        taken
    }

    async fn or<T>(&self, read: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.used.store(true, Ordering::SeqCst);
        tokio::select! {
            // What is typed after the key is for the next read.
            biased;
            () = self.now.notified() => {
                self.pending.store(false, Ordering::SeqCst);
                Err(Errno::INTR.into())
            }
            read = read => read,
        }
    }
}

struct InputState {
    source: Pin<Box<dyn AsyncRead + Send + Sync>>,
    /// What was read because somebody asked whether there is anything; empty is the end.
    ahead: Option<io::Result<Bytes>>,
}

impl SharedInput {
    /// Takes the input for everybody.
    #[must_use]
    pub fn new(input: &Input) -> Self {
        let state = InputState { source: input.async_stream().into(), ahead: None };
        Self { state: Arc::new(tokio::sync::Mutex::new(state)), interrupts: Arc::default(), terminal: false }
    }

    /// The same of a terminal.
    #[must_use]
    pub fn of_terminal(input: &Input) -> Self {
        Self { terminal: true, ..Self::new(input) }
    }

    async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut input = self.state.lock().await;
        match input.ahead.take() {
            None => {
                let mut bytes = vec![0; most];
                let count = input.source.read(&mut bytes).await?;
                bytes.truncate(count);
                Ok(bytes)
            }
            Some(Ok(mut bytes)) => {
                let taken = bytes.split_to(bytes.len().min(most));
                if !bytes.is_empty() {
                    input.ahead = Some(Ok(bytes));
                }
                Ok(taken.into())
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// Waits until there is something to read, or the end.
    async fn ready(&self) {
        let mut input = self.state.lock().await;
        if input.ahead.is_none() {
            let mut bytes = vec![0; 4096];
            let read = input.source.read(&mut bytes).await;
            input.ahead = Some(read.map(|count| {
                bytes.truncate(count);
                bytes.into()
            }));
        }
    }
}

impl std::fmt::Debug for SharedInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedInput")
    }
}

/// As much is taken from a guest's memory or put there at once.
pub const MOST: usize = 64 << 10;

impl Stream {
    /// Reads up to `most` bytes, waiting for the first; nothing at the end. A read that is given up has taken nothing.
    ///
    /// # Errors
    /// EBADF when it cannot be read, or what the system says.
    pub async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        let most = most.min(MOST);
        match self {
            Self::Null => Ok(Vec::new()),
            Self::Reader(end) => Ok(end.read(most).await),
            Self::File(open) => open.read(most),
            Self::Input(input) => input.read(most).await,
            Self::Writer(_) | Self::Output(_) | Self::Handed(_) => Err(Errno::BADF.into()),
        }
    }

    /// The same for a program that can be told that a key has interrupted it: EINTR (read(2)), and nothing is lost.
    ///
    /// # Errors
    /// As above, and EINTR.
    pub async fn read_or_interrupt(&self, most: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Input(input) => input.interrupts.or(self.read(most)).await,
            _ => self.read(most).await,
        }
    }

    /// Writes all of `bytes`, waiting for room, and says how many they were; fewer when it broke off.
    ///
    /// # Errors
    /// EPIPE when nobody reads, EBADF when it cannot be written, or what the system says.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Null => Ok(bytes.len()),
            Self::Writer(end) => {
                let mut done = 0;
                while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    match end.write(rest).await {
                        Ok(count) => done += count,
                        Err(_) if done > 0 => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(done)
            }
            Self::File(open) => open.write(bytes),
            Self::Output(output) => output.write_all(bytes).map(|()| bytes.len()).map_err(|_| Errno::PIPE.into()),
            Self::Handed(handed) => handed.write(bytes),
            Self::Reader(_) | Self::Input(_) => Err(Errno::BADF.into()),
        }
    }

    /// Whether it is for reading.
    #[must_use]
    pub fn can_read(&self) -> bool {
        match self {
            Self::Null | Self::Reader(_) | Self::Input(_) => true,
            Self::File(open) => open.read,
            Self::Writer(_) | Self::Output(_) | Self::Handed(_) => false,
        }
    }

    /// Whether it is for writing.
    #[must_use]
    pub fn can_write(&self) -> bool {
        match self {
            Self::Null | Self::Writer(_) | Self::Output(_) | Self::Handed(_) => true,
            Self::File(open) => open.write,
            Self::Reader(_) | Self::Input(_) => false,
        }
    }

    /// Waits until a read would not wait, as far as that can be told without reading.
    pub async fn ready_to_read(&self) {
        match self {
            Self::Reader(end) => end.ready().await,
            Self::Input(input) => input.ready().await,
            _ => {}
        }
    }

    /// Waits until a small write would not wait.
    pub async fn ready_to_write(&self) {
        if let Self::Writer(end) = self {
            end.ready().await;
        }
    }

    /// What breaks off the read of who waits here, or will, and can be told; false if nobody is known to. Holds on to
    /// nothing.
    pub fn interrupter(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let interrupts = match self {
            Self::Input(input) => Arc::downgrade(&input.interrupts),
            _ => Weak::new(),
        };
        move || interrupts.upgrade().is_some_and(|interrupts| interrupts.interrupt())
    }

    /// Whether somebody sits at its other end.
    #[must_use]
    pub fn at_terminal(&self) -> bool {
        match self {
            Self::Input(input) => input.terminal,
            Self::Handed(handed) => handed.terminal,
            _ => false,
        }
    }

    /// The open file, if it is one.
    #[must_use]
    pub fn open_file(&self) -> Option<&OpenFile> {
        match self {
            Self::File(open) => Some(open),
            _ => None,
        }
    }
}

impl OpenFile {
    fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        if !self.read {
            return Err(Errno::BADF.into());
        }
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; most];
        let count = self.file.read_at(&mut bytes, *position)?;
        bytes.truncate(count);
        *position += count as u64;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.write {
            return Err(Errno::BADF.into());
        }
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if self.append {
            let count = rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND)?;
            *position = self.file.metadata()?.len();
            return Ok(count);
        }
        let count = self.file.write_at(bytes, *position)?;
        *position += count as u64;
        Ok(count)
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        self.at_terminal()
    }
}

impl StdinStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Reading { stream: self.clone(), rest: Bytes::new(), pending: None })
    }
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(In { stream: self.clone(), ahead: None })
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writing { stream: self.clone(), pending: None })
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Out { stream: self.clone(), behind: Bytes::new(), closed: false })
    }
}

/// A component's input stream. It reads when the guest waits for it, so that a program which does not read its input
/// leaves it to the next.
struct In {
    stream: Stream,
    ahead: Option<io::Result<Bytes>>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for In {
    async fn ready(&mut self) {
        if self.ahead.is_none() {
            self.ahead = Some(self.stream.read(4096).await.map(Bytes::from));
        }
    }
}

impl InputStream for In {
    fn read(&mut self, most: usize) -> StreamResult<Bytes> {
        match self.ahead.take() {
            None => Ok(Bytes::new()),
            Some(Ok(bytes)) if bytes.is_empty() => {
                self.ahead = Some(Ok(bytes));
                Err(StreamError::Closed)
            }
            Some(Ok(mut bytes)) => {
                let taken = bytes.split_to(bytes.len().min(most));
                if !bytes.is_empty() {
                    self.ahead = Some(Ok(bytes));
                }
                Ok(taken)
            }
            Some(Err(error)) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

/// A component's output stream: one write at a time is under way.
struct Out {
    stream: Stream,
    behind: Bytes,
    closed: bool,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Out {
    async fn ready(&mut self) {
        while !self.behind.is_empty() && !self.closed {
            self.push().await;
        }
    }
}

impl Out {
    /// Writes a piece so small that it goes as a whole: what is given up half way is not written twice.
    async fn push(&mut self) {
        let piece = self.behind.slice(..self.behind.len().min(4096));
        match self.stream.write(&piece).await {
            Ok(count) => drop(self.behind.split_to(count)),
            Err(_) => self.closed = true,
        }
    }
}

impl OutputStream for Out {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.closed {
            return Err(StreamError::Closed);
        }
        self.behind = bytes;
        // What finds room goes at once: a program may end without asking whether it went.
        while !self.behind.is_empty() && !self.closed && self.push().now_or_never().is_some() {}
        if self.closed { Err(StreamError::Closed) } else { Ok(()) }
    }
    fn flush(&mut self) -> StreamResult<()> {
        if self.closed { Err(StreamError::Closed) } else { Ok(()) }
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        match (self.closed, self.behind.is_empty()) {
            (true, _) => Err(StreamError::Closed),
            (false, true) => Ok(MOST),
            (false, false) => Ok(0),
        }
    }
}

/// An operation under way. In a mutex that nobody shares, since a stream has to be `Sync`.
type Pending<T> = Option<Mutex<Pin<Box<dyn Future<Output = io::Result<T>> + Send>>>>;

fn poll_pending<T>(pending: &mut Pending<T>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    let Some(future) = pending else { return Poll::Ready(Err(Errno::INVAL.into())) };
    let result = ready!(future.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx));
    *pending = None;
    Poll::Ready(result)
}

struct Reading {
    stream: Stream,
    rest: Bytes,
    pending: Pending<Vec<u8>>,
}

impl AsyncRead for Reading {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if self.pending.is_none() {
                let (stream, most) = (self.stream.clone(), buffer.remaining());
                self.pending = Some(Mutex::new(Box::pin(async move { stream.read(most).await })));
            }
            self.rest = ready!(poll_pending(&mut self.pending, cx))?.into();
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

struct Writing {
    stream: Stream,
    pending: Pending<usize>,
}

impl AsyncWrite for Writing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pending.is_none() {
            let (stream, bytes) = (self.stream.clone(), bytes.to_vec());
            self.pending = Some(Mutex::new(Box::pin(async move { stream.write(&bytes).await })));
        }
        poll_pending(&mut self.pending, cx)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_a_file_share_its_position() {
        let path = crate::store::files::tests::temp_dir().join("f");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        let open = |append| OpenFile {
            file: Arc::new(file.try_clone().unwrap()),
            position: Mutex::new(0),
            append,
            read: true,
            write: true,
        };
        let (one, appending) = (Stream::File(Arc::new(open(false))), Stream::File(Arc::new(open(true))));
        let other = one.clone();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            one.write(b"ab").await.unwrap();
            other.write(b"cd").await.unwrap();
            appending.write(b"ef").await.unwrap();
            one.write(b"x").await.unwrap();
            assert_eq!(other.read(10).await.unwrap(), b"f");
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdxf");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
