//! Guests: compiled code + grants → a running instance.

pub mod account;
pub(crate) mod check;
pub mod code;
pub mod command;
pub mod compile;
pub mod cpu;
pub mod engine;
pub mod garbage;
pub mod kind;
mod linker;
pub mod module;
mod open;
pub mod process;
pub mod programs;
pub(crate) mod script;
pub mod service;
pub mod state;
pub mod stdio;
pub mod storage;
pub mod usage;

pub use kind::{Description, Kind};
pub use service::figures::Counts;

use crate::grants::Resources;
use crate::network::refusals::{Counting, Refusals};
use crate::network::traffic::Traffic;
use account::Account;
use serde::{Deserialize, Serialize};
use service::figures::Figures;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use usage::Usage;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The exit code, as Docker would show it.
    pub code: u8,
    /// Whether it, or a program that it had started, was ended because it wanted more memory than there may be.
    pub out_of_memory: bool,
    /// What the runtime has to say of it: a trap's backtrace, say.
    pub message: Option<String>,
}

impl Ending {
    /// An ending that says nothing but its exit code.
    #[must_use]
    pub fn code(code: u8) -> Self {
        Self { code, out_of_memory: false, message: None }
    }

    /// One that the runtime has something to say of.
    #[must_use]
    pub fn told(code: u8, message: String) -> Self {
        Self { code, out_of_memory: false, message: Some(message) }
    }
}

/// The exit code of a guest that trapped: what a native program that aborted would have (128 + SIGABRT).
pub const TRAPPED: u8 = 134;
/// The exit code of a guest that was stopped (128 + SIGTERM).
pub const STOPPED: u8 = 143;
/// The exit code of a guest whose time was over: what timeout(1) has for it.
pub const TIMED_OUT: u8 = 124;
/// The exit code of a guest that was killed (128 + SIGKILL).
pub const KILLED: u8 = 137;

/// Compiled code, mapped into this process. A clone is the same mapping.
#[derive(Clone)]
pub struct Program {
    engine: Engine,
    code: Mapped,
    description: Description,
    /// What it has in common with others, where containers share a sandbox.
    common: Option<programs::Common>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("description", &self.description).finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Mapped {
    Module(Module),
    Component(Component),
}

impl Program {
    /// Maps compiled code. To be called before the fences, which leave no file to open. A service may have so many
    /// instances at a time.
    ///
    /// # Errors
    /// When the code was made by another engine or for another machine.
    pub fn map(file: &File, description: Description, instances: u32) -> wasmtime::Result<Self> {
        let engine = engine::engine(purpose(&description, instances))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let code = if description.kind == Kind::Module {
            // SAFETY: the file comes from the code cache, which takes only what our own compiler made, and checks it.
            Mapped::Module(unsafe { Module::deserialize_file(&engine, path)? })
        } else {
            // SAFETY: as above.
            Mapped::Component(unsafe { Component::deserialize_file(&engine, path)? })
        };
        Ok(Self { engine, code, description, common: None })
    }

    /// Copies compiled code into this process, where it cannot be mapped by a path.
    ///
    /// # Errors
    /// As [`Program::map`].
    pub fn copy(file: &File, description: Description, instances: u32) -> wasmtime::Result<Self> {
        let engine = engine::engine(purpose(&description, instances))?;
        let bytes = read_whole(file)?;
        let code = if description.kind == Kind::Module {
            // SAFETY: the file comes from the code cache, as in `map`.
            Mapped::Module(unsafe { Module::deserialize(&engine, bytes)? })
        } else {
            // SAFETY: as above.
            Mapped::Component(unsafe { Component::deserialize(&engine, bytes)? })
        };
        Ok(Self { engine, code, description, common: None })
    }

    /// Maps compiled code that was handed over open, for an engine that runs already.
    ///
    /// # Errors
    /// As [`Program::map`].
    pub(crate) fn open(engine: &Engine, file: File, description: Description) -> wasmtime::Result<Self> {
        let engine = engine.clone();
        let code = if description.kind == Kind::Module {
            // SAFETY: the file comes from the code cache, as in `map`.
            Mapped::Module(unsafe { Module::deserialize_open_file(&engine, file)? })
        } else {
            // The engine has no such function for components.
            // SAFETY: as above.
            Mapped::Component(unsafe { Component::deserialize(&engine, read_whole(&file)?)? })
        };
        Ok(Self { engine, code, description, common: None })
    }

    /// Whether it can ask for other programs to be started.
    #[must_use]
    pub fn spawns(&self) -> bool {
        self.description.spawns()
    }

    /// Whether it is a server that is handed its listening sockets.
    #[must_use]
    pub fn takes_listeners(&self) -> bool {
        self.description.takes_listeners()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.description.kind
    }
}

fn purpose(description: &Description, instances: u32) -> engine::Purpose {
    if description.kind.is_service() {
        engine::Purpose::Service(description.target(), instances)
    } else {
        engine::Purpose::Command
    }
}

fn read_whole(mut file: &File) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How far a guest has been asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stop {
    /// Not at all.
    No = 0,
    /// In its own time: what SIGTERM asks of a program.
    Gently = 1,
    /// At once, wherever it is.
    AtOnce = 2,
}

/// What has been counted of a guest since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Of an HTTP service; `None` for any other guest.
    pub http: Option<Counts>,
    /// What it was refused of the network.
    pub refusals: Refusals,
    /// What its container uses; `None` before it has begun and after its end.
    pub usage: Option<Usage>,
}

/// The handle by which a running guest is stopped, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<ControlState>);

