//! Programs that are run inside containers, as the Task API has them: named by an `exec_id`, described by an OCI
//! `Process`, with streams by the paths of FIFOs.

use crate::fifos::{open, open_streams, reader_gone};
use crate::task::{of_exec, refuse};
use containerd_shim_protos::api::{ExecProcessRequest, ResizePtyRequest};
use oci_spec::runtime::Process;
use rustix::fs::OFlags;
use sampan_runtime::sandbox::terminal::Terminal;
use sampan_runtime::sandbox::{ExecSpec, ExecStdio, Exit, Keeper, Phase};
use sampan_runtime::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use ttrpc::{Code, Result};

/// An OCI process, and what the specification has no field for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecProcess {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// Ours.
    #[serde(default, rename = "dev.sampan.exec")]
    pub more: More,
}

/// What the OCI specification has no field for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct More {
    /// The digest of a program in the code cache, which is run instead of one of the container's.
    #[serde(default)]
    pub module: Option<String>,
    /// Whether the toolbox stands in for a program that the container does not have.
    #[serde(default)]
    pub toolbox: bool,
    /// Whether the program ends when whoever reads its output is gone.
    #[serde(default)]
    pub leash: bool,
    /// Whether nobody will ask for its end.
    #[serde(default)]
    pub detach: bool,
}

/// Everything that is run inside the containers of a sandbox, or is about to be.
#[derive(Debug, Clone)]
pub(crate) struct Execs {
    keeper: Keeper,
    store: Store,
    all: Arc<Mutex<HashMap<(String, String), Exec>>>,
}

#[derive(Debug)]
struct Exec {
    /// What it will be, until it is started.
    wanted: Option<Box<Wanted>>,
    streams: [String; 3],
    /// Held so that standard input does not end before its writer says so (`CloseIO`).
    input: Option<OwnedFd>,
    terminal: Option<Terminal>,
    size: Option<(u16, u16)>,
    /// Whether it goes on when its client goes away.
    released: bool,
    /// Becomes true when everything on its terminal has been shown.
    shown: watch::Receiver<bool>,
    /// Becomes true when it runs, or cannot be started.
    begun: watch::Sender<bool>,
}

#[derive(Debug)]
struct Wanted {
    spec: ExecSpec,
    terminal: bool,
    leash: bool,
    detach: bool,
    size: Option<(u16, u16)>,
}

