//! What keeper and host say to each other: JSON messages on a socket pair, one a packet, with descriptors beside them.

use super::exec::{ExecNews, ExecOrder};
use super::fence::Fences;
use crate::grants::{Port, Protocol, Resources};
use crate::guest::process::LoadError;
use crate::guest::{Counted, Description, Ending};
use crate::network::outside::Unresolved;
use crate::network::reserve::Reserved;
use crate::rootfs::Preopen;
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// From the keeper to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first container's tree is ready: run it.
    Begin,
    /// Run one more container; its code, its output pipe, its input if it has one and its reserved ports come along as
    /// descriptors, in this order.
    Run(Box<RunOrder>),
    /// Ask a container to end in its own time.
    Stop(String),
    /// End a container at once.
    Kill(String),
    /// What was asked for.
    Answer { ticket: u64, answer: Answer },
    /// Say what has been counted of a container.
    Count(String),
    /// Change what a container may use.
    Limit(String, Resources),
    /// Something about a program that is run inside a container.
    Exec(ExecOrder),
    /// Give up what starting took: an idle sandbox needs little of the program's text.
    Rest,
}

/// What the host asks of the keeper, since it can reach neither of these from behind its fences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// The code of a program that a guest wants to start; its file comes along as a descriptor.
    Program,
    /// The addresses of a name.
    Name(String),
    /// The certificates that the system trusts.
    Roots,
    /// The addresses of those on the container's network who go by a name.
    Peers(String),
    /// Where a peer's listener really is.
    Listener(Protocol, SocketAddr),
    /// How many bytes the container's own layer has.
    Written,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The code comes along as a descriptor.
    Program(Result<Description, LoadError>),
    Name(Result<Vec<IpAddr>, Unresolved>),
    /// They come along as a descriptor: each a length in four bytes, little-endian, and so many bytes of DER.
    Roots(Result<(), String>),
    Listener(Option<SocketAddr>),
    Written(u64),
}

/// What a container that joins a running sandbox is made of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RunOrder {
    pub id: String,
    /// The digest of its program's Wasm.
    pub digest: String,
    pub spec: Spec,
    pub preopens: Vec<Preopen>,
    pub description: Description,
    pub reserved: Vec<Reserved>,
    /// Where programs that it sees are told of.
    pub view: Option<PathBuf>,
}

/// From the host to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The fences have been raised.
    Fenced(Fences),
    /// A guest's first instruction is next; where the host listens for its ports.
    Started { id: String, ports: Vec<(Port, SocketAddr)> },
    /// Something is needed for a container.
    Ask { ticket: u64, id: String, question: Question },
    /// A guest listens at a port that its peers may know.
    Listens { id: String, protocol: Protocol, port: u16, real: SocketAddr },
    /// What has been counted of a container.
    Counted { id: String, counted: Counted },
    /// Something has happened to a program that is run inside a container.
    Exec { id: String, exec: String, news: ExecNews },
    /// A guest has ended.
    Ended { id: String, ending: Ending },
}

const MOST_BYTES: usize = 1 << 20;
/// What the kernel passes on at once (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;

/// Sends one message.
pub(super) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // The keeper's end does not block: it is read beside others.
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message; `None` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; 4096];
    // A packet tells its length before it is taken (MSG_PEEK with MSG_TRUNC), so that the usual small one costs little.
    let length = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut RecvAncillaryBuffer::default(),
            flags | RecvFlags::PEEK | RecvFlags::TRUNC,
        )
    })?
    .bytes;
    if length == 0 {
        return Ok(None);
    }
    bytes.resize(length.min(MOST_BYTES), 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let long = "x".repeat(10_000);
        send(a.as_fd(), &Order::Stop(long.clone()), &[file.as_fd()]).unwrap();
        send(a.as_fd(), &Order::Kill("b".into()), &[]).unwrap();
        let (first, fds) = receive::<Order>(b.as_fd(), RecvFlags::empty()).unwrap().unwrap();
        assert!(matches!(first, Order::Stop(text) if text == long));
        assert_eq!(fds.len(), 1);
        assert!(matches!(receive::<Order>(b.as_fd(), RecvFlags::empty()).unwrap().unwrap().0, Order::Kill(_)));
        drop(a);
        assert!(receive::<Order>(b.as_fd(), RecvFlags::empty()).unwrap().is_none());
    }
}
