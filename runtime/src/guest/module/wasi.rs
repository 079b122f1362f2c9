//! The functions of WASI 0.1 that read, write and describe a descriptor, over the crate's: ours are answered here, all
//! others there.

use super::memory::{self, address, answer, errno_of, gather, put, scatter};
use super::socket::Mode;
use super::stream::{MOST, OpenFile, Stream};
use super::{ModuleState, Ours, sock};
use crate::guest::account::Metered;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::GuestMemory;

/// The module's name of WASI 0.1.
pub const MODULE: &str = "wasi_snapshot_preview1";
// `fdflags`.
pub(super) const APPEND: i32 = 1;
pub(super) const NONBLOCK: i32 = 4;
// `filetype` (typenames.witx).
const UNKNOWN: u8 = 0;
const CHARACTER_DEVICE: u8 = 2;
const REGULAR_FILE: u8 = 4;
const SOCKET_STREAM: u8 = 6;
// `rights`: those that are asked after.
const FD_READ: u64 = 1 << 1;
const FD_SEEK: u64 = 1 << 2 | 1 << 5;
const FDSTAT_SET_FLAGS: u64 = 1 << 3;
const FD_WRITE: u64 = 1 << 6;
const FD_FILESTAT_GET: u64 = 1 << 21;
const POLL_FD_READWRITE: u64 = 1 << 27;
const SOCK_SHUTDOWN: u64 = 1 << 28;
const SOCK_ACCEPT: u64 = 1 << 29;

/// Calls the crate's function of this name, and waits for it if it is one to wait for.
macro_rules! theirs {
    ($caller:ident, $function:ident $(, $argument:expr)* => $($wait:tt)*) => {{
        let fuel = wasmtime::AsContextMut::as_context_mut(&mut $caller).hostcall_fuel();
        let memory = $crate::guest::module::memory::memory(&mut $caller)?;
        let (bytes, state) = memory.data_and_store_mut(&mut $caller);
        wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1::set_hostcall_fuel(&mut state.wasi, fuel);
        let mut memory = wiggle::GuestMemory::Unshared(bytes);
        wasmtime_wasi::p1::wasi_snapshot_preview1::$function(&mut state.wasi, &mut memory $(, $argument)*)$($wait)*
    }};
    (now $caller:ident, $($rest:tt)*) => { theirs!($caller, $($rest)* =>) };
    ($caller:ident, $($rest:tt)*) => { theirs!($caller, $($rest)* => .await) };
}

pub(super) use theirs;

pub(super) fn ours(caller: &Caller<'_, ModuleState>, number: i32) -> Option<Ours> {
    caller.data().descriptors.get(number.cast_unsigned()).cloned()
}

/// Puts an answer of the host into the module's memory.
pub fn reply(caller: &mut Caller<'_, ModuleState>, at: i32, bytes: &[u8]) -> wasmtime::Result<Result<(), Errno>> {
    let memory = memory::memory(caller)?;
    Ok(put(memory.data_mut(&mut *caller), address(at), bytes))
}

/// A size of WASI.
pub(super) fn size(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}

/// Reads into or writes from a list of buffers; at `offset` if there is one.
async fn transfer(
    caller: &mut Caller<'_, ModuleState>,
    stream: &Stream,
    (list, count, result): (i32, i32, i32),
    writes: bool,
    offset: Option<i64>,
) -> wasmtime::Result<i32> {
    let memory = memory::memory(caller)?;
    let data = memory.data(&*caller);
    let buffers = match memory::buffers(data, list, count) {
        Ok(buffers) => buffers,
        Err(errno) => return Ok(answer(Err(errno))),
    };
    let done = if writes {
        match gather(data, &buffers, if offset.is_some() { MOST } else { usize::MAX }) {
            Ok(bytes) => match (room(caller, stream.open_file().map(|open| &*open.file), bytes.len()), offset) {
                (Err(errno), _) => Err(errno.into()),
                (Ok(()), None) => stream.write(&bytes).await,
                (Ok(()), Some(offset)) => at_offset(stream, |open| open.file.write_at(&bytes, offset.cast_unsigned())),
            },
            Err(errno) => Err(errno.into()),
        }
    } else {
        let most = buffers.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length)).min(MOST);
        let bytes = match offset {
            None => stream.read_or_interrupt(most).await,
            Some(offset) => {
                let mut bytes = vec![0; most];
                at_offset(stream, |open| open.file.read_at(&mut bytes, offset.cast_unsigned())).map(|count| {
                    bytes.truncate(count);
                    bytes
                })
            }
        };
        bytes.and_then(|bytes| Ok(scatter(memory.data_mut(&mut *caller), &buffers, &bytes).map(|()| bytes.len())?))
    };
    counted(caller, result, done.map_err(|e| errno_of(&e)))
}

