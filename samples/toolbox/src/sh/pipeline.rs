//! Commands that run side by side: pipelines and the background.
//!
//! Programs are processes of their own. What is the shell's (a loop, a function, a built-in) runs here, if it is the one
//! such part and nobody has to be listened to meanwhile; otherwise it is a second shell.

use super::ast::{Command, Compound, Item, Simple};
use super::exec::Streams;
use super::redirect::{self, Handle};
use super::{Handed, Run, Shell, builtins};
use crate::sys::{self, Program};
use std::rc::Rc;

/// As much as a pipe takes before somebody reads.
const PIPE: usize = 64 << 10;

/// What became of one part.
enum Part {
    Process(u32),
    /// It ended, or did not start: its code.
    Over(i32),
    /// It is to run here, once the others do.
    Here(Box<Shell>),
}

impl Shell {
    pub(super) fn side_by_side(&mut self, commands: &[Command]) -> Run<()> {
        let mut streams = Streams::default();
        let mut parts: Vec<Part> = Vec::with_capacity(commands.len());
        let captured = matches!(self.fds.get(1), Handle::Memory(_));
        // The last part that is the shell's own runs here.
        let here = commands.iter().rposition(|command| !self.is_program(command));
        let here = here.filter(|n| !captured || n + 1 == commands.len());
        let mut input = None;
        for (n, command) in commands.iter().enumerate() {
            let mut inner = self.subshell();
            if let Some(input) = input.take() {
                inner.fds.set(0, input);
            }
            if n + 1 < commands.len() {
                match sys::pipe() {
                    Ok((reader, writer)) => {
                        inner.fds.set(1, Handle::of(writer));
                        input = Some(Handle::of(reader));
                    }
                    Err(error) => {
                        self.complain(&format!("can't create pipe: {}", sys::words(&error)));
                        parts.push(Part::Over(126));
                        break;
                    }
                }
            }
            let part = if inner.is_program(command) {
                inner.start_program(command, &mut streams)
            } else if let Some(code) = inner.say(command) {
                Part::Over(code)
            } else if here == Some(n) {
                Part::Here(Box::new(inner))
            } else {
                inner.start_shell(command, &mut streams)
            };
            parts.push(part);
        }
        drop(input);
        for (part, command) in parts.iter_mut().zip(commands) {
            if let Part::Here(_) = part
                && let Part::Here(mut inner) = std::mem::replace(part, Part::Over(0))
            {
                let cwd = std::env::current_dir();
                let _ = inner.command(command);
                let code = inner.end();
                // Its ends of the pipes close here.
                drop(inner);
                if let Ok(cwd) = cwd {
                    let _ = std::env::set_current_dir(cwd);
                }
                *part = Part::Over(code);
            }
        }
        if let Err(error) = streams.collect() {
            self.complain(&sys::words(&error));
        }
        for part in parts {
            self.state.status = match part {
                Part::Process(id) => self.wait_for(id),
                Part::Over(code) => code,
                Part::Here(_) => 0,
            };
        }
        Ok(())
    }

    /// Whether a command is a program's, as far as that can be told before it is expanded.
    fn is_program(&self, command: &Command) -> bool {
        let Command::Simple(simple) = command else { return false };
        let Some(word) = simple.words.first() else { return false };
        let plain = !word.contains(['$', '`', '"', '\'', '\\', '*', '?', '[', '~']);
        plain && builtins::find(word).is_none() && !self.state.functions.contains_key(word)
    }

    /// In a subshell: starts the program that the command names.
    fn start_program(&mut self, command: &Command, streams: &mut Streams) -> Part {
        let Command::Simple(simple) = command else { return Part::Over(126) };
        let started = self.prepare(simple).map(|prepared| {
            let (args, extra) = prepared?;
            self.start(&args, &extra, streams)
        });
        match started {
            Ok(Some(id)) => Part::Process(id),
            _ => Part::Over(self.state.status),
        }
    }

    /// The arguments and variables of a program whose redirections are made.
    fn prepare(&mut self, simple: &Simple) -> Run<Option<(Vec<String>, Vec<(String, String)>)>> {
        let args = self.expand_words(&simple.words)?;
        if !self.redirect(&simple.redirects)? {
            return Ok(None);
        }
        let mut extra = Vec::new();
        for (name, word) in &simple.assignments {
            let value = self.expand_single(word)?;
            extra.push((name.clone(), value));
        }
        Ok(Some((args, extra)))
    }

    /// In a subshell: runs a built-in that only says something, if what it says fits into the pipe; so `echo … | …` needs
    /// no second shell.
    fn say(&mut self, command: &Command) -> Option<i32> {
        let Command::Simple(simple) = command else { return None };
        let name = simple.words.first().filter(|name| matches!(name.as_str(), "echo" | "printf" | "pwd"))?;
        if !simple.redirects.is_empty() || self.state.functions.contains_key(name) {
            return None;
        }
        let out = self.fds.get(1);
        let Handle::File(_) = out else { return None };
        let buffer = redirect::memory();
        let mut trial = self.subshell();
        trial.fds.set(1, Handle::Memory(Rc::clone(&buffer)));
        let _ = trial.command(command);
        let bytes = buffer.borrow();
        if bytes.len() > PIPE {
            return None;
        }
        let _ = out.write_all(&bytes);
        Some(trial.state.status)
    }

    /// In a subshell: starts a second shell for a command, with everything that this one knows.
    fn start_shell(&mut self, command: &Command, streams: &mut Streams) -> Part {
        let handed = Handed {
            state: self.state.clone(),
            options: self.options.clone(),
            positional: self.positional.clone(),
            command: command.clone(),
        };
        let started = serde_json::to_string(&handed).map_err(std::io::Error::other).and_then(|handed| {
            let files =
                [streams.file(&self.fds.get(0))?, streams.file(&self.fds.get(1))?, streams.file(&self.fds.get(2))?];
            let path = self.own_path();
            let args = ["sh".to_owned(), "--state".to_owned(), handed];
            let env = self.environment(&[]);
            let stdio = [0, 1, 2].map(|n| files.get(n).and_then(|file| file.as_deref()));
            sys::spawn(&Program { path: &path, args: &args, env: &env, stdio })
        });
        match started {
            Ok(id) => Part::Process(id),
            Err(error) => {
                self.complain(&format!("can't fork: {}", sys::words(&error)));
                Part::Over(126)
            }
        }
    }

    /// Starts what is not waited for.
    pub(super) fn background(&mut self, item: &Item) -> Run<()> {
        let mut inner = self.subshell();
        inner.fds.set(0, Handle::Null);
        let mut streams = Streams::default();
        let part = match (item.first.commands.as_slice(), item.first.negated, item.rest.as_slice()) {
            ([command], false, []) if inner.is_program(command) => inner.start_program(command, &mut streams),
            _ => {
                let list = vec![Item { background: false, ..item.clone() }];
                inner.start_shell(&Command::Compound(Compound::Group(list), Vec::new()), &mut streams)
            }
        };
        drop(inner);
        self.state.status = 0;
        if let Part::Process(id) = part {
            self.add_job(id);
        }
        // In a command substitution what runs in the background is listened to, as everywhere.
        if let Err(error) = streams.collect() {
            self.complain(&sys::words(&error));
        }
        Ok(())
    }
}
