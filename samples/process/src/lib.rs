//! Starting programs of one's own container, for WASI 0.1: the interface `sampan:process/spawn@0.1.0`, of which
//! docs/guests.md tells all. `sampan_process.h` is the same for C.

#![cfg(target_family = "wasm")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};

const NONE: u32 = u32::MAX;

#[link(wasm_import_module = "sampan:process/spawn@0.1.0")]
unsafe extern "C" {
    #[link_name = "spawn"]
    fn sampan_spawn(
        path: *const u8,
        path_length: usize,
        args: *const Text,
        arg_count: usize,
        env: *const Text,
        env_count: usize,
        cwd: *const u8,
        cwd_length: usize,
        map: *const [u32; 2],
        map_count: usize,
        id: *mut u32,
    ) -> i32;
    #[link_name = "pipe"]
    fn sampan_pipe(reader: *mut u32, writer: *mut u32) -> i32;
    #[link_name = "wait"]
    fn sampan_wait(id: u32, flags: u32, ended: *mut u32, code: *mut u32) -> i32;
    #[link_name = "kill"]
    fn sampan_kill(id: u32, signal: u32) -> i32;
    #[link_name = "id"]
    fn sampan_id() -> u32;
}

/// What a program is to be made of.
#[derive(Debug)]
pub struct Program<'a> {
    /// Where it is; a relative path begins in the current directory.
    pub path: &'a str,
    /// Its arguments; the first is its own name.
    pub args: &'a [String],
    /// Its environment, as `NAME=value`.
    pub env: &'a [String],
    /// Its three streams; `None` is empty and takes everything.
    pub stdio: [Option<&'a File>; 3],
}

/// A string of the guest's memory, as `ciovec` has it.
#[repr(C)]
struct Text {
    start: *const u8,
    length: usize,
}

fn texts(all: &[String]) -> Vec<Text> {
    all.iter().map(|text| Text { start: text.as_ptr(), length: text.len() }).collect()
}

fn check(errno: i32) -> Result<()> {
    if errno == 0 { Ok(()) } else { Err(Error::from_raw_os_error(errno)) }
}

/// Starts a program in the current directory, and says its number.
///
/// # Errors
/// As the interface says: `PermissionDenied` without the grant, `NotFound`, `WouldBlock` when there are too many.
pub fn spawn(program: &Program<'_>) -> Result<u32> {
    let (args, env) = (texts(program.args), texts(program.env));
    let cwd = std::env::current_dir()?;
    let cwd = cwd.to_string_lossy();
    let stream = |n: usize| program.stdio[n].map_or(NONE, |file| file.as_raw_fd().cast_unsigned());
    let map = [[0, stream(0)], [1, stream(1)], [2, stream(2)]];
    let mut id = 0;
    // SAFETY: every address is that of a value that lives through the call, with its length beside it.
    check(unsafe {
        sampan_spawn(
            program.path.as_ptr(),
            program.path.len(),
            args.as_ptr(),
            args.len(),
            env.as_ptr(),
            env.len(),
            cwd.as_ptr(),
            cwd.len(),
            map.as_ptr(),
            map.len(),
            &raw mut id,
        )
    })?;
    Ok(id)
}

/// Makes a pipe: the end to read and the end to write.
///
/// # Errors
/// Without the grant.
pub fn pipe() -> Result<(File, File)> {
    let (mut reader, mut writer) = (0, 0);
    // SAFETY: both addresses are those of values that live through the call.
    check(unsafe { sampan_pipe(&raw mut reader, &raw mut writer) })?;
    // SAFETY: the two descriptors are new, so nobody else has them.
    Ok(unsafe { (File::from_raw_fd(reader.cast_signed()), File::from_raw_fd(writer.cast_signed())) })
}

/// Waits for a child, or for any if `id` is 0; `None` when none has ended and `hang` is false. Its
/// number and its exit code.
///
/// # Errors
/// When there is no such child.
pub fn wait(id: u32, hang: bool) -> Result<Option<(u32, i32)>> {
    let (mut ended, mut code) = (0, 0);
    // SAFETY: both addresses are those of values that live through the call.
    check(unsafe { sampan_wait(id, u32::from(!hang), &raw mut ended, &raw mut code) })?;
    Ok((ended != 0).then_some((ended, code.cast_signed())))
}

/// Ends a process as a signal does that has no handler.
///
/// # Errors
/// When there is no such process, or it is the first.
pub fn kill(id: u32, signal: u32) -> Result<()> {
    // SAFETY: nothing is handed over but numbers.
    check(unsafe { sampan_kill(id, signal) })
}

/// The number of this process.
#[must_use]
pub fn id() -> u32 {
    // SAFETY: nothing is handed over.
    unsafe { sampan_id() }
}
