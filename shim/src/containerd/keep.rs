//! The process of a sandbox, from its beginning to its end.

use super::events::Events;
use super::group::Claim;
use super::pods::Pods;
use super::task::ShimTask;
use super::{Call, Group, ShimError};
use crate::exec::Execs;
use crate::server::{Busy, Serving};
use crate::side;
use crate::task::{self, TaskService};
use sampan_runtime::sandbox::Keeper;
use sampan_runtime::store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// How long threads wait for the next work.
const IDLE: Duration = Duration::from_secs(1);
/// How long containerd may take to hear of the last things.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long after its beginning, what that took is given back.
const SETTLED: Duration = Duration::from_millis(500);

/// A sandbox, with no container in it yet.
#[derive(Debug)]
pub struct Kept {
    keeper: Keeper,
    claim: Claim,
    socket: PathBuf,
    call: Call,
}

impl Kept {
    /// Makes the sandbox of a group.
    ///
    /// To be called while this process has one thread: it forks. The host process never returns from here.
    ///
    /// # Errors
    /// When the system refuses; then nothing is left.
    pub fn make(store: &Store, call: &Call, group: &Group, claim: Claim) -> Result<Self, ShimError> {
        match group.make(store) {
            Ok(keeper) => {
                set_oom_score(keeper.host_pid(), None);
                Ok(Self { keeper, claim, socket: group.socket(), call: call.clone() })
            }
            Err(error) => {
                claim.give_up();
                Err(error)
            }
        }
    }

    /// Serves containerd until it wants the sandbox no more. `ready` is called when the socket is open.
    ///
    /// # Errors
    /// When the socket cannot be served.
    pub fn serve(self, store: &Store, ready: impl FnOnce()) -> Result<(), ShimError> {
        let runtime = tokio::runtime::Builder::new_current_thread().thread_keep_alive(IDLE).enable_all().build();
        let runtime = runtime.map_err(ShimError::io("serve", &self.socket))?;
        let served = runtime.block_on(self.attend(store, ready));
        runtime.shutdown_background();
        self.keeper.kill_host();
        self.claim.give_up();
        served
    }

    async fn attend(&self, store: &Store, ready: impl FnOnce()) -> Result<(), ShimError> {
        let Self { keeper, socket, call, .. } = self;
        let listener = UnixListener::bind(socket).map_err(ShimError::io("listen at", socket))?;
        ready();
        let (events, telling) = Events::new(call);
        let telling = tokio::spawn(telling);
        let (busy, over) = (Busy::default(), watch::Sender::new(false));
        let execs = Execs::new(keeper.clone(), store.clone());
        let inner = TaskService::new(keeper, store, &busy, &execs);
        let pods = Pods::default();
        let service = ShimTask { inner, events: events.clone(), pods: pods.clone(), over: over.clone() };
        let services = [task::services(Arc::new(service)), side::services(keeper.clone(), None, &busy, execs)];
        let serving = Serving::start(listener, services, busy).await;
        let serving = serving.map_err(|source| ShimError::Serve { path: socket.clone(), source })?;
        let host = keeper.clone();
        tokio::spawn(async move {
            let _ = host.attend().await;
            // A pod without its host is none.
            pods.end(None);
        });
        let resting = keeper.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            resting.rest();
        });
        let _ = over.subscribe().wait_for(|over| *over).await;
        serving.close().await;
        keeper.outlive_host().await;
        events.end();
        let _ = tokio::time::timeout(PATIENCE, telling).await;
        Ok(())
    }
}

/// Lets the system end a sandbox's host for want of memory before others, as its container asks for: containerd's own children
/// are the last that it would take.
pub(super) fn set_oom_score(pid: u32, score: Option<i32>) {
    let path = format!("/proc/{pid}/oom_score_adj");
    let now = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let wanted = score.unwrap_or_else(|| now.unwrap_or_default().max(0));
    if now != Some(wanted) {
        // Lowering it takes a right that not every node gives.
        let _ = std::fs::write(&path, wanted.to_string());
    }
}
