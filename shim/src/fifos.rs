//! The FIFOs by which a client hands the streams of a program to its sandbox.

use crate::task::refuse;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use ttrpc::{Code, Result};

/// How long a FIFO's other end may take to be opened.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the FIFOs of standard input, output and error by their paths, of which an empty one is none; they do not wait.
pub(crate) async fn open_streams(paths: [&str; 3]) -> Result<[Option<OwnedFd>; 3]> {
    let mut all = [None, None, None];
    let flags = [OFlags::RDONLY, OFlags::WRONLY, OFlags::WRONLY];
    for ((path, flags), opened) in paths.into_iter().zip(flags).zip(&mut all) {
        if !path.is_empty() {
            *opened = Some(open(path, flags).await?);
        }
    }
    Ok(all)
}

/// Opens what a container writes to, by a path or a `file://` URI; an empty one is none. Who reads a FIFO may go and come
/// back, as containerd does when it is restarted: both ends are held, so that nothing is lost meanwhile.
pub(crate) async fn open_output(path: &str) -> Result<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(None);
    }
    let Some(file) = path.strip_prefix("file://") else { return open(path, OFlags::RDWR).await.map(Some) };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, file, flags, Mode::from_raw_mode(0o644));
    let opened =
        opened.map_err(|e| refuse(Code::INVALID_ARGUMENT, format!("cannot open {file}: {}", std::io::Error::from(e))));
    opened.map(Some)
}

/// Opens a FIFO without waiting in the system for its other end, which may be opened a moment later.
pub(crate) async fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    let invalid = |words: String| refuse(Code::INVALID_ARGUMENT, words);
    if path.contains("://") {
        return Err(invalid(format!(
            "{path}: streams are the paths of FIFOs here, or file:// for a container's output; no other scheme is known"
        )));
    }
    let begun = Instant::now();
    loop {
        match rustix::fs::openat(CWD, path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => {
                let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
                return match kind {
                    Ok(FileType::Fifo) => Ok(fd),
                    _ => Err(invalid(format!("{path} is no FIFO"))),
                };
            }
            // Nobody reads there yet.
            Err(Errno::NXIO) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(Errno::NXIO) => return Err(invalid(format!("nobody reads from {path}"))),
            Err(e) => return Err(invalid(format!("cannot open {path}: {}", std::io::Error::from(e)))),
        }
    }
}

/// Waits until nobody reads any more what is written to a FIFO.
pub(crate) async fn reader_gone(fifo: OwnedFd) {
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
    let Ok(watched) = (unsafe { AsyncFd::register_with_interest(fifo, Interest::ERROR) }) else {
        return std::future::pending().await;
    };
    let _ = watched.ready(Interest::ERROR).await;
}
