//! Restart policies: what becomes of a container that ended without anybody having asked for it.
//!
//! The keeper decides, at each end. Until the next start it holds the container's lock and waits, in a process of its
//! own without threads or an engine, which `restarting.json` in the run directory names; SIGTERM calls the start off.

use super::record::{Ended, Restarting, Status};
use super::{Container, ContainerError, Lease, Result, run_place};
use crate::store::{Durability, Lock, Store, StoreError, files};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// When a container that has ended is started again, in Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// When its exit code is not 0; so many times in a row, or without end.
    OnFailure(Option<u32>),
    /// Always; after a restart of the machine also if somebody had stopped it.
    Always,
    /// Always, but not after somebody has stopped it.
    UnlessStopped,
}

/// A restart policy that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no restart policy: they are no, on-failure[:TIMES], always and unless-stopped")]
pub struct NoPolicy(String);

impl FromStr for Policy {
    type Err = NoPolicy;

    fn from_str(text: &str) -> std::result::Result<Self, NoPolicy> {
        let none = || NoPolicy(text.to_owned());
        match text.split_once(':') {
            None if text == "no" || text.is_empty() => Ok(Self::No),
            None if text == "on-failure" => Ok(Self::OnFailure(None)),
            None if text == "always" => Ok(Self::Always),
            None if text == "unless-stopped" => Ok(Self::UnlessStopped),
            // As with Docker, 0 times means that there is no limit.
            Some(("on-failure", times)) => {
                Ok(Self::OnFailure(Some(times.parse().map_err(|_| none())?).filter(|n| *n > 0)))
            }
            _ => Err(none()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            other => f.write_str(other.name()),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = NoPolicy;

    fn try_from(text: String) -> std::result::Result<Self, NoPolicy> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

impl Policy {
    /// Its name, without the number of times.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// How many times in a row at most; 0 where there is no limit.
    #[must_use]
    pub fn times(self) -> u32 {
        match self {
            Self::OnFailure(times) => times.unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether a container that has ended with `code`, without anybody having asked for it, is started again after
    /// `done` restarts.
    #[must_use]
    pub fn starts_again(self, code: u8, done: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(times) => code != 0 && times.is_none_or(|times| done < times),
            Self::Always | Self::UnlessStopped => true,
        }
    }

    /// Whether a container that has ended like this should run after a restart of the machine.
    #[must_use]
    pub fn revives(self, ended: &Ended) -> bool {
        match self {
            Self::Always => true,
            Self::No => false,
            other => !ended.asked && other.starts_again(ended.code, 0),
        }
    }
}

/// The first pause before a restart.
const FIRST: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST: Duration = Duration::from_mins(1);
/// A run of this length was no failure to start: the pauses begin anew.
const SOUND: Duration = Duration::from_secs(10);

/// The pause after a run that lasted so long, where the one before it was `last`.
fn pause(last: Duration, lasted: Duration) -> Duration {
    if lasted >= SOUND { FIRST } else { (last * 2).clamp(FIRST, LONGEST) }
}

/// How often a container has been started again in a row, and the pause before the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    /// How often.
    pub count: u32,
    /// The last pause.
    pub pause: Duration,
}

/// A container that is to be started again, with its lock.
#[derive(Debug)]
pub struct Again {
    container: Container,
    lock: Lock,
    place: PathBuf,
    tries: Tries,
}

/// What came of waiting for the next start.
#[derive(Debug)]
pub enum Waited {
    /// It is time.
    Start(Box<Lease>),
    /// Somebody has called it off; how the last run ended.
    CalledOff(u8),
}

impl Again {
    /// Writes down that the container, whose end is written down, is to be started again.
    pub(super) fn prepare(store: &Store, container: Container, lock: Lock, last: Tries, ended: &Ended) -> Result<Self> {
        let lasted = ended.started.map(|started| ended.finished.duration_since(started));
        let lasted = lasted.and_then(|lasted| Duration::try_from(lasted).ok()).unwrap_or_default();
        let tries = Tries { count: last.count.saturating_add(1), pause: pause(last.pause, lasted) };
        let place = run_place(store, &container.record.id);
        block_end();
        let restarting = Restarting {
            keeper: std::process::id(),
            tries: tries.count,
            pause_ms: u64::try_from(tries.pause.as_millis()).unwrap_or(u64::MAX),
            code: ended.code,
            ended: ended.finished,
        };
        store.run_dir()?;
        files::remove_tree(&place)?;
        std::fs::create_dir(&place).map_err(StoreError::io("create", &place))?;
        files::write_json(&place.join(FILE), &restarting, Durability::Buffered)?;
        Ok(Self { container, lock, place, tries })
    }

    /// What a process needs that goes on with this: the container's id, and its lock, which stays locked.
    ///
    /// # Errors
    /// When the lock cannot be handed on.
    pub fn hand_on(self) -> Result<(String, OwnedFd)> {
        let lock = self.lock.hand_on().map_err(StoreError::io("hand on", self.container.dir.join("lock")))?;
        Ok((self.container.record.id, lock))
    }

    /// Takes over what another image of this process has handed on.
    ///
    /// # Errors
    /// When this process has no such lock, or the container is not to be started again.
    pub fn take_over(store: &Store, id: &str, lock: OwnedFd) -> Result<Self> {
        let container = super::find(store, id)?;
        let place = run_place(store, id);
        let path = container.dir.join("lock");
        let restarting: Restarting = files::read_json(&place.join(FILE))?;
        let lock = Lock::taken_over(lock);
        if !lock.is_of(&path) || restarting.keeper != std::process::id() {
            return Err(ContainerError::NotRunning(id.to_owned()));
        }
        let tries = Tries { count: restarting.tries, pause: Duration::from_millis(restarting.pause_ms) };
        Ok(Self { container, lock, place, tries })
    }

    /// Waits until the next start is due, or called off, which is then written down as an end that was asked for.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub fn wait(self) -> Result<Waited> {
        let mut called_off = wait_for_end(self.tries.pause);
        // Who looks from here on takes it for one that starts.
        files::remove_tree(&self.place)?;
        called_off = called_off || wait_for_end(Duration::ZERO);
        if !called_off {
            allow_end();
            return Ok(Waited::Start(Box::new(Lease::again(self.container, self.lock, self.tries))));
        }
        let path = self.container.dir.join("ended.json");
        let ended: Ended = files::read_json(&path)?;
        let code = ended.code;
        files::write_json(&path, &Ended { asked: true, ..ended }, Durability::Flushed)?;
        Ok(Waited::CalledOff(code))
    }
}

/// Calls off the next start of a container that waits for it, and waits until its keeper has let go. False if it was
/// too late, or there was none.
///
/// # Errors
/// When its keeper cannot be reached.
pub fn call_off(store: &Store, container: &Container) -> Result<bool> {
    let waiting = || match container.status(store) {
        Status::Restarting(restarting) => Some(restarting.keeper),
        _ => None,
    };
    let Some(keeper) = waiting() else { return Ok(false) };
    let io = |e: rustix::io::Errno| StoreError::io("reach the keeper of", &container.dir)(e.into());
    let pid = i32::try_from(keeper).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(false) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        other => other.map_err(io)?,
    };
    // The process that was opened is that keeper if it still is now.
    if waiting() != Some(keeper) {
        return Ok(false);
    }
    match pidfd_send_signal(&pidfd, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        other => other.map_err(io)?,
    }
    let mut pause = Duration::from_micros(200);
    while waiting() == Some(keeper) || Lock::is_held(&container.dir.join("lock")) {
        if pause > Duration::from_secs(1) {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(true)
}

/// What names a keeper that waits.
pub(super) const FILE: &str = "restarting.json";

/// Whether a keeper waits to start the container again.
pub(super) fn waiting(place: &Path) -> Option<Restarting> {
    files::read_json(&place.join(FILE)).ok()
}

/// SIGTERM and, for a container in the foreground, SIGINT.
fn end_signals() -> libc::sigset_t {
    // SAFETY: a signal set is plain bits, emptied before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// Holds back the signals that end this process until somebody looks for them; that outlives an exec.
fn block_end() {
    let set = end_signals();
    // SAFETY: the set is only read.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

fn allow_end() {
    let set = end_signals();
    // SAFETY: the set is only read.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for one of these signals; false if none came in that time.
fn wait_for_end(time: Duration) -> bool {
    let set = end_signals();
    let deadline = std::time::Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // SAFETY: both are only read, and nothing is asked about the signal.
        if unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const left) } > 0 {
            return true;
        }
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_in_words() {
        for (text, policy) in [
            ("no", Policy::No),
            ("on-failure", Policy::OnFailure(None)),
            ("on-failure:3", Policy::OnFailure(Some(3))),
            ("always", Policy::Always),
            ("unless-stopped", Policy::UnlessStopped),
        ] {
            assert_eq!(text.parse::<Policy>().unwrap(), policy);
            assert_eq!(policy.to_string(), text);
            let json = serde_json::to_string(&policy).unwrap();
            assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        }
        assert_eq!("on-failure:0".parse::<Policy>().unwrap(), Policy::OnFailure(None));
        for bad in ["never", "on-failure:", "on-failure:x", "always:3", "no:1", "on-failure:-1"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_end_and_a_policy_decide() {
        assert!(!Policy::No.starts_again(1, 0));
        assert!(Policy::Always.starts_again(0, 1000) && Policy::UnlessStopped.starts_again(0, 0));
        let twice = Policy::OnFailure(Some(2));
        assert!(!twice.starts_again(0, 0) && twice.starts_again(1, 0) && twice.starts_again(1, 1));
        assert!(!twice.starts_again(1, 2));
        let ended = |code, asked| Ended {
            code,
            asked,
            out_of_memory: false,
            started: None,
            finished: jiff::Timestamp::UNIX_EPOCH,
            error: None,
            fences: None,
            restarts: 0,
        };
        assert!(Policy::Always.revives(&ended(0, true)) && !Policy::No.revives(&ended(1, false)));
        assert!(Policy::UnlessStopped.revives(&ended(0, false)) && !Policy::UnlessStopped.revives(&ended(0, true)));
        assert!(twice.revives(&ended(137, false)) && !twice.revives(&ended(0, false)));
    }

    #[test]
    fn pauses_double_and_begin_anew_after_a_sound_run() {
        let short = Duration::from_secs(1);
        let pauses: Vec<u64> =
            std::iter::successors(Some(pause(Duration::ZERO, short)), |last| Some(pause(*last, short)))
                .map(|pause| u64::try_from(pause.as_millis()).unwrap())
                .take(12)
                .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert_eq!(pause(LONGEST, SOUND), FIRST);
    }
}
