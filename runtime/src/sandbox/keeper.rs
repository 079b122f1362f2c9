//! The keeper: the small side of a sandbox, which sees the host die and tells the truth about it.

mod exec;
mod streams;

use super::asking::answers::{Answers, refuse_program};
use super::log;
use super::outputs::Outputs;
use super::snapshot::{Exit, Phase, Snapshot};
use super::terminal::{Recorder, Terminal};
use super::wire::{self, Order, Question, Report, RunOrder};
use super::{Entry, Fences, SandboxError, join, mount_place, system, trees};
use crate::guest::{Counted, Ending, KILLED};
use crate::network::peers;
use crate::network::reserve::{Reservation, reserve};
use crate::rootfs;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
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
    pid: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// Whether mounts need overlay's unprivileged form; `None` when there is no namespace.
    rootless: Option<bool>,
    state: Mutex<State>,
    /// Counts changes of the state, for those who wait.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    fences: Option<Fences>,
    host_gone: bool,
    /// How many trees have been mounted after the first.
    mounted: usize,
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
    /// Which of the sandbox's trees is its own.
    tree: usize,
    pump: Option<std::thread::JoinHandle<()>>,
    /// Its streams from outside.
    streams: Streams,
    /// What its sandbox may ask for it.
    answers: Answers,
    /// That its peers know it.
    peers: Option<peers::Registered>,
    /// How often it was asked what has been counted of it, and the last answer.
    counted: (u64, Counted),
}

/// What is in the run directory of a container while it is paused.
pub(crate) const PAUSED: &str = "paused";

type FirstContainer = (String, PathBuf, String, Answers, Option<peers::Registered>, OwnedFd, log::To, Option<Recorder>);

/// What follows the output of a container that was sent over, and that its peers know it.
type Sent = (std::thread::JoinHandle<()>, Option<peers::Registered>, Option<Recorder>);

