//! A command line → its output, with asserts that print everything when they fail.

use crate::{OrFail, Pty, fail, until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a command may take. The slowest one compiles Python, on a machine that has other things to do too.
const DEADLINE: Duration = Duration::from_secs(150);

/// Splits a command line at blanks; what stands between single quotes stays together, as in a shell.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => all.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    all.extend(word);
    all
}

/// A command that is to run.
#[derive(Debug)]
#[must_use = "a command does nothing until it runs"]
pub struct Run {
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    dir: Option<OsString>,
    group: bool,
}

impl Run {
    /// A program with its arguments.
    pub fn new(words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect(), env: vec![], stdin: None, dir: None, group: false }
    }

    /// One argument more, blanks and all.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.words.push(arg.as_ref().to_owned());
        self
    }

    /// A variable of the command's own environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads from its standard input; nothing without this.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_owned());
        self
    }

    /// The directory that it runs in.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Gives it a process group of its own, so that it can be killed with its children.
    pub fn in_a_group(mut self) -> Self {
        self.group = true;
        self
    }

    /// Runs it by way of another program: `under("unshare --mount")`.
    pub fn under(mut self, wrapper: &str) -> Self {
        self.words.splice(0..0, words(wrapper).into_iter().map(OsString::from));
        self
    }

    /// Starts it; what it reads can be written to it.
    #[track_caller]
    pub fn start(self) -> Started {
        let shown: Vec<_> = self.words.iter().map(|word| word.to_string_lossy()).collect();
        let shown = shown.join(" ");
        let Some((program, args)) = self.words.split_first() else { fail("a command needs a program") };
        let mut command = Command::new(program);
        command.args(args).envs(self.env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        if self.group {
            command.process_group(0);
        }
        let mut child = command.spawn().or_fail(format_args!("cannot run {shown}"));
        let mut stdin = child.stdin.take();
        if let Some(bytes) = self.stdin {
            let pipe = stdin.take();
            // Beside the reading, so that the two cannot wait for each other. A command may well not read it all.
            std::thread::spawn(move || pipe.map(|mut pipe| pipe.write_all(&bytes)));
        }
        let (ended, ends) = channel();
        let stdout = child.stdout.take().map(|pipe| Stream::of(pipe, ended.clone())).unwrap_or_default();
        let stderr = child.stderr.take().map(|pipe| Stream::of(pipe, ended)).unwrap_or_default();
        Started { shown, child, stdin, stdout, stderr, ends }
    }

    /// Starts it at a terminal.
    #[track_caller]
    #[must_use]
    pub fn at_terminal(self) -> Pty {
        let Some((program, args)) = self.words.split_first() else { fail("a command needs a program") };
        let mut command = Command::new(program);
        command.args(args).envs(self.env);
        Pty::start(command)
    }

    /// Runs it to its end.
    #[track_caller]
    #[must_use]
    pub fn run(mut self) -> Output {
        self.stdin.get_or_insert_default();
        self.start().finish()
    }

    /// Runs it, and fails the test unless it succeeds.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.run().ok()
    }

    /// Runs it, and fails the test unless it ends with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        self.run().fails(code)
    }
}

/// What a command has written so far.
#[derive(Debug, Clone, Default)]
struct Stream(Arc<Mutex<Vec<u8>>>);

impl Stream {
    fn of(mut pipe: impl Read + Send + 'static, ended: Sender<()>) -> Self {
        let stream = Self::default();
        let filled = stream.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                let mut bytes = filled.0.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
            }
            let _ = ended.send(());
        });
        stream
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// A command that runs beside the test; killed when it is dropped.
#[derive(Debug)]
pub struct Started {
    shown: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    ends: Receiver<()>,
}

