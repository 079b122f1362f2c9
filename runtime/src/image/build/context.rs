//! The build context: the directory that COPY takes from. Nothing outside of it can be reached, by `..` or by a link, and
//! what `.dockerignore` names is not there.

use super::glob::{self, Ignore};
use super::{BuildError, Problem};
use crate::image::entry::{MOST_LINKS, push_components};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// An open build context.
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    ignore: Ignore,
}

/// Something in the context.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it is in the context; links on the way are followed.
    pub path: PathBuf,
    /// The name that it keeps when put into a directory.
    pub name: OsString,
    pub meta: Metadata,
    /// A directory that `.dockerignore` leaves out, with exceptions that may lie in it.
    pub ignored: bool,
}

impl Context {
    /// Opens the context. Its `.dockerignore` is the Dockerfile's own (`NAME.dockerignore` beside it) or else the
    /// context's.
    pub fn open(root: &Path, dockerfile: &Path) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Context { path: root.to_owned(), source };
        if !root.metadata().map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        let mut own = dockerfile.file_name().unwrap_or_default().to_owned();
        own.push(".dockerignore");
        for path in [dockerfile.with_file_name(own), root.join(".dockerignore")] {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok(Self { root: root.to_owned(), ignore: Ignore::parse(&text) }),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(BuildError::Context { path, source }),
            }
        }
        Ok(Self { root: root.to_owned(), ignore: Ignore::default() })
    }

    /// Where a source is on the host.
    pub fn host(&self, source: &Source) -> PathBuf {
        self.root.join(&source.path)
    }

    /// What a source of COPY means: one thing, or for a pattern all that fit, by name. Never nothing.
    pub fn find(&self, wanted: &str) -> Result<Vec<Source>, Problem> {
        let mut parts: Vec<&str> = Vec::new();
        for part in wanted.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if part != ".." {
                parts.push(part);
            } else if parts.pop().is_none() {
                return Err(self.outside(wanted));
            }
        }
        let mut found = Vec::new();
        let mut ignored = false;
        for path in self.expand(PathBuf::new(), &parts, wanted)? {
            let Some(source) = self.look(&path, wanted)? else { continue };
            if self.is_there(&source) {
                found.push(source);
            } else {
                ignored = true;
            }
        }
        if found.is_empty() {
            return Err(Problem::NotInContext { path: wanted.to_owned(), context: self.root.clone(), ignored });
        }
        Ok(found)
    }

    /// What a directory holds, by name.
    pub fn children(&self, dir: &Source) -> Result<Vec<Source>, Problem> {
        let mut children = Vec::new();
        for name in self.names(&dir.path)? {
            let path = dir.path.join(&name);
            let host = self.root.join(&path);
            let meta = host.symlink_metadata().map_err(Problem::read(host))?;
            let ignored = self.ignores(&path);
            let child = Source { path, name, meta, ignored };
            if self.is_there(&child) {
                children.push(child);
            }
        }
        Ok(children)
    }

    fn is_there(&self, source: &Source) -> bool {
        !source.ignored || (source.meta.is_dir() && self.ignore.has_exceptions())
    }

    fn ignores(&self, path: &Path) -> bool {
        self.ignore.ignores(&path.to_string_lossy())
    }

    /// The paths below `dir` that fit the components of a pattern.
    fn expand(&self, dir: PathBuf, parts: &[&str], wanted: &str) -> Result<Vec<PathBuf>, Problem> {
        let Some((first, parts)) = parts.split_first() else { return Ok(vec![dir]) };
        if !glob::is_pattern(first) {
            return self.expand(dir.join(first), parts, wanted);
        }
        let Some(source) = self.look(&dir, wanted)?.filter(|source| source.meta.is_dir()) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for name in self.names(&source.path)? {
            if glob::matches(first, &name.to_string_lossy()) {
                found.extend(self.expand(dir.join(name), parts, wanted)?);
            }
        }
        Ok(found)
    }

    /// What is at a path, following links, the last one too. `None` is nothing.
    fn look(&self, path: &Path, wanted: &str) -> Result<Option<Source>, Problem> {
        let mut ahead = Vec::new();
        push_components(&mut ahead, path);
        let (mut at, mut links) = (PathBuf::new(), 0);
        while let Some(name) = ahead.pop() {
            if name == ".." {
                if !at.pop() {
                    return Err(self.outside(wanted));
                }
                continue;
            }
            let host = self.root.join(&at).join(&name);
            match host.symlink_metadata() {
                Ok(meta) if meta.is_symlink() => {}
                Ok(_) => {
                    at.push(name);
                    continue;
                }
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
                Err(e) => return Err(Problem::read(host)(e)),
            }
            links += 1;
            let target = std::fs::read_link(&host).map_err(Problem::read(&host))?;
            if target.is_absolute() || links > MOST_LINKS {
                return Err(self.outside(wanted));
            }
            push_components(&mut ahead, &target);
        }
        let host = self.root.join(&at);
        let meta = host.metadata().map_err(Problem::read(host))?;
        let ignored = self.ignores(path) || self.ignores(&at);
        let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
        Ok(Some(Source { path: at, name, meta, ignored }))
    }

    fn names(&self, dir: &Path) -> Result<Vec<OsString>, Problem> {
        let host = self.root.join(dir);
        let read = || -> std::io::Result<Vec<OsString>> {
            std::fs::read_dir(&host)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let mut names = read().map_err(Problem::read(&host))?;
        names.sort();
        Ok(names)
    }

    fn outside(&self, wanted: &str) -> Problem {
        Problem::OutsideContext { path: wanted.to_owned(), context: self.root.clone() }
    }
}
