//! Listening sockets and connections of a WASI 0.1 module: the host's own, without a wait in the kernel. Who waits,
//! waits as a future, and is ended by dropping it.

use crate::network::traffic::Traffic;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, sockopt};
use std::io::IoSlice;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Which direction is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Something to read, or to accept.
    In,
    /// Room to write.
    Out,
}

impl Direction {
    /// What poll(2) is asked for.
    #[must_use]
    pub fn flags(self) -> PollFlags {
        match self {
            Self::In => PollFlags::IN,
            Self::Out => PollFlags::OUT,
        }
    }
}

/// Whether a call on it waits (`fdflags::nonblock`), which all who have it share.
#[derive(Debug, Default)]
pub struct Mode(AtomicBool);

impl Mode {
    /// Whether calls wait.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    /// Sets whether calls wait.
    pub fn set_waits(&self, waits: bool) {
        self.0.store(!waits, Ordering::Relaxed);
    }
}

/// The listening socket of one port of the container, wherever on the host it is published.
#[derive(Debug)]
pub struct Listener {
    doors: Vec<AsyncFd<Arc<TcpListener>>>,
    traffic: Arc<Traffic>,
    /// Whether `sock_accept` waits.
    pub mode: Mode,
    /// Whether it has been told that there was no descriptor for a connection.
    pub told: AtomicBool,
}

impl Listener {
    /// Takes the host's sockets over. To be called in a runtime of tokio.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(sockets: Vec<Arc<TcpListener>>, traffic: &Arc<Traffic>) -> std::io::Result<Self> {
        let door = |socket: Arc<TcpListener>| {
            socket.set_nonblocking(true)?;
            // SAFETY: the socket has one number for as long as it lives, and lives as long as this.
            Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
        };
        let doors = sockets.into_iter().map(door).collect::<std::io::Result<_>>()?;
        Ok(Self { doors, traffic: Arc::clone(traffic), mode: Mode::default(), told: AtomicBool::new(false) })
    }

    /// Takes a connection; with `wait` until there is one.
    ///
    /// # Errors
    /// EAGAIN when there is none, EINVAL when the listener was closed, EMFILE when there is no descriptor for it, or
    /// what else accept(2) says.
    pub async fn accept(&self, wait: bool) -> Result<Connection, Errno> {
        loop {
            match self.try_accept() {
                Err(Errno::AGAIN) if wait => self.ready().await,
                other => return other,
            }
        }
    }

    fn try_accept(&self) -> Result<Connection, Errno> {
        for door in &self.doors {
            loop {
                match rustix::net::accept_with(door, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(socket) => return Connection::new(socket, &self.traffic),
                    // Whoever it was has gone: the next one.
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(errno),
                }
            }
        }
        Err(Errno::AGAIN)
    }

    async fn ready(&self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// Whether a call of accept would not wait; if it would, whoever polls is woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Each one is asked, so that each one wakes.
        let ready = self.doors.iter().filter(|door| poll_fd(door, cx, Direction::In).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What poll(2) is to look at.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.doors.iter().map(|door| PollFd::new(door.get_ref(), Direction::In.flags()))
    }

    /// Ends it in a direction, for all who have it.
    ///
    /// # Errors
    /// What the system says.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        self.doors.iter().try_for_each(|door| rustix::net::shutdown(door, how))
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
    traffic: Arc<Traffic>,
    /// Whether reads and writes wait.
    pub mode: Mode,
}

impl Connection {
    fn new(socket: OwnedFd, traffic: &Arc<Traffic>) -> Result<Self, Errno> {
        // A guest of WASI 0.1 has no way to ask for it, and who answers requests wants it.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        // SAFETY: as above.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|e| super::memory::errno_of(&e.into()))?;
        Ok(Self { socket, traffic: Arc::clone(traffic), mode: Mode::default() })
    }

