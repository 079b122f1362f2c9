//! Programs that guests start: the host asks the keeper for their code, since it can reach neither the code cache nor a
//! compiler from behind its fences.
//!
//! The Wasm file travels as a descriptor that the host has opened beneath the container's tree, so the keeper opens
//! nothing that a guest has named, and the code comes back as one.

use super::wire::{self, Order, Report};
use crate::guest::Description;
use crate::guest::code;
use crate::guest::process::{self, LoadError, Loader, Loading};
use crate::store::Store;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// How many programs one container may have compiled, so that a guest cannot fill the code cache without end.
const MOST_COMPILED: usize = 256;
/// How many requests may wait: more than a host has that is what it should be.
const MOST_WAITING: usize = 2 * process::MOST;

type Answer = Result<(File, Description), LoadError>;

/// The host's side: requests under way.
#[derive(Debug, Clone)]
pub(super) struct Programs(Arc<Asking>);

#[derive(Debug)]
struct Asking {
    socket: Arc<OwnedFd>,
    waiting: Mutex<(u64, HashMap<u64, oneshot::Sender<Answer>>)>,
}

impl Programs {
    pub(super) fn new(socket: &Arc<OwnedFd>) -> Self {
        Self(Arc::new(Asking { socket: Arc::clone(socket), waiting: Mutex::default() }))
    }

    /// The socket to the keeper.
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.0.socket
    }

    /// Takes the keeper's answer to whoever waits for it.
    pub(super) fn answered(&self, ticket: u64, answer: Result<Description, LoadError>, fds: Vec<OwnedFd>) {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket);
        let answer = answer.and_then(|description| {
            let code = fds.into_iter().next().ok_or_else(|| LoadError::Failed("the keeper sent no code".into()))?;
            Ok((File::from(code), description))
        });
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// What gets code for the programs of one container.
    pub(super) fn loader(&self, id: &str) -> Arc<dyn Loader> {
        Arc::new(ContainersLoader { programs: self.clone(), id: id.to_owned() })
    }
}

#[derive(Debug)]
struct ContainersLoader {
    programs: Programs,
    id: String,
}

impl Loader for ContainersLoader {
    fn load(&self, wasm: File) -> Loading {
        let (sender, receiver) = oneshot::channel();
        let asking = &self.programs.0;
        let ticket = {
            let mut waiting = asking.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.0 += 1;
            let ticket = waiting.0;
            waiting.1.insert(ticket, sender);
            ticket
        };
        let sent = wire::send(asking.socket.as_fd(), &Report::Program { ticket, id: self.id.clone() }, &[wasm.as_fd()]);
        if let Err(error) = sent {
            self.programs.answered(ticket, Err(LoadError::Failed(format!("cannot ask for its code: {error}"))), vec![]);
        }
        Box::pin(
            async move { receiver.await.unwrap_or_else(|_| Err(LoadError::Failed("the answer was lost".to_owned()))) },
        )
    }
}

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Compiling {
    store: Store,
    /// How many have been compiled. Locked while one is, so that a guest keeps one processor busy and not all.
    compiled: Arc<Mutex<usize>>,
    /// How many requests there are.
    waiting: Arc<AtomicUsize>,
}

impl Compiling {
    pub(super) fn new(store: Store) -> Self {
        Self { store, compiled: Arc::default(), waiting: Arc::default() }
    }

    /// Gets the code of `wasm`, which the host has opened and nobody here trusts, and sends it to the host. In a thread
    /// of its own: it may have to be compiled first.
    pub(super) fn prepare(&self, socket: OwnedFd, ticket: u64, wasm: File) {
        let (store, compiled, waiting) = (self.store.clone(), Arc::clone(&self.compiled), Arc::clone(&self.waiting));
        let failing = socket.try_clone();
        let fail = |words: String| {
            if let Ok(socket) = failing {
                let answer = Err(LoadError::Failed(words));
                let _ = wire::send(socket.as_fd(), &Order::Program { ticket, answer }, &[]);
            }
        };
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return fail("too many programs are being started".to_owned());
        }
        let work = move || {
            let mut compiled = compiled.lock().unwrap_or_else(PoisonError::into_inner);
            let may_compile = *compiled < MOST_COMPILED;
            let answer = code::prepare_open(&store, wasm, may_compile);
            let order = |answer| Order::Program { ticket, answer };
            *compiled += usize::from(matches!(answer, Ok(Some((_, true))) | Err(code::CodeError::Compile { .. })));
            // A host that is gone asks for nothing.
            let _ = match answer {
                Ok(Some((code, _))) => wire::send(socket.as_fd(), &order(Ok(code.description)), &[code.file.as_fd()]),
                Ok(None) => wire::send(socket.as_fd(), &order(Err(LoadError::TooMany(MOST_COMPILED))), &[]),
                Err(error) => wire::send(socket.as_fd(), &order(Err(load_error(error))), &[]),
            };
            waiting.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = std::thread::Builder::new().name("programs".into()).spawn(work) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            fail(format!("cannot start a thread: {error}"));
        }
    }
}

fn load_error(error: code::CodeError) -> LoadError {
    match error {
        code::CodeError::Compile { source, .. } => LoadError::Refused(source.to_string()),
        code::CodeError::Store(error) => LoadError::Failed(error.to_string()),
    }
}