/// Charges bytes that are about to be written to a file, where the container's layer has a limit.
fn room(caller: &mut Caller<'_, ModuleState>, file: Option<&File>, bytes: usize) -> Result<(), Errno> {
    match (caller.data_mut().meter().account().storage(), file) {
        (Some(storage), Some(file)) => storage.take(file, bytes as u64),
        _ => Ok(()),
    }
}

/// The same of a file that the crate has opened, by its number and the list of buffers.
fn room_of_theirs(
    caller: &mut Caller<'_, ModuleState>,
    fd: i32,
    list: i32,
    count: i32,
) -> wasmtime::Result<Result<(), Errno>> {
    if caller.data_mut().meter().account().storage().is_none() {
        return Ok(Ok(()));
    }
    let memory = memory::memory(caller)?;
    // A list that is not there is the crate's to refuse.
    let buffers = memory::buffers(memory.data(&*caller), list, count).unwrap_or_default();
    let bytes = buffers.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length));
    let file = caller.data_mut().their_file(fd.cast_unsigned());
    Ok(room(caller, file.as_deref(), bytes))
}

/// Charges what a file that the crate has opened grows by when it gets this length.
fn resize_theirs(caller: &mut Caller<'_, ModuleState>, fd: i32, length: u64) -> Result<(), Errno> {
    let file = caller.data_mut().their_file(fd.cast_unsigned());
    match (caller.data_mut().meter().account().storage(), file) {
        (Some(storage), Some(file)) => storage.resize(&file, length),
        _ => Ok(()),
    }
}

/// An operation that leaves the position alone, which only a file has.
fn at_offset<T>(stream: &Stream, act: impl FnOnce(&OpenFile) -> std::io::Result<T>) -> std::io::Result<T> {
    act(stream.open_file().ok_or(Errno::SPIPE)?)
}

/// The same for whatever it is.
fn on_file<T>(ours: &Ours, act: impl FnOnce(&OpenFile) -> std::io::Result<T>) -> std::io::Result<T> {
    match ours {
        Ours::Stream(stream) => at_offset(stream, act),
        Ours::Listener(_) | Ours::Connection(_) => Err(Errno::SPIPE.into()),
    }
}

/// Puts our descriptors between modules and the crate's functions.
pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "fd_read", |mut c: C<'_>, (fd, list, count, result): (i32, i32, i32, i32)| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(Ours::Stream(stream)) => transfer(&mut c, &stream, (list, count, result), false, None).await,
                Some(Ours::Connection(connection)) => {
                    let received = sock::receive(&mut c, &connection, list, count, RecvFlags::empty()).await?;
                    counted(&mut c, result, received)
                }
                Some(Ours::Listener(_)) => Ok(answer(Err(Errno::NOTCONN))),
                None => theirs!(c, fd_read, fd, list, count, result),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_write", |mut c: C<'_>, (fd, list, count, result): (i32, i32, i32, i32)| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(Ours::Stream(stream)) => transfer(&mut c, &stream, (list, count, result), true, None).await,
                Some(Ours::Connection(connection)) => {
                    let sent = sock::send(&mut c, &connection, list, count).await?;
                    counted(&mut c, result, sent)
                }
                Some(Ours::Listener(_)) => Ok(answer(Err(Errno::NOTCONN))),
                None => match room_of_theirs(&mut c, fd, list, count)? {
                    Ok(()) => theirs!(c, fd_write, fd, list, count, result),
                    refused => Ok(answer(refused)),
                },
            }
        })
    })?;
    type At = (i32, i32, i32, i64, i32);
    linker.func_wrap_async(MODULE, "fd_pread", |mut c: C<'_>, (fd, list, count, offset, result): At| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(Ours::Stream(stream)) => {
                    transfer(&mut c, &stream, (list, count, result), false, Some(offset)).await
                }
                Some(_) => Ok(answer(Err(Errno::SPIPE))),
                None => theirs!(c, fd_pread, fd, list, count, offset, result),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_pwrite", |mut c: C<'_>, (fd, list, count, offset, result): At| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(Ours::Stream(stream)) => {
                    transfer(&mut c, &stream, (list, count, result), true, Some(offset)).await
                }
                Some(_) => Ok(answer(Err(Errno::SPIPE))),
                None => match room_of_theirs(&mut c, fd, list, count)? {
                    Ok(()) => theirs!(c, fd_pwrite, fd, list, count, offset, result),
                    refused => Ok(answer(refused)),
                },
            }
        })
    })?;
    shadow_positions(linker)?;
    shadow_status(linker)
}

/// Answers how many bytes it was.
pub(super) fn counted(
    caller: &mut Caller<'_, ModuleState>,
    result: i32,
    count: Result<usize, Errno>,
) -> wasmtime::Result<i32> {
    Ok(match count {
        Ok(count) => answer(reply(caller, result, &size(count))?),
        Err(errno) => answer(Err(errno)),
    })
}

