//! A container's run, from the lock to the record of its end: the keeper's part.

use super::create::{Unwritten, give_up_room};
use super::record::{Ended, Running};
use super::{Container, ContainerError, Result, program, remove, run_place};
use crate::grants::Grants;
use crate::guest::code::{self, CodeError};
use crate::sandbox::{self, Attach, Entry, Exit, Keeper, Phase, Snapshot};
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The right to run a container: while it lives nobody else can run or remove it.
#[derive(Debug)]
pub struct Lease {
    container: Container,
    lock: Lock,
    unwritten: Option<Unwritten>,
}

/// A container whose sandbox is up.
#[derive(Debug)]
pub struct Run {
    container: Container,
    lock: Lock,
    unwritten: Option<Unwritten>,
    place: PathBuf,
    keeper: Keeper,
}

/// What a run asks of its front end.
pub trait Front {
    /// How long a container runs before it is written down as running and its socket opens. Most commands that
    /// somebody waits for are over by then.
    const PATIENCE: Duration;

    /// Serves the sandbox's control socket at this path until the container has ended, and tells who waits for the
    /// start. Not called when the guest never started.
    fn serve(&mut self, keeper: Keeper, socket: &Path) -> impl Future<Output = ()>;
    /// The container is over and written down (or not, and why): who asked for its end, or still waits for its start,
    /// gets an answer.
    fn ended(&mut self, exit: &Exit, written: Result<()>);
    /// Closes the control socket, when those who still wait on it have been answered.
    fn close(&mut self) -> impl Future<Output = ()>;
}

impl Lease {
    pub(super) fn new(container: Container, lock: Lock, unwritten: Option<Unwritten>) -> Self {
        Self { container, lock, unwritten }
    }

    /// Takes the right to run a container.
    ///
    /// # Errors
    /// When it runs, or starts or is removed right now.
    pub fn take(container: Container) -> Result<Self> {
        let path = container.dir.join("lock");
        let id = container.record.id.clone();
        if !container.dir.exists() {
            return Err(ContainerError::NotFound(id));
        }
        match Lock::try_take(&path)? {
            Some(lock) => Ok(Self { container, lock, unwritten: None }),
            None => Err(ContainerError::Running { id, hint: "it cannot be started again before it has ended" }),
        }
    }

    /// Reads the bundle, finds the program's code (compiling it if this is its first start here) and starts the
    /// sandbox.
    ///
    /// To be called while this process has one thread: it forks.
    ///
    /// # Errors
    /// When the program is missing or no guest, a port is in use, or the sandbox cannot be made.
    pub fn start(self, store: &Store, attach: Attach, input: Option<OwnedFd>) -> Result<Run> {
        let mut grants = match &self.unwritten {
            Some(unwritten) => unwritten.grants.clone(),
            None => Grants::from_spec(&files::read_json(&self.container.dir.join("config.json"))?)?,
        };
        let (program, args) = program::locate_program(&self.container.dir, &grants)?;
        grants.args = args.unwrap_or(grants.args);
        let code = code::prepare(store, &program).map_err(|error| self.in_the_users_words(error))?;
        let id = self.container.record.id.clone();
        store.run_dir()?;
        let place = run_place(store, &id);
        let programs = grants.spawn.then(|| store.clone());
        let network = grants.member.as_ref().map(|member| store.network_members(&member.network));
        let bundle = self.container.dir.clone();
        let entry = Entry { id, bundle, grants, code, store: programs, network, input, attach };
        let keeper = sandbox::launch(&place, entry)?;
        Ok(Run { container: self.container, lock: self.lock, unwritten: self.unwritten, place, keeper })
    }

    /// An error of compiling names the program as its user knows it, not where the store has it.
    fn in_the_users_words(&self, error: CodeError) -> CodeError {
        match error {
            CodeError::Compile { source, .. } => {
                let record = &self.container.record;
                let program = if record.image_id.is_empty() {
                    Some(record.image.clone())
                } else {
                    record.args().into_iter().next()
                };
                CodeError::Compile { path: program.unwrap_or_default().into(), source }
            }
            other => other,
        }
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }
}

