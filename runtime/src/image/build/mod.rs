//! Building: a Dockerfile and a directory of files → an image.
//!
//! ```text
//! dockerfile  the text → steps: instructions with their place in the file
//! expand      words, quotes and $VARIABLES
//! context     the directory that COPY takes from: nothing outside of it, nothing that .dockerignore names
//! glob        the patterns of COPY and .dockerignore
//! settings    ENV, WORKDIR, EXPOSE, LABEL, VOLUME, ENTRYPOINT, CMD
//! copy        COPY
//! commit      what a container has written → an image
//! stage       what the instructions so far have made; at the end, the image
//! ```
//!
//! An instruction is a function that takes its arguments and the `Stage`, and changes the settings or returns the files
//! of a new layer. A new one needs its function and a line in `apply` and `check`. Everything is made in a scratch
//! directory, so that a build that fails or is killed has changed nothing.

pub(crate) mod commit;
mod context;
mod copy;
mod dockerfile;
mod error;
mod expand;
mod glob;
mod settings;
mod stage;

#[cfg(test)]
mod tests;

use super::images::as_name;
use super::layer::Plan;
use super::{Image, ImageConfiguration, ImageError, Images, Reference};
use crate::store::{Scratch, Store};
use context::Context;
use dockerfile::Step;
use parse_dockerfile::{FromInstruction, Instruction};
use stage::Stage;
use std::path::{Path, PathBuf};

pub use error::{BuildError, Location, Problem};

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The directory that COPY takes from.
    pub context: PathBuf,
    /// The Dockerfile; `Dockerfile` in the context if not said.
    pub dockerfile: Option<PathBuf>,
    /// What the image shall be called. Without a name it can be found by its id.
    pub tags: Vec<Reference>,
    /// Labels that are set after those of the Dockerfile.
    pub labels: Vec<(String, String)>,
    /// The time that the image bears instead of now, and the latest that a file in it may bear: with the same sources
    /// and this, a build gives the same image on any machine. See [`source_date`].
    pub source_date: Option<jiff::Timestamp>,
}

/// The time that `SOURCE_DATE_EPOCH` gives, as <https://reproducible-builds.org/specs/source-date-epoch/> has it: a
/// whole number of seconds since 1970. `None` if the text is not that.
#[must_use]
pub fn source_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(text.parse().ok()?).ok()
}

/// Is told how a build goes on.
pub trait Progress {
    /// Instruction `index` of `total`, counted from one, begins.
    fn step(&mut self, index: usize, total: usize, instruction: &str);

    /// Gets an image that `FROM` names and that is not here. Without this there is no way to.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn pull(&mut self, name: &str) -> Result<Image, String> {
        Err(format!("there is no image {name} here; build or pull it first"))
    }
}

/// Tells nobody.
impl Progress for () {
    fn step(&mut self, _index: usize, _total: usize, _instruction: &str) {}
}

/// Builds an image and gives it its names.
///
/// # Errors
/// When the Dockerfile or the context is not as it should be, or the store cannot be written. Then no image was made and
/// none has lost its name.
pub fn build(store: &Store, options: &BuildOptions, progress: &mut dyn Progress) -> Result<Image, BuildError> {
    build_with(store, options, progress, |_, _| Ok(()))
}

/// The same, and `ready` sees the image's config and its layers' directories (topmost first) before anybody else can:
/// what it refuses is not made, and nobody can take away an image that has no name yet.
///
/// # Errors
/// As [`build`], and what `ready` says.
pub fn build_with<E: From<BuildError>>(
    store: &Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    ready: impl FnOnce(&ImageConfiguration, &[PathBuf]) -> Result<(), E>,
) -> Result<Image, E> {
    let scratch = store.scratch().map_err(BuildError::from)?;
    let stage = run(store, options, progress, &scratch)?;
    ready(&stage.config()?, stage.dirs())?;
    Ok(stage.finish(&options.tags)?)
}

