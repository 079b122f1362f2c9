//! `sed`: addresses, `s y d D p P n N g G h H x q = a i c { } b t :`, with `-n -e -f -i -E`.

use super::grep::{compile, translate};
use super::{Flags, chomp, lines, of, or_stdin, output, written};
use regex_lite::Regex;
use std::fs;
use std::io::Write;

enum Address {
    Line(u64),
    Last,
    Match(Regex),
    /// Every so many lines from one on.
    Step(u64, u64),
    /// So many lines behind the first address.
    More(u64),
}

enum Act {
    Open(usize),
    Close,
    Substitute { regex: Regex, with: Vec<Piece>, all: bool, nth: usize, print: bool, file: Option<String> },
    Translate(Vec<(char, char)>),
    Text(char, String),
    Branch(char, String),
    Label(String),
    Quit(i32),
    Simple(char),
}

enum Piece {
    Text(String),
    Group(usize),
    /// `\u \l \U \L \E`.
    Case(char),
}

struct Command {
    from: Option<Address>,
    to: Option<Address>,
    negated: bool,
    act: Act,
}

pub fn sed(args: &[String]) -> Result<i32, String> {
    // `-i` may have a suffix attached, and never takes the next word.
    let mut suffix = None;
    let args: Vec<String> = args
        .iter()
        .map(|arg| match arg.strip_prefix("-i").or_else(|| arg.strip_prefix("--in-place")) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '=', '~']) => {
                suffix = Some(rest.trim_start_matches('=').to_owned());
                "-i".to_owned()
            }
            _ => arg.clone(),
        })
        .collect();
    let flags = Flags::parse(&args, "nirEse:f:", &[("quiet", 'n'), ("expression", 'e'), ("regexp-extended", 'E')])?;
    let mut rest = flags.rest.clone();
    let mut script: Vec<String> = flags.values('e').map(str::to_owned).collect();
    for path in flags.values('f') {
        script.push(fs::read_to_string(path).map_err(of(path))?);
    }
    if script.is_empty() {
        if rest.is_empty() {
            return Err("usage: sed [-inrE] SCRIPT [FILE]...".to_owned());
        }
        script.push(rest.remove(0));
    }
    let commands = Parser::new(&script.join("\n"), flags.has('r') || flags.has('E')).script()?;
    let quiet = flags.has('n');
    if let Some(suffix) = suffix {
        for path in &rest {
            let mut out = Vec::new();
            let code = Run::new(&commands, quiet).files(std::slice::from_ref(path), &mut out)?;
            if !suffix.is_empty() {
                fs::copy(path, format!("{path}{suffix}")).map_err(of(path))?;
            }
            fs::write(path, out).map_err(of(path))?;
            if code != 0 {
                return Ok(code);
            }
        }
        return Ok(0);
    }
    let mut out = output();
    let code = Run::new(&commands, quiet).files(&or_stdin(rest), &mut out)?;
    written(out.flush())?;
    Ok(code)
}

struct Parser {
    text: Vec<char>,
    at: usize,
    extended: bool,
}

impl Parser {
    fn new(text: &str, extended: bool) -> Self {
        Self { text: text.chars().collect(), at: 0, extended }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self, what: &[char]) {
        while self.peek().is_some_and(|c| what.contains(&c)) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Option<u64> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.text.get(start..self.at)?.iter().collect::<String>().parse().ok()
    }

    /// What stands up to a delimiter; a backslash before the delimiter makes it plain.
    fn delimited(&mut self, delimiter: char) -> Result<String, String> {
        let mut part = String::new();
        let mut bracket = false;
        loop {
            let c = self.peek().ok_or("unterminated expression")?;
            self.at += 1;
            match c {
                '\\' => {
                    let next = self.peek().ok_or("unterminated expression")?;
                    self.at += 1;
                    if next != delimiter {
                        part.push('\\');
                    }
                    part.push(next);
                }
                c if c == delimiter && !bracket => return Ok(part),
                c => {
                    bracket = match c {
                        '[' => true,
                        ']' => false,
                        _ => bracket,
                    };
                    part.push(c);
                }
            }
        }
    }

    fn regex(&self, text: &str, ignore_case: bool) -> Result<Regex, String> {
        compile(&translate(text, self.extended), ignore_case)
    }

