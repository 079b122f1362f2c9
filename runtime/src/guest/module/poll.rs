//! `poll_oneoff` of WASI 0.1: clocks, our descriptors and the crate's, in one wait that can be given up. (The crate
//! sleeps in the engine's own thread, where nothing reaches it.)

use super::memory::{self, address, answer, number, put};
use super::socket::{self, Connection, Direction, Listener};
use super::stream::Stream;
use super::wasi::MODULE;
use super::{ModuleState, Ours};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::types::Clockid;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::GuestMemory;

/// As many subscriptions as a call may have: a server has one for each connection.
const MOST: usize = 1 << 16;
// `subscription` and `event` (typenames.witx): how long each is.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
// `eventtype`.
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
/// `eventrwflags::fd_readwrite_hangup`.
const HANGUP: u8 = 1;

enum What {
    /// A clock, and when: absolute or from now on, in nanoseconds.
    Clock { id: u32, timeout: u64, absolute: bool },
    /// A descriptor to read or write.
    Descriptor(u32),
}

struct Subscription {
    userdata: u64,
    kind: u8,
    what: What,
}

fn subscription(data: &[u8], start: usize) -> Result<Subscription, Errno> {
    let field = |at: usize, length: usize| number(data, start.saturating_add(at), length);
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let kind = u8::try_from(field(8, 1)?).unwrap_or(u8::MAX);
    let what = match kind {
        CLOCK => What::Clock { id: small(field(16, 4)?), timeout: field(24, 8)?, absolute: field(40, 2)? & 1 != 0 },
        FD_READ | FD_WRITE => What::Descriptor(small(field(16, 4)?)),
        _ => return Err(Errno::INVAL),
    };
    Ok(Subscription { userdata: field(0, 8)?, kind, what })
}

/// What one subscription waits for.
enum On {
    /// A point in time; `None` is too far off to come.
    Time(Option<Instant>),
    Stream(BoxFuture<'static, ()>),
    Listener(Arc<Listener>),
    Connection(Arc<Connection>, Direction),
    /// Nothing any more.
    Done(Result<(), Errno>),
}

struct Waiting {
    userdata: u64,
    kind: u8,
    on: On,
}

/// How a subscription came out.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    userdata: u64,
    kind: u8,
    outcome: Result<(), Errno>,
    bytes: u64,
    hangup: bool,
}

impl Event {
    fn to_bytes(&self) -> [u8; EVENT] {
        let mut bytes = [0; EVENT];
        bytes[..8].copy_from_slice(&self.userdata.to_le_bytes());
        let error = answer(self.outcome);
        bytes[8..10].copy_from_slice(&u16::try_from(error).unwrap_or(u16::MAX).to_le_bytes());
        bytes[10] = self.kind;
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24] = if self.hangup { HANGUP } else { 0 };
        bytes
    }
}

pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type Oneoff = (i32, i32, i32, i32);
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, ModuleState>, (subscriptions, events, count, result): Oneoff| {
            Box::new(async move {
                let memory = memory::memory(&mut caller)?;
                let count = address(count);
                if count == 0 || count > MOST {
                    return Ok(answer(Err(Errno::INVAL)));
                }
                let data = memory.data(&caller);
                let all = (0..count).map(|n| subscription(data, address(subscriptions) + n * SUBSCRIPTION));
                let all = match all.collect::<Result<Vec<_>, _>>() {
                    Ok(all) => all,
                    Err(errno) => return Ok(answer(Err(errno))),
                };
                let (bytes, state) = memory.data_and_store_mut(&mut caller);
                let mut waiting: Vec<Waiting> = all.into_iter().map(|one| begin(state, bytes, one)).collect();
                let ready = wait(&mut waiting).await;
                let data = memory.data_mut(&mut caller);
                for (n, event) in ready.iter().enumerate() {
                    if let Err(errno) = put(data, address(events) + n * EVENT, &event.to_bytes()) {
                        return Ok(answer(Err(errno)));
                    }
                }
                let count = u32::try_from(ready.len()).unwrap_or(u32::MAX).to_le_bytes();
                Ok(answer(put(data, address(result), &count)))
            })
        },
    )?;
    Ok(())
}

