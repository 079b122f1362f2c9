//! Services that share a sandbox share a runtime: an idle one has no thread.

use super::tasks::Tasks;
use super::{serve, threads};
use crate::guest::command::ending_of;
use crate::guest::state::Surroundings;
use crate::guest::{Control, Ending, Kind, Program};
use rustix::process::{Resource, getrlimit};
use std::net::TcpListener;
use std::sync::Arc;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

/// How many calls of the host there may be at a time that block: some may do so for ever.
const MOST_BLOCKED: usize = 2048;

/// What services that share a sandbox have in common.
#[derive(Debug)]
pub struct Hall {
    runtime: Runtime,
    /// Places for connections.
    places: Arc<Semaphore>,
}

impl Hall {
    /// Sets it up.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn open() -> std::io::Result<Self> {
        let runtime = threads().max_blocking_threads(MOST_BLOCKED).build()?;
        // The other half is for guests and their listeners.
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Ok(Self { runtime, places: Arc::new(Semaphore::new(limit.map_or(1 << 20, |limit| (limit / 2).max(1)))) })
    }

    /// Whether a service can be run here: instances of WASI 0.3 have tasks that nobody can tell apart, so they have
    /// threads of their own, and so has one that has a share of its own of a busy machine, which is a thread's.
    #[must_use]
    pub fn takes(program: &Program, cpu_shares: Option<u64>) -> bool {
        program.kind() == Kind::Http2 && cpu_shares.is_none()
    }

    /// The runtime.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Where connections have their places.
    #[must_use]
    pub fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places)
    }
}

/// Serves `listeners` until the service is stopped. To be awaited in the hall's runtime.
pub(crate) async fn run(
    places: Arc<Semaphore>,
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Vec<TcpListener>,
    started: impl FnOnce(),
) -> Ending {
    control.watch(&program.engine);
    let tasks = Tasks::among_others(surroundings.account.cpu());
    let ending = serve(program, surroundings, control, listeners, (tasks.clone(), Some(places)), started).await;
    tasks.end().await;
    surroundings.network.close();
    ending.unwrap_or_else(|error| ending_of(&error, control))
}
