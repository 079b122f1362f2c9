//! The interface as a component imports it: `samples/process/wit/process.wit` says what each function does. It works on
//! the same processes and the same streams as that of modules.

use super::abi::MOST_WORDS;
use super::{MODULE, Processes, Request, Wait};
use crate::guest::module::stream::{OpenFile, Stream};
use crate::guest::state::{ComponentState, Stdio};
use rustix::io::Errno;
use std::sync::{Arc, Mutex};
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTable, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::cli::{StdinStream, StdoutStream};
use wasmtime_wasi::filesystem::{Descriptor, OpenMode};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, Pollable, subscribe};

/// How many handles a component may have, as a module may have pipes.
const MOST_HANDLES: usize = 1024;

/// A component that is a process: the table that it is in, its number there and its standard streams.
#[derive(Debug)]
pub struct Member {
    /// The processes of its container.
    pub processes: Processes,
    /// Its own number.
    pub id: u32,
    /// Its working directory.
    pub cwd: String,
    /// Its streams, to be handed on.
    pub stdio: Stdio,
}

/// `error-code` of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
enum ErrorCode {
    #[component(name = "not-permitted")]
    NotPermitted,
    #[component(name = "no-entry")]
    NoEntry,
    #[component(name = "access")]
    Access,
    #[component(name = "not-executable")]
    NotExecutable,
    #[component(name = "loop")]
    Loop,
    #[component(name = "limit")]
    Limit,
    #[component(name = "insufficient-memory")]
    InsufficientMemory,
    #[component(name = "no-such-process")]
    NoSuchProcess,
    #[component(name = "invalid")]
    Invalid,
    #[component(name = "io")]
    Io,
}

impl From<Errno> for ErrorCode {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM => Self::NotPermitted,
            Errno::NOENT | Errno::NOTDIR => Self::NoEntry,
            Errno::ACCESS => Self::Access,
            Errno::NOEXEC => Self::NotExecutable,
            Errno::LOOP => Self::Loop,
            Errno::AGAIN | Errno::MFILE => Self::Limit,
            Errno::NOMEM => Self::InsufficientMemory,
            Errno::SRCH | Errno::CHILD => Self::NoSuchProcess,
            Errno::INVAL | Errno::BADF | Errno::NOTSUP | Errno::TOOBIG => Self::Invalid,
            _ => Self::Io,
        }
    }
}

/// `standard` of the interface.
#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made from the guest's number alone")]
enum Standard {
    #[component(name = "input")]
    Input,
    #[component(name = "output")]
    Output,
    #[component(name = "error")]
    Error,
}

/// `program` of the interface.
#[derive(ComponentType, Lift)]
#[component(record)]
struct Wanted {
    path: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    stdin: Option<Resource<Handle>>,
    stdout: Option<Resource<Handle>>,
    stderr: Option<Resource<Handle>>,
}

/// `handle` of the interface.
#[derive(Debug)]
pub struct Handle(Stream);

/// `process` of the interface.
#[derive(Debug)]
struct Child {
    processes: Processes,
    parent: u32,
    id: u32,
    /// How it ended, once that is known here.
    ended: Option<std::result::Result<u8, Errno>>,
}

