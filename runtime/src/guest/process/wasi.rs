//! The functions of WASI 0.1 that take a descriptor, over the crate's: ours are answered here, all others there.

use super::memory::{self, address, answer, errno_of, gather, put, scatter};
use super::module::{ModuleState, Opened};
use super::stream::{MOST, OpenFile, Stream};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;
use wasmtime::component::Resource;
use wasmtime::{AsContextMut, Caller, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as theirs, WasiSnapshotPreview1};
use wiggle::GuestMemory;

/// The module's name of WASI 0.1.
pub const MODULE: &str = "wasi_snapshot_preview1";
const EBADF: i32 = 8;
/// `fdflags::append`.
const APPEND: i32 = 1;
// `filetype` (typenames.witx).
const UNKNOWN: u8 = 0;
const REGULAR_FILE: u8 = 4;
// `rights`: those that are asked after.
const FD_READ: u64 = 1 << 1;
const FD_SEEK: u64 = 1 << 2 | 1 << 5;
const FD_WRITE: u64 = 1 << 6;

/// Calls the crate's function of this name, and waits for it if it is one to wait for.
macro_rules! theirs {
    ($caller:ident, $function:ident $(, $argument:expr)* => $($wait:tt)*) => {{
        let fuel = $caller.as_context_mut().hostcall_fuel();
        let memory = memory::memory(&mut $caller)?;
        let (bytes, state) = memory.data_and_store_mut(&mut $caller);
        state.wasi.set_hostcall_fuel(fuel);
        let mut memory = GuestMemory::Unshared(bytes);
        theirs::$function(&mut state.wasi, &mut memory $(, $argument)*)$($wait)*
    }};
    (now $caller:ident, $($rest:tt)*) => { theirs!($caller, $($rest)* =>) };
    ($caller:ident, $($rest:tt)*) => { theirs!($caller, $($rest)* => .await) };
}

fn ours(caller: &Caller<'_, ModuleState>, number: i32) -> Option<Stream> {
    caller.data().descriptors.get(number.cast_unsigned()).cloned()
}

/// Puts an answer of the host into the module's memory.
pub(super) fn reply(
    caller: &mut Caller<'_, ModuleState>,
    at: i32,
    bytes: &[u8],
) -> wasmtime::Result<Result<(), Errno>> {
    let memory = memory::memory(caller)?;
    Ok(put(memory.data_mut(&mut *caller), address(at), bytes))
}

/// A size of WASI.
fn size(count: usize) -> [u8; 4] {
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
            Ok(bytes) => match offset {
                None => stream.write(&bytes).await,
                Some(offset) => at_offset(stream, |open| open.file.write_at(&bytes, offset.cast_unsigned())),
            },
            Err(errno) => Err(errno.into()),
        }
    } else {
        let most = buffers.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length)).min(MOST);
        let bytes = match offset {
            None => stream.read(most).await,
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
    Ok(match done {
        Ok(count) => answer(reply(caller, result, &size(count))?),
        Err(error) => answer(Err(errno_of(&error))),
    })
}

/// An operation that leaves the position alone, which only a file has.
fn at_offset<T>(stream: &Stream, act: impl FnOnce(&OpenFile) -> std::io::Result<T>) -> std::io::Result<T> {
    act(stream.open_file().ok_or(Errno::SPIPE)?)
}

/// Puts our descriptors between modules and the crate's functions.
pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "fd_read", |mut c: C<'_>, (fd, list, count, result): (i32, i32, i32, i32)| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(stream) => transfer(&mut c, &stream, (list, count, result), false, None).await,
                None => theirs!(c, fd_read, fd, list, count, result),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_write", |mut c: C<'_>, (fd, list, count, result): (i32, i32, i32, i32)| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(stream) => transfer(&mut c, &stream, (list, count, result), true, None).await,
                None => theirs!(c, fd_write, fd, list, count, result),
            }
        })
    })?;
    type At = (i32, i32, i32, i64, i32);
    linker.func_wrap_async(MODULE, "fd_pread", |mut c: C<'_>, (fd, list, count, offset, result): At| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(stream) => transfer(&mut c, &stream, (list, count, result), false, Some(offset)).await,
                None => theirs!(c, fd_pread, fd, list, count, offset, result),
            }
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_pwrite", |mut c: C<'_>, (fd, list, count, offset, result): At| {
        Box::new(async move {
            match ours(&c, fd) {
                Some(stream) => transfer(&mut c, &stream, (list, count, result), true, Some(offset)).await,
                None => theirs!(c, fd_pwrite, fd, list, count, offset, result),
            }
        })
    })?;
    shadow_positions(linker)?;
    shadow_status(linker)?;
    shadow_table(linker)
}

