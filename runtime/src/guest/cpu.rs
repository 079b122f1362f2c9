//! The processor's time of one container: the clocks of its threads, and the share that they may have together.
//!
//! No cgroup is needed for either: a thread has a clock that the others of its process can read, and a guest that computes
//! looks at the engine's epoch in its loops, where it can be held up.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};
use wasmtime::Engine;

/// How often a guest that has a share is looked at while it computes.
const TICK: Duration = Duration::from_millis(10);
/// How much of its share a container may save up: what it did not use, or did not get because the machine was busy.
const SAVED: Duration = Duration::from_millis(500);
/// The longest that is waited without looking again.
const NAP: Duration = Duration::from_millis(100);

/// What becomes of a guest that is ahead of its share.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The processor's time of one container.
#[derive(Debug, Default)]
pub struct Cpu {
    threads: Mutex<Threads>,
    /// There from the moment when there first is a share.
    quota: OnceLock<Quota>,
}

#[derive(Debug, Default)]
struct Threads {
    /// The clocks of those that run.
    running: Vec<libc::clockid_t>,
    /// The clocks of those that work for it at this moment, and for others at the next; what they showed when they began.
    lent: Vec<(libc::clockid_t, Duration)>,
    /// What those took that have ended.
    ended: Duration,
}

/// How much processor time there is.
#[derive(Debug)]
struct Quota {
    /// Billionths of a processor; 0 is as many as there are.
    nano: AtomicU64,
    state: Mutex<Balance>,
    pacer: OnceLock<Option<Pacer>>,
    held_us: AtomicU64,
    held: AtomicU64,
}

#[derive(Debug)]
struct Balance {
    at: Instant,
    used: Duration,
    /// Seconds of processor time that may be taken; below zero they have been.
    left: f64,
}

impl Cpu {
    /// The time of a container that may have so many billionths of a processor; any with `None`.
    #[must_use]
    pub fn new(nano_cpus: Option<u64>) -> Self {
        let quota = nano_cpus.map(Quota::new).map(OnceLock::from).unwrap_or_default();
        Self { threads: Mutex::default(), quota }
    }

    /// Changes what it may have while guests run, in the engine that runs them. From now on it is counted anew.
    pub fn limit(&self, nano_cpus: Option<u64>, engine: Option<&Engine>) {
        self.quota.get_or_init(|| Quota::new(0)).change(nano_cpus.unwrap_or(0), self.used());
        if let Some(engine) = engine {
            self.pace(engine);
        }
    }

    /// The share, if there is one.
    fn share(&self) -> Option<&Quota> {
        self.quota.get().filter(|quota| quota.nano.load(Ordering::Relaxed) > 0)
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the calling thread works for the container from now on. No system call.
    pub fn enter(&self) {
        if let Some(clock) = own_clock() {
            self.threads().running.push(clock);
        }
    }

    /// Says that the calling thread, which has entered, ends or works for somebody else.
    pub fn leave(&self) {
        let Some(clock) = own_clock() else { return };
        let took = read(clock);
        let mut threads = self.threads();
        if let Some(at) = threads.running.iter().position(|known| *known == clock) {
            threads.running.swap_remove(at);
            threads.ended += took;
        }
    }

    /// Does some work for the container on a thread that works for others too.
    pub fn lend<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(clock) = own_clock() else { return work() };
        let begun = read(clock);
        self.threads().lent.push((clock, begun));
        let done = work();
        let took = read(clock).saturating_sub(begun);
        let mut threads = self.threads();
        if let Some(at) = threads.lent.iter().position(|(known, _)| *known == clock) {
            threads.lent.swap_remove(at);
            threads.ended += took;
        }
        done
    }

    /// How long all threads have been on a processor.
    #[must_use]
    pub fn used(&self) -> Duration {
        let threads = self.threads();
        let lent = threads.lent.iter().map(|(clock, begun)| read(*clock).saturating_sub(*begun));
        threads.running.iter().map(|clock| read(*clock)).chain(lent).sum::<Duration>() + threads.ended
    }

