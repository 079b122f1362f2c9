//! The functions of WASI 0.1 that open, close and renumber descriptors, and those that take a directory, over the
//! crate's.

use super::memory::{self, address, answer};
use super::wasi::{APPEND, MODULE, ours, reply, share, theirs};
use super::{ModuleState, Opened, Ours};
use rustix::io::Errno;
use wasmtime::component::Resource;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;

const EBADF: i32 = 8;
const EIO: i32 = 29;
const EROFS: i32 = 69;
/// A `preopentype` that is none: 0 is a directory, and a C library skips what it does not know.
const NO_DIRECTORY: u8 = 1;

type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

pub(super) fn shadow(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut c: C<'_>, (dir, follow, path, length, oflags, rights, inherited, flags, result): Open| {
            Box::new(async move {
                if ours(&c, dir).is_some() {
                    return Ok(answer(Err(Errno::NOTDIR)));
                }
                if c.data().descriptors.is_full() {
                    return Ok(answer(Err(Errno::MFILE)));
                }
                // The crate tells the number of the new descriptor and not where its table has it: in the place that
                // is free first. That it is there, and was not before, shows that it is the one.
                let table = c.data_mut().wasi.ctx().table;
                let probe = table.push(())?;
                let resource = probe.rep();
                table.delete(probe)?;
                let (a, b) = (rights, inherited);
                let done = theirs!(c, path_open, dir, follow, path, length, oflags, a, b, flags, result)?;
                let done = told(&mut c, done, dir, path, length)?;
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
    shadow_prestat(linker)?;
    shadow_directories(linker)
}

/// What a program is handed is looked for from 3 up, until there is nothing more: a listening socket is something, but
/// no directory. (An error but EBADF ends a program of wasi-libc.)
fn shadow_prestat(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap(MODULE, "fd_prestat_get", |mut c: C<'_>, fd: i32, result: i32| -> wasmtime::Result<i32> {
        match ours(&c, fd) {
            Some(Ours::Listener(_)) => Ok(answer(reply(&mut c, result, &[NO_DIRECTORY, 0, 0, 0, 0, 0, 0, 0])?)),
            Some(_) => Ok(EBADF),
            None => theirs!(now c, fd_prestat_get, fd, result),
        }
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |mut c: C<'_>, fd: i32, path: i32, length: i32| {
        match ours(&c, fd) {
            Some(_) => Ok(answer(Err(Errno::NOTDIR))),
            None => theirs!(now c, fd_prestat_dir_name, fd, path, length),
        }
    })?;
    Ok(())
}

/// What a module is told of a path that could not be opened, made or removed: the crate says EIO of every error that it does
/// not know, and so of EROFS.
fn told(caller: &mut Caller<'_, ModuleState>, done: i32, dir: i32, path: i32, length: i32) -> wasmtime::Result<i32> {
    let opened = caller.data().descriptors.opened.contains_key(&dir.cast_unsigned());
    if done != EIO || opened {
        return Ok(done);
    }
    let memory = memory::memory(&mut *caller)?;
    let path = memory::string(memory.data(&*caller), address(path), address(length));
    let is_read_only = path.is_ok_and(|path| caller.data().is_read_only(&path));
    Ok(if is_read_only { EROFS } else { done })
}

/// Functions of directories, which ours are not; the crate may have a place holder of that number.
fn shadow_directories(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    macro_rules! not_ours {
        ($errno:ident: $name:ident($first:ident $(, $argument:ident: $kind:ty)*) of $($directory:ident),+) => {
            linker.func_wrap_async(
                MODULE,
                stringify!($name),
                |mut c: Caller<'_, ModuleState>, ($first, $($argument),*): (i32, $($kind),*)| {
                    Box::new(async move {
                        if $(ours(&c, $directory).is_some())||+ {
                            return Ok(answer(Err(Errno::$errno)));
                        }
                        theirs!(c, $name, $first $(, $argument)*)
                    })
                },
            )?;
        };
        (writes: $name:ident) => {
            linker.func_wrap_async(MODULE, stringify!($name), |mut c: Caller<'_, ModuleState>, (fd, path, length): (i32, i32, i32)| {
                Box::new(async move {
                    if ours(&c, fd).is_some() {
                        return Ok(answer(Err(Errno::NOTDIR)));
                    }
                    let done = theirs!(c, $name, fd, path, length)?;
                    told(&mut c, done, fd, path, length)
                })
            })?;
        };
    }
    not_ours!(writes: path_create_directory);
    not_ours!(NOTDIR: path_filestat_get(fd, flags: i32, path: i32, length: i32, result: i32) of fd);
    not_ours!(NOTDIR: path_filestat_set_times(fd, flags: i32, path: i32, length: i32, a: i64, m: i64, which: i32) of fd);
    not_ours!(NOTDIR: path_link(from, flags: i32, a: i32, b: i32, to: i32, c: i32, d: i32) of from, to);
    not_ours!(NOTDIR: path_readlink(fd, path: i32, length: i32, buffer: i32, size: i32, result: i32) of fd);
    not_ours!(writes: path_remove_directory);
    not_ours!(NOTDIR: path_rename(from, a: i32, b: i32, to: i32, c: i32, d: i32) of from, to);
    not_ours!(NOTDIR: path_symlink(text, size: i32, fd: i32, path: i32, length: i32) of fd);
    not_ours!(writes: path_unlink_file);
    not_ours!(NOTDIR: fd_readdir(fd, buffer: i32, size: i32, cookie: i64, result: i32) of fd);
    not_ours!(SPIPE: fd_advise(fd, offset: i64, length: i64, advice: i32) of fd);
    not_ours!(INVAL: fd_filestat_set_times(fd, a: i64, m: i64, which: i32) of fd);
    Ok(())
}
