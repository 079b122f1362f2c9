//! The tasks of one service.

use crate::guest::cpu::Cpu;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::task::JoinSet;

/// Where a service's tasks are begun. Alone it has a runtime, which they end with. Where services share one, they end
/// with the service, and the processor's time that they take is its own. A clone begins tasks of the same service.
#[derive(Debug, Clone)]
pub(super) struct Tasks(Option<Arc<Among>>);

#[derive(Debug)]
struct Among {
    cpu: Arc<Cpu>,
    /// None when they have ended.
    all: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    /// Those of a service that has a runtime to itself.
    pub(super) fn alone() -> Self {
        Self(None)
    }

    /// Those of one that shares a runtime.
    pub(super) fn among_others(cpu: &Arc<Cpu>) -> Self {
        Self(Some(Arc::new(Among { cpu: Arc::clone(cpu), all: Mutex::new(Some(JoinSet::new())) })))
    }

    /// Begins a task. To be called in a runtime.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(among) = &self.0 else {
            drop(tokio::spawn(task));
            return;
        };
        let timed = Timed { cpu: Arc::clone(&among.cpu), task: Box::pin(task) };
        if let Some(all) = &mut *among.all.lock().unwrap_or_else(PoisonError::into_inner) {
            while all.try_join_next().is_some() {}
            all.spawn(timed);
        }
    }

    /// Ends those that share a runtime with others, and waits until they are gone.
    pub(super) async fn end(&self) {
        let Some(among) = &self.0 else { return };
        let all = among.all.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut all) = all {
            all.shutdown().await;
        }
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(async move {
            let _ = task.await;
        });
    }
}

/// A task whose time on a processor is its container's.
struct Timed {
    cpu: Arc<Cpu>,
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Timed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.cpu.lend(|| this.task.as_mut().poll(cx))
    }
}
