//! What exec, attach and port-forward see of a client, whatever is spoken on the wire: streams that it opens, each read and
//! written by both.

use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many pieces wait for who reads them.
pub const WAITING: usize = 4;

/// The headers of a stream, with names in lower case.
pub type Headers = HashMap<String, String>;

/// A stream that the client has opened.
#[derive(Debug)]
pub struct Opened {
    /// Its headers.
    pub headers: Headers,
    /// What the client writes.
    pub reader: Reader,
    /// What we write.
    pub writer: Writer,
}

/// What the client writes on a stream.
#[derive(Debug)]
pub struct Reader(pub(super) mpsc::Receiver<Bytes>);

impl Reader {
    /// The next piece; nothing at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// The end of a stream that we write.
#[derive(Debug, Clone)]
pub struct Writer {
    pub(super) stream: u32,
    pub(super) frames: mpsc::Sender<Frame>,
}

/// The connection is gone.
#[derive(Debug)]
pub struct Gone;

impl Writer {
    /// Writes a piece, waiting for room.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        self.frames.send(Frame::Data { stream: self.stream, bytes, last: false }).await.map_err(|_| Gone)
    }

    /// Says that nothing more comes.
    pub async fn finish(&self) {
        let _ = self.frames.send(Frame::Data { stream: self.stream, bytes: Bytes::new(), last: true }).await;
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }
}

/// What is sent.
#[derive(Debug)]
pub(super) enum Frame {
    /// That a stream is open, where that is said.
    Reply(u32),
    /// The answer to one who asks whether we are there.
    Ping(Bytes),
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// Nothing more, and everything that was sent is to be there.
    End,
}

/// A connection, whose client opens streams.
#[derive(Debug)]
pub struct Connection {
    opened: mpsc::Receiver<Opened>,
    frames: mpsc::Sender<Frame>,
    reading: JoinHandle<io::Result<()>>,
    writing: JoinHandle<io::Result<()>>,
}

impl Connection {
    pub(super) fn new(
        opened: mpsc::Receiver<Opened>,
        frames: mpsc::Sender<Frame>,
        reading: JoinHandle<io::Result<()>>,
        writing: JoinHandle<io::Result<()>>,
    ) -> Self {
        Self { opened, frames, reading, writing }
    }

    /// The next stream that the client opens; none when it is gone.
    pub async fn open(&mut self) -> Option<Opened> {
        self.opened.recv().await
    }

    /// Waits until everything that was written is on its way, and closes.
    pub async fn close(self) {
        let Self { opened, frames, reading, writing } = self;
        let _ = frames.send(Frame::End).await;
        let _ = writing.await;
        drop(opened);
        reading.abort();
    }
}
