//! Running a service: the sandbox's own HTTP server calls the guest, and an idle service holds no instance.
//!
//! connection → request → an instance → answer. A guest of WASI 0.2 runs in the task of its request's connection
//! (`answer`, `instances`); those of 0.3, one instance of which answers several requests at a time, have tasks of
//! their own (`shared`). Where containers share a sandbox, their services share a runtime (`hall`, `tasks`).

mod access;
mod answer;
mod body;
mod connections;
pub mod figures;
mod hall;
mod instances;
mod shared;
mod tasks;
mod ticker;

pub use hall::Hall;
pub(crate) use hall::run as run_in_hall;
pub(super) use ticker::Ticker;

use super::command::ending_of;
use super::state::Surroundings;
use super::stdio::Channel;
use super::{Control, Ending, KILLED, Kind, Program, Stop};
use crate::grants::Http;
use figures::Figures;
use hyper_util::server::graceful::GracefulShutdown;
use instances::Instances;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tasks::Tasks;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::handler::{ProxyHandler, ProxyPre};
use wasmtime_wasi_http::{p2, p3};

/// How long a request waits for one of the instances that there may be.
const QUEUE: Duration = Duration::from_secs(5);
/// How many requests one instance of WASI 0.3 answers, unless it is said.
const REUSE_3: u32 = 128;
/// The most threads that answer requests; there are as many as processors.
const WORKERS: usize = 16;
/// How often the same thing is said.
const SAID: Duration = Duration::from_secs(1);

/// All instances that there may be are busy.
#[derive(Debug, thiserror::Error)]
#[error("all instances are busy")]
struct Crowded;

/// Places for the instances of a service.
#[derive(Debug, Clone)]
struct Room {
    own: Arc<Semaphore>,
    /// Those in a pool that it shares with others.
    pool: Option<Arc<Semaphore>>,
}

/// A place for one instance.
#[derive(Debug)]
struct Place {
    _own: OwnedSemaphorePermit,
    pool: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// A place for an instance; who comes when there is none waits a while in a queue.
    async fn place(&self) -> Result<Place, Crowded> {
        let own = permit(&self.own).await?;
        let pool = match &self.pool {
            Some(pool) => Some(permit(pool).await?),
            None => None,
        };
        Ok(Place { _own: own, pool })
    }
}

async fn permit(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Crowded> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Ok(place);
    }
    let wait = tokio::time::timeout(QUEUE, Arc::clone(places).acquire_owned());
    wait.await.ok().and_then(Result::ok).ok_or(Crowded)
}

/// The threads that services are answered by.
fn threads() -> tokio::runtime::Builder {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(workers).thread_stack_size(512 << 10).enable_all();
    threads
}

/// Serves `listeners` until the service is stopped.
#[must_use]
pub fn run(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Vec<TcpListener>,
    started: impl FnOnce(),
) -> Ending {
    let cpu = surroundings.account.cpu();
    cpu.enter();
    let (enter, leave) = (Arc::clone(cpu), Arc::clone(cpu));
    let threads = &mut threads();
    let runtime = match threads.on_thread_start(move || enter.enter()).on_thread_stop(move || leave.leave()).build() {
        Ok(runtime) => runtime,
        Err(e) => return Ending::told(126, format!("cannot set up the sandbox: {e}")),
    };
    control.watch(&program.engine);
    let alone = (Tasks::alone(), None);
    let ending = runtime.block_on(serve(program, surroundings, control, listeners, alone, started));
    runtime.shutdown_background();
    ending.unwrap_or_else(|error| ending_of(&error, control))
}

async fn serve(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Vec<TcpListener>,
    (tasks, places): (Tasks, Option<Arc<Semaphore>>),
    started: impl FnOnce(),
) -> wasmtime::Result<Ending> {
    let service = Arc::new(Service::new(program, surroundings, control, tasks.clone(), places)?);
    let server = Arc::new(connections::server(tasks));
    let connections = Arc::new(GracefulShutdown::new());
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (service, server) = (Arc::clone(&service), Arc::clone(&server));
        doors.spawn(connections::accept(listener, service, server, Arc::clone(&connections)));
    }
    started();
    control.wait(Stop::Gently).await;
    // Each door holds the connections' shutdown; when all are closed it is ours to use.
    while doors.join_next().await.is_some() {}
    let drained = async {
        if let Some(connections) = Arc::into_inner(connections) {
            connections.shutdown().await;
        }
    };
    tokio::select! {
        () = drained => Ok(Ending::code(0)),
        () = control.wait(Stop::AtOnce) => Ok(Ending::code(KILLED)),
    }
}

/// How the guest is called.
enum Way {
    /// An instance has one request at a time.
    Fresh(Arc<Instances>),
    /// An instance has several.
    Shared(shared::Handler),
}

/// One service.
struct Service {
    way: Way,
    /// Places for instances.
    room: Room,
    tasks: Tasks,
    /// Places for connections.
    places: Arc<Semaphore>,
    surroundings: Arc<Surroundings>,
    control: Control,
    figures: Arc<Figures>,
    /// What was said last, when, and how often since.
    said: Mutex<Option<(String, Instant, u32)>>,
}

impl Service {
    fn new(
        program: &Program,
        surroundings: &Arc<Surroundings>,
        control: &Control,
        tasks: Tasks,
        places: Option<Arc<Semaphore>>,
    ) -> wasmtime::Result<Self> {
        let guest = program.linked(&surroundings.grants.limits)?;
        let figures = Arc::new(Figures::default());
        control.count(&figures);
        let ticker = program.ticker()?;
        let http = &surroundings.grants.http;
        let room = Room { own: Arc::new(Semaphore::new(http.max_instances as usize)), pool: program.pool() };
        let (surroundings, control) = (Arc::clone(surroundings), control.clone());
        let way = if program.kind() == Kind::Http3 {
            Way::Shared(ProxyHandler::new(shared::Shared {
                pre: ProxyPre::P3(p3::bindings::ServicePre::new(guest)?),
                engine: program.engine.clone(),
                surroundings: Arc::clone(&surroundings),
                control: control.clone(),
                ticker,
                figures: Arc::clone(&figures),
                room: room.clone(),
                reuse: http.reuse.unwrap_or(REUSE_3) as usize,
                timeout: http.timeout,
            }))
        } else {
            Way::Fresh(Arc::new(Instances {
                pre: p2::bindings::ProxyPre::new(guest)?,
                surroundings: Arc::clone(&surroundings),
                control: control.clone(),
                ticker,
                figures: Arc::clone(&figures),
                reuse: http.reuse.unwrap_or(1),
                kept: instances::Kept::default(),
            }))
        };
        let places = places
            .unwrap_or_else(|| Arc::new(Semaphore::new(connections::places(surroundings.grants.http.max_instances))));
        Ok(Self { way, room, tasks, places, surroundings, control, figures, said: Mutex::new(None) })
    }

    fn settings(&self) -> &Http {
        &self.surroundings.grants.http
    }

    /// Says something of the service in its diagnostics; what comes in floods once a second.
    fn say(&self, words: std::fmt::Arguments<'_>) {
        let words = words.to_string();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = words.clone();
        match &mut *said {
            Some((last, at, more)) if *last == words && at.elapsed() < SAID => {
                *more += 1;
                return;
            }
            Some((last, _, more)) if *more > 0 => line = format!("{last} ({more} more times)\n{words}"),
            _ => {}
        }
        *said = Some((words, Instant::now(), 0));
        drop(said);
        line.push('\n');
        let _ = self.surroundings.output.write(Channel::Diagnostic, line.as_bytes());
    }
}
