//! `find`.

use super::{number, of, written};
use crate::sh::pattern;
use crate::sys::{self, Program};
use std::fs::{self, Metadata};
use std::io::Write;
use std::time::{Duration, SystemTime};

enum Test {
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    Always,
    Name(String, bool),
    Path(String),
    Kind(char),
    Newer(SystemTime),
    Empty,
    Size(Compare, u64),
    Age(Compare, u64),
    Prune,
    Print(u8),
    Delete,
    Exec(Vec<String>),
    /// `-exec … +`, and what has been collected.
    ExecMany(usize),
}

#[derive(Clone, Copy)]
enum Compare {
    Less,
    Same,
    More,
}

impl Compare {
    fn of(text: &str) -> (Self, &str) {
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (Self::More, rest),
            (_, Some(rest)) => (Self::Less, rest),
            _ => (Self::Same, text),
        }
    }

    fn holds(self, a: u64, b: u64) -> bool {
        match self {
            Self::Less => a < b,
            Self::Same => a == b,
            Self::More => a > b,
        }
    }
}

struct Find {
    out: std::io::BufWriter<std::io::Stdout>,
    depth: (usize, usize),
    depth_first: bool,
    follow: bool,
    acts: bool,
    many: Vec<(Vec<String>, Vec<String>)>,
    code: i32,
}

pub fn find(args: &[String]) -> Result<i32, String> {
    let mut rest = args.get(1..).unwrap_or_default();
    let mut find = Find {
        out: super::output(),
        depth: (0, usize::MAX),
        depth_first: false,
        follow: false,
        acts: false,
        many: Vec::new(),
        code: 0,
    };
    while let [flag @ ("-L" | "-H" | "-P"), more @ ..] = &*rest.iter().map(String::as_str).collect::<Vec<_>>() {
        find.follow = *flag == "-L";
        rest = &rest[rest.len() - more.len()..];
    }
    let count = rest.iter().take_while(|arg| !arg.starts_with(['-', '(', '!'])).count();
    let (paths, words) = rest.split_at(count);
    let paths = if paths.is_empty() { vec![".".to_owned()] } else { paths.to_vec() };
    let mut at = 0;
    let test = if words.is_empty() { Test::Always } else { find.or(words, &mut at)? };
    if at < words.len() {
        return Err(format!("unexpected {}", words[at]));
    }
    for path in &paths {
        find.walk(path, 0, &test)?;
    }
    for (command, found) in std::mem::take(&mut find.many) {
        if !found.is_empty() {
            written(find.out.flush())?;
            let args: Vec<String> = command.into_iter().chain(found).collect();
            find.code |= i32::from(run(&args)? != 0);
        }
    }
    written(find.out.flush())?;
    Ok(find.code)
}

