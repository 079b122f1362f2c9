//! Running commands.

use super::ast::{Command, Compound, Item, List, Pipeline, Simple};
use super::redirect::{Handle, Memory};
use super::{Flow, Run, Shell, builtins, pattern};
use crate::sys::{self, Program};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::rc::Rc;
use std::time::Duration;

/// Functions within functions that one stack has room for.
const DEEPEST: usize = 200;

/// How long a command waits for a place among the container's processes.
const PATIENCE: Duration = Duration::from_millis(200);

impl Shell {
    pub(super) fn list(&mut self, list: &List) -> Run<()> {
        list.iter().try_for_each(|item| self.item(item))
    }

    fn item(&mut self, item: &Item) -> Run<()> {
        if item.background {
            return self.background(item);
        }
        let last = item.rest.len();
        self.and_or_part(&item.first, last > 0)?;
        for (n, (and, pipeline)) in item.rest.iter().enumerate() {
            if (self.state.status == 0) == *and {
                self.and_or_part(pipeline, n + 1 < last)?;
            }
        }
        Ok(())
    }

    /// A pipeline of a list by `&&` and `||`, in which every failure but that of the last is a condition.
    fn and_or_part(&mut self, pipeline: &Pipeline, guarded: bool) -> Run<()> {
        self.guarded += usize::from(guarded);
        let run = self.pipeline(pipeline);
        self.guarded -= usize::from(guarded);
        run?;
        if guarded || pipeline.negated { Ok(()) } else { self.check() }
    }

    /// Ends a shell with `set -e` when what ran has failed and that was no condition.
    fn check(&mut self) -> Run<()> {
        if self.options.errexit && self.guarded == 0 && self.state.status != 0 { Err(Flow::Exit) } else { Ok(()) }
    }

    fn pipeline(&mut self, pipeline: &Pipeline) -> Run<()> {
        self.guarded += usize::from(pipeline.negated);
        let run = match pipeline.commands.as_slice() {
            [command] => self.command(command),
            commands => self.side_by_side(commands),
        };
        self.guarded -= usize::from(pipeline.negated);
        run?;
        if pipeline.negated {
            self.state.status = i32::from(self.state.status == 0);
        }
        Ok(())
    }

    pub(super) fn command(&mut self, command: &Command) -> Run<()> {
        match command {
            Command::Simple(simple) => self.simple(simple),
            Command::Function(name, body) => {
                self.state.functions.insert(name.clone(), (**body).clone());
                self.state.status = 0;
                Ok(())
            }
            Command::Compound(compound, redirects) => {
                if redirects.is_empty() {
                    return self.compound(compound);
                }
                let before = self.fds.clone();
                let run = match self.redirect(redirects) {
                    Ok(true) => self.compound(compound),
                    Ok(false) => self.check(),
                    Err(flow) => Err(flow),
                };
                self.fds = before;
                run
            }
        }
    }

    fn condition(&mut self, list: &List) -> Run<bool> {
        self.guarded += 1;
        let run = self.list(list);
        self.guarded -= 1;
        run.map(|()| self.state.status == 0)
    }

