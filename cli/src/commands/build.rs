//! `build`.

use crate::Context;
use crate::commands::{pull, words};
use crate::format::humanize::{SIZE_DIGITS, human_size, short_id};
use crate::settings::parse_labels;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::{locate_in_layers, program_of};
use sampan_runtime::guest::code::{self, CodeError};
use sampan_runtime::image::build::{BuildOptions, Progress, build_with, source_date};
use sampan_runtime::image::{Image, ImageConfiguration, Reference};
use sampan_runtime::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

// The arguments of `build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Name the image: name[:tag]
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// The Dockerfile; DIR/Dockerfile without it
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a label of the image (NAME=value)
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// The directory that COPY takes from
    #[arg(value_name = "DIR")]
    context: PathBuf,
}

impl BuildArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let begun = Instant::now();
        let store = context.store()?;
        let tags = self.tag.iter().map(|tag| tag.parse::<Reference>()).collect::<Result<Vec<_>, _>>()?;
        let options = BuildOptions {
            context: self.context,
            dockerfile: self.file,
            tags: tags.clone(),
            labels: parse_labels(&self.label).into_iter().collect(),
            source_date: std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| source_date(&text)),
        };
        // Its program is compiled before the image is there: a build that fails takes no name from another image.
        let image = build_with(&store, &options, &mut Steps { store: &store, quiet: self.quiet }, |config, layers| {
            compile(&store, config, layers, self.quiet)
        })?;
        if self.quiet {
            println!("{}", image.id);
            return Ok(ExitCode::SUCCESS);
        }
        println!("Built {} ({}) in {:.1?}", short_id(&image.id), human_size(image.size, SIZE_DIGITS), begun.elapsed());
        for tag in &tags {
            println!("Tagged {}", tag.familiar());
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct Steps<'a> {
    store: &'a Store,
    quiet: bool,
}

impl Progress for Steps<'_> {
    fn step(&mut self, index: usize, total: usize, instruction: &str) {
        if !self.quiet {
            println!("[{index}/{total}] {instruction}");
        }
    }

    fn pull(&mut self, name: &str) -> Result<Image, String> {
        pull::bring(self.store, name, None, self.quiet).map_err(|error| words(&error))
    }
}

/// Compiles the image's program now, so that no start has to, and says what it can ask for.
fn compile(store: &Store, config: &ImageConfiguration, layers: &[PathBuf], quiet: bool) -> Result<()> {
    let Some(program) = locate_in_layers(config, layers)? else {
        if let Some(named) = program_of(config) {
            bail!(
                "the image would run {named:?}, and there is no such file in it: COPY it, or correct ENTRYPOINT or CMD"
            );
        }
        // A base image: what is built on it says what to run.
        return Ok(());
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
        println!("Compiled {} ({kind}) in {:.1?}", program.file_name().unwrap_or_default().display(), begun.elapsed());
        if kind != sampan_runtime::guest::Kind::Module {
            println!("It can ask for: {}", code.description.imports.join(", "));
        }
    }
    Ok(())
}
