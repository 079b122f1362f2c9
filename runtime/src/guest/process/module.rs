//! The descriptors of a WASI 0.1 module that is a process: its standard streams, its pipes, and the files that it has
//! handed to others, beside those of the crate wasmtime-wasi.
//!
//! The crate keeps its table to itself. A descriptor of ours has the same numbers: one of the crate's that became ours
//! stays open there as a place holder, and new ones have numbers that the crate does not get to.

use super::stream::{OpenFile, Stream};
use super::{Processes, abi, poll, wasi};
use crate::guest::state::Stdio;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use wasmtime::component::Resource;
use wasmtime::{Engine, Linker};
use wasmtime_wasi::filesystem::{Descriptor, OpenMode};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wasmtime_wasi::{I32Exit, WasiView};
use wiggle::GuestMemory;

/// The first number of a descriptor that only we have: a process cannot have so many files open.
const OWN: u32 = 1 << 16;
/// How many descriptors of ours a process may have.
const MOST: usize = 1024;

/// The data of the store of a module that is a process.
pub struct ModuleState {
    /// The crate's state.
    pub wasi: WasiP1Ctx,
    /// Our descriptors.
    pub descriptors: Descriptors,
    /// The processes of its container.
    pub processes: Processes,
    /// Its own number.
    pub id: u32,
}

impl std::fmt::Debug for ModuleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleState").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ModuleState {
    pub(super) fn new(mut wasi: WasiP1Ctx, stdio: Stdio, processes: Processes, id: u32) -> Self {
        // Its table is filled at the first question: now, so that it holds still later.
        let _ = wasi.fd_tell(&mut GuestMemory::Unshared(&mut []), 0.into());
        Self { wasi, descriptors: Descriptors::new(stdio), processes, id }
    }

    /// What a descriptor stands for, for another process. A file of the crate's becomes ours, so that from now on both
    /// have one position; `position` is the one that it has.
    ///
    /// # Errors
    /// EBADF when there is none, ENOTSUP for a directory.
    pub fn share(&mut self, number: u32, position: u64) -> Result<Stream, Errno> {
        if let Some(stream) = self.descriptors.get(number) {
            return Ok(stream.clone());
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
        self.descriptors.ours.insert(number, stream.clone());
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

/// Our descriptors of one process.
#[derive(Debug)]
pub struct Descriptors {
    ours: BTreeMap<u32, Stream>,
    /// What is known of the crate's.
    pub opened: BTreeMap<u32, Opened>,
    next: u32,
}

impl Descriptors {
    fn new(stdio: Stdio) -> Self {
        Self { ours: (0..).zip(stdio).collect(), opened: BTreeMap::new(), next: OWN }
    }

    /// What a number stands for, if it is ours.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Stream> {
        self.ours.get(&number)
    }

    /// Gives a stream a number.
    ///
    /// # Errors
    /// EMFILE when there are too many.
    pub fn push(&mut self, stream: Stream) -> Result<u32, Errno> {
        if self.ours.len() >= MOST {
            return Err(Errno::MFILE);
        }
        let number = self.next;
        self.next = number.checked_add(1).filter(|n| n.cast_signed() > 0).ok_or(Errno::MFILE)?;
        self.ours.insert(number, stream);
        Ok(number)
    }

    /// Gives a stream this number, in the place of what has it.
    pub fn set(&mut self, number: u32, stream: Stream) {
        self.ours.insert(number, stream);
    }

    /// Takes ours of this number away.
    pub fn take(&mut self, number: u32) -> Option<Stream> {
        self.ours.remove(&number)
    }
}

/// The linker for modules that are processes: WASI 0.1 with our descriptors in it, and the interface itself.
///
/// # Errors
/// When the engine refuses a definition.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<ModuleState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut ModuleState| &mut state.wasi)?;
    linker.allow_shadowing(true);
    linker.func_wrap(wasi::MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    wasi::shadow(&mut linker)?;
    poll::shadow(&mut linker)?;
    abi::define(&mut linker)?;
    Ok(linker)
}
