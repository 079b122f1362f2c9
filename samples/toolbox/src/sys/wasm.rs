//! In a container.

use std::ffi::{CString, c_char, c_int};
use std::io::{Error, Result};
use std::os::wasi::ffi::OsStrExt;
use std::path::Path;

pub use sampan_process::{Program, id, kill, pipe, spawn, wait};

const NOEXEC: i32 = 45;

pub fn is_not_executable(error: &Error) -> bool {
    error.raw_os_error() == Some(NOEXEC)
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn proc_exit(code: i32) -> !;
}

unsafe extern "C" {
    fn link(old: *const c_char, new: *const c_char) -> c_int;
}

/// Gives a file another name. (Through the C library's `linkat`, which the standard library calls, Debian's finds no file.)
pub fn hard_link(old: &Path, new: &Path) -> Result<()> {
    let [old, new] = [old, new].map(|path| CString::new(path.as_os_str().as_bytes()));
    let (old, new) = (old?, new?);
    // SAFETY: both are strings that live through the call.
    match unsafe { link(old.as_ptr(), new.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Ends the program with any code: the C library's own cuts what it does not expect.
pub fn exit(code: i32) -> ! {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    // SAFETY: nothing of the program runs after it.
    unsafe { proc_exit(code & 0xff) }
}
