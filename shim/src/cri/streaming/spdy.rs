//! The part of SPDY/3.1 (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>) that Kubernetes' streams
//! need, on the server's side: streams that the client opens, each answered and then written by both.
//!
//! As its other implementation on nodes, moby/spdystream, it has no windows: a side that is slow is waited for by the
//! connection.

use super::connection::{Connection, Frame, Headers, Opened, Reader, WAITING, Writer};
use super::dictionary::DICTIONARY;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// Types of control frames (2.6).
mod control {
    pub const SYN_STREAM: u16 = 1;
    pub const SYN_REPLY: u16 = 2;
    pub const RST_STREAM: u16 = 3;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
}

const VERSION: u16 = 3;
/// The sender writes nothing more on the stream.
const FIN: u8 = 1;
/// The largest control frame that is taken.
const MOST_CONTROL: usize = 64 << 10;
/// The largest block of headers, unpacked.
const MOST_HEADERS: usize = 64 << 10;
/// How many streams a client may open in all: a connection forwarded is two.
const MOST_STREAMS: usize = 1 << 16;
/// Data is handed on in pieces of this size.
const PIECE: usize = 32 << 10;
/// Speaks SPDY on what was a connection of HTTP/1.1.
pub fn speak<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Connection {
    let (read, write) = tokio::io::split(io);
    let (frames, to_write) = mpsc::channel(16);
    let (open, opened) = mpsc::channel(16);
    let (here, gone) = oneshot::channel();
    let writing = tokio::spawn(write_frames(write, to_write, gone));
    let (inflate, streams) = (Decompress::new(true), HashMap::new());
    let incoming = Incoming { read, open, frames: frames.clone(), inflate, streams, _here: here };
    let reading = tokio::spawn(incoming.read_frames());
    Connection::new(opened, frames, reading, writing)
}

impl Frame {
    fn put(&self, out: &mut BytesMut, deflate: &mut Compress) -> io::Result<()> {
        let mut control = |kind: u16, length: usize| {
            out.put_u16(0x8000 | VERSION);
            out.put_u16(kind);
            out.put_u32(u32::try_from(length).unwrap_or(0));
        };
        match self {
            Self::Reply(stream) => {
                let headers = pack(deflate, &0_u32.to_be_bytes())?;
                control(control::SYN_REPLY, 4 + headers.len());
                out.put_u32(*stream);
                out.put_slice(&headers);
            }
            Self::Ping(id) => {
                control(control::PING, id.len());
                out.put_slice(id);
            }
            Self::Data { stream, bytes, last } => {
                let flags = if *last { u32::from(FIN) << 24 } else { 0 };
                out.put_u32(*stream);
                out.put_u32(flags | u32::try_from(bytes.len()).unwrap_or(0));
                out.put_slice(bytes);
            }
            Self::End => {}
        }
        Ok(())
    }
}

/// Writes until the end, or until nobody reads what the client sends, who is gone then.
async fn write_frames(
    mut write: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
    mut gone: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
    let mut out = BytesMut::new();
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame,
            _ = &mut gone => None,
        };
        let Some(frame) = frame else { break };
        let last = matches!(frame, Frame::End);
        frame.put(&mut out, &mut deflate)?;
        write.write_all(&out).await?;
        out.clear();
        if last {
            break;
        }
    }
    write.shutdown().await
}

