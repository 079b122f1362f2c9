//! A container that stands still.

use super::Keeper;
use crate::sandbox::snapshot::Phase;
use crate::sandbox::{SandboxError, system};
use rustix::process::{Signal, pidfd_send_signal};

/// What is in the run directory of a container while it is paused.
pub(crate) const PAUSED: &str = "paused";

impl Keeper {
    /// Holds a running container where it is, host calls and all: its process is stopped (SIGSTOP), so what comes to its
    /// ports waits in the kernel.
    ///
    /// # Errors
    /// When it does not run, or shares its sandbox with others.
    pub fn pause(&self, id: &str) -> Result<(), SandboxError> {
        let phase = self.look(id)?.phase;
        if phase != Phase::Running {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: phase.word(), wanted: "paused" });
        }
        if self.is_paused() {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: "paused", wanted: "paused again" });
        }
        if !self.is_last(id) {
            return Err(SandboxError::Shared(id.to_owned()));
        }
        std::fs::write(self.0.place.join(PAUSED), []).map_err(system("write down that it is paused"))?;
        pidfd_send_signal(&self.0.pidfd, Signal::STOP).map_err(system("stop the host process"))
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn unpause(&self, id: &str) -> Result<(), SandboxError> {
        let phase = self.look(id)?.phase;
        if !self.is_paused() {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: phase.word(), wanted: "unpaused" });
        }
        self.resume();
        Ok(())
    }

    /// Whether the sandbox is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.place.join(PAUSED).exists()
    }

    pub(super) fn resume(&self) {
        if self.is_paused() {
            let _ = pidfd_send_signal(&self.0.pidfd, Signal::CONT);
            let _ = std::fs::remove_file(self.0.place.join(PAUSED));
        }
    }
}
