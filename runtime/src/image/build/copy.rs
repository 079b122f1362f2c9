//! COPY and ADD: files of a tree, here-documents, and of ADD archives and remote files → a layer.

use super::add;
use super::context::{Context, Source};
use super::glob::Ignore;
use super::instruction::{Copy, Source as Wanted};
use super::lines::HereDoc;
use super::stage::Stage;
use super::{Problem, expand};
use crate::image::entry::{self, Node};
use crate::image::layer::Plan;
use crate::store::StoreError;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Something to copy, as it was found.
#[derive(Debug)]
enum Item {
    File(Source),
    /// A file that was made for this: its name, and where it is.
    Made {
        name: String,
        host: PathBuf,
    },
    /// An archive, whose content is copied and not itself.
    Archive(Source),
}

/// Docker's rules: a directory gives its content, a file itself. A file goes into the destination if that is, or by its
/// slash says that it shall be, a directory; else it becomes the destination.
pub(super) fn copy(stage: &Stage<'_>, context: &Context, i: &Copy) -> Result<Plan, Problem> {
    let mut items = Vec::new();
    for source in &i.sources {
        match source {
            Wanted::HereDoc(doc) => items.push(here_doc(stage, doc)?),
            Wanted::Path(path) => {
                let path = stage.expand(path)?;
                if i.keyword == "ADD" && add::is_remote(&path) {
                    let (name, host) = add::fetch(stage, &path, i.checksum.as_deref())?;
                    items.push(Item::Made { name, host });
                    continue;
                }
                for source in context.find(&path, i.parents)? {
                    let unpacks = i.keyword == "ADD" && i.unpack != Some(false) && source.meta.is_file();
                    items.push(match unpacks && add::is_archive(&source.host)? {
                        true => Item::Archive(source),
                        false => Item::File(source),
                    });
                }
            }
        }
    }
    if i.checksum.is_some() && !items.iter().all(|item| matches!(item, Item::Made { .. })) {
        return Err(Problem::Syntax("ADD --checksum is for remote files alone".to_owned()));
    }
    let wanted = stage.expand(&i.destination)?;
    if wanted.is_empty() {
        return Err(Problem::Syntax(format!("{} needs a destination, and this one is empty", i.keyword)));
    }
    // A layer that does not look at those below it is the same on top of any others.
    let below = if i.link { &[] } else { stage.dirs() };
    let place = entry::resolve(below, &stage.settings.absolute(&wanted), true)?;
    let as_dir = matches!(place.node, Node::Dir(_))
        || matches!(wanted.rsplit('/').next(), Some("" | "." | ".."))
        || i.parents
        || items.iter().any(|item| matches!(item, Item::Archive(_)));
    if !as_dir && (i.sources.len() > 1 || items.len() > 1) {
        return Err(Problem::Syntax(format!(
            "{} with several sources needs a directory to put them in; end the destination with a slash: {wanted}/",
            i.keyword
        )));
    }
    let is_dir = |item: &Item| matches!(item, Item::File(source) if source.meta.is_dir());
    let blocked = match place.node {
        Node::Blocked(path) => Some(path),
        Node::File(_) if as_dir || items.iter().any(is_dir) => Some(place.path.clone()),
        _ => None,
    };
    if let Some(path) = blocked {
        return Err(Problem::in_the_way(path));
    }

    let mut plan = Plan::new(below.to_vec(), stage.build.latest);
    if let Some(owner) = &i.chown {
        plan.set_owner(add::owner(stage, &stage.expand(owner)?)?);
    }
    if let Some(mode) = &i.chmod {
        plan.set_mode(octal(i.keyword, &stage.expand(mode)?)?);
    }
    let exclude = i.exclude.iter().map(|pattern| stage.expand(pattern)).collect::<Result<Vec<_>, _>>()?;
    let mut tree = Tree { context, below, plan, exclude: Ignore::parse(&exclude.join("\n")) };
    for item in &items {
        match item {
            Item::File(source) => {
                let into = if i.parents { place.path.join(parents(source, i)) } else { place.path.clone() };
                tree.add(source, &into, as_dir)?;
            }
            Item::Made { name, host } => {
                let path = if as_dir { place.path.join(name) } else { place.path.clone() };
                let meta = host.symlink_metadata().map_err(Problem::read(host))?;
                tree.plan.file(&path, host, &meta)?;
            }
            Item::Archive(source) => {
                tree.plan.make_dirs(&place.path)?;
                add::unpack(stage, &source.host, &place.path, &mut tree)?;
            }
        }
    }
    tree.plan.join_names();
    Ok(tree.plan)
}

/// All files of a tree.
pub(super) fn everything(tree: &Context) -> Result<Plan, Problem> {
    let mut whole = Tree { context: tree, below: &[], plan: Plan::new(Vec::new(), None), exclude: Ignore::default() };
    for source in tree.find("/", false)? {
        whole.content(&source, Path::new(""), "")?;
    }
    Ok(whole.plan)
}

