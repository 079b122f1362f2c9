//! `poll_oneoff` of WASI 0.1 for a module that is a process: clocks, our descriptors and the crate's, in one wait that
//! can be given up. (The crate sleeps in the engine's own thread, where nothing reaches it.)

use super::memory::{self, address, answer, number, put};
use super::module::ModuleState;
use super::stream::Stream;
use super::wasi::MODULE;
use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use rustix::io::Errno;
use std::time::Duration;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::types::Clockid;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::GuestMemory;

/// As many subscriptions as a call may have.
const MOST: usize = 4096;
// `subscription` and `event` (typenames.witx): how long each is.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
// `eventtype`.
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;

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

fn event(userdata: u64, kind: u8, error: i32) -> [u8; EVENT] {
    let mut bytes = [0; EVENT];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[8..10].copy_from_slice(&u16::try_from(error).unwrap_or(u16::MAX).to_le_bytes());
    bytes[10] = kind;
    // How much can be read is not known; that something can, is.
    bytes[16] = u8::from(kind != CLOCK && error == 0);
    bytes
}

pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type Poll = (i32, i32, i32, i32);
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, ModuleState>, (subscriptions, events, count, result): Poll| {
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
                let mut waits: Vec<(usize, BoxFuture<'static, Result<(), Errno>>)> = Vec::with_capacity(count);
                for (n, subscription) in all.iter().enumerate() {
                    let (bytes, state) = memory.data_and_store_mut(&mut caller);
                    waits.push((n, wait(state, bytes, subscription)));
                }
                let ready = first_and_others(waits).await;
                let data = memory.data_mut(&mut caller);
                let mut at = address(events);
                for (n, outcome) in &ready {
                    let Some(subscription) = all.get(*n) else { continue };
                    let bytes = event(subscription.userdata, subscription.kind, answer(*outcome));
                    if let Err(errno) = put(data, at, &bytes) {
                        return Ok(answer(Err(errno)));
                    }
                    at += EVENT;
                }
                let count = u32::try_from(ready.len()).unwrap_or(u32::MAX).to_le_bytes();
                Ok(answer(put(data, address(result), &count)))
            })
        },
    )?;
    Ok(())
}

type Ready = Vec<(usize, Result<(), Errno>)>;

/// Waits for the first, and takes with it what is ready by then.
async fn first_and_others(waits: Vec<(usize, BoxFuture<'static, Result<(), Errno>>)>) -> Ready {
    let waits = waits.into_iter().map(|(n, wait)| wait.map(move |outcome| (n, outcome)).boxed());
    let (first, _, others) = select_all(waits).await;
    let mut ready: Ready = others.into_iter().filter_map(FutureExt::now_or_never).collect();
    ready.push(first);
    ready.sort_unstable_by_key(|(n, _)| *n);
    ready
}

fn wait(state: &mut ModuleState, memory: &mut [u8], one: &Subscription) -> BoxFuture<'static, Result<(), Errno>> {
    match one.what {
        What::Clock { id, timeout, absolute } => {
            let clock = match id {
                0 => Clockid::Realtime,
                1 => Clockid::Monotonic,
                _ => return std::future::ready(Err(Errno::INVAL)).boxed(),
            };
            let mut nanos = timeout;
            if absolute {
                let now = state.wasi.clock_time_get(&mut GuestMemory::Unshared(memory), clock, 0);
                nanos = timeout.saturating_sub(now.unwrap_or(0));
            }
            async move {
                tokio::time::sleep(Duration::from_nanos(nanos)).await;
                Ok(())
            }
            .boxed()
        }
        What::Descriptor(number) => match state.descriptors.get(number).cloned() {
            Some(stream) => ready(stream, one.kind).boxed(),
            // The crate's descriptors are files and directories, for which there is nothing to wait.
            None => {
                let there = state.wasi.fd_tell(&mut GuestMemory::Unshared(memory), number.into()).is_ok();
                std::future::ready(if there { Ok(()) } else { Err(Errno::BADF) }).boxed()
            }
        },
    }
}

async fn ready(stream: Stream, kind: u8) -> Result<(), Errno> {
    match kind {
        FD_READ => stream.ready_to_read().await,
        _ => stream.ready_to_write().await,
    }
    Ok(())
}
