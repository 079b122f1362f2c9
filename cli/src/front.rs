//! Starting containers from the command line: in the foreground, where this process is the keeper, or detached, where
//! a child of it is.

use anyhow::{Context as _, Result};
use sampan_runtime::container::life::{Front, Lease};
use sampan_runtime::container::restart::{Again, Waited};
use sampan_runtime::container::{Container, ContainerError};
use sampan_runtime::guest::KILLED;
use sampan_runtime::sandbox::{Attach, Exit, Keeper};
use sampan_runtime::store::Store;
use sampan_shim::Serving;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// A container that did not start; the message is its runtime's.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failed {
    /// The exit code that stands for it.
    pub code: u8,
    /// Why.
    pub message: String,
}

/// Runs a container in the foreground and returns its exit code.
pub fn attached(store: &Store, lease: Lease, with_input: bool) -> Result<u8> {
    let record = &lease.container().record;
    let (open, grace, id) = (record.open_stdin, record.stop_timeout, record.id.clone());
    // Before the first thread: what is blocked in one may be delivered to another.
    let signals = Signals::take().context("cannot take Ctrl-C")?;
    let input = match (open, with_input) {
        (true, true) => Some(std::io::stdin().as_fd().try_clone_to_owned()?),
        (true, false) => Some(File::open("/dev/null")?.into()),
        (false, _) => None,
    };
    let run = lease.start(store, Attach::Terminal, input)?;
    let mut front = Foreground { store, id, grace, signals, serving: None, failed: None };
    let over = run.keep(store, &mut front)?;
    match (over.again, front.failed) {
        (Some(again), _) => go_on(store, again, Some(with_input)),
        (None, Some(failed)) => Err(failed.into()),
        (None, None) => Ok(over.exit.code),
    }
}

struct Foreground<'a> {
    store: &'a Store,
    id: String,
    grace: u32,
    signals: Signals,
    serving: Option<Serving>,
    failed: Option<Failed>,
}

impl Front for Foreground<'_> {
    const PATIENCE: Duration = Duration::from_millis(2);

    async fn serve(&mut self, keeper: Keeper, socket: &Path) {
        let signals = self.signals.forward(keeper.clone(), &self.id, self.grace);
        let serve = async {
            match Serving::open(keeper, self.store, socket).await {
                Ok(serving) => self.serving = Some(serving),
                Err(error) => eprintln!("sampan: this container cannot be stopped from elsewhere: {error}"),
            }
        };
        tokio::join!(signals, serve);
    }

    fn ended(&mut self, exit: &Exit, written: Result<(), ContainerError>) {
        self.failed = not_started(exit);
        if let Err(error) = written {
            eprintln!("sampan: the container's end could not be written down: {error}");
        }
    }

    async fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.close().await;
        }
    }
}

/// The end of a container that never ran, in words; a guest's own 126 has none.
fn not_started(exit: &Exit) -> Option<Failed> {
    let message = exit.message.clone().filter(|_| exit.code == 126)?;
    Some(Failed { code: exit.code, message })
}

/// SIGINT and SIGTERM, read from a descriptor (signalfd(2)) rather than handled.
struct Signals(OwnedFd);

impl Signals {
    fn take() -> std::io::Result<Self> {
        // SAFETY: a signal set is plain bits, emptied before use; the calls read it and nothing else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(std::io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// The first one means `stop`, a second one means now.
    async fn forward(&self, keeper: Keeper, id: &str, grace: u32) {
        let Ok(clone) = self.0.try_clone() else { return };
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        let Ok(signals) = (unsafe { AsyncFd::register(clone) }) else { return };
        let next = async || {
            let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
            loop {
                match signals.readable().await {
                    Ok(mut ready) => match rustix::io::read(&self.0, &mut bytes) {
                        Ok(_) => return,
                        Err(_) => ready.clear_ready(),
                    },
                    Err(_) => std::future::pending().await,
                }
            }
        };
        next().await;
        let _ = keeper.stop(id);
        tokio::select! {
            () = next() => {}
            () = tokio::time::sleep(Duration::from_secs(grace.into())) => {}
        }
        let _ = keeper.kill(id);
    }
}

/// What the detached keeper tells who waits for the start: nothing when all is well.
#[derive(Serialize, Deserialize)]
struct Answer {
    failed: Option<Failed>,
}

/// Starts a container that goes on when this process ends; returns when its first instruction is next.
pub fn detached(store: &Store, container: Container) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("cannot fork the keeper"),
        0 => {
            drop(reader);
            let mut front = Background { store, answer: Some(File::from(writer)), serving: None };
            if let Err(error) = keep_detached(store, container, &mut front) {
                let code = error.downcast_ref::<ContainerError>().map_or(125, ContainerError::exit_code);
                front.tell(Some(Failed { code, message: crate::commands::words(&error) }));
            }
            std::process::exit(0);
        }
        _ => {
            drop(writer);
            let mut text = Vec::new();
            File::from(reader).read_to_end(&mut text).context("cannot hear from the keeper")?;
            match serde_json::from_slice::<Answer>(&text) {
                Ok(Answer { failed: None }) => Ok(()),
                Ok(Answer { failed: Some(failed) }) => Err(failed.into()),
                Err(_) => {
                    Err(Failed { code: KILLED, message: "the keeper died before the container started".into() }.into())
                }
            }
        }
    }
}

