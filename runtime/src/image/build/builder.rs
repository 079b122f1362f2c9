//! The way of a build: what is needed is made, stage after stage, step after step.

use super::bases::{self, NamedContext};
use super::context::Context;
use super::dockerfile::{self, Dockerfile, StageText, Step};
use super::instruction::{self, Instruction};
use super::stage::{Build, Stage};
use super::stages::{Origin, Stages};
use super::{BuildError, BuildOptions, Platform, Problem, Progress, StepInfo, copy, expand, lines, run, settings};
use crate::image::images::as_name;
use crate::image::layer::Plan;
use crate::image::{Image, ImageConfiguration, Images};
use crate::store::Store;
use std::path::{Path, PathBuf};

/// What a stage has come to.
#[derive(Debug)]
enum Made<'a> {
    NotYet,
    Stage(Box<Stage<'a>>),
    /// A directory that the user gave in its place.
    Tree(Context),
}

/// Who ended a build: the builder, or whoever was to look at the image.
#[derive(Debug)]
pub(super) enum Stopped<E> {
    Build(BuildError),
    Ready(E),
}

impl<E, T: Into<BuildError>> From<T> for Stopped<E> {
    fn from(error: T) -> Self {
        Self::Build(error.into())
    }
}

/// Looks at the image before it is there.
type Ready<'r, E> = dyn FnMut(&ImageConfiguration, &[PathBuf]) -> Result<(), E> + 'r;

/// See [`super::build_with`].
pub(super) fn build<E>(
    store: &Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    ready: &mut Ready<'_, E>,
) -> Result<Image, Stopped<E>> {
    if options.always_pull && options.pull.is_none() {
        return Err(BuildError::CannotPull.into());
    }
    let (parsed, path) = read(options)?;
    let context = Context::open(&options.context, path.as_deref())?;
    options.tags.iter().try_for_each(|tag| as_name(tag).map(drop))?;

    let scratch = store.scratch()?;
    let mut shared = Build::new(store, options, &scratch, parsed.escape);
    for step in &parsed.globals {
        let Instruction::Arg(args) = &step.instruction else { continue };
        for (name, default) in args {
            let declared = shared.args.declare_global(name, default.as_deref(), parsed.escape);
            declared.map_err(|problem| step.failed(problem))?;
        }
    }
    let shared = shared;
    let stages = Stages { dockerfile: &parsed, contexts: &options.contexts, args: &shared.args, store };
    let target = stages.target(options.target.as_deref())?;
    let order = stages.needed(target)?;
    // Before anything is done: nobody wants to wait for nine steps to be told that the tenth cannot be.
    for index in &order {
        let stage = parsed.stages.get(*index).filter(|_| stages.replaced(*index).is_none());
        stage.into_iter().flat_map(|stage| &stage.steps).try_for_each(|step| check(&shared, step))?;
    }
    let mut builder = Builder {
        build: &shared,
        context: &context,
        made: parsed.stages.iter().map(|_| Made::NotYet).collect(),
        several: order.len() > 1,
        stages,
        progress,
    };
    for index in order {
        builder.make(index)?;
    }
    let stage = builder.finish(target)?;
    ready(&stage.image_config()?, stage.dirs()).map_err(Stopped::Ready)?;
    let image = stage.finish(&options.tags)?;
    if shared.fresh.get() {
        // The image is there, whatever becomes of what is not needed any more.
        let _ = Images::new(store).limit_cache();
    }
    Ok(image)
}

/// The Dockerfile, and where it lies if it is a file.
fn read(options: &BuildOptions) -> Result<(Dockerfile, Option<PathBuf>), BuildError> {
    if let Some(text) = &options.text {
        return Ok((dockerfile::parse(text, Path::new("-"))?, None));
    }
    let path = options.dockerfile.clone().unwrap_or_else(|| options.context.join("Dockerfile"));
    let shown = options.dockerfile.as_deref().unwrap_or(Path::new("Dockerfile"));
    Ok((dockerfile::parse(&dockerfile::read(&path)?, shown)?, Some(path)))
}

/// Refuses what this version cannot do.
fn check(build: &Build<'_>, step: &Step) -> Result<(), BuildError> {
    let not_yet = |what: String| Err(step.failed(Problem::NotYet { what }));
    match &step.instruction {
        Instruction::Run(run) if !run.mounts.is_empty() => not_yet("RUN --mount".to_owned()),
        Instruction::Run(run) if run.security.as_deref().is_some_and(|s| s != "sandbox") => {
            not_yet("RUN --security other than sandbox".to_owned())
        }
        Instruction::Copy(copy) if copy.keyword == "ADD" && build.options.fetch.is_none() => {
            let remote = copy.sources.iter().find_map(|source| match source {
                instruction::Source::Path(path) if super::add::is_remote(path) => Some(path),
                _ => None,
            });
            remote.map_or(Ok(()), |url| {
                let reason = "this version cannot fetch files; fetch it into the context and COPY it".to_owned();
                Err(step.failed(Problem::Remote { url: url.clone(), reason }))
            })
        }
        _ => Ok(()),
    }
}

