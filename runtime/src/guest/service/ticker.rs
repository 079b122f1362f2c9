//! The clock by which guests that compute let others go on.

use crate::guest::account::Metered;
use crate::guest::{Control, Interrupted, Stop};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Engine, Store, UpdateDeadline};

/// How often guests that compute are asked to let others go on.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Moves the epoch on while guests run, so that one that computes does not keep the thread from the others.
pub(in crate::guest) struct Ticker {
    running: Arc<AtomicUsize>,
    thread: Thread,
}

impl Ticker {
    pub(in crate::guest) fn start(engine: Engine) -> std::io::Result<Self> {
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

    /// Counts one guest for as long as it runs.
    pub(super) fn run(self: &Arc<Self>) -> Running {
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        Running(Arc::clone(self))
    }
}

/// Has a guest that computes give way at each tick, wait when its container is ahead of its share, and end when it is to
/// end at once.
pub(super) fn let_others_go_on<T: Metered>(store: &mut Store<T>, control: &Control) {
    let control = control.clone();
    let cpu = Arc::clone(store.data_mut().meter().account().cpu());
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| match control.asked() {
        Stop::AtOnce => Err(Interrupted.into()),
        _ => Ok(cpu.due().map_or(UpdateDeadline::Yield(1), |wait| UpdateDeadline::YieldCustom(1, wait))),
    });
}

/// A guest that runs.
pub(super) struct Running(Arc<Ticker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
