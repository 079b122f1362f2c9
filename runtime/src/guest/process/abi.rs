//! The interface itself, as a WASI 0.1 module imports it: `sampan:process/spawn@0.1.0`. Every parameter is an `i32`;
//! every function answers 0 or an `errno` of WASI 0.1. docs/guests.md has it for those who call it.

use super::{MODULE, Request, Wait};
use crate::guest::module::memory::{self, address, answer, number, slice, string, strings};
use crate::guest::module::stream::Stream;
use crate::guest::module::{ModuleState, Ours, reply, share};
use rustix::io::Errno;
use wasmtime::{Caller, Linker};

/// How long arguments and environment may be, each (ARG_MAX of Linux is of this order).
pub(super) const MOST_WORDS: usize = 1 << 20;
/// The number in a descriptor map that stands for no stream.
const NONE: u32 = u32::MAX;

type Spawn = (i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32);

pub(super) fn define(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type C<'a> = Caller<'a, ModuleState>;
    linker.func_wrap_async(MODULE, "spawn", |mut c: C<'_>, parameters: Spawn| {
        Box::new(async move { Ok(answer(spawn(&mut c, parameters).await?)) })
    })?;
    linker.func_wrap(MODULE, "pipe", |mut c: C<'_>, reader: i32, writer: i32| -> wasmtime::Result<i32> {
        let made = c.data().process()?.0.pipe();
        let descriptors = &mut c.data_mut().descriptors;
        let numbers =
            made.and_then(|(r, w)| Ok((descriptors.push(Ours::Stream(r))?, descriptors.push(Ours::Stream(w))?)));
        match numbers {
            Ok((r, w)) => {
                let first = reply(&mut c, reader, &r.to_le_bytes())?;
                Ok(answer(first.and(reply(&mut c, writer, &w.to_le_bytes())?)))
            }
            Err(errno) => Ok(answer(Err(errno))),
        }
    })?;
    linker.func_wrap_async(MODULE, "wait", |mut c: C<'_>, (id, flags, who, code): (i32, i32, i32, i32)| {
        Box::new(async move {
            let (processes, parent) = c.data().process().map(|(processes, id)| (processes.clone(), id))?;
            let child = Some(id.cast_unsigned()).filter(|id| *id != 0);
            let how = if flags & 1 == 0 { Wait::Long } else { Wait::Look };
            match processes.wait(parent, child, how).await {
                Ok(ended) => {
                    let (id, exit) = ended.unwrap_or((0, 0));
                    let first = reply(&mut c, who, &id.to_le_bytes())?;
                    Ok(answer(first.and(reply(&mut c, code, &u32::from(exit).to_le_bytes())?)))
                }
                Err(errno) => Ok(answer(Err(errno))),
            }
        })
    })?;
    linker.func_wrap(MODULE, "kill", |c: C<'_>, id: i32, signal: i32| -> wasmtime::Result<i32> {
        let Ok(signal) = u8::try_from(signal) else { return Ok(answer(Err(Errno::INVAL))) };
        Ok(answer(c.data().process()?.0.kill(id.cast_unsigned(), signal)))
    })?;
    linker.func_wrap(MODULE, "id", |c: C<'_>| -> wasmtime::Result<i32> { Ok(c.data().process()?.1.cast_signed()) })?;
    Ok(())
}

async fn spawn(
    caller: &mut Caller<'_, ModuleState>,
    (path, path_length, args, arg_count, env, env_count, cwd, cwd_length, map, map_count, result): Spawn,
) -> wasmtime::Result<Result<(), Errno>> {
    let memory = memory::memory(caller)?;
    let data = memory.data(&*caller);
    let read = || -> Result<(Request, Vec<(u32, u32)>), Errno> {
        let request = Request {
            path: string(data, address(path), address(path_length))?,
            args: strings(data, args, arg_count, MOST_WORDS)?,
            env: strings(data, env, env_count, MOST_WORDS)?,
            cwd: string(data, address(cwd), address(cwd_length))?,
            stdio: [None, None, None],
        };
        if !request.cwd.starts_with('/') {
            return Err(Errno::INVAL);
        }
        // Where a module's other descriptors come from, its library looks for directories, so there are three.
        let count = address(map_count);
        if count > 3 {
            return Err(Errno::NOTSUP);
        }
        let array = slice(data, address(map), count * 8)?;
        let word = |at| number(array, at, 4).map(|n| u32::try_from(n).unwrap_or(NONE));
        let pairs = (0..count).map(|n| Ok((word(n * 8)?, word(n * 8 + 4)?))).collect::<Result<_, Errno>>()?;
        Ok((request, pairs))
    };
    let (mut request, pairs) = match read() {
        Ok(read) => read,
        Err(errno) => return Ok(Err(errno)),
    };
    for (theirs, ours) in pairs {
        let stream = match ours {
            NONE => Stream::Null,
            ours => match share(caller, ours.cast_signed())? {
                Ok(stream) => stream,
                Err(errno) => return Ok(Err(errno)),
            },
        };
        match request.stdio.get_mut(theirs as usize) {
            Some(place) => *place = Some(stream),
            None => return Ok(Err(Errno::NOTSUP)),
        }
    }
    let (processes, parent) = caller.data().process().map(|(processes, id)| (processes.clone(), id))?;
    match processes.spawn(parent, request).await {
        Ok(id) => reply(caller, result, &id.to_le_bytes()),
        Err(errno) => Ok(Err(errno)),
    }
}
