//! The streams of a container from outside: who looks at its output, who writes its input, its terminal.

use super::Keeper;
use crate::sandbox::outputs::Outputs;
use crate::sandbox::snapshot::Phase;
use crate::sandbox::terminal::{self, Recorder};
use crate::sandbox::{SandboxError, system};
use std::io;
use std::os::fd::OwnedFd;
use tokio::sync::watch;

/// What the keeper has of a container's streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) outputs: Outputs,
    pub(super) recorder: Option<Recorder>,
    /// The end of its standard input that is written.
    input: Option<OwnedFd>,
    /// Tells those who write its input that it has ended.
    closed: Option<watch::Sender<bool>>,
    /// The signal of the key that ended it.
    pub(super) pressed: Option<u8>,
}

impl Streams {
    pub(super) fn new(outputs: Outputs, recorder: Option<Recorder>) -> Self {
        Self { outputs, recorder, ..Self::default() }
    }
}

impl Keeper {
    /// Keeps the end of a container's standard input that is written, for those who attach.
    pub fn hold_input(&self, id: &str, input: OwnedFd) {
        if let Some(kept) = self.state().containers.get_mut(id) {
            kept.streams.input = Some(input);
            kept.streams.closed = Some(watch::Sender::new(false));
        }
    }

    /// Lets a container's standard input end.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub fn close_input(&self, id: &str) -> Result<(), SandboxError> {
        let mut state = self.state();
        let kept = state.containers.get_mut(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        kept.streams.input = None;
        if let Some(closed) = &kept.streams.closed {
            closed.send_replace(true);
        }
        Ok(())
    }

    /// Attaches somebody to a container that runs or is about to: its output goes to `output` and `errors` from now on,
    /// besides wherever else it goes, and what is read from `input` to its standard input. With `once`, the end of `input`
    /// is that of the container's.
    ///
    /// To be called in a runtime.
    ///
    /// # Errors
    /// When it is not in this sandbox, or has ended.
    pub fn attach(
        &self,
        id: &str,
        input: Option<OwnedFd>,
        once: bool,
        output: Option<OwnedFd>,
        errors: Option<OwnedFd>,
    ) -> Result<(), SandboxError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        if let Phase::Ended(_) = kept.snapshot.phase {
            let phase = kept.snapshot.phase.word();
            return Err(SandboxError::Phase { id: id.to_owned(), phase, wanted: "attached to" });
        }
        kept.streams.outputs.add(output, errors).map_err(system("attach"))?;
        let Some(input) = input else { return Ok(()) };
        let (this, id) = (self.clone(), id.to_owned());
        if let Some(recorder) = &kept.streams.recorder {
            let terminal = recorder.terminal().clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminal.type_in(&this, &id, "", input) => {}
                    _ = this.wait(&id) => {}
                }
            });
        } else if let (Some(to), Some(closed)) = (&kept.streams.input, &kept.streams.closed) {
            let (to, mut closed) = (to.try_clone().map_err(system("attach"))?, closed.subscribe());
            tokio::spawn(async move {
                let ended = tokio::select! {
                    copied = terminal::copy(input, to) => copied.is_ok(),
                    _ = closed.wait_for(|closed| *closed) => false,
                    _ = this.wait(&id) => false,
                };
                if ended && once {
                    let _ = this.close_input(&id);
                }
            });
        }
        Ok(())
    }

    /// Says how large the window of a container's terminal is, in characters.
    ///
    /// # Errors
    /// When it is not in this sandbox, or has no terminal.
    pub fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), SandboxError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        let recorder = kept.streams.recorder.as_ref().ok_or_else(|| {
            system("resize the terminal")(io::Error::other("the container was made without one (-t)"))
        })?;
        recorder.terminal().resize(columns, rows).map_err(system("resize the terminal"))
    }
}