impl Keeper {
    pub(super) fn new(
        place: &Path,
        pid: i32,
        socket: OwnedFd,
        rootless: Option<bool>,
        (id, bundle, program, answers, peers, output, to, recorder): FirstContainer,
    ) -> Result<Self, SandboxError> {
        let streams = Streams::new(to.attach.outputs(), recorder);
        let pid = Pid::from_raw(pid).ok_or(SandboxError::Gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(system("watch the host process"))?;
        let kept = Kept {
            snapshot: Snapshot {
                phase: Phase::Starting,
                pid: pid.as_raw_pid().unsigned_abs(),
                bundle: bundle.clone(),
                started: None,
                ports: vec![],
                program,
                asked: false,
                settled: false,
            },
            killed: false,
            waiting: None,
            tree: 0,
            pump: Some(pump(output, bundle, to, streams.outputs.clone())?),
            streams,
            answers,
            peers,
            counted: (0, Counted::default()),
        };
        let state = State { containers: HashMap::from([(id, kept)]), ..State::default() };
        Ok(Self(Arc::new(Inner {
            place: place.to_owned(),
            pid,
            pidfd,
            socket,
            rootless,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
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

    /// Adds a container to the running sandbox, created and not started: its tree is mounted when it starts.
    ///
    /// # Errors
    /// When the id is taken.
    pub fn create(&self, entry: Entry) -> Result<(), SandboxError> {
        let mut state = self.state();
        if let Some(old) = state.containers.get(&entry.id) {
            return Err(SandboxError::Phase {
                id: entry.id,
                phase: old.snapshot.phase.word(),
                wanted: "created again",
            });
        }
        let snapshot = Snapshot {
            phase: Phase::Created,
            pid: self.host_pid(),
            bundle: entry.bundle.clone(),
            started: None,
            ports: vec![],
            program: entry.code.digest.clone(),
            asked: false,
            // Nobody writes down the end of a container that is not of our own store.
            settled: true,
        };
        let id = entry.id.clone();
        let answers =
            Answers::new(entry.store.clone(), entry.grants.egress.clone(), entry.network.clone(), &entry.bundle);
        state.containers.insert(
            id,
            Kept {
                snapshot,
                killed: false,
                waiting: Some(entry),
                tree: 0,
                pump: None,
                streams: Streams::default(),
                answers,
                peers: None,
                counted: (0, Counted::default()),
            },
        );
        Ok(())
    }

    /// Starts a created container: mounts its tree beneath the directory that the host may see, and sends it over.
    ///
    /// # Errors
    /// When it was started before, a port is in use, or a mount fails.
    pub fn start(&self, id: &str) -> Result<(), SandboxError> {
        let mut state = self.state();
        let kept = state.containers.get_mut(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        let phase = kept.snapshot.phase.word();
        let Some(entry) = kept.waiting.take() else {
            return Err(SandboxError::Phase { id: id.to_owned(), phase, wanted: "started" });
        };
        let outputs = kept.streams.outputs.clone();
        state.mounted += 1;
        let tree = state.mounted;
        let sent = self.send_over(&entry, tree, outputs);
        let Some(kept) = state.containers.get_mut(id) else { return Err(SandboxError::NoContainer(id.to_owned())) };
        match sent {
            Ok((pump, peers, recorder)) => {
                kept.snapshot.phase = Phase::Starting;
                kept.tree = tree;
                kept.pump = Some(pump);
                kept.streams.recorder = recorder;
                kept.peers = peers;
                Ok(())
            }
            Err(error) => {
                // It can be tried again, when the port is free, say.
                kept.waiting = Some(entry);
                Err(error)
            }
        }
    }

    /// Mounts the tree of the sandbox's `n`th container and sends it over; what follows its output is returned.
    fn send_over(&self, entry: &Entry, n: usize, outputs: Outputs) -> Result<Sent, SandboxError> {
        let rootless = self.0.rootless.ok_or(SandboxError::NoRoom)?;
        let reserved = reserve(&entry.grants, entry.code.description.opens())?;
        let tree = mount_place(&trees(&self.0.place), n)?;
        let preopens = vec![rootfs::assemble(&entry.grants, &entry.bundle, &tree, rootless)?];
        let (output, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make the output pipe"))?;
        let spec = entry.grants.to_spec().map_err(|e| system("describe the container")(std::io::Error::other(e)))?;
        let mut fds = vec![entry.code.file.as_fd(), writer.as_fd()];
        fds.extend(entry.input.as_ref().map(AsFd::as_fd));
        let terminal = entry.grants.terminal.then(Terminal::open).transpose().map_err(system("make a terminal"))?;
        fds.extend(terminal.as_ref().map(|(_, guest)| guest.as_fd()));
        fds.extend(reserved.iter().map(|r| r.socket().as_fd()));
        let order = Order::Run(Box::new(RunOrder {
            id: entry.id.clone(),
            spec,
            preopens,
            description: entry.code.description.clone(),
            reserved: reserved.iter().map(Reservation::parts).collect(),
        }));
        let recorder = record(terminal.as_ref().map(|(ours, _)| ours), &writer)?;
        let to = log::To { attach: entry.attach.clone(), log: entry.log };
        let pump = pump(output, entry.bundle.clone(), to, outputs)?;
        let peers = join(&entry.id, &entry.bundle, &entry.grants, entry.network.as_deref())?;
        wire::send(self.0.socket.as_fd(), &order, &fds).map_err(system("hand the container to its sandbox"))?;
        Ok((pump, peers, recorder))
    }

    /// Whether one container at most lives in this sandbox.
    pub(super) fn alone(&self) -> bool {
        let lives = |kept: &&Kept| matches!(kept.snapshot.phase, Phase::Starting | Phase::Running);
        self.state().containers.values().filter(lives).count() <= 1
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

    /// Ends a container at once. When it is alone its host process is killed, which nothing can hold up; among others
    /// it is trapped.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub fn kill(&self, id: &str) -> Result<(), SandboxError> {
        let alone = {
            let mut state = self.state();
            let kept = state.containers.get_mut(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
            kept.killed = true;
            kept.snapshot.asked = true;
            let lives = |kept: &Kept| matches!(kept.snapshot.phase, Phase::Starting | Phase::Running);
            state.containers.iter().all(|(other, kept)| other == id || !lives(kept))
        };
        if alone {
            self.kill_host();
        } else {
            let _ = wire::send(self.0.socket.as_fd(), &Order::Kill(id.to_owned()), &[]);
        }
        Ok(())
    }

    /// Holds a running container where it is, host calls and all: its process is stopped (SIGSTOP), so what comes to its
    /// ports waits in the kernel.
    ///
    /// # Errors
    /// When it does not run, or shares its sandbox with others that do.
    pub fn pause(&self, id: &str) -> Result<(), SandboxError> {
        let phase = self.look(id)?.phase;
        if phase != Phase::Running {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: phase.word(), wanted: "paused" });
        }
        if self.is_paused() {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: "paused", wanted: "paused again" });
        }
        let lives = |kept: &Kept| matches!(kept.snapshot.phase, Phase::Starting | Phase::Running);
        if self.state().containers.iter().any(|(other, kept)| other != id && lives(kept)) {
            return Err(SandboxError::Shared(id.to_owned()));
        }
        std::fs::write(self.0.place.join(PAUSED), []).map_err(system("write down that it is paused"))?;
        pidfd_send_signal(&self.0.pidfd, Signal::STOP).map_err(system("stop the host process"))
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn unpause(&self, id: &str) -> Result<(), SandboxError> {
        let phase = self.look(id)?.phase;
        if !self.is_paused() {
            return Err(SandboxError::Phase { id: id.to_owned(), phase: phase.word(), wanted: "unpaused" });
        }
        self.resume();
        Ok(())
    }

    /// Whether the sandbox is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.place.join(PAUSED).exists()
    }

    fn resume(&self) {
        if self.is_paused() {
            let _ = pidfd_send_signal(&self.0.pidfd, Signal::CONT);
            let _ = std::fs::remove_file(self.0.place.join(PAUSED));
        }
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
                state.containers.remove(id);
                state.execs.retain(|(container, _), _| container != id);
                Ok(snapshot)
            }
            _ => Err(SandboxError::Phase { id: id.to_owned(), phase: "running", wanted: "deleted" }),
        }
    }

    /// Waits until the container's first instruction is next, or it has ended without.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn started(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.until(id, |s| matches!(s.phase, Phase::Running | Phase::Ended(_))).await
    }

    /// Waits until the container has ended.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn wait(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.until(id, |s| matches!(s.phase, Phase::Ended(_))).await
    }

    /// Waits until the container has ended and its end is written down.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn wait_settled(&self, id: &str) -> Result<Snapshot, SandboxError> {
        self.until(id, |s| s.settled && matches!(s.phase, Phase::Ended(_))).await
    }