fn begin(state: &mut ModuleState, memory: &mut [u8], one: Subscription) -> Waiting {
    let on = match one.what {
        What::Clock { id, timeout, absolute } => deadline(state, memory, id, timeout, absolute),
        What::Descriptor(number) => match (state.descriptors.get(number), one.kind) {
            (Some(Ours::Stream(stream)), kind) => On::Stream(ready(stream.clone(), kind).boxed()),
            (Some(Ours::Listener(listener)), FD_READ) => On::Listener(Arc::clone(listener)),
            (Some(Ours::Listener(_)), _) => On::Done(Err(Errno::INVAL)),
            (Some(Ours::Connection(connection)), FD_READ) => On::Connection(Arc::clone(connection), Direction::In),
            (Some(Ours::Connection(connection)), _) => On::Connection(Arc::clone(connection), Direction::Out),
            // The crate's descriptors are files and directories, for which there is nothing to wait.
            (None, _) => {
                let there = state.wasi.fd_tell(&mut GuestMemory::Unshared(memory), number.into()).is_ok();
                On::Done(if there { Ok(()) } else { Err(Errno::BADF) })
            }
        },
    };
    Waiting { userdata: one.userdata, kind: one.kind, on }
}

fn deadline(state: &mut ModuleState, memory: &mut [u8], id: u32, timeout: u64, absolute: bool) -> On {
    let clock = match id {
        0 => Clockid::Realtime,
        1 => Clockid::Monotonic,
        _ => return On::Done(Err(Errno::INVAL)),
    };
    let mut nanos = timeout;
    if absolute {
        let now = state.wasi.clock_time_get(&mut GuestMemory::Unshared(memory), clock, 0);
        nanos = timeout.saturating_sub(now.unwrap_or(0));
    }
    On::Time(Instant::now().checked_add(Duration::from_nanos(nanos)))
}

async fn ready(stream: Stream, kind: u8) {
    match kind {
        FD_READ => stream.ready_to_read().await,
        _ => stream.ready_to_write().await,
    }
}

/// Waits until something came out, and says what.
async fn wait(waiting: &mut [Waiting]) -> Vec<Event> {
    let first = waiting.iter().filter_map(|one| if let On::Time(at) = one.on { at } else { None }).min();
    let alarm = async {
        match first {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let mut alarm = pin!(alarm);
    // With the runtime's limit on how much a future may look at before it lets others go first, a server of many
    // connections would never come to the last of them.
    tokio::task::coop::unconstrained(std::future::poll_fn(|cx| {
        loop {
            let events = look(waiting, cx);
            if !events.is_empty() {
                return Poll::Ready(events);
            }
            // What has become ready meanwhile is looked at once more.
            if !subscribe(waiting, cx) && alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }))
    .await
}

/// What is ready now: one question to the system for all sockets.
fn look(waiting: &mut [Waiting], cx: &mut Context<'_>) -> Vec<Event> {
    let now = Instant::now();
    for one in waiting.iter_mut() {
        let done = match &mut one.on {
            On::Time(Some(at)) => *at <= now,
            On::Stream(stream) => Pin::new(stream).poll(cx).is_ready(),
            _ => false,
        };
        if done {
            one.on = On::Done(Ok(()));
        }
    }
    let mut fds: Vec<PollFd<'_>> = Vec::new();
    for one in waiting.iter() {
        match &one.on {
            On::Listener(listener) => fds.extend(listener.poll_fds()),
            On::Connection(connection, direction) => fds.push(connection.poll_fd(*direction)),
            _ => {}
        }
    }
    if !fds.is_empty() {
        socket::look(&mut fds);
    }
    let mut found = fds.iter().map(PollFd::revents);
    waiting.iter().filter_map(|one| came_out(one, &mut found)).collect()
}

/// The event of a subscription, if there is one; its sockets' answers are next in `found`.
fn came_out(one: &Waiting, found: &mut impl Iterator<Item = PollFlags>) -> Option<Event> {
    let mut event = Event { userdata: one.userdata, kind: one.kind, outcome: Ok(()), bytes: 0, hangup: false };
    match &one.on {
        On::Time(_) | On::Stream(_) => return None,
        On::Done(outcome) => {
            event.outcome = *outcome;
            // How much can be read is not known; that something can, is.
            event.bytes = u64::from(one.kind != CLOCK && outcome.is_ok());
        }
        On::Listener(listener) => {
            let count = listener.poll_fds().count();
            let answers = found.take(count).fold(PollFlags::empty(), |all, one| all | one);
            if answers.is_empty() {
                return None;
            }
            event.bytes = 1;
        }
        On::Connection(connection, direction) => {
            let answers = found.next().unwrap_or(PollFlags::empty());
            if answers.is_empty() {
                return None;
            }
            event.bytes = if *direction == Direction::In { connection.waiting() } else { 1 };
            event.hangup = answers.contains(PollFlags::HUP);
        }
    }
    Some(event)
}

/// Asks to be woken by each socket; true if one is ready already.
fn subscribe(waiting: &[Waiting], cx: &mut Context<'_>) -> bool {
    let ready = waiting.iter().filter(|one| match &one.on {
        On::Listener(listener) => listener.poll_ready(cx).is_ready(),
        On::Connection(connection, direction) => connection.poll_ready(cx, *direction).is_ready(),
        _ => false,
    });
    ready.count() > 0
}
