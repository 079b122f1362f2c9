//! Watching for something to become true. A test that sleeps instead is slow on a fast machine and wrong on a slow one.

use crate::fail;
use std::time::{Duration, Instant};

/// How long anything may take before it counts as never: far more than it should, for machines with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is something to see, and returns it.
#[track_caller]
pub fn until<T>(what: impl std::fmt::Display, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        if begun.elapsed() > PATIENCE {
            fail(format_args!("it did not come within {PATIENCE:?}: {what}"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Looks again and again until it is true.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}
