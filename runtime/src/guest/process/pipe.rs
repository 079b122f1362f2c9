//! A pipe between two programs of one container: bytes in memory, so many and no more. A full one holds its writer
//! back, and each end sees when the other is gone.
//!
//! No descriptor of the system is behind it: a program that waits at one waits as a future, and is ended by dropping it.

use crate::guest::account::Buffer;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How much a pipe holds, in bytes: what Linux gives one (pipe(7)).
pub const CAPACITY: usize = 64 << 10;
/// A write of up to so many bytes is not mixed with others' (PIPE_BUF of pipe(7)).
const WHOLE: usize = 4096;

/// The end that is read; dropping it is closing it.
#[derive(Debug)]
pub struct ReadEnd(Arc<Shared>);

/// The end that is written; dropping it is closing it.
#[derive(Debug)]
pub struct WriteEnd(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
    _room: Option<Buffer>,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    read_end_gone: bool,
    write_end_gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a pipe; `room` is what it holds, on its container's account.
#[must_use]
pub fn pipe(room: Option<Buffer>) -> (ReadEnd, WriteEnd) {
    let shared = Arc::new(Shared { _room: room, ..Shared::default() });
    (ReadEnd(Arc::clone(&shared)), WriteEnd(shared))
}

impl ReadEnd {
    /// Takes up to `most` bytes, waiting for the first; nothing when every writer is gone. A read that is given up has
    /// taken nothing.
    pub async fn read(&self, most: usize) -> Vec<u8> {
        if most == 0 {
            return Vec::new();
        }
        loop {
            let changed = self.0.readable.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.0.state();
                if !state.bytes.is_empty() {
                    let count = state.bytes.len().min(most);
                    let taken = state.bytes.drain(..count).collect();
                    drop(state);
                    self.0.writable.notify_waiters();
                    return taken;
                }
                if state.write_end_gone {
                    return Vec::new();
                }
            }
            changed.await;
        }
    }

    /// Waits until a read would not wait.
    pub async fn ready(&self) {
        loop {
            let changed = self.0.readable.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.0.state();
                if !state.bytes.is_empty() || state.write_end_gone {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl WriteEnd {
    /// Puts the first bytes of `bytes` in, waiting for room, and says how many; all of them if they are few.
    ///
    /// # Errors
    /// EPIPE when every reader is gone.
    pub async fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let wanted = if bytes.len() <= WHOLE { bytes.len() } else { 1 };
        loop {
            let changed = self.0.writable.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.0.state();
                if state.read_end_gone {
                    return Err(Errno::PIPE);
                }
                let room = CAPACITY.saturating_sub(state.bytes.len());
                if room >= wanted {
                    let count = room.min(bytes.len());
                    state.bytes.extend(bytes.iter().take(count));
                    drop(state);
                    self.0.readable.notify_waiters();
                    return Ok(count);
                }
            }
            changed.await;
        }
    }

    /// Waits until a small write would not wait.
    pub async fn ready(&self) {
        loop {
            let changed = self.0.writable.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.0.state();
                if state.read_end_gone || CAPACITY - state.bytes.len().min(CAPACITY) >= WHOLE {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.read_end_gone = true;
        state.bytes = VecDeque::new();
        drop(state);
        self.0.writable.notify_waiters();
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.0.state().write_end_gone = true;
        self.0.readable.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_full_pipe_holds_its_writer_back_and_loses_nothing() {
        let (reader, writer) = pipe(None);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let source = sent.clone();
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut rest = &source[..];
                while !rest.is_empty() {
                    let count = writer.write(rest).await.unwrap();
                    assert!(count <= CAPACITY);
                    rest = &rest[count..];
                }
            });
        });
        let mut got = Vec::new();
        block_on(async {
            loop {
                let part = reader.read(10_000).await;
                if part.is_empty() {
                    break;
                }
                got.extend(part);
            }
        });
        thread.join().unwrap();
        assert!(got == sent);
    }

    #[test]
    fn each_end_sees_that_the_other_is_gone() {
        let (reader, writer) = pipe(None);
        assert_eq!(block_on(writer.write(b"last")), Ok(4));
        drop(writer);
        assert_eq!(block_on(reader.read(100)), b"last");
        assert_eq!(block_on(reader.read(100)), b"");
        let (reader, writer) = pipe(None);
        drop(reader);
        assert_eq!(block_on(writer.write(b"x")), Err(Errno::PIPE));
    }

    #[test]
    fn a_writer_that_waits_is_told_that_the_reader_left() {
        let (reader, writer) = pipe(None);
        block_on(async {
            while writer.write(&[0; 4096]).await.unwrap() == 4096
                && tokio::select! { biased; () = writer.ready() => true, () = std::future::ready(()) => false }
            {
            }
            let (result, ()) = tokio::join!(writer.write(b"more"), async { drop(reader) });
            assert_eq!(result, Err(Errno::PIPE));
        });
    }
}
