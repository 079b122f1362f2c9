//! The harness of the end-to-end tests: the built binary is driven from outside, as a person or a script drives it.
//!
//! ```text
//! store      where a test's images and containers lie: one store for all tests, or a fresh one of its own
//! command    a command line → its output, with asserts that print everything when they fail
//! container  a container with a name of its own, removed when its test is over
//! crash      commands struck down at random moments
//! escaped    system calls inside a container's host process, as of a guest that has escaped
//! files      directories of a test's own, and what lies in a tree
//! net        free ports and HTTP
//! pty        a command at a terminal
//! registry   a registry of a test's own, and a proxy that spoils its answers
//! needs      what a test needs of the machine, so that it can be skipped where that is missing
//! wait       watching for something to become true
//! ```
//!
//! `SAMPAN_BIN` names the binary; without it `make build`'s is taken. A test takes the shared store unless it looks at
//! the store as a whole, and never waits by sleeping.

pub mod command;
pub mod container;
pub mod crash;
pub mod cri;
#[cfg(target_arch = "x86_64")]
pub mod escaped;
pub mod files;
pub mod needs;
pub mod net;
pub mod pty;
pub mod registry;
pub mod store;
pub mod wait;

pub use command::{Output, Run, Started};
pub use container::Container;
pub use files::{Dir, tree};
pub use pty::Pty;
pub use store::{Store, sample_file};
pub use wait::{eventually, until};

use std::fmt::Display;

/// Ends a test: what the harness cannot do is a failure of the test that asked for it.
#[track_caller]
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn fail(why: impl Display) -> ! {
    panic!("{why}")
}

/// For what must not fail in a test, with words for when it does.
pub trait OrFail<T> {
    /// The value, or the end of the test.
    fn or_fail(self, what: impl Display) -> T;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    #[track_caller]
    fn or_fail(self, what: impl Display) -> T {
        match self {
            Ok(value) => value,
            Err(error) => fail(format_args!("{what}: {error}")),
        }
    }
}

impl<T> OrFail<T> for Option<T> {
    #[track_caller]
    fn or_fail(self, what: impl Display) -> T {
        match self {
            Some(value) => value,
            None => fail(what),
        }
    }
}
