//! A pseudo terminal (pty(7)): the guest has one end, and whoever looks after it has the other.
//!
//! The kernel does what a terminal does: echo, lines that can be edited, the width of the window. What it cannot do for
//! us is to send signals, since no guest is a process of the system; so the keys that mean one are told to the sandbox.

use super::Keeper;
use crate::guest::stdio::{Channel, Pipe};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// The end of a terminal that is not the guest's. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<End>);

#[derive(Debug)]
struct End {
    fd: OwnedFd,
    /// A key that means a signal has done what it does.
    pressed: Notify,
}

/// The signal of a key: SIGINT or SIGQUIT (signal(7)).
pub type Key = u8;

const SIGINT: Key = 2;
const SIGQUIT: Key = 3;

/// So long what is typed waits for the key before it, whose sandbox may be gone.
const KEY: Duration = Duration::from_secs(1);

impl Terminal {
    /// Makes a terminal, and the end that a guest reads and writes.
    ///
    /// # Errors
    /// When the system has none.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let owned = |fd: libc::c_int| match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptor was made just now, and nobody else has it.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        };
        // SAFETY: these calls take numbers, and a pointer to one that lives through the call. The guest's end is opened
        // by its other end (TIOCGPTPEER), so it does not matter what is mounted at /dev/pts.
        unsafe {
            let ours = owned(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?;
            let unlocked: libc::c_int = 0;
            if libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) == -1 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            let theirs = owned(libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((Self(Arc::new(End { fd: ours, pressed: Notify::new() })), theirs))
        }
    }