    /// What has been counted of a container since its start; `None` for one that does not run.
    ///
    /// # Errors
    /// When it is not in this sandbox.
    pub async fn counted(&self, id: &str) -> Result<Option<Counted>, SandboxError> {
        let mut changes = self.0.changed.subscribe();
        let asked = self.last_counted(id)?.0;
        if matches!(self.look(id)?.phase, Phase::Created | Phase::Ended(_)) {
            return Ok(None);
        }
        if self.is_paused() {
            // Its host stands still: nothing has been counted since.
            return Ok(Some(self.last_counted(id)?.1));
        }
        let _ = wire::send(self.0.socket.as_fd(), &Order::Count(id.to_owned()), &[]);
        loop {
            let (answered, counted) = self.last_counted(id)?;
            if answered > asked {
                return Ok(Some(counted));
            }
            if matches!(self.look(id)?.phase, Phase::Ended(_)) {
                return Ok(None);
            }
            if changes.changed().await.is_err() {
                return Err(SandboxError::Gone);
            }
        }
    }

    fn last_counted(&self, id: &str) -> Result<(u64, Counted), SandboxError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        Ok(kept.counted.clone())
    }

    /// Says that a container's end is written down.
    pub fn settle(&self, id: &str) {
        if let Some(kept) = self.state().containers.get_mut(id) {
            kept.snapshot.settled = true;
        }
        self.bump();
    }

    async fn until(&self, id: &str, done: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, SandboxError> {
        let mut changes = self.0.changed.subscribe();
        loop {
            let snapshot = self.look(id)?;
            if done(&snapshot) {
                return Ok(snapshot);
            }
            if changes.changed().await.is_err() {
                return Err(SandboxError::Gone);
            }
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
        if let Some(recorder) = recorder {
            recorder.finish();
        }
        if let Some(pump) = pump {
            let _ = pump.join();
        }
        if let Some(kept) = self.state().containers.get_mut(id) {
            let Ending { code, out_of_memory, message } = ending;
            let code = match kept.streams.pressed {
                _ if kept.killed => KILLED,
                Some(signal) => 128_u8.saturating_add(signal),
                None => code,
            };
            kept.snapshot.phase = Phase::Ended(Exit { code, out_of_memory, at: jiff::Timestamp::now(), message });
            kept.peers = None;
        }
        self.end_execs(id);
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
            let running = |kept: &Kept| matches!(kept.snapshot.phase, Phase::Starting | Phase::Running);
            state.containers.iter().filter(|(_, k)| running(k)).map(|(id, _)| id.clone()).collect()
        };
        for id in orphans {
            let ending = match status.as_ref().and_then(|s| s.terminating_signal()) {
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

/// Writes down what is on a container's terminal, if it has one, as what it says by its output pipe.
pub(super) fn record(terminal: Option<&Terminal>, output: &OwnedFd) -> Result<Option<Recorder>, SandboxError> {
    let record = |terminal: &Terminal| terminal.record(output.try_clone()?);
    terminal.map(record).transpose().map_err(system("start the terminal's thread"))
}

fn pump(
    output: OwnedFd,
    bundle: PathBuf,
    to: log::To,
    outputs: Outputs,
) -> Result<std::thread::JoinHandle<()>, SandboxError> {
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 << 10)
        .spawn(move || log::pump(output, &bundle, &to, outputs))
        .map_err(system("start the log's thread"))
}
