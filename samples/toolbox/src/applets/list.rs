//! Looking at files: `ls`, `stat`, `du`.

use super::numbers::{Civil, civil};
use super::{Flags, each, of, written};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

struct Entry {
    name: String,
    path: String,
    meta: Metadata,
}

fn seconds(time: io::Result<SystemTime>) -> u64 {
    time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}

/// WASI tells no modes: what a tree of a single user has.
fn mode(meta: &Metadata) -> (&'static str, u32) {
    if meta.is_dir() {
        ("drwxr-xr-x", 0o755)
    } else if meta.is_symlink() {
        ("lrwxrwxrwx", 0o777)
    } else {
        ("-rwxr-xr-x", 0o755)
    }
}

pub fn ls(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "1aAlRdrtSFhinp", &[("all", 'a'), ("almost-all", 'A'), ("recursive", 'R')])?;
    let paths = if flags.rest.is_empty() { vec![".".to_owned()] } else { flags.rest.clone() };
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    let mut out = super::output();
    let code = each("ls", &paths, |path| {
        let long = flags.has('l') || flags.has('d');
        let meta = match fs::metadata(path) {
            Ok(meta) if !(long && Path::new(path).is_symlink()) => meta,
            _ => fs::symlink_metadata(path).map_err(of(path))?,
        };
        let is_dir = meta.is_dir() && !flags.has('d');
        let entry = Entry { name: path.to_owned(), path: path.to_owned(), meta };
        if is_dir {
            directories.push(entry)
        } else {
            files.push(entry)
        }
        Ok(())
    })?;
    arrange(&mut files, &flags);
    files.iter().try_for_each(|entry| show(&mut out, entry, &flags))?;
    let titles = files.len() + directories.len() > 1 || flags.has('R');
    let mut first = files.is_empty();
    let mut failed = code;
    arrange(&mut directories, &flags);
    let mut ahead: Vec<String> = directories.into_iter().rev().map(|d| d.path).collect();
    while let Some(path) = ahead.pop() {
        if titles {
            written(write!(out, "{}{path}:\n", if first { "" } else { "\n" }))?;
        }
        first = false;
        match read(&path, &flags) {
            Ok(entries) => {
                if flags.has('l') {
                    let blocks: u64 = entries.iter().map(|e| e.meta.len().div_ceil(4096) * 4).sum();
                    written(writeln!(out, "total {blocks}"))?;
                }
                entries.iter().try_for_each(|entry| show(&mut out, entry, &flags))?;
                if flags.has('R') {
                    let below = entries.into_iter().filter(|e| e.meta.is_dir() && e.name != "." && e.name != "..");
                    ahead.extend(below.map(|e| e.path).collect::<Vec<_>>().into_iter().rev());
                }
            }
            Err(words) => {
                written(out.flush())?;
                eprintln!("ls: {words}");
                failed = 1;
            }
        }
    }
    written(out.flush())?;
    Ok(failed)
}

fn read(path: &str, flags: &Flags) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut add = |name: String| {
        let full = if path.ends_with('/') { format!("{path}{name}") } else { format!("{path}/{name}") };
        // What is gone meanwhile is not there.
        if let Ok(meta) = fs::symlink_metadata(&full) {
            entries.push(Entry { name, path: full, meta });
        }
    };
    if flags.has('a') {
        add(".".to_owned());
        add("..".to_owned());
    }
    for entry in fs::read_dir(path).map_err(|e| format!("can't open '{path}': {}", crate::sys::words(&e)))? {
        let name = entry.map_err(of(path))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') || flags.has('a') || flags.has('A') {
            add(name);
        }
    }
    arrange(&mut entries, flags);
    Ok(entries)
}

fn arrange(entries: &mut [Entry], flags: &Flags) {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    match flags.last_of("tS") {
        Some('t') => entries.sort_by_key(|e| std::cmp::Reverse(e.meta.modified().ok())),
        Some('S') => entries.sort_by_key(|e| std::cmp::Reverse(e.meta.len())),
        _ => {}
    }
    if flags.has('r') {
        entries.reverse();
    }
}

fn show(out: &mut impl Write, entry: &Entry, flags: &Flags) -> Result<(), String> {
    let mut name = entry.name.clone();
    if (flags.has('F') || flags.has('p')) && entry.meta.is_dir() {
        name.push('/');
    } else if flags.has('F') && entry.meta.is_symlink() && !flags.has('l') {
        name.push('@');
    }
    if flags.has('i') {
        let inode = identity(&entry.meta).0;
        written(write!(out, "{inode:8} "))?;
    }
    if !flags.has('l') {
        return written(writeln!(out, "{name}"));
    }
    if entry.meta.is_symlink()
        && let Ok(target) = fs::read_link(&entry.path)
    {
        name = format!("{name} -> {}", target.display());
    }
    let size = if flags.has('h') { short(entry.meta.len()) } else { entry.meta.len().to_string() };
    let Civil { month, day, hour, minute, .. } = civil(seconds(entry.meta.modified()));
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"");
    let (links, owner) = (identity(&entry.meta).1, if flags.has('n') { "0" } else { "root" });
    let (mode, _) = mode(&entry.meta);
    written(writeln!(
        out,
        "{mode} {links:4} {owner:8} {owner:8} {size:>9} {month} {day:2} {hour:02}:{minute:02} {name}"
    ))
}

