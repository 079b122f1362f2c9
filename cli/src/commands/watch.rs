//! Waiting for a log to grow, or for something else to happen in its directory.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The longest wait: a keeper that was killed tells nobody, so it has to be looked for now and then.
const LONGEST: Duration = Duration::from_secs(1);
/// The wait after a sign that the container is about to end, doubled as long as nothing comes.
const SHORTEST: Duration = Duration::from_millis(2);

/// Watches a directory with a log in it.
pub struct Watch {
    inotify: OwnedFd,
    log: OsString,
    pause: Duration,
}

impl Watch {
    /// Begins to watch a directory, in which the log lies.
    pub fn new(dir: &Path, log: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF;
        inotify::add_watch(&inotify, dir, what)?;
        Ok(Self { inotify, log: log.file_name().unwrap_or_default().to_owned(), pause: LONGEST })
    }

    /// Waits until something has happened or a look is due anyway. An error of the kind "broken pipe" says that nobody
    /// reads standard output any more.
    pub fn wait(&mut self) -> io::Result<()> {
        let pause = Timespec::try_from(self.pause).map_err(io::Error::other)?;
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&stdout, PollFlags::empty())];
        let happened = match poll(&mut fds, Some(&pause)) {
            Err(Errno::INTR) => return Ok(()),
            other => other? > 0,
        };
        let [_, output] = fds;
        if output.revents().contains(PollFlags::ERR) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.pause = match happened {
            false => (self.pause * 2).min(LONGEST),
            true if self.only_the_log()? => LONGEST,
            // What a container's end writes down is written a moment before it has ended.
            true => SHORTEST,
        };
        Ok(())
    }

    /// Takes what has happened, and tells whether it was to the log alone.
    fn only_the_log(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut only = true;
        loop {
            match events.next() {
                Ok(event) => {
                    only &= event.file_name().is_some_and(|name| name.to_bytes() == self.log.as_bytes());
                }
                Err(Errno::AGAIN) => return Ok(only),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
