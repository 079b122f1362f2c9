//! Sandboxes that several containers share: the keeper's part.
//!
//! Such a sandbox has a name, and `shared/<name>/` in the run directory, with its lock and its control socket. Whoever wants
//! to run a container in it asks at the socket; if nobody answers there, who gets the lock makes the sandbox. It ends
//! with the last of its containers.

use super::find::load;
use super::health::OnFailure;
use super::life::{attend_health, entry, exit_of, note_running, write_down};
use super::record::Ended;
use super::restart::{Policy, Tries};
use super::{Container, ContainerError, Inside, Result, id, run_place};
use crate::sandbox::{self, Attach, Keeper, Outputs, Snapshot, TREES, allow_many_files};
use crate::store::{Lock, Store, StoreError, files};
use std::convert::Infallible;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long a name may be: its socket's path has 108 bytes (unix(7)).
const LONGEST: usize = 40;
/// How long a new sandbox waits for its first container.
const EMPTY: Duration = Duration::from_secs(10);
/// How long the end of a container is remembered for those who wait for it.
const REMEMBERED: Duration = Duration::from_secs(2);
/// So long after the last start, what starting took is given back.
const SETTLED: Duration = Duration::from_millis(300);

/// Whether a container may share the sandbox of this name.
///
/// # Errors
/// When that is no name, or the container is to be started again by itself.
pub(super) fn check(name: &str, restart: Policy, on_failure: OnFailure) -> Result<()> {
    if !id::is_name(name) || name.len() > LONGEST {
        return Err(ContainerError::BadName { what: "sandbox", name: name.to_owned() });
    }
    let name = name.to_owned();
    match (restart, on_failure) {
        (Policy::No, OnFailure::Restart) => Err(ContainerError::SharedRestart(name, "--health-on-failure restart")),
        (Policy::No, _) => Ok(()),
        _ => Err(ContainerError::SharedRestart(name, "--restart")),
    }
}

fn place(store: &Store, name: &str) -> PathBuf {
    store.run_path().join("shared").join(name)
}

/// The control socket of the sandbox of this name, whether there is one or not.
#[must_use]
pub fn socket(store: &Store, name: &str) -> PathBuf {
    super::socket(&place(store, name))
}

/// Removes what a killed sandbox has left.
pub(super) fn sweep(store: &Store, name: &str) {
    if place(store, name).exists() {
        // As if it had been made and had ended.
        drop(Claim::take(store, name));
    }
}

/// The right to make the sandbox of a name: while it lives, nobody else makes it.
#[derive(Debug)]
pub struct Claim {
    name: String,
    place: PathBuf,
    given_up: AtomicBool,
    lock: Lock,
}

impl Claim {
    /// Takes the right; `None` when somebody has it.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub fn take(store: &Store, name: &str) -> Result<Option<Self>> {
        store.run_dir()?;
        let place = place(store, name);
        let path = place.join("lock");
        // Whoever had it may take the directory away at this moment: then the next try finds none.
        let taken = std::fs::create_dir_all(&place).is_ok().then(|| Lock::try_take(&path));
        match taken {
            Some(Ok(Some(lock))) if lock.is_of(&path) => {
                let _ = std::fs::remove_file(super::socket(&place));
                Ok(Some(Self { name: name.to_owned(), place, given_up: AtomicBool::new(false), lock }))
            }
            Some(Err(error)) if !error.is_not_found() => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// The descriptor of its lock, which a child needs that makes the sandbox.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.lock.descriptor()
    }

    /// Makes the sandbox where it is to be, with no container in it yet.
    ///
    /// To be called while this process has one thread: it forks.
    ///
    /// # Errors
    /// When the sandbox cannot be made.
    pub fn make(self, store: &Store, inside: &Inside) -> Result<Shared> {
        // Each container has a lock, a pipe and more.
        allow_many_files();
        let keeper = sandbox::launch_shared(&self.place, &store.run_dir()?.join(TREES), inside)?;
        let members = watch::Sender::new(Members::default());
        Ok(Shared(Arc::new(Inner { store: store.clone(), claim: self, keeper, members })))
    }

    /// Leaves the right to a child that has it too.
    pub fn leave_to_child(self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Takes the directory away, once: from then on another may be there.
    fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::SeqCst) {
            let _ = files::remove_tree(&self.place);
            // If this was the last.
            let _ = self.place.parent().map(std::fs::remove_dir);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A sandbox that containers share, on its keeper's side. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    claim: Claim,
    keeper: Keeper,
    members: watch::Sender<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// How many containers there are, those on their way in and out too.
    count: usize,
    /// How many there have been.
    ever: usize,
    /// Nobody may come any more.
    closed: bool,
}

/// A container's place in the sandbox, which lives as long as somebody has one.
#[derive(Debug)]
struct Member(Shared);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.0.members.send_modify(|members| members.count -= 1);
    }
}

