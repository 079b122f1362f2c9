//! WASI 0.1 modules whose descriptors are not all the crate's: those that start other programs, and servers that are
//! handed listening sockets.
//!
//! The crate wasmtime-wasi keeps its table to itself, and has neither pipes nor sockets. A descriptor of ours has the
//! same numbers: one of the crate's that became ours stays open there as a place holder, and new ones have numbers that
//! the crate does not get to. A module that needs none of this is linked with the crate's functions alone.
//!
//! ```text
//! stream     what a descriptor stands for that another program can have too
//! socket     listening sockets and connections
//! memory     what a module hands over by address
//! wasi       the functions that read, write and describe a descriptor
//! table      those that open, close and renumber, and those for directories
//! sock       those for sockets
//! poll       waiting for several descriptors at once
//! ```

pub mod memory;
mod poll;
mod sock;
pub mod socket;
pub mod stream;
mod table;
mod wasi;

pub use wasi::{MODULE as WASI, reply, share};

use super::account::{self, Meter, Metered};
use super::process::Processes;
use super::process::find::is_read_only;
use super::state::{Stdio, Surroundings};
use super::stdio::{Channel, Pipe};
use super::{Control, command};
use crate::grants::Port;
use crate::rootfs::Preopen;
use rustix::io::Errno;
use socket::{Connection, Listener};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use stream::{OpenFile, SharedInput, Stream};
use wasmtime::component::Resource;
use wasmtime::{Engine, InstancePre, Linker, Store};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, OpenMode};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::GuestMemory;

/// The first descriptor that a module is handed, behind its standard streams (sd_listen_fds(3)).
pub const FIRST_LISTENER: u32 = 3;
/// The first number of a descriptor that only we have: a module cannot have so many files open.
const OWN: u32 = 1 << 16;
/// How many pipes a module may have. (Connections are descriptors of the system, which counts them itself.)
const MOST: usize = 1024;

/// The listening sockets of a module: each port, and the host's sockets for it.
pub type Doors = Vec<(Port, Vec<Arc<TcpListener>>)>;

/// The variables by which a program learns of its listening sockets (sd_listen_fds(3)). LISTEN_PID is not among them:
/// a WASI 0.1 program has no number to compare it with.
#[must_use]
pub fn environment(doors: &Doors) -> [String; 2] {
    let names: Vec<String> = doors.iter().map(|(port, _)| port.to_string()).collect();
    [format!("LISTEN_FDS={}", doors.len()), format!("LISTEN_FDNAMES={}", names.join(":"))]
}

/// What a descriptor of ours stands for. A clone is the same thing once more.
#[derive(Debug, Clone)]
pub enum Ours {
    /// A stream that can be handed to another program.
    Stream(Stream),
    /// A listening socket.
    Listener(Arc<Listener>),
    /// A connection.
    Connection(Arc<Connection>),
}

/// The data of a module's store.
pub struct ModuleState {
    /// The crate's state.
    pub wasi: WasiP1Ctx,
    /// Our descriptors.
    pub descriptors: Descriptors,
    /// Where the runtime says what people should know.
    pub output: Pipe,
    process: Option<(Processes, u32)>,
    preopens: Vec<Preopen>,
    meter: Meter,
}

impl Metered for ModuleState {
    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

impl std::fmt::Debug for ModuleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleState").field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

impl ModuleState {
    /// The processes of its container, and its own number among them.
    ///
    /// # Errors
    /// When it is none.
    pub fn process(&self) -> wasmtime::Result<(&Processes, u32)> {
        match &self.process {
            Some((processes, id)) => Ok((processes, *id)),
            None => wasmtime::bail!("the module is no process"),
        }
    }

    /// Whether nothing can be written where this path of the module's root leads: the crate knows no such error.
    pub fn is_read_only(&self, path: &str) -> bool {
        let parent = std::path::Path::new(path).parent().unwrap_or(std::path::Path::new(""));
        is_read_only(&self.preopens, &parent.to_string_lossy())
    }

    /// A file that the crate has opened for the module.
    pub fn their_file(&mut self, number: u32) -> Option<Arc<File>> {
        let opened = self.descriptors.opened.get(&number)?;
        let resource = Resource::<Descriptor>::new_borrow(opened.resource);
        match self.wasi.ctx().table.get(&resource) {
            Ok(Descriptor::File(file)) => Some(Arc::clone(&file.file)),
            _ => None,
        }
    }

