//! Changing what a running container may use.

use super::wire::{self, Order};
use super::{Keeper, SandboxError, share_of_session, system};
use crate::grants::{Resources, SHARES};
use crate::guest::{Counted, cpu};

impl Keeper {
    /// Changes the limits of a running container.
    ///
    /// # Errors
    /// When it does not run, has more memory than it may have from now on, or is to have a larger share of the machine and
    /// we may not give it that; then nothing is changed.
    pub async fn limit(&self, id: &str, change: Resources) -> Result<(), SandboxError> {
        let Some(Counted { usage: Some(usage), .. }) = self.counted(id).await? else {
            let phase = self.look(id)?.phase.word();
            return Err(SandboxError::Phase { id: id.to_owned(), phase, wanted: "limited" });
        };
        if let Some(limit) = change.memory.filter(|limit| (1..usage.memory).contains(limit)) {
            return Err(SandboxError::InUse { id: id.to_owned(), used: usage.memory, limit });
        }
        if let Some(shares) = change.cpu_shares {
            let shares = if shares == 0 { SHARES } else { shares };
            for thread in usage.tasks {
                match cpu::set_niceness(thread, cpu::niceness(shares)) {
                    // It has ended meanwhile.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    set => set.map_err(system("change its share of a busy machine"))?,
                }
            }
            if self.alone(id) {
                share_of_session(shares);
            }
        }
        wire::send(self.socket(), &Order::Limit(id.to_owned(), change), &[]).map_err(|_| SandboxError::Gone)
    }
}
