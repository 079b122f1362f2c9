//! What is done in the shell itself (POSIX.1-2024, Shell Command Language, 2.15, and what must be a built-in by its
//! nature or is one for speed).

use super::exec::quote;
use super::parser::{assignment, is_name};
use super::{Flow, Run, Shell};
use crate::applets::{printf, say, test};
use crate::sys;
use std::io::ErrorKind;

/// A built-in: its exit code goes into the shell.
pub type Builtin = fn(&mut Shell, &[String]) -> Run<()>;

const SPECIAL: [&str; 15] = [
    ":", ".", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "trap",
    "unset", "source",
];

/// Whether its assignments last and its errors end the shell.
pub fn is_special(name: &str) -> bool {
    SPECIAL.contains(&name)
}

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        ":" | "true" => |shell, _| shell.done(0),
        "false" => |shell, _| shell.done(1),
        "." | "source" => dot,
        "break" => |shell, args| shell.leave(args, Flow::Break),
        "continue" => |shell, args| shell.leave(args, Flow::Continue),
        "cd" => cd,
        "command" => command,
        "echo" => |shell, args| shell.saying(args, say::echo),
        "eval" => |shell, args| {
            shell.state.status = 0;
            shell.run_text(&args[1..].join(" "))
        },
        "exec" => exec,
        "exit" => |shell, args| shell.with_code(args, Flow::Exit),
        "export" => |shell, args| shell.mark(args, "export"),
        "getopts" => getopts,
        "kill" => kill,
        "local" => local,
        "printf" => |shell, args| shell.saying(args, printf::printf),
        "pwd" => pwd,
        "read" => read,
        "readonly" => |shell, args| shell.mark(args, "readonly"),
        "return" => |shell, args| shell.with_code(args, Flow::Return),
        "set" => set,
        "shift" => shift,
        "test" | "[" => |shell, args| shell.saying(args, test::test),
        "trap" => trap,
        "type" => |shell, args| shell.describe(&args[1..], true),
        "umask" => umask,
        "unset" => unset,
        "wait" => wait,
        _ => return None,
    })
}

impl Shell {
    fn done(&mut self, status: i32) -> Run<()> {
        self.state.status = status;
        Ok(())
    }

    fn failed(&mut self, words: &str, status: i32) -> Run<()> {
        self.complain(words);
        self.done(status)
    }

    fn write(&mut self, text: &str) -> Run<()> {
        self.write_bytes(text.as_bytes(), 0)
    }

