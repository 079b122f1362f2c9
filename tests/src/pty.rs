//! A command at a terminal: what is shown there, and keys that are pressed.

use crate::{OrFail, fail, until};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

/// A command with a terminal of its own.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    guest: OwnedFd,
}

impl Pty {
    /// Starts a command at a terminal with a window of 80 columns and 24 rows.
    #[track_caller]
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: openpty(3) fills two numbers, and reads a size that lives through the call.
        let made = unsafe {
            let null = std::ptr::null_mut();
            libc::openpty(&raw mut ours, &raw mut theirs, null, null.cast(), (&raw const size).cast_mut())
        };
        if made != 0 {
            fail(format_args!("no terminal: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: both were made just now, and nobody else has them.
        let (ours, guest) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let copy = || guest.try_clone().or_fail("cannot copy a descriptor");
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: both calls are allowed between fork and exec (signal-safety(7)).
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().or_fail("cannot start the command");
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (screen, mut filled) = (Arc::clone(&shown), ours.try_clone().or_fail("cannot copy a descriptor"));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = filled.read(&mut bytes) {
                let new = bytes.get(..count).unwrap_or_default();
                screen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
            }
        });
        Self { child, keyboard: ours, shown, guest }
    }

    /// What has been shown, with plain newlines.
    #[must_use]
    pub fn screen(&self) -> String {
        Screen(&self.shown).to_string()
    }

    /// Waits until a text has been shown.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        until(format_args!("the terminal shows {text:?}; it shows: {}", Screen(&self.shown)), || {
            self.screen().contains(text).then_some(())
        });
    }

    /// Presses keys.
    #[track_caller]
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).or_fail("cannot type");
    }

    /// Makes the window another size; the command gets SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the size lives through the call.
        unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    /// Whether keys come one by one and are not shown, as a full-screen program wants them.
    #[track_caller]
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let set = rustix::termios::tcgetattr(&self.guest).or_fail("no terminal");
        !set.local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    /// The command's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the command's end, and says its code (128 and the signal if one ended it).
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let screen = Arc::clone(&self.shown);
        let what = format_args!("the command ends; its terminal shows: {}", Screen(&screen));
        let status = until(what, || self.child.try_wait().ok().flatten());
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows at the moment when this is printed, with plain newlines.
struct Screen<'a>(&'a Mutex<Vec<u8>>);

impl std::fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.write_str(&String::from_utf8_lossy(&shown).replace('\r', ""))
    }
}
