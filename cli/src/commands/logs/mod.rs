//! `logs`.

mod read;

use crate::Context;
use crate::commands::filter;
use crate::commands::watch::Watch;
use crate::format::time::parse_since;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use jiff::Timestamp;
use read::Reader;
use sampan_runtime::container::{self, Container};
use sampan_runtime::sandbox::log::{self, Driver, Line};
use sampan_runtime::store::{Lock, Store};
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Show a container's output
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Wait for more, until the container has ended
    #[arg(short, long)]
    follow: bool,
    /// Show only so many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_negative_numbers = true)]
    tail: String,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Show what is not older: 10m, 2026-03-01T12:30:00Z, Unix seconds
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show what is not younger
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show what the runtime has to say instead: what it was denied, and whom it has called
    #[arg(long, conflicts_with_all = ["follow", "since", "until"])]
    diagnostics: bool,
    /// Name or id
    container: String,
}

impl LogsArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let now = Timestamp::now();
        let time = |given: &Option<String>| given.as_deref().map(|given| parse_since(given, now)).transpose();
        let mut printer = Printer::new(self.timestamps, time(&self.since)?, time(&self.until)?);
        let tail = lines_of_tail(&self.tail)?;
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        if self.diagnostics {
            return diagnostics(&found, tail, self.timestamps);
        }
        if found.record.log.driver == Driver::None {
            bail!("container {} has no log: it was made with --log-driver none", found.record.name);
        }
        let reader = Reader::new(log::place(&found.dir), tail)?;
        let printed =
            if self.follow { follow(&store, &found, reader, &mut printer) } else { all(reader, &mut printer) };
        match printed {
            // Its reader, such as `head`, has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            other => Ok(other.map(|()| ExitCode::SUCCESS)?),
        }
    }
}

/// `--diagnostics`: lines that each begin with their time.
fn diagnostics(found: &Container, tail: Option<usize>, timestamps: bool) -> Result<ExitCode> {
    let file = log::diagnostics_place(&found.dir);
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let skipped = tail.map_or(0, |tail| text.lines().count().saturating_sub(tail));
    let shown = text.lines().skip(skipped).map(|line| match line.split_once(' ') {
        Some((_, said)) if !timestamps => said,
        _ => line,
    });
    filter::print(&shown.map(|line| format!("{line}\n")).collect::<String>())
}

/// How many lines `--tail` means; none for all.
fn lines_of_tail(given: &str) -> Result<Option<usize>> {
    match given.parse::<i64>() {
        _ if given == "all" => Ok(None),
        // Docker's other way to say all.
        Ok(lines) => Ok(usize::try_from(lines).ok()),
        Err(_) => bail!("invalid number of lines {given:?}: it is a number or \"all\""),
    }
}

fn all(mut reader: Reader, printer: &mut Printer) -> io::Result<()> {
    let _ = reader.read_on(|line| printer.line(line))?;
    printer.flush()
}

fn follow(store: &Store, found: &Container, mut reader: Reader, printer: &mut Printer) -> io::Result<()> {
    // Before the first look, so that nothing is written unseen between the two.
    let mut watch = match Watch::new(&found.dir, &log::place(&found.dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return all(reader, printer),
        other => other?,
    };
    loop {
        // Before reading too: a container's end is told only when its log is whole.
        let goes_on = is_in_life(store, found) && printer.until.is_none_or(|until| Timestamp::now() <= until);
        let flow = reader.read_on(|line| printer.line(line))?;
        printer.flush()?;
        if !goes_on || flow.is_break() {
            return Ok(());
        }
        watch.wait()?;
    }
}

/// Whether a keeper has the container. One that was killed leaves no other trace than its lock being free; the look at
/// the status then writes its end down.
fn is_in_life(store: &Store, found: &Container) -> bool {
    Lock::is_held(&found.dir.join("lock")) || found.status(store).is_running()
}

/// Writes lines where they were written: to standard output or error.
struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// What is to be written to one of the two.
    pending: Vec<u8>,
    to_stderr: bool,
    /// Whether the last line of standard output, and of standard error, is still going on.
    within: [bool; 2],
}

impl Printer {
    fn new(timestamps: bool, since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self { timestamps, since, until, pending: Vec::new(), to_stderr: false, within: [false; 2] }
    }

    /// Takes a line; after one that is too young there are no others.
    fn line(&mut self, line: &Line<'_>) -> io::Result<ControlFlow<()>> {
        if self.until.is_some_and(|until| line.time > until) {
            return Ok(ControlFlow::Break(()));
        }
        if self.since.is_some_and(|since| line.time < since) {
            return Ok(ControlFlow::Continue(()));
        }
        let to_stderr = line.stream == "stderr";
        if to_stderr != self.to_stderr || self.pending.len() > 64 << 10 {
            self.flush()?;
            self.to_stderr = to_stderr;
        }
        let [of_stdout, of_stderr] = &mut self.within;
        let within = if to_stderr { of_stderr } else { of_stdout };
        if self.timestamps && !*within {
            write!(self.pending, "{:.9} ", line.time)?;
        }
        *within = !line.log.ends_with('\n');
        self.pending.extend_from_slice(line.log.as_bytes());
        Ok(ControlFlow::Continue(()))
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.to_stderr {
            true => write_out(io::stderr().lock(), &self.pending)?,
            false => write_out(io::stdout().lock(), &self.pending)?,
        }
        self.pending.clear();
        Ok(())
    }
}

fn write_out(mut out: impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(log: &'static str, seconds: i64) -> Line<'static> {
        Line { log: log.into(), stream: "stdout".into(), time: Timestamp::from_second(seconds).unwrap() }
    }

    #[test]
    fn a_number_of_lines_or_all() {
        assert_eq!(lines_of_tail("all").unwrap(), None);
        assert_eq!(lines_of_tail("-1").unwrap(), None);
        assert_eq!(lines_of_tail("0").unwrap(), Some(0));
        assert!(lines_of_tail("some").is_err());
    }

    #[test]
    fn a_line_in_pieces_has_one_time() {
        let mut printer = Printer::new(true, None, None);
        for piece in [line("a", 0), line("b\n", 1), line("c\n", 2)] {
            assert!(printer.line(&piece).unwrap().is_continue());
        }
        let text = String::from_utf8(std::mem::take(&mut printer.pending)).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000000000Z ab\n1970-01-01T00:00:02.000000000Z c\n");
    }

    #[test]
    fn times_are_limits() {
        let second = |n| Timestamp::from_second(n).ok();
        let mut printer = Printer::new(false, second(1), second(2));
        for early in [line("a\n", 0), line("b\n", 1), line("c\n", 2)] {
            assert!(printer.line(&early).unwrap().is_continue());
        }
        assert!(printer.line(&line("d\n", 3)).unwrap().is_break());
        assert_eq!(std::mem::take(&mut printer.pending), b"b\nc\n");
    }
}