    fn write_bytes(&mut self, bytes: &[u8], status: i32) -> Run<()> {
        match self.fds.get(1).write_all(bytes) {
            Ok(()) => self.done(status),
            // Nobody reads any more: what SIGPIPE would do.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.state.status = 141;
                Err(Flow::Exit)
            }
            Err(error) => self.failed(&format!("write error: {}", sys::words(&error)), 1),
        }
    }

    /// What a program does that only says something.
    fn saying(&mut self, args: &[String], act: fn(&[String], &mut Vec<u8>) -> Result<i32, String>) -> Run<()> {
        let mut out = Vec::new();
        let result = act(args, &mut out);
        if !out.is_empty() {
            self.write_bytes(&out, 0)?;
        }
        match result {
            Ok(status) => self.done(status),
            Err(words) => self.failed(&format!("{}: {words}", args[0]), 2),
        }
    }

    fn leave(&mut self, args: &[String], flow: fn(usize) -> Flow) -> Run<()> {
        let count = args.get(1).map_or(Ok(1), |n| n.parse::<usize>());
        match count {
            Ok(0) | Err(_) => Err(self.fatal(&format!("{}: Illegal number: {}", args[0], args[1]))),
            Ok(_) if self.loops == 0 => self.done(0),
            Ok(count) => {
                self.state.status = 0;
                Err(flow(count.min(self.loops)))
            }
        }
    }

    fn with_code(&mut self, args: &[String], flow: Flow) -> Run<()> {
        if let Some(code) = args.get(1) {
            match code.parse::<i64>() {
                Ok(code) => self.state.status = i32::from(code.to_le_bytes()[0]),
                Err(_) => return Err(self.fatal(&format!("{}: Illegal number: {code}", args[0]))),
            }
        }
        // There is nothing to return from: dash and BusyBox end the script.
        Err(if flow == Flow::Return && self.functions == 0 && self.sourced == 0 { Flow::Exit } else { flow })
    }

    fn mark(&mut self, args: &[String], verb: &str) -> Run<()> {
        let rest: Vec<&String> = args[1..].iter().filter(|arg| *arg != "-p").collect();
        if rest.is_empty() {
            let mut lines: Vec<String> = Vec::new();
            for (name, variable) in &self.state.variables {
                let marked = if verb == "export" { variable.exported } else { variable.read_only };
                if marked {
                    let value = variable.value.as_ref().map_or_else(String::new, |v| format!("={}", quote(v)));
                    lines.push(format!("{verb} {name}{value}\n"));
                }
            }
            lines.sort();
            return self.write(&lines.concat());
        }
        for arg in rest {
            let (name, value) = assignment(arg).map_or((arg.as_str(), None), |(n, v)| (n, Some(v)));
            if !is_name(name) {
                return Err(self.fatal(&format!("{verb}: {name}: bad variable name")));
            }
            if let Some(value) = value {
                self.set(name, value)?;
            }
            let variable = self.variable(name);
            if verb == "export" {
                variable.exported = true;
            } else {
                variable.read_only = true;
            }
        }
        self.done(0)
    }

    /// `command -v` and `type`.
    fn describe(&mut self, names: &[String], long: bool) -> Run<()> {
        let (mut text, mut status) = (String::new(), 0);
        const KEYWORDS: [&str; 16] = [
            "if", "then", "else", "elif", "fi", "while", "until", "for", "do", "done", "case", "esac", "in", "{", "}",
            "!",
        ];
        for name in names {
            let what = if KEYWORDS.contains(&name.as_str()) {
                Some((name.clone(), "is a shell keyword".to_owned()))
            } else if self.state.functions.contains_key(name) {
                Some((name.clone(), "is a function".to_owned()))
            } else if find(name).is_some() {
                Some((name.clone(), "is a shell builtin".to_owned()))
            } else {
                self.look_up(name).map(|path| (path.clone(), format!("is {path}")))
            };
            match what {
                Some((_, words)) if long => text.push_str(&format!("{name} {words}\n")),
                Some((plain, _)) => text.push_str(&format!("{plain}\n")),
                None => {
                    if long {
                        text.push_str(&format!("{name}: not found\n"));
                    }
                    status = 127;
                }
            }
        }
        self.write(&text)?;
        self.done(status)
    }

    fn look_up(&self, name: &str) -> Option<String> {
        let is_file = |path: &String| std::path::Path::new(path).is_file();
        if name.contains('/') {
            return Some(name.to_owned()).filter(is_file);
        }
        self.get("PATH")?.split(':').map(|dir| format!("{dir}/{name}")).find(is_file)
    }
}

fn dot(shell: &mut Shell, args: &[String]) -> Run<()> {
    let Some(name) = args.get(1) else { return Err(shell.fatal(".: filename argument required")) };
    let path = shell.look_up(name).unwrap_or_else(|| name.clone());
    let text = match std::fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => return Err(shell.fatal(&format!(".: can't open '{name}': {}", sys::words(&error)))),
    };
    shell.sourced += 1;
    shell.state.status = 0;
    let run = shell.run_text(&text);
    shell.sourced -= 1;
    match run {
        Err(Flow::Return) => Ok(()),
        run => run,
    }
}

fn cd(shell: &mut Shell, args: &[String]) -> Run<()> {
    let target = match args[1..].iter().find(|a| *a != "--" && *a != "-L" && *a != "-P").map(String::as_str) {
        None => shell.get("HOME").unwrap_or_else(|| "/".to_owned()),
        Some("-") => match shell.get("OLDPWD") {
            Some(old) => old,
            None => return shell.failed("cd: OLDPWD not set", 2),
        },
        Some(target) => target.to_owned(),
    };
    let before = std::env::current_dir().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
    let mut place = std::path::PathBuf::from(&before);
    // As words say, and not as links lead: `cd link/..` stays where it was.
    for part in std::path::Path::new(&target).components() {
        match part {
            std::path::Component::ParentDir => drop(place.pop()),
            std::path::Component::CurDir => {}
            part => place.push(part),
        }
    }
    let result = match std::fs::metadata(&place) {
        Ok(meta) if !meta.is_dir() => Err("Not a directory".to_owned()),
        Ok(_) => std::env::set_current_dir(&place).map_err(|e| sys::words(&e)),
        Err(error) => Err(sys::words(&error)),
    };
    if let Err(words) = result {
        return shell.failed(&format!("cd: can't cd to {target}: {words}"), 2);
    }
    let place = place.to_string_lossy().into_owned();
    if args.get(1).is_some_and(|arg| arg == "-") {
        shell.write(&format!("{place}\n"))?;
    }
    shell.set("OLDPWD", &before)?;
    shell.set("PWD", &place)?;
    shell.variable("PWD").exported = true;
    shell.done(0)
}

