//! Sockets of this process that the engine keeps to itself: they are found by their address.

use rustix::net::{getsockname, sockopt};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// So far is looked: a guest's listeners are made early in its life.
const FURTHEST: i32 = 1024;

/// The sockets that are bound to an address.
pub fn sockets_at(address: SocketAddr) -> impl Iterator<Item = BorrowedFd<'static>> {
    (3..FURTHEST).filter_map(move |number| {
        // SAFETY: the descriptor is only looked at while its user handles it, and each call says itself whether it is
        // open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let here = getsockname(fd).ok().and_then(|a| SocketAddr::try_from(a).ok());
        (here == Some(address)).then_some(fd)
    })
}

/// Has a listener's connections send at once what they are given (TCP_NODELAY, which they inherit): WASI has no such
/// option, and without it an answer in two pieces waits for the other side's delayed acknowledgement, 40 ms.
pub(super) fn send_at_once(address: SocketAddr) {
    for fd in sockets_at(address) {
        let _ = sockopt::set_tcp_nodelay(fd, true);
    }
}