impl Child {
    async fn end(&mut self, how: Wait) -> std::result::Result<Option<u8>, Errno> {
        if self.ended.is_none() {
            let ended = self.processes.wait(self.parent, Some(self.id), how).await;
            self.ended = ended.map(|ended| ended.map(|(_, code)| code)).transpose();
        }
        self.ended.transpose()
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Child {
    async fn ready(&mut self) {
        let _ = self.end(Wait::Long).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.processes.forget(self.parent, self.id);
        }
    }
}

type Context<'a> = StoreContextMut<'a, ComponentState>;
type Answer<T> = Result<(std::result::Result<T, ErrorCode>,)>;

/// Gives a component that is a command the interface; `most` is how many files and sockets it may have open.
///
/// # Errors
/// When the linker refuses a definition.
pub fn define(linker: &mut Linker<ComponentState>, most: Option<usize>) -> Result<()> {
    let mut all = linker.instance(MODULE)?;
    all.resource("handle", ResourceType::host::<Handle>(), |mut store, rep| {
        store.data_mut().ctx().table.delete(Resource::<Handle>::new_own(rep))?;
        Ok(())
    })?;
    all.resource("process", ResourceType::host::<Child>(), |mut store, rep| {
        store.data_mut().ctx().table.delete(Resource::<Child>::new_own(rep))?;
        Ok(())
    })?;
    define_handles(&mut all, most)?;
    define_processes(&mut all)
}

fn define_handles(all: &mut LinkerInstance<'_, ComponentState>, most: Option<usize>) -> Result<()> {
    all.func_wrap("[method]handle.read", |mut store: Context<'_>, (this,): (Resource<Handle>,)| {
        let table = store.data_mut().ctx().table;
        let stream = &table.get(&this)?.0;
        if !stream.can_read() {
            return Ok((Err(ErrorCode::Invalid),));
        }
        let stream: DynInputStream = StdinStream::p2_stream(stream);
        Ok((Ok(table.push(stream)?),))
    })?;
    all.func_wrap("[method]handle.write", |mut store: Context<'_>, (this,): (Resource<Handle>,)| {
        let table = store.data_mut().ctx().table;
        let stream = &table.get(&this)?.0;
        if !stream.can_write() {
            return Ok((Err(ErrorCode::Invalid),));
        }
        let stream: DynOutputStream = StdoutStream::p2_stream(stream);
        Ok((Ok(table.push(stream)?),))
    })?;
    all.func_wrap("pipe", move |mut store: Context<'_>, (): ()| -> Answer<(Resource<Handle>, Resource<Handle>)> {
        let data = store.data_mut();
        let made = data.member()?.processes.pipe();
        let table = data.ctx().table;
        if !has_room(table, most) {
            return Ok((Err(ErrorCode::Limit),));
        }
        Ok((match made {
            Ok((reader, writer)) => Ok((table.push(Handle(reader))?, table.push(Handle(writer))?)),
            Err(errno) => Err(errno.into()),
        },))
    })?;
    all.func_wrap("inherit", move |mut store: Context<'_>, (which,): (Standard,)| {
        let data = store.data_mut();
        let [input, output, error] = &data.member()?.stdio;
        let stream = match which {
            Standard::Input => input,
            Standard::Output => output,
            Standard::Error => error,
        };
        let stream = stream.clone();
        push(data.ctx().table, most, Ok(stream))
    })?;
    all.func_wrap("file", move |mut store: Context<'_>, (file, offset): (Resource<Descriptor>, u64)| {
        let table = store.data_mut().ctx().table;
        let opened = opened(table.get(&file)?, offset, false);
        push(table, most, opened)
    })?;
    all.func_wrap("append", move |mut store: Context<'_>, (file,): (Resource<Descriptor>,)| {
        let table = store.data_mut().ctx().table;
        let opened = opened(table.get(&file)?, 0, true);
        push(table, most, opened)
    })
}

