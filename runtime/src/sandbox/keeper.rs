//! The keeper: the small side of a sandbox, which sees the host die and tells the truth about it.

mod begin;
mod exec;
mod pause;
mod streams;
mod wait;

use super::asking::answers::{Answers, refuse_program};
use super::log;
use super::snapshot::{Exit, Phase, Snapshot};
use super::terminal::Recorder;
use super::wire::{self, Order, Question, Report};
use super::{Entry, Fences, SandboxError, cgroup, system};
use crate::guest::{Counted, Ending, KILLED};
use crate::network::peers;
use crate::rootfs;
use begin::pump;
pub(super) use begin::record;
pub(crate) use pause::PAUSED;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use streams::Streams;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// The handle of a sandbox on the keeper's side; every clone is the same.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: PathBuf,
    /// Where the trees of its containers are mounted, each by its number.
    trees: PathBuf,
    pid: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// Whether mounts need overlay's unprivileged form; `None` when there is no namespace.
    rootless: Option<bool>,
    /// Whether containers come and go here, none of which the sandbox is of.
    shared: bool,
    /// Whether the tables of its network's sockets are mounted.
    tables: Mutex<bool>,
    state: Mutex<State>,
    /// Counts changes of the state, for those who wait for anything but one container.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    fences: Option<Fences>,
    host_gone: bool,
    /// How many trees have been mounted after the first.
    mounted: usize,
    /// Numbers of trees that are mounted no more.
    free: Vec<usize>,
    containers: HashMap<String, Kept>,
    /// What is run inside them, by container and name.
    execs: HashMap<(String, String), exec::Exec>,
}

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    /// A container that has been asked to end at once ends with 137, however its host goes.
    killed: bool,
    waiting: Option<Entry>,
    pump: Option<Pump>,
    /// Whether somebody has asked for its end.
    heard: bool,
    /// Tells those who wait for what becomes of it.
    changed: watch::Sender<()>,
    /// Its streams from outside.
    streams: Streams,
    /// What its sandbox may ask for it.
    answers: Answers,
    /// Where it is told of the programs that it sees.
    view: Option<PathBuf>,
    /// That its peers know it.
    peers: Option<peers::Registered>,
    /// How often it was asked what has been counted of it, and the last answer.
    counted: (u64, Counted),
}

impl State {
    /// Forgets a container and what was run inside it.
    fn remove(&mut self, id: &str) {
        self.containers.remove(id);
        self.execs.retain(|(container, _), _| container != id);
    }
}

impl Kept {
    /// One of which nothing has been heard.
    fn new(snapshot: Snapshot, streams: Streams, answers: Answers) -> Self {
        Self {
            snapshot,
            killed: false,
            waiting: None,
            pump: None,
            heard: false,
            changed: watch::Sender::new(()),
            streams,
            answers,
            view: None,
            peers: None,
            counted: (0, Counted::default()),
        }
    }

    fn lives(&self) -> bool {
        matches!(self.snapshot.phase, Phase::Starting | Phase::Running)
    }

    fn is_over(&self) -> bool {
        self.snapshot.settled && matches!(self.snapshot.phase, Phase::Ended(_))
    }
}

/// What moves a container's output to its log, and is over when all of it is there.
#[derive(Debug)]
enum Pump {
    /// A thread of its own.
    Thread(std::thread::JoinHandle<()>),
    /// A task, which has a thread while there is something to move.
    Task(tokio::task::JoinHandle<()>),
}

/// What a new keeper knows of its sandbox.
#[derive(Debug)]
pub(super) struct Made {
    pub place: PathBuf,
    pub trees: PathBuf,
    pub pid: i32,
    pub socket: OwnedFd,
    pub rootless: Option<bool>,
    pub shared: bool,
}

type FirstContainer = (String, PathBuf, String, Answers, Option<peers::Registered>, OwnedFd, log::To, Option<Recorder>);