/// Does all instructions.
fn run<'s>(
    store: &'s Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    scratch: &'s Scratch,
) -> Result<Stage<'s>, BuildError> {
    let path = options.dockerfile.clone().unwrap_or_else(|| options.context.join("Dockerfile"));
    let shown = options.dockerfile.as_deref().unwrap_or(Path::new("Dockerfile"));
    let text = dockerfile::read(&path)?;
    let context = Context::open(&options.context, &path)?;
    let parsed = dockerfile::parse(&text, shown)?;
    let steps = dockerfile::steps(&parsed, &text, shown);
    // Before anything is done: nobody wants to wait for nine steps to be told that the tenth cannot be.
    options.tags.iter().try_for_each(|tag| as_name(tag).map(drop))?;
    for (i, step) in steps.iter().enumerate() {
        check(step, i == 0).map_err(|problem| step.failed(problem))?;
    }

    let mut stage = Stage::new(store, scratch, options, dockerfile::escape(&parsed));
    for (i, step) in steps.iter().enumerate() {
        progress.step(i + 1, steps.len(), &step.text);
        apply(step, &mut stage, &context, progress).map_err(|problem| step.failed(problem))?;
    }
    stage.settings.labels.extend(options.labels.iter().cloned());
    Ok(stage)
}

/// Refuses what this version cannot do.
fn check(step: &Step<'_, '_>, first: bool) -> Result<(), Problem> {
    let not_yet = |what: &str| Err(Problem::NotYet { what: what.to_owned() });
    let flag = |name: &str| not_yet(&format!("{} --{name}", step.keyword));
    match step.instruction {
        Instruction::From(i) => match i.options.first() {
            Some(option) => flag(&option.name.value),
            None if first => Ok(()),
            None => not_yet("a second FROM (a build in several stages)"),
        },
        Instruction::Copy(i) => match i.options.first() {
            Some(option) => flag(&option.name.value),
            None if i.src.iter().any(|s| matches!(s, parse_dockerfile::Source::HereDoc(_))) => not_yet("COPY <<EOF"),
            None => Ok(()),
        },
        Instruction::Env(_)
        | Instruction::Workdir(_)
        | Instruction::Expose(_)
        | Instruction::Label(_)
        | Instruction::Volume(_)
        | Instruction::Entrypoint(_)
        | Instruction::Cmd(_) => Ok(()),
        _ => not_yet(step.keyword),
    }
}

/// Does what an instruction says, and writes it into the image's history.
fn apply(
    step: &Step<'_, '_>,
    stage: &mut Stage<'_>,
    context: &Context,
    progress: &mut dyn Progress,
) -> Result<(), Problem> {
    let added: Option<Plan> = match step.instruction {
        // The history of the image below is the image's history so far, so this leaves no line of its own.
        Instruction::From(i) => return from(stage, i, progress),
        Instruction::Copy(i) => Some(copy::copy(stage, context, i)?),
        Instruction::Workdir(i) => settings::workdir(stage, i)?,
        Instruction::Env(i) => settings::env(stage, i).map(|()| None)?,
        Instruction::Expose(i) => settings::expose(stage, i).map(|()| None)?,
        Instruction::Label(i) => settings::label(stage, i).map(|()| None)?,
        Instruction::Volume(i) => settings::volume(stage, i).map(|()| None)?,
        Instruction::Entrypoint(i) => {
            settings::entrypoint(stage, i);
            None
        }
        Instruction::Cmd(i) => {
            settings::cmd(stage, i);
            None
        }
        _ => return Err(Problem::NotYet { what: step.keyword.to_owned() }),
    };
    stage.record(&step.text, added)
}

/// `FROM scratch` or `FROM image`.
fn from(stage: &mut Stage<'_>, from: &FromInstruction<'_>, progress: &mut dyn Progress) -> Result<(), Problem> {
    // Only ARG gives this line variables.
    let name = expand::word(&from.image.value, stage.escape, &|_| None)?;
    match name.as_str() {
        "" => Err(Problem::Syntax(format!("FROM {} names no image", from.image.value))),
        "scratch" => Ok(()),
        name => {
            let base = match Images::new(stage.store).find(name) {
                Err(ImageError::NotFound { .. }) => {
                    progress.pull(name).map_err(|reason| Problem::NoBase { name: name.to_owned(), reason })?
                }
                other => other?,
            };
            stage.start_from(base)
        }
    }
}