/// Runs a program that is found along PATH.
pub fn run(args: &[String]) -> Result<i32, String> {
    use std::fs::File;
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    let name = args.first().ok_or("no program")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let places: Vec<String> = if name.contains('/') {
        vec![name.clone()]
    } else {
        path.split(':').map(|dir| format!("{dir}/{name}")).collect()
    };
    let env: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    // SAFETY: the three are open, and are not closed by being looked at.
    let files = [0, 1, 2].map(|n| ManuallyDrop::new(unsafe { File::from_raw_fd(n) }));
    let mut worst = None;
    for path in &places {
        match sys::spawn(&Program { path, args, env: &env, stdio: [0, 1, 2].map(|n| Some(&*files[n])) }) {
            Ok(id) => {
                return match sys::wait(id, true) {
                    Ok(Some((_, code))) => Ok(code),
                    Ok(None) => Ok(127),
                    Err(error) => Err(sys::words(&error)),
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => worst = Some(error),
        }
    }
    Err(worst.map_or_else(|| format!("{name}: No such file or directory"), |e| format!("{name}: {}", sys::words(&e))))
}

impl Find {
    fn or(&mut self, words: &[String], at: &mut usize) -> Result<Test, String> {
        let mut left = self.and(words, at)?;
        while matches!(words.get(*at).map(String::as_str), Some("-o" | "-or")) {
            *at += 1;
            left = Test::Or(Box::new(left), Box::new(self.and(words, at)?));
        }
        Ok(left)
    }

    fn and(&mut self, words: &[String], at: &mut usize) -> Result<Test, String> {
        let mut left = self.one(words, at)?;
        while let Some(word) = words.get(*at) {
            match word.as_str() {
                "-a" | "-and" => *at += 1,
                "-o" | "-or" | ")" => break,
                _ => {}
            }
            left = Test::And(Box::new(left), Box::new(self.one(words, at)?));
        }
        Ok(left)
    }

    fn one(&mut self, words: &[String], at: &mut usize) -> Result<Test, String> {
        let word = words.get(*at).ok_or("an expression was expected")?.clone();
        *at += 1;
        let mut value = || {
            let value = words.get(*at).cloned().ok_or_else(|| format!("option requires an argument: {word}"));
            *at += 1;
            value
        };
        Ok(match word.as_str() {
            "!" | "-not" => Test::Not(Box::new(self.one(words, at)?)),
            "(" => {
                let inner = self.or(words, at)?;
                if words.get(*at).map(String::as_str) != Some(")") {
                    return Err("unmatched '('".to_owned());
                }
                *at += 1;
                inner
            }
            "-name" => Test::Name(value()?, false),
            "-iname" => Test::Name(value()?.to_lowercase(), true),
            "-path" | "-wholename" => Test::Path(value()?),
            "-type" => Test::Kind(value()?.chars().next().unwrap_or(' ')),
            "-newer" => {
                let path = value()?;
                Test::Newer(fs::metadata(&path).and_then(|m| m.modified()).map_err(of(&path))?)
            }
            "-empty" => Test::Empty,
            "-size" => {
                let text = value()?;
                let (compare, rest) = Compare::of(&text);
                let unit =
                    if rest.ends_with(|c: char| c.is_ascii_digit()) { format!("{rest}b") } else { rest.to_owned() };
                Test::Size(compare, super::files::amount(&unit)?)
            }
            "-mtime" | "-mmin" => {
                let text = value()?;
                let (compare, rest) = Compare::of(&text);
                let unit = if word == "-mtime" { 86_400 } else { 60 };
                // Whole days or minutes count.
                Test::And(Box::new(Test::Age(compare, number(rest)? * unit)), Box::new(Test::Always))
            }
            "-maxdepth" => {
                self.depth.1 = usize::try_from(number(&value()?)?).unwrap_or(usize::MAX);
                Test::Always
            }
            "-mindepth" => {
                self.depth.0 = usize::try_from(number(&value()?)?).unwrap_or(usize::MAX);
                Test::Always
            }
            "-depth" => {
                self.depth_first = true;
                Test::Always
            }
            "-xdev" | "-mount" | "-true" => Test::Always,
            "-prune" => Test::Prune,
            "-print" | "-print0" => {
                self.acts = true;
                Test::Print(if word == "-print" { b'\n' } else { 0 })
            }
            "-delete" => {
                self.acts = true;
                self.depth_first = true;
                Test::Delete
            }
            "-exec" => {
                self.acts = true;
                let mut command = Vec::new();
                loop {
                    let next = words.get(*at).cloned().ok_or("-exec: missing ';'")?;
                    *at += 1;
                    match next.as_str() {
                        ";" => return Ok(Test::Exec(command)),
                        "+" if command.last().is_some_and(|last| last == "{}") => {
                            command.pop();
                            self.many.push((command, Vec::new()));
                            return Ok(Test::ExecMany(self.many.len() - 1));
                        }
                        _ => command.push(next),
                    }
                }
            }
            other => return Err(format!("unrecognized: {other}")),
        })
    }

    fn walk(&mut self, path: &str, depth: usize, test: &Test) -> Result<(), String> {
        let found = if self.follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let meta = match found {
            Ok(meta) => meta,
            Err(error) => {
                written(self.out.flush())?;
                eprintln!("find: {}", of(path)(error));
                self.code = 1;
                return Ok(());
            }
        };
        let mut descend = meta.is_dir() && depth < self.depth.1;
        if self.depth_first && descend {
            self.below(path, depth, test)?;
            descend = false;
        }
        if depth >= self.depth.0 {
            let mut pruned = false;
            if self.holds(test, path, &meta, &mut pruned)? && !self.acts {
                written(writeln!(self.out, "{path}"))?;
            }
            descend &= !pruned;
        }
        if descend { self.below(path, depth, test) } else { Ok(()) }
    }

    fn below(&mut self, path: &str, depth: usize, test: &Test) -> Result<(), String> {
        let mut names: Vec<String> = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
            Err(error) => {
                eprintln!("find: {}", of(path)(error));
                self.code = 1;
                return Ok(());
            }
        };
        names.sort();
        let base = if path.ends_with('/') { path.to_owned() } else { format!("{path}/") };
        names.iter().try_for_each(|name| self.walk(&format!("{base}{name}"), depth + 1, test))
    }

    fn holds(&mut self, test: &Test, path: &str, meta: &Metadata, pruned: &mut bool) -> Result<bool, String> {
        let name = || {
            let trimmed = path.trim_end_matches('/');
            if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
        };
        Ok(match test {
            Test::Not(inner) => !self.holds(inner, path, meta, pruned)?,
            Test::And(a, b) => self.holds(a, path, meta, pruned)? && self.holds(b, path, meta, pruned)?,
            Test::Or(a, b) => self.holds(a, path, meta, pruned)? || self.holds(b, path, meta, pruned)?,
            Test::Always => true,
            Test::Name(wanted, false) => pattern::matches(name(), wanted),
            Test::Name(wanted, true) => pattern::matches(&name().to_lowercase(), wanted),
            Test::Path(wanted) => pattern::matches(path, wanted),
            Test::Kind('f') => meta.is_file(),
            Test::Kind('d') => meta.is_dir(),
            Test::Kind('l') => meta.is_symlink(),
            Test::Kind(_) => false,
            Test::Newer(than) => meta.modified().is_ok_and(|m| m > *than),
            Test::Empty if meta.is_dir() => fs::read_dir(path).is_ok_and(|mut d| d.next().is_none()),
            Test::Empty => meta.len() == 0,
            Test::Size(compare, bytes) => compare.holds(meta.len(), *bytes),
            Test::Age(compare, seconds) => {
                let age = meta.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
                let unit = if *seconds % 86_400 == 0 { 86_400 } else { 60 };
                compare.holds(age.unwrap_or(Duration::ZERO).as_secs() / unit, seconds / unit)
            }
            Test::Prune => {
                *pruned = true;
                true
            }
            Test::Print(end) => {
                written(self.out.write_all(path.as_bytes()).and_then(|()| self.out.write_all(&[*end])))?;
                true
            }
            Test::Delete => {
                let gone = if meta.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
                match gone {
                    Ok(()) => true,
                    Err(error) => {
                        eprintln!("find: {}", of(path)(error));
                        self.code = 1;
                        false
                    }
                }
            }
            Test::Exec(command) => {
                written(self.out.flush())?;
                let args: Vec<String> = command.iter().map(|word| word.replace("{}", path)).collect();
                match run(&args) {
                    Ok(code) => code == 0,
                    Err(words) => {
                        eprintln!("find: {words}");
                        self.code = 1;
                        false
                    }
                }
            }
            Test::ExecMany(place) => {
                if let Some((_, found)) = self.many.get_mut(*place) {
                    found.push(path.to_owned());
                }
                true
            }
        })
    }
}