/// The streams of whoever starts a container and looks on.
#[derive(Debug, Default)]
pub struct Streams {
    /// Its standard input is what is read here.
    pub input: Option<OwnedFd>,
    /// Where its standard output goes besides the log.
    pub output: Option<OwnedFd>,
    /// Where its standard error goes.
    pub errors: Option<OwnedFd>,
    /// Whether somebody will ask for its end: until then the sandbox remembers it, within reason.
    pub attached: bool,
}

/// What became of a container that was to join.
#[derive(Debug)]
pub enum Joined {
    /// Its first instruction was next.
    Started,
    /// It did not start.
    Failed {
        /// The exit code that stands for it.
        code: u8,
        /// Why.
        message: String,
    },
    /// The sandbox is about to end: a new one can be made in a moment.
    Closed,
}

impl Joined {
    fn failed(error: &ContainerError) -> Self {
        Self::Failed { code: error.exit_code(), message: error.to_string() }
    }
}

impl Shared {
    /// The sandbox.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.0.keeper
    }

    /// Where its control socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        super::socket(&self.0.claim.place)
    }

    /// Takes away what the sandbox has in the run directory; to be called when it has ended.
    pub fn clear(&self) {
        self.0.claim.give_up();
    }

    /// Runs a container of the store in this sandbox, and returns when its first instruction was next. The rest of its life
    /// goes on by itself.
    ///
    /// To be called in a runtime.
    pub async fn join(&self, id: &str, streams: Streams) -> Joined {
        let may = self.0.members.send_if_modified(|members| {
            let may = !members.closed;
            members.count += usize::from(may);
            members.ever += usize::from(may);
            may
        });
        if !may {
            return Joined::Closed;
        }
        let member = Member(self.clone());
        let (this, its_id) = (self.clone(), id.to_owned());
        // Its program may have to be compiled, and that takes a while.
        let begun = tokio::task::spawn_blocking(move || this.begin(&its_id, streams));
        let begun = begun.await.map_err(|e| StoreError::io("start", id)(std::io::Error::other(e)).into());
        let begun = match begun.flatten() {
            Ok(begun) => begun,
            Err(error) => return Joined::failed(&error),
        };
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let mut tell = Some(tell);
            if let Err(error) = live(&member.0, begun, &mut tell).await {
                answer(&mut tell, Joined::failed(&error));
            }
            drop(member);
        });
        told.await.unwrap_or(Joined::Closed)
    }

    /// Takes the container's lock, and hands it to the sandbox.
    fn begin(&self, id: &str, streams: Streams) -> Result<Begun> {
        let Inner { store, claim, keeper, .. } = &*self.0;
        let not_found = || ContainerError::NotFound(id.to_owned());
        if id.len() != 64 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let dir = store.containers().join(id);
        let container = load(&dir).map_err(|_| not_found())?;
        if container.record.sandbox.as_ref() != Some(&claim.name) {
            return Err(not_found());
        }
        let lock = Lock::try_take(&dir.join("lock"))?.ok_or_else(|| ContainerError::Running {
            id: id.to_owned(),
            hint: "it cannot be started again before it has ended",
        })?;
        let Streams { input: typed, output, errors, attached } = streams;
        let outputs = Outputs::default();
        outputs.add(output, errors).map_err(StoreError::io("attach to", &dir))?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let pipe = container.record.open_stdin.then(pipe).transpose();
        let (input, held) = pipe.map_err(|e| StoreError::io("make a pipe for", &dir)(e.into()))?.unzip();
        let grants = container.grants()?;
        keeper.create(entry(store, &container, grants, Attach::Viewers(outputs), input)?, true)?;
        if let Err(error) = keeper.start(id) {
            let _ = keeper.delete(id);
            return Err(error.into());
        }
        if let Some(held) = held {
            keeper.hold_input(id, held);
        }
        Ok(Begun { container, lock, typed, attached })
    }

    /// Watches over the sandbox until its last container has ended, and the sandbox with it.
    ///
    /// # Errors
    /// When the host cannot be watched.
    pub async fn keep(&self) -> std::io::Result<()> {
        let Inner { keeper, members, .. } = &*self.0;
        let mut attended = std::pin::pin!(keeper.attend());
        let watched = tokio::select! {
            watched = &mut attended => {
                // Without its host nobody can come, and those who are here have ended.
                members.send_modify(|members| members.closed = true);
                let _ = members.subscribe().wait_for(|members| members.count == 0).await;
                return watched;
            }
            () = self.empty() => Ok(()),
            () = self.settle_down() => Ok(()),
        };
        keeper.kill_host();
        let _ = attended.await;
        watched
    }

    /// Waits until there is no container, and then closes.
    async fn empty(&self) {
        let members = &self.0.members;
        let mut changes = members.subscribe();
        loop {
            let first = async { changes.wait_for(|members| members.ever > 0).await.is_ok() };
            if tokio::time::timeout(EMPTY, first).await.is_ok() {
                let _ = changes.wait_for(|members| members.count == 0).await;
            }
            let close = |members: &mut Members| {
                let empty = members.count == 0;
                members.closed |= empty;
                empty
            };
            if members.send_if_modified(close) {
                return;
            }
        }
    }

    /// Gives back what starting took, each time that nobody has come for a while; never over.
    async fn settle_down(&self) {
        let mut changes = self.0.members.subscribe();
        let (mut seen, mut rested) = (0, 0);
        loop {
            let mut coming =
                async || changes.wait_for(|members| members.ever != seen).await.map(|members| members.ever);
            let more = match tokio::time::timeout(SETTLED, coming()).await {
                Ok(more) => more,
                Err(_) => {
                    if rested != seen {
                        self.0.keeper.rest();
                        rested = seen;
                    }
                    coming().await
                }
            };
            match more {
                Ok(more) => seen = more,
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// A container that the sandbox has.
struct Begun {
    container: Container,
    lock: Lock,
    typed: Option<OwnedFd>,
    attached: bool,
}

fn answer(tell: &mut Option<oneshot::Sender<Joined>>, joined: Joined) {
    if let Some(tell) = tell.take() {
        // Who has asked may be gone; the container goes on.
        let _ = tell.send(joined);
    }
}

/// From the start of a container to its end, which is written down.
async fn live(shared: &Shared, begun: Begun, tell: &mut Option<oneshot::Sender<Joined>>) -> Result<()> {
    let Inner { store, keeper, .. } = &*shared.0;
    let Begun { container, lock, typed, attached } = begun;
    let id = container.record.id.clone();
    let place = run_place(store, &id);
    let snapshot = keeper.started(&id).await?;
    let noted = note_running(store, &container, keeper, &snapshot, Tries::default());
    if noted.is_err() {
        // A container that nobody can find is worse than none.
        let _ = keeper.kill(&id);
    } else if snapshot.started.is_some() {
        if let Some(typed) = typed {
            let _ = keeper.attach(&id, Some(typed), true, None, None);
        }
        answer(tell, Joined::Started);
    }
    let ended = wait(store, keeper, &container, &place).await?;
    let exit = exit_of(&ended);
    let written = Ended { started: ended.started, fences: keeper.fences(), asked: ended.asked, ..Ended::of(&exit) };
    if ended.started.is_some() {
        container.tell(store, "die", [("exitCode", exit.code.to_string())]);
    }
    let written = write_down(store, &container, &place, &written);
    drop(lock);
    keeper.settle(&id);
    match exit.message.clone().filter(|_| exit.code == 126) {
        _ if noted.is_err() => {}
        Some(message) => answer(tell, Joined::Failed { code: exit.code, message }),
        None => answer(tell, Joined::Started),
    }
    if attached {
        let _ = tokio::time::timeout(REMEMBERED, keeper.heard(&id)).await;
    }
    let keeper = keeper.clone();
    tokio::spawn(async move {
        tokio::time::sleep(REMEMBERED).await;
        keeper.forget(&id, exit.at);
    });
    noted.and(written)
}

/// Waits for the container's end, and looks after its health.
async fn wait(store: &Store, keeper: &Keeper, container: &Container, place: &Path) -> Result<Snapshot> {
    let waiting = keeper.wait(&container.record.id);
    let health = async {
        attend_health(store, keeper, container, place).await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        ended = waiting => Ok(ended?),
        never = health => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_what_goes_with_it() {
        assert!(check("web-1", Policy::No, OnFailure::None).is_ok());
        for bad in ["", "-x", "a/b", "..", &"x".repeat(LONGEST + 1)] {
            assert!(check(bad, Policy::No, OnFailure::None).is_err(), "{bad}");
        }
        let refused = check("web", Policy::Always, OnFailure::None).unwrap_err().to_string();
        assert!(refused.contains("--sandbox web and --restart"), "{refused}");
        assert!(check("web", Policy::No, OnFailure::Restart).is_err());
    }

    #[test]
    fn one_at_a_time_may_make_a_sandbox_and_nothing_is_left_of_it() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let claim = Claim::take(&store, "web").unwrap().unwrap();
        assert!(Claim::take(&store, "web").unwrap().is_none());
        let other = Claim::take(&store, "db").unwrap().unwrap();
        drop(claim);
        drop(Claim::take(&store, "web").unwrap().unwrap());
        drop(other);
        assert!(!dir.join("run/shared").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