    /// The threads that work for the container alone, by the system's numbers.
    #[must_use]
    pub fn tasks(&self) -> Vec<u32> {
        // What a clock's number is made of: see CPUCLOCK_PID in Linux (include/linux/posix-timers_types.h).
        self.threads().running.iter().map(|clock| (!(clock >> 3)).cast_unsigned()).collect()
    }

    /// How often the container was held up because it was ahead of its share, and how long in all.
    #[must_use]
    pub fn held_up(&self) -> (u64, Duration) {
        self.quota.get().map_or_else(Default::default, |quota| {
            let us = quota.held_us.load(Ordering::Relaxed);
            (quota.held.load(Ordering::Relaxed), Duration::from_micros(us))
        })
    }

    /// Looks after a store that begins: while a guest with a share computes, the epoch moves on.
    pub(super) fn pace(&self, engine: &Engine) {
        if let Some(quota) = self.share() {
            // Without a thread for it the guest is looked at when its host calls return.
            if let Some(pacer) = quota.pacer.get_or_init(|| Pacer::start(engine.clone()).ok()) {
                pacer.seen();
            }
        }
    }

    /// What a guest that looks at the epoch has to wait for; nothing if its container is within its share.
    pub(super) fn due(self: &Arc<Self>) -> Option<Wait> {
        let quota = self.share()?;
        if quota.ahead(self.used()).is_none() {
            quota.seen();
            return None;
        }
        quota.held.fetch_add(1, Ordering::Relaxed);
        let cpu = Arc::clone(self);
        Some(Box::pin(async move {
            let Some(quota) = cpu.quota.get() else { return };
            let begun = Instant::now();
            while let Some(wait) = quota.ahead(cpu.used()) {
                tokio::time::sleep(wait.min(NAP)).await;
            }
            let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            quota.held_us.fetch_add(us, Ordering::Relaxed);
            // The guest's deadline is set when this is over, so from here on the epoch may move again.
            quota.seen();
        }))
    }
}

impl Quota {
    fn new(nano: u64) -> Self {
        Self {
            nano: AtomicU64::new(nano),
            state: Mutex::new(Balance { at: Instant::now(), used: Duration::ZERO, left: 0.0 }),
            pacer: OnceLock::new(),
            held_us: AtomicU64::new(0),
            held: AtomicU64::new(0),
        }
    }

    fn change(&self, nano: u64, used: Duration) {
        let mut balance = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.nano.store(nano, Ordering::Relaxed);
        *balance = Balance { at: Instant::now(), used, left: 0.0 };
    }

    /// A guest has looked at the epoch.
    fn seen(&self) {
        if let Some(Some(pacer)) = self.pacer.get() {
            pacer.seen();
        }
    }

    /// How long a container that has used so much must wait.
    fn ahead(&self, used: Duration) -> Option<Duration> {
        let mut balance = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        #[allow(clippy::cast_precision_loss, reason = "nobody has so many processors")]
        let rate = self.nano.load(Ordering::Relaxed) as f64 / 1e9;
        if rate == 0.0 {
            return None;
        }
        let now = Instant::now();
        let (earned, spent) = (now - balance.at, used.saturating_sub(balance.used));
        let left = balance.left + earned.as_secs_f64() * rate - spent.as_secs_f64();
        *balance = Balance { at: now, used: used.max(balance.used), left: left.min(SAVED.as_secs_f64() * rate) };
        (left < 0.0).then(|| Duration::try_from_secs_f64(-left / rate).unwrap_or(NAP))
    }
}

/// Moves the epoch on a tick after a guest has looked at it, and then waits until one looks again: while all guests of
/// the container wait for something, nothing wakes up.
#[derive(Debug)]
struct Pacer {
    seen: Arc<AtomicBool>,
    thread: Thread,
}

