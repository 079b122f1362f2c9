//! How a container begins in a sandbox that runs.

use super::streams::Streams;
use super::{Keeper, Kept, Pump};
use crate::grants::Grants;
use crate::network::peers;
use crate::network::reserve::{Reservation, reserve};
use crate::rootfs;
use crate::sandbox::asking::answers::Answers;
use crate::sandbox::outputs::Outputs;
use crate::sandbox::snapshot::{Phase, Snapshot};
use crate::sandbox::terminal::{Recorder, Terminal};
use crate::sandbox::wire::{self, Order, RunOrder};
use crate::sandbox::{Entry, SandboxError, join, log, mount_place, system};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// What is sent over for a container, and what stays here.
struct Handed {
    order: Order,
    /// The guest's end of the output pipe.
    output: OwnedFd,
    /// The guest's end of its terminal.
    terminal: Option<OwnedFd>,
    reserved: Vec<Reservation>,
    pump: Pump,
    peers: Option<peers::Registered>,
    recorder: Option<Recorder>,
    /// Where it is told of the programs that it sees.
    view: Option<PathBuf>,
}

impl Keeper {
    /// Adds a container to the running sandbox, created and not started: its tree is mounted when it starts. With `told`,
    /// its end is only heard of when [`Keeper::settle`] says that it is written down.
    ///
    /// # Errors
    /// When the id is taken by one that has not ended.
    pub fn create(&self, entry: Entry, told: bool) -> Result<(), SandboxError> {
        let mut state = self.state();
        if let Some(old) = state.containers.get(&entry.id).filter(|old| !(told && old.is_over())) {
            return Err(SandboxError::Phase {
                id: entry.id,
                phase: old.snapshot.phase.word(),
                wanted: "created again",
            });
        }
        let (bundle, program) = (entry.bundle.clone(), entry.code.digest.clone());
        // Nobody writes down the end of a container that is not of our own store.
        let snapshot = Snapshot { settled: !told, ..Snapshot::new(Phase::Created, self.host_pid(), bundle, program) };
        let id = entry.id.clone();
        let answers =
            Answers::new(entry.store.clone(), entry.grants.egress.clone(), entry.network.clone(), &entry.bundle);
        let streams = Streams::new(entry.attach.outputs(), None);
        let kept = Kept { waiting: Some(entry), ..Kept::new(snapshot, streams, answers) };
        state.containers.insert(id, kept);
        Ok(())
    }