/// Packs a block of headers. All blocks of one side are one stream of zlib.
fn pack(deflate: &mut Compress, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    deflate.compress_vec(bytes, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
    Ok(out)
}

/// Unpacks a block of headers.
fn unpack(inflate: &mut Decompress, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(4 << 10);
    loop {
        let before = (inflate.total_in(), out.len());
        match inflate.decompress_vec(bytes, &mut out, FlushDecompress::Sync) {
            Err(error) if error.needs_dictionary().is_some() => {
                inflate.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
            }
            Err(error) => return Err(io::Error::other(error)),
            Ok(_) => {}
        }
        let taken = usize::try_from(inflate.total_in() - before.0).unwrap_or(usize::MAX);
        bytes = bytes.get(taken..).unwrap_or_default();
        if bytes.is_empty() && out.len() < out.capacity() {
            return Ok(out);
        }
        if out.len() > MOST_HEADERS {
            return Err(broken("the headers are too large"));
        }
        if taken == 0 && out.len() == before.1 && out.len() < out.capacity() {
            return Err(broken("the headers are cut off"));
        }
        out.reserve(4 << 10);
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A block of headers: how many, and each name and value with its length (2.6.10).
fn headers(mut block: &[u8]) -> io::Result<Headers> {
    let mut all = Headers::new();
    let text = |block: &mut &[u8]| -> io::Result<String> {
        let length =
            usize::try_from(block.try_get_u32().map_err(|_| broken("a header is cut off"))?).unwrap_or(usize::MAX);
        let (text, rest) = block.split_at_checked(length).ok_or_else(|| broken("a header is cut off"))?;
        *block = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    let count = block.try_get_u32().map_err(|_| broken("the headers are cut off"))?;
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        let value = text(&mut block)?;
        all.insert(name, value);
    }
    Ok(all)
}

struct Incoming<R> {
    read: R,
    open: mpsc::Sender<Opened>,
    frames: mpsc::Sender<Frame>,
    inflate: Decompress,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    /// That the client is there.
    _here: oneshot::Sender<Infallible>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    async fn read_frames(mut self) -> io::Result<()> {
        let mut seen = 0;
        loop {
            let (first, second) = match self.read.read_u32().await {
                Ok(first) => (first, self.read.read_u32().await?),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            };
            let flags = u8::try_from(second >> 24).unwrap_or_default();
            let length = usize::try_from(second & 0x00ff_ffff).unwrap_or(usize::MAX);
            if first & 0x8000_0000 == 0 {
                self.data(first, length, flags & FIN != 0).await?;
                continue;
            }
            if length > MOST_CONTROL {
                return Err(broken("a control frame is too large"));
            }
            let mut frame = vec![0; length];
            self.read.read_exact(&mut frame).await?;
            let kind = u16::try_from(first & 0xffff).unwrap_or_default();
            match kind {
                control::SYN_STREAM => {
                    seen += 1;
                    if seen > MOST_STREAMS {
                        return Err(broken("too many streams"));
                    }
                    self.opened(&frame, flags & FIN != 0).await?;
                }
                control::RST_STREAM => {
                    let stream = frame.as_slice().try_get_u32().map_err(|_| broken("a reset is cut off"))?;
                    self.streams.remove(&(stream & 0x7fff_ffff));
                }
                control::PING => {
                    let id = frame.as_slice().try_get_u32().map_err(|_| broken("a ping is cut off"))?;
                    // Ours would be even.
                    if id % 2 == 1
                        && self.frames.send(Frame::Ping(Bytes::copy_from_slice(&id.to_be_bytes()))).await.is_err()
                    {
                        return Ok(());
                    }
                }
                // It opens no more; those that are open go on.
                control::GOAWAY => {}
                // Settings and windows, of which there are none; further headers, which nobody reads.
                _ => {}
            }
        }
    }

    async fn opened(&mut self, frame: &[u8], finished: bool) -> io::Result<()> {
        let mut frame = frame;
        let cut = |_| broken("an opening of a stream is cut off");
        let stream = frame.try_get_u32().map_err(cut)? & 0x7fff_ffff;
        let _associated = frame.try_get_u32().map_err(cut)?;
        let _priority = frame.try_get_u16().map_err(cut)?;
        let headers = headers(&unpack(&mut self.inflate, frame)?)?;
        let (send, receive) = mpsc::channel(WAITING);
        if !finished {
            self.streams.insert(stream, send);
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if self.frames.send(Frame::Reply(stream)).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let writer = Writer { stream, frames: self.frames.clone() };
        self.open.send(Opened { headers, reader: Reader(receive), writer }).await.map_err(gone)
    }

    async fn data(&mut self, stream: u32, length: usize, last: bool) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE)];
            self.read.read_exact(&mut piece).await?;
            left -= piece.len();
            // What is for nobody any more is thrown away.
            if let Some(reader) = self.streams.get(&stream)
                && reader.send(piece.into()).await.is_err()
            {
                self.streams.remove(&stream);
            }
        }
        if last {
            self.streams.remove(&stream);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's side, as far as a test needs one.
    struct Client {
        io: tokio::io::DuplexStream,
        deflate: Compress,
    }

    impl Client {
        fn new() -> (Self, Connection) {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let mut deflate = Compress::new(Compression::fast(), true);
            deflate.set_dictionary(DICTIONARY).unwrap();
            (Self { io: ours, deflate }, speak(theirs))
        }

        async fn open(&mut self, stream: u32, pairs: &[(&str, &str)]) {
            let mut block = BytesMut::new();
            block.put_u32(u32::try_from(pairs.len()).unwrap());
            for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
                block.put_u32(u32::try_from(text.len()).unwrap());
                block.put_slice(text.as_bytes());
            }
            let packed = pack(&mut self.deflate, &block).unwrap();
            let mut frame = BytesMut::new();
            frame.put_u32(0x8003_0001);
            frame.put_u32(u32::try_from(packed.len() + 10).unwrap());
            frame.put_u32(stream);
            frame.put_u32(0);
            frame.put_u16(0);
            frame.put_slice(&packed);
            self.io.write_all(&frame).await.unwrap();
        }

        async fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
            let mut frame = BytesMut::new();
            frame.put_u32(stream);
            frame.put_u32(u32::from(flags) << 24 | u32::try_from(bytes.len()).unwrap());
            frame.put_slice(bytes);
            self.io.write_all(&frame).await.unwrap();
        }

        async fn frame(&mut self) -> (u32, u32, Vec<u8>) {
            let (first, second) = (self.io.read_u32().await.unwrap(), self.io.read_u32().await.unwrap());
            let mut body = vec![0; usize::try_from(second & 0xff_ffff).unwrap()];
            self.io.read_exact(&mut body).await.unwrap();
            (first, second >> 24, body)
        }
    }

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    }

    #[test]
    fn streams_are_opened_answered_and_written_by_both() {
        block_on(async {
            let (mut client, mut connection) = Client::new();
            client.open(1, &[("Streamtype", "error")]).await;
            client.open(3, &[("streamtype", "stdin"), ("x", &"y".repeat(9000))]).await;
            let first = connection.open().await.unwrap();
            let mut second = connection.open().await.unwrap();
            assert_eq!((&*first.headers["streamtype"], &*second.headers["streamtype"]), ("error", "stdin"));
            assert_eq!(second.headers["x"].len(), 9000);
            for stream in [1_u32, 3] {
                let (head, _, body) = client.frame().await;
                assert_eq!((head, &body[..4]), (0x8003_0002, &stream.to_be_bytes()[..]));
            }
            client.data(3, 0, b"abc").await;
            client.data(3, FIN, b"").await;
            assert_eq!(second.reader.next().await.unwrap(), "abc");
            assert!(second.reader.next().await.is_none());
            first.writer.write("done".into()).await.unwrap();
            first.writer.finish().await;
            connection.close().await;
            assert_eq!(client.frame().await, (1, 0, b"done".to_vec()));
            assert_eq!(client.frame().await, (1, 1, Vec::new()));
            assert_eq!(client.io.read(&mut [0; 8]).await.unwrap(), 0);
        });
    }

    #[test]
    fn a_ping_is_answered_and_what_is_broken_ends_the_connection() {
        block_on(async {
            let (mut client, mut connection) = Client::new();
            client.io.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]).await.unwrap();
            assert_eq!(client.frame().await, (0x8003_0006, 0, 7_u32.to_be_bytes().to_vec()));
            client.io.write_all(&[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]).await.unwrap();
            assert!(connection.open().await.is_none());
        });
    }
}
