//! The commands. Each takes its arguments, the first of which is its name, and says its exit code or what went wrong;
//! their words are BusyBox's, which scripts and tests know.

mod archive;
mod files;
mod find;
mod grep;
mod list;
mod numbers;
pub mod printf;
mod procs;
pub mod say;
mod sed;
mod sockets;
mod sums;
mod system;
pub mod test;
mod text;
mod tree;

use crate::sys;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Stdout, Write};
use std::path::{Component, Path, PathBuf};

/// A command.
pub type Applet = fn(&[String]) -> Result<i32, String>;

const APPLETS: &[(&str, Applet)] = &[
    ("[", |args| into_output(test::test, args)),
    ("basename", text::basename),
    ("brctl", system::refused),
    ("cat", text::cat),
    ("chmod", files::chmod),
    ("chown", files::chown),
    ("cp", tree::cp),
    ("cut", text::cut),
    ("date", numbers::date),
    ("dd", files::dd),
    ("df", system::refused),
    ("dirname", text::dirname),
    ("du", list::du),
    ("echo", |args| into_output(say::echo, args)),
    ("env", system::env),
    ("expr", numbers::expr),
    ("false", |_| Ok(1)),
    ("find", find::find),
    ("grep", grep::grep),
    ("egrep", grep::grep),
    ("fgrep", grep::grep),
    ("gunzip", archive::gunzip),
    ("gzip", archive::gzip),
    ("head", text::head),
    ("hexdump", sums::hexdump),
    ("hostname", system::hostname),
    ("id", system::id),
    ("ipcs", system::ipcs),
    ("kill", system::kill),
    ("ln", files::ln),
    ("ls", list::ls),
    ("md5sum", sums::md5sum),
    ("mkdir", files::mkdir),
    ("mktemp", files::mktemp),
    ("mv", tree::mv),
    ("netstat", sockets::netstat),
    ("od", sums::od),
    ("pgrep", procs::pgrep),
    ("pidof", procs::pidof),
    ("ping", sockets::ping),
    ("printenv", system::printenv),
    ("printf", |args| into_output(printf::printf, args)),
    ("ps", procs::ps),
    ("pwd", system::pwd),
    ("readlink", files::readlink),
    ("realpath", files::realpath),
    ("rm", tree::rm),
    ("rmdir", files::rmdir),
    ("sed", sed::sed),
    ("seq", numbers::seq),
    ("sha256sum", sums::sha256sum),
    ("sleep", numbers::sleep),
    ("sort", text::sort),
    ("stat", list::stat),
    ("sync", |_| Ok(0)),
    ("tail", text::tail),
    ("tar", archive::tar),
    ("tee", text::tee),
    ("test", |args| into_output(test::test, args)),
    ("top", procs::top),
    ("touch", files::touch),
    ("tr", text::tr),
    ("true", |_| Ok(0)),
    ("uname", system::uname),
    ("uniq", text::uniq),
    ("unlink", files::unlink),
    ("wc", text::wc),
    ("which", system::which),
    ("whoami", system::whoami),
    ("xargs", system::xargs),
    ("yes", say::yes),
    ("zcat", archive::gunzip),
];

pub fn find(name: &str) -> Option<Applet> {
    APPLETS.iter().find(|(known, _)| *known == name).map(|(_, applet)| *applet)
}

pub fn names() -> impl Iterator<Item = &'static str> {
    APPLETS.iter().map(|(name, _)| *name)
}

/// Nobody reads what the program says: it ends as if by SIGPIPE.
const NOBODY_READS: &str = "\0";
const PIPE: i32 = 141;

/// Runs a command to its exit code.
pub fn run(applet: Applet, name: &str, args: &[String]) -> i32 {
    match applet(args) {
        Ok(code) => match io::stdout().flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => PIPE,
            _ => code,
        },
        Err(words) if words == NOBODY_READS => PIPE,
        Err(words) => {
            let _ = io::stdout().flush();
            eprintln!("{name}: {words}");
            if matches!(name, "test" | "[" | "expr" | "grep" | "egrep" | "fgrep" | "ls") { 2 } else { 1 }
        }
    }
}

fn into_output(act: fn(&[String], &mut Vec<u8>) -> Result<i32, String>, args: &[String]) -> Result<i32, String> {
    let mut out = Vec::new();
    let code = act(args, &mut out)?;
    written(io::stdout().write_all(&out))?;
    Ok(code)
}

/// Standard output, in big pieces.
pub fn output() -> BufWriter<Stdout> {
    BufWriter::with_capacity(32 << 10, io::stdout())
}

/// The result of writing to standard output.
pub fn written<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => NOBODY_READS.to_owned(),
        _ => format!("write error: {}", sys::words(&error)),
    })
}

/// An error with the file's name before it.
pub fn of(path: &str) -> impl FnOnce(io::Error) -> String {
    let path = path.to_owned();
    move |error| format!("{path}: {}", sys::words(&error))
}

/// Opens a file to read; `-` is standard input, and what every system has is there.
pub fn open(path: &str) -> Result<Box<dyn Read>, String> {
    match path {
        "-" | "/dev/stdin" => Ok(Box::new(io::stdin())),
        "/dev/null" => Ok(Box::new(io::empty())),
        "/dev/zero" => Ok(Box::new(io::repeat(0))),
        path => {
            let file = File::open(path).map_err(of(path))?;
            if file.metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(format!("{path}: Is a directory"));
            }
            Ok(Box::new(file))
        }
    }
}

