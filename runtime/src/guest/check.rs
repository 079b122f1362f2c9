//! Is compiled code what the compiler made? It is mapped and executed, so each file is hashed here and held against what
//! was recorded, whatever its times say. All of it is derived: what is wrong is removed, and compiled when it is next
//! needed.

use super::code::{Cache, Sidecar, Stamp, distrusted};
use crate::check::{Finding, REPAIR, Report, names_in};
use crate::digest;
use crate::store::{Lock, Store, files};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// Goes through the compiled code of every engine that has been used here.
pub(crate) fn check(store: &Store, report: &mut Report) {
    for name in names_in(&store.code()) {
        let dir = store.code().join(&name);
        report.counts.programs += names_in(&dir).iter().filter(|name| name.ends_with(".cwasm")).count();
        // Nobody puts code in while what seems wrong is looked at once more; a store that cannot be written is changed
        // by nobody.
        let suspects: Vec<String> = digests(&dir).into_iter().filter(|digest| look(&dir, digest).is_some()).collect();
        if suspects.is_empty() {
            continue;
        }
        let _lock = Lock::wait(&dir.join("lock")).ok();
        for digest in suspects {
            tell(&dir, &digest, report);
        }
    }
    check_links(store, report);
}

/// The digests of which there is something, in hex digits.
fn digests(dir: &Path) -> Vec<String> {
    let digest = |name: String| {
        let (digest, kind) = name.rsplit_once('.')?;
        matches!(kind, "cwasm" | "json").then(|| digest.to_owned()).filter(|digest| !digest.starts_with('.'))
    };
    let mut all: Vec<String> = names_in(dir).into_iter().filter_map(digest).collect();
    all.dedup();
    all
}

/// What can be the matter with a piece of code.
enum Trouble {
    Wrong(String),
    Left(&'static str),
}

fn look(dir: &Path, digest: &str) -> Option<Trouble> {
    let (code, sidecar) = (dir.join(format!("{digest}.cwasm")), dir.join(format!("{digest}.json")));
    let known: Option<Sidecar> = match files::read_json(&sidecar) {
        Ok(known) => Some(known),
        Err(e) if e.is_not_found() => None,
        Err(e) => return Some(Trouble::Wrong(format!("its record cannot be read: {e}"))),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&code, flags, Mode::empty());
    let (known, mut file) = match (known, file) {
        (None, Err(rustix::io::Errno::NOENT)) => return None,
        // The record comes last, so without it there is no code yet.
        (None, _) => return Some(Trouble::Left("it has no record")),
        (Some(_), Err(rustix::io::Errno::NOENT)) => return Some(Trouble::Left("it has a record and no code")),
        (Some(_), Err(e)) => return Some(Trouble::Wrong(format!("it cannot be opened as a file ({e})"))),
        (Some(known), Ok(file)) => (known, File::from(file)),
    };
    let problem = match file.metadata() {
        Err(e) => Some(format!("it cannot be looked at ({e})")),
        Ok(meta) => distrusted(&meta).or_else(|| match digest::of_all(&mut file) {
            Err(e) => Some(format!("it cannot be read ({e})")),
            Ok(found) if found != known.sha256 => {
                Some(format!("it is not what was compiled (its hash is {found}, recorded is {})", known.sha256))
            }
            Ok(_) => None,
        }),
    };
    problem.map(Trouble::Wrong)
}

fn tell(dir: &Path, digest: &str, report: &mut Report) {
    let Some(trouble) = look(dir, digest) else { return };
    let (code, sidecar) = (dir.join(format!("{digest}.cwasm")), dir.join(format!("{digest}.json")));
    let object = format!("compiled code {}", digest.get(..12).unwrap_or(digest));
    let finding = match trouble {
        Trouble::Wrong(problem) => Finding::wrong(object, problem, &code, REPAIR),
        Trouble::Left(problem) => Finding::left(object, problem, &code),
    };
    report.mend(finding, || remove(&[sidecar, code]));
}

fn remove(paths: &[PathBuf]) -> std::io::Result<bool> {
    for path in paths {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(true)
}

/// The links that say which digest a Wasm file has: one that says another would have other code run in its place.
fn check_links(store: &Store, report: &mut Report) {
    let links = Cache::open(store).dir.join("files");
    let mut known: HashMap<String, (PathBuf, String)> = HashMap::new();
    for name in names_in(&links) {
        let link = links.join(&name);
        let Ok(digest) = std::fs::read_link(&link) else { continue };
        known.insert(name, (link, digest.to_string_lossy().into_owned()));
    }
    let inode = |stamp: &String| stamp.split('-').nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let inodes: std::collections::HashSet<u64> = known.keys().filter_map(inode).collect();
    let mut ahead = vec![store.layers()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                Ok(kind) if kind.is_file() && inodes.contains(&entry.ino()) => {
                    check_link(&entry.path(), &known, report);
                }
                _ => {}
            }
        }
    }
}

fn check_link(program: &Path, known: &HashMap<String, (PathBuf, String)>, report: &mut Report) {
    let Ok(mut file) = File::open(program) else { return };
    let Ok(meta) = file.metadata() else { return };
    let Some((link, told)) = known.get(&Stamp::of(&meta).name()) else { return };
    match digest::of_all(&mut file) {
        Ok(found) if found != *told => {
            let problem = format!("it is recorded with the digest {told}, and has {found}");
            let finding = Finding::wrong(format!("program {}", program.display()), problem, link, REPAIR);
            report.mend(finding, || remove(std::slice::from_ref(link)));
        }
        _ => {}
    }
}
