//! The keeper's side: what it does for a container whose sandbox asks. The host is not trusted with its questions, so
//! each is held against the container's own grants.

use super::programs::Compiling;
use crate::grants::Egress;
use crate::guest::process::LoadError;
use crate::network::outside::Unresolved;
use crate::network::peers;
use crate::rootfs;
use crate::sandbox::wire::{self, Answer, Order, Question};
use crate::store::{Store, files};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many names one container may ask for at once.
const MOST_NAMES: usize = 64;

/// What one container may ask for.
#[derive(Debug)]
pub(in crate::sandbox) struct Answers {
    programs: Option<Compiling>,
    egress: Egress,
    /// Where the members of its network are written down.
    network: Option<PathBuf>,
    /// Its own layer.
    layer: PathBuf,
    asking: Arc<AtomicUsize>,
}

impl Answers {
    /// With a store, it may start programs; `network` is the directory of its network's members, if it is on one.
    pub(in crate::sandbox) fn new(
        store: Option<Store>,
        egress: Egress,
        network: Option<PathBuf>,
        bundle: &Path,
    ) -> Self {
        let layer = rootfs::upper(bundle);
        Self { programs: store.map(Compiling::new), egress, network, layer, asking: Arc::default() }
    }

    /// Lets it start programs from now on: what is run inside a container may.
    pub(in crate::sandbox) fn allow_programs(&mut self, store: &Store) {
        self.programs.get_or_insert_with(|| Compiling::new(store.clone()));
    }

    /// Answers a question, in a thread of its own where that takes a while.
    pub(in crate::sandbox) fn answer(&self, socket: OwnedFd, ticket: u64, question: Question, fds: Vec<OwnedFd>) {
        match question {
            Question::Program => match (&self.programs, fds.into_iter().next()) {
                (Some(programs), Some(wasm)) => programs.prepare(socket, ticket, wasm.into()),
                (None, _) => refuse_program(&socket, ticket, "this container may start no programs"),
                _ => refuse_program(&socket, ticket, "no file came along"),
            },
            Question::Name(name) => {
                if !self.egress.names(&name) {
                    return reply(&socket, ticket, Answer::Name(Err(Unresolved::Denied)));
                }
                self.aside(
                    socket,
                    ticket,
                    move || (Answer::Name(resolve(&name)), None),
                    |why| Answer::Name(Err(Unresolved::Temporary(why))),
                );
            }
            Question::Peers(name) => {
                let found = self.network.as_deref().map(|dir| peers::named(dir, &name)).unwrap_or_default();
                let answer = if found.is_empty() { Err(Unresolved::NoSuchName) } else { Ok(found) };
                reply(&socket, ticket, Answer::Name(answer));
            }
            Question::Listener(protocol, at) => {
                let real = self.network.as_deref().and_then(|dir| peers::listener(dir, protocol, at));
                reply(&socket, ticket, Answer::Listener(real));
            }
            Question::Written => {
                let layer = self.layer.clone();
                let measure = move || (Answer::Written(files::tree_size(&layer)), None);
                self.aside(socket, ticket, measure, |_| Answer::Written(u64::MAX));
            }
            Question::Roots if self.egress.is_empty() => {
                reply(&socket, ticket, Answer::Roots(Err("this container may call nobody".to_owned())));
            }
            Question::Roots => self.aside(
                socket,
                ticket,
                || match roots() {
                    Ok(file) => (Answer::Roots(Ok(())), Some(file.into())),
                    Err(e) => (Answer::Roots(Err(format!("cannot hand over the certificates: {e}"))), None),
                },
                |why| Answer::Roots(Err(why)),
            ),
        }
    }

    /// Works in a thread of its own, of which there are so many and no more.
    fn aside(
        &self,
        socket: OwnedFd,
        ticket: u64,
        work: impl FnOnce() -> (Answer, Option<OwnedFd>) + Send + 'static,
        fail: impl FnOnce(String) -> Answer,
    ) {
        let asking = Arc::clone(&self.asking);
        if asking.fetch_add(1, Ordering::SeqCst) >= MOST_NAMES {
            asking.fetch_sub(1, Ordering::SeqCst);
            return reply(&socket, ticket, fail("too many questions at once".to_owned()));
        }
        let failing = socket.try_clone();
        let work = move || {
            let (answer, fd) = work();
            let fd = fd.as_ref().map(AsFd::as_fd);
            // A host that is gone asks for nothing.
            let _ = wire::send(socket.as_fd(), &Order::Answer { ticket, answer }, fd.as_slice());
            asking.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = std::thread::Builder::new().name("names".into()).stack_size(256 << 10).spawn(work) {
            self.asking.fetch_sub(1, Ordering::SeqCst);
            if let Ok(socket) = failing {
                reply(&socket, ticket, fail(format!("cannot start a thread: {error}")));
            }
        }
    }
}

fn reply(socket: &OwnedFd, ticket: u64, answer: Answer) {
    let _ = wire::send(socket.as_fd(), &Order::Answer { ticket, answer }, &[]);
}

/// Refuses a program.
pub(in crate::sandbox) fn refuse_program(socket: &OwnedFd, ticket: u64, why: &str) {
    reply(socket, ticket, Answer::Program(Err(LoadError::Failed(why.to_owned()))));
}

/// Asks the system's resolver (getaddrinfo(3)).
fn resolve(name: &str) -> Result<Vec<IpAddr>, Unresolved> {
    match (name, 0).to_socket_addrs() {
        Ok(found) => {
            let mut all: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            all.dedup();
            Ok(all)
        }
        // The library's words for EAI_AGAIN; every other answer is that there is no such name.
        Err(e) if e.to_string().contains("Temporary failure") => Err(Unresolved::Temporary(e.to_string())),
        Err(_) => Err(Unresolved::NoSuchName),
    }
}

/// The system's certificates in a file of no name.
fn roots() -> std::io::Result<File> {
    let file = rustix::fs::memfd_create("certificates", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut bytes = Vec::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        if let Ok(length) = u32::try_from(certificate.len()) {
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(&certificate);
        }
    }
    let mut file = File::from(file);
    file.write_all(&bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_arrive_as_they_were() {
        let sent = roots().unwrap();
        let received = super::super::certificates(sent).unwrap();
        let expected = rustls_native_certs::load_native_certs().certs;
        assert_eq!(received.len(), expected.len());
        assert!(received.iter().zip(&expected).all(|(a, b)| a == b.as_ref()));
    }

    #[test]
    fn a_name_that_nobody_has() {
        assert!(resolve("no-such-name.invalid").is_err());
        assert!(resolve("localhost").unwrap().iter().all(IpAddr::is_loopback));
    }
}
