//! When the time of containers is over: stopped gently, and at once when their grace is over too.

use super::host::Launch;
use crate::guest::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The grace of a container that was given none, in seconds.
const GRACE: u32 = 10;

/// What a container is told of whose time was over.
pub(super) fn timed_out(after: Duration) -> String {
    format!("stopped after {after:?}, which was its time; more is given by --timeout")
}

/// The deadlines of a sandbox's containers.
#[derive(Debug, Default)]
pub(super) struct Deadlines(Vec<(Instant, String, Stop)>);

impl Deadlines {
    /// Writes down when the time of a container that begins now is over, if it ever is.
    pub(super) fn add(&mut self, launch: &Launch) {
        let limits = &launch.grants.limits;
        let Some(timeout) = limits.timeout else { return };
        let grace = Duration::from_secs(limits.grace.unwrap_or(GRACE).into());
        let now = Instant::now();
        let later = |after: Duration| now.checked_add(after);
        self.0.extend(later(timeout).map(|at| (at, launch.id.clone(), Stop::Gently)));
        self.0.extend(later(timeout.saturating_add(grace)).map(|at| (at, launch.id.clone(), Stop::AtOnce)));
    }

    /// Waits for the keeper or the next deadline. Whose it is and what is to be done, if a deadline was first; without
    /// deadlines nobody waits here.
    pub(super) fn pass(&mut self, keeper: &OwnedFd) -> Option<(String, Stop)> {
        let (next, _) = self.0.iter().enumerate().min_by_key(|(_, (at, ..))| *at)?;
        let left = self.0.get(next)?.0.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok()?;
        let mut fds = [PollFd::new(keeper, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&left))) {
            Ok(0) => {
                let (_, id, how) = self.0.swap_remove(next);
                Some((id, how))
            }
            _ => None,
        }
    }
}
