//! COPY: files of the context → a layer.

use super::Problem;
use super::context::{Context, Source};
use super::stage::Stage;
use crate::image::entry::{self, Node};
use crate::image::layer::Plan;
use parse_dockerfile::CopyInstruction;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Docker's rules: a directory gives its content, a file itself. A file goes into the destination if that is, or by its
/// slash says that it shall be, a directory; else it becomes the destination.
pub(super) fn copy(stage: &Stage<'_>, context: &Context, i: &CopyInstruction<'_>) -> Result<Plan, Problem> {
    let mut sources = Vec::new();
    for source in &i.src {
        let parse_dockerfile::Source::Path(path) = source else {
            return Err(Problem::NotYet { what: "COPY <<EOF".to_owned() });
        };
        sources.extend(context.find(&stage.expand(&path.value)?)?);
    }
    let wanted = stage.expand(&i.dest.value)?;
    let place = entry::resolve(stage.dirs(), &stage.settings.absolute(&wanted), true)?;
    let as_dir = matches!(place.node, Node::Dir(_)) || matches!(wanted.rsplit('/').next(), Some("" | "." | ".."));
    if !as_dir && (i.src.len() > 1 || sources.len() > 1) {
        return Err(Problem::Syntax(format!(
            "COPY with several sources needs a directory to put them in; end the destination with a slash: {wanted}/"
        )));
    }
    let blocked = match place.node {
        Node::Blocked(path) => Some(path),
        Node::File(_) if as_dir || sources.iter().any(|source| source.meta.is_dir()) => Some(place.path.clone()),
        _ => None,
    };
    if let Some(path) = blocked {
        return Err(Problem::in_the_way(path));
    }

    let mut tree = Tree { context, below: stage.dirs(), plan: stage.plan() };
    for source in &sources {
        if source.meta.is_dir() {
            tree.plan.make_dirs(&place.path)?;
            tree.content(source, &place.path)?;
        } else if as_dir {
            tree.one(source, &place.path.join(&source.name))?;
        } else {
            tree.one(source, &place.path)?;
        }
    }
    Ok(tree.plan)
}

/// A tree on its way into a layer.
struct Tree<'a> {
    context: &'a Context,
    below: &'a [PathBuf],
    plan: Plan,
}

impl Tree<'_> {
    /// What a directory holds, put into a directory of the image.
    fn content(&mut self, dir: &Source, into: &Path) -> Result<(), Problem> {
        for child in self.context.children(dir)? {
            let path = into.join(&child.name);
            if !child.meta.is_dir() {
                self.one(&child, &path)?;
                continue;
            }
            let path = self.dir_at(path)?;
            // One that is left out and has exceptions appears only with what is kept.
            if !child.ignored {
                self.plan.dir(&path, &child.meta)?;
            }
            self.content(&child, &path)?;
        }
        Ok(())
    }

    fn one(&mut self, source: &Source, path: &Path) -> Result<(), Problem> {
        let host = self.context.host(source);
        if source.meta.is_file() {
            Ok(self.plan.file(path, &host, &source.meta)?)
        } else if source.meta.is_symlink() {
            Ok(self.plan.link(path, &host, &source.meta)?)
        } else {
            // Sockets, pipes and devices are no files to copy; Docker passes them over too.
            Ok(())
        }
    }

    /// Where a directory of that path goes: a link to a directory is followed, so that it is not hidden by a new one.
    fn dir_at(&self, path: PathBuf) -> Result<PathBuf, Problem> {
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