impl Started {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Sends a signal to it and to its children, for what was started in a group.
    pub fn signal_group(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Waits until it has written this to its standard output.
    #[track_caller]
    pub fn says(&self, text: &str) {
        until(format_args!("{:?} from {}", text, self.shown), || self.stdout.text().contains(text).then_some(()));
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        let pipe = self.stdin.as_mut().or_fail("its standard input is closed");
        pipe.write_all(text.as_bytes()).or_fail("cannot write to its standard input");
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Closes its standard input and waits for its end.
    #[track_caller]
    #[must_use]
    pub fn finish(mut self) -> Output {
        drop(self.stdin.take());
        for _ in 0..2 {
            // The pipes end with the last process that holds them: one that stays behind is found out here.
            if self.ends.recv_timeout(DEADLINE).is_err() {
                let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
                fail(format_args!("{} did not end within {DEADLINE:?}\n{stdout}\n{stderr}", self.shown));
            }
        }
        let status = until(&self.shown, || self.child.try_wait().ok().flatten());
        Output {
            command: self.shown.clone(),
            code: status.code().unwrap_or_else(|| -status.signal().unwrap_or_default()),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a process a signal; one that is gone already is no failure.
#[track_caller]
pub fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).or_fail(format_args!("{pid} is no process id"));
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => fail(format_args!("cannot signal process {pid:?}: {error}")),
    }
}

/// What a command has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// Its exit code; the negative number of the signal that ended it, if one did.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the command has succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.fails(0)
    }

    /// Fails the test unless the command has ended with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        let so = self.code == code;
        self.must(so, format_args!("exit code {code}"))
    }

    /// Fails the test unless this is all that went to standard output.
    #[track_caller]
    pub fn stdout_is(self, text: &str) -> Self {
        let so = self.stdout == text;
        self.must(so, format_args!("standard output {text:?}"))
    }

    /// Fails the test unless this is in standard output.
    #[track_caller]
    pub fn stdout_has(self, text: &str) -> Self {
        let so = self.stdout.contains(text);
        self.must(so, format_args!("{text:?} in standard output"))
    }

    /// Fails the test if this is in standard output.
    #[track_caller]
    pub fn stdout_lacks(self, text: &str) -> Self {
        let so = !self.stdout.contains(text);
        self.must(so, format_args!("no {text:?} in standard output"))
    }

    /// Fails the test unless this is in standard error.
    #[track_caller]
    pub fn stderr_has(self, text: &str) -> Self {
        let so = self.stderr.contains(text);
        self.must(so, format_args!("{text:?} in standard error"))
    }

    /// Fails the test unless this is all that went to standard error.
    #[track_caller]
    pub fn stderr_is(self, text: &str) -> Self {
        let so = self.stderr == text;
        self.must(so, format_args!("standard error {text:?}"))
    }

    /// Standard output without the blanks at its ends: an id, a name, a port.
    #[must_use]
    pub fn line(&self) -> String {
        self.stdout.trim().to_owned()
    }

    /// The lines of standard output.
    #[must_use]
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Standard output as JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).or_fail(format_args!("{self}\nis no JSON"))
    }

    #[track_caller]
    fn must(self, so: bool, what: std::fmt::Arguments<'_>) -> Self {
        if !so {
            fail(format_args!("wanted {what}, got\n{self}"));
        }
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        writeln!(f, "$ {command}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_does_it() {
        assert_eq!(words("run  -v '/a b:/c' x ''"), ["run", "-v", "/a b:/c", "x", ""]);
    }

    #[test]
    fn a_command_is_seen_while_it_runs_and_when_it_has_ended() {
        let mut cat = Run::new(["cat"]).start();
        cat.write("hello");
        cat.says("hello");
        assert!(cat.is_running());
        cat.finish().ok().stdout_is("hello").stderr_is("");
        Run::new(["sh", "-c", "echo out; echo err >&2; exit 3"]).fails(3).stdout_is("out\n").stderr_is("err\n");
        assert_eq!(Run::new(["sh", "-c", "kill -TERM $$"]).run().code, -15);
    }
}
