//! Starting containers from the command line: in the foreground, where this process is the keeper, or detached, where
//! a child of it is.

use crate::inside::Fifos;
use crate::shared::Joiner;
use anyhow::{Context as _, Result};
use sampan_runtime::container::life::{Front, Lease};
use sampan_runtime::container::restart::{Again, Waited};
use sampan_runtime::container::{Container, ContainerError};
use sampan_runtime::guest::KILLED;
use sampan_runtime::sandbox::{Attach, Exit, Keeper, Outputs};
use sampan_runtime::store::Store;
use sampan_shim::Serving;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
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
    let signals = Signals::take(&[libc::SIGINT, libc::SIGTERM]).context("cannot take Ctrl-C")?;
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

/// Signals, read from a descriptor (signalfd(2)) rather than handled.
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes these for the rest of this process's life; to be called while it has one thread.
    pub fn take(signals: &[libc::c_int]) -> std::io::Result<Self> {
        // SAFETY: a signal set is plain bits, emptied before use; the calls read it and nothing else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(std::io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// Lets them be waited for, in a runtime.
    pub fn listen(&self) -> std::io::Result<Listening> {
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        Ok(Listening(unsafe { AsyncFd::register(self.0.try_clone()?) }?))
    }

    /// The first one means `stop`, a second one means now.
    async fn forward(&self, keeper: Keeper, id: &str, grace: u32) {
        let Ok(mut signals) = self.listen() else { return };
        signals.next().await;
        let _ = keeper.stop(id);
        tokio::select! {
            _ = signals.next() => {}
            () = tokio::time::sleep(Duration::from_secs(grace.into())) => {}
        }
        let _ = keeper.kill(id);
    }
}

/// Signals that are waited for.
pub struct Listening(AsyncFd<OwnedFd>);