    /// Starts a created container: mounts its tree beneath the directory that the host may see, and sends it over.
    ///
    /// # Errors
    /// When it was started before, a port is in use, or a mount fails.
    pub fn start(&self, id: &str) -> Result<(), SandboxError> {
        if self.is_paused() {
            // Its host stands still, and so would whoever waits for the start.
            let (id, phase) = (id.to_owned(), "in a sandbox whose other container is paused");
            return Err(SandboxError::Phase { id, phase, wanted: "started" });
        }
        let (entry, outputs, tree) = {
            let mut state = self.state();
            let kept = state.containers.get_mut(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
            let phase = kept.snapshot.phase.word();
            let Some(entry) = kept.waiting.take() else {
                return Err(SandboxError::Phase { id: id.to_owned(), phase, wanted: "started" });
            };
            let outputs = kept.streams.outputs.clone();
            // The host may say that it has started before we are told that it has it.
            kept.snapshot.phase = Phase::Starting;
            let tree = state.free.pop().unwrap_or(state.mounted + 1);
            state.mounted = state.mounted.max(tree);
            (entry, outputs, tree)
        };
        // Others are started at the same time.
        let handed = match self.prepare(&entry, tree, outputs) {
            Ok(handed) => handed,
            Err(error) => return Err(self.not_started(id, entry, tree, error)),
        };
        let Handed { order, output, terminal, reserved, pump, peers, recorder, view } = handed;
        {
            let mut state = self.state();
            let Some(kept) = state.containers.get_mut(id) else { return Err(SandboxError::NoContainer(id.to_owned())) };
            // Before the host has heard of it, and may say that it has ended.
            kept.snapshot.tree = tree;
            kept.view = view;
            kept.pump = Some(pump);
            kept.streams.recorder = recorder;
            kept.peers = peers;
        }
        let mut fds = vec![entry.code.file.as_fd(), output.as_fd()];
        fds.extend(entry.input.as_ref().map(AsFd::as_fd));
        fds.extend(terminal.as_ref().map(AsFd::as_fd));
        fds.extend(reserved.iter().map(|r| r.socket().as_fd()));
        let sent = wire::send(self.0.socket.as_fd(), &order, &fds);
        sent.map_err(|e| self.not_started(id, entry, tree, system("hand the container to its sandbox")(e)))
    }

    /// Undoes what was done for a container that did not start. It can be tried again, when the port is free, say.
    fn not_started(&self, id: &str, entry: Entry, tree: usize, error: SandboxError) -> SandboxError {
        if let Some(kept) = self.state().containers.get_mut(id) {
            kept.waiting = Some(entry);
            kept.snapshot.phase = Phase::Created;
            (kept.pump, kept.peers, kept.streams.recorder, kept.view) = (None, None, None, None);
        }
        self.take_down(tree, None);
        error
    }

    /// Where it is told of the programs that a container sees. Only a sandbox that containers share has memory for it, and
    /// a container that has a `/proc` of its own keeps that.
    pub(super) fn view(&self, id: &str, grants: &Grants) -> Option<PathBuf> {
        let has = grants.binds.iter().any(|bind| bind.destination == Path::new("/proc"));
        let proc = grants.proc.as_ref().filter(|_| self.0.shared && !has)?;
        Some(rootfs::view::place(&self.0.trees, id, proc))
    }

    /// Mounts the tables of sockets, which all containers that are told of anything see.
    fn tables(&self) -> Result<(), SandboxError> {
        let mut mounted = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !*mounted {
            rootfs::view::mount_tables(&self.0.trees)?;
            *mounted = true;
        }
        Ok(())
    }

    /// Mounts the tree of the sandbox's `n`th container, and puts together what is sent over.
    fn prepare(&self, entry: &Entry, n: usize, outputs: Outputs) -> Result<Handed, SandboxError> {
        let rootless = self.0.rootless.ok_or(SandboxError::NoRoom)?;
        let reserved = reserve(&entry.grants, entry.code.description.opens())?;
        let tree = mount_place(&self.0.trees, n)?;
        let view = self.view(&entry.id, &entry.grants);
        let preopen = match &view {
            Some(view) => {
                self.tables()?;
                rootfs::view::make(view)?;
                let mut grants = entry.grants.clone();
                grants.binds.extend(rootfs::view::binds(&self.0.trees, view));
                rootfs::assemble(&grants, &entry.bundle, &tree, rootless)?
            }
            None => rootfs::assemble(&entry.grants, &entry.bundle, &tree, rootless)?,
        };
        let preopens = vec![preopen];
        let (output, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make the output pipe"))?;
        let spec = entry.grants.to_spec().map_err(|e| system("describe the container")(std::io::Error::other(e)))?;
        let terminal = entry.grants.terminal.then(Terminal::open).transpose().map_err(system("make a terminal"))?;
        let order = Order::Run(Box::new(RunOrder {
            id: entry.id.clone(),
            digest: entry.code.digest.clone(),
            spec,
            preopens,
            description: entry.code.description.clone(),
            reserved: reserved.iter().map(Reservation::parts).collect(),
            view: view.clone(),
        }));
        let recorder = record(terminal.as_ref().map(|(ours, _)| ours), &writer)?;
        let to = log::To { attach: entry.attach.clone(), log: entry.log };
        let pump = pump(output, entry.bundle.clone(), to, outputs, self.0.shared)?;
        let peers = join(&entry.id, &entry.bundle, &entry.grants, entry.network.as_deref())?;
        let terminal = terminal.map(|(_, guest)| guest);
        Ok(Handed { order, output: writer, terminal, reserved, pump, peers, recorder, view })
    }
}

/// Writes down what is on a container's terminal, if it has one, as what it says by its output pipe.
pub(in crate::sandbox) fn record(
    terminal: Option<&Terminal>,
    output: &OwnedFd,
) -> Result<Option<Recorder>, SandboxError> {
    let record = |terminal: &Terminal| terminal.record(output.try_clone()?);
    terminal.map(record).transpose().map_err(system("start the terminal's thread"))
}

pub(super) fn pump(
    output: OwnedFd,
    bundle: PathBuf,
    to: log::To,
    outputs: Outputs,
    shared: bool,
) -> Result<Pump, SandboxError> {
    if shared {
        let flow = log::Flow::new(output, bundle, &to, outputs).map_err(system("watch the output pipe"))?;
        return Ok(Pump::Task(tokio::spawn(flow.go_on())));
    }
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 << 10)
        .spawn(move || log::pump(output, bundle, &to, outputs))
        .map(Pump::Thread)
        .map_err(system("start the log's thread"))
}