fn command(shell: &mut Shell, args: &[String]) -> Run<()> {
    match args.get(1).map(String::as_str) {
        None => shell.done(0),
        Some("-v") => shell.describe(&args[2..], false),
        Some("-V") => shell.describe(&args[2..], true),
        Some("-p" | "--") => run_command(shell, &args[2..]),
        Some(_) => run_command(shell, &args[1..]),
    }
}

fn run_command(shell: &mut Shell, args: &[String]) -> Run<()> {
    match args.first().map(|name| find(name)) {
        None => shell.done(0),
        Some(Some(builtin)) => builtin(shell, args),
        Some(None) => shell.foreground(args, &[]),
    }
}

fn exec(shell: &mut Shell, args: &[String]) -> Run<()> {
    if args.len() < 2 {
        return shell.done(0);
    }
    // The program takes the shell's place as far as anybody can see: the shell does nothing more but wait for it.
    shell.state.exit_trap = None;
    shell.foreground(&args[1..], &[])?;
    Err(Flow::Exit)
}

fn getopts(shell: &mut Shell, args: &[String]) -> Run<()> {
    let [_, letters, name, rest @ ..] = args else { return shell.failed("usage: getopts OPTSTRING VAR [ARG…]", 2) };
    let given = if rest.is_empty() { shell.positional.clone() } else { rest.to_vec() };
    let mut index = shell.get("OPTIND").and_then(|n| n.parse::<usize>().ok()).unwrap_or(1).max(1);
    let mut at = shell.option_at.max(1);
    let word = given.get(index - 1).filter(|word| word.len() > 1 && word.starts_with('-'));
    let Some(word) = word.filter(|word| *word != "--") else {
        if word.is_some() {
            index += 1;
        }
        shell.set("OPTIND", &index.to_string())?;
        shell.set(name, "?")?;
        return shell.done(1);
    };
    let letter = word.chars().nth(at).unwrap_or('?');
    let place = letters.find(letter).filter(|_| letter != ':');
    let wants = place.is_some_and(|n| letters[n + letter.len_utf8()..].starts_with(':'));
    let quiet = letters.starts_with(':');
    at += 1;
    let rest_of_word: String = word.chars().skip(at).collect();
    let (mut result, mut value) = (letter.to_string(), None);
    if place.is_none() {
        result = "?".to_owned();
        if quiet {
            value = Some(letter.to_string());
        } else {
            shell.complain(&format!("illegal option -{letter}"));
        }
    }
    if wants {
        if !rest_of_word.is_empty() {
            value = Some(rest_of_word.clone());
        } else if let Some(next) = given.get(index) {
            value = Some(next.clone());
            index += 1;
        } else if quiet {
            (result, value) = (":".to_owned(), Some(letter.to_string()));
        } else {
            shell.complain(&format!("No arg for -{letter} option"));
            result = "?".to_owned();
        }
    }
    if wants || rest_of_word.is_empty() {
        index += 1;
        at = 0;
    }
    match value {
        Some(value) => shell.set("OPTARG", &value)?,
        None => shell.unset("OPTARG")?,
    }
    shell.set("OPTIND", &index.to_string())?;
    shell.option_at = at;
    shell.set(name, &result)?;
    shell.done(0)
}

fn kill(shell: &mut Shell, args: &[String]) -> Run<()> {
    const NAMES: [(&str, u32); 7] =
        [("HUP", 1), ("INT", 2), ("QUIT", 3), ("ABRT", 6), ("KILL", 9), ("PIPE", 13), ("TERM", 15)];
    let number = |text: &str| {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        text.parse().ok().or_else(|| NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number))
    };
    let mut rest = &args[1..];
    let mut signal = 15;
    match rest {
        [flag, ..] if flag == "-l" => {
            return shell.write(&NAMES.map(|(name, number)| format!("{number:2}) {name}\n")).concat());
        }
        [flag, word, more @ ..] if flag == "-s" => match number(word) {
            Some(known) => (signal, rest) = (known, more),
            None => return shell.failed(&format!("kill: bad signal name '{word}'"), 1),
        },
        [flag, more @ ..] if flag.len() > 1 && flag.starts_with('-') => match number(&flag[1..]) {
            Some(known) => (signal, rest) = (known, more),
            None => return shell.failed(&format!("kill: bad signal name '{}'", &flag[1..]), 1),
        },
        _ => {}
    }
    if rest.is_empty() {
        return shell.failed("kill: you need to specify whom to kill", 1);
    }
    let mut status = 0;
    for word in rest {
        let killed = match word.parse::<u32>() {
            Ok(id) => sys::kill(id, signal).map_err(|e| sys::words(&e)),
            Err(_) => Err("invalid number".to_owned()),
        };
        if let Err(words) = killed {
            shell.complain(&format!("kill: can't kill pid {word}: {words}"));
            status = 1;
        }
    }
    shell.done(status)
}