    fn compound(&mut self, compound: &Compound) -> Run<()> {
        match compound {
            Compound::Group(list) => self.list(list),
            Compound::Subshell(list) => {
                let mut inner = self.subshell();
                let cwd = std::env::current_dir();
                let _ = inner.list(list);
                self.state.status = inner.end();
                if let Ok(cwd) = cwd {
                    let _ = std::env::set_current_dir(cwd);
                }
                self.check()
            }
            Compound::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.condition(condition)? {
                        return self.list(body);
                    }
                }
                self.state.status = 0;
                otherwise.as_ref().map_or(Ok(()), |body| self.list(body))
            }
            Compound::While { until, condition, body } => {
                let mut status = 0;
                let run = self.rounds(|shell| {
                    if shell.condition(condition)? == *until {
                        return Ok(false);
                    }
                    let run = shell.list(body);
                    status = shell.state.status;
                    run.map(|()| true)
                });
                if run.is_ok() {
                    self.state.status = status;
                }
                run
            }
            Compound::For { name, words, body } => {
                let words = match words {
                    Some(words) => self.expand_words(words)?,
                    None => self.positional.clone(),
                };
                let mut words = words.into_iter();
                self.state.status = 0;
                self.rounds(|shell| {
                    let Some(word) = words.next() else { return Ok(false) };
                    shell.set(name, &word)?;
                    shell.list(body).map(|()| true)
                })
            }
            Compound::Case { word, arms } => {
                let word = self.expand_single(word)?;
                for (patterns, body) in arms {
                    for one in patterns {
                        let one = self.expand_pattern(one)?;
                        if pattern::matches(&word, &one) {
                            self.state.status = 0;
                            return self.list(body);
                        }
                    }
                }
                self.state.status = 0;
                Ok(())
            }
        }
    }

    /// Runs the rounds of a loop, until one says that it was the last.
    fn rounds(&mut self, mut round: impl FnMut(&mut Self) -> Run<bool>) -> Run<()> {
        self.loops += 1;
        let run = loop {
            match round(self) {
                Ok(true) | Err(Flow::Continue(1)) => {}
                Ok(false) | Err(Flow::Break(1)) => break Ok(()),
                Err(Flow::Break(n)) => break Err(Flow::Break(n - 1)),
                Err(Flow::Continue(n)) => break Err(Flow::Continue(n - 1)),
                Err(flow) => break Err(flow),
            }
        };
        self.loops -= 1;
        run
    }

    fn simple(&mut self, simple: &Simple) -> Run<()> {
        if self.script {
            self.line = simple.line;
        }
        self.substituted = 0;
        let args = self.expand_words(&simple.words)?;
        let saved = self.fds.clone();
        let run = self.simple_with(simple, &args);
        // `exec` without a command is what makes redirections for good.
        let for_good = args.len() == 1 && args.first().is_some_and(|a| a == "exec") && run.is_ok();
        if !for_good {
            self.fds = saved;
        }
        run?;
        self.check()
    }

    fn simple_with(&mut self, simple: &Simple, args: &[String]) -> Run<()> {
        let Some(name) = args.first() else {
            if !self.redirect(&simple.redirects)? {
                return Ok(());
            }
            let assignments = self.assignments(simple)?;
            for (name, value) in &assignments {
                self.set(name, value)?;
            }
            self.state.status = self.substituted;
            self.trace(&assignments, args);
            return Ok(());
        };
        if !self.redirect(&simple.redirects)? {
            return if builtins::is_special(name) && self.state.functions.get(name).is_none() {
                Err(Flow::Exit)
            } else {
                Ok(())
            };
        }
        let assignments = self.assignments(simple)?;
        self.trace(&assignments, args);
        if let Some(body) = self.state.functions.get(name).filter(|_| !builtins::is_special(name)).cloned() {
            return self.with_assignments(assignments, |shell| shell.function(&body, args));
        }
        if let Some(builtin) = builtins::find(name) {
            if builtins::is_special(name) {
                for (name, value) in &assignments {
                    self.set(name, value)?;
                }
                return builtin(self, args);
            }
            return self.with_assignments(assignments, |shell| builtin(shell, args));
        }
        self.foreground(args, &assignments)
    }

    fn assignments(&mut self, simple: &Simple) -> Run<Vec<(String, String)>> {
        let mut all = Vec::with_capacity(simple.assignments.len());
        let mut saved = Vec::new();
        for (name, word) in &simple.assignments {
            let value = self.expand_single(word)?;
            // The next may speak of it.
            saved.push((name.clone(), self.state.variables.get(name).cloned()));
            self.set(name, &value)?;
            all.push((name.clone(), value));
        }
        saved.reverse();
        self.restore(saved);
        Ok(all)
    }

    fn with_assignments(&mut self, new: Vec<(String, String)>, run: impl FnOnce(&mut Self) -> Run<()>) -> Run<()> {
        if new.is_empty() {
            return run(self);
        }
        let saved: Vec<_> = new.iter().map(|(n, _)| (n.clone(), self.state.variables.get(n).cloned())).collect();
        for (name, value) in &new {
            self.set(name, value)?;
            self.variable(name).exported = true;
        }
        let result = run(self);
        self.restore(saved);
        result
    }

    fn trace(&mut self, assignments: &[(String, String)], args: &[String]) {
        if !self.options.xtrace {
            return;
        }
        let assigned = assignments.iter().map(|(name, value)| format!("{name}={}", quote(value)));
        let words: Vec<String> = assigned.chain(args.iter().map(|arg| quote(arg))).collect();
        let prompt = self.get("PS4").unwrap_or_default();
        let _ = self.fds.get(2).write_all(format!("{prompt}{}\n", words.join(" ")).as_bytes());
    }

    fn function(&mut self, body: &Command, args: &[String]) -> Run<()> {
        if self.functions >= DEEPEST {
            return Err(self.fatal("functions call one another without end"));
        }
        let positional = std::mem::replace(&mut self.positional, args.get(1..).unwrap_or_default().to_vec());
        let loops = std::mem::take(&mut self.loops);
        self.functions += 1;
        self.locals.push(Default::default());
        let run = self.command(body);
        if let Some(locals) = self.locals.pop() {
            self.restore(locals);
        }
        self.functions -= 1;
        self.loops = loops;
        self.positional = positional;
        match run {
            Err(Flow::Return) => Ok(()),
            run => run,
        }
    }

    /// Runs a program and waits for it.
    pub(super) fn foreground(&mut self, args: &[String], extra: &[(String, String)]) -> Run<()> {
        let mut streams = Streams::default();
        let started = self.start(args, extra, &mut streams);
        if let Err(error) = streams.collect() {
            self.complain(&sys::words(&error));
        }
        if let Some(id) = started {
            self.state.status = self.wait_for(id);
        }
        Ok(())
    }

    /// Starts a program that is found along PATH. `None` when it cannot be, which has been said and is the status.
    pub(super) fn start(&mut self, args: &[String], extra: &[(String, String)], streams: &mut Streams) -> Option<u32> {
        let name = args.first()?;
        let path = extra.iter().find(|(n, _)| n == "PATH").map(|(_, p)| p.clone()).or_else(|| self.get("PATH"));
        let candidates: Vec<String> = if name.contains('/') {
            vec![name.clone()]
        } else {
            let path = path.unwrap_or_default();
            path.split(':').map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir })).collect()
        };
        let env = self.environment(extra);
        let mut worst = None;
        for path in candidates.iter().filter(|_| !name.is_empty()) {
            match self.start_at(path, args, &env, streams) {
                Ok(id) => return Some(id),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied && error_is_access(&error) => {
                    worst = Some(error);
                }
                Err(error) => {
                    worst = Some(error);
                    break;
                }
            }
        }
        match worst {
            None => {
                self.complain(&format!("{name}: not found"));
                self.state.status = 127;
            }
            Some(error) => {
                self.complain(&format!("{name}: {}", sys::words(&error)));
                self.state.status = 126;
            }
        }
        None
    }

    fn start_at(&mut self, path: &str, args: &[String], env: &[String], streams: &mut Streams) -> io::Result<u32> {
        let handles = [0, 1, 2].map(|fd| self.fds.get(fd));
        let mut files = Vec::with_capacity(3);
        for handle in &handles {
            files.push(streams.file(handle)?);
        }
        let stdio = [0, 1, 2].map(|n| files.get(n).and_then(|file: &Option<Rc<File>>| file.as_deref()));
        let mut patience = PATIENCE;
        loop {
            let error = match sys::spawn(&Program { path, args, env, stdio }) {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            // The places of those who ended and were not asked for may be what is missing, or of those who are about to end.
            if error.kind() == ErrorKind::WouldBlock && (self.reap() || patience > Duration::ZERO) {
                if patience > Duration::ZERO {
                    std::thread::sleep(Duration::from_millis(2));
                    patience = patience.saturating_sub(Duration::from_millis(2));
                }
                continue;
            }
            if !sys::is_not_executable(&error) || is_binary(path) {
                return Err(error);
            }
            // A script that does not say whose it is, is the shell's.
            let mut script = vec![self.own_name(), path.to_owned()];
            script.extend(args.iter().skip(1).cloned());
            return sys::spawn(&Program { path: &self.own_path(), args: &script, env, stdio });
        }
    }

    fn own_name(&self) -> String {
        std::env::args().next().unwrap_or_else(|| "sh".to_owned())
    }

    /// Where the shell itself is to be found.
    pub(super) fn own_path(&self) -> String {
        #[cfg(not(target_family = "wasm"))]
        if let Ok(path) = std::env::current_exe() {
            return path.to_string_lossy().into_owned();
        }
        let name = self.own_name();
        if name.contains('/') {
            return name;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let found = path.split(':').map(|dir| format!("{dir}/{name}")).find(|p| std::path::Path::new(p).is_file());
        found.unwrap_or_else(|| "/bin/sh".to_owned())
    }

    /// Waits for a child, and says how it ended.
    pub(super) fn wait_for(&mut self, id: u32) -> i32 {
        if let Some(code) = self.ended.borrow_mut().remove(&id) {
            return code;
        }
        match sys::wait(id, true) {
            Ok(Some((_, code))) => code,
            _ => 127,
        }
    }

    /// Writes down which children have ended, so that their places are free; whether any has.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        while let Ok(Some((id, code))) = sys::wait(0, false) {
            self.ended.borrow_mut().insert(id, code);
            any = true;
        }
        any
    }

    pub(super) fn add_job(&mut self, id: u32) {
        self.state.last_job = id;
        self.jobs.insert(id);
    }

    /// The background's numbers.
    pub(super) fn job_ids(&self) -> Vec<u32> {
        self.jobs.iter().copied().collect()
    }

    pub(super) fn forget_job(&mut self, id: u32) -> bool {
        self.jobs.remove(&id)
    }
}