impl Execs {
    pub(crate) fn new(keeper: Keeper, store: Store) -> Self {
        Self { keeper, store, all: Arc::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), Exec>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(id: &str, exec: &str) -> ttrpc::Error {
        refuse(Code::NOT_FOUND, format!("nothing that is called {exec:?} is run in container {id}"))
    }

    /// Writes down what is to be run.
    pub(crate) fn add(&self, request: ExecProcessRequest) -> Result<()> {
        let invalid = |words: String| refuse(Code::INVALID_ARGUMENT, words);
        self.keeper.look(&request.id).map_err(crate::task::of_sandbox)?;
        if request.exec_id.is_empty() {
            return Err(invalid("an exec_id was wanted".to_owned()));
        }
        let spec = request.spec.into_option().unwrap_or_default();
        let ExecProcess { process, more } = serde_json::from_slice(&spec.value)
            .map_err(|e| invalid(format!("spec is no OCI process in JSON ({}): {e}", spec.type_url)))?;
        let user = process.user();
        if user.uid() != 0 || user.gid() != 0 {
            let words =
                format!("user {}:{}: a container of ours has one user, who is 0:0 in it", user.uid(), user.gid());
            return Err(invalid(words));
        }
        let cwd = process.cwd().to_string_lossy().into_owned();
        if !cwd.is_empty() && !cwd.starts_with('/') {
            return Err(invalid(format!("the working directory {cwd:?} is not absolute")));
        }
        let columns_and_rows = process
            .console_size()
            .and_then(|size| Some((u16::try_from(size.width()).ok()?, u16::try_from(size.height()).ok()?)));
        let spec = ExecSpec {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: (!cwd.is_empty()).then_some(cwd),
            module: more.module,
            toolbox: more.toolbox,
        };
        let terminal = request.terminal || process.terminal().unwrap_or(false);
        let wanted = Wanted { spec, terminal, leash: more.leash, detach: more.detach, size: columns_and_rows };
        let key = (request.id, request.exec_id);
        let mut all = self.all();
        if all.contains_key(&key) {
            let words = format!("container {} has something that is called {:?} already", key.0, key.1);
            return Err(refuse(Code::ALREADY_EXISTS, words));
        }
        all.insert(
            key,
            Exec {
                wanted: Some(Box::new(wanted)),
                streams: [request.stdin, request.stdout, request.stderr],
                input: None,
                terminal: None,
                size: None,
                released: false,
                shown: watch::channel(true).1,
                begun: watch::Sender::new(false),
            },
        );
        Ok(())
    }

    /// Starts what was written down.
    pub(crate) async fn start(&self, id: &str, exec: &str) -> Result<()> {
        let begun = self.all().get(&(id.to_owned(), exec.to_owned())).map(|known| known.begun.clone());
        let started = self.start_it(id, exec).await;
        begun.map(|begun| begun.send_replace(true));
        started
    }

    async fn start_it(&self, id: &str, exec: &str) -> Result<()> {
        let key = (id.to_owned(), exec.to_owned());
        let (wanted, streams, size) = {
            let mut all = self.all();
            let known = all.get_mut(&key).ok_or_else(|| Self::missing(id, exec))?;
            let wanted = known.wanted.take().ok_or_else(|| {
                refuse(Code::FAILED_PRECONDITION, format!("{exec:?} in container {id} was started before"))
            })?;
            (wanted, known.streams.clone(), known.size)
        };
        let size = size.or(wanted.size);
        let Wanted { spec, terminal, leash, detach, .. } = *wanted;
        let [input, output, errors] = streams;
        let held = if leash || input.is_empty() { None } else { Some(open(&input, OFlags::RDWR).await?) };
        let errors = if terminal { "" } else { &errors };
        let [input, output, errors] = open_streams([&input, &output, errors]).await?;
        let leashed = if leash { output.as_ref().or(errors.as_ref()).and_then(|fd| fd.try_clone().ok()) } else { None };
        if terminal {
            self.start_terminal(&key, spec, size, held, input, output).await?;
        } else {
            for fd in [&input, &output, &errors].into_iter().flatten() {
                rustix::io::ioctl_fionbio(fd, false).map_err(|e| system("prepare a stream", e.into()))?;
            }
            let stdio = ExecStdio::Streams([input, output, errors]);
            if let Some(known) = self.all().get_mut(&key) {
                known.input = held;
            }
            self.keeper.start_exec(&self.store, id, exec, spec, stdio).await.map_err(of_exec)?;
        }
        if leashed.is_some() || detach {
            let this = self.clone();
            tokio::spawn(async move { this.look_after(key, leashed, detach).await });
        }
        Ok(())
    }

    async fn start_terminal(
        &self,
        key: &(String, String),
        spec: ExecSpec,
        size: Option<(u16, u16)>,
        held: Option<OwnedFd>,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<()> {
        let (id, exec) = key.clone();
        let (terminal, guest) = Terminal::open().map_err(|e| system("make a terminal", e))?;
        if let Some((columns, rows)) = size {
            let _ = terminal.resize(columns, rows);
        }
        let (told, shown) = watch::channel(false);
        if let Some(known) = self.all().get_mut(key) {
            known.input = held;
            known.terminal = Some(terminal.clone());
            known.shown = shown;
        }
        let stdio = ExecStdio::Terminal(guest, terminal.clone());
        let started = self.keeper.start_exec(&self.store, &id, &exec, spec, stdio).await;
        let (keeper, shows) = (self.keeper.clone(), terminal.clone());
        let ends = (id.clone(), exec.clone());
        let failed = started.is_err();
        tokio::spawn(async move {
            let ended = async {
                if !failed {
                    let _ = keeper.wait_exec(&ends.0, &ends.1).await;
                }
            };
            let _ = shows.show(output, ended).await;
            told.send_replace(true);
        });
        started.map_err(of_exec)?;
        if let Some(input) = input {
            let keeper = self.keeper.clone();
            tokio::spawn(async move {
                let typing = terminal.type_in(&keeper, &id, &exec, input);
                tokio::select! {
                    _ = typing => {}
                    _ = keeper.wait_exec(&id, &exec) => {}
                }
            });
        }
        Ok(())
    }

    /// Ends the program when the reader of its output is gone, and forgets it when nobody asks for its end.
    async fn look_after(&self, key: (String, String), leash: Option<OwnedFd>, detach: bool) {
        let (id, exec) = (&key.0, &key.1);
        let gone = async {
            match leash {
                Some(leash) => reader_gone(leash).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gone => {
                if !self.all().get(&key).is_some_and(|known| known.released) {
                    let _ = self.keeper.kill_exec(id, exec, 9);
                }
                let _ = self.keeper.wait_exec(id, exec).await;
                // Whoever would have asked is gone too.
                let _ = self.delete(id, exec);
            }
            _ = self.keeper.wait_exec(id, exec) => if detach {
                let _ = self.delete(id, exec);
            }
        }
    }

    /// Where it is in its life.
    pub(crate) fn look(&self, id: &str, exec: &str) -> Result<(Phase, [String; 3], bool)> {
        let all = self.all();
        let known = all.get(&(id.to_owned(), exec.to_owned())).ok_or_else(|| Self::missing(id, exec))?;
        let terminal = known.terminal.is_some() || known.wanted.as_ref().is_some_and(|wanted| wanted.terminal);
        let phase = match known.wanted {
            Some(_) => Phase::Created,
            None => self.keeper.look_exec(id, exec).unwrap_or(Phase::Starting),
        };
        Ok((phase, known.streams.clone(), terminal))
    }

    /// Waits for its end, from before its start if need be, and until everything on its terminal has been shown.
    pub(crate) async fn wait(&self, id: &str, exec: &str) -> Result<Exit> {
        let key = (id.to_owned(), exec.to_owned());
        let mut begun = {
            let all = self.all();
            all.get(&key).ok_or_else(|| Self::missing(id, exec))?.begun.subscribe()
        };
        let _ = begun.wait_for(|begun| *begun).await;
        let mut shown = self.all().get(&key).ok_or_else(|| Self::missing(id, exec))?.shown.clone();
        let exit = self.keeper.wait_exec(id, exec).await.map_err(of_exec)?;
        let _ = shown.wait_for(|shown| *shown).await;
        Ok(exit)
    }

    /// Ends it by a signal.
    pub(crate) fn kill(&self, id: &str, exec: &str, signal: u8) -> Result<()> {
        self.keeper.kill_exec(id, exec, signal).map_err(of_exec)
    }

    /// Forgets what has ended, or was never started.
    pub(crate) fn delete(&self, id: &str, exec: &str) -> Result<Option<Exit>> {
        let (phase, ..) = self.look(id, exec)?;
        let exit = match phase {
            Phase::Created => None,
            // What could not be started is not known there.
            Phase::Starting if self.keeper.look_exec(id, exec).is_err() => None,
            _ => self.keeper.forget_exec(id, exec).map_err(of_exec)?,
        };
        self.all().remove(&(id.to_owned(), exec.to_owned()));
        Ok(exit)
    }

    /// Lets it go on when its client goes away.
    pub(crate) fn release(&self, id: &str, exec: &str) -> Result<()> {
        let mut all = self.all();
        let known = all.get_mut(&(id.to_owned(), exec.to_owned())).ok_or_else(|| Self::missing(id, exec))?;
        known.released = true;
        Ok(())
    }

    /// Lets its standard input end.
    pub(crate) fn close_input(&self, id: &str, exec: &str) -> Result<()> {
        let mut all = self.all();
        let known = all.get_mut(&(id.to_owned(), exec.to_owned())).ok_or_else(|| Self::missing(id, exec))?;
        known.input = None;
        Ok(())
    }

    /// Says how large its window is.
    pub(crate) fn resize(&self, request: &ResizePtyRequest) -> Result<()> {
        let mut all = self.all();
        let known = all
            .get_mut(&(request.id.clone(), request.exec_id.clone()))
            .ok_or_else(|| Self::missing(&request.id, &request.exec_id))?;
        let size = (u16::try_from(request.width), u16::try_from(request.height));
        let (Ok(columns), Ok(rows)) = size else {
            let words = format!("a window of {} by {} characters", request.width, request.height);
            return Err(refuse(Code::INVALID_ARGUMENT, words));
        };
        match &known.terminal {
            Some(terminal) => terminal.resize(columns, rows).map_err(|e| system("resize the terminal", e)),
            None => {
                known.size = Some((columns, rows));
                Ok(())
            }
        }
    }
}

fn system(what: &str, error: std::io::Error) -> ttrpc::Error {
    refuse(Code::INTERNAL, format!("cannot {what}: {error}"))
}