/// What of a source's path is kept by `--parents`: the directories above it, from `/./` on if the pattern has that.
fn parents(source: &Source, i: &Copy) -> PathBuf {
    let pivot = i.sources.iter().find_map(|wanted| match wanted {
        Wanted::Path(path) => path.find("/./").and_then(|at| path.get(..at)),
        Wanted::HereDoc(_) => None,
    });
    let skipped =
        pivot.map_or(0, |pivot| Path::new(pivot).components().filter(|c| matches!(c, Component::Normal(_))).count());
    let kept: PathBuf = source.asked.components().skip(skipped).collect();
    match source.meta.is_dir() {
        true => kept,
        false => kept.parent().map(Path::to_owned).unwrap_or_default(),
    }
}

/// `755`, `0644`.
fn octal(keyword: &str, mode: &str) -> Result<u32, Problem> {
    let number = u32::from_str_radix(mode, 8).ok().filter(|number| *number <= 0o7777 && !mode.starts_with('+'));
    number.ok_or_else(|| {
        Problem::Syntax(format!("{keyword} --chmod={mode}: write the mode in octal digits, such as 644 or 0755"))
    })
}

/// A here-document as a file of the scratch directory.
fn here_doc(stage: &Stage<'_>, doc: &HereDoc) -> Result<Item, Problem> {
    let content = match doc.expand {
        true => expand::text(&doc.content, stage.build.escape, &|name| stage.variable(name))?,
        false => doc.content.clone(),
    };
    let host = stage.build.scratch("here");
    made(&host, content.as_bytes(), 0o644)?;
    Ok(Item::Made { name: doc.name.clone(), host })
}

/// Makes a file whose time says nothing of now.
pub(super) fn made(host: &Path, content: &[u8], mode: u32) -> Result<(), StoreError> {
    let make = || -> std::io::Result<()> {
        std::fs::write(host, content)?;
        std::fs::set_permissions(host, std::fs::Permissions::from_mode(mode))?;
        std::fs::File::options().write(true).open(host)?.set_modified(std::time::UNIX_EPOCH)
    };
    make().map_err(StoreError::io("write", host))
}

/// A tree on its way into a layer.
pub(super) struct Tree<'a> {
    context: &'a Context,
    below: &'a [PathBuf],
    pub plan: Plan,
    exclude: Ignore,
}

impl Tree<'_> {
    fn add(&mut self, source: &Source, into: &Path, as_dir: bool) -> Result<(), Problem> {
        if source.meta.is_dir() {
            self.plan.make_dirs(into)?;
            return self.content(source, into, "");
        }
        if self.exclude.ignores(&source.name.to_string_lossy()) {
            return Ok(());
        }
        self.one(source, &if as_dir { into.join(&source.name) } else { into.to_owned() })
    }

    /// What a directory holds, put into a directory of the image. `below` is its path below the source, for `--exclude`.
    fn content(&mut self, dir: &Source, into: &Path, below: &str) -> Result<(), Problem> {
        for child in self.context.children(dir)? {
            let below = format!("{below}{}", child.name.to_string_lossy());
            let excluded = self.exclude.ignores(&below);
            if excluded && !(child.meta.is_dir() && self.exclude.has_exceptions()) {
                continue;
            }
            let path = into.join(&child.name);
            if !child.meta.is_dir() {
                self.one(&child, &path)?;
                continue;
            }
            let path = self.dir_at(path)?;
            // One that is left out and has exceptions appears only with what is kept.
            if !child.ignored && !excluded {
                self.plan.dir(&path, &child.meta)?;
            }
            self.content(&child, &path, &format!("{below}/"))?;
        }
        Ok(())
    }

    fn one(&mut self, source: &Source, path: &Path) -> Result<(), Problem> {
        if source.meta.is_file() {
            Ok(self.plan.file(path, &source.host, &source.meta)?)
        } else if source.meta.is_symlink() {
            Ok(self.plan.link(path, &source.host, &source.meta)?)
        } else {
            // Sockets, pipes and devices are no files to copy; Docker passes them over too.
            Ok(())
        }
    }

    /// Where a directory of that path goes: a link to a directory is followed, so that it is not hidden by a new one.
    pub fn dir_at(&self, path: PathBuf) -> Result<PathBuf, Problem> {
        if self.plan.has_dir(&path) {
            return Ok(path);
        }
        let found = entry::resolve(self.below, &path, true)?;
        match found.node {
            Node::Dir(_) => Ok(found.path),
            Node::Missing if found.path.as_os_str().as_bytes() == path.as_os_str().as_bytes() => Ok(path),
            _ => Err(Problem::in_the_way(path)),
        }
    }
}
