//! Descriptors of this process that the engine keeps to itself: what is open is asked of the system, and a socket is known
//! by its address.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{getsockname, sockopt};
use rustix::process::{Resource, getrlimit};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// So many are asked for at a time. The system gives the lowest number that is free, so behind so many of which none is
/// open there are hardly any.
const BLOCK: i32 = 1024;

/// The descriptors that are open, behind the standard streams: one question to the system for many.
pub fn open() -> impl Iterator<Item = BorrowedFd<'static>> {
    // poll(2) takes no more than there may be.
    let most = getrlimit(Resource::Nofile).current.and_then(|most| i32::try_from(most).ok()).unwrap_or(i32::MAX);
    let blocks = (0..).map(|n: i32| n.saturating_mul(BLOCK)).take_while(move |from| *from < most);
    let blocks = blocks.map(move |from| open_among(from.max(3)..from.saturating_add(BLOCK).min(most)));
    blocks.take_while(|open| !open.is_empty()).flatten()
}

fn open_among(numbers: std::ops::Range<i32>) -> Vec<BorrowedFd<'static>> {
    // SAFETY: the descriptors are only looked at while their user handles them, and the system says itself which of them
    // are open.
    let all = numbers.map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    let mut asked: Vec<PollFd<'static>> =
        all.clone().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty())).collect();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let answered = rustix::io::retry_on_intr(|| poll(&mut asked, Some(&now))).is_ok();
    let open = all.zip(asked).filter(|(_, fd)| answered && !fd.revents().contains(PollFlags::NVAL));
    open.map(|(fd, _)| fd).collect()
}

/// The sockets that are bound to an address.
pub fn sockets_at(address: SocketAddr) -> impl Iterator<Item = BorrowedFd<'static>> {
    let is_there = move |fd: &BorrowedFd<'_>| {
        getsockname(*fd).ok().and_then(|here| SocketAddr::try_from(here).ok()) == Some(address)
    };
    open().filter(is_there)
}

/// Has a listener's connections send at once what they are given (TCP_NODELAY, which they inherit): WASI has no such
/// option, and without it an answer in two pieces waits for the other side's delayed acknowledgement, 40 ms.
pub(super) fn send_at_once(address: SocketAddr) {
    for fd in sockets_at(address) {
        let _ = sockopt::set_tcp_nodelay(fd, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_is_found_by_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(sockets_at(address).any(|fd| fd.as_raw_fd() == listener.as_raw_fd()));
        assert!(open().count() >= sockets_at(address).count());
        assert!(!sockopt::tcp_nodelay(&listener).unwrap());
        send_at_once(address);
        assert!(sockopt::tcp_nodelay(&listener).unwrap());
        drop(listener);
        assert_eq!(sockets_at(address).count(), 0);
    }
}
