//! Commands on trees of files.

use super::{Flags, each, of};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The sources, and where each goes.
fn places(flags: &Flags) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let (sources, target) = match (flags.value('t'), flags.rest.as_slice()) {
        (Some(target), sources) if !sources.is_empty() => (sources, target.to_owned()),
        (None, [sources @ .., target]) if !sources.is_empty() => (sources, target.clone()),
        _ => return Err("missing file operand".to_owned()),
    };
    let into = Path::new(&target).is_dir() && !flags.has('T');
    if sources.len() > 1 && !into {
        return Err(format!("target '{target}' is not a directory"));
    }
    Ok(sources
        .iter()
        .map(|source| {
            let source = PathBuf::from(source);
            let place = match source.file_name() {
                Some(name) if into => Path::new(&target).join(name),
                _ => PathBuf::from(&target),
            };
            (source, place)
        })
        .collect())
}

pub fn cp(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "rRafpdPLTt:vnu", &[("recursive", 'r'), ("archive", 'a'), ("force", 'f')])?;
    let keeps_links = "adP".chars().any(|c| flags.has(c)) && !flags.has('L');
    let options = Copying {
        recursive: "rRa".chars().any(|c| flags.has(c)),
        keeps_links: keeps_links || (flags.has('r') || flags.has('R')) && !flags.has('L'),
        keeps_times: flags.has('p') || flags.has('a'),
        skips_existing: flags.has('n'),
    };
    let mut code = 0;
    for (source, target) in places(&flags)? {
        if let Err(words) = options.copy(&source, &target) {
            eprintln!("cp: {words}");
            code = 1;
        }
    }
    Ok(code)
}

struct Copying {
    recursive: bool,
    keeps_links: bool,
    keeps_times: bool,
    skips_existing: bool,
}

impl Copying {
    fn copy(&self, source: &Path, target: &Path) -> Result<(), String> {
        let shown = source.to_string_lossy();
        if source == Path::new("/dev/null") {
            return fs::write(target, b"").map_err(|e| cannot_create(target, &e));
        }
        let meta = if self.keeps_links { fs::symlink_metadata(source) } else { fs::metadata(source) };
        let meta = meta.map_err(|e| format!("can't stat '{shown}': {}", crate::sys::words(&e)))?;
        if meta.is_dir() {
            if !self.recursive {
                return Err(format!("omitting directory '{shown}'"));
            }
            if let (Ok(from), Ok(parent)) =
                (super::real_path(source), super::real_path(target.parent().unwrap_or(Path::new("."))))
                && parent.starts_with(from)
            {
                return Err(format!("recursion detected, omitting directory '{shown}'"));
            }
            match fs::create_dir(target) {
                Err(_) if target.is_dir() => {}
                made => made.map_err(|e| cannot_create(target, &e))?,
            }
            for entry in fs::read_dir(source).map_err(of(&shown))? {
                let entry = entry.map_err(of(&shown))?;
                self.copy(&entry.path(), &target.join(entry.file_name()))?;
            }
        } else if meta.is_symlink() {
            let link = fs::read_link(source).map_err(of(&shown))?;
            let _ = fs::remove_file(target);
            super::soft_link(&link, target).map_err(|e| cannot_create(target, &e))?;
            return Ok(());
        } else {
            if self.skips_existing && target.exists() {
                return Ok(());
            }
            if let (Ok(a), Ok(b)) = (super::real_path(source), super::real_path(target))
                && a == b
            {
                return Err(format!("'{shown}' and '{}' are the same file", target.display()));
            }
            let mut from =
                fs::File::open(source).map_err(|e| format!("can't open '{shown}': {}", crate::sys::words(&e)))?;
            let mut to = fs::File::create(target).map_err(|e| cannot_create(target, &e))?;
            super::text::copy(&mut from, &mut to)?;
        }
        if self.keeps_times
            && let (Ok(modified), Ok(file)) = (meta.modified(), fs::File::open(target))
        {
            let _ = file.set_times(fs::FileTimes::new().set_modified(modified));
        }
        Ok(())
    }
}

fn cannot_create(path: &Path, error: &std::io::Error) -> String {
    format!("can't create '{}': {}", path.display(), crate::sys::words(error))
}

pub fn mv(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "finTt:v", &[("force", 'f')])?;
    let mut code = 0;
    for (source, target) in places(&flags)? {
        if flags.has('n') && target.exists() {
            continue;
        }
        let moved = match fs::rename(&source, &target) {
            // Between two mounts it is a copy.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let all = Copying { recursive: true, keeps_links: true, keeps_times: true, skips_existing: false };
                all.copy(&source, &target).and_then(|()| remove(&source, true))
            }
            other => other.map_err(|e| format!("can't rename '{}': {}", source.display(), crate::sys::words(&e))),
        };
        if let Err(words) = moved {
            eprintln!("mv: {words}");
            code = 1;
        }
    }
    Ok(code)
}

pub fn rm(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "rRfidv", &[("recursive", 'r'), ("force", 'f')])?;
    if flags.rest.is_empty() && !flags.has('f') {
        return Err("missing operand".to_owned());
    }
    each("rm", &flags.rest, |path| {
        if matches!(path.trim_end_matches('/').rsplit('/').next(), Some("." | "..")) {
            return Err(format!("refusing to remove '{path}'"));
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && flags.has('f') => Ok(()),
            Err(error) => Err(format!("can't remove '{path}': {}", crate::sys::words(&error))),
            Ok(meta) if meta.is_dir() && !flags.has('r') && !flags.has('R') => Err(format!("'{path}' is a directory")),
            Ok(_) => remove(Path::new(path), flags.has('r') || flags.has('R')),
        }
    })
}

/// Removes a file or a tree, and no more of what links lead to.
fn remove(path: &Path, recursive: bool) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("can't remove '{}': {}", path.display(), crate::sys::words(&e));
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(failed);
    }
    if recursive {
        // Taken down first: a directory that changes while it is read may leave entries out.
        let entries: Vec<_> = fs::read_dir(path).map_err(failed)?.flatten().collect();
        for entry in entries {
            remove(&entry.path(), true)?;
        }
    }
    fs::remove_dir(path).map_err(failed)
}
