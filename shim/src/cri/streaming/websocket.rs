//! The same streams over WebSocket (RFC 6455), each a channel whose number begins every message: `v4.channel.k8s.io`, and
//! `v5.channel.k8s.io`, where a client can say that a channel has ended (k8s.io/streaming, pkg/httpstream/wsstream).

use super::Streams;
use super::connection::{Connection, Frame, Headers, Opened, Reader, WAITING, Writer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// The protocols that are spoken here, the best first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The largest message that is taken.
const MOST: usize = 1 << 20;
/// The channel on which version 5 tells that another has ended.
const CLOSE: u8 = 255;

/// What a client that sent this key wants to hear (RFC 6455, section 4.2.2).
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The channels of a session: number and name of each that it has.
fn channels(streams: Streams) -> impl Iterator<Item = (u32, &'static str)> {
    let all = [
        (1, "stdout", streams.stdout),
        (2, "stderr", streams.stderr),
        (3, "error", true),
        (0, "stdin", streams.stdin),
        (4, "resize", streams.tty),
    ];
    all.into_iter().filter(|(.., wanted)| *wanted).map(|(number, name, _)| (number, name))
}

/// Speaks WebSocket on what was a connection of HTTP/1.1. All streams are open at once.
pub async fn speak<T>(io: T, streams: Streams) -> Connection
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = WebSocketConfig::default().max_message_size(Some(MOST)).max_frame_size(Some(MOST));
    let (write, read) = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    let (frames, to_write) = mpsc::channel(16);
    let (open, opened) = mpsc::channel(8);
    let (here, gone) = oneshot::channel();
    let mut readers = HashMap::new();
    for (number, name) in channels(streams) {
        let (send, receive) = mpsc::channel(WAITING);
        readers.insert(number, send);
        let headers = Headers::from([("streamtype".to_owned(), name.to_owned())]);
        let writer = Writer { stream: number, frames: frames.clone() };
        let _ = open.send(Opened { headers, reader: Reader(receive), writer }).await;
    }
    // That the session is there, on the first channel that we write.
    if let Some((first, _)) = channels(streams).next() {
        let _ = frames.send(Frame::Data { stream: first, bytes: Bytes::new(), last: false }).await;
    }
    let writing = tokio::spawn(write_messages(write, to_write, gone));
    let reading = tokio::spawn(read_messages(read, readers, frames.clone(), here));
    Connection::new(opened, frames, reading, writing)
}

async fn write_messages(
    mut write: impl SinkExt<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
    mut frames: mpsc::Receiver<Frame>,
    mut gone: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame,
            _ = &mut gone => None,
        };
        let message = match frame {
            // A channel of ours has no end of its own: the verdict is the last that comes.
            Some(Frame::Reply(_) | Frame::Data { last: true, .. }) => continue,
            Some(Frame::Data { stream, bytes, .. }) => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(u8::try_from(stream).unwrap_or(CLOSE));
                message.put_slice(&bytes);
                Message::Binary(message.freeze())
            }
            Some(Frame::Ping(payload)) => Message::Pong(payload),
            Some(Frame::End) | None => break,
        };
        write.send(message).await.map_err(io::Error::other)?;
    }
    let _ = write.send(Message::Close(None)).await;
    write.close().await.map_err(io::Error::other)
}

async fn read_messages(
    mut read: impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
    mut readers: HashMap<u32, mpsc::Sender<Bytes>>,
    frames: mpsc::Sender<Frame>,
    _here: oneshot::Sender<Infallible>,
) -> io::Result<()> {
    while let Some(message) = read.next().await {
        let mut bytes = match message.map_err(io::Error::other)? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(payload) => {
                let _ = frames.send(Frame::Ping(payload)).await;
                continue;
            }
            Message::Close(_) => break,
            Message::Pong(_) | Message::Frame(_) => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        let channel = bytes.split_to(1).first().copied().unwrap_or(CLOSE);
        if channel == CLOSE {
            // What it names has ended.
            bytes.first().map(|ended| readers.remove(&u32::from(*ended)));
        } else if let Some(reader) = readers.get(&u32::from(channel))
            && !bytes.is_empty()
            && reader.send(bytes).await.is_err()
        {
            // What is for nobody any more is thrown away.
            readers.remove(&u32::from(channel));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn channels_are_streams() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let mut connection = speak(theirs, streams).await;
        let mut client = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let mut opened = HashMap::new();
        for _ in 0..3 {
            let stream = connection.open().await.unwrap();
            opened.insert(stream.headers["streamtype"].clone(), stream);
        }
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(vec![1].into()));
        client.send(Message::Binary(b"\0abc".to_vec().into())).await.unwrap();
        client.send(Message::Binary(vec![CLOSE, 0].into())).await.unwrap();
        let stdin = &mut opened.get_mut("stdin").unwrap().reader;
        assert_eq!(stdin.next().await.unwrap(), "abc");
        assert!(stdin.next().await.is_none());
        opened["stdout"].writer.write("out".into()).await.unwrap();
        opened["stdout"].writer.finish().await;
        opened["error"].writer.write("{}".into()).await.unwrap();
        connection.close().await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(b"\x01out".to_vec().into()));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(b"\x03{}".to_vec().into()));
        assert!(matches!(client.next().await.unwrap().unwrap(), Message::Close(_)));
    }

    #[tokio::test]
    async fn a_client_that_goes_away_is_gone_for_who_writes() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
        let mut connection = speak(theirs, streams).await;
        let stdout = connection.open().await.unwrap();
        drop(ours);
        stdout.writer.closed().await;
    }
}
