//! What the host asks of the keeper, since it can reach neither the code cache, nor a compiler, nor the system's
//! resolver and certificates from behind its fences.
//!
//! This is the host's side; [`answers`] is the keeper's, which does not trust the host with its questions.

pub(super) mod answers;
mod programs;

use super::wire::{self, Answer, Question, Report};
use crate::grants::Protocol;
use crate::guest::Description;
use crate::guest::process::{LoadError, Loader, Loading};
use crate::guest::storage::Measure;
use crate::network::outside::{Outside, Resolving, Roots, Unresolved};
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Received = (Answer, Vec<OwnedFd>);

/// Questions under way. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Asking(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    socket: Arc<OwnedFd>,
    tickets: Mutex<(u64, HashMap<u64, oneshot::Sender<Received>>)>,
}

impl Asking {
    pub(super) fn new(socket: &Arc<OwnedFd>) -> Self {
        Self(Arc::new(Waiting { socket: Arc::clone(socket), tickets: Mutex::default() }))
    }

    /// The socket to the keeper.
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.0.socket
    }

    /// Takes the keeper's answer to whoever waits for it.
    pub(super) fn answered(&self, ticket: u64, answer: Answer, fds: Vec<OwnedFd>) {
        let waiting = self.0.tickets.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket);
        if let Some(waiting) = waiting {
            let _ = waiting.send((answer, fds));
        }
    }

    /// What asks for one container.
    pub(super) fn container(&self, id: &str) -> Arc<ContainersAsking> {
        Arc::new(ContainersAsking { asking: self.clone(), id: id.to_owned() })
    }
}

/// The questions of one container.
#[derive(Debug)]
pub(super) struct ContainersAsking {
    asking: Asking,
    id: String,
}

impl ContainersAsking {
    /// Asks; the answer is `None` when the keeper is gone.
    fn ask(&self, question: Question, fd: Option<BorrowedFd<'_>>) -> impl Future<Output = Option<Received>> + use<> {
        let (sender, receiver) = oneshot::channel();
        let waiting = &self.asking.0;
        let ticket = {
            let mut tickets = waiting.tickets.lock().unwrap_or_else(PoisonError::into_inner);
            tickets.0 += 1;
            let ticket = tickets.0;
            tickets.1.insert(ticket, sender);
            ticket
        };
        let report = Report::Ask { ticket, id: self.id.clone(), question };
        if wire::send(waiting.socket.as_fd(), &report, fd.as_slice()).is_err() {
            waiting.tickets.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket);
        }
        async move { receiver.await.ok() }
    }
}

impl Loader for ContainersAsking {
    fn load(&self, wasm: File) -> Loading {
        let asked = self.ask(Question::Program, Some(wasm.as_fd()));
        Box::pin(async move {
            let lost = |words: &str| LoadError::Failed(words.to_owned());
            match asked.await {
                Some((Answer::Program(answer), fds)) => {
                    let description: Description = answer?;
                    let code = fds.into_iter().next().ok_or_else(|| lost("the keeper sent no code"))?;
                    Ok((File::from(code), description))
                }
                _ => Err(lost("the answer was lost")),
            }
        })
    }
}

impl Measure for ContainersAsking {
    fn measure(&self) -> Option<u64> {
        // The answer comes by another thread than that of a guest that writes.
        match futures::executor::block_on(self.ask(Question::Written, None)) {
            Some((Answer::Written(bytes), _)) => Some(bytes),
            _ => None,
        }
    }
}

impl Outside for ContainersAsking {
    fn resolve(&self, name: &str) -> Resolving {
        let asked = self.ask(Question::Name(name.to_owned()), None);
        Box::pin(async move {
            match asked.await {
                Some((Answer::Name(answer), _)) => answer,
                _ => Err(Unresolved::Temporary("the answer was lost".to_owned())),
            }
        })
    }

    fn peers(&self, name: &str) -> Resolving {
        let asked = self.ask(Question::Peers(name.to_owned()), None);
        Box::pin(async move {
            match asked.await {
                Some((Answer::Name(answer), _)) => answer,
                _ => Err(Unresolved::Temporary("the answer was lost".to_owned())),
            }
        })
    }

    fn listener(&self, protocol: Protocol, at: SocketAddr) -> BoxFuture<'static, Option<SocketAddr>> {
        let asked = self.ask(Question::Listener(protocol, at), None);
        Box::pin(async move {
            match asked.await {
                Some((Answer::Listener(real), _)) => real,
                _ => None,
            }
        })
    }

    fn listens(&self, protocol: Protocol, port: u16, real: SocketAddr) {
        let report = Report::Listens { id: self.id.clone(), protocol, port, real };
        let _ = wire::send(self.asking.0.socket.as_fd(), &report, &[]);
    }

    fn roots(&self) -> Roots {
        let asked = self.ask(Question::Roots, None);
        Box::pin(async move {
            match asked.await {
                Some((Answer::Roots(answer), fds)) => {
                    answer?;
                    let file = fds.into_iter().next().ok_or("the keeper sent no certificates")?;
                    certificates(File::from(file)).map_err(|e| format!("cannot read the certificates: {e}"))
                }
                _ => Err("the answer was lost".to_owned()),
            }
        })
    }
}

/// Reads what [`answers`] has written: each certificate with its length before it.
fn certificates(mut file: File) -> std::io::Result<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    // The offset came along with the descriptor.
    std::io::Seek::rewind(&mut file)?;
    file.read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (one, after) = after.split_at_checked(length).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        all.push(one.to_vec());
        rest = after;
    }
    Ok(all)
}
