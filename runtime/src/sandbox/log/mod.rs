//! A container's log, by default in the format of Docker's `json-file` driver: one JSON object a line, with `log`,
//! `stream` and `time`. The keeper writes it, so nothing is lost when the host dies, and reads on when it has written, so
//! that a guest waits for its log and neither of them grows.
//!
//! ```text
//! config  the driver and its limits
//! file    the file, and those before it
//! ```

mod config;
mod file;

pub use config::{Config, Driver, NoDriver};
pub use file::{parse, rotated};

use super::outputs::Outputs;
use crate::guest::stdio::{Channel, HEAD};
use file::{LogFile, record};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line<'a> {
    /// The text, with its newline unless it is a piece of a longer line.
    #[serde(borrow)]
    pub log: Cow<'a, str>,
    /// `stdout` or `stderr`.
    #[serde(borrow)]
    pub stream: Cow<'a, str>,
    /// When it was complete.
    pub time: jiff::Timestamp,
}

/// A line longer than this is written in pieces, as Docker does.
const LONGEST: usize = 16 << 10;

/// Where a container's output goes besides its log.
#[derive(Debug, Clone)]
pub enum Attach {
    /// Nowhere.
    Detached,
    /// To this process's own standard output and error.
    Terminal,
    /// To these from the beginning.
    Viewers(Outputs),
}

impl Attach {
    /// Those who look at the output; more may come.
    pub(super) fn outputs(&self) -> Outputs {
        match self {
            Self::Viewers(outputs) => outputs.clone(),
            Self::Detached | Self::Terminal => Outputs::default(),
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal)
    }
}

/// Where a container's output goes.
#[derive(Debug, Clone)]
pub(super) struct To {
    pub attach: Attach,
    pub log: Config,
}

/// The log's place in a bundle.
#[must_use]
pub fn place(bundle: &Path) -> PathBuf {
    bundle.join("json.log")
}

/// The place of what the runtime has to say of the container.
#[must_use]
pub fn diagnostics_place(bundle: &Path) -> PathBuf {
    bundle.join("diagnostics.log")
}

/// Moves everything from the pipe to the log, to those who look, and to the terminal if wanted, until the other side is
/// closed.
pub(super) fn pump(pipe: OwnedFd, bundle: PathBuf, to: &To, outputs: Outputs) {
    let mut pipe = File::from(pipe);
    let mut sink = Sink::new(bundle, to, outputs);
    let mut buffer = vec![0u8; 64 << 10];
    let mut pending = Vec::new();
    loop {
        if !sink.unwritten.is_empty() && !soon(&pipe) {
            sink.write_out();
        }
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => sink.take(&mut pending, buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sink.finish();
}

/// The same for one of many: silent, it has no thread.
#[derive(Debug)]
pub(super) struct Flow {
    pipe: Arc<OwnedFd>,
    sink: Sink,
    pending: Vec<u8>,
}

/// How long one of many has a thread before it lets another have it.
const TURN: Duration = Duration::from_millis(100);

impl Flow {
    pub(super) fn new(pipe: OwnedFd, bundle: PathBuf, to: &To, outputs: Outputs) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: Arc::new(pipe), sink: Sink::new(bundle, to, outputs), pending: Vec::new() })
    }

    /// Moves everything until the other side is closed. To be awaited in a runtime.
    pub(super) async fn go_on(mut self) {
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        let Ok(watched) = (unsafe { AsyncFd::register_with_interest(Arc::clone(&self.pipe), Interest::READABLE) })
        else {
            return;
        };
        while let Ok(mut ready) = watched.readable().await {
            let moved = tokio::task::spawn_blocking(move || {
                let next = self.turn();
                (self, next)
            });
            let Ok((this, next)) = moved.await else { return };
            self = this;
            match next {
                Next::More => {}
                Next::Silent => ready.clear_ready(),
                Next::Over => break,
            }
        }
        // Writing may wait for the disk.
        let _ = tokio::task::spawn_blocking(move || self.sink.finish()).await;
    }

    /// Moves what there is.
    fn turn(&mut self) -> Next {
        let begun = Instant::now();
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            match rustix::io::read(&*self.pipe, &mut buffer) {
                Ok(0) => return Next::Over,
                Ok(n) => self.sink.take(&mut self.pending, buffer.get(..n).unwrap_or_default()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if self.sink.unwritten.is_empty() || !soon(&*self.pipe) {
                        self.sink.write_out();
                        self.pending.shrink_to_fit();
                        return Next::Silent;
                    }
                }
                Err(_) => return Next::Over,
            }
            if begun.elapsed() > TURN {
                return Next::More;
            }
        }
    }
}

/// What is to be expected of a pipe.
enum Next {
    More,
    Silent,
    Over,
}

/// Whether more comes within the time that a short command lives: what it says is then written at once, and for a
/// container that is removed at its end often never.
fn soon(pipe: &impl AsFd) -> bool {
    let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    let mut fds = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&wait)), Ok(1..))
}

/// So much is kept before it is written, whatever comes.
const BATCH: usize = 64 << 10;

#[derive(Debug)]
struct Sink {
    log: LogFile,
    unwritten: Vec<u8>,
    bundle: PathBuf,
    driver: Driver,
    /// Whether this process's own streams are the container's too.
    terminal: bool,
    outputs: Outputs,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    told: bool,
}