    fn address(&mut self) -> Result<Option<Address>, String> {
        Ok(match self.peek() {
            Some('$') => {
                self.at += 1;
                Some(Address::Last)
            }
            Some('/') | Some('\\') => {
                self.at += 1;
                let delimiter = if self.text[self.at - 1] == '/' {
                    '/'
                } else {
                    self.at += 1;
                    self.text.get(self.at - 1).copied().ok_or("unterminated address")?
                };
                let text = self.delimited(delimiter)?;
                let ignore_case = self.peek() == Some('I');
                self.at += usize::from(ignore_case);
                Some(Address::Match(self.regex(&text, ignore_case)?))
            }
            Some('+') => {
                self.at += 1;
                Some(Address::More(self.number().ok_or("bad address")?))
            }
            Some(c) if c.is_ascii_digit() => {
                let first = self.number().ok_or("bad address")?;
                if self.peek() == Some('~') {
                    self.at += 1;
                    Some(Address::Step(first, self.number().ok_or("bad address")?))
                } else {
                    Some(Address::Line(first))
                }
            }
            _ => None,
        })
    }

    fn script(mut self) -> Result<Vec<Command>, String> {
        let mut all: Vec<Command> = Vec::new();
        let mut open = Vec::new();
        loop {
            self.skip(&[' ', '\t', '\n', ';']);
            if self.peek() == Some('#') {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
                continue;
            }
            let Some(_) = self.peek() else { break };
            let from = self.address()?;
            let mut to = None;
            if from.is_some() && self.peek() == Some(',') {
                self.at += 1;
                to = Some(self.address()?.ok_or("unexpected ','")?);
            }
            self.skip(&[' ', '\t']);
            let negated = self.peek() == Some('!');
            self.at += usize::from(negated);
            self.skip(&[' ', '\t', '!']);
            let letter = self.peek().ok_or("missing command")?;
            self.at += 1;
            let act = match letter {
                '{' => {
                    open.push(all.len());
                    Act::Open(0)
                }
                '}' => {
                    let start = open.pop().ok_or("unexpected '}'")?;
                    let end = all.len();
                    if let Some(Command { act: Act::Open(place), .. }) = all.get_mut(start) {
                        *place = end;
                    }
                    Act::Close
                }
                's' => self.substitute()?,
                'y' => {
                    let delimiter = self.peek().ok_or("unterminated 'y'")?;
                    self.at += 1;
                    let (from, to) = (self.delimited(delimiter)?, self.delimited(delimiter)?);
                    if from.chars().count() != to.chars().count() {
                        return Err("strings for 'y' command are different lengths".to_owned());
                    }
                    Act::Translate(from.chars().zip(to.chars()).collect())
                }
                'a' | 'i' | 'c' => Act::Text(letter, self.text()),
                'b' | 't' | 'T' => Act::Branch(letter, self.word()),
                ':' => Act::Label(self.word()),
                'q' | 'Q' => {
                    self.skip(&[' ']);
                    let code = self.number().unwrap_or(0);
                    if letter == 'q' {
                        Act::Quit(i32::try_from(code).unwrap_or(1))
                    } else {
                        Act::Quit(-1 - i32::try_from(code).unwrap_or(1))
                    }
                }
                'd' | 'D' | 'p' | 'P' | 'n' | 'N' | 'g' | 'G' | 'h' | 'H' | 'x' | '=' | 'l' => Act::Simple(letter),
                other => return Err(format!("unsupported command {other}")),
            };
            all.push(Command { from, to, negated, act });
        }
        if open.is_empty() { Ok(all) } else { Err("unmatched '{'".to_owned()) }
    }

