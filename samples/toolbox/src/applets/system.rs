//! Commands on who and where the program is, and those that a container of Wasm can only refuse.

use super::find::run;
use super::{Flags, each, number, output, written};
use crate::sys;
use std::io::{self, BufRead, Read, Write};

/// What would need to look at a kernel that a container does not have.
pub fn refused(args: &[String]) -> Result<i32, String> {
    let name = args.first().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let why = match name {
        "brctl" => "Operation not permitted: WASI has no network devices",
        _ => "WASI does not tell how full a file system is",
    };
    Err(why.to_owned())
}

/// No System V objects can exist here, which is what their listing says.
pub fn ipcs(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "msqa", &[])?;
    let all = !"msq".chars().any(|c| flags.has(c)) || flags.has('a');
    let mut out = output();
    for (letter, text) in [
        (
            'q',
            "------ Message Queues --------\nkey        msqid      owner      perms      used-bytes   messages    \n",
        ),
        (
            'm',
            "------ Shared Memory Segments --------\nkey        shmid      owner      perms      bytes      nattch     status      \n",
        ),
        ('s', "------ Semaphore Arrays --------\nkey        semid      owner      perms      nsems     \n"),
    ] {
        if all || flags.has(letter) {
            written(write!(out, "\n{text}"))?;
        }
    }
    written(writeln!(out).and_then(|()| out.flush()))?;
    Ok(0)
}

pub fn env(args: &[String]) -> Result<i32, String> {
    let mut rest = args[1..].iter().peekable();
    let mut all: Vec<(String, String)> = std::env::vars().collect();
    while let Some(arg) = rest.next_if(|arg| arg.starts_with('-')) {
        match arg.as_str() {
            "-" | "-i" => all.clear(),
            "-u" => {
                let name = rest.next().ok_or("option requires an argument: u")?;
                all.retain(|(n, _)| n != name);
            }
            "--" => break,
            other => return Err(format!("unrecognized option: {other}")),
        }
    }
    while let Some((name, value)) = rest.next_if(|arg| arg.contains('=')).and_then(|arg| arg.split_once('=')) {
        all.retain(|(n, _)| n != name);
        all.push((name.to_owned(), value.to_owned()));
    }
    let command: Vec<String> = rest.cloned().collect();
    if command.is_empty() {
        let mut out = output();
        for (name, value) in &all {
            written(writeln!(out, "{name}={value}"))?;
        }
        written(out.flush())?;
        return Ok(0);
    }
    for (name, _) in std::env::vars() {
        // SAFETY: this program has one thread.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in all {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, value) };
    }
    run(&command).or_else(|words| {
        eprintln!("env: {words}");
        Ok(127)
    })
}

pub fn printenv(args: &[String]) -> Result<i32, String> {
    if args.len() == 1 {
        return env(args);
    }
    let mut code = 0;
    for name in &args[1..] {
        match std::env::var(name) {
            Ok(value) => written(writeln!(io::stdout(), "{value}"))?,
            Err(_) => code = 1,
        }
    }
    Ok(code)
}

pub fn hostname(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "sfi", &[])?;
    if !flags.rest.is_empty() {
        return Err("sethostname: Operation not permitted".to_owned());
    }
    let name = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    written(writeln!(io::stdout(), "{}", name.as_deref().unwrap_or("localhost").trim()))?;
    Ok(0)
}

/// Who this program is, as the container tells it (proc_pid_status(5)); root where it says nothing.
struct Identity {
    user: String,
    group: String,
    groups: Vec<String>,
}

impl Identity {
    fn own() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let fields = |name: &str| -> Vec<String> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect()
        };
        let first = |name: &str| fields(name).into_iter().next().unwrap_or_else(|| "0".to_owned());
        let (user, group, mut groups) = (first("Uid:"), first("Gid:"), fields("Groups:"));
        if groups.is_empty() {
            groups.push(group.clone());
        }
        Self { user, group, groups }
    }
}

/// The name of an account, by its number; the number itself where none has it.
fn name_of(file: &str, number: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| if number == "0" { "root" } else { number }.to_owned())
}

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// The name of a user, by its number.
pub fn user_name(number: &str) -> String {
    name_of(USERS, number)
}

pub fn id(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "ugGnr", &[])?;
    let Identity { user, group, groups } = Identity::own();
    let shown = |file, number: &String| if flags.has('n') { name_of(file, number) } else { number.clone() };
    let both = |file, number: &String| format!("{number}({})", name_of(file, number));
    let text = if flags.has('u') {
        shown(USERS, &user)
    } else if flags.has('g') {
        shown(GROUPS, &group)
    } else if flags.has('G') {
        groups.iter().map(|number| shown(GROUPS, number)).collect::<Vec<_>>().join(" ")
    } else {
        let groups: Vec<String> = groups.iter().map(|number| both(GROUPS, number)).collect();
        format!("uid={} gid={} groups={}", both(USERS, &user), both(GROUPS, &group), groups.join(","))
    };
    written(writeln!(io::stdout(), "{text}"))?;
    Ok(0)
}

pub fn whoami(_: &[String]) -> Result<i32, String> {
    written(writeln!(io::stdout(), "{}", name_of(USERS, &Identity::own().user)))?;
    Ok(0)
}