fn keep_detached(store: &Store, container: Container, front: &mut Background<'_>) -> Result<()> {
    let lease = Lease::take(container)?;
    leave_terminal().context("cannot leave the terminal")?;
    let open = lease.container().record.open_stdin;
    let (input, _held) = open.then(waiting_input).transpose()?.unzip();
    let run = lease.start(store, Attach::Detached, input)?;
    match run.keep(store, front)?.again {
        Some(again) => go_on(store, again, None).map(drop),
        None => Ok(()),
    }
}

/// Goes on with a container that is to be started again, in a fresh image of this program: it has one thread, and
/// nothing of the run that is over. In the foreground it is said whether the container gets standard input.
fn go_on(store: &Store, again: Again, foreground: Option<bool>) -> Result<u8> {
    let (id, lock) = again.hand_on()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sampan").arg("--root").arg(store.root()).args([KEEP, "--lock", &lock.as_raw_fd().to_string()]);
    command.args(foreground.map(|_| "--attach")).args(foreground.filter(|input| *input).map(|_| "--interactive"));
    Err(command.arg(id).exec()).context("cannot go on to the container's next start")
}

/// The command by which a process goes on as the keeper of a container that is to be started again.
pub const KEEP: &str = "keep";

/// Waits for the container's next start and goes on with it; its exit code when that was the last.
pub fn resume(store: &Store, again: Again, foreground: Option<bool>) -> Result<u8> {
    let lease = match again.wait()? {
        Waited::Start(lease) => *lease,
        Waited::CalledOff(code) => return Ok(code),
    };
    let record = &lease.container().record;
    let (open, grace, id) = (record.open_stdin, record.stop_timeout, record.id.clone());
    let (attach, input, _held) = match (foreground, open) {
        (Some(true), true) => (Attach::Terminal, Some(std::io::stdin().as_fd().try_clone_to_owned()?), None),
        (Some(false), true) => (Attach::Terminal, Some(File::open("/dev/null")?.into()), None),
        (Some(_), false) => (Attach::Terminal, None, None),
        (None, true) => {
            let (reader, writer) = waiting_input()?;
            (Attach::Detached, Some(reader), Some(writer))
        }
        (None, false) => (Attach::Detached, None, None),
    };
    let signals = foreground.map(|_| Signals::take()).transpose().context("cannot take Ctrl-C")?;
    let over = match (lease.start_again(store, attach, input)?, signals) {
        (Ok(run), Some(signals)) => {
            run.keep(store, &mut Foreground { store, id, grace, signals, serving: None, failed: None })?
        }
        (Ok(run), None) => run.keep(store, &mut Background { store, answer: None, serving: None })?,
        (Err(over), _) => over,
    };
    match over.again {
        Some(again) => go_on(store, again, foreground),
        None => Ok(over.exit.code),
    }
}

/// Open standard input without anybody to write to it waits, as with Docker.
fn waiting_input() -> Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// A session of its own, and nothing of the caller's terminal or directory.
fn leave_terminal() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::process::setsid()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}

/// When a guest has done what it does at its start, by and large.
const SETTLED: Duration = Duration::from_millis(100);

struct Background<'a> {
    store: &'a Store,
    answer: Option<File>,
    serving: Option<Serving>,
}

impl Background<'_> {
    fn tell(&mut self, failed: Option<Failed>) {
        if let Some(mut pipe) = self.answer.take()
            && let Ok(text) = serde_json::to_vec(&Answer { failed })
        {
            let _ = pipe.write_all(&text);
        }
    }
}

impl Front for Background<'_> {
    const PATIENCE: Duration = Duration::ZERO;

    async fn serve(&mut self, keeper: Keeper, socket: &Path) {
        match Serving::open(keeper.clone(), self.store, socket).await {
            Ok(serving) => {
                self.serving = Some(serving);
                self.tell(None);
                tokio::time::sleep(SETTLED).await;
                keeper.rest();
            }
            Err(error) => {
                // A container that nobody can stop is worse than none.
                self.tell(Some(Failed { code: 125, message: format!("cannot open the control socket: {error}") }));
                keeper.kill_host();
            }
        }
    }

    fn ended(&mut self, exit: &Exit, _: Result<(), ContainerError>) {
        self.tell(not_started(exit));
    }

    async fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.close().await;
        }
    }
}
