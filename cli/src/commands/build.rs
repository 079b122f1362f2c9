//! `build`.

use crate::Context;
use crate::commands::{pull, words};
use crate::format::humanize::{SIZE_DIGITS, human_size, short_id};
use crate::settings::parse_labels;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::locate_in_image;
use sampan_runtime::guest::code;
use sampan_runtime::image::build::{BuildOptions, Progress, build, source_date};
use sampan_runtime::image::{Image, Images, Reference};
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
        let images = Images::new(&store);
        let known: Vec<String> = images.list()?.into_iter().map(|image| image.id).collect();
        // It gets its names when its program has compiled: a build that fails takes no name from another image.
        let options = BuildOptions {
            context: self.context,
            dockerfile: self.file,
            tags: vec![],
            labels: parse_labels(&self.label).into_iter().collect(),
            source_date: std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| source_date(&text)),
        };
        let image = build(&store, &options, &mut Steps { store: &store, quiet: self.quiet })?;
        if let Err(error) = compile(&store, &image, self.quiet) {
            if !known.contains(&image.id) {
                let _ = images.remove(&image.id, false, &|_| None);
            }
            return Err(error);
        }
        for tag in &tags {
            images.tag(&image, tag)?;
        }
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
fn compile(store: &Store, image: &Image, quiet: bool) -> Result<()> {
    let Some(program) = locate_in_image(store, image)? else {
        if let Some(named) = image
            .config
            .config()
            .as_ref()
            .and_then(|c| c.entrypoint().iter().chain(c.cmd().iter()).flatten().next().cloned())
        {
            bail!(
                "the image would run {named:?}, and there is no such file in it: COPY it, or correct ENTRYPOINT or CMD"
            );
        }
        // A base image: what is built on it says what to run.
        return Ok(());
    };
    let begun = Instant::now();
    let code = code::prepare(store, &program)?;
    if !quiet {
        let kind = code.description.kind;
        println!("Compiled {} ({kind}) in {:.1?}", program.file_name().unwrap_or_default().display(), begun.elapsed());
        if kind != sampan_runtime::guest::Kind::Module {
            println!("It can ask for: {}", code.description.imports.join(", "));
        }
    }
    Ok(())
}