    fn word(&mut self) -> String {
        self.skip(&[' ', '\t']);
        let start = self.at;
        while self.peek().is_some_and(|c| c != '\n' && c != ';' && c != '}') {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default().iter().collect::<String>().trim().to_owned()
    }

    /// The text of `a`, `i` and `c`: behind a backslash and a newline, or on the same line.
    fn text(&mut self) -> String {
        self.skip(&[' ', '\t']);
        if self.peek() == Some('\\') {
            self.at += 1;
            self.skip(&[' ', '\t']);
            if self.peek() == Some('\n') {
                self.at += 1;
            }
        }
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                '\n' => break,
                c => text.push(c),
            }
        }
        text.push('\n');
        text
    }

    fn substitute(&mut self) -> Result<Act, String> {
        let delimiter = self.peek().ok_or("unterminated 's' command")?;
        self.at += 1;
        let pattern = self.delimited(delimiter)?;
        let with = pieces(&self.delimited(delimiter)?);
        let (mut all, mut nth, mut print, mut ignore_case, mut file) = (false, 1, false, false, None);
        loop {
            match self.peek() {
                Some('g') => all = true,
                Some('p') => print = true,
                Some('i' | 'I') => ignore_case = true,
                Some('w') => {
                    self.at += 1;
                    file = Some(self.word());
                    continue;
                }
                Some(c) if c.is_ascii_digit() => {
                    nth = self
                        .number()
                        .and_then(|n| usize::try_from(n).ok())
                        .filter(|n| *n > 0)
                        .ok_or("bad option in substitution")?;
                    continue;
                }
                None | Some('\n' | ';' | '}' | ' ' | '#') => break,
                Some(_) => return Err("unknown option to 's'".to_owned()),
            }
            self.at += 1;
        }
        Ok(Act::Substitute { regex: self.regex(&pattern, ignore_case)?, with, all, nth, print, file })
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let piece = match c {
            '&' => Piece::Group(0),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => Piece::Group(digit.to_digit(10).unwrap_or(0) as usize),
                Some(case @ ('u' | 'l' | 'U' | 'L' | 'E')) => Piece::Case(case),
                Some('n') => {
                    plain.push('\n');
                    continue;
                }
                Some('t') => {
                    plain.push('\t');
                    continue;
                }
                other => {
                    plain.extend(other);
                    continue;
                }
            },
            c => {
                plain.push(c);
                continue;
            }
        };
        if !plain.is_empty() {
            all.push(Piece::Text(std::mem::take(&mut plain)));
        }
        all.push(piece);
    }
    if !plain.is_empty() {
        all.push(Piece::Text(plain));
    }
    all
}

struct Run<'a> {
    commands: &'a [Command],
    quiet: bool,
    /// For each command with two addresses: until which line it goes on, or whether until a match.
    active: Vec<Option<u64>>,
    hold: String,
    number: u64,
    /// What is to be said behind the line.
    behind: String,
}

/// What becomes of a line.
enum End {
    Print,
    Drop,
    /// `D`: what is left is the next line.
    Again,
    Quit(i32, bool),
}

struct Input {
    paths: std::vec::IntoIter<String>,
    current: Option<super::Lines>,
    ahead: Option<(String, bool)>,
    problem: bool,
}

impl Input {
    fn read(&mut self) -> Result<Option<(String, bool)>, String> {
        let mut line = Vec::new();
        loop {
            if let Some(current) = &mut self.current
                && current.next(&mut line)?
            {
                let ended = line.ends_with(b"\n");
                return Ok(Some((String::from_utf8_lossy(chomp(&line)).into_owned(), ended)));
            }
            let Some(path) = self.paths.next() else { return Ok(None) };
            match lines(&path) {
                Ok(lines) => self.current = Some(lines),
                Err(words) => {
                    eprintln!("sed: {words}");
                    self.problem = true;
                }
            }
        }
    }

    fn next(&mut self) -> Result<Option<(String, bool)>, String> {
        let next = match self.ahead.take() {
            Some(next) => Some(next),
            None => self.read()?,
        };
        if next.is_some() {
            self.ahead = self.read()?;
        }
        Ok(next)
    }

    fn at_last(&self) -> bool {
        self.ahead.is_none()
    }
}

impl<'a> Run<'a> {
    fn new(commands: &'a [Command], quiet: bool) -> Self {
        let active = commands.iter().map(|_| None).collect();
        Self { commands, quiet, active, hold: String::new(), number: 0, behind: String::new() }
    }

    fn files(mut self, paths: &[String], out: &mut impl Write) -> Result<i32, String> {
        let mut input = Input { paths: paths.to_vec().into_iter(), current: None, ahead: None, problem: false };
        let mut left: Option<(String, bool)> = None;
        loop {
            let next = match left.take() {
                Some(left) => Some(left),
                None => {
                    self.number += 1;
                    input.next()?
                }
            };
            let Some((mut space, mut ended)) = next else { return Ok(i32::from(input.problem)) };
            let end = self.line(&mut space, &mut ended, &mut input, out)?;
            let newline = |ended: bool| if ended { "\n" } else { "" };
            let print = match &end {
                End::Print => !self.quiet,
                End::Quit(_, print) => *print && !self.quiet,
                End::Drop | End::Again => false,
            };
            if print {
                written(write!(out, "{space}{}", newline(ended)))?;
            }
            if !self.behind.is_empty() {
                written(out.write_all(std::mem::take(&mut self.behind).as_bytes()))?;
            }
            match end {
                End::Quit(code, _) => return Ok(code),
                End::Again => left = Some((space, ended)),
                _ => {}
            }
        }
    }

