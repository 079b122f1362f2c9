//! Processes: a program of a container starts others of the same container (`sampan:process/spawn`).
//!
//! WASI has no processes. Here one is a further instance in the same sandbox: a store and a thread of its own, the
//! container's files and network, and three standard streams that its parent names. The first guest is process 1; when
//! it ends all others end, as in a PID namespace.
//!
//! ```text
//! pipe       bytes from one program to another
//! find       a path → the Wasm file, by way of `#!`
//! abi        the interface as a WASI 0.1 module imports it; `guest/module` has its descriptors
//! component  the interface as a component imports it
//! child      one process: from its code to its exit code
//! roster     numbers, and what `/proc` tells
//! ```

mod abi;
mod child;
pub(super) mod component;
pub(crate) mod find;
pub mod pipe;
mod roster;
#[cfg(test)]
mod tests;

pub use roster::{Roster, Seat};

use super::module::stream::Stream;
use super::module::{self, ModuleState};
use super::state::Surroundings;
use super::{Control, Description, Pressed, Program, Stop};
use crate::guest::stdio::Channel;
use crate::rootfs::normalize;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use wasmtime::{Engine, Linker};

/// The name under which a module or a component imports the interface.
pub const MODULE: &str = "sampan:process/spawn@0.1.0";
/// What the interface has for a module.
pub const FUNCTIONS: [&str; 5] = ["spawn", "pipe", "wait", "kill", "id"];
/// How many processes a container may have, counting those that ended and whose parent has not asked yet.
pub const MOST: usize = 64;
/// How many programs are kept ready to be started again.
const MOST_PROGRAMS: usize = 64;
/// The first number there is.
const FIRST: u32 = 1;
/// The parent of one that nobody waits for.
const NOBODY: u32 = 0;
/// What ends a process by itself: SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGKILL, SIGPIPE, SIGALRM, SIGTERM (signal(7)).
const DEADLY: [u8; 8] = [1, 2, 3, 6, 9, 13, 14, 15];
/// SIGINT.
const INTERRUPT: u8 = 2;
/// How long the first guest's end waits for the others'.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a program's code is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LoadError {
    /// It is no guest of ours; the compiler's words.
    #[error("{0}")]
    Refused(String),
    /// The container has had so many programs compiled that it gets no more.
    #[error("the container has had {0} programs compiled, and gets no more")]
    TooMany(usize),
    /// The sandbox.
    #[error("{0}")]
    Failed(String),
}

/// Compiled code on its way.
pub type Loading = Pin<Box<dyn Future<Output = Result<(File, Description), LoadError>> + Send>>;

/// Gets the compiled code of a Wasm file.
pub trait Loader: std::fmt::Debug + Send + Sync {
    /// The code of `wasm`, compiled if need be. Never what the guest says is code.
    fn load(&self, wasm: File) -> Loading;
}

/// A program that stands in for those which a container's tree does not have.
pub struct Lent {
    paths: BTreeSet<PathBuf>,
    program: Arc<child::Loaded>,
}

impl Lent {
    /// One program for all of these paths of the container; by its first argument it is told which one is meant.
    #[must_use]
    pub fn new(program: Program, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect(), program: Arc::new(child::Loaded::new(program)) }
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").field("paths", &self.paths.len()).finish_non_exhaustive()
    }
}

/// What a process is to be made of.
#[derive(Debug, Default)]
pub struct Request {
    /// The program's path.
    pub path: String,
    /// Its arguments; the first is its own name.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Its working directory, absolute; a relative path begins there.
    pub cwd: String,
    /// Its standard input, output and error.
    pub stdio: [Option<Stream>; 3],
}

/// The processes of one container. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Processes(Arc<Inner>);

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

struct Inner {
    engine: Engine,
    /// The number of the first guest.
    first: u32,
    surroundings: Arc<Surroundings>,
    loader: Arc<dyn Loader>,
    linker: OnceLock<Linker<ModuleState>>,
    programs: Mutex<HashMap<FileId, Arc<child::Loaded>>>,
    state: Mutex<State>,
    /// Counts changes of the state, for those who wait.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    over: bool,
    all: BTreeMap<u32, Process>,
}

#[derive(Debug)]
struct Process {
    parent: u32,
    control: Control,
    /// What it was killed by.
    signal: Option<u8>,
    /// How it ended.
    code: Option<u8>,
}

/// A place in the table for what is to be started. It is free again unless that happens, also when whoever asked is ended
/// meanwhile.
struct Place<'p> {
    processes: &'p Processes,
    seat: Seat,
    kept: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.processes.state().all.remove(&self.seat.number());
            self.processes.bump();
        }
    }
}

/// A file's identity, which no write leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileId([i64; 5], u64);

impl FileId {
    fn of(meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let [m, mn, c, cn] = times;
        Self([m, mn, c, cn, meta.size().cast_signed()], meta.dev().rotate_left(32) ^ meta.ino())
    }
}

/// How a wait goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until there is something to tell.
    Long,
    /// Not at all.
    Look,
}