    /// What a descriptor stands for, for another process. A file of the crate's becomes ours, so that from now on both
    /// have one position; `position` is the one that it has.
    ///
    /// # Errors
    /// EBADF when there is none, ENOTSUP for a directory or a socket.
    pub fn share(&mut self, number: u32, position: u64) -> Result<Stream, Errno> {
        match self.descriptors.get(number) {
            Some(Ours::Stream(stream)) => return Ok(stream.clone()),
            Some(_) => return Err(Errno::NOTSUP),
            None => {}
        }
        let opened = self.descriptors.opened.get(&number).copied().ok_or(Errno::NOTSUP)?;
        let resource = Resource::<Descriptor>::new_borrow(opened.resource);
        let Ok(Descriptor::File(file)) = self.wasi.ctx().table.get(&resource) else { return Err(Errno::NOTSUP) };
        let stream = Stream::File(Arc::new(OpenFile {
            file: Arc::clone(&file.file),
            position: Mutex::new(position),
            append: opened.append,
            read: file.open_mode.contains(OpenMode::READ),
            write: file.open_mode.contains(OpenMode::WRITE) && !file.perms.write_not_permitted(),
        }));
        self.descriptors.set(number, Ours::Stream(stream.clone()));
        Ok(stream)
    }
}

/// A file that the crate has opened for the module.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Where the crate's table has it.
    pub resource: u32,
    /// Whether writes go to the end.
    pub append: bool,
}

/// Our descriptors of one module.
#[derive(Debug)]
pub struct Descriptors {
    ours: BTreeMap<u32, Ours>,
    /// What is known of the crate's.
    pub opened: BTreeMap<u32, Opened>,
    /// How many there may be, the directories that it begins with among them.
    most: usize,
    next: u32,
    /// Numbers below `next` that are free again.
    free: BTreeSet<u32>,
}

impl Descriptors {
    fn new(stdio: Stdio, listeners: Vec<Arc<Listener>>, most: usize) -> Self {
        let ours = stdio.into_iter().map(Ours::Stream).chain(listeners.into_iter().map(Ours::Listener));
        Self { ours: (0..).zip(ours).collect(), opened: BTreeMap::new(), most, next: OWN, free: BTreeSet::new() }
    }

    /// Whether the module has as many open as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let theirs = self.opened.keys().filter(|number| !self.ours.contains_key(number));
        // The usual one has no limit, and nothing to count.
        self.most < usize::MAX && self.ours.len() + theirs.count() >= self.most
    }

    /// What a number stands for, if it is ours.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Ours> {
        self.ours.get(&number)
    }

    /// Gives a descriptor a number.
    ///
    /// # Errors
    /// EMFILE when there are too many.
    pub fn push(&mut self, new: Ours) -> Result<u32, Errno> {
        if self.is_full() {
            return Err(Errno::MFILE);
        }
        if matches!(new, Ours::Stream(_)) && self.ours.len() >= MOST {
            return Err(Errno::MFILE);
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                let number = self.next;
                self.next = number.checked_add(1).filter(|n| n.cast_signed() > 0).ok_or(Errno::MFILE)?;
                number
            }
        };
        self.ours.insert(number, new);
        Ok(number)
    }

    /// Gives a descriptor this number, in the place of what has it.
    pub fn set(&mut self, number: u32, new: Ours) {
        self.free.remove(&number);
        self.ours.insert(number, new);
    }

    /// Takes ours of this number away.
    pub fn take(&mut self, number: u32) -> Option<Ours> {
        let taken = self.ours.remove(&number)?;
        if number >= OWN {
            self.free.insert(number);
        }
        Some(taken)
    }
}

/// The standard streams of a program that no other one has started.
#[must_use]
pub fn first_stdio(surroundings: &Surroundings) -> Stdio {
    if let Some(stdio) = &surroundings.stdio {
        return stdio.clone();
    }
    let input = surroundings.input.as_ref().map_or(Stream::Null, |i| Stream::Input(SharedInput::new(i)));
    let output = |channel| Stream::Output(surroundings.output.stream(channel));
    [input, output(Channel::Stdout), output(Channel::Stderr)]
}