fn local(shell: &mut Shell, args: &[String]) -> Run<()> {
    if shell.functions == 0 {
        return Err(shell.fatal("local: not in a function"));
    }
    for arg in &args[1..] {
        let (name, value) = assignment(arg).map_or((arg.as_str(), None), |(n, v)| (n, Some(v)));
        if !is_name(name) {
            return Err(shell.fatal(&format!("local: {name}: bad variable name")));
        }
        shell.make_local(name);
        if let Some(value) = value {
            shell.set(name, value)?;
        }
    }
    shell.done(0)
}

fn pwd(shell: &mut Shell, _: &[String]) -> Run<()> {
    match std::env::current_dir() {
        Ok(dir) => shell.write(&format!("{}\n", dir.display())),
        Err(error) => shell.failed(&format!("pwd: {}", sys::words(&error)), 1),
    }
}

fn read(shell: &mut Shell, args: &[String]) -> Run<()> {
    let mut names = args[1..].iter().peekable();
    let mut raw = false;
    while let Some(flag) = names.next_if(|name| name.len() > 1 && name.starts_with('-')) {
        match flag.as_str() {
            "-r" => raw = true,
            "-p" => drop(names.next()),
            "--" => break,
            _ => return shell.failed(&format!("read: illegal option {flag}"), 2),
        }
    }
    let names: Vec<&str> = names.map(String::as_str).collect();
    let names = if names.is_empty() { vec!["REPLY"] } else { names };
    let input = shell.fds.get(0);
    // Each character, and whether a backslash stood before it.
    let mut chars: Vec<(char, bool)> = Vec::new();
    let whole = loop {
        let mut line = Vec::new();
        match input.read_line(&mut line) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(shell.interrupted()),
            Err(error) => return shell.failed(&format!("read error: {}", sys::words(&error)), 1),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        let ended = text.ends_with('\n');
        let mut letters = text.strip_suffix('\n').unwrap_or(&text).chars();
        let mut goes_on = false;
        while let Some(c) = letters.next() {
            match (c, raw) {
                ('\\', false) => match letters.next() {
                    Some(next) => chars.push((next, true)),
                    None => goes_on = ended,
                },
                _ => chars.push((c, false)),
            }
        }
        if !goes_on {
            break ended;
        }
    };
    let values = split(&chars, &shell.get("IFS").unwrap_or_else(|| " \t\n".to_owned()), names.len());
    for (n, name) in names.iter().enumerate() {
        if !is_name(name) {
            return shell.failed(&format!("read: '{name}': bad variable name"), 2);
        }
        shell.set(name, values.get(n).map_or("", String::as_str))?;
    }
    shell.done(i32::from(!whole))
}

/// Splits a line for `read` into so many values; the last takes the rest.
fn split(chars: &[(char, bool)], ifs: &str, count: usize) -> Vec<String> {
    let separates = |(c, quoted): (char, bool)| !quoted && ifs.contains(c);
    let blank = |one: (char, bool)| separates(one) && one.0.is_ascii_whitespace();
    let mut at = chars.iter().position(|c| !blank(*c)).unwrap_or(chars.len());
    let mut values = Vec::new();
    while at < chars.len() && values.len() + 1 < count {
        let end = (at..chars.len()).find(|n| separates(chars[*n])).unwrap_or(chars.len());
        values.push(chars[at..end].iter().map(|(c, _)| *c).collect::<String>());
        at = end;
        let mut separators = 0;
        while at < chars.len() && (blank(chars[at]) || (separators == 0 && separates(chars[at]))) {
            separators += usize::from(!blank(chars[at]));
            at += 1;
        }
    }
    let rest = chars.get(at..).unwrap_or_default();
    let mut end = rest.iter().rposition(|c| !blank(*c)).map_or(0, |n| n + 1);
    // A single separator at the very end closes the last value and is no part of it.
    if end > 0 && separates(rest[end - 1]) && rest[..end].iter().filter(|c| separates(**c) && !blank(**c)).count() == 1
    {
        end = rest[..end - 1].iter().rposition(|c| !blank(*c)).map_or(0, |n| n + 1);
    }
    values.push(rest[..end].iter().map(|(c, _)| *c).collect());
    values
}

