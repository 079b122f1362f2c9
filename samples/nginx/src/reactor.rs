//! Waiting: a future that waits leaves its waker with a pollable of WASI, and when all wait, the pollables are waited for.

use hyper::rt::{Sleep, Timer};
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{Pollable, poll};

thread_local! {
    /// By the pollable's address, so that who asks twice is woken once. Weak, since a pollable must go before what it is of.
    static WAITING: RefCell<HashMap<usize, (Weak<Pollable>, Waker)>> = RefCell::default();
}

/// Wakes whoever polls when the pollable is ready.
pub fn wake_when_ready(pollable: &Arc<Pollable>, cx: &Context<'_>) {
    let entry = (Arc::downgrade(pollable), cx.waker().clone());
    WAITING.with_borrow_mut(|waiting| waiting.insert(Arc::as_ptr(pollable) as usize, entry));
}

/// Waits until at least one pollable is ready, and wakes who waits for it.
fn wait() {
    let mut all: Vec<(usize, Arc<Pollable>)> = Vec::new();
    WAITING.with_borrow_mut(|waiting| {
        waiting.retain(|key, (pollable, _)| match pollable.upgrade() {
            Some(pollable) => {
                all.push((*key, pollable));
                true
            }
            None => false,
        });
    });
    assert!(!all.is_empty(), "nothing is waited for");
    let ready = poll(&all.iter().map(|(_, pollable)| &**pollable).collect::<Vec<_>>());
    for (key, _) in ready.into_iter().filter_map(|n| all.get(n as usize)) {
        if let Some((_, waker)) = WAITING.with_borrow_mut(|waiting| waiting.remove(key)) {
            waker.wake();
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        while !woken.0.swap(false, Ordering::Relaxed) {
            wait();
        }
    }
}

/// Time for hyper.
pub struct Clock;

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Alarm { deadline, pollable: None })
    }
}

struct Alarm {
    deadline: Instant,
    pollable: Option<Arc<Pollable>>,
}

impl Sleep for Alarm {}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        let pollable = self
            .pollable
            .get_or_insert_with(|| Arc::new(subscribe_duration(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))));
        wake_when_ready(pollable, cx);
        Poll::Pending
    }
}