/// The inode and the count of links.
#[cfg(target_family = "wasm")]
fn identity(_: &Metadata) -> (u64, u64) {
    // The standard library keeps what WASI says of them to itself.
    (0, 1)
}

#[cfg(not(target_family = "wasm"))]
fn identity(meta: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.ino(), meta.nlink())
}

fn short(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < 4 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { bytes.to_string() } else { format!("{value:.1}{}", ["", "K", "M", "G", "T"][unit]) }
}

pub fn stat(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "c:Lt", &[("format", 'c')])?;
    each("stat", &flags.rest, |path| {
        let found = if flags.has('L') { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let meta = found.map_err(|e| format!("can't stat '{path}': {}", crate::sys::words(&e)))?;
        let kind = if meta.is_dir() {
            "directory"
        } else if meta.is_symlink() {
            "symbolic link"
        } else if meta.len() == 0 {
            "regular empty file"
        } else {
            "regular file"
        };
        let times = [meta.accessed(), meta.modified(), meta.created()].map(seconds);
        let (text, bits) = mode(&meta);
        let Some(format) = flags.value('c') else {
            let shown = times.map(|t| super::numbers::format_date(t, "%Y-%m-%d %H:%M:%S +0000"));
            return written(writeln!(
                io::stdout(),
                "  File: {path}\n  Size: {}\tBlocks: {}\tIO Block: 4096   {kind}\nAccess: ({bits:04o}/{text})  Uid: (    0/    root)   Gid: (    0/    root)\nAccess: {}\nModify: {}\nChange: {}",
                meta.len(),
                meta.len().div_ceil(512),
                shown[0],
                shown[1],
                shown[2],
            ));
        };
        let mut result = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                result.push(c);
                continue;
            }
            match chars.next() {
                Some('n') => result.push_str(path),
                Some('N') => match std::fs::read_link(path) {
                    Ok(target) => result.push_str(&format!("'{path}' -> '{}'", target.display())),
                    Err(_) => result.push_str(&format!("'{path}'")),
                },
                Some('s') => result.push_str(&meta.len().to_string()),
                Some('F') => result.push_str(kind),
                Some('a') => result.push_str(&format!("{bits:o}")),
                Some('A') => result.push_str(text),
                Some('X') => result.push_str(&times[0].to_string()),
                Some('Y') => result.push_str(&times[1].to_string()),
                Some('Z') => result.push_str(&times[2].to_string()),
                Some('u' | 'g') => result.push('0'),
                Some('U' | 'G') => result.push_str("root"),
                Some('h') => result.push_str(&identity(&meta).1.to_string()),
                Some('i') => result.push_str(&identity(&meta).0.to_string()),
                Some('b') => result.push_str(&meta.len().div_ceil(512).to_string()),
                Some('%') => result.push('%'),
                other => return Err(format!("unknown format %{}", other.unwrap_or(' '))),
            }
        }
        written(writeln!(io::stdout(), "{result}"))
    })
}

pub fn du(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "sahkmbcd:", &[("max-depth", 'd')])?;
    let depth = flags.value('d').map(super::number).transpose()?.unwrap_or(u64::MAX);
    let depth = if flags.has('s') { 0 } else { depth };
    let mut out = super::output();
    let mut total = 0;
    let paths = if flags.rest.is_empty() { vec![".".to_owned()] } else { flags.rest.clone() };
    let mut say = |bytes: u64, path: &str| {
        let size = match flags.last_of("hmkb") {
            Some('h') => short(bytes),
            Some('m') => bytes.div_ceil(1 << 20).to_string(),
            Some('b') => bytes.to_string(),
            _ => bytes.div_ceil(1024).to_string(),
        };
        written(writeln!(out, "{size}\t{path}"))
    };
    let code = each("du", &paths, |path| {
        total += walk(path, depth, flags.has('a'), flags.has('b'), &mut say)?;
        Ok(())
    })?;
    if flags.has('c') {
        say(total, "total")?;
    }
    written(out.flush())?;
    Ok(code)
}

fn walk(
    path: &str,
    depth: u64,
    files: bool,
    plain: bool,
    say: &mut dyn FnMut(u64, &str) -> Result<(), String>,
) -> Result<u64, String> {
    let meta = fs::symlink_metadata(path).map_err(of(path))?;
    let own = if plain { meta.len() } else { meta.len().div_ceil(4096) * 4096 };
    if !meta.is_dir() {
        return Ok(own);
    }
    let mut sum = own;
    for entry in fs::read_dir(path).map_err(of(path))?.flatten() {
        let below = entry.path().to_string_lossy().into_owned();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let size = walk(&below, depth.saturating_sub(1), files, plain, &mut |bytes, path| {
            if depth > 0 { say(bytes, path) } else { Ok(()) }
        })?;
        if files && !is_dir && depth > 0 {
            say(size, &below)?;
        }
        sum += size;
    }
    say(sum, path)?;
    Ok(sum)
}