fn set(shell: &mut Shell, args: &[String]) -> Run<()> {
    let mut rest = args[1..].iter().peekable();
    if rest.peek().is_none() {
        let mut lines: Vec<String> = shell
            .state
            .variables
            .iter()
            .filter_map(|(name, v)| Some(format!("{name}={}\n", quote(v.value.as_ref()?))))
            .collect();
        lines.sort();
        return shell.write(&lines.concat());
    }
    let mut positional = false;
    while let Some(arg) = rest.next_if(|arg| arg.starts_with(['-', '+'])) {
        if arg == "--" {
            positional = true;
            break;
        }
        if arg == "-" {
            break;
        }
        let on = arg.starts_with('-');
        for letter in arg.chars().skip(1) {
            let known = match (letter, rest.peek()) {
                ('o', None) => {
                    let line =
                        |(name, _, on): (&str, char, bool)| format!("{name:16}{}\n", if on { "on" } else { "off" });
                    let text: String = shell.options.all().into_iter().map(line).collect();
                    return shell.write(&text);
                }
                ('o', Some(_)) => rest.next().is_some_and(|name| shell.options.set_by_name(name, on)),
                (letter, _) => shell.options.set(letter, on),
            };
            if !known {
                return Err(shell.fatal(&format!("set: illegal option {arg}")));
            }
        }
    }
    if positional || rest.peek().is_some() {
        shell.positional = rest.cloned().collect();
    }
    shell.done(0)
}

fn shift(shell: &mut Shell, args: &[String]) -> Run<()> {
    match args.get(1).map_or(Ok(1), |n| n.parse::<usize>()) {
        Err(_) => Err(shell.fatal(&format!("shift: Illegal number: {}", args[1]))),
        Ok(count) if count > shell.positional.len() => shell.done(1),
        Ok(count) => {
            shell.positional.drain(..count);
            shell.done(0)
        }
    }
}

fn trap(shell: &mut Shell, args: &[String]) -> Run<()> {
    match &args[1..] {
        [] => {
            let text = shell.state.exit_trap.as_ref().map(|t| format!("trap -- {} EXIT\n", quote(t)));
            shell.write(&text.unwrap_or_default())
        }
        [action, conditions @ ..] => {
            let (action, conditions) = match conditions {
                [] => ("-", std::slice::from_ref(action)),
                [first, rest @ ..] if action == "--" && !rest.is_empty() => (first.as_str(), rest),
                conditions => (action.as_str(), conditions),
            };
            for condition in conditions {
                match condition.as_str() {
                    "EXIT" | "0" => {
                        shell.state.exit_trap = Some(action.to_owned()).filter(|a| a != "-" && !a.is_empty());
                    }
                    // There are no signals to be caught, so what would be done at one is never done.
                    "HUP" | "INT" | "QUIT" | "TERM" | "PIPE" | "ALRM" | "USR1" | "USR2" | "CHLD" | "SIGHUP"
                    | "SIGINT" | "SIGQUIT" | "SIGTERM" | "SIGPIPE" | "1" | "2" | "3" | "13" | "15" => {}
                    other => return shell.failed(&format!("trap: {other}: invalid signal specification"), 1),
                }
            }
            shell.done(0)
        }
    }
}

fn umask(shell: &mut Shell, args: &[String]) -> Run<()> {
    match args.get(1).map(|mask| mask.trim_start_matches('0')) {
        None => shell.write("0022\n"),
        Some("22") => shell.done(0),
        Some(_) => shell.failed("umask: WASI has no file modes to be masked", 1),
    }
}

fn unset(shell: &mut Shell, args: &[String]) -> Run<()> {
    let functions = args.get(1).is_some_and(|flag| flag == "-f");
    for name in args[1..].iter().filter(|name| *name != "-f" && *name != "-v") {
        if functions {
            shell.state.functions.remove(name);
        } else {
            shell.unset(name)?;
        }
    }
    shell.done(0)
}

fn wait(shell: &mut Shell, args: &[String]) -> Run<()> {
    if args.len() < 2 {
        for id in shell.job_ids() {
            shell.wait_for(id);
            shell.forget_job(id);
        }
        return shell.done(0);
    }
    let mut status = 127;
    for word in &args[1..] {
        status = match word.parse::<u32>() {
            Ok(id) if shell.job_ids().contains(&id) => {
                let code = shell.wait_for(id);
                shell.forget_job(id);
                code
            }
            _ => 127,
        };
    }
    shell.done(status)
}