impl Run {
    /// The sandbox.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Stays with the container until it has ended, and writes everything down.
    ///
    /// # Errors
    /// When the sandbox cannot be watched, or its end cannot be written down.
    pub fn keep<F: Front>(self, store: &Store, front: &mut F) -> Result<Exit> {
        let Self { mut container, lock, unwritten, place, keeper } = self;
        if !F::PATIENCE.is_zero() {
            let early = keeper.attend_early(&container.record.id, Some(F::PATIENCE))?;
            match (early.phase, &unwritten) {
                (Phase::Ended(exit), unwritten) => {
                    let written = match unwritten {
                        Some(_) => remove::take_away_unwritten(&container.dir),
                        None => write_down(store, &container, &place, &keeper, early.started, &exit),
                    };
                    drop(lock);
                    front.ended(&exit, written);
                    return Ok(exit);
                }
                (_, Some(unwritten)) => {
                    let written = unwritten.write_down(store, &mut container);
                    written.inspect_err(|_| keeper.kill_host())?;
                }
                (_, None) => {}
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StoreError::io("watch", &place))?;
        let exit = runtime.block_on(async {
            let attend = async {
                let _ = keeper.attend().await;
            };
            let life = async {
                let (snapshot, exit) = live(&container, &place, &keeper, front).await?;
                let written = write_down(store, &container, &place, &keeper, snapshot.started, &exit);
                // Whoever hears of the end may start or remove the container at once.
                drop(lock);
                keeper.settle(&container.record.id);
                front.ended(&exit, written);
                front.close().await;
                Ok(exit)
            };
            tokio::pin!(attend, life);
            // The host's reports are taken as long as the container lives, and its life decides when that is over.
            let mut attending = true;
            loop {
                tokio::select! {
                    exit = &mut life => return exit,
                    () = &mut attend, if attending => attending = false,
                }
            }
        });
        runtime.shutdown_background();
        exit
    }
}

/// From the start to the end of the guest.
async fn live<F: Front>(
    container: &Container,
    place: &Path,
    keeper: &Keeper,
    front: &mut F,
) -> Result<(Snapshot, Exit)> {
    let id = &container.record.id;
    let snapshot = keeper.started(id).await?;
    if let (Some(started), Phase::Running) = (snapshot.started, &snapshot.phase) {
        let running = Running {
            keeper: std::process::id(),
            host: keeper.host_pid(),
            started,
            ports: snapshot.ports.clone(),
            fences: keeper.fences(),
            program: snapshot.program.clone(),
        };
        // What is there is of a run that was killed with its keeper.
        files::remove_tree(place)?;
        std::fs::create_dir(place).map_err(StoreError::io("create", place))?;
        files::write_json(&place.join("running.json"), &running, Durability::Buffered)?;
    }
    let ended = if matches!(snapshot.phase, Phase::Ended(_)) {
        snapshot
    } else {
        let socket = place.join("sock");
        let serving = front.serve(keeper.clone(), &socket);
        let waiting = keeper.wait(id);
        tokio::pin!(serving, waiting);
        tokio::select! {
            biased;
            ended = &mut waiting => ended?,
            () = &mut serving => waiting.await?,
        }
    };
    let exit = match &ended.phase {
        Phase::Ended(exit) => exit.clone(),
        _ => Exit { code: crate::guest::KILLED, at: jiff::Timestamp::now(), message: None },
    };
    Ok((ended, exit))
}

fn write_down(
    store: &Store,
    container: &Container,
    place: &Path,
    keeper: &Keeper,
    started: Option<jiff::Timestamp>,
    exit: &Exit,
) -> Result<()> {
    if container.record.auto_remove {
        return remove::take_away(store, container, true);
    }
    let (code, finished) = (exit.code, exit.at);
    let ended = Ended { code, started, finished, error: exit.message.clone(), fences: keeper.fences() };
    let write = || files::write_json(&container.dir.join("ended.json"), &ended, Durability::Buffered);
    write().or_else(|_| {
        // The guest may have filled the disk: that is what the room was kept for.
        give_up_room(&container.dir);
        write()
    })?;
    files::remove_tree(place)?;
    Ok(())
}
