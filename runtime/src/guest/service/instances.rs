//! Instances of WASI 0.2: a fresh one for each request, so that no state leaks between requests, or one for several in
//! turn where that was asked for. A service without requests has none.

use super::Place;
use super::figures::Figures;
use super::ticker::{self, Ticker};
use crate::guest::state::{ComponentState, Surroundings};
use crate::guest::{Control, account};
use bytes::Bytes;
use hyper::body::Body;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Store;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

/// How long an instance without requests is kept, where they are used again.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// So many contexts are kept for the instances to come.
const CONTEXTS: usize = 64;

/// A guest's call, from its instance to its end; to be polled until then, or dropped to end it where it is.
pub(super) type Guest = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;
/// Where a guest's answer arrives, at the latest when its call has ended.
pub(super) type Answered = oneshot::Receiver<Result<hyper::Response<WasiBody>, ErrorCode>>;

/// Where instances come from.
pub(super) struct Instances {
    pub pre: ProxyPre<ComponentState>,
    pub surroundings: Arc<Surroundings>,
    pub control: Control,
    pub ticker: Arc<Ticker>,
    pub figures: Arc<Figures>,
    /// How many requests one answers.
    pub reuse: u32,
    pub kept: Kept,
}

/// What is left of calls that are over, and of use to others.
#[derive(Default)]
pub(super) struct Kept {
    idle: Mutex<Vec<(Instance, Instant)>>,
    sweeping: AtomicBool,
    #[allow(clippy::vec_box, reason = "a context goes from instance to instance in its box")]
    contexts: Mutex<Vec<Box<WasiCtx>>>,
}

struct Instance {
    store: Store<ComponentState>,
    proxy: Proxy,
    served: u32,
    /// Its place in a pool that several services share, also while it waits for a request.
    _pool: Option<OwnedSemaphorePermit>,
}

impl Instances {
    /// Calls the guest for one request. `room` is given back when its instance is gone or free.
    pub(super) fn call<B>(self: &Arc<Self>, request: hyper::Request<B>, mut room: Place) -> (Guest, Answered)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let (sender, answered) = oneshot::channel();
        let instances = Arc::clone(self);
        let guest = Box::pin(async move {
            let pool = room.pool.take();
            let _room = room;
            let _counted = (instances.figures.using(), instances.ticker.run());
            let mut instance = match instances.idle() {
                Some(instance) => instance,
                None => instances.fresh(pool).await?,
            };
            instance.served += 1;
            instance.store.set_epoch_deadline(1);
            let mut http = instance.store.data_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request)?;
            let out = http.new_response_outparam(sender)?;
            let handler = instance.proxy.wasi_http_incoming_handler();
            handler.call_handle(&mut instance.store, request, out).await?;
            instances.keep(instance);
            Ok(())
        });
        (guest, answered)
    }

    fn idle(&self) -> Option<Instance> {
        if self.reuse <= 1 {
            return None;
        }
        lock(&self.kept.idle).pop().map(|(instance, _)| instance)
    }

    async fn fresh(&self, pool: Option<OwnedSemaphorePermit>) -> wasmtime::Result<Instance> {
        let begun = Instant::now();
        let context = lock(&self.kept.contexts).pop();
        let context = context.map_or_else(|| self.surroundings.context(false), Ok)?;
        let mut store = Store::new(self.pre.engine(), self.surroundings.component_state_with(context));
        account::meter(&mut store);
        ticker::let_others_go_on(&mut store, &self.control);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        self.figures.instantiated(begun.elapsed());
        Ok(Instance { store, proxy, served: 0, _pool: pool })
    }

    fn keep(self: &Arc<Self>, instance: Instance) {
        if instance.served < self.reuse {
            let mut idle = lock(&self.kept.idle);
            idle.push((instance, Instant::now()));
            if !self.kept.sweeping.swap(true, Ordering::SeqCst) {
                let instances = Arc::clone(self);
                tokio::spawn(async move { instances.sweep().await });
            }
            return;
        }
        let context = instance.store.into_data().into_context();
        let mut contexts = lock(&self.kept.contexts);
        if contexts.len() < CONTEXTS {
            contexts.push(context);
        }
    }

    /// Lets go of instances that nobody has asked for in a while, until there are none.
    async fn sweep(&self) {
        loop {
            tokio::time::sleep(IDLE / 2).await;
            let mut stale = Vec::new();
            {
                let mut idle = lock(&self.kept.idle);
                while idle.first().is_some_and(|(_, since)| since.elapsed() >= IDLE) {
                    stale.push(idle.remove(0));
                }
                if idle.is_empty() {
                    // Whoever keeps one from here on begins a sweep of its own: both are said under the lock.
                    self.kept.sweeping.store(false, Ordering::SeqCst);
                    drop(idle);
                    return;
                }
            }
            drop(stale);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
