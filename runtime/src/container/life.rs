//! A container's run, from the lock to the record of its end: the keeper's part.

use super::create::{Unwritten, give_up_room};
use super::health::{self, OnFailure};
use super::record::{Ended, Record, Running, STARTED};
use super::restart::{Again, Tries};
use super::{Container, ContainerError, Result, program, remove, run_place, set_variable, shared};
use crate::grants::Grants;
use crate::guest::code::{self, CodeError};
use crate::rootfs;
use crate::sandbox::{self, Attach, Entry, Exit, Keeper, Phase, Snapshot};
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The right to run a container: while it lives nobody else can run or remove it.
#[derive(Debug)]
pub struct Lease {
    container: Container,
    lock: Lock,
    unwritten: Option<Unwritten>,
    tries: Tries,
}

/// A container whose sandbox is up.
#[derive(Debug)]
pub struct Run {
    container: Container,
    lock: Lock,
    unwritten: Option<Unwritten>,
    tries: Tries,
    place: PathBuf,
    keeper: Keeper,
    /// Whether it is to be started again because it was found unhealthy.
    unhealthy: Cell<bool>,
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
        Self { container, lock, unwritten, tries: Tries::default() }
    }

    /// The right to run it once more, of who had it all the time.
    pub(super) fn again(container: Container, lock: Lock, tries: Tries) -> Self {
        Self { container, lock, unwritten: None, tries }
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
            Some(lock) => Ok(Self::new(container, lock, None)),
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
        let (place, keeper) = self.launch(store, attach, input)?;
        Ok(self.running(place, keeper))
    }

    fn running(self, place: PathBuf, keeper: Keeper) -> Run {
        let Self { container, lock, unwritten, tries } = self;
        Run { container, lock, unwritten, tries, place, keeper, unhealthy: Cell::new(false) }
    }

    /// The same for a restart, where a start that fails is one more end of the container.
    ///
    /// # Errors
    /// When that end cannot be written down.
    pub fn start_again(
        self,
        store: &Store,
        attach: Attach,
        input: Option<OwnedFd>,
    ) -> Result<std::result::Result<Run, Over>> {
        let error = match self.launch(store, attach, input) {
            Ok((place, keeper)) => return Ok(Ok(self.running(place, keeper))),
            Err(error) => error,
        };
        let Self { container, lock, tries, .. } = self;
        let exit = Exit {
            code: error.exit_code(),
            out_of_memory: false,
            at: jiff::Timestamp::now(),
            message: Some(error.to_string()),
        };
        let ended = Ended { restarts: tries.count, ..Ended::of(&exit) };
        write_down(store, &container, &run_place(store, &container.record.id), &ended)?;
        let wanted = policy(&container).starts_again(exit.code, tries.count);
        let again = wanted.then(|| Again::prepare(store, container, lock, tries, &ended)).transpose()?;
        Ok(Err(Over { exit, again }))
    }

    fn launch(&self, store: &Store, attach: Attach, input: Option<OwnedFd>) -> Result<(PathBuf, Keeper)> {
        let grants = match &self.unwritten {
            Some(unwritten) => unwritten.grants.clone(),
            None => self.container.grants()?,
        };
        let entry = entry(store, &self.container, grants, attach, input)?;
        store.run_dir()?;
        let place = run_place(store, &entry.id);
        let keeper = sandbox::launch(&place, entry)?;
        Ok((place, keeper))
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }
}

/// Puts together what a sandbox needs of a container, compiling its program if this is its first start here.
pub(super) fn entry(
    store: &Store,
    container: &Container,
    mut grants: Grants,
    attach: Attach,
    input: Option<OwnedFd>,
) -> Result<Entry> {
    let (program, args) = program::locate_program(&container.dir, &grants)?;
    grants.args = args.unwrap_or(grants.args);
    for variable in rootfs::secrets::variables(&grants.secrets)? {
        set_variable(&mut grants.env, variable);
    }
    let code = code::prepare(store, &program).map_err(|error| in_the_users_words(container, error))?;
    let id = container.record.id.clone();
    let programs = grants.spawn.then(|| store.clone());
    let network = grants.member.as_ref().map(|member| store.network_members(&member.network));
    let (bundle, log) = (container.dir.clone(), container.record.log);
    Ok(Entry { id, bundle, grants, code, store: programs, network, input, attach, log })
}

