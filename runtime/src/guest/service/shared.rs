//! Instances of WASI 0.3, which answer several requests at a time. Their life is the crate's ([`ProxyHandler`]).

use super::figures::{Figures, Gauge};
use super::instances::IDLE;
use super::ticker::{self, Running, Ticker};
use super::{Place, Room};
use crate::guest::command::ending_of;
use crate::guest::state::{ComponentState, Surroundings};
use crate::guest::stdio::Channel;
use crate::guest::{Control, account};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};

/// How many requests one instance may have in hand at a time.
const AT_A_TIME: usize = 16;

/// The handler of a service's requests.
pub(super) type Handler = ProxyHandler<Shared>;

/// Where instances come from.
pub(super) struct Shared {
    pub pre: ProxyPre<ComponentState>,
    pub engine: Engine,
    pub surroundings: Arc<Surroundings>,
    pub control: Control,
    pub ticker: Arc<Ticker>,
    pub figures: Arc<Figures>,
    pub(super) room: Room,
    /// How many requests one answers.
    pub reuse: usize,
    /// How long a request may take to its answer; zero is for ever.
    pub timeout: Duration,
}

impl HandlerState for Shared {
    type StoreData = ComponentState;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<ComponentState, Expiration, Worker>> {
        let room = self.room.place().await?;
        let running = self.ticker.run();
        let begun = Instant::now();
        let mut store = Store::new(&self.engine, self.surroundings.component_state(false)?);
        account::meter(&mut store);
        ticker::let_others_go_on(&mut store, &self.control);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        self.figures.instantiated(begun.elapsed());
        Ok(Instance {
            store,
            proxy,
            view: ComponentState::http,
            expiration: Expiration { sleep: Box::pin(tokio::time::sleep(IDLE)), timeout: self.timeout },
            state: Worker {
                reuse: self.reuse,
                timeout: self.timeout,
                surroundings: Arc::clone(&self.surroundings),
                control: self.control.clone(),
                _using: self.figures.using(),
                _running: running,
                _room: room,
            },
        })
    }
}

/// When an instance is no longer wanted: after a while without requests, or when it keeps one for too long.
pub(super) struct Expiration {
    sleep: Pin<Box<tokio::time::Sleep>>,
    timeout: Duration,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, since: Instant) -> Poll<()> {
        let deadline = match status {
            WorkerStatus::Idle => since + IDLE,
            WorkerStatus::Requests if !self.timeout.is_zero() => since + self.timeout,
            // What follows an answer is its body, which may take as long as the client wants more of it.
            _ => return Poll::Pending,
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

pub(super) struct Worker {
    reuse: usize,
    timeout: Duration,
    surroundings: Arc<Surroundings>,
    control: Control,
    _using: Gauge,
    _running: Running,
    _room: Place,
}

impl WorkerState for Worker {
    type StoreData = ComponentState;
    type RequestData = ();

    fn should_accept_request(&self, in_hand: usize, so_far: usize) -> ShouldAccept {
        if so_far >= self.reuse {
            ShouldAccept::Never
        } else if in_hand >= AT_A_TIME {
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
        if self.timeout.is_zero() {
            return Box::pin(std::future::pending());
        }
        Box::pin(tokio::time::sleep(self.timeout))
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
