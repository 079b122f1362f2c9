//! `build`.

use crate::Context;
use crate::commands::output::Output;
use crate::commands::{pull, words};
use crate::format::humanize::{SIZE_DIGITS, human_size, short_id};
use crate::settings::parse_labels;
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use sampan_runtime::container::{locate_in_layers, program_of};
use sampan_runtime::grants::Rule;
use sampan_runtime::guest::Kind;
use sampan_runtime::guest::code::{self, Code, CodeError};
use sampan_runtime::image::build::{
    BuildOptions, Failure, Input, NamedContext, Platform, Progress, StepInfo, build_with, input, source_date,
};
use sampan_runtime::image::{Image, ImageConfiguration, Images, Reference};
use sampan_runtime::store::Store;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

// The arguments of `build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Name the image: name[:tag]
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// The Dockerfile; DIR/Dockerfile without it, - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set an ARG (NAME=value, or NAME to take it from here)
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Put a directory, or docker-image://IMAGE, in place of a stage or an image
    #[arg(long, value_name = "NAME=DIR")]
    build_context: Vec<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Set a label of the image (NAME=value)
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Let RUN call others than public addresses: all, HOST, *.SUFFIX, ADDRESS or CIDR, each with [:PORT]
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    allow_net: Vec<Rule>,
    /// What RUN may call unless it says so itself: default, which is public addresses, or none
    #[arg(long, default_value = "default", value_name = "NETWORK")]
    network: RunNetwork,
    /// Do every step anew
    #[arg(long)]
    no_cache: bool,
    /// Write what was built: type=local|tar|oci|docker|artifact,dest=PATH, or only a directory
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,
    /// What the image is for: wasip1/wasm, wasip2/wasm or wasi/wasm; told from its program without it
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// How to show what is done
    #[arg(long, default_value = "auto", value_name = "HOW")]
    progress: Shown,
    /// Pull the images that FROM names even when they are here
    #[arg(long)]
    pull: bool,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Build this stage and what it needs; the last without it
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// The directory that COPY takes from; - is a tar archive, or a Dockerfile alone, on standard input
    #[arg(value_name = "DIR")]
    context: PathBuf,
}

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    /// A line a step
    Auto,
    /// The same
    Plain,
    /// As --quiet
    Quiet,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RunNetwork {
    /// Public addresses
    Default,
    /// Nothing
    None,
}

impl BuildArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let begun = Instant::now();
        let store = context.store()?;
        let outputs = self.output.iter().map(|output| output.parse()).collect::<Result<Vec<Output>>>()?;
        // What is on standard output may be an archive, and then it is nothing else.
        let to_stdout = outputs.iter().any(Output::is_standard_output);
        let quiet = self.quiet || self.progress == Shown::Quiet || to_stdout;
        let (options, _input) = self.options(&store, quiet)?;
        // Whoever wants files and gives no name wants no image, but for one that was there before.
        let passing = !outputs.is_empty() && options.tags.is_empty();
        let known = if passing { Images::new(&store).list()? } else { Vec::new() };
        // Its program is compiled before the image is there: a build that fails takes no name from another image.
        let mut program = None;
        let image = build_with(&store, &options, &mut Steps { quiet }, |config, layers| {
            program = compile(&store, config, layers, quiet)?;
            anyhow::Ok(())
        })?;
        if let Some(file) = &self.iidfile {
            std::fs::write(file, &image.id).with_context(|| format!("cannot write {}", file.display()))?;
        }
        for output in &outputs {
            let program = program.as_ref().map(|(path, code)| (path.as_path(), code));
            output.write(&store, &image, &options.tags, program)?;
        }
        if passing && !known.iter().any(|before| before.id == image.id) {
            Images::new(&store).discard(&image)?;
        }
        if quiet {
            if !to_stdout {
                println!("{}", image.id);
            }
            return Ok(ExitCode::SUCCESS);
        }
        summary(&image, &options.tags, begun, &outputs);
        Ok(ExitCode::SUCCESS)
    }

    /// The options that the flags say, and what came on standard input, which must live as long as they.
    fn options(&self, store: &Store, quiet: bool) -> Result<(BuildOptions, Option<Input>)> {
        let from_input = |what: &Path| what == Path::new("-");
        let (mut text, mut input_) = (None, None);
        let mut place = self.context.clone();
        if from_input(&self.context) {
            if self.file.as_deref().is_some_and(from_input) {
                bail!("standard input cannot be both the context and the Dockerfile: give one of them by its path");
            }
            let given = input(store, std::io::stdin().lock())?;
            place = given.context();
            text.clone_from(&given.text);
            input_ = Some(given);
        } else if !place.exists() && place.to_str().is_some_and(|p| p.contains("://") || p.starts_with("git@")) {
            bail!("the context must be a directory, or - for standard input: clone or fetch {} first", place.display());
        }
        let mut dockerfile = self.file.clone();
        if self.file.as_deref().is_some_and(from_input) {
            let mut given = String::new();
            std::io::stdin()
                .lock()
                .read_to_string(&mut given)
                .context("cannot read the Dockerfile on standard input")?;
            (text, dockerfile) = (Some(given), None);
        } else if let (Some(file), Some(_)) = (&self.file, &input_) {
            // The path is one of the archive.
            dockerfile = Some(place.join(file.strip_prefix("/").unwrap_or(file)));
        }
        let args = self.build_arg.iter().filter_map(|arg| match arg.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => Some((arg.clone(), std::env::var(arg).ok()?)),
        });
        let args: Vec<(String, String)> = args.collect();
        let epoch = args.iter().rev().find(|(name, _)| name == "SOURCE_DATE_EPOCH").map(|(_, value)| value.clone());
        let epoch = epoch.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok());
        let options = BuildOptions {
            context: std::path::absolute(&place).unwrap_or(place),
            dockerfile,
            text,
            target: self.target.clone(),
            args,
            contexts: self.build_context.iter().map(|given| named(given)).collect::<Result<_>>()?,
            tags: self.tag.iter().map(|tag| tag.parse::<Reference>()).collect::<Result<_, _>>()?,
            labels: parse_labels(&self.label).into_iter().collect(),
            platform: self.platform.as_deref().map(platform).transpose()?,
            no_cache: self.no_cache,
            quiet,
            always_pull: self.pull,
            pull: Some(if self.pull { pull_anew } else { bring }),
            egress: self.allow_net.clone().into(),
            offline: self.network == RunNetwork::None,
            fetch: Some(fetch),
            source_date: epoch.and_then(|text| source_date(&text)),
        };
        Ok((options, input_))
    }
}