    /// Takes what has come, without waiting: how much it was, 0 at the end.
    ///
    /// # Errors
    /// EAGAIN when nothing has come, or what recv(2) says.
    pub fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        let received = rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *buffer, flags));
        let (count, _) = received?;
        if !flags.contains(RecvFlags::PEEK) {
            self.traffic.receive(count);
        }
        Ok(count)
    }

    /// Hands over what there is room for, without waiting: how much it was.
    ///
    /// # Errors
    /// EAGAIN when there is no room, EPIPE when the other end is gone, or what sendmsg(2) says.
    pub fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let count = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        })?;
        self.traffic.send(count);
        Ok(count)
    }

    /// Waits for a direction.
    pub async fn ready(&self, direction: Direction) {
        std::future::poll_fn(|cx| self.poll_ready(cx, direction)).await;
    }

    /// Whether a call in this direction would not wait; if it would, whoever polls is woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>, direction: Direction) -> Poll<()> {
        poll_fd(&self.socket, cx, direction)
    }

    /// What poll(2) is to look at.
    #[must_use]
    pub fn poll_fd(&self, direction: Direction) -> PollFd<'_> {
        PollFd::new(self.socket.get_ref(), direction.flags())
    }

    /// How much can be read.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.socket).unwrap_or(0)
    }

    /// Ends it in a direction.
    ///
    /// # Errors
    /// ENOTCONN when it has ended, or what else the system says.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        rustix::net::shutdown(&self.socket, how)
    }
}

/// Looks at descriptors without waiting. Each one's answer is in it.
pub fn look(fds: &mut [PollFd<'_>]) {
    let _ = rustix::io::retry_on_intr(|| poll(fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })));
}

/// The runtime remembers that a descriptor was ready once; whether it still is, the system knows.
fn poll_fd<T: AsFd + AsRawFd>(fd: &AsyncFd<T>, cx: &mut Context<'_>, direction: Direction) -> Poll<()> {
    loop {
        let polled = match direction {
            Direction::In => fd.poll_read_ready(cx),
            Direction::Out => fd.poll_write_ready(cx),
        };
        let Ok(mut guard) = ready!(polled) else { return Poll::Ready(()) };
        let mut one = [PollFd::new(fd.get_ref(), direction.flags())];
        look(&mut one);
        if one.iter().any(|fd| !fd.revents().is_empty()) {
            return Poll::Ready(());
        }
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    fn listener() -> (Vec<Arc<TcpListener>>, Vec<SocketAddr>) {
        let sockets: Vec<_> = (0..2).map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let addresses = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        (sockets, addresses)
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_port_that_is_published_twice_is_one_listener() {
        let (sockets, addresses) = listener();
        block_on(async {
            let listener = Listener::new(sockets, &Arc::default()).unwrap();
            assert_eq!(listener.accept(false).await.unwrap_err(), Errno::AGAIN);
            for address in addresses.iter().rev() {
                let mut peer = TcpStream::connect(address).unwrap();
                let connection = listener.accept(true).await.unwrap();
                peer.write_all(b"hello").unwrap();
                connection.ready(Direction::In).await;
                let mut buffer = [0; 9];
                assert_eq!(connection.receive(&mut buffer, RecvFlags::PEEK), Ok(5));
                assert_eq!(connection.receive(&mut buffer, RecvFlags::empty()), Ok(5));
                assert_eq!(connection.receive(&mut buffer, RecvFlags::empty()), Err(Errno::AGAIN));
                // It was ready once, and is no more.
                let waited = tokio::time::timeout(Duration::from_millis(10), connection.ready(Direction::In)).await;
                assert!(waited.is_err());
                assert_eq!(connection.send(&[IoSlice::new(b"he"), IoSlice::new(b"llo")]), Ok(5));
                connection.shutdown(Shutdown::Write).unwrap();
                let mut text = String::new();
                peer.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
            }
        });
    }

    #[test]
    fn a_listener_that_is_closed_from_outside_wakes_who_waits() {
        let (sockets, _) = listener();
        let outside = Arc::clone(&sockets[1]);
        let ended = block_on(async {
            let listener = Listener::new(sockets, &Arc::default()).unwrap();
            let close = async {
                tokio::task::yield_now().await;
                rustix::net::shutdown(&outside, Shutdown::Both).unwrap();
            };
            tokio::join!(listener.accept(true), close).0.map(drop)
        });
        assert_eq!(ended, Err(Errno::INVAL));
    }
}