#[derive(Debug, Default)]
struct ControlState {
    stop: AtomicU8,
    changed: tokio::sync::Notify,
    engine: OnceLock<EngineHandle>,
    doors: OnceLock<Doors>,
    had_doors: OnceLock<bool>,
    hush: OnceLock<Hush>,
    keys: OnceLock<Keys>,
    figures: OnceLock<Arc<Figures>>,
    refusals: OnceLock<Arc<Counting>>,
    used: OnceLock<(Arc<Account>, Arc<Traffic>)>,
    ended: AtomicBool,
    timed_out: AtomicBool,
}

/// Closes what a guest may be waiting on, and says whether there was anything.
struct Doors(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doors")
    }
}

/// Closes the output of a guest that is given up.
struct Hush(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hush")
    }
}

/// What a key at the guest's terminal does.
struct Keys(Box<dyn Fn(u8) -> Pressed + Send + Sync>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What became of a key at a guest's terminal that means a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressed {
    /// It has ended programs that the guest has started, or broken off a read at a prompt.
    Taken,
    /// It is for the guest itself.
    Deadly,
}

struct EngineHandle(Engine);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Control {
    fn watch(&self, engine: &Engine) {
        let _ = self.0.engine.set(EngineHandle(engine.clone()));
    }

    /// Asks the guest to end; a stronger wish replaces a weaker one.
    pub fn stop(&self, how: Stop) {
        self.0.stop.fetch_max(how as u8, Ordering::SeqCst);
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
        // Guest code that computes looks at the epoch in its loops.
        if let Some(engine) = self.0.engine.get() {
            engine.0.increment_epoch();
        }
    }

    /// Says how a command's doors are closed when it is asked to end in its own time.
    pub(crate) fn doors(&self, close: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.0.doors.set(Doors(Box::new(close)));
    }

    /// Closes the guest's doors, once. True when it had any, or sees to its end itself: then it has its grace period.
    #[must_use]
    pub fn close_doors(&self) -> bool {
        *self.0.had_doors.get_or_init(|| self.0.doors.get().is_none_or(|doors| (doors.0)()))
    }

    /// Says what a key at the guest's terminal does.
    fn keys(&self, press: impl Fn(u8) -> Pressed + Send + Sync + 'static) {
        let _ = self.0.keys.set(Keys(Box::new(press)));
    }

    /// Presses a key at the guest's terminal that means this signal.
    #[must_use]
    pub fn press(&self, signal: u8) -> Pressed {
        self.0.keys.get().map_or(Pressed::Deadly, |keys| (keys.0)(signal))
    }

    /// Says where the guest's requests are counted.
    fn count(&self, figures: &Arc<Figures>) {
        let _ = self.0.figures.set(Arc::clone(figures));
    }

    /// Says where it is counted what the guest is refused.
    pub fn count_refusals(&self, refusals: Arc<Counting>) {
        let _ = self.0.refusals.set(refusals);
    }

    /// What has been counted of the guest.
    #[must_use]
    pub fn counted(&self) -> Counted {
        Counted {
            http: self.0.figures.get().map(|figures| figures.counts()),
            refusals: self.0.refusals.get().map(|refusals| refusals.so_far()).unwrap_or_default(),
            usage: self.usage(),
        }
    }

    /// Says where it is written down what the guest's container uses.
    pub fn uses(&self, account: &Arc<Account>, traffic: &Arc<Traffic>) {
        let _ = self.0.used.set((Arc::clone(account), Arc::clone(traffic)));
    }

    /// Changes what the guest's container may use.
    pub fn limit(&self, change: Resources) {
        if let Some((account, _)) = self.0.used.get() {
            account.limit(change, self.0.engine.get().map(|engine| &engine.0));
        }
    }

    fn usage(&self) -> Option<Usage> {
        self.0.used.get().filter(|_| !self.has_ended()).map(|(account, traffic)| Usage::of(account, traffic))
    }

    /// Says how the guest's output is closed when it is given up.
    pub fn hush(&self, close: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.hush.set(Hush(Box::new(close)));
    }

    /// Gives up a guest that cannot be interrupted where it is: from now on it has ended for everybody else. Its thread
    /// goes on until it comes back to the guest's code, where it is trapped.
    pub fn give_up(&self) -> bool {
        if let Some(hush) = self.0.hush.get() {
            (hush.0)();
        }
        self.end()
    }

    /// Says that the guest is over; true for who says it first.
    #[must_use]
    pub fn end(&self) -> bool {
        !self.0.ended.swap(true, Ordering::SeqCst)
    }

    /// Whether the guest is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::SeqCst)
    }

    /// Says that the guest ends because its time is over.
    pub fn time_out(&self) {
        self.0.timed_out.store(true, Ordering::SeqCst);
    }

    /// Whether it does.
    #[must_use]
    pub fn has_timed_out(&self) -> bool {
        self.0.timed_out.load(Ordering::SeqCst)
    }

    /// What has been asked.
    #[must_use]
    pub fn asked(&self) -> Stop {
        match self.0.stop.load(Ordering::SeqCst) {
            0 => Stop::No,
            1 => Stop::Gently,
            _ => Stop::AtOnce,
        }
    }

    /// Waits until at least `how` has been asked.
    pub async fn wait(&self, how: Stop) {
        loop {
            let changed = self.0.changed.notified();
            if self.asked() >= how {
                return;
            }
            changed.await;
        }
    }
}

/// Ends a guest's call where it is; never seen by the guest.
#[derive(Debug, thiserror::Error)]
#[error("the guest was stopped")]
struct Interrupted;
