//! A sandbox aside: for one program that somebody waits for, and whose end nobody writes down. RUN is such.

use super::{Entry, SandboxError, launch, system};
use crate::sandbox::{Exit, Phase};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// How it ended, on its way to who waits.
#[derive(Serialize, Deserialize)]
struct Told {
    code: u8,
    out_of_memory: bool,
    message: Option<String>,
    /// Why it could not be run.
    failed: Option<String>,
}

/// Runs a container in a sandbox of its own, and waits for its end. `place` is a path in the run directory.
///
/// The sandbox enters namespaces and forks, so its keeper is a child of this process, which must have one thread. What
/// the program writes to its standard output goes to our standard error, since standard output is our caller's.
///
/// # Errors
/// When the sandbox cannot be made.
pub fn run(place: &Path, entry: Entry) -> Result<Exit, SandboxError> {
    let told = in_child(|| {
        let _ = rustix::stdio::dup2_stdout(std::io::stderr());
        match keep(place, entry) {
            Ok(exit) => {
                Told { code: exit.code, out_of_memory: exit.out_of_memory, message: exit.message, failed: None }
            }
            Err(error) => Told { code: 0, out_of_memory: false, message: None, failed: Some(error.to_string()) },
        }
    });
    let told: Told = told.map_err(|(action, source)| system(action)(source))?.ok_or(SandboxError::Gone)?;
    match told.failed {
        None => {
            let at = jiff::Timestamp::now();
            Ok(Exit { code: told.code, out_of_memory: told.out_of_memory, at, message: told.message })
        }
        Some(words) => Err(system("make the sandbox")(std::io::Error::other(words))),
    }
}

/// Does some work in a child of this process, which must have one thread, and waits for what that gives; `None` when the
/// child was killed before. The error says what could not be done.
pub(crate) fn in_child<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> T,
) -> Result<Option<T>, (&'static str, std::io::Error)> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| ("make a pipe", e.into()))?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(("fork", std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            if let Ok(text) = serde_json::to_vec(&work()) {
                let _ = File::from(writer).write_all(&text);
            }
            // SAFETY: this ends the process without running anything more of what it has of its parent.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    drop(writer);
    let mut text = Vec::new();
    let read = File::from(reader).read_to_end(&mut text);
    let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
    read.map_err(|e| ("hear from the child", e))?;
    Ok(serde_json::from_slice(&text).ok())
}

fn keep(place: &Path, entry: Entry) -> Result<Exit, SandboxError> {
    // Whoever started the build may be gone; then nobody wants its steps.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let id = entry.id.clone();
    let keeper = launch(place, entry)?;
    let Phase::Ended(exit) = keeper.attend_early(&id, None)?.phase else { return Err(SandboxError::Gone) };
    keeper.kill_host();
    Ok(exit)
}
