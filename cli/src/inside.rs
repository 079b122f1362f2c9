//! Our own streams at what runs in a sandbox: FIFOs in the run directory, by which its keeper hands them over.

use crate::front::Signals;
use crate::terminal::DetachKeys;
use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sampan_runtime::container::id;
use sampan_runtime::store::Store;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// FIFOs with a directory of their own, which goes away with the value; who has them open keeps them.
#[derive(Debug)]
pub struct Fifos {
    dir: PathBuf,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error.
    pub errors: bool,
}

const NAMES: [&str; 3] = ["in", "out", "err"];

impl Fifos {
    /// Makes those that are wanted, and opens both ends of each, so that nobody has to wait for the other.
    pub fn make(store: &Store, wanted: Wanted) -> Result<Self> {
        let dir = store.run_dir()?.join(format!("x{}", id::short(&id::new_id()?)));
        std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut made = Self { dir, input: None, output: None, errors: None };
        let make = |name: &str, wanted: bool| -> Result<Option<OwnedFd>> {
            if !wanted {
                return Ok(None);
            }
            let path = made.dir.join(name);
            let make = || {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            };
            Ok(Some(make().with_context(|| format!("cannot make the FIFO {}", path.display()))?))
        };
        let (input, output, errors) =
            (make("in", wanted.input)?, make("out", wanted.output)?, make("err", wanted.errors)?);
        (made.input, made.output, made.errors) = (input, output, errors);
        Ok(made)
    }

    /// Their paths, in the order of their numbers; an empty one is none.
    pub fn paths(&self) -> [String; 3] {
        let there = [&self.input, &self.output, &self.errors].map(Option::is_some);
        let mut names = NAMES.iter().zip(there);
        std::array::from_fn(|_| match names.next() {
            Some((name, true)) => self.dir.join(name).to_string_lossy().into_owned(),
            _ => String::new(),
        })
    }

    /// Opens the other ends here, in a process that keeps them, and closes ours: to be called in a child.
    pub fn other_ends(&mut self) -> Result<[Option<OwnedFd>; 3]> {
        let open = |path: &str, flags: OFlags| -> Result<Option<OwnedFd>> {
            if path.is_empty() {
                return Ok(None);
            }
            let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(Some(rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("cannot open {path}"))?))
        };
        let [input, output, errors] = self.paths();
        let all = [open(&input, OFlags::RDONLY)?, open(&output, OFlags::WRONLY)?, open(&errors, OFlags::WRONLY)?];
        (self.input, self.output, self.errors) = (None, None, None);
        Ok(all)
    }

    /// Takes their names away, when the other side has them open.
    pub fn forget_names(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// Lets our standard input go to the guest, in a thread of its own, until its end; whoever waits at what is returned
    /// learns that the detach keys were pressed.
    pub fn type_in(&mut self, keys: Option<DetachKeys>) -> Result<oneshot::Receiver<()>> {
        let (detach, detached) = oneshot::channel();
        let Some(input) = self.input.take() else {
            // Nobody presses anything.
            std::mem::forget(detach);
            return Ok(detached);
        };
        // Standard input is anything, so it is read by a thread that waits; and so is this end from now on.
        rustix::io::ioctl_fionbio(&input, false)?;
        let type_in = move || {
            let mut keys = keys;
            let mut fifo = File::from(input);
            let mut bytes = [0; 16 << 10];
            loop {
                let typed = match std::io::stdin().lock().read(&mut bytes) {
                    Ok(0) => break,
                    Ok(count) => bytes.get(..count).unwrap_or_default(),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let left = match &mut keys {
                    Some(keys) => {
                        let (through, left) = keys.press(typed);
                        if fifo.write_all(&through).is_err() {
                            break;
                        }
                        left
                    }
                    None if fifo.write_all(typed).is_err() => break,
                    None => false,
                };
                if left {
                    let _ = detach.send(());
                    return;
                }
            }
            std::mem::forget(detach);
        };
        std::thread::Builder::new().name("stdin".into()).spawn(type_in).context("cannot read standard input")?;
        Ok(detached)
    }

    /// Shows what the guest writes until `ended` is done and everything has been shown; its value.
    pub async fn show<T>(&mut self, ended: impl Future<Output = T>) -> Result<T> {
        let output = Shown::new(self.output.take(), |bytes| {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        })?;
        let errors = Shown::new(self.errors.take(), |bytes| std::io::stderr().lock().write_all(bytes))?;
        let value = tokio::select! {
            value = ended => value,
            () = output.go_on() => std::future::pending().await,
            () = errors.go_on() => std::future::pending().await,
        };
        // What was written before the end is there to be read.
        output.rest();
        errors.rest();
        Ok(value)
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        self.forget_names();
    }
}

/// A FIFO and where its content goes.
struct Shown<W> {
    fifo: Option<AsyncFd<OwnedFd>>,
    write: W,
}

impl<W: Fn(&[u8]) -> std::io::Result<()>> Shown<W> {
    fn new(fifo: Option<OwnedFd>, write: W) -> Result<Self> {
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        let fifo = fifo.map(|fifo| unsafe { AsyncFd::register(fifo) }).transpose().map_err(std::io::Error::from)?;
        Ok(Self { fifo, write })
    }

    /// Shows everything for ever. Who reads what we show may be gone: then so are we, as a program that writes to it.
    async fn go_on(&self) {
        let Some(fifo) = &self.fifo else { return std::future::pending().await };
        while let Ok(mut ready) = fifo.readable().await {
            if self.rest() == Errno::AGAIN {
                ready.clear_ready();
            }
            // Others get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Shows what is there, and says what ended that.
    fn rest(&self) -> Errno {
        let Some(fifo) = &self.fifo else { return Errno::AGAIN };
        let mut bytes = [0; 64 << 10];
        loop {
            match rustix::io::read(fifo.get_ref(), &mut bytes) {
                Ok(count) => {
                    if (self.write)(bytes.get(..count).unwrap_or_default()).is_err() {
                        // SIGPIPE's.
                        std::process::exit(141);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return errno,
            }
        }
    }
}

/// The signals that somebody who looks into a container is told of.
pub fn signals() -> Result<Signals> {
    let all = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH];
    Signals::take(&all).context("cannot take Ctrl-C")
}