/// An image that `FROM` names and that is not here.
fn bring(store: &Store, name: &str, platform: Option<&str>) -> Result<Image, Failure> {
    pull::bring(store, name, platform, false).map_err(|error| words(&error).into())
}

/// The same for `--pull`: what is here is looked for again at its registry.
fn pull_anew(store: &Store, name: &str, platform: Option<&str>) -> Result<Image, Failure> {
    pull::bring(store, name, platform, true).map_err(|error| words(&error).into())
}

/// A file that ADD names by its address.
fn fetch(url: &str, into: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(sampan_runtime::registry::fetch(url, into))?)
}

/// `NAME=DIR`, `NAME=docker-image://IMAGE`.
fn named(given: &str) -> Result<(String, NamedContext)> {
    let Some((name, value)) = given.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
    else {
        bail!("--build-context {given}: write NAME=DIR or NAME=docker-image://IMAGE");
    };
    let context = match value.strip_prefix("docker-image://") {
        Some(image) => NamedContext::Image(image.to_owned()),
        None if value.contains("://") => {
            bail!("--build-context {given}: it can be a directory or docker-image://IMAGE; fetch others first")
        }
        None => NamedContext::Dir(PathBuf::from(value)),
    };
    Ok((name.to_owned(), context))
}

fn platform(given: &str) -> Result<Platform> {
    match Platform::parse(given) {
        Some(platform) => Ok(platform),
        None => bail!("--platform {given}: images are for wasip1/wasm, wasip2/wasm or wasi/wasm, one at a time"),
    }
}

fn summary(image: &Image, tags: &[Reference], begun: Instant, outputs: &[Output]) {
    let layers = match image.layers.len() {
        1 => "1 layer".to_owned(),
        n => format!("{n} layers"),
    };
    let size = human_size(image.size, SIZE_DIGITS);
    println!("Built {} ({size}, {layers}) in {:.1?}", short_id(&image.id), begun.elapsed());
    for tag in tags {
        println!("Tagged {}", tag.familiar());
    }
    for output in outputs {
        println!("Wrote {output}");
    }
}

struct Steps {
    quiet: bool,
}

impl Progress for Steps {
    fn step(&mut self, step: &StepInfo<'_>) {
        if !self.quiet {
            let stage = step.stage.map(|stage| format!("{stage} ")).unwrap_or_default();
            println!("[{stage}{}/{}] {}", step.index, step.total, step.instruction);
        }
    }

    fn cached(&mut self) {
        if !self.quiet {
            println!(" => CACHED");
        }
    }

    fn called(&mut self, whom: &[String]) {
        if !self.quiet {
            println!(" => called {}", whom.join(", "));
        }
    }

    fn warn(&mut self, warning: &str) {
        eprintln!("sampan: warning: {warning}");
    }
}

/// Compiles the image's program now, so that no start has to, and says what it can ask for. `None` is an image without
/// one.
fn compile(
    store: &Store,
    config: &ImageConfiguration,
    layers: &[PathBuf],
    quiet: bool,
) -> Result<Option<(PathBuf, Code)>> {
    let Some(program) = locate_in_layers(config, layers)? else {
        if let Some(named) = program_of(config) {
            bail!(
                "the image would run {named:?}, and there is no such file in it: COPY it, or correct ENTRYPOINT or CMD"
            );
        }
        // A base image: what is built on it says what to run.
        return Ok(None);
    };
    let begun = Instant::now();
    // The file lies where nobody will find it again; its user knows it by the Dockerfile's word.
    let code = code::prepare(store, &program).map_err(|error| match error {
        CodeError::Compile { source, .. } => {
            CodeError::Compile { path: program_of(config).unwrap_or_default().into(), source }
        }
        other => other,
    })?;
    if !quiet {
        let kind = code.description.kind;
        let name = program.file_name().unwrap_or_default().display();
        let size =
            |meta: std::io::Result<std::fs::Metadata>| human_size(meta.map_or(0, |meta| meta.len()), SIZE_DIGITS);
        let (wasm, native) = (size(program.metadata()), size(code.file.metadata()));
        println!("Compiled {name} ({kind}, {wasm} of Wasm, {native} of code) in {:.1?}", begun.elapsed());
        if kind != Kind::Module {
            println!("It can ask for: {}", code.description.imports.join(", "));
        }
    }
    Ok(Some((program, code)))
}
