//! Running a service: the sandbox's own HTTP server calls the guest, and an idle service holds no instance.
//!
//! The crate wasmtime-wasi-http brings the part that is hard to get right, the life of instances
//! ([`ProxyHandler`]): a fresh one for each request of a WASI 0.2 guest, so that no state leaks between requests; for
//! 0.3 one takes several requests at a time, as the component model allows.

use super::command::ending_of;
use super::engine::POOL;
use super::state::{ComponentState, Surroundings};
use super::stdio::Channel;
use super::{Control, Ending, Interrupted, KILLED, Kind, Mapped, Program, Stop, linker};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

/// How many requests one instance of a WASI 0.3 guest may have in hand, and answer in its life.
const SHARED: (usize, usize) = (16, 128);
/// How long an instance without requests is kept.
const IDLE: Duration = Duration::from_secs(1);
/// How often guests that compute are asked to let others go on.
const TICK: Duration = Duration::from_millis(10);
/// Threads that answer requests.
const WORKERS: usize = 2;

/// Serves `listeners` until the service is stopped.
#[must_use]
pub fn run(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Vec<TcpListener>,
    started: impl FnOnce(),
) -> Ending {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_stack_size(512 << 10)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return Ending { code: 126, message: Some(format!("cannot set up the sandbox: {e}")) },
    };
    control.watch(&program.engine);
    let ending = runtime.block_on(serve(program, surroundings, control, listeners, started));
    runtime.shutdown_background();
    ending.unwrap_or_else(|error| ending_of(&error, control))
}

async fn serve(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Vec<TcpListener>,
    started: impl FnOnce(),
) -> wasmtime::Result<Ending> {
    let handler = ProxyHandler::new(Service {
        guest: prepare(program)?,
        engine: program.engine.clone(),
        shares: program.kind() == Kind::Http3,
        surroundings: Arc::clone(surroundings),
        control: control.clone(),
        ticker: Arc::new(Ticker::start(program.engine.clone())?),
        room: Arc::new(Semaphore::new(POOL as usize)),
    });
    let connections = Arc::new(GracefulShutdown::new());
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        doors.spawn(accept(listener, handler.clone(), Arc::clone(&connections), control.clone()));
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
        () = drained => Ok(Ending { code: 0, message: None }),
        () = control.wait(Stop::AtOnce) => Ok(Ending { code: KILLED, message: None }),
    }
}

fn prepare(program: &Program) -> wasmtime::Result<ProxyPre<ComponentState>> {
    let Mapped::Component(component) = &program.code else {
        wasmtime::bail!("a service is a component");
    };
    let guest = linker::component(&program.engine, &program.description)?.instantiate_pre(component)?;
    Ok(match program.kind() {
        Kind::Http3 => ProxyPre::P3(wasmtime_wasi_http::p3::bindings::ServicePre::new(guest)?),
        _ => ProxyPre::P2(wasmtime_wasi_http::p2::bindings::ProxyPre::new(guest)?),
    })
}

async fn accept(
    listener: tokio::net::TcpListener,
    handler: ProxyHandler<Service>,
    connections: Arc<GracefulShutdown>,
    control: Control,
) {
    loop {
        let stream = tokio::select! {
            () = control.wait(Stop::Gently) => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, say: there is nothing to do but to let others end.
                Err(_) => { tokio::time::sleep(TICK).await; continue }
            },
        };
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        let service = hyper::service::service_fn(move |request| answer(handler.clone(), request));
        let connection = auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

/// One request: the guest's answer, or 500 and a line for people.
async fn answer(
    handler: ProxyHandler<Service>,
    request: hyper::Request<Incoming>,
) -> Result<Response<WasiBody>, Infallible> {
    let service = handler.state();
    let what = format!("{} {}", request.method(), request.uri());
    let request = request.map(|body| body.map_err(wasmtime_wasi_http::Error::from).boxed_unsync());
    match handler.handle((), request).await {
        Ok(response) => Ok(response),
        Err(error) => {
            let words = ending_of(&error, &service.control).message.unwrap_or_else(|| format!("{error:#}"));
            let line = format!("{what}: {words}\n");
            let _ = service.surroundings.output.write(Channel::Stderr, line.as_bytes());
            let body = Full::new(Bytes::from_static(b"500 Internal Server Error\n")).map_err(|e| match e {});
            let mut response = Response::new(body.boxed_unsync());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        }
    }
}

struct Service {
    guest: ProxyPre<ComponentState>,
    engine: Engine,
    shares: bool,
    surroundings: Arc<Surroundings>,
    control: Control,
    ticker: Arc<Ticker>,
    room: Arc<Semaphore>,
}

impl HandlerState for Service {
    type StoreData = ComponentState;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<ComponentState, Expiration, Worker>> {
        // The pool has so many places; who comes later waits for one.
        let room = Arc::clone(&self.room).acquire_owned().await?;
        let running = Running::new(&self.ticker);
        let mut store = Store::new(&self.engine, self.surroundings.component_state(false)?);
        let control = self.control.clone();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| match control.asked() {
            Stop::AtOnce => Err(Interrupted.into()),
            _ => Ok(UpdateDeadline::Yield(1)),
        });
        let proxy = self.guest.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            view: ComponentState::http,
            expiration: Expiration { sleep: Box::pin(tokio::time::sleep(IDLE)) },
            state: Worker {
                limits: if self.shares { SHARED } else { (1, 1) },
                surroundings: Arc::clone(&self.surroundings),
                control: self.control.clone(),
                _running: running,
                _room: room,
            },
        })
    }
}

/// When an instance is no longer wanted: after a while without requests.
struct Expiration {
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, since: Instant) -> Poll<()> {
        if status != WorkerStatus::Idle {
            return Poll::Pending;
        }
        let deadline = tokio::time::Instant::from_std(since + IDLE);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

struct Worker {
    limits: (usize, usize),
    surroundings: Arc<Surroundings>,
    control: Control,
    _running: Running,
    _room: OwnedSemaphorePermit,
}

impl WorkerState for Worker {
    type StoreData = ComponentState;
    type RequestData = ();

    fn should_accept_request(&self, in_hand: usize, so_far: usize) -> ShouldAccept {
        if so_far >= self.limits.1 {
            ShouldAccept::Never
        } else if in_hand >= self.limits.0 {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, ComponentState>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<ComponentState>, ended: wasmtime::Result<()>) {
        drop(store);
        if let Err(error) = ended
            && let Some(words) = ending_of(&error, &self.control).message
        {
            let _ = self.surroundings.output.write(Channel::Stderr, format!("{words}\n").as_bytes());
        }
    }
}

/// Moves the epoch on while there are instances, so that one that computes does not keep the thread from the others.
struct Ticker {
    running: Arc<AtomicUsize>,
    thread: Thread,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let running = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&running);
        let thread = std::thread::Builder::new().name("ticker".into()).stack_size(64 << 10).spawn(move || {
            loop {
                if count.load(Ordering::SeqCst) == 0 {
                    // Nothing runs: no wake-ups until something does.
                    std::thread::park();
                } else {
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                }
            }
        })?;
        Ok(Self { running, thread: thread.thread().clone() })
    }
}

/// Counts one instance for as long as it lives.
struct Running(Arc<Ticker>);

impl Running {
    fn new(ticker: &Arc<Ticker>) -> Self {
        if ticker.running.fetch_add(1, Ordering::SeqCst) == 0 {
            ticker.thread.unpark();
        }
        Self(Arc::clone(ticker))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