impl Keeper {
    pub(super) fn new(made: Made, first: Option<FirstContainer>) -> Result<Self, SandboxError> {
        let Made { place, trees, pid, socket, rootless, shared } = made;
        let pid = Pid::from_raw(pid).ok_or(SandboxError::Gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(system("watch the host process"))?;
        let mut state = State::default();
        if let Some((id, bundle, program, answers, peers, output, to, recorder)) = first {
            let streams = Streams::new(to.attach.outputs(), recorder);
            let snapshot = Snapshot::new(Phase::Starting, pid.as_raw_pid().unsigned_abs(), bundle.clone(), program);
            let pump = Some(pump(output, bundle, to, streams.outputs.clone(), false)?);
            state.containers.insert(id, Kept { pump, peers, ..Kept::new(snapshot, streams, answers) });
        }
        let changed = watch::Sender::new(0);
        let state = Mutex::new(state);
        Ok(Self(Arc::new(Inner {
            place,
            trees,
            pid,
            pidfd,
            socket,
            rootless,
            shared,
            tables: Mutex::default(),
            state,
            changed,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// The host's process id.
    #[must_use]
    pub fn host_pid(&self) -> u32 {
        self.0.pid.as_raw_pid().unsigned_abs()
    }

    /// The socket to the host process.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    /// Which fences stand; `None` until the host has said so.
    #[must_use]
    pub fn fences(&self) -> Option<Fences> {
        self.state().fences.clone()
    }

    /// What is known of a container.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub fn look(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.state()
            .containers
            .get(id)
            .map(|kept| kept.snapshot.clone())
            .ok_or_else(|| SandboxError::NoContainer(id.to_owned()))
    }

    /// The ids of the containers in this sandbox.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        self.state().containers.keys().cloned().collect()
    }

    /// How many containers live here.
    #[must_use]
    pub fn living(&self) -> usize {
        self.state().containers.values().filter(|kept| kept.lives()).count()
    }

    /// Whether no container but this one lives in its sandbox, and none can come.
    pub(super) fn alone(&self, id: &str) -> bool {
        !self.0.shared && self.is_last(id)
    }

    /// Whether no container but this one lives in its sandbox.
    fn is_last(&self, id: &str) -> bool {
        self.state().containers.iter().all(|(other, kept)| other == id || !kept.lives())
    }

    /// Gives up the memory that starting took and idling does not need, in both processes.
    pub fn rest(&self) {
        let _ = wire::send(self.0.socket.as_fd(), &Order::Rest, &[]);
        super::rest();
    }

    /// Asks a container to end in its own time: what SIGTERM would ask of a program.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub fn stop(&self, id: &str) -> Result<(), SandboxError> {
        self.state()
            .containers
            .get_mut(id)
            .map(|kept| kept.snapshot.asked = true)
            .ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        // A paused one could not hear of it.
        self.resume();
        // A host that is gone has reported, or is about to be seen.
        let _ = wire::send(self.0.socket.as_fd(), &Order::Stop(id.to_owned()), &[]);
        Ok(())
    }

    /// Ends a container at once. When it is alone its host process is killed, which nothing can hold up; among others, or
    /// where others may come, it is trapped.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub fn kill(&self, id: &str) -> Result<(), SandboxError> {
        let alone = {
            let mut state = self.state();
            let kept = state.containers.get_mut(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
            kept.killed = true;
            kept.snapshot.asked = true;
            if let Phase::Created = kept.snapshot.phase {
                // Its host knows nothing of it yet.
                kept.waiting = None;
                let exit = Exit { code: KILLED, out_of_memory: false, at: jiff::Timestamp::now(), message: None };
                kept.snapshot.phase = Phase::Ended(exit);
                kept.streams.outputs.close();
                kept.changed.send_replace(());
                return Ok(());
            }
            drop(state);
            self.alone(id)
        };
        if alone {
            self.kill_host();
        } else {
            // A paused one could not hear of it.
            self.resume();
            let _ = wire::send(self.0.socket.as_fd(), &Order::Kill(id.to_owned()), &[]);
        }
        Ok(())
    }

    /// Ends the host process and every guest in it.
    pub fn kill_host(&self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
    }

    /// Ends the host process and waits until it is gone, and with it all that it had open; for a second at most, since
    /// one that hangs in the kernel goes when it can.
    pub async fn outlive_host(&self) {
        let mut changes = self.0.changed.subscribe();
        self.kill_host();
        let gone = async { while !self.state().host_gone && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
    }

    /// Forgets an ended or a never started container.
    ///
    /// # Errors
    /// When it runs.
    pub fn delete(&self, id: &str) -> Result<Snapshot, SandboxError> {
        let mut state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        match kept.snapshot.phase {
            Phase::Created | Phase::Ended(_) => {
                let snapshot = kept.snapshot.clone();
                state.remove(id);
                Ok(snapshot)
            }
            _ => Err(SandboxError::Phase { id: id.to_owned(), phase: "running", wanted: "deleted" }),
        }
    }

    /// Forgets a container that has ended at this moment, if it has not been started again.
    pub(crate) fn forget(&self, id: &str, at: jiff::Timestamp) {
        let mut state = self.state();
        let same = |kept: &Kept| matches!(&kept.snapshot.phase, Phase::Ended(exit) if exit.at == at);
        if state.containers.get(id).is_some_and(same) {
            state.remove(id);
        }
    }

    /// Takes the host's reports without a runtime, which takes longer to set up than most commands run: until the
    /// container has ended, or `patience` after its start if there is an end to it.
    ///
    /// # Errors
    /// When it is not in this sandbox, or the host cannot be watched.
    pub fn attend_early(&self, id: &str, patience: Option<Duration>) -> Result<Snapshot, SandboxError> {
        let mut deadline = None;
        loop {
            let snapshot = self.look(id)?;
            let left = match (&snapshot.phase, deadline) {
                (Phase::Ended(_), _) => return Ok(snapshot),
                (Phase::Running, None) => {
                    deadline = patience.map(|patience| Instant::now() + patience);
                    patience
                }
                (_, deadline) => deadline.map(|deadline: Instant| deadline.saturating_duration_since(Instant::now())),
            };
            let left = left.map(Timespec::try_from).transpose().ok().flatten();
            let mut fds = [PollFd::new(&self.0.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(snapshot),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(system("watch the host process")(e)),
            }
            match wire::receive::<Report>(self.0.socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some((Report::Ask { ticket, id, question }, fds))) => self.asked(ticket, &id, question, fds),
                Ok(Some((report, _))) => self.take(report),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(None) | Err(_) => self.host_gone(),
            }
        }
    }

    /// Takes the host's reports until it is gone; then every container that had not ended has ended, killed. To be run
    /// beside whatever waits.
    ///
    /// # Errors
    /// When the host cannot be watched.
    pub async fn attend(&self) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(&self.0.socket, true)?;
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        let socket = unsafe { AsyncFd::register(self.0.socket.try_clone()?) }?;
        loop {
            let mut ready = socket.readable().await?;
            match wire::receive::<Report>(self.0.socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some((Report::Ask { ticket, id, question }, fds))) => self.asked(ticket, &id, question, fds),
                Ok(Some((report, _))) => self.take(report),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(None) | Err(_) => break,
            }
        }
        self.host_gone();
        Ok(())
    }

    /// Answers what the sandbox asks for one of its containers.
    fn asked(&self, ticket: u64, id: &str, question: Question, fds: Vec<OwnedFd>) {
        let Ok(socket) = self.0.socket.try_clone() else { return };
        match self.state().containers.get(id) {
            Some(kept) => kept.answers.answer(socket, ticket, question, fds),
            None => refuse_program(&socket, ticket, "there is no such container"),
        }
    }

    fn take(&self, report: Report) {
        match report {
            // Taken before, with its descriptor.
            Report::Ask { .. } => {}
            Report::Fenced(fences) => self.state().fences = Some(fences),
            Report::Started { id, ports } => {
                if let Some(kept) = self.state().containers.get_mut(&id) {
                    kept.snapshot.phase = Phase::Running;
                    kept.snapshot.started = Some(jiff::Timestamp::now());
                    kept.snapshot.ports = ports;
                    kept.changed.send_replace(());
                }
            }
            Report::Listens { id, protocol, port, real } => {
                if let Some(peers) = self.state().containers.get_mut(&id).and_then(|kept| kept.peers.as_mut()) {
                    // What cannot be written down is not found; the run directory is in memory, and small.
                    let _ = peers.listens(peers::Listener { protocol, port, real });
                }
            }
            Report::Counted { id, counted } => {
                if let Some(kept) = self.state().containers.get_mut(&id) {
                    kept.counted = (kept.counted.0 + 1, counted);
                    kept.changed.send_replace(());
                }
            }
            Report::Exec { id, exec, news } => self.exec_news(id, exec, news),
            Report::Ended { id, ending } => self.end(&id, ending),
        }
        self.bump();
    }

    /// Records the end of a container, once its output is all in the log.
    fn end(&self, id: &str, ending: Ending) {
        let (pump, recorder) = match self.state().containers.get_mut(id) {
            Some(kept) => (kept.pump.take(), kept.streams.recorder.take()),
            None => (None, None),
        };
        let finish = move || recorder.map(Recorder::finish);
        match pump {
            Some(Pump::Thread(thread)) => {
                finish();
                let _ = thread.join();
            }
            Some(Pump::Task(task)) => {
                let (this, id) = (self.clone(), id.to_owned());
                tokio::spawn(async move {
                    // It may wait for the task.
                    let _ = tokio::task::spawn_blocking(finish).await;
                    let _ = task.await;
                    this.ended(&id, ending);
                    this.bump();
                });
                return;
            }
            None => drop(finish()),
        }
        self.ended(id, ending);
    }

    fn ended(&self, id: &str, ending: Ending) {
        // What is run inside it ends before its tree goes.
        self.end_execs(id);
        let (mut tree, mut view) = (0, None);
        if let Some(kept) = self.state().containers.get_mut(id) {
            let Ending { code, out_of_memory, message } = ending;
            let code = match kept.streams.pressed {
                _ if kept.killed => KILLED,
                Some(signal) => 128_u8.saturating_add(signal),
                None => code,
            };
            kept.snapshot.phase = Phase::Ended(Exit { code, out_of_memory, at: jiff::Timestamp::now(), message });
            kept.peers = None;
            // Everything has been shown.
            kept.streams.outputs.close();
            kept.changed.send_replace(());
            (tree, view) = (kept.snapshot.tree, kept.view.take());
        }
        if tree > 0 {
            self.take_down(tree, view);
        }
    }

    /// Takes down a tree that was mounted after the first, and what was told in it if nobody else sees that; its number is
    /// free when that is done.
    fn take_down(&self, tree: usize, view: Option<PathBuf>) {
        if self.0.rootless.is_none() {
            return;
        }
        let this = self.clone();
        let work = move || {
            if rootfs::take_down(&this.0.trees.join(tree.to_string())).is_ok() {
                this.state().free.push(tree);
            }
            if let Some(view) = view {
                let state = this.state();
                if state.containers.values().all(|kept| kept.view.as_ref() != Some(&view)) {
                    rootfs::view::remove(&view);
                }
            }
        };
        // The kernel waits a millisecond or more until nobody looks at the mount any more.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }

    /// The socket's end is the host's death or just before it.
    fn host_gone(&self) {
        self.kill_host();
        let mut fds = [PollFd::new(&self.0.pidfd, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None));
        let status = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        let orphans: Vec<String> = {
            let mut state = self.state();
            state.host_gone = true;
            state.containers.iter().filter(|(_, kept)| kept.lives()).map(|(id, _)| id.clone()).collect()
        };
        for id in orphans {
            let ending = match status.as_ref().and_then(|s| s.terminating_signal()) {
                Some(signal) if signal == libc::SIGKILL && cgroup::was_out_of_memory() => {
                    let words = "the kernel has killed it: its pod's cgroup has no more memory";
                    Ending { out_of_memory: true, ..Ending::told(KILLED, words.to_owned()) }
                }
                Some(signal) if signal == libc::SIGKILL => Ending::code(KILLED),
                Some(signal) => {
                    let code = u8::try_from(128 + signal).unwrap_or(KILLED);
                    Ending::told(code, format!("the engine broke down (signal {signal})"))
                }
                None => Ending::code(KILLED),
            };
            self.end(&id, ending);
        }
        self.bump();
    }
}