    /// Says how large the window is, in characters.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.0.fd, size)?)
    }

    /// What is typed up to the first key that means a signal, as the terminal is set, that signal, and the rest.
    fn until_key<'a>(&self, typed: &'a [u8]) -> (&'a [u8], Option<Key>, &'a [u8]) {
        let whole = (typed, None, &[][..]);
        let Ok(set) = tcgetattr(&self.0.fd) else { return whole };
        if !set.local_modes.contains(LocalModes::ISIG) {
            return whole;
        }
        let codes = [(SpecialCodeIndex::VINTR, SIGINT), (SpecialCodeIndex::VQUIT, SIGQUIT)];
        let signal = |byte: u8| {
            let means = |(code, _): &&(SpecialCodeIndex, Key)| byte != 0 && set.special_codes[*code] == byte;
            codes.iter().find(means).map(|(_, signal)| *signal)
        };
        let key = typed.iter().enumerate().find_map(|(at, byte)| Some((at, signal(*byte)?)));
        key.and_then(|(at, signal)| typed.split_at_checked(at + 1).map(|(typed, rest)| (typed, Some(signal), rest)))
            .unwrap_or(whole)
    }

    /// Writes down what is shown, as standard output in the frames of a guest's output pipe, in a thread of its own.
    pub(super) fn record(&self, pipe: OwnedFd) -> io::Result<Recorder> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let terminal = self.clone();
        let record = move || {
            let pipe = Pipe::new(pipe);
            let mut bytes = vec![0; 16 << 10];
            loop {
                match rustix::io::retry_on_intr(|| rustix::io::read(&terminal.0.fd, &mut bytes)) {
                    Ok(count) => {
                        if pipe.write(Channel::Stdout, bytes.get(..count).unwrap_or_default()).is_err() {
                            return;
                        }
                    }
                    Err(Errno::AGAIN) => {
                        let mut fds =
                            [PollFd::new(&terminal.0.fd, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                        let _ = rustix::io::retry_on_intr(|| poll(&mut fds, None));
                        // All that was written is taken first.
                        if !fds[0].revents().contains(PollFlags::IN) && !fds[1].revents().is_empty() {
                            return;
                        }
                    }
                    // Nobody has the guest's end any more.
                    Err(_) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("terminal".into()).stack_size(128 << 10).spawn(record)?;
        Ok(Recorder { terminal: self.clone(), stop, thread })
    }

    /// Takes what is typed at `input` to the terminal, until its end. `exec` names what has the terminal, and is empty for
    /// the container's own program.
    ///
    /// # Errors
    /// When the input cannot be read, or the terminal is gone.
    pub async fn type_in(&self, keeper: &Keeper, id: &str, exec: &str, input: OwnedFd) -> io::Result<()> {
        let (input, terminal) = (watch(input)?, watch(self.0.fd.try_clone()?)?);
        let mut bytes = vec![0; 4096];
        loop {
            let count = read(&input, &mut bytes).await?;
            let typed = bytes.get(..count).unwrap_or_default();
            if typed.is_empty() {
                return Ok(());
            }
            let mut rest = typed;
            while !rest.is_empty() {
                let (typed, key, after) = self.until_key(rest);
                // The kernel shows the key, and drops the line that it gives up.
                write(&terminal, typed).await?;
                if let Some(key) = key {
                    keeper.key(id, exec, key);
                    // What is typed next is for who is there then.
                    let _ = tokio::time::timeout(KEY, self.0.pressed.notified()).await;
                }
                rest = after;
            }
        }
    }

    /// Says that a key that means a signal has done what it does.
    pub(super) fn pressed(&self) {
        self.0.pressed.notify_one();
    }

    /// Takes what is written on the terminal to `output` until `ended` is done and everything has been taken. An output
    /// that is gone takes everything.
    ///
    /// # Errors
    /// When the terminal cannot be watched.
    pub async fn show(&self, output: Option<OwnedFd>, ended: impl Future<Output = ()>) -> io::Result<()> {
        let terminal = watch(self.0.fd.try_clone()?)?;
        let output = output.map(watch).transpose()?;
        let mut output = output.as_ref();
        let mut bytes = vec![0; 16 << 10];
        tokio::pin!(ended);
        loop {
            let count = tokio::select! {
                biased;
                count = read(&terminal, &mut bytes) => count,
                () = &mut ended => break,
            };
            match count {
                Ok(count) => show(&mut output, bytes.get(..count).unwrap_or_default()).await,
                // Nobody has the other end at this moment, which is no end before the guest's.
                Err(_) => {
                    (&mut ended).await;
                    break;
                }
            }
        }
        // Everything that was written before the end is there to be read.
        while let Ok(count) = rustix::io::retry_on_intr(|| rustix::io::read(&self.0.fd, &mut bytes)) {
            show(&mut output, bytes.get(..count).unwrap_or_default()).await;
        }
        Ok(())
    }
}

async fn show(output: &mut Option<&AsyncFd<OwnedFd>>, shown: &[u8]) {
    if let Some(open) = output
        && write(open, shown).await.is_err()
    {
        *output = None;
    }
}

/// What writes down what is shown on a terminal.
#[derive(Debug)]
pub(super) struct Recorder {
    terminal: Terminal,
    stop: OwnedFd,
    thread: std::thread::JoinHandle<()>,
}

impl Recorder {
    /// The terminal.
    pub(super) fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Takes what is there, and no more.
    pub(super) fn finish(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Copies everything, until the end of `from`.
pub(super) async fn copy(from: OwnedFd, to: OwnedFd) -> io::Result<()> {
    let (from, to) = (watch(from)?, watch(to)?);
    let mut bytes = vec![0; 16 << 10];
    loop {
        let count = read(&from, &mut bytes).await?;
        match bytes.get(..count) {
            None | Some([]) => return Ok(()),
            Some(bytes) => write(&to, bytes).await?,
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

async fn read(from: &AsyncFd<OwnedFd>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = from.readable().await?;
        match rustix::io::read(from.get_ref(), &mut *bytes) {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

async fn write(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = to.writable().await?;
        match rustix::io::write(to.get_ref(), bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_signals_unless_the_terminal_is_raw() {
        let (terminal, guest) = Terminal::open().unwrap();
        terminal.resize(90, 30).unwrap();
        let size = rustix::termios::tcgetwinsize(&guest).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (90, 30));
        assert_eq!(terminal.until_key(b"ab\x03\x1cc"), (&b"ab\x03"[..], Some(SIGINT), &b"\x1cc"[..]));
        assert_eq!(terminal.until_key(b"\x1cc"), (&b"\x1c"[..], Some(SIGQUIT), &b"c"[..]));
        assert_eq!(terminal.until_key(b"c"), (&b"c"[..], None, &b""[..]));
        let mut raw = tcgetattr(&guest).unwrap();
        raw.make_raw();
        rustix::termios::tcsetattr(&guest, rustix::termios::OptionalActions::Now, &raw).unwrap();
        assert_eq!(terminal.until_key(b"\x03"), (&b"\x03"[..], None, &b""[..]));
    }

    #[test]
    fn what_was_written_before_the_end_is_shown() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (terminal, guest) = Terminal::open().unwrap();
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&guest, b"one\ntwo").unwrap();
            drop(guest);
            terminal.show(Some(writer), std::future::ready(())).await.unwrap();
            let mut bytes = [0; 64];
            let count = rustix::io::read(&reader, &mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"one\r\ntwo");
        });
    }
}
