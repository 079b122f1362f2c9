//! Programs that guests start: the keeper has their code made ready.
//!
//! The Wasm file travels as a descriptor that the host has opened beneath the container's tree, so the keeper opens
//! nothing that a guest has named, and the code comes back as one.

use super::answers::refuse_program;
use crate::guest::code;
use crate::guest::process::{self, LoadError};
use crate::sandbox::wire::{self, Answer, Order};
use crate::store::Store;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many programs one container may have compiled, so that a guest cannot fill the code cache without end.
const MOST_COMPILED: usize = 256;
/// How many requests may wait: more than a host has that is what it should be.
const MOST_WAITING: usize = 2 * process::MOST;

/// What has the code of programs made ready, for one container.
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
                refuse_program(&socket, ticket, &words);
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
            let order = |answer| Order::Answer { ticket, answer: Answer::Program(answer) };
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
