//! A container's run, from the lock to the record of its end: the keeper's part.

use super::record::{Ended, Running};
use super::{Container, ContainerError, Result, program, remove, run_place};
use crate::grants::Grants;
use crate::guest::code;
use crate::sandbox::{self, Attach, Entry, Exit, Keeper, Phase};
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The right to run a container: while it lives nobody else can run or remove it.
#[derive(Debug)]
pub struct Lease {
    container: Container,
    _lock: Lock,
}

/// A container whose sandbox is up.
#[derive(Debug)]
pub struct Run {
    lease: Lease,
    place: PathBuf,
    keeper: Keeper,
}

/// What a run asks of its front end.
pub trait Front {
    /// Serves the sandbox's control socket at this path until the container has ended, and tells who waits for the
    /// start. Not called when the guest never started.
    fn serve(&mut self, keeper: Keeper, socket: &Path) -> impl Future<Output = ()>;
    /// The container is over and written down: who asked for its end, or still waits for its start, gets an answer.
    fn ended(&mut self, exit: &Exit) -> impl Future<Output = ()>;
}

impl Lease {
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
            Some(lock) => Ok(Self { container, _lock: lock }),
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
        let spec = files::read_json(&self.container.dir.join("config.json"))?;
        let grants = Grants::from_spec(&spec)?;
        let program = program::locate_program(&self.container.dir, &grants)?;
        let code = code::prepare(store, &program)?;
        let id = self.container.record.id.clone();
        store.run_dir()?;
        let place = run_place(store, &id);
        files::remove_tree(&place)?;
        std::fs::create_dir(&place).map_err(StoreError::io("create", &place))?;
        let entry = Entry { id, bundle: self.container.dir.clone(), grants, code, input, attach };
        match sandbox::launch(&place, entry) {
            Ok(keeper) => Ok(Run { lease: self, place, keeper }),
            Err(error) => {
                let _ = files::remove_tree(&place);
                Err(error.into())
            }
        }
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }
}

impl Run {
    /// Stays with the container until it has ended, and writes everything down.
    ///
    /// # Errors
    /// When the sandbox cannot be watched, or its end cannot be written down.
    pub fn keep(self, store: &Store, front: &mut impl Front) -> Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StoreError::io("watch", &self.place))?;
        let exit = runtime.block_on(async {
            let attend = async {
                let _ = self.keeper.attend().await;
            };
            let life = self.live(store, front);
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

    async fn live(&self, store: &Store, front: &mut impl Front) -> Result<Exit> {
        let id = &self.lease.container.record.id;
        let socket = self.place.join("sock");
        let snapshot = self.keeper.started(id).await?;
        if let Some(started) = snapshot.started
            && snapshot.phase == Phase::Running
        {
            let running = Running {
                keeper: std::process::id(),
                host: self.keeper.host_pid(),
                started,
                ports: snapshot.ports.clone(),
                fences: self.keeper.fences(),
                program: snapshot.program.clone(),
            };
            files::write_json(&self.place.join("running.json"), &running, Durability::Buffered)?;
        }
        let ended = if matches!(snapshot.phase, Phase::Ended(_)) {
            snapshot
        } else {
            let keeper = self.keeper.clone();
            let serving = front.serve(self.keeper.clone(), &socket);
            tokio::pin!(serving);
            let waiting = keeper.wait(id);
            tokio::pin!(waiting);
            tokio::select! {
                biased;
                ended = &mut waiting => ended?,
                () = &mut serving => waiting.await?,
            }
        };
        let exit = match ended.phase {
            Phase::Ended(exit) => exit,
            _ => Exit { code: crate::guest::KILLED, at: jiff::Timestamp::now(), message: None },
        };
        self.write_down(store, ended.started, &exit)?;
        front.ended(&exit).await;
        Ok(exit)
    }

    fn write_down(&self, store: &Store, started: Option<jiff::Timestamp>, exit: &Exit) -> Result<()> {
        let container = &self.lease.container;
        if container.record.auto_remove {
            return remove::take_away(store, container, true);
        }
        let ended = Ended {
            code: exit.code,
            started,
            finished: exit.at,
            error: exit.message.clone(),
            fences: self.keeper.fences(),
        };
        files::write_json(&container.dir.join("ended.json"), &ended, Durability::Buffered)?;
        files::remove_tree(&self.place)?;
        Ok(())
    }
}