/// A linker for modules with descriptors of ours: WASI 0.1.
///
/// # Errors
/// When the engine refuses a definition.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<ModuleState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut ModuleState| &mut state.wasi)?;
    command::exit_with_any_code(&mut linker)?;
    wasi::shadow(&mut linker)?;
    table::shadow(&mut linker)?;
    sock::shadow(&mut linker)?;
    poll::shadow(&mut linker)?;
    Ok(linker)
}

/// What a module is run with beside its surroundings.
#[derive(Debug)]
pub struct Parts {
    /// Its standard streams.
    pub stdio: Stdio,
    /// Its listening sockets.
    pub doors: Doors,
    /// Whether `sock_accept` on them waits until the module says otherwise.
    pub doors_wait: bool,
    /// The processes of its container, if it is one, and its number.
    pub process: Option<(Processes, u32)>,
}

/// Runs a module that has been linked with [`linker`]; it says its exit code by an error, unless it is 0. `started` is
/// called when its first instruction is next.
///
/// # Errors
/// When it traps, is stopped, or says its exit code.
pub async fn run(
    engine: &Engine,
    linked: &InstancePre<ModuleState>,
    surroundings: &Surroundings,
    parts: Parts,
    control: &Control,
    started: impl FnOnce(),
) -> wasmtime::Result<u8> {
    // It has them for itself: what it closes is closed.
    let listener = |(_, sockets)| {
        let listener = Listener::new(sockets, surroundings.network.traffic())?;
        listener.mode.set_waits(parts.doors_wait);
        Ok(Arc::new(listener))
    };
    let listeners = parts.doors.into_iter().map(listener).collect::<std::io::Result<Vec<_>>>()?;
    let limit = surroundings.grants.limits.open_files;
    let most = limit.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(surroundings.preopens.len())
    });
    let mut wasi = surroundings.own_descriptors_state(listeners.len())?;
    // Its table is filled at the first question: now, so that it holds still later.
    let _ = wasi.fd_tell(&mut GuestMemory::Unshared(&mut []), 0.into());
    let state = ModuleState {
        wasi,
        descriptors: Descriptors::new(parts.stdio, listeners, most),
        output: surroundings.output.clone(),
        process: parts.process,
        preopens: surroundings.preopens.clone(),
        meter: Meter::new(&surroundings.account),
    };
    let mut store = Store::new(engine, state);
    account::meter(&mut store);
    command::watch_epoch(&mut store, control);
    let instance = linked.instantiate_async(&mut store).await?;
    let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    started();
    entry.call_async(&mut store, ()).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again_from_the_lowest() {
        let mut all = Descriptors::new([Stream::Null, Stream::Null, Stream::Null], vec![], usize::MAX);
        let mut push = || all.push(Ours::Stream(Stream::Null)).unwrap();
        assert_eq!([push(), push(), push()], [OWN, OWN + 1, OWN + 2]);
        assert!(all.take(OWN + 1).is_some() && all.take(OWN).is_some() && all.take(OWN).is_none());
        assert!(all.take(0).is_some());
        assert_eq!(all.push(Ours::Stream(Stream::Null)), Ok(OWN));
        // What was put there by its number is not free.
        all.set(OWN + 1, Ours::Stream(Stream::Null));
        assert_eq!(all.push(Ours::Stream(Stream::Null)), Ok(OWN + 3));
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let mut all = Descriptors::new([Stream::Null, Stream::Null, Stream::Null], vec![], 5);
        all.opened.insert(4, Opened { resource: 0, append: false });
        assert!(!all.is_full());
        assert_eq!(all.push(Ours::Stream(Stream::Null)), Ok(OWN));
        assert_eq!(all.push(Ours::Stream(Stream::Null)), Err(Errno::MFILE));
        all.opened.clear();
        assert!(!all.is_full());
    }

    #[test]
    fn a_server_is_told_the_names_of_its_ports() {
        let doors: Doors = vec![("80/tcp".parse().unwrap(), vec![]), ("8000/tcp".parse().unwrap(), vec![])];
        assert_eq!(environment(&doors), ["LISTEN_FDS=2", "LISTEN_FDNAMES=80/tcp:8000/tcp"]);
    }
}