    fn matches(&self, address: &Address, space: &str, input: &Input) -> bool {
        match address {
            Address::Line(n) => self.number == *n,
            Address::Last => input.at_last(),
            Address::Match(regex) => regex.is_match(space),
            Address::Step(first, step) => {
                self.number >= *first
                    && (if *step == 0 { self.number == *first } else { (self.number - first) % step == 0 })
            }
            Address::More(_) => false,
        }
    }

    fn selected(&mut self, place: usize, space: &str, input: &Input) -> bool {
        let command = &self.commands[place];
        let Some(from) = &command.from else { return true };
        let Some(to) = &command.to else { return self.matches(from, space, input) };
        if let Some(until) = self.active[place] {
            let last = match to {
                Address::Line(_) | Address::More(_) => self.number >= until,
                to => self.matches(to, space, input),
            };
            if last {
                self.active[place] = None;
            }
            // A range whose end has passed is the line alone that began it.
            return !matches!(to, Address::Line(_)) || self.number <= until;
        }
        if !self.matches(from, space, input) {
            return false;
        }
        let until = match to {
            Address::Line(n) => *n,
            Address::More(n) => self.number + n,
            _ => u64::MAX,
        };
        if until > self.number {
            self.active[place] = Some(until);
        }
        true
    }

    fn line(
        &mut self,
        space: &mut String,
        ended: &mut bool,
        input: &mut Input,
        out: &mut impl Write,
    ) -> Result<End, String> {
        let mut replaced = false;
        let mut place = 0;
        let commands = self.commands;
        while let Some(command) = commands.get(place) {
            let here = place;
            place += 1;
            if matches!(command.act, Act::Close | Act::Label(_)) {
                continue;
            }
            if self.selected(here, space, input) == command.negated {
                if let Act::Open(end) = command.act {
                    place = end;
                }
                continue;
            }
            match &command.act {
                Act::Open(_) | Act::Close | Act::Label(_) => {}
                Act::Substitute { regex, with, all, nth, print, file } => {
                    if let Some(new) = substitute(regex, with, *all, *nth, space) {
                        *space = new;
                        replaced = true;
                        if *print {
                            written(writeln!(out, "{space}"))?;
                        }
                        if let Some(path) = file {
                            let opened = fs::File::options().create(true).append(true).open(path);
                            opened.and_then(|mut f| writeln!(f, "{space}")).map_err(of(path))?;
                        }
                    }
                }
                Act::Translate(pairs) => {
                    let new = |c| pairs.iter().find(|(from, _)| *from == c).map_or(c, |(_, to)| *to);
                    *space = space.chars().map(new).collect();
                }
                Act::Text('i', text) => written(out.write_all(text.as_bytes()))?,
                Act::Text('c', text) => {
                    if self.active[here].is_none() || command.negated {
                        written(out.write_all(text.as_bytes()))?;
                    }
                    return Ok(End::Drop);
                }
                Act::Text(_, text) => self.behind.push_str(text),
                Act::Branch(kind, label) => {
                    let jump = match kind {
                        't' => std::mem::take(&mut replaced),
                        'T' => !std::mem::take(&mut replaced),
                        _ => true,
                    };
                    if jump {
                        let target = commands.iter().position(|c| matches!(&c.act, Act::Label(l) if l == label));
                        place = match target {
                            Some(target) => target,
                            None if label.is_empty() => commands.len(),
                            None => return Err(format!("can't find label for jump to '{label}'")),
                        };
                    }
                }
                Act::Quit(code) if *code < 0 => return Ok(End::Quit(-1 - code, false)),
                Act::Quit(code) => return Ok(End::Quit(*code, true)),
                Act::Simple(letter) => match letter {
                    'd' => return Ok(End::Drop),
                    'D' => match space.find('\n') {
                        Some(end) => {
                            space.drain(..=end);
                            return Ok(End::Again);
                        }
                        None => return Ok(End::Drop),
                    },
                    'p' => written(writeln!(out, "{space}"))?,
                    'P' => written(writeln!(out, "{}", space.split('\n').next().unwrap_or_default()))?,
                    '=' => written(writeln!(out, "{}", self.number))?,
                    'l' => written(writeln!(out, "{}$", space.escape_default()))?,
                    'g' => space.clone_from(&self.hold),
                    'G' => {
                        space.push('\n');
                        space.push_str(&self.hold);
                    }
                    'h' => self.hold.clone_from(space),
                    'H' => {
                        self.hold.push('\n');
                        self.hold.push_str(space);
                    }
                    'x' => std::mem::swap(space, &mut self.hold),
                    'n' | 'N' => {
                        if *letter == 'n' && !self.quiet && !input.at_last() {
                            written(writeln!(out, "{space}"))?;
                        }
                        let Some((next, whole)) = input.next()? else {
                            return Ok(End::Quit(i32::from(input.problem), true));
                        };
                        self.number += 1;
                        *ended = whole;
                        if *letter == 'n' {
                            *space = next;
                        } else {
                            space.push('\n');
                            space.push_str(&next);
                        }
                    }
                    _ => {}
                },
            }
        }
        Ok(End::Print)
    }
}

