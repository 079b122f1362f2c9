//! Connections over the sockets of WASI 0.2, as hyper wants them.

use crate::reactor::wake_when_ready;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasip2::io::poll::Pollable;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

const MOST: usize = 64 << 10;

/// Whoever listens.
pub struct Listener {
    // Before the socket that it is of.
    ready: Arc<Pollable>,
    socket: TcpSocket,
}

/// Listens at a port of every address.
pub fn listen(port: u16) -> Result<Listener, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    let ready = Arc::new(socket.subscribe());
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) });
    socket.start_bind(&instance_network(), address)?;
    finish(&ready, || socket.finish_bind())?;
    socket.start_listen()?;
    finish(&ready, || socket.finish_listen())?;
    Ok(Listener { ready, socket })
}

fn finish(ready: &Pollable, step: impl Fn() -> Result<(), ErrorCode>) -> Result<(), ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            done => return done,
        }
    }
}

impl Listener {
    /// The next connection and its peer.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<(Connection, IpAddr), ErrorCode>> {
        match self.socket.accept() {
            Ok((socket, input, output)) => {
                let client = socket.remote_address().map_or(Ipv4Addr::UNSPECIFIED.into(), address);
                let (readable, writable) = (Arc::new(input.subscribe()), Arc::new(output.subscribe()));
                Poll::Ready(Ok((Connection { readable, writable, input, output, socket }, client)))
            }
            // Without a descriptor for it the connection waits outside, until one that is here has ended.
            Err(ErrorCode::WouldBlock | ErrorCode::NewSocketLimit | ErrorCode::ConnectionAborted) => {
                wake_when_ready(&self.ready, cx);
                Poll::Pending
            }
            Err(code) => Poll::Ready(Err(code)),
        }
    }
}

fn address(address: IpSocketAddress) -> IpAddr {
    match address {
        IpSocketAddress::Ipv4(v4) => {
            let (a, b, c, d) = v4.address;
            Ipv4Addr::new(a, b, c, d).into()
        }
        IpSocketAddress::Ipv6(v6) => {
            let (a, b, c, d, e, f, g, h) = v6.address;
            Ipv6Addr::new(a, b, c, d, e, f, g, h).into()
        }
    }
}

/// A connection. The fields are dropped in this order, which is the one that WASI asks for: children first.
pub struct Connection {
    readable: Arc<Pollable>,
    writable: Arc<Pollable>,
    input: InputStream,
    output: OutputStream,
    socket: TcpSocket,
}

fn failed(error: &StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}

impl Read for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.input.read(buf.remaining().min(MOST) as u64) {
            Ok(bytes) if bytes.is_empty() => {
                wake_when_ready(&self.readable, cx);
                Poll::Pending
            }
            Ok(bytes) => {
                buf.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Err(StreamError::Closed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(failed(&error))),
        }
    }
}

impl Connection {
    /// How much can be written; what was written before has gone then.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        match self.output.check_write() {
            Ok(0) => {
                wake_when_ready(&self.writable, cx);
                Poll::Pending
            }
            Ok(room) => Poll::Ready(Ok(usize::try_from(room).unwrap_or(usize::MAX))),
            Err(error) => Poll::Ready(Err(failed(&error))),
        }
    }
}

impl Write for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_room(cx).map(|room| {
            let count = bytes.len().min(room?);
            self.output.write(&bytes[..count]).map_err(|error| failed(&error))?;
            Ok(count)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(cx).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(cx).map(|room| {
            room?;
            // One that is closed already is as good.
            let _ = self.socket.shutdown(ShutdownType::Send);
            Ok(())
        })
    }
}
