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
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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
pub(super) fn pump(pipe: OwnedFd, bundle: &Path, to: &To, outputs: Outputs) {
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
            Ok(n) => {
                pending.extend_from_slice(buffer.get(..n).unwrap_or_default());
                let taken = sink.frames(&pending);
                pending.drain(..taken);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sink.finish();
}

/// Whether more comes within the time that a short command lives: what it says is then written at once, and for a
/// container that is removed at its end often never.
fn soon(pipe: &File) -> bool {
    let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    let mut fds = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&wait)), Ok(1..))
}

/// So much is kept before it is written, whatever comes.
const BATCH: usize = 64 << 10;

struct Sink<'a> {
    log: LogFile,
    unwritten: Vec<u8>,
    bundle: &'a Path,
    driver: Driver,
    /// Whether this process's own streams are the container's too.
    terminal: bool,
    outputs: Outputs,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    told: bool,
}

impl<'a> Sink<'a> {
    fn new(bundle: &'a Path, to: &To, outputs: Outputs) -> Self {
        let (unwritten, stdout, stderr) = (Vec::new(), Vec::new(), Vec::new());
        let (driver, log) = (to.log.driver, LogFile::new(place(bundle), to.log));
        let terminal = to.attach.is_terminal();
        Self { log, unwritten, bundle, driver, terminal, outputs, stdout, stderr, told: false }
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
        let open = File::options().create(true).append(true).open(diagnostics_place(self.bundle));
        let _ = open.and_then(|mut file| file.write_all(&line));
    }

    fn write_out(&mut self) {
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
        pump(reader, &dir, &TO, Outputs::default());
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
        let mut sink = Sink::new(&dir, &TO, Outputs::default());
        assert_eq!(sink.frames(b"\x01\x03\0\0\0ab"), 0);
        assert_eq!(sink.frames(b"\x01\x03\0\0\0ab\n\x02"), 8);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