fn shadow_positions(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "fd_seek", |mut c: C<'_>, (fd, offset, whence, result): (i32, i64, i32, i32)| {
        Box::new(async move {
            let Some(stream) = ours(&c, fd) else { return theirs!(c, fd_seek, fd, offset, whence, result) };
            match on_file(&stream, |open| Ok(seek(open, offset, whence)?)) {
                Ok(position) => Ok(answer(reply(&mut c, result, &position.to_le_bytes())?)),
                Err(error) => Ok(answer(Err(errno_of(&error)))),
            }
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |mut c: C<'_>, fd: i32, result: i32| -> wasmtime::Result<i32> {
        let Some(stream) = ours(&c, fd) else { return theirs!(now c, fd_tell, fd, result) };
        match on_file(&stream, |open| Ok(seek(open, 0, 1)?)) {
            Ok(position) => Ok(answer(reply(&mut c, result, &position.to_le_bytes())?)),
            Err(error) => Ok(answer(Err(errno_of(&error)))),
        }
    })?;
    for (name, only_data) in [("fd_sync", false), ("fd_datasync", true)] {
        linker.func_wrap_async(MODULE, name, move |mut c: C<'_>, (fd,): (i32,)| {
            Box::new(async move {
                match ours(&c, fd) {
                    Some(Ours::Stream(Stream::File(open))) => {
                        let done = if only_data { open.file.sync_data() } else { open.file.sync_all() };
                        Ok(answer(done.map_err(|e| errno_of(&e))))
                    }
                    Some(_) => Ok(answer(Err(Errno::INVAL))),
                    None if only_data => theirs!(c, fd_datasync, fd),
                    None => theirs!(c, fd_sync, fd),
                }
            })
        })?;
    }
    Ok(())
}

/// Moves the position (`whence`: 0 from the start, 1 from here, 2 from the end).
fn seek(open: &OpenFile, offset: i64, whence: i32) -> Result<u64, Errno> {
    let mut position = open.position.lock().unwrap_or_else(PoisonError::into_inner);
    let base = match whence {
        0 => 0,
        1 => *position,
        2 => open.file.metadata().map_err(|e| errno_of(&e))?.len(),
        _ => return Err(Errno::INVAL),
    };
    *position = base.checked_add_signed(offset).ok_or(Errno::INVAL)?;
    Ok(*position)
}