/// An error of compiling names the program as its user knows it, not where the store has it.
fn in_the_users_words(container: &Container, error: CodeError) -> CodeError {
    match error {
        CodeError::Compile { source, .. } => {
            let record = &container.record;
            let program =
                if record.image_id.is_empty() { Some(record.image.clone()) } else { record.args().into_iter().next() };
            CodeError::Compile { path: program.unwrap_or_default().into(), source }
        }
        other => other,
    }
}

/// How a run is over.
#[derive(Debug)]
pub struct Over {
    /// The guest's end.
    pub exit: Exit,
    /// What is to be done now, if the container is to be started again.
    pub again: Option<Again>,
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
    pub fn keep<F: Front>(mut self, store: &Store, front: &mut F) -> Result<Over> {
        if !F::PATIENCE.is_zero() {
            let early = self.keeper.attend_early(&self.container.record.id, Some(F::PATIENCE))?;
            match (early.phase.clone(), &self.unwritten) {
                (Phase::Ended(exit), None) => return self.end(store, front, &early, exit),
                (Phase::Ended(exit), Some(_)) => {
                    let written = remove::take_away_unwritten(&self.container.dir);
                    drop(self.lock);
                    front.ended(&exit, written);
                    return Ok(Over { exit, again: None });
                }
                (_, Some(unwritten)) => {
                    let written = unwritten.write_down(store, &mut self.container);
                    written.inspect_err(|_| self.keeper.kill_host())?;
                }
                (_, None) => {}
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StoreError::io("watch", &self.place))?;
        let over = runtime.block_on(async {
            let keeper = self.keeper.clone();
            let attend = async {
                let _ = keeper.attend().await;
            };
            let life = async {
                let (snapshot, exit) = live(&self, store, front).await?;
                let over = self.end(store, front, &snapshot, exit);
                front.close().await;
                over
            };
            tokio::pin!(attend, life);
            // The host's reports are taken as long as the container lives, and its life decides when that is over.
            let mut attending = true;
            loop {
                tokio::select! {
                    over = &mut life => return over,
                    () = &mut attend, if attending => attending = false,
                }
            }
        });
        runtime.shutdown_background();
        over
    }

    /// Writes the end down, lets go of the container unless it is to be started again, and tells those who wait.
    fn end<F: Front>(self, store: &Store, front: &mut F, last: &Snapshot, exit: Exit) -> Result<Over> {
        let Self { container, lock, tries, place, keeper, unhealthy, .. } = self;
        let id = container.record.id.clone();
        // What has been asked of a container that failed to start is not to start it again and again.
        let wanted = !last.asked && (last.started.is_some() || tries.count > 0);
        let wanted = wanted && (unhealthy.get() || policy(&container).starts_again(exit.code, tries.count));
        let ended = Ended {
            started: last.started,
            fences: keeper.fences(),
            asked: last.asked,
            restarts: tries.count,
            ..Ended::of(&exit)
        };
        if last.started.is_some() {
            container.tell(store, "die", [("exitCode", exit.code.to_string())]);
        }
        let written = write_down(store, &container, &place, &ended);
        let again = if wanted {
            Some(Again::prepare(store, container, lock, tries, &ended)?)
        } else {
            // Whoever hears of the end may start or remove the container at once.
            drop(lock);
            None
        };
        keeper.settle(&id);
        front.ended(&exit, written);
        Ok(Over { exit, again })
    }
}

/// The restart policy as it is now: `update` may have changed it meanwhile.
fn policy(container: &Container) -> super::restart::Policy {
    let now = files::read_json::<Record>(&container.dir.join("record.json"));
    now.map_or(container.record.restart, |record| record.restart)
}

/// From the start to the end of the guest.
async fn live<F: Front>(run: &Run, store: &Store, front: &mut F) -> Result<(Snapshot, Exit)> {
    let Run { container, place, keeper, tries, .. } = run;
    let id = &container.record.id;
    let snapshot = keeper.started(id).await?;
    note_running(store, container, keeper, &snapshot, *tries)?;
    let ended = if matches!(snapshot.phase, Phase::Ended(_)) {
        snapshot
    } else {
        let socket = super::socket(place);
        let serving = front.serve(keeper.clone(), &socket);
        let waiting = keeper.wait(id);
        let health = async {
            if attend_health(store, keeper, container, place).await {
                run.unhealthy.set(true);
                keeper.kill_host();
            }
        };
        let serving = async { tokio::join!(serving, health) };
        tokio::pin!(serving, waiting);
        tokio::select! {
            biased;
            ended = &mut waiting => ended?,
            _ = &mut serving => waiting.await?,
        }
    };
    if !container.record.published.is_empty() {
        // Whoever hears of the end may want the ports at once, and a host on its way out has them still.
        keeper.outlive_host().await;
    }
    let exit = exit_of(&ended);
    Ok((ended, exit))
}

/// How a container that is over has ended.
pub(super) fn exit_of(ended: &Snapshot) -> Exit {
    match &ended.phase {
        Phase::Ended(exit) => exit.clone(),
        _ => Exit { code: crate::guest::KILLED, out_of_memory: false, at: jiff::Timestamp::now(), message: None },
    }
}

/// Writes down that a container runs, if it does.
pub(super) fn note_running(
    store: &Store,
    container: &Container,
    keeper: &Keeper,
    snapshot: &Snapshot,
    tries: Tries,
) -> Result<()> {
    let (Some(started), Phase::Running) = (snapshot.started, &snapshot.phase) else { return Ok(()) };
    let running = Running {
        keeper: std::process::id(),
        host: keeper.host_pid(),
        started,
        ports: snapshot.ports.clone(),
        fences: keeper.fences(),
        program: snapshot.program.clone(),
        restarts: tries.count,
        tree: snapshot.tree,
        paused: false,
        health: None,
    };
    let place = run_place(store, &container.record.id);
    // What is there is of a run that was killed with its keeper.
    files::remove_tree(&place)?;
    std::fs::create_dir(&place).map_err(StoreError::io("create", &place))?;
    if let Some(name) = &container.record.sandbox {
        let link = super::socket(&place);
        std::os::unix::fs::symlink(shared::socket(store, name), &link).map_err(StoreError::io("create", &link))?;
    }
    files::write_json(&place.join("running.json"), &running, Durability::Buffered)?;
    if !container.record.auto_remove {
        // On a full disk it runs all the same.
        let _ = files::write_json(&container.dir.join(STARTED), &started, container.record.durability());
    }
    container.tell(store, "start", []);
    Ok(())
}

/// Checks the container's health, and does what is to be done when it is unhealthy; true when it is to be started again.
pub(super) async fn attend_health(store: &Store, keeper: &Keeper, container: &Container, place: &Path) -> bool {
    let (id, record) = (&container.record.id, &container.record);
    let Some(check) = &record.health else { return false };
    health::watch(store, keeper, container, check, place).await;
    match record.on_failure {
        OnFailure::None => {}
        OnFailure::Restart => return true,
        OnFailure::Kill => drop(keeper.kill(id)),
        OnFailure::Stop => {
            let _ = keeper.stop(id);
            tokio::time::sleep(Duration::from_secs(record.stop_timeout.into())).await;
            let _ = keeper.kill(id);
        }
    }
    false
}

pub(super) fn write_down(store: &Store, container: &Container, place: &Path, ended: &Ended) -> Result<()> {
    if container.record.auto_remove {
        return remove::take_away(store, container, true);
    }
    let durability = container.record.durability();
    let write = || files::write_json(&container.dir.join("ended.json"), ended, durability);
    write().or_else(|_| {
        // The guest may have filled the disk: that is what the room was kept for.
        give_up_room(&container.dir);
        write()
    })?;
    let _ = std::fs::remove_file(container.dir.join(STARTED));
    files::remove_tree(place)?;
    Ok(())
}
