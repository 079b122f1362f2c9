//! A process that is there before it is needed. A sandbox is forked from a process that has one thread, as this one has not;
//! to begin another takes a third of the time that a pod's start may take.

use sampan_runtime::store::Store;
use std::io::{Result, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Starts containers by `sampan ready`, of which one waits for its word.
#[derive(Debug)]
pub(super) struct Starter {
    root: PathBuf,
    ready: Mutex<Option<Child>>,
}

impl Starter {
    pub fn new(store: &Store) -> Self {
        let starter = Self { root: store.root().to_owned(), ready: Mutex::default() };
        starter.get_ready();
        starter
    }

    /// Starts a container, and returns what the process has said.
    pub fn start(&self, id: &str) -> Result<Output> {
        let ready = self.ready().take();
        let mut child = ready.map_or_else(|| self.spawn(), Ok)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(id.as_bytes())?;
        }
        // Beside the start of this one.
        self.get_ready();
        child.wait_with_output()
    }

    fn get_ready(&self) {
        let mut ready = self.ready();
        if ready.is_none() {
            *ready = self.spawn().ok();
        }
    }

    fn ready(&self) -> MutexGuard<'_, Option<Child>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It ends by itself when this process does: it finds its input closed.
    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("ready").env("SAMPAN_ROOT", &self.root);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }
}
