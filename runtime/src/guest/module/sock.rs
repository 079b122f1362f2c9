//! The functions of WASI 0.1 for sockets. The bytes go between the module's memory and the system, without a copy.

use super::memory::{self, answer, buffers, slice};
use super::socket::{Connection, Direction, Listener};
use super::wasi::{MODULE, NONBLOCK, counted, ours, reply, size, theirs};
use super::{ModuleState, Ours};
use crate::guest::stdio::Channel;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wasmtime::{Caller, Linker};

// `riflags`.
const PEEK: i32 = 1;
const WAIT_ALL: i32 = 2;
/// As many buffers as sendmsg(2) takes at once (UIO_MAXIOV).
const MOST_BUFFERS: usize = 1024;

/// Reads into a list of buffers, as much as is there; with WAITALL until they are full or it ends.
pub(super) async fn receive(
    caller: &mut Caller<'_, ModuleState>,
    connection: &Connection,
    list: i32,
    count: i32,
    flags: RecvFlags,
) -> wasmtime::Result<Result<usize, Errno>> {
    let memory = memory::memory(caller)?;
    let places = match buffers(memory.data(&*caller), list, count) {
        Ok(places) => places,
        Err(errno) => return Ok(Err(errno)),
    };
    let all = flags.contains(RecvFlags::WAITALL) && !flags.contains(RecvFlags::PEEK);
    let flags = flags - RecvFlags::WAITALL;
    let mut done = 0;
    for (start, length) in places {
        let mut rest = start..start.saturating_add(length);
        while !rest.is_empty() {
            let Some(buffer) = memory.data_mut(&mut *caller).get_mut(rest.clone()) else {
                return Ok(if done > 0 { Ok(done) } else { Err(Errno::FAULT) });
            };
            match connection.receive(buffer, flags) {
                Ok(0) => return Ok(Ok(done)),
                Ok(count) => {
                    done += count;
                    rest.start += count;
                    // A buffer that is full may have left something for the next one.
                    if !all && (!rest.is_empty() || flags.contains(RecvFlags::PEEK)) {
                        return Ok(Ok(done));
                    }
                }
                Err(Errno::AGAIN) if connection.mode.waits() && (done == 0 || all) => {
                    connection.ready(Direction::In).await;
                }
                Err(_) if done > 0 => return Ok(Ok(done)),
                Err(errno) => return Ok(Err(errno)),
            }
        }
    }
    Ok(Ok(done))
}

/// Writes a list of buffers: all of it if calls wait, and else what there is room for.
pub(super) async fn send(
    caller: &mut Caller<'_, ModuleState>,
    connection: &Connection,
    list: i32,
    count: i32,
) -> wasmtime::Result<Result<usize, Errno>> {
    let memory = memory::memory(caller)?;
    let mut places = match buffers(memory.data(&*caller), list, count) {
        Ok(places) => places,
        Err(errno) => return Ok(Err(errno)),
    };
    let mut done = 0;
    loop {
        places.retain(|(_, length)| *length > 0);
        if places.is_empty() {
            return Ok(Ok(done));
        }
        let data = memory.data(&*caller);
        let slices = places.iter().take(MOST_BUFFERS);
        let slices: Result<Vec<_>, _> =
            slices.map(|(start, length)| slice(data, *start, *length).map(IoSlice::new)).collect();
        let slices = match slices {
            Ok(slices) => slices,
            Err(errno) => return Ok(if done > 0 { Ok(done) } else { Err(errno) }),
        };
        match connection.send(&slices) {
            Ok(count) => {
                done += count;
                advance(&mut places, count);
                if !connection.mode.waits() {
                    return Ok(Ok(done));
                }
            }
            Err(Errno::AGAIN) if connection.mode.waits() => connection.ready(Direction::Out).await,
            Err(_) if done > 0 => return Ok(Ok(done)),
            Err(errno) => return Ok(Err(errno)),
        }
    }
}

/// Takes so many bytes from the front of a list of buffers.
fn advance(places: &mut [(usize, usize)], mut count: usize) {
    for (start, length) in places {
        let now = count.min(*length);
        *start += now;
        *length -= now;
        count -= now;
    }
}

pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "sock_accept", |mut c: C<'_>, (fd, flags, result): (i32, i32, i32)| {
        Box::new(async move {
            let listener = match ours(&c, fd) {
                Some(Ours::Listener(listener)) => listener,
                // That is what listen(2) did not make a listener of.
                Some(Ours::Connection(_)) => return Ok(answer(Err(Errno::INVAL))),
                Some(Ours::Stream(_)) => return Ok(answer(Err(Errno::NOTSOCK))),
                None => return theirs!(now c, sock_accept, fd, flags, result),
            };
            if flags & !NONBLOCK != 0 {
                return Ok(answer(Err(Errno::INVAL)));
            }
            match accept(&mut c, &listener, flags).await {
                Ok(number) => Ok(answer(reply(&mut c, result, &number.to_le_bytes())?)),
                Err(errno) => Ok(answer(Err(errno))),
            }
        })
    })?;
    type Receive = (i32, i32, i32, i32, i32, i32);
    linker.func_wrap_async(MODULE, "sock_recv", |mut c: C<'_>, (fd, list, count, flags, result, told): Receive| {
        Box::new(async move {
            let connection = match connected(&c, fd) {
                Some(Ok(connection)) => connection,
                Some(Err(errno)) => return Ok(answer(Err(errno))),
                None => return theirs!(now c, sock_recv, fd, list, count, flags, result, told),
            };
            let mut wanted = RecvFlags::empty();
            wanted.set(RecvFlags::PEEK, flags & PEEK != 0);
            wanted.set(RecvFlags::WAITALL, flags & WAIT_ALL != 0);
            match receive(&mut c, &connection, list, count, wanted).await? {
                Ok(count) => {
                    // No stream has messages that could be cut short.
                    let first = reply(&mut c, result, &size(count))?;
                    Ok(answer(first.and(reply(&mut c, told, &[0, 0])?)))
                }
                Err(errno) => Ok(answer(Err(errno))),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "sock_send", |mut c: C<'_>, (fd, list, count, flags, result)| {
        Box::new(async move {
            let connection = match connected(&c, fd) {
                Some(Ok(connection)) => connection,
                Some(Err(errno)) => return Ok(answer(Err(errno))),
                None => return theirs!(now c, sock_send, fd, list, count, flags, result),
            };
            let sent = send(&mut c, &connection, list, count).await?;
            counted(&mut c, result, sent)
        })
    })?;
    linker.func_wrap(MODULE, "sock_shutdown", |mut c: C<'_>, fd: i32, how: i32| -> wasmtime::Result<i32> {
        // `sdflags`.
        let direction = match how {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Ok(answer(Err(Errno::INVAL))),
        };
        match ours(&c, fd) {
            Some(Ours::Listener(listener)) => Ok(answer(listener.shutdown(direction))),
            Some(Ours::Connection(connection)) => Ok(answer(connection.shutdown(direction))),
            Some(Ours::Stream(_)) => Ok(answer(Err(Errno::NOTSOCK))),
            None => theirs!(now c, sock_shutdown, fd, how),
        }
    })?;
    Ok(())
}

fn connected(caller: &Caller<'_, ModuleState>, fd: i32) -> Option<Result<Arc<Connection>, Errno>> {
    Some(match ours(caller, fd)? {
        Ours::Connection(connection) => Ok(connection),
        Ours::Listener(_) => Err(Errno::NOTCONN),
        Ours::Stream(_) => Err(Errno::NOTSOCK),
    })
}

async fn accept(caller: &mut Caller<'_, ModuleState>, listener: &Listener, flags: i32) -> Result<u32, Errno> {
    let accepted = listener.accept(listener.mode.waits()).await;
    match &accepted {
        Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
            // Once, until there is room again: a server asks again and again.
            if !listener.told.swap(true, Ordering::Relaxed) {
                let line = format!("a connection waits outside: {errno}\n");
                let _ = caller.data().output.write(Channel::Diagnostic, line.as_bytes());
            }
        }
        Ok(_) => listener.told.store(false, Ordering::Relaxed),
        Err(_) => {}
    }
    let connection = accepted?;
    connection.mode.set_waits(flags & NONBLOCK == 0);
    caller.data_mut().descriptors.push(Ours::Connection(Arc::new(connection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_taken_from_the_front() {
        let mut places = [(10, 4), (20, 0), (30, 6)];
        advance(&mut places, 5);
        assert_eq!(places, [(14, 0), (20, 0), (31, 5)]);
    }
}
