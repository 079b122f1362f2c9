//! What a container has written and how it was run → an image, on top of the image that it was made of.

use super::stage::Stage;
use super::{BuildError, BuildOptions, Problem, dockerfile, settings};
use crate::image::build::settings::Settings;
use crate::image::{Image, Reference, copied, upper};
use crate::store::Store;
use oci_spec::image::{Config, ImageConfiguration};
use parse_dockerfile::Instruction;
use std::path::{Path, PathBuf};

/// What the image shall be.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// What it shall be called.
    pub names: Vec<Reference>,
    /// Whose work it is.
    pub author: Option<String>,
    /// A word on it, for its history.
    pub message: Option<String>,
    /// What the container ran, for its history.
    pub created_by: String,
    /// How the container was run.
    pub config: Config,
    /// Instructions of a Dockerfile that are done last.
    pub changes: Vec<String>,
}

/// Where what the container has written lies.
#[derive(Debug)]
pub(crate) enum Written {
    /// The upper directory of an overlay.
    Upper(PathBuf),
    /// A directory into which these layers (topmost first) were copied before.
    Copy(PathBuf, Vec<PathBuf>),
}

/// Makes the image. `ready` sees its config and its layers' directories (topmost first) before anybody else can: what it
/// refuses is not made.
///
/// # Errors
/// When a change is no instruction that can be done here, a file cannot be read, or the store cannot be written.
pub(crate) fn commit<E: From<BuildError>>(
    store: &Store,
    base: Option<Image>,
    image: Committed,
    written: &Written,
    ready: impl FnOnce(&ImageConfiguration, &[PathBuf]) -> Result<(), E>,
) -> Result<Image, E> {
    let scratch = store.scratch().map_err(BuildError::from)?;
    let mut stage = Stage::new(store, &scratch, &BuildOptions::default(), '\\');
    let names = image.names.clone();
    fill(&mut stage, base, image, written).map_err(said_by_user)?;
    ready(&stage.config()?, stage.dirs())?;
    Ok(stage.finish(&names)?)
}

fn fill(stage: &mut Stage<'_>, base: Option<Image>, image: Committed, written: &Written) -> Result<(), Problem> {
    if let Some(base) = base {
        stage.start_from(base)?;
    }
    stage.settings = Settings::from(&image.config);
    let plan = match written {
        Written::Upper(dir) => upper::changes(dir, None)?,
        Written::Copy(copy, layers) => copied::changes(copy, layers)?,
    };
    stage.record(&image.created_by, Some(plan))?;
    stage.sign(image.author, image.message);
    image.changes.iter().try_for_each(|change| apply(stage, change))
}

/// Does what `--change` says: an instruction that changes how the image is run.
fn apply(stage: &mut Stage<'_>, change: &str) -> Result<(), Problem> {
    let text = format!("FROM scratch\n{change}\n");
    let shown = Path::new("--change");
    let words = |e: BuildError| match e {
        BuildError::At { problem, .. } => Problem::Syntax(format!("--change {change:?}: {problem}")),
        other => Problem::Syntax(format!("--change {change:?}: {other}")),
    };
    let parsed = dockerfile::parse(&text, shown).map_err(words)?;
    let steps = dockerfile::steps(&parsed, &text, shown);
    if steps.len() < 2 {
        return Err(Problem::Syntax(format!("--change {change:?} is no instruction")));
    }
    for step in steps.iter().skip(1) {
        match step.instruction {
            Instruction::Cmd(i) => settings::cmd(stage, i),
            Instruction::Entrypoint(i) => settings::entrypoint(stage, i),
            Instruction::Env(i) => settings::env(stage, i)?,
            Instruction::Expose(i) => settings::expose(stage, i)?,
            Instruction::Label(i) => settings::label(stage, i)?,
            Instruction::User(i) => stage.settings.user = Some(stage.expand(&i.arguments.value)?),
            Instruction::Volume(i) => settings::volume(stage, i)?,
            Instruction::Workdir(i) => {
                if let Some(made) = settings::workdir(stage, i)? {
                    stage.record(&step.text, Some(made))?;
                }
            }
            _ => {
                return Err(Problem::Syntax(format!(
                    "--change {change:?}: {} cannot be done to a container; what can is CMD, ENTRYPOINT, ENV, EXPOSE, \
                     LABEL, USER, VOLUME and WORKDIR",
                    step.keyword
                )));
            }
        }
    }
    Ok(())
}

/// No Dockerfile is at fault, so there is no line to name.
fn said_by_user(problem: Problem) -> BuildError {
    match problem {
        Problem::Image(e) => e.into(),
        Problem::Store(e) => e.into(),
        problem => BuildError::Commit { problem },
    }
}
