//! What COPY takes from: a build context, or the layers of a stage or an image. Of a context nothing outside can be
//! reached, by `..` or by a link, and what `.dockerignore` names is not there; an image's paths are what they are within
//! it.

use super::glob::{self, Ignore};
use super::{BuildError, Problem};
use crate::image::entry::{self, MOST_LINKS, Node, push_components};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A tree that COPY takes from.
#[derive(Debug)]
pub(super) struct Context {
    place: Place,
    ignore: Ignore,
}

#[derive(Debug)]
enum Place {
    /// A directory of the host.
    Dir(PathBuf),
    /// The directories of layers, topmost first, and whose they are.
    Layers { dirs: Vec<PathBuf>, of: String },
}

/// Something in the tree.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it is in the tree; links on the way are followed.
    pub path: PathBuf,
    /// As it was found, links and all.
    pub asked: PathBuf,
    /// Where it is on the host.
    pub host: PathBuf,
    /// The name that it keeps when put into a directory.
    pub name: OsString,
    pub meta: Metadata,
    /// A directory that `.dockerignore` leaves out, with exceptions that may lie in it.
    pub ignored: bool,
}

impl Context {
    /// Opens the context. Its `.dockerignore` is the Dockerfile's own (`NAME.dockerignore` beside it) or else the
    /// context's.
    pub fn open(root: &Path, dockerfile: Option<&Path>) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Context { path: root.to_owned(), source };
        if !root.metadata().map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        let place = Place::Dir(root.to_owned());
        let own = dockerfile.map(|dockerfile| {
            let mut own = dockerfile.file_name().unwrap_or_default().to_owned();
            own.push(".dockerignore");
            dockerfile.with_file_name(own)
        });
        for path in own.into_iter().chain([root.join(".dockerignore")]) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok(Self { place, ignore: Ignore::parse(&text) }),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(BuildError::Context { path, source }),
            }
        }
        Ok(Self { place, ignore: Ignore::default() })
    }

    /// The files of a stage or an image, by its layers' directories, topmost first.
    pub fn of_layers(dirs: Vec<PathBuf>, of: String) -> Self {
        Self { place: Place::Layers { dirs, of }, ignore: Ignore::default() }
    }

    /// What a source of COPY means: one thing, or for a pattern all that fit, by name. Never nothing. With `any_depth`
    /// the component `**` is any number of directories.
    pub fn find(&self, wanted: &str, any_depth: bool) -> Result<Vec<Source>, Problem> {
        let mut parts: Vec<&str> = Vec::new();
        for part in wanted.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if part != ".." {
                parts.push(part);
            } else if parts.pop().is_none() && matches!(self.place, Place::Dir(_)) {
                return Err(self.outside(wanted));
            }
        }
        let mut found = Vec::new();
        let mut ignored = false;
        for path in self.expand(PathBuf::new(), &parts, wanted, any_depth)? {
            let Some(source) = self.look(&path, wanted)? else { continue };
            if self.is_there(&source) {
                found.push(source);
            } else {
                ignored = true;
            }
        }
        if found.is_empty() {
            return Err(Problem::NotInContext { path: wanted.to_owned(), context: self.name(), ignored });
        }
        Ok(found)
    }

    /// What a directory holds, by name.
    pub fn children(&self, dir: &Source) -> Result<Vec<Source>, Problem> {
        let mut children = Vec::new();
        for name in self.names(&dir.path)? {
            let path = dir.path.join(&name);
            let Some(host) = self.host_of(&path)? else { continue };
            let meta = host.symlink_metadata().map_err(Problem::read(&host))?;
            let ignored = self.ignores(&path);
            let child = Source { asked: dir.asked.join(&name), path, host, name, meta, ignored };
            if self.is_there(&child) {
                children.push(child);
            }
        }
        Ok(children)
    }

    /// Where something of the tree is on the host; its directories are no links.
    fn host_of(&self, path: &Path) -> Result<Option<PathBuf>, Problem> {
        let dirs = match &self.place {
            Place::Dir(root) => return Ok(Some(root.join(path))),
            Place::Layers { dirs, .. } => dirs,
        };
        Ok(match entry::resolve(dirs, path, false)?.node {
            Node::Dir(merged) => merged.into_iter().next(),
            Node::File(host) | Node::Link { host, .. } => Some(host),
            Node::Missing | Node::Blocked(_) => None,
        })
    }

    fn is_there(&self, source: &Source) -> bool {
        !source.ignored || (source.meta.is_dir() && self.ignore.has_exceptions())
    }

    fn ignores(&self, path: &Path) -> bool {
        self.ignore.ignores(&path.to_string_lossy())
    }

    /// The paths below `dir` that fit the components of a pattern.
    fn expand(&self, dir: PathBuf, parts: &[&str], wanted: &str, deep: bool) -> Result<Vec<PathBuf>, Problem> {
        let Some((first, rest)) = parts.split_first() else { return Ok(vec![dir]) };
        if !glob::is_pattern(first) {
            return self.expand(dir.join(first), rest, wanted, deep);
        }
        let Some(source) = self.look(&dir, wanted)?.filter(|source| source.meta.is_dir()) else {
            return Ok(Vec::new());
        };
        let any_depth = deep && *first == "**";
        let mut found = if any_depth { self.expand(dir.clone(), rest, wanted, deep)? } else { Vec::new() };
        for name in self.names(&source.path)? {
            if any_depth {
                // A link to a directory would be gone through for ever, or twice.
                let host = self.host_of(&source.path.join(&name))?;
                if host.is_some_and(|host| host.symlink_metadata().is_ok_and(|meta| meta.is_dir())) {
                    found.extend(self.expand(dir.join(name), parts, wanted, deep)?);
                }
            } else if glob::matches(first, &name.to_string_lossy()) {
                found.extend(self.expand(dir.join(name), rest, wanted, deep)?);
            }
        }
        Ok(found)
    }

    /// What is at a path, following links, the last one too. `None` is nothing.
    fn look(&self, path: &Path, wanted: &str) -> Result<Option<Source>, Problem> {
        let found = match &self.place {
            Place::Dir(root) => self.look_in_dir(root, path, wanted)?,
            Place::Layers { dirs, .. } => {
                let found = entry::resolve(dirs, path, true)?;
                match found.node {
                    Node::Dir(merged) => merged.into_iter().next().map(|host| (found.path, host)),
                    Node::File(host) => Some((found.path, host)),
                    _ => None,
                }
            }
        };
        let Some((at, host)) = found else { return Ok(None) };
        let meta = host.symlink_metadata().map_err(Problem::read(&host))?;
        let ignored = self.ignores(path) || self.ignores(&at);
        let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
        Ok(Some(Source { path: at, asked: path.to_owned(), host, name, meta, ignored }))
    }

    /// A path of a directory: without links, and where that is on the host.
    fn look_in_dir(&self, root: &Path, path: &Path, wanted: &str) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
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
            let host = root.join(&at).join(&name);
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
        let host = root.join(&at);
        // The root itself may be reached through a link.
        let host = if at.as_os_str().is_empty() { host.join(".") } else { host };
        Ok(Some((at, host)))
    }

    /// The names in a directory of the tree, sorted.
    fn names(&self, dir: &Path) -> Result<Vec<OsString>, Problem> {
        let mut names = BTreeSet::new();
        let merged = match &self.place {
            Place::Dir(root) => vec![root.join(dir)],
            Place::Layers { dirs, .. } => entry::directories_at(dirs, dir)?,
        };
        for host in merged {
            let read = || -> std::io::Result<Vec<OsString>> {
                std::fs::read_dir(&host)?.map(|entry| Ok(entry?.file_name())).collect()
            };
            names.extend(read().map_err(Problem::read(&host))?);
        }
        Ok(names.into_iter().collect())
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        match &self.place {
            Place::Dir(root) => format!("the build context {}", root.display()),
            Place::Layers { of, .. } => of.clone(),
        }
    }

    fn outside(&self, wanted: &str) -> Problem {
        Problem::OutsideContext { path: wanted.to_owned(), context: self.name() }
    }
}