struct Builder<'a, 'p> {
    build: &'a Build<'a>,
    context: &'a Context,
    stages: Stages<'a>,
    made: Vec<Made<'a>>,
    /// Whether several stages are built, so that their names matter.
    several: bool,
    progress: &'p mut dyn Progress,
}

impl<'a> Builder<'a, '_> {
    /// Makes a stage; those that it needs are there.
    fn make(&mut self, index: usize) -> Result<(), BuildError> {
        let dockerfile = self.stages.dockerfile;
        let Some(text) = dockerfile.stages.get(index) else { return Ok(()) };
        let made = match self.stages.replaced(index) {
            Some(NamedContext::Dir(dir)) => Made::Tree(Context::open(&dir, None)?),
            Some(NamedContext::Image(name)) => {
                let mut stage = Stage::new(self.build, dockerfile.stage_name(index));
                let base = self.image(text, &name).map_err(|problem| text.begin.failed(problem))?;
                stage.start_from(base).map_err(|problem| text.begin.failed(problem))?;
                Made::Stage(Box::new(stage))
            }
            None => Made::Stage(Box::new(self.stage(index, text)?)),
        };
        if let Some(place) = self.made.get_mut(index) {
            *place = made;
        }
        Ok(())
    }

    fn stage(&mut self, index: usize, text: &StageText) -> Result<Stage<'a>, BuildError> {
        let name = self.stages.dockerfile.stage_name(index);
        let total = text.steps.len() + 1;
        self.tell(&name, 1, total, &text.begin.text);
        let at_begin = |problem| text.begin.failed(problem);
        let mut stage = self.begin(index, text, name.clone()).map_err(at_begin)?;
        for trigger in stage.settings.take_triggers() {
            self.tell(&name, 1, total, &format!("ONBUILD {trigger}"));
            let statement = lines::one(&trigger).map_err(at_begin)?;
            let step = Step::of(&statement, self.build.escape, text.begin.at.clone())?;
            check(self.build, &step)?;
            self.step(&mut stage, &step)?;
        }
        for (i, step) in text.steps.iter().enumerate() {
            self.tell(&name, i + 2, total, &step.text);
            self.step(&mut stage, step)?;
        }
        Ok(stage)
    }

    fn tell(&mut self, stage: &str, index: usize, total: usize, instruction: &str) {
        let instruction = instruction.lines().next().unwrap_or_default();
        self.progress.step(&StepInfo { stage: self.several.then_some(stage), index, total, instruction });
    }

    /// FROM.
    fn begin(&mut self, index: usize, text: &StageText, name: String) -> Result<Stage<'a>, Problem> {
        let mut stage = Stage::new(self.build, name.clone());
        match self.stages.base(index)? {
            Origin::Scratch => {}
            Origin::Stage(other) => match self.made.get(other) {
                Some(Made::Stage(other)) => stage = Stage::go_on(other, name),
                Some(Made::Tree(tree)) => self.fill(&mut stage, text, tree)?,
                _ => return Err(Problem::NoStage { name, known: self.stages.dockerfile.names() }),
            },
            Origin::Named(NamedContext::Dir(dir)) => {
                let tree = Context::open(&dir, None).map_err(|error| Problem::Syntax(error.to_string()))?;
                self.fill(&mut stage, text, &tree)?;
            }
            Origin::Named(NamedContext::Image(image)) | Origin::Image(image) => {
                stage.start_from(self.image(text, &image)?)?;
            }
        }
        Ok(stage)
    }

    /// Begins with the files of a directory that stands for an image.
    fn fill(&self, stage: &mut Stage<'a>, text: &StageText, tree: &Context) -> Result<(), Problem> {
        let plan = copy::copy(stage, tree, &instruction::Copy::everything())?;
        stage.record(&text.begin.text, Some(plan)).map(drop)
    }

    fn image(&self, text: &StageText, name: &str) -> Result<Image, Problem> {
        let platform = text.from.platform.as_ref();
        let global = |name: &str| self.build.args.global(name);
        let platform = platform.map(|platform| expand::word(platform, self.build.escape, &global)).transpose()?;
        if let Some(native) = platform.as_ref().filter(|platform| Platform::parse(platform).is_none()) {
            let what = format!("FROM --platform={native} asks for a native image");
            let stage = text.from.name.clone().unwrap_or_else(|| name.to_owned());
            return Err(Problem::Native { what, stage });
        }
        let hint = match text.steps.iter().any(|step| matches!(step.instruction, Instruction::Run(_))) {
            true => {
                let stage = text.from.name.as_deref().unwrap_or(name);
                format!(
                    "; if RUN of this stage is for native programs, build outside and COPY the result, or give it as a \
                     directory: --build-context {stage}=DIR"
                )
            }
            false => String::new(),
        };
        bases::find(self.build, name, platform.as_deref(), hint)
    }

    /// Does what an instruction says, and writes it into the image's history.
    fn step(&mut self, stage: &mut Stage<'a>, step: &Step) -> Result<(), BuildError> {
        let cached = self.apply(stage, step).map_err(|problem| step.failed(problem))?;
        if cached {
            self.progress.cached();
        }
        Ok(())
    }

    /// Whether the cache had it.
    fn apply(&mut self, stage: &mut Stage<'a>, step: &Step) -> Result<bool, Problem> {
        let added: Option<Plan> = match &step.instruction {
            Instruction::Run(i) => return self.run(stage, step, i),
            Instruction::Copy(i) => Some(self.copy(stage, i)?),
            Instruction::Workdir(path) => settings::workdir(stage, path)?,
            other => {
                apply_setting(stage, other)?;
                None
            }
        };
        stage.record(&step.text, added)
    }

    fn run(&mut self, stage: &mut Stage<'a>, step: &Step, i: &instruction::Run) -> Result<bool, Problem> {
        let prepared = run::prepare(stage, i)?;
        let key = run::key(stage, &prepared);
        if let Some(layer) = stage.cached(&key) {
            stage.put(&step.text, layer)?;
            return Ok(true);
        }
        let (plan, called) = run::run(stage, &prepared)?;
        if !called.is_empty() {
            self.progress.called(&called);
        }
        stage.add(&key, &step.text, &plan)?;
        Ok(false)
    }

    fn copy(&self, stage: &Stage<'a>, i: &instruction::Copy) -> Result<Plan, Problem> {
        let Some(from) = &i.from else { return copy::copy(stage, self.context, i) };
        let of_layers = |dirs: &[PathBuf], of: String| Context::of_layers(dirs.to_vec(), of);
        let found = match self.stages.origin(from)? {
            Origin::Stage(index) => match self.made.get(index) {
                Some(Made::Tree(tree)) => return copy::copy(stage, tree, i),
                Some(Made::Stage(other)) => of_layers(other.dirs(), format!("the stage {}", other.name)),
                // Only a trigger of ONBUILD can name what nobody knew of.
                _ => return Err(Problem::NoStage { name: from.clone(), known: self.stages.dockerfile.names() }),
            },
            Origin::Named(NamedContext::Dir(dir)) => {
                Context::open(&dir, None).map_err(|error| Problem::Syntax(error.to_string()))?
            }
            Origin::Named(NamedContext::Image(name)) | Origin::Image(name) => {
                let hint = format!("; the stages of this Dockerfile are {}", self.stages.dockerfile.names());
                let image = bases::find(self.build, &name, None, hint)?;
                of_layers(&Images::new(self.build.store).layer_dirs(&image)?, format!("the image {name}"))
            }
            Origin::Scratch => of_layers(&[], "scratch".to_owned()),
        };
        copy::copy(stage, &found, i)
    }

    /// The stage that becomes the image.
    fn finish(mut self, target: usize) -> Result<Stage<'a>, BuildError> {
        for name in self.build.args.unused() {
            self.progress.warn(&format!("the build argument {name} is used by no ARG of the stages that were built"));
        }
        let made = self.made.get_mut(target).map(|made| std::mem::replace(made, Made::NotYet));
        let mut stage = match made {
            Some(Made::Stage(stage)) => *stage,
            // The target itself was replaced by a directory: then that is the image.
            Some(Made::Tree(tree)) => {
                let mut stage = Stage::new(self.build, self.stages.dockerfile.stage_name(target));
                let Some(text) = self.stages.dockerfile.stages.get(target) else { return Err(BuildError::CannotPull) };
                self.fill(&mut stage, text, &tree).map_err(|problem| text.begin.failed(problem))?;
                stage
            }
            _ => Stage::new(self.build, String::new()),
        };
        stage.settings.labels.extend(self.build.options.labels.iter().cloned());
        Ok(stage)
    }
}