impl Listening {
    /// The number of the next one.
    pub async fn next(&mut self) -> u32 {
        let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match self.0.readable().await {
                Ok(mut ready) => match rustix::io::read(self.0.get_ref(), &mut bytes) {
                    // `ssi_signo` is the first field.
                    Ok(_) => return bytes.first_chunk().map_or(0, |number| u32::from_ne_bytes(*number)),
                    Err(_) => ready.clear_ready(),
                },
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// What the detached keeper tells who started it, in lines.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// All is well.
    Started,
    /// It did not start.
    Failed(Failed),
    /// It has ended, with this code.
    Ended(u8),
}

/// Starts a container that goes on when this process ends; returns when its first instruction is next.
pub fn detached(store: &Store, container: Container) -> Result<()> {
    if let Some(name) = &container.record.sandbox {
        return Joiner::default().join(store, name, &container.record.id);
    }
    detach(store, container, None).map(drop)
}

/// What a detached keeper still has to say: the exit code.
pub struct Heard(BufReader<File>);

impl Heard {
    fn next(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Waits for the container's end; 137 when its keeper was killed.
    pub fn code(mut self) -> u8 {
        match self.next() {
            Some(Answer::Ended(code)) => code,
            _ => KILLED,
        }
    }
}

/// The same, with the streams of whoever looks on from the beginning.
pub fn detach(store: &Store, container: Container, fifos: Option<&mut Fifos>) -> Result<Heard> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("cannot fork the keeper"),
        0 => {
            drop(reader);
            let (answer, id) = (Some(File::from(writer)), container.record.id.clone());
            let mut front = Background { store, answer, told: false, serving: None, typed: None, id };
            if let Err(error) = keep_detached(store, container, fifos, &mut front) {
                let code = error.downcast_ref::<ContainerError>().map_or(125, ContainerError::exit_code);
                front.tell(Answer::Failed(Failed { code, message: crate::commands::words(&error) }));
            }
            std::process::exit(0);
        }
        _ => {
            drop(writer);
            let mut heard = Heard(BufReader::new(File::from(reader)));
            match heard.next() {
                Some(Answer::Started) => Ok(heard),
                Some(Answer::Failed(failed)) => Err(failed.into()),
                Some(Answer::Ended(_)) | None => {
                    Err(Failed { code: KILLED, message: "the keeper died before the container started".into() }.into())
                }
            }
        }
    }
}

fn keep_detached(
    store: &Store,
    container: Container,
    fifos: Option<&mut Fifos>,
    front: &mut Background<'_>,
) -> Result<()> {
    let lease = Lease::take(container)?;
    leave_terminal().context("cannot leave the terminal")?;
    let open = lease.container().record.open_stdin;
    let (input, held) = open.then(waiting_input).transpose()?.unzip();
    let (attach, typed) = match fifos {
        None => (Attach::Detached, None),
        Some(fifos) => {
            let [typed, output, errors] = fifos.other_ends()?;
            let outputs = Outputs::default();
            outputs.add(output, errors)?;
            (Attach::Viewers(outputs), typed)
        }
    };
    let id = lease.container().record.id.clone();
    let run = lease.start(store, attach, input)?;
    if let Some(held) = held {
        run.keeper().hold_input(&id, held);
    }
    front.typed = typed;
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
    let (attach, input, held) = match (foreground, open) {
        (Some(true), true) => (Attach::Terminal, Some(std::io::stdin().as_fd().try_clone_to_owned()?), None),
        (Some(false), true) => (Attach::Terminal, Some(File::open("/dev/null")?.into()), None),
        (Some(_), false) => (Attach::Terminal, None, None),
        (None, true) => {
            let (reader, writer) = waiting_input()?;
            (Attach::Detached, Some(reader), Some(writer))
        }
        (None, false) => (Attach::Detached, None, None),
    };
    let signals =
        foreground.map(|_| Signals::take(&[libc::SIGINT, libc::SIGTERM])).transpose().context("cannot take Ctrl-C")?;
    let over = match (lease.start_again(store, attach, input)?, signals) {
        (Ok(run), Some(signals)) => {
            run.keep(store, &mut Foreground { store, id, grace, signals, serving: None, failed: None })?
        }
        (Ok(run), None) => {
            if let Some(held) = held {
                run.keeper().hold_input(&id, held);
            }
            let mut front = Background { store, answer: None, told: true, serving: None, typed: None, id };
            run.keep(store, &mut front)?
        }
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
pub fn leave_terminal() -> std::io::Result<()> {
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
    told: bool,
    serving: Option<Serving>,
    /// What somebody types who looks on from the beginning.
    typed: Option<OwnedFd>,
    id: String,
}

impl Background<'_> {
    fn tell(&mut self, answer: Answer) {
        self.told = true;
        if let Some(pipe) = &mut self.answer
            && let Ok(mut text) = serde_json::to_vec(&answer)
        {
            text.push(b'\n');
            // Who has heard enough is gone.
            if pipe.write_all(&text).is_err() {
                self.answer = None;
            }
        }
    }
}

impl Front for Background<'_> {
    const PATIENCE: Duration = Duration::ZERO;

    async fn serve(&mut self, keeper: Keeper, socket: &Path) {
        match Serving::open(keeper.clone(), self.store, socket).await {
            Ok(serving) => {
                self.serving = Some(serving);
                if let Some(typed) = self.typed.take() {
                    let _ = keeper.attach(&self.id, Some(typed), true, None, None);
                }
                self.tell(Answer::Started);
                tokio::time::sleep(SETTLED).await;
                keeper.rest();
            }
            Err(error) => {
                // A container that nobody can stop is worse than none.
                let message = format!("cannot open the control socket: {error}");
                self.tell(Answer::Failed(Failed { code: 125, message }));
                keeper.kill_host();
            }
        }
    }

    fn ended(&mut self, exit: &Exit, _: Result<(), ContainerError>) {
        match not_started(exit) {
            Some(failed) if !self.told => self.tell(Answer::Failed(failed)),
            _ => {
                if !self.told {
                    self.tell(Answer::Started);
                }
                self.tell(Answer::Ended(exit.code));
            }
        }
    }

    async fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.close().await;
        }
    }
}