fn shadow_positions(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "fd_seek", |mut c: C<'_>, (fd, offset, whence, result): (i32, i64, i32, i32)| {
        Box::new(async move {
            let Some(stream) = ours(&c, fd) else { return theirs!(c, fd_seek, fd, offset, whence, result) };
            match at_offset(&stream, |open| Ok(seek(open, offset, whence)?)) {
                Ok(position) => Ok(answer(reply(&mut c, result, &position.to_le_bytes())?)),
                Err(error) => Ok(answer(Err(errno_of(&error)))),
            }
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |mut c: C<'_>, fd: i32, result: i32| -> wasmtime::Result<i32> {
        let Some(stream) = ours(&c, fd) else { return theirs!(now c, fd_tell, fd, result) };
        match at_offset(&stream, |open| Ok(seek(open, 0, 1)?)) {
            Ok(position) => Ok(answer(reply(&mut c, result, &position.to_le_bytes())?)),
            Err(error) => Ok(answer(Err(errno_of(&error)))),
        }
    })?;
    for (name, only_data) in [("fd_sync", false), ("fd_datasync", true)] {
        linker.func_wrap_async(MODULE, name, move |mut c: C<'_>, (fd,): (i32,)| {
            Box::new(async move {
                match ours(&c, fd) {
                    Some(Stream::File(open)) => {
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
                Some(Stream::File(open)) if open.write => {
                    Ok(answer(open.file.set_len(length.cast_unsigned()).map_err(|e| errno_of(&e))))
                }
                Some(_) => Ok(answer(Err(Errno::INVAL))),
                None => theirs!(c, fd_filestat_set_size, fd, length),
            }
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |mut c: C<'_>, fd: i32, flags: i32| -> wasmtime::Result<i32> {
        if ours(&c, fd).is_some() {
            // Not to wait is the one flag that a stream could have, and a program that sets it also does without.
            return Ok(answer(if flags & APPEND == 0 { Ok(()) } else { Err(Errno::NOTSUP) }));
        }
        let done = theirs!(now c, fd_fdstat_set_flags, fd, flags)?;
        if let (0, Some(opened)) = (done, c.data_mut().descriptors.opened.get_mut(&fd.cast_unsigned())) {
            opened.append = flags & APPEND != 0;
        }
        Ok(done)
    })?;
    Ok(())
}

/// `fdstat`: the type, the flags, the rights and the inherited rights (24 bytes).
fn fdstat(stream: &Stream) -> [u8; 24] {
    let (kind, append, rights) = match stream {
        Stream::File(open) => {
            let rights = if open.read { FD_READ } else { 0 } | if open.write { FD_WRITE } else { 0 } | FD_SEEK;
            (REGULAR_FILE, open.append, rights)
        }
        Stream::Null => (UNKNOWN, false, FD_READ | FD_WRITE),
        Stream::Reader(_) | Stream::Input(_) => (UNKNOWN, false, FD_READ),
        Stream::Writer(_) | Stream::Output(_) => (UNKNOWN, false, FD_WRITE),
    };
    let mut bytes = [0; 24];
    bytes[0] = kind;
    bytes[2] = u8::from(append);
    bytes[8..16].copy_from_slice(&rights.to_le_bytes());
    bytes[16..24].copy_from_slice(&rights.to_le_bytes());
    bytes
}

/// `filestat`: device, inode, type, links, size and three times (64 bytes).
fn filestat(stream: &Stream) -> std::io::Result<[u8; 64]> {
    let mut bytes = [0; 64];
    let Some(open) = stream.open_file() else { return Ok(bytes) };
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

type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

fn shadow_table(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut c: C<'_>, (dir, follow, path, length, oflags, rights, inherited, flags, result): Open| {
            Box::new(async move {
                // The crate tells the number of the new descriptor and not where its table has it: in the place that
                // is free first. That it is there, and was not before, shows that it is the one.
                let table = c.data_mut().wasi.ctx().table;
                let probe = table.push(())?;
                let resource = probe.rep();
                table.delete(probe)?;
                let (a, b) = (rights, inherited);
                let done = theirs!(c, path_open, dir, follow, path, length, oflags, a, b, flags, result)?;
                if done == 0 {
                    let memory = memory::memory(&mut c)?;
                    let number = memory::number(memory.data(&c), address(result), 4).unwrap_or(u64::MAX);
                    let state = c.data_mut();
                    let found = state.wasi.ctx().table.get(&Resource::<Descriptor>::new_borrow(resource)).is_ok();
                    if let (true, Ok(number)) = (found, u32::try_from(number)) {
                        let append = flags & APPEND != 0;
                        state.descriptors.opened.insert(number, Opened { resource, append });
                    }
                }
                Ok(done)
            })
        },
    )?;
    linker.func_wrap_async(MODULE, "fd_close", |mut c: C<'_>, (fd,): (i32,)| {
        Box::new(async move {
            let descriptors = &mut c.data_mut().descriptors;
            descriptors.opened.remove(&fd.cast_unsigned());
            let had = descriptors.take(fd.cast_unsigned()).is_some();
            let done = theirs!(c, fd_close, fd)?;
            Ok(if had && done == EBADF { 0 } else { done })
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_renumber", |mut c: C<'_>, (from, to): (i32, i32)| {
        Box::new(async move {
            let crate_has_to = theirs!(c, fd_renumber, to, to)? == 0;
            if !crate_has_to && ours(&c, to).is_none() {
                return Ok(EBADF);
            }
            let (source, target) = (from.cast_unsigned(), to.cast_unsigned());
            if ours(&c, from).is_none() && !crate_has_to {
                // A file of the crate's gets a number that only we have, so it becomes ours.
                if let Err(errno) = share(&mut c, from)? {
                    return Ok(answer(Err(errno)));
                }
            }
            if from == to {
                return Ok(0);
            }
            let descriptors = &mut c.data_mut().descriptors;
            let Some(stream) = descriptors.take(source) else {
                let done = theirs!(c, fd_renumber, from, to)?;
                if done == 0 {
                    let descriptors = &mut c.data_mut().descriptors;
                    descriptors.take(target);
                    descriptors.opened.remove(&target);
                    if let Some(opened) = descriptors.opened.remove(&source) {
                        descriptors.opened.insert(target, opened);
                    }
                }
                return Ok(done);
            };
            descriptors.set(target, stream);
            descriptors.opened.remove(&source);
            let done = theirs!(c, fd_close, from)?;
            Ok(if done == EBADF { 0 } else { done })
        })
    })?;
    Ok(())
}

/// What a descriptor stands for, for another process.
pub(super) fn share(caller: &mut Caller<'_, ModuleState>, number: i32) -> wasmtime::Result<Result<Stream, Errno>> {
    if let Some(stream) = ours(caller, number) {
        return Ok(Ok(stream));
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