fn shadow_status(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "fd_fdstat_get", |mut c: C<'_>, (fd, result): (i32, i32)| {
        Box::new(async move {
            let Some(stream) = ours(&c, fd) else { return theirs!(c, fd_fdstat_get, fd, result) };
            Ok(answer(reply(&mut c, result, &fdstat(&stream))?))
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_filestat_get", |mut c: C<'_>, (fd, result): (i32, i32)| {
        Box::new(async move {
            let Some(stream) = ours(&c, fd) else { return theirs!(c, fd_filestat_get, fd, result) };
            match filestat(&stream) {
                Ok(bytes) => Ok(answer(reply(&mut c, result, &bytes)?)),
                Err(error) => Ok(answer(Err(errno_of(&error)))),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_filestat_set_size", |mut c: C<'_>, (fd, length): (i32, i64)| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(Ours::Stream(Stream::File(open))) if open.write => {
                    let length = length.cast_unsigned();
                    let room = match c.data_mut().meter().account().storage() {
                        Some(storage) => storage.resize(&open.file, length),
                        None => Ok(()),
                    };
                    Ok(answer(room.and_then(|()| open.file.set_len(length).map_err(|e| errno_of(&e)))))
                }
                Some(_) => Ok(answer(Err(Errno::INVAL))),
                None => match resize_theirs(&mut c, fd, length.cast_unsigned()) {
                    Ok(()) => theirs!(c, fd_filestat_set_size, fd, length),
                    refused => Ok(answer(refused)),
                },
            }
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |mut c: C<'_>, fd: i32, flags: i32| -> wasmtime::Result<i32> {
        match ours(&c, fd) {
            None => {}
            // Not to wait is the one flag that a stream could have, and a program that sets it also does without.
            Some(Ours::Stream(_)) => {
                return Ok(answer(if flags & APPEND == 0 { Ok(()) } else { Err(Errno::NOTSUP) }));
            }
            Some(Ours::Listener(listener)) => return Ok(answer(set_mode(&listener.mode, flags))),
            Some(Ours::Connection(connection)) => return Ok(answer(set_mode(&connection.mode, flags))),
        }
        let done = theirs!(now c, fd_fdstat_set_flags, fd, flags)?;
        if let (0, Some(opened)) = (done, c.data_mut().descriptors.opened.get_mut(&fd.cast_unsigned())) {
            opened.append = flags & APPEND != 0;
        }
        Ok(done)
    })?;
    Ok(())
}

/// The flags of a socket: not to wait is the only one.
fn set_mode(mode: &Mode, flags: i32) -> Result<(), Errno> {
    if flags & !NONBLOCK != 0 {
        return Err(Errno::INVAL);
    }
    mode.set_waits(flags & NONBLOCK == 0);
    Ok(())
}

/// `fdstat`: the type, the flags, the rights and the inherited rights (24 bytes).
fn fdstat(ours: &Ours) -> [u8; 24] {
    const SOCKET: u64 = FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL_FD_READWRITE | SOCK_SHUTDOWN;
    const CONNECTION: u64 = SOCKET | FD_READ | FD_WRITE;
    let flags_of = |mode: &Mode| if mode.waits() { 0 } else { NONBLOCK };
    let (kind, flags, rights, inherited) = match ours {
        Ours::Stream(stream) => {
            let (kind, flags, rights) = stream_fdstat(stream);
            (kind, flags, rights, rights)
        }
        // What it accepts inherits.
        Ours::Listener(listener) => (SOCKET_STREAM, flags_of(&listener.mode), SOCKET | SOCK_ACCEPT, CONNECTION),
        Ours::Connection(connection) => (SOCKET_STREAM, flags_of(&connection.mode), CONNECTION, CONNECTION),
    };
    let mut bytes = [0; 24];
    bytes[0] = kind;
    bytes[2] = flags.to_le_bytes()[0];
    bytes[8..16].copy_from_slice(&rights.to_le_bytes());
    bytes[16..24].copy_from_slice(&inherited.to_le_bytes());
    bytes
}

fn stream_fdstat(stream: &Stream) -> (u8, i32, u64) {
    match stream {
        Stream::File(open) => {
            let rights = if open.read { FD_READ } else { 0 } | if open.write { FD_WRITE } else { 0 } | FD_SEEK;
            (REGULAR_FILE, if open.append { APPEND } else { 0 }, rights)
        }
        // By its type, and that it has no position, a C library knows a terminal.
        Stream::Null => (UNKNOWN, 0, FD_READ | FD_WRITE),
        Stream::Reader(_) | Stream::Input(_) => (kind_of(stream), 0, FD_READ),
        Stream::Writer(_) | Stream::Output(_) | Stream::Handed(_) => (kind_of(stream), 0, FD_WRITE),
    }
}

fn kind_of(stream: &Stream) -> u8 {
    if stream.at_terminal() { CHARACTER_DEVICE } else { UNKNOWN }
}

/// `filestat`: device, inode, type, links, size and three times (64 bytes).
fn filestat(ours: &Ours) -> std::io::Result<[u8; 64]> {
    let mut bytes = [0; 64];
    let Ours::Stream(stream) = ours else {
        bytes[16] = SOCKET_STREAM;
        return Ok(bytes);
    };
    let Some(open) = stream.open_file() else {
        bytes[16] = kind_of(stream);
        return Ok(bytes);
    };
    let meta = open.file.metadata()?;
    let time = |seconds: i64, nanos: i64| (seconds * 1_000_000_000 + nanos).cast_unsigned();
    let is_file = FileType::from_raw_mode(meta.mode()) == FileType::RegularFile;
    let fields = [
        1,
        meta.ino(),
        u64::from(if is_file { REGULAR_FILE } else { UNKNOWN }),
        meta.nlink(),
        meta.size(),
        time(meta.atime(), meta.atime_nsec()),
        time(meta.mtime(), meta.mtime_nsec()),
        time(meta.ctime(), meta.ctime_nsec()),
    ];
    for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    Ok(bytes)
}

/// What a descriptor stands for, for another process.
pub fn share(caller: &mut Caller<'_, ModuleState>, number: i32) -> wasmtime::Result<Result<Stream, Errno>> {
    match ours(caller, number) {
        Some(Ours::Stream(stream)) => return Ok(Ok(stream)),
        // Its readiness is told to the thread of the program that it belongs to.
        Some(Ours::Listener(_) | Ours::Connection(_)) => return Ok(Err(Errno::NOTSUP)),
        None => {}
    }
    // The crate says a file's position by writing it into the module's memory; where nothing is overwritten it can say
    // it through its own trait.
    let number = number.cast_unsigned();
    let memory = memory::memory(caller)?;
    let (bytes, state) = memory.data_and_store_mut(&mut *caller);
    let position = state.wasi.fd_tell(&mut GuestMemory::Unshared(bytes), number.into());
    Ok(match position {
        Ok(position) => state.share(number, position),
        Err(_) => Err(Errno::BADF),
    })
}
