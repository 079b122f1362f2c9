//! What is told of a running container: what its host has counted, and what the system says of its processes. True
//! without cgroups and without root.

use super::{Keeper, SandboxError};
use crate::guest::usage::Usage;
use crate::guest::{Counted, Counts};
use crate::network::refusals::Refusals;
use std::path::Path;

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// What its host has counted.
    pub usage: Usage,
    /// What was counted of its requests, if it is an HTTP service.
    pub requests: Option<Counts>,
    /// What it was refused of the network.
    pub refusals: Refusals,
    /// Bytes that were read from disks for it. Of several containers in one sandbox, by the threads that each has now.
    pub read: u64,
    /// Bytes that it has had written to disks.
    pub written: u64,
    /// Its sandbox's part of the machine's memory, of both processes: pages that others have too count by the part.
    pub pss: u64,
}

impl Keeper {
    /// What a container uses at this moment; `None` when it does not run.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn stats(&self, id: &str) -> Result<Option<Stats>, SandboxError> {
        let Some(Counted { http: requests, refusals, usage: Some(usage) }) = self.counted(id).await? else {
            return Ok(None);
        };
        let host = self.host_pid();
        let (read, written) = match self.alone(id) {
            true => io(Path::new(&format!("/proc/{host}/io"))),
            false => usage.tasks.iter().fold((0, 0), |(read, written), task| {
                let (more_read, more_written) = io(Path::new(&format!("/proc/{host}/task/{task}/io")));
                (read + more_read, written + more_written)
            }),
        };
        let pss = pss(host) + pss(std::process::id());
        Ok(Some(Stats { usage, requests, refusals, read, written, pss }))
    }
}

/// The number behind a name at the start of a line.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes read from and written to disks (proc_pid_io(5)); nothing when the process is gone.
fn io(file: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let cancelled = number(&text, "cancelled_write_bytes:");
    (number(&text, "read_bytes:"), number(&text, "write_bytes:").saturating_sub(cancelled))
}

/// The proportional set size of a process, in bytes (proc_pid_smaps(5)).
fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    number(&text, "Pss:") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_asked_of_processes() {
        assert!(pss(std::process::id()) > 100 << 10);
        assert_eq!((pss(u32::MAX), io(Path::new("/proc/none/io"))), (0, (0, 0)));
        assert_eq!(number("rchar: 3\nread_bytes: 4096\n", "read_bytes:"), 4096);
    }
}
