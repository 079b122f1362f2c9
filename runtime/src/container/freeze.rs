//! A container that stands still while it is looked at.

use super::{Container, ContainerError, Result, Status};
use crate::store::Store;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a process may take to stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running container whose host stands still until the value is dropped, or its owner dies.
#[derive(Debug)]
pub struct Frozen {
    /// The other end of the guard's pipe: when nobody has it any more, the guard lets the host go on.
    pipe: Option<OwnedFd>,
    guard: libc::pid_t,
}

impl Frozen {
    /// Stops a container where it is, if it runs.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn freeze(store: &Store, container: &Container) -> Result<Option<Self>> {
        let Status::Running(running) = container.status(store) else { return Ok(None) };
        if running.paused {
            // It stands still as it is, and is to do so afterwards.
            return Ok(None);
        }
        if let Some(name) = &container.record.sandbox {
            let reason = format!("it shares the sandbox {name} with others, which would stand still with it");
            return Err(ContainerError::NotFrozen { id: container.record.id.clone(), reason });
        }
        let host = i32::try_from(running.host).ok().and_then(Pid::from_raw);
        let Some(host) = host.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return Ok(None) };
        // The number is its own only if it still runs now that we have hold of it.
        match container.status(store) {
            Status::Running(still) if still.host == running.host => {}
            _ => return Ok(None),
        }
        let failed = |what: &str, e: std::io::Error| ContainerError::NotFrozen {
            id: container.record.id.clone(),
            reason: format!("{what}: {e}"),
        };
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| failed("cannot make a pipe", e.into()))?;
        let guard = guard(&reader, &writer, &host).map_err(|e| failed("cannot fork", e))?;
        let this = Self { pipe: Some(writer), guard };
        match pidfd_send_signal(&host, Signal::STOP) {
            Ok(()) => {}
            // It has ended since: nothing writes any more.
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(failed("cannot stop it", e.into())),
        }
        wait_until_still(running.host).map_err(|e| failed("it does not stand still", e))?;
        Ok(Some(this))
    }
}

/// Forks a process that waits until the pipe's writer is gone and then lets the host go on, so that a container does
/// not stand still for ever because whoever froze it was killed.
fn guard(reader: &OwnedFd, writer: &OwnedFd, host: &OwnedFd) -> std::io::Result<libc::pid_t> {
    let (reader, writer, host) = (reader.as_raw_fd(), writer.as_raw_fd(), host.as_raw_fd());
    // SAFETY: the child only calls functions that are allowed between fork and exec (signal-safety(7)), on descriptors
    // that it has inherited, and leaves by _exit.
    unsafe {
        match libc::fork() {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                libc::close(writer);
                // A terminal's Ctrl-C is for who froze the container, and must not end the guard before it.
                libc::setsid();
                let mut byte = 0_u8;
                while libc::read(reader, (&raw mut byte).cast(), 1) == -1 && *libc::__errno_location() == libc::EINTR {}
                libc::syscall(libc::SYS_pidfd_send_signal, host, libc::SIGCONT, std::ptr::null::<libc::siginfo_t>(), 0);
                libc::_exit(0)
            }
            child => Ok(child),
        }
    }
}

/// Stopping takes effect when each thread next looks: wait for all of them.
fn wait_until_still(pid: u32) -> std::io::Result<()> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(50);
    while !is_still(pid) {
        if begun.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether every thread of a process is stopped, or the process is gone.
fn is_still(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default()).all(|stat| {
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        matches!(state, None | Some("T" | "t" | "X" | "Z"))
    })
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let mut status = 0;
        // SAFETY: the child is ours and waited for once; the status is a plain number.
        unsafe { libc::waitpid(self.guard, &raw mut status, 0) };
    }
}
