//! Waiting for what becomes of a container.

use super::Keeper;
use crate::guest::Counted;
use crate::sandbox::SandboxError;
use crate::sandbox::snapshot::{Phase, Snapshot};
use crate::sandbox::wire::{self, Order};
use std::os::fd::AsFd;
use tokio::sync::watch;

impl Keeper {
    /// Waits until the container's first instruction is next, or it has ended without.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn started(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.until(id, |s| matches!(s.phase, Phase::Running | Phase::Ended(_))).await
    }

    /// Waits until the container has ended.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn wait(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.until(id, |s| matches!(s.phase, Phase::Ended(_))).await
    }

    /// Waits until the container has ended and its end is written down.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn wait_settled(&self, id: &str) -> Result<Snapshot, SandboxError> {
        if let Some(kept) = self.state().containers.get_mut(id) {
            kept.heard = true;
            kept.changed.send_replace(());
        }
        self.until(id, |s| s.settled && matches!(s.phase, Phase::Ended(_))).await
    }

    /// Waits until somebody has asked for the container's end.
    pub(crate) async fn heard(&self, id: &str) {
        let Ok(mut changes) = self.changes(id) else { return };
        while self.state().containers.get(id).is_some_and(|kept| !kept.heard) && changes.changed().await.is_ok() {}
    }

    /// What has been counted of a container since its start; `None` for one that does not run.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn counted(&self, id: &str) -> Result<Option<Counted>, SandboxError> {
        let mut changes = self.changes(id)?;
        let asked = self.last_counted(id)?.0;
        if matches!(self.look(id)?.phase, Phase::Created | Phase::Ended(_)) {
            return Ok(None);
        }
        if self.is_paused() {
            // Its host stands still: nothing has been counted since.
            return Ok(Some(self.last_counted(id)?.1));
        }
        let _ = wire::send(self.0.socket.as_fd(), &Order::Count(id.to_owned()), &[]);
        loop {
            let (answered, counted) = self.last_counted(id)?;
            if answered > asked {
                return Ok(Some(counted));
            }
            if matches!(self.look(id)?.phase, Phase::Ended(_)) {
                return Ok(None);
            }
            if changes.changed().await.is_err() {
                return Err(SandboxError::Gone);
            }
        }
    }

    fn last_counted(&self, id: &str) -> Result<(u64, Counted), SandboxError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        Ok(kept.counted.clone())
    }

    /// Says that a container's end is written down.
    pub fn settle(&self, id: &str) {
        if let Some(kept) = self.state().containers.get_mut(id) {
            kept.snapshot.settled = true;
            kept.changed.send_replace(());
        }
    }

    /// What tells of changes of one container.
    fn changes(&self, id: &str) -> Result<watch::Receiver<()>, SandboxError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        Ok(kept.changed.subscribe())
    }

    async fn until(&self, id: &str, done: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, SandboxError> {
        let seen = || {
            let state = self.state();
            state.containers.get(id).map(|kept| &kept.snapshot).filter(|snapshot| done(snapshot)).cloned()
        };
        loop {
            let mut changes = self.changes(id)?;
            loop {
                if let Some(snapshot) = seen() {
                    return Ok(snapshot);
                }
                // It may have been forgotten, and be there anew.
                if changes.changed().await.is_err() {
                    break;
                }
            }
        }
    }
}