pub fn uname(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "amnrspvio", &[("all", 'a')])?;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    let parts =
        [('s', "Sampan"), ('n', host.as_str()), ('r', "0.1"), ('v', "WASI 0.1"), ('m', "wasm32"), ('o', "WASI")];
    let wanted = |letter: char| flags.has('a') || flags.has(letter) || (letter == 's' && args.len() == 1);
    let words: Vec<&str> = parts.iter().filter(|(letter, _)| wanted(*letter)).map(|(_, word)| *word).collect();
    written(writeln!(io::stdout(), "{}", words.join(" ")))?;
    Ok(0)
}

pub fn pwd(_: &[String]) -> Result<i32, String> {
    let dir = std::env::current_dir().map_err(super::of("."))?;
    written(writeln!(io::stdout(), "{}", dir.display()))?;
    Ok(0)
}

pub fn which(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "a", &[])?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut code = 0;
    for name in &flags.rest {
        let places: Vec<String> = if name.contains('/') {
            vec![name.clone()]
        } else {
            path.split(':').map(|dir| format!("{dir}/{name}")).collect()
        };
        let mut found = places.into_iter().filter(|place| std::path::Path::new(place).is_file()).peekable();
        code |= i32::from(found.peek().is_none());
        for place in found.take(if flags.has('a') { usize::MAX } else { 1 }) {
            written(writeln!(io::stdout(), "{place}"))?;
        }
    }
    Ok(code)
}

pub fn kill(args: &[String]) -> Result<i32, String> {
    let mut rest = args.get(1..).unwrap_or_default();
    let mut signal = 15;
    if let [flag, more @ ..] = rest
        && let Some(name) = flag.strip_prefix('-')
    {
        let names = [("HUP", 1), ("INT", 2), ("QUIT", 3), ("ABRT", 6), ("KILL", 9), ("PIPE", 13), ("TERM", 15)];
        let plain = name.strip_prefix("SIG").unwrap_or(name);
        let known = names.iter().find(|(n, _)| *n == plain).map(|(_, number)| *number);
        signal = name.parse().ok().or(known).ok_or_else(|| format!("bad signal name '{name}'"))?;
        rest = more;
    }
    if rest.is_empty() {
        return Err("you need to specify whom to kill".to_owned());
    }
    each("kill", rest, |word| {
        let id = word.parse().map_err(|_| format!("invalid number '{word}'"))?;
        sys::kill(id, signal).map_err(|e| format!("can't kill pid {word}: {}", sys::words(&e)))
    })
}

pub fn xargs(args: &[String]) -> Result<i32, String> {
    // Its own options end where the command begins.
    let (mut most, mut replace, mut zero, mut skip_empty, mut trace) = (None, None, false, false, false);
    let mut rest = args.get(1..).unwrap_or_default();
    while let [flag, more @ ..] = rest {
        if !flag.starts_with('-') || flag.len() < 2 {
            break;
        }
        rest = more;
        let (letter, attached) = flag[1..].split_at(1);
        let mut value = || match (attached, rest) {
            ("", [next, more @ ..]) => {
                rest = more;
                Ok(next.clone())
            }
            ("", []) => Err(format!("option requires an argument: {letter}")),
            (attached, _) => Ok(attached.to_owned()),
        };
        match letter {
            "n" | "L" => most = Some(number(&value()?)?),
            "I" => replace = Some(value()?),
            "s" | "P" => drop(number(&value()?)?),
            "0" => zero = true,
            "r" => skip_empty = true,
            "t" => trace = true,
            _ => return Err(format!("unrecognized option: {letter}")),
        }
    }
    let command = if rest.is_empty() { vec!["echo".to_owned()] } else { rest.to_vec() };
    let mut text = String::new();
    if replace.is_some() && !zero {
        for line in io::stdin().lock().lines() {
            let line = line.map_err(super::of("stdin"))?;
            if !line.trim().is_empty() {
                text.push_str(line.trim_start());
                text.push('\0');
            }
        }
        zero = true;
    } else {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map_err(super::of("stdin"))?;
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    let words: Vec<String> =
        if zero { text.split_terminator('\0').map(str::to_owned).collect() } else { split(&text)? };
    let mut code = 0;
    let mut act = |args: Vec<String>| -> Result<(), String> {
        if trace {
            eprintln!("{}", args.join(" "));
        }
        match run(&args) {
            Ok(0) => {}
            Ok(255) => return Err("exited with status 255; aborting".to_owned()),
            Ok(126 | 127) => code = 127,
            Ok(_) => code = 123,
            Err(words) => {
                eprintln!("xargs: {words}");
                code = 127;
            }
        }
        Ok(())
    };
    if let Some(mark) = replace {
        for word in &words {
            act(command.iter().map(|part| part.replace(&mark, word)).collect())?;
        }
        return Ok(code);
    }
    if words.is_empty() {
        if !skip_empty {
            act(command)?;
        }
        return Ok(code);
    }
    let most = most.map_or(usize::MAX, |n| usize::try_from(n.max(1)).unwrap_or(usize::MAX));
    let mut rest = words.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|word| {
            bytes += word.len() + 1;
            bytes < 128 << 10
        });
        let count = fits.count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        act(command.iter().chain(now).cloned().collect())?;
    }
    Ok(code)
}

/// Words by blanks, with quotes and backslashes.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(next) if next == c => break,
                        Some(next) => word.push(next),
                        None => return Err("unmatched quote".to_owned()),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}