/// Whether it is the file that may not be run, and not the container that may run none.
fn error_is_access(error: &io::Error) -> bool {
    // EACCES of WASI, and of Linux.
    error.raw_os_error() == Some(if cfg!(target_family = "wasm") { 2 } else { 13 })
}

/// Whether a file is no text, so no script either.
fn is_binary(path: &str) -> bool {
    let mut head = [0; 128];
    let count = File::open(path).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    let head = head.get(..count).unwrap_or_default();
    let first_line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    first_line.contains(&0)
}

/// A word as it could be typed.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The files that programs are started with, and the pipes out of which a command substitution collects.
#[derive(Default)]
pub struct Streams {
    collecting: Vec<(Memory, File, Rc<File>)>,
}

impl Streams {
    /// The file of a handle; a pipe to what only this process has.
    pub fn file(&mut self, handle: &Handle) -> io::Result<Option<Rc<File>>> {
        match handle {
            Handle::Null | Handle::Closed => Ok(None),
            Handle::File(file) => Ok(Some(Rc::clone(file))),
            Handle::Memory(memory) => {
                if let Some((_, _, writer)) = self.collecting.iter().find(|(m, _, _)| Rc::ptr_eq(m, memory)) {
                    return Ok(Some(Rc::clone(writer)));
                }
                let (reader, writer) = sys::pipe()?;
                let writer = Rc::new(writer);
                self.collecting.push((Rc::clone(memory), reader, Rc::clone(&writer)));
                Ok(Some(writer))
            }
        }
    }

    /// Collects until every writer is gone.
    pub fn collect(self) -> io::Result<()> {
        let readers: Vec<_> = self.collecting.into_iter().map(|(memory, reader, _)| (memory, reader)).collect();
        let mut buffer = vec![0; 64 << 10];
        for (memory, mut reader) in readers {
            loop {
                match reader.read(&mut buffer)? {
                    0 => break,
                    count => memory.borrow_mut().extend_from_slice(buffer.get(..count).unwrap_or_default()),
                }
            }
        }
        Ok(())
    }
}