fn substitute(regex: &Regex, with: &[Piece], all: bool, nth: usize, text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut last, mut any) = (0, false);
    for (n, found) in regex.captures_iter(text).enumerate() {
        let Some(whole) = found.get(0) else { continue };
        if n + 1 < nth {
            continue;
        }
        out.push_str(&text[last..whole.start()]);
        last = whole.end();
        any = true;
        let (mut case, mut once) = ('E', None);
        let mut push = |part: &str, case: char, once: &mut Option<char>| {
            for c in part.chars() {
                match once.take().unwrap_or(case) {
                    'u' | 'U' => out.extend(c.to_uppercase()),
                    'l' | 'L' => out.extend(c.to_lowercase()),
                    _ => out.push(c),
                }
            }
        };
        for piece in with {
            match piece {
                Piece::Text(part) => push(part, case, &mut once),
                Piece::Group(group) => push(found.get(*group).map_or("", |m| m.as_str()), case, &mut once),
                Piece::Case(next @ ('u' | 'l')) => once = Some(*next),
                Piece::Case(next) => case = *next,
            }
        }
        if !all {
            break;
        }
    }
    out.push_str(&text[last..]);
    any.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let dir = std::env::temp_dir().join(format!("toolbox-sed-{}", std::process::id()));
        fs::write(&dir, "one\ntwo\nthree\nfour\n").unwrap();
        for (script, quiet, wanted) in [
            ("s/o/0/", false, "0ne\ntw0\nthree\nf0ur\n"),
            ("2d", false, "one\nthree\nfour\n"),
            ("/two/,/three/p", true, "two\nthree\n"),
            ("$!d", false, "four\n"),
            ("s/\\(t\\)\\(.\\)/\\2\\1/;s/e/E/2", false, "one\nwto\nhtreE\nfour\n"),
            ("2,3{s/^/> /;}", false, "one\n> two\n> three\nfour\n"),
            ("2q", false, "one\ntwo\n"),
            (":a;N;$!ba;s/\\n/,/g", false, "one,two,three,four\n"),
            ("1!G;h;$!d", false, "four\nthree\ntwo\none\n"),
            ("2a\\\nadded", false, "one\ntwo\nadded\nthree\nfour\n"),
            ("2c changed", false, "one\nchanged\nthree\nfour\n"),
            ("y/abcdefghijklmno/ABCDEFGHIJKLMNO/", false, "ONE\ntwO\ntHrEE\nFOur\n"),
            ("s/.*/\\u&/;s,e$,[&],", false, "On[e]\nTwo\nThre[e]\nFour\n"),
            ("0~2d", false, "one\nthree\n"),
            ("s|x*|-|g;3,$d", false, "-o-n-e-\n-t-w-o-\n"),
        ] {
            let commands = Parser::new(script, false).script().unwrap();
            let mut out = Vec::new();
            Run::new(&commands, quiet).files(&[dir.to_string_lossy().into_owned()], &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "{script}");
        }
        fs::remove_file(dir).unwrap();
    }
}