/// What an instruction that makes no files says.
pub(super) fn apply_setting(stage: &mut Stage<'_>, instruction: &Instruction) -> Result<(), Problem> {
    match instruction {
        Instruction::Arg(args) => settings::arg(stage, args)?,
        Instruction::Env(pairs) => settings::env(stage, pairs)?,
        Instruction::Label(pairs) => settings::label(stage, pairs)?,
        Instruction::Expose(ports) => settings::expose(stage, ports)?,
        Instruction::Volume(paths) => settings::volume(stage, paths)?,
        Instruction::User(user) => settings::user(stage, user)?,
        Instruction::StopSignal(signal) => settings::stop_signal(stage, signal)?,
        Instruction::Maintainer(name) => stage.author = Some(name.clone()),
        Instruction::Shell(words) => settings::shell(stage, words),
        Instruction::HealthCheck(check) => settings::health_check(stage, check),
        Instruction::Entrypoint(words) => settings::entrypoint(stage, words),
        Instruction::Cmd(words) => settings::cmd(stage, words),
        Instruction::OnBuild(trigger) => stage.settings.on_build(trigger),
        // These make files, and are done elsewhere.
        Instruction::From(_) | Instruction::Copy(_) | Instruction::Workdir(_) | Instruction::Run(_) => {}
    }
    Ok(())
}