impl Sink {
    fn new(bundle: PathBuf, to: &To, outputs: Outputs) -> Self {
        let (unwritten, stdout, stderr) = (Vec::new(), Vec::new(), Vec::new());
        let (driver, log) = (to.log.driver, LogFile::new(place(&bundle), to.log));
        let terminal = to.attach.is_terminal();
        Self { log, unwritten, bundle, driver, terminal, outputs, stdout, stderr, told: false }
    }

    /// Takes what was read; what is no whole frame yet stays pending.
    fn take(&mut self, pending: &mut Vec<u8>, read: &[u8]) {
        pending.extend_from_slice(read);
        let taken = self.frames(pending);
        pending.drain(..taken);
    }

    /// Takes every whole frame and says how many bytes they were.
    fn frames(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut out = std::mem::take(&mut self.unwritten);
        while let Some(head) = bytes.get(taken..taken + HEAD) {
            let &[channel, a, b, c, d] = head else { break };
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let Some(body) = bytes.get(taken + HEAD..taken + HEAD + length) else { break };
            taken += HEAD + length;
            match Channel::from_byte(channel) {
                Some(Channel::Diagnostic) => self.diagnostic(body),
                Some(Channel::Note) => self.note(body),
                Some(channel) => self.output(channel, body, &mut out),
                None => {}
            }
        }
        self.unwritten = out;
        if self.unwritten.len() > BATCH {
            self.write_out();
        }
        taken
    }

    fn output(&mut self, channel: Channel, body: &[u8], out: &mut Vec<u8>) {
        self.outputs.write(channel, body);
        if self.terminal {
            // A terminal that is gone does not end the container; its log goes on.
            let _ = match channel {
                Channel::Stdout => io::stdout().lock().write_all(body).and_then(|()| io::stdout().lock().flush()),
                _ => io::stderr().lock().write_all(body),
            };
        }
        let (line, name) = match channel {
            Channel::Stdout => (&mut self.stdout, "stdout"),
            _ => (&mut self.stderr, "stderr"),
        };
        for piece in body.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= LONGEST {
                record(self.driver, line, name, out);
                line.clear();
            }
        }
    }

    /// The first one is told on the terminal too: a denial that nobody sees looks like a broken program.
    fn diagnostic(&mut self, body: &[u8]) {
        if !self.told {
            let line = [b"sampan: ", body].concat();
            self.outputs.tell(&line);
            if self.terminal {
                let _ = io::stderr().lock().write_all(&line);
            }
        }
        self.told = true;
        self.note(body);
    }

    fn note(&self, body: &[u8]) {
        let mut line = format!("{} ", jiff::Timestamp::now()).into_bytes();
        line.extend_from_slice(body);
        let open = File::options().create(true).append(true).open(diagnostics_place(&self.bundle));
        let _ = open.and_then(|mut file| file.write_all(&line));
    }

    fn write_out(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        // A full disk loses log lines, not the container.
        let _ = self.log.write(&self.unwritten);
        self.unwritten.clear();
    }

    /// What was not ended by a newline is a line too.
    fn finish(mut self) {
        let mut out = std::mem::take(&mut self.unwritten);
        for (line, name) in [(std::mem::take(&mut self.stdout), "stdout"), (std::mem::take(&mut self.stderr), "stderr")]
        {
            if !line.is_empty() {
                record(self.driver, &line, name, &mut out);
            }
        }
        self.unwritten = out;
        // Of a foreground container that ended before it was written down, nobody can ask for the log.
        let unknown = || self.terminal && !self.bundle.join("record.json").exists();
        if !self.unwritten.is_empty() && (self.log.is_open() || !unknown()) {
            self.write_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::stdio::Pipe;

    const TO: To =
        To { attach: Attach::Detached, log: Config { driver: Driver::JsonFile, max_size: None, max_files: 1 } };

    #[test]
    fn lines_of_both_streams_in_order_and_the_last_without_newline() {
        let dir = crate::store::files::tests::temp_dir();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let pipe = Pipe::new(writer);
        pipe.write(Channel::Stdout, b"one\ntw").unwrap();
        pipe.write(Channel::Stderr, b"err\n").unwrap();
        pipe.write(Channel::Stdout, b"o\nend").unwrap();
        pipe.write(Channel::Diagnostic, b"bind denied\n").unwrap();
        drop(pipe);
        pump(reader, dir.clone(), &TO, Outputs::default());
        let text = std::fs::read_to_string(place(&dir)).unwrap();
        let lines: Vec<Line<'_>> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let pairs: Vec<_> = lines.iter().map(|l| (&*l.stream, &*l.log)).collect();
        assert_eq!(pairs, [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n"), ("stdout", "end")]);
        assert!(std::fs::read_to_string(diagnostics_place(&dir)).unwrap().contains("bind denied"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_frame_may_arrive_in_pieces() {
        let dir = crate::store::files::tests::temp_dir();
        let mut sink = Sink::new(dir.clone(), &TO, Outputs::default());
        assert_eq!(sink.frames(b"\x01\x03\0\0\0ab"), 0);
        assert_eq!(sink.frames(b"\x01\x03\0\0\0ab\n\x02"), 8);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