impl Processes {
    /// A table with the first guest in it, which is not started here.
    #[must_use]
    pub fn new(engine: &Engine, surroundings: &Arc<Surroundings>, control: &Control, loader: Arc<dyn Loader>) -> Self {
        let number = surroundings.seat.number();
        let first = Process { parent: NOBODY, control: control.clone(), signal: None, code: None };
        Self(Arc::new(Inner {
            engine: engine.clone(),
            first: number,
            surroundings: Arc::clone(surroundings),
            loader,
            linker: OnceLock::new(),
            programs: Mutex::default(),
            state: Mutex::new(State { over: false, all: BTreeMap::from([(number, first)]) }),
            changed: watch::Sender::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    fn linker(&self) -> wasmtime::Result<&Linker<ModuleState>> {
        if let Some(linker) = self.0.linker.get() {
            return Ok(linker);
        }
        let mut made = module::linker(&self.0.engine)?;
        abi::define(&mut made)?;
        Ok(self.0.linker.get_or_init(|| made))
    }

    /// The number of the first guest.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.0.first
    }

    /// Whether the container may start programs.
    #[must_use]
    pub fn granted(&self) -> bool {
        self.0.surroundings.grants.spawn
    }

    /// Says that the container may not do this, and how it could.
    fn deny(&self, what: &str) -> Errno {
        let line = format!("{what} denied: let the container start programs of its own with --allow-spawn\n");
        let _ = self.0.surroundings.output.write(Channel::Diagnostic, line.as_bytes());
        Errno::PERM
    }

    /// Makes a pipe.
    ///
    /// # Errors
    /// EPERM when the container may not start programs, ENOMEM when its memory is used up.
    pub fn pipe(&self) -> Result<(Stream, Stream), Errno> {
        if !self.granted() {
            return Err(self.deny("a pipe"));
        }
        let room = self.0.surroundings.account.buffer(pipe::CAPACITY as u64).ok_or(Errno::NOMEM)?;
        let (reader, writer) = pipe::pipe(Some(room));
        Ok((Stream::Reader(Arc::new(reader)), Stream::Writer(Arc::new(writer))))
    }

    /// Starts a program as a child of `parent` and says its number.
    ///
    /// # Errors
    /// EPERM when the container may not start programs, EAGAIN when it has too many processes, ENOEXEC when the
    /// program does not compile, and what `find::find` says.
    pub async fn spawn(&self, parent: u32, request: Request) -> Result<u32, Errno> {
        if !self.granted() {
            return Err(self.deny(&format!("start of {:?}", request.path)));
        }
        let control = Control::default();
        let mut place = Place { processes: self, seat: self.take_place(parent, &control)?, kept: false };
        let (loaded, args) = self.program(&request).await?;
        child::start(self, (place.seat.clone(), parent), &loaded, request, args, control)?;
        place.kept = true;
        Ok(place.seat.number())
    }

    fn take_place(&self, parent: u32, control: &Control) -> Result<Seat, Errno> {
        let mut state = self.state();
        if state.over || state.all.len() >= MOST {
            return Err(Errno::AGAIN);
        }
        let seat = self.0.surroundings.seat.roster().seat();
        state.all.insert(seat.number(), Process { parent, control: control.clone(), signal: None, code: None });
        Ok(seat)
    }

    /// The program that a request names, ready to be started, and its arguments.
    async fn program(&self, request: &Request) -> Result<(Arc<child::Loaded>, Vec<String>), Errno> {
        let preopens = &self.0.surroundings.preopens;
        let found = match find::find(preopens, &request.cwd, &request.path, request.args.clone()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return self.lent(request).ok_or(Errno::NOENT),
            found => found?,
        };
        let id = FileId::of(&found.file.metadata().map_err(|_| Errno::IO)?);
        let known = self.0.programs.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(loaded) = known {
            return Ok((loaded, found.args));
        }
        let (code, description) = self.0.loader.load(found.file).await.map_err(|e| self.not_loaded(request, &e))?;
        if description.kind.is_service() {
            let words = format!("it is a {}, and only a command can be started by a program", description.kind);
            return Err(self.not_loaded(request, &LoadError::Refused(words)));
        }
        let program = Program::open(&self.0.engine, code, description)
            .map_err(|e| self.not_loaded(request, &LoadError::Failed(format!("{e:#}"))))?;
        let loaded = Arc::new(child::Loaded::new(program));
        let mut programs = self.0.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if programs.len() >= MOST_PROGRAMS {
            programs.clear();
        }
        programs.insert(id, Arc::clone(&loaded));
        Ok((loaded, found.args))
    }

    /// What is not in the container's tree, of what was lent to it.
    fn lent(&self, request: &Request) -> Option<(Arc<child::Loaded>, Vec<String>)> {
        let lent = self.0.surroundings.lent.as_ref()?;
        let path = normalize(&Path::new(&request.cwd).join(&request.path).to_string_lossy());
        lent.paths.contains(&path).then(|| (Arc::clone(&lent.program), request.args.clone()))
    }

    fn not_loaded(&self, request: &Request, error: &LoadError) -> Errno {
        let line = format!("cannot start {:?}: {error}\n", request.path);
        let _ = self.0.surroundings.output.write(Channel::Diagnostic, line.as_bytes());
        match error {
            LoadError::Refused(_) => Errno::NOEXEC,
            LoadError::TooMany(_) => Errno::AGAIN,
            LoadError::Failed(_) => Errno::IO,
        }
    }

    /// Takes the exit code of a child of `parent` that has ended: of `child`, or of any. `None` when none has and `how`
    /// does not wait for it.
    ///
    /// # Errors
    /// ECHILD when there is no such child.
    pub async fn wait(&self, parent: u32, child: Option<u32>, how: Wait) -> Result<Option<(u32, u8)>, Errno> {
        let mut changes = self.0.changed.subscribe();
        loop {
            {
                let mut state = self.state();
                let ours = |(id, process): &(&u32, &Process)| {
                    process.parent == parent && child.is_none_or(|child| child == **id)
                };
                let mut children = state.all.iter().filter(ours).peekable();
                children.peek().ok_or(Errno::CHILD)?;
                let ended = children.find_map(|(id, process)| Some((*id, process.code?)));
                if let Some((id, code)) = ended {
                    state.all.remove(&id);
                    return Ok(Some((id, code)));
                }
            }
            if how == Wait::Look {
                return Ok(None);
            }
            if changes.changed().await.is_err() {
                return Err(Errno::CHILD);
            }
        }
    }

    /// Says that nobody waits for this child of `parent` any more: its end is not kept.
    pub fn forget(&self, parent: u32, child: u32) {
        let mut state = self.state();
        match state.all.get_mut(&child) {
            Some(process) if process.parent != parent => return,
            Some(process) if process.code.is_none() => process.parent = NOBODY,
            Some(_) => drop(state.all.remove(&child)),
            None => return,
        }
        drop(state);
        self.bump();
    }

    /// Ends a process as a signal would that it has no handler for; 0 only looks whether it is there.
    ///
    /// # Errors
    /// ESRCH when there is no such process, EPERM for the first, which ends with the container, EINVAL for a signal
    /// that ends nothing.
    pub fn kill(&self, id: u32, signal: u8) -> Result<(), Errno> {
        let mut state = self.state();
        let process = state.all.get_mut(&id).ok_or(Errno::SRCH)?;
        if signal == 0 {
            return Ok(());
        }
        if !DEADLY.contains(&signal) {
            return Err(Errno::INVAL);
        }
        if id == self.0.first {
            return Err(Errno::PERM);
        }
        if process.code.is_none() {
            process.signal.get_or_insert(signal);
            process.control.stop(Stop::AtOnce);
        }
        Ok(())
    }

    /// What a key at the terminal does that means a signal: it ends everything that the first program has started. When
    /// there is nothing, Ctrl-C breaks off its read, as at a shell's prompt. Holds on to nothing.
    pub fn keys(&self, input: &Stream) -> impl Fn(u8) -> Pressed + Send + Sync + use<> {
        let (inner, interrupt) = (Arc::downgrade(&self.0), input.interrupter());
        move |signal| {
            let Some(processes) = inner.upgrade().map(Self) else { return Pressed::Deadly };
            let children: Vec<u32> = {
                let state = processes.state();
                let lives = |(id, process): &(&u32, &Process)| **id != processes.0.first && process.code.is_none();
                state.all.iter().filter(lives).map(|(id, _)| *id).collect()
            };
            for child in &children {
                let _ = processes.kill(*child, signal);
            }
            match children.is_empty() {
                true if signal != INTERRUPT || !interrupt() => Pressed::Deadly,
                _ => Pressed::Taken,
            }
        }
    }

    /// Writes down how a process ended, for its parent if that lives. Its own children go on without one.
    fn ended(&self, id: u32, code: u8) {
        let mut state = self.state();
        let parent_waits = |state: &State, id: u32| state.all.get(&id).is_some_and(|p| p.code.is_none());
        if let Some(process) = state.all.get_mut(&id) {
            process.code = Some(process.signal.map_or(code, |signal| 128 + signal));
            let parent = process.parent;
            if !parent_waits(&state, parent) {
                state.all.remove(&id);
            }
        }
        state.all.retain(|_, process| process.parent != id || process.code.is_none());
        drop(state);
        self.bump();
    }

    /// Ends every process with the first guest, and waits until they are gone or that takes too long.
    pub async fn end(&self) {
        let mut changes = self.0.changed.subscribe();
        let gone = async {
            loop {
                {
                    let mut state = self.state();
                    state.over = true;
                    state.all.retain(|id, process| *id != self.0.first && process.code.is_none());
                    if state.all.is_empty() {
                        return;
                    }
                    for process in state.all.values() {
                        process.control.stop(Stop::AtOnce);
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, gone).await;
    }
}