/// A path without links, `.` and `..`. (The C library of WASI has no realpath everywhere.)
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut ahead: Vec<PathBuf> = vec![std::env::current_dir()?.join(path)];
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(next) = ahead.pop() {
        let mut parts = next.components();
        let Some(part) = parts.next() else { continue };
        let rest = parts.as_path().to_owned();
        if !rest.as_os_str().is_empty() {
            ahead.push(rest);
        }
        match part {
            Component::RootDir => real = PathBuf::from("/"),
            Component::ParentDir => drop(real.pop()),
            Component::Normal(name) => {
                let place = real.join(name);
                if std::fs::symlink_metadata(&place)?.is_symlink() {
                    links += 1;
                    if links > 40 {
                        return Err(ErrorKind::InvalidInput.into());
                    }
                    ahead.push(std::fs::read_link(&place)?);
                } else {
                    real = place;
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(real)
}

/// Makes a symbolic link. WASI lets nobody make an absolute one, which could lead out of what a program is given: in a
/// container it is made to lead to the same place from where it is.
pub fn soft_link(target: &Path, link: &Path) -> io::Result<()> {
    let mut target = target.to_owned();
    if target.is_absolute() && cfg!(target_family = "wasm") {
        let parent = link.parent().filter(|parent| !parent.as_os_str().is_empty());
        let real = real_path(parent.unwrap_or(Path::new(".")))?;
        let up: PathBuf = real.components().skip(1).map(|_| "..").collect();
        target = up.join(target.strip_prefix("/").unwrap_or(&target));
        if target.as_os_str().is_empty() {
            target.push(".");
        }
    }
    // Deprecated for what it does elsewhere; on WASI it is the only stable name for a symbolic link.
    #[allow(deprecated)]
    std::fs::soft_link(target, link)
}

/// Each line of a file, with its newline.
pub fn lines(path: &str) -> Result<Lines, String> {
    Ok(Lines { reader: BufReader::with_capacity(32 << 10, open(path)?), path: path.to_owned() })
}

pub struct Lines {
    reader: BufReader<Box<dyn Read>>,
    path: String,
}

impl Lines {
    /// Puts the next line in the place of the last one; false at the end.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, String> {
        line.clear();
        self.reader.read_until(b'\n', line).map(|count| count > 0).map_err(of(&self.path))
    }
}

/// A line without its newline.
pub fn chomp(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// The files to read: standard input if none is named.
pub fn or_stdin(paths: Vec<String>) -> Vec<String> {
    if paths.is_empty() { vec!["-".to_owned()] } else { paths }
}

/// Does the same for each; what is wrong with one does not keep the others from it.
pub fn each(name: &str, paths: &[String], mut act: impl FnMut(&str) -> Result<(), String>) -> Result<i32, String> {
    let mut code = 0;
    for path in paths {
        if let Err(words) = act(path) {
            if words == NOBODY_READS {
                return Err(words);
            }
            let _ = io::stdout().flush();
            eprintln!("{name}: {words}");
            code = 1;
        }
    }
    Ok(code)
}

/// What was asked for with letters.
pub struct Flags {
    found: Vec<(char, String)>,
    pub rest: Vec<String>,
}

impl Flags {
    /// Takes the options from arguments. A letter that a colon follows in `known` takes a value. `long` are the names that
    /// letters have in full.
    pub fn parse(args: &[String], known: &str, long: &[(&str, char)]) -> Result<Self, String> {
        let mut flags = Self { found: Vec::new(), rest: Vec::new() };
        let mut words = args.iter().skip(1);
        while let Some(word) = words.next() {
            if word == "--" {
                flags.rest.extend(words.cloned());
                break;
            }
            if let Some(name) = word.strip_prefix("--") {
                let (name, value) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
                let letter = long.iter().find(|(n, _)| *n == name).map(|(_, letter)| *letter);
                let letter = letter.ok_or_else(|| format!("unrecognized option: {word}"))?;
                let takes = takes_value(known, letter);
                let value = match value {
                    Some(value) => value.to_owned(),
                    None if takes => {
                        words.next().cloned().ok_or_else(|| format!("option requires an argument: {word}"))?
                    }
                    None => String::new(),
                };
                flags.found.push((letter, value));
                continue;
            }
            if !word.starts_with('-') || word.len() == 1 {
                flags.rest.push(word.clone());
                continue;
            }
            let mut letters = word[1..].char_indices();
            while let Some((at, letter)) = letters.next() {
                if letter == ':' || !known.contains(letter) {
                    return Err(format!("unrecognized option: {letter}"));
                }
                if !takes_value(known, letter) {
                    flags.found.push((letter, String::new()));
                    continue;
                }
                let attached = &word[1 + at + letter.len_utf8()..];
                let value = if attached.is_empty() {
                    words.next().cloned().ok_or_else(|| format!("option requires an argument: {letter}"))?
                } else {
                    attached.to_owned()
                };
                flags.found.push((letter, value));
                break;
            }
        }
        Ok(flags)
    }

    pub fn has(&self, letter: char) -> bool {
        self.found.iter().any(|(l, _)| *l == letter)
    }

    /// The value of the last such option.
    pub fn value(&self, letter: char) -> Option<&str> {
        self.found.iter().rev().find(|(l, _)| *l == letter).map(|(_, value)| value.as_str())
    }

    pub fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        self.found.iter().filter(move |(l, _)| *l == letter).map(|(_, value)| value.as_str())
    }

    /// Of these letters the one that was given last.
    pub fn last_of(&self, letters: &str) -> Option<char> {
        self.found.iter().rev().map(|(l, _)| *l).find(|l| letters.contains(*l))
    }
}

fn takes_value(known: &str, letter: char) -> bool {
    known.find(letter).is_some_and(|at| known[at + letter.len_utf8()..].starts_with(':'))
}

/// A number that an option needs.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("invalid number '{text}'"))
}
