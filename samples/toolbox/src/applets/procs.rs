//! Commands on the programs that this one sees: what `/proc` tells of them (proc(5)).

use super::grep::compile;
use super::{Flags, number, output, written};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A program, as it is told of.
struct Seen {
    number: u32,
    user: String,
    /// The name, cut to 15 bytes.
    comm: String,
    args: Vec<String>,
}

impl Seen {
    fn of(number: u32) -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{number}/{file}")).ok();
        let line = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let status = read("status").unwrap_or_default();
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let user = user.split_whitespace().next().unwrap_or("0");
        Some(Self {
            number,
            user: super::system::user_name(user),
            comm: read("comm").unwrap_or_default().trim_end().to_owned(),
            args: line.split_terminator('\0').map(str::to_owned).collect(),
        })
    }

    fn line(&self) -> String {
        if self.args.is_empty() { format!("[{}]", self.comm) } else { self.args.join(" ") }
    }
}

/// All, by their numbers; an error where nothing is told of any.
fn all() -> Result<Vec<Seen>, String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    let seen: Vec<Seen> = numbers.into_iter().filter_map(Seen::of).collect();
    if seen.is_empty() {
        return Err("a program in this container cannot see the others: it has no /proc".to_owned());
    }
    Ok(seen)
}

/// This program's own number.
fn own() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

pub fn pgrep(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "flxvona", &[])?;
    let [pattern] = flags.rest.as_slice() else { return Err("one pattern is needed".to_owned()) };
    let pattern = if flags.has('x') { format!("^(?:{pattern})$") } else { pattern.clone() };
    let regex = compile(&pattern, false)?;
    let fits = |seen: &Seen| {
        let text = if flags.has('f') { seen.line() } else { seen.comm.clone() };
        regex.is_match(&text) != flags.has('v')
    };
    let own = own();
    let mut found: Vec<Seen> = all()?.into_iter().filter(|seen| Some(seen.number) != own && fits(seen)).collect();
    match flags.last_of("on") {
        Some('o') => found.truncate(1),
        Some(_) => drop(found.drain(..found.len().saturating_sub(1))),
        None => {}
    }
    let mut out = output();
    for seen in &found {
        let line = match (flags.has('a') || (flags.has('l') && flags.has('f')), flags.has('l')) {
            (true, _) => format!("{} {}", seen.number, seen.line()),
            (false, true) => format!("{} {}", seen.number, seen.comm),
            (false, false) => seen.number.to_string(),
        };
        written(writeln!(out, "{line}"))?;
    }
    written(out.flush())?;
    Ok(i32::from(found.is_empty()))
}

pub fn pidof(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "so:", &[])?;
    let but: Vec<u32> = flags.values('o').filter_map(|word| word.parse().ok()).collect();
    let fits = |seen: &Seen| {
        let path = seen.args.first().map(String::as_str).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        flags.rest.iter().any(|wanted| wanted == path || wanted == name || *wanted == seen.comm)
    };
    let mut found: Vec<u32> = all()?.iter().filter(|seen| fits(seen)).map(|seen| seen.number).collect();
    found.retain(|number| !but.contains(number));
    found.reverse();
    if flags.has('s') {
        found.truncate(1);
    }
    if !found.is_empty() {
        let words: Vec<String> = found.iter().map(u32::to_string).collect();
        written(writeln!(io::stdout(), "{}", words.join(" ")))?;
    }
    Ok(i32::from(found.is_empty()))
}

/// Options are taken and say nothing: there are no terminals and threads to choose by.
pub fn ps(args: &[String]) -> Result<i32, String> {
    let known = args.iter().skip(1).all(|arg| arg.trim_start_matches('-').chars().all(|c| "aeflwxuAT".contains(c)));
    if !known {
        return Err("its options are a, e, f, l, u, w and x, all of which show the same".to_owned());
    }
    let mut out = output();
    list(&mut out, &all()?)?;
    written(out.flush())?;
    Ok(0)
}

fn list(out: &mut impl Write, seen: &[Seen]) -> Result<(), String> {
    written(writeln!(out, "PID   USER     COMMAND"))?;
    seen.iter().try_for_each(|seen| written(writeln!(out, "{:>5} {:<8} {}", seen.number, seen.user, seen.line())))
}

/// Shows the programs that it can see, every five seconds or so often as it is told.
pub fn top(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "bd:n:", &[])?;
    let pause = Duration::from_secs(flags.value('d').map_or(Ok(5), number)?);
    let mut left = flags.value('n').map(number).transpose()?;
    let begun = Instant::now();
    loop {
        let up = begun.elapsed().as_secs();
        // Where nothing is told of anybody, it knows itself.
        let itself = || Seen { number: 1, user: "root".to_owned(), comm: "top".to_owned(), args: args.to_vec() };
        let seen = all().unwrap_or_else(|_| vec![itself()]);
        let mut out = output();
        let word = if seen.len() == 1 { "program" } else { "programs" };
        written(writeln!(out, "up {}:{:02}, {} {word} seen", up / 60, up % 60, seen.len()))?;
        list(&mut out, &seen)?;
        written(out.flush())?;
        left = left.map(|left: u64| left.saturating_sub(1));
        if left == Some(0) {
            return Ok(0);
        }
        std::thread::sleep(pause);
    }
}