impl Pacer {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let seen = Arc::new(AtomicBool::new(true));
        let looked = Arc::clone(&seen);
        let pace = move || {
            loop {
                if looked.swap(false, Ordering::SeqCst) {
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                } else {
                    std::thread::park();
                }
            }
        };
        let thread = std::thread::Builder::new().name("pacer".into()).stack_size(64 << 10).spawn(pace)?;
        Ok(Self { seen, thread: thread.thread().clone() })
    }

    fn seen(&self) {
        if !self.seen.swap(true, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

/// The clock of the calling thread, by a number that the whole process can read it by.
fn own_clock() -> Option<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: the thread is the calling one, so it exists, and the number has a place to go.
    let done = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
    (done == 0).then_some(clock)
}

/// What a thread's clock shows; nothing when the thread is gone.
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time has a place to go; a number that is no clock's is refused.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos)
}

/// Docker's shares of a processor as a niceness (setpriority(2)), which is what there is without cgroups: each step is a
/// factor of 1.25 to the kernel's scheduler, and 1024 shares are no niceness at all.
#[must_use]
pub fn niceness(shares: u64) -> i32 {
    #[allow(clippy::cast_precision_loss, reason = "the logarithm is rounded anyway")]
    let steps = (1024.0 / shares.max(2) as f64).log(1.25).round().clamp(-20.0, 19.0);
    #[allow(clippy::cast_possible_truncation, reason = "it is between -20 and 19")]
    let steps = steps as i32;
    steps
}

/// Gives a thread, and those that it starts from now on, this niceness; 0 is the calling thread.
///
/// # Errors
/// When it is below what the thread has and nobody allowed that, or there is no such thread.
pub fn set_niceness(thread: u32, niceness: i32) -> std::io::Result<()> {
    // SAFETY: the call takes numbers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, niceness) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(time: Duration) {
        let clock = own_clock().unwrap();
        let end = read(clock) + time;
        while read(clock) < end {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_time_of_threads_adds_up_also_when_they_are_gone() {
        let cpu = Arc::new(Cpu::default());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let cpu = Arc::clone(&cpu);
                std::thread::spawn(move || {
                    cpu.enter();
                    burn(Duration::from_millis(20));
                    cpu.leave();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let gone = cpu.used();
        assert!(gone >= Duration::from_millis(40), "{gone:?}");
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                cpu.enter();
                assert_eq!(cpu.tasks(), [rustix::thread::gettid().as_raw_pid().cast_unsigned()]);
                burn(Duration::from_millis(10));
                assert!(cpu.used() >= gone + Duration::from_millis(10));
            });
            working.join().unwrap();
        });
    }

    #[test]
    fn a_thread_that_works_for_others_too_counts_while_it_is_lent() {
        let cpu = Cpu::default();
        burn(Duration::from_millis(10));
        cpu.lend(|| {
            burn(Duration::from_millis(10));
            assert!(cpu.used() >= Duration::from_millis(10) && cpu.tasks().is_empty());
        });
        burn(Duration::from_millis(10));
        let used = cpu.used();
        assert!(used >= Duration::from_millis(10) && used < Duration::from_millis(20), "{used:?}");
    }

    #[test]
    fn who_is_ahead_waits_until_its_share_has_come() {
        let cpu = Cpu::new(Some(500_000_000));
        let quota = cpu.share().unwrap();
        assert_eq!(quota.ahead(Duration::ZERO), None);
        let wait = quota.ahead(Duration::from_secs(1)).unwrap();
        assert!(wait > Duration::from_millis(1800) && wait <= Duration::from_secs(2), "{wait:?}");
        cpu.limit(None, None);
        assert!(cpu.share().is_none() && quota.ahead(Duration::from_secs(2)).is_none());
        cpu.limit(Some(1_000_000_000), None);
        let wait = cpu.share().unwrap().ahead(Duration::from_secs(3)).unwrap();
        assert!(wait > Duration::from_millis(2800) && wait <= Duration::from_secs(3), "{wait:?}");
    }

    #[test]
    fn shares_are_steps_of_niceness() {
        let known = [(1024, 0), (512, 3), (2048, -3), (2, 19), (0, 19), (262_144, -20)];
        known.into_iter().for_each(|(shares, nice)| assert_eq!(niceness(shares), nice, "{shares}"));
    }
}