fn define_processes(all: &mut LinkerInstance<'_, ComponentState>) -> Result<()> {
    all.func_wrap_async("spawn", |mut store: Context<'_>, (wanted,): (Wanted,)| {
        Box::new(async move {
            let data = store.data_mut();
            let member = data.member()?;
            let (processes, parent, cwd) = (member.processes.clone(), member.id, member.cwd.clone());
            let request = match request(data.ctx().table, &cwd, wanted)? {
                Ok(request) => request,
                Err(errno) => return Ok((Err(errno.into()),)),
            };
            let answer: Answer<Resource<Child>> = match processes.spawn(parent, request).await {
                Ok(id) => Ok((Ok(data.ctx().table.push(Child { processes, parent, id, ended: None })?),)),
                Err(errno) => Ok((Err(ErrorCode::from(errno)),)),
            };
            answer
        })
    })?;
    all.func_wrap("[method]process.id", |mut store: Context<'_>, (this,): (Resource<Child>,)| {
        Ok((store.data_mut().ctx().table.get(&this)?.id,))
    })?;
    all.func_wrap_async("[method]process.wait", |mut store: Context<'_>, (this,): (Resource<Child>,)| {
        Box::new(async move {
            let ended = store.data_mut().ctx().table.get_mut(&this)?.end(Wait::Long).await;
            // It has waited, so that there is a code.
            Ok((ended.and_then(|code| code.ok_or(Errno::CHILD)).map_err(ErrorCode::from),))
        })
    })?;
    all.func_wrap_async("[method]process.try-wait", |mut store: Context<'_>, (this,): (Resource<Child>,)| {
        Box::new(async move {
            let ended = store.data_mut().ctx().table.get_mut(&this)?.end(Wait::Look).await;
            Ok((ended.map_err(ErrorCode::from),))
        })
    })?;
    all.func_wrap(
        "[method]process.subscribe",
        |mut store: Context<'_>, (this,): (Resource<Child>,)| -> Result<(Resource<DynPollable>,)> {
            Ok((subscribe(store.data_mut().ctx().table, this)?,))
        },
    )?;
    all.func_wrap("kill", |store: Context<'_>, (id, signal): (u32, u8)| {
        Ok((store.data().member()?.processes.kill(id, signal).map_err(ErrorCode::from),))
    })?;
    all.func_wrap("id", |store: Context<'_>, (): ()| Ok((store.data().member()?.id,)))
}

/// Whether one more handle may be made. An open file is one more place to hold it open by.
fn has_room(table: &mut ResourceTable, most: Option<usize>) -> bool {
    let handles = table.iter_mut().filter(|entry| entry.is::<Handle>()).count();
    handles < MOST_HANDLES && most.is_none_or(|most| !crate::guest::open::is_full(table, most))
}

fn push(
    table: &mut ResourceTable,
    most: Option<usize>,
    stream: std::result::Result<Stream, Errno>,
) -> Answer<Resource<Handle>> {
    Ok((match stream {
        Ok(_) if !has_room(table, most) => Err(ErrorCode::Limit),
        Ok(stream) => Ok(table.push(Handle(stream))?),
        Err(errno) => Err(errno.into()),
    },))
}

fn opened(descriptor: &Descriptor, position: u64, append: bool) -> std::result::Result<Stream, Errno> {
    let Descriptor::File(file) = descriptor else { return Err(Errno::NOTSUP) };
    let write = file.open_mode.contains(OpenMode::WRITE) && !file.perms.write_not_permitted();
    if append && !write {
        return Err(Errno::INVAL);
    }
    Ok(Stream::File(Arc::new(OpenFile {
        file: Arc::clone(&file.file),
        position: Mutex::new(position),
        append,
        read: file.open_mode.contains(OpenMode::READ),
        write,
    })))
}

/// What is asked for, with the streams instead of their handles.
fn request(table: &ResourceTable, member_cwd: &str, wanted: Wanted) -> Result<std::result::Result<Request, Errno>> {
    let mut stdio = [None, None, None];
    for (place, handle) in stdio.iter_mut().zip([&wanted.stdin, &wanted.stdout, &wanted.stderr]) {
        if let Some(handle) = handle {
            *place = Some(table.get(handle)?.0.clone());
        }
    }
    let cwd = wanted.cwd.unwrap_or_else(|| member_cwd.to_owned());
    let env: Vec<String> = wanted.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let length = |words: &[String]| words.iter().fold(0, |sum: usize, word| sum.saturating_add(word.len() + 8));
    if !cwd.starts_with('/') || length(&wanted.args) > MOST_WORDS || length(&env) > MOST_WORDS {
        return Ok(Err(Errno::INVAL));
    }
    Ok(Ok(Request { path: wanted.path, args: wanted.args, env, cwd, stdio }))
}
