//! What a container has written and how it was run → an image, on top of the image that it was made of.

use super::builder::apply_setting;
use super::instruction::Instruction;
use super::settings::Settings;
use super::stage::{Build, Stage};
use super::{BuildError, BuildOptions, Problem, dockerfile, settings};
use crate::image::{Image, Reference, copied, upper};
use crate::store::Store;
use oci_spec::image::{Config, ImageConfiguration};
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
    let options = BuildOptions { no_cache: true, ..BuildOptions::default() };
    let build = Build::new(store, &options, &scratch, '\\');
    let mut stage = Stage::new(&build, String::new());
    let names = image.names.clone();
    fill(&mut stage, base, image, written).map_err(said_by_user)?;
    ready(&stage.image_config()?, stage.dirs())?;
    Ok(stage.finish(&names)?)
}

fn fill(stage: &mut Stage<'_>, base: Option<Image>, image: Committed, written: &Written) -> Result<(), Problem> {
    if let Some(base) = base {
        stage.start_from(base)?;
    }
    // What the OCI specification does not know of is the image's below.
    let rest = std::mem::take(&mut stage.settings.rest);
    let config = serde_json::to_value(&image.config).unwrap_or_default();
    stage.settings = Settings { rest, ..config.as_object().map(Settings::of).unwrap_or_default() };
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
    let steps = parsed.stages.first().map(|stage| stage.steps.as_slice()).unwrap_or_default();
    if parsed.stages.len() > 1 {
        return Err(not_here(change, "FROM"));
    }
    if steps.is_empty() {
        return Err(Problem::Syntax(format!("--change {change:?} is no instruction")));
    }
    for step in steps {
        match &step.instruction {
            Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Env(_)
            | Instruction::Expose(_)
            | Instruction::HealthCheck(_)
            | Instruction::Label(_)
            | Instruction::OnBuild(_)
            | Instruction::StopSignal(_)
            | Instruction::User(_)
            | Instruction::Volume(_) => apply_setting(stage, &step.instruction)?,
            Instruction::Workdir(path) => {
                if let Some(made) = settings::workdir(stage, path)? {
                    stage.record(&step.text, Some(made))?;
                }
            }
            _ => return Err(not_here(change, step.text.split_whitespace().next().unwrap_or_default())),
        }
    }
    Ok(())
}

fn not_here(change: &str, word: &str) -> Problem {
    Problem::Syntax(format!(
        "--change {change:?}: {word} cannot be done to a container; what can is CMD, ENTRYPOINT, ENV, EXPOSE, \
         HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR"
    ))
}

/// No Dockerfile is at fault, so there is no line to name.
fn said_by_user(problem: Problem) -> BuildError {
    match problem {
        Problem::Image(e) => e.into(),
        Problem::Store(e) => e.into(),
        problem => BuildError::Commit { problem },
    }
}
