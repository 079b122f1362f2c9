//! The shell: the commands, expansions and built-ins of POSIX.1-2024 that make sense without signals and terminals.
//!
//! There is no fork. A program is started by the runtime; `(…)`, `$(…)` and the last part of a pipeline run in this very
//! process on a copy of the shell; and what has to run beside it is a second shell that is handed its state.
//!
//! ```text
//! ast, lexer, parser   text → commands
//! expand               words → arguments; with pattern, glob and arith
//! exec                 running commands
//! pipeline             running several side by side
//! redirect             where their streams go
//! builtins             what is done in the shell itself
//! ```

pub mod arith;
pub mod ast;
mod builtins;
mod exec;
pub mod expand;
pub mod glob;
pub mod lexer;
pub mod parser;
pub mod pattern;
mod pipeline;
mod redirect;
mod variables;

use crate::sys;
use ast::Command;
use parser::{ParseError, Parser};
use redirect::{Fds, Handle};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{ErrorKind, IsTerminal};
use std::rc::Rc;

/// What ends the running of commands before they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Out of so many loops.
    Break(usize),
    /// To the next round of the loop so many out.
    Continue(usize),
    /// Out of a function or a script that was read in.
    Return,
    /// Out of the shell.
    Exit,
}

/// The result of running something; the exit code is in the shell.
pub type Run<T> = Result<T, Flow>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options {
    pub errexit: bool,
    pub nounset: bool,
    pub xtrace: bool,
    pub noglob: bool,
    pub noclobber: bool,
    pub noexec: bool,
    pub allexport: bool,
    pub verbose: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Variable {
    pub value: Option<String>,
    pub exported: bool,
    pub read_only: bool,
}

/// A shell. A clone is a subshell.
#[derive(Clone)]
pub struct Shell {
    /// What can be handed to a shell in another process.
    pub state: State,
    pub options: Options,
    pub positional: Vec<String>,
    fds: Fds,
    /// What runs in the background.
    jobs: BTreeSet<u32>,
    /// The codes of children that were asked for to make room; one list for all subshells, as the children are.
    ended: Rc<RefCell<BTreeMap<u32, i32>>>,
    /// Above zero where a failure is part of a condition.
    guarded: usize,
    loops: usize,
    functions: usize,
    sourced: usize,
    /// What a function's local variables were before.
    locals: Vec<HashMap<String, Option<Variable>>>,
    /// Whether the text comes from a file, so that errors have a line.
    script: bool,
    /// Whether somebody types it at a terminal: there is a prompt, and an error ends the line and not the shell.
    interactive: bool,
    /// Whether an error is what ends the shell.
    fatally: bool,
    line: usize,
    /// The place of an option within its argument, for getopts.
    option_at: usize,
    /// The exit code of the last command substitution of a command.
    substituted: i32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    name: String,
    status: i32,
    variables: HashMap<String, Variable>,
    functions: HashMap<String, Command>,
    last_job: u32,
    exit_trap: Option<String>,
    /// The number of the shell that is not a subshell.
    id: u32,
}

/// What a shell in another process is handed.
#[derive(Serialize, Deserialize)]
struct Handed {
    state: State,
    options: Options,
    positional: Vec<String>,
    command: Command,
}

/// Runs the shell with these arguments, the first of which is its name; its exit code.
pub fn main(args: &[String]) -> i32 {
    let mut shell = Shell::new(args.first().map_or("sh", String::as_str));
    if let [_, flag, handed] = args
        && flag == "--state"
    {
        return shell.run_handed(handed);
    }
    let mut rest = args.get(1..).unwrap_or_default().iter().peekable();
    let (mut command, mut stdin) = (false, false);
    while let Some(arg) = rest.next_if(|arg| arg.len() > 1 && arg.starts_with(['-', '+'])) {
        if arg == "--" {
            break;
        }
        let on = arg.starts_with('-');
        for letter in arg.chars().skip(1) {
            let known = match letter {
                'c' => set(&mut command, on),
                's' => set(&mut stdin, on),
                // That somebody types is seen by itself, and no profile is read at login.
                'i' | 'l' => true,
                'o' => rest.next().is_some_and(|name| shell.options.set_by_name(name, on)),
                letter => shell.options.set(letter, on),
            };
            if !known {
                shell.complain(&format!("illegal option -{letter}"));
                return 2;
            }
        }
    }
    let rest: Vec<String> = rest.cloned().collect();
    let outcome = if command {
        let Some((text, rest)) = rest.split_first() else {
            shell.complain("-c requires an argument");
            return 2;
        };
        if let Some((name, arguments)) = rest.split_first() {
            shell.state.name.clone_from(name);
            shell.positional = arguments.to_vec();
        }
        shell.run_text(text)
    } else if let Some((file, arguments)) = rest.split_first().filter(|_| !stdin) {
        shell.positional = arguments.to_vec();
        match std::fs::read(file) {
            Ok(text) => {
                shell.state.name.clone_from(file);
                shell.script = true;
                shell.run_text(&String::from_utf8_lossy(&text))
            }
            Err(error) => {
                shell.complain(&format!("can't open '{file}': {}", sys::words(&error)));
                shell.state.status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                Ok(())
            }
        }
    } else {
        shell.positional = rest;
        shell.interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        shell.run_input()
    };
    let _ = outcome;
    shell.end()
}

fn set(flag: &mut bool, on: bool) -> bool {
    *flag = on;
    true
}

impl Options {
    const NAMES: [(&'static str, char); 8] = [
        ("errexit", 'e'),
        ("nounset", 'u'),
        ("xtrace", 'x'),
        ("noglob", 'f'),
        ("noclobber", 'C'),
        ("noexec", 'n'),
        ("allexport", 'a'),
        ("verbose", 'v'),
    ];

    fn flag(&mut self, letter: char) -> Option<&mut bool> {
        Some(match letter {
            'e' => &mut self.errexit,
            'u' => &mut self.nounset,
            'x' => &mut self.xtrace,
            'f' => &mut self.noglob,
            'C' => &mut self.noclobber,
            'n' => &mut self.noexec,
            'a' => &mut self.allexport,
            'v' => &mut self.verbose,
            _ => return None,
        })
    }

    pub fn set(&mut self, letter: char, on: bool) -> bool {
        self.flag(letter).map(|flag| *flag = on).is_some()
    }

    pub fn set_by_name(&mut self, name: &str, on: bool) -> bool {
        Self::NAMES.iter().find(|(n, _)| *n == name).is_some_and(|(_, letter)| self.set(*letter, on))
    }

    /// Each option's name and whether it is on.
    pub fn all(&self) -> Vec<(&'static str, char, bool)> {
        let mut copy = self.clone();
        Self::NAMES.iter().map(|(name, letter)| (*name, *letter, copy.flag(*letter).is_some_and(|f| *f))).collect()
    }
}

impl Shell {
    fn new(name: &str) -> Self {
        let mut state = State { name: name.to_owned(), id: sys::id(), ..State::default() };
        for (name, value) in std::env::vars() {
            if parser::is_name(&name) {
                state.variables.insert(name, Variable { value: Some(value), exported: true, read_only: false });
            }
        }
        let plain = |value: &str| Variable { value: Some(value.to_owned()), ..Variable::default() };
        state.variables.insert("IFS".to_owned(), plain(" \t\n"));
        state.variables.insert("OPTIND".to_owned(), plain("1"));
        state.variables.entry("PS4".to_owned()).or_insert_with(|| plain("+ "));
        if let Ok(cwd) = std::env::current_dir() {
            let known = state.variables.entry("PWD".to_owned()).or_default();
            known.value = Some(cwd.to_string_lossy().into_owned());
        }
        Self {
            state,
            options: Options::default(),
            positional: Vec::new(),
            fds: Fds::standard(),
            jobs: BTreeSet::new(),
            ended: Rc::default(),
            guarded: 0,
            loops: 0,
            functions: 0,
            sourced: 0,
            locals: Vec::new(),
            script: false,
            interactive: false,
            fatally: false,
            line: 0,
            option_at: 0,
            substituted: 0,
        }
    }

    /// A copy that changes nothing of this one.
    fn subshell(&self) -> Self {
        let mut copy = self.clone();
        copy.state.exit_trap = None;
        copy.jobs.clear();
        copy.loops = 0;
        copy
    }

    fn run_handed(&mut self, handed: &str) -> i32 {
        let Ok(handed) = serde_json::from_str::<Handed>(handed) else { return 2 };
        let id = handed.state.id;
        self.state = State { id, exit_trap: None, ..handed.state };
        self.options = handed.options;
        self.positional = handed.positional;
        let _ = self.command(&handed.command);
        self.end()
    }

    /// Runs the trap that belongs at the end, and says the exit code.
    fn end(&mut self) -> i32 {
        if let Some(trap) = self.state.exit_trap.take() {
            let status = self.state.status;
            self.guarded = 0;
            if self.run_text(&trap) != Err(Flow::Exit) {
                self.state.status = status;
            }
        }
        self.state.status
    }

    /// Runs a script line by line, so that a later error of syntax does not undo what came before.
    pub fn run_text(&mut self, text: &str) -> Run<()> {
        let mut parser = Parser::new(text);
        loop {
            match parser.line_of_commands() {
                Ok(Some(list)) => {
                    if self.options.noexec {
                        continue;
                    }
                    self.list(&list)?;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.line = parser.line();
                    return Err(self.fatal(&error.words()));
                }
            }
        }
    }

    /// Runs what comes from standard input, reading no further than the line that is run: the rest is for the commands.
    fn run_input(&mut self) -> Run<()> {
        let (mut text, mut line, mut ended) = (String::new(), 1, false);
        while !ended {
            self.prompt(!text.is_empty());
            let mut bytes = Vec::new();
            match self.fds.get(0).read_line(&mut bytes) {
                // Ctrl-C gives up what has been typed, however many lines that are.
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    let _ = self.fds.get(2).write_all(b"\n");
                    self.state.status = 130;
                    text.clear();
                    continue;
                }
                read => ended = !read.unwrap_or(false),
            }
            text.push_str(&String::from_utf8_lossy(&bytes));
            let mut parser = if ended { Parser::new(&text) } else { Parser::growing(&text) };
            parser.start_at_line(line);
            let mut lists = Vec::new();
            loop {
                match parser.line_of_commands() {
                    Ok(Some(list)) => lists.push(list),
                    Ok(None) => break,
                    Err(ParseError::Incomplete(_)) if !ended => {
                        lists.clear();
                        break;
                    }
                    Err(error) if self.interactive && !ended => {
                        self.complain(&error.words());
                        self.state.status = 2;
                        text.clear();
                        lists.clear();
                        break;
                    }
                    Err(error) => {
                        self.line = parser.line();
                        return Err(self.fatal(&error.words()));
                    }
                }
            }
            if lists.is_empty() && !text.trim().is_empty() && !ended {
                // A comment is whole without a command in it.
                if !text.lines().all(|l| l.trim_start().starts_with('#') || l.trim().is_empty()) {
                    continue;
                }
            }
            line += text.matches('\n').count();
            text.clear();
            for list in lists {
                match self.list(&list) {
                    Err(_) if self.interactive && std::mem::take(&mut self.fatally) => break,
                    Err(Flow::Exit) => return Err(Flow::Exit),
                    Err(_) if self.interactive => break,
                    done => done?,
                }
            }
        }
        if self.interactive {
            let _ = self.fds.get(2).write_all(b"\n");
        }
        Ok(())
    }

    /// Asks for a line, or for more of one, whoever types at a terminal.
    fn prompt(&self, more: bool) {
        if !self.interactive {
            return;
        }
        let asked = match (more, self.get("PS1"), self.get("PS2")) {
            (true, _, words) => words.unwrap_or_else(|| "> ".to_owned()),
            (false, Some(words), _) => words,
            (false, None, _) => {
                let dir = std::env::current_dir().unwrap_or_default();
                format!("{} # ", dir.display())
            }
        };
        let _ = self.fds.get(2).write_all(asked.as_bytes());
    }

    /// The output of a script, without the newlines at its end.
    fn substitute(&mut self, script: &str) -> Run<String> {
        let buffer = redirect::memory();
        let mut inner = self.subshell();
        inner.fds.set(1, Handle::Memory(buffer.clone()));
        let cwd = std::env::current_dir();
        let _ = inner.run_text(script);
        self.substituted = inner.end();
        drop(inner);
        if let Ok(cwd) = cwd {
            let _ = std::env::set_current_dir(cwd);
        }
        let bytes = std::mem::take(&mut *buffer.borrow_mut());
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Says an error at standard error.
    pub fn complain(&self, words: &str) {
        let name = &self.state.name;
        let line = if self.script { format!(" line {}:", self.line) } else { String::new() };
        let _ = self.fds.get(2).write_all(format!("{name}:{line} {words}\n").as_bytes());
    }

    /// Gives up what is run, as Ctrl-C at a terminal asks.
    pub fn interrupted(&mut self) -> Flow {
        let _ = self.fds.get(2).write_all(b"\n");
        self.state.status = 130;
        self.fatally = true;
        Flow::Exit
    }

    /// Says an error after which a shell that nobody types at ends.
    pub fn fatal(&mut self, words: &str) -> Flow {
        self.complain(words);
        self.state.status = 2;
        self.fatally = true;
        Flow::Exit
    }
}
