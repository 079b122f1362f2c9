//! `push` and `tag`.

use crate::Context;
use crate::commands::progress::Bars;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::image::push::{Progress, push};
use sampan_runtime::image::{Images, Reference};
use sampan_runtime::registry::{Registries, Uploaded};
use sampan_runtime::store::Store;
use std::process::ExitCode;
use std::sync::Arc;

// The arguments of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Push every tag that the repository has here
    #[arg(short, long)]
    all_tags: bool,
    /// Print the image's name and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

// The arguments of `tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image, by name or id
    #[arg(value_name = "IMAGE")]
    source: String,
    /// What it is to be called too
    #[arg(value_name = "NAME[:TAG]")]
    target: Reference,
}

impl PushArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let given: Reference = self.name.parse()?;
        let has_tag = self.name.rsplit('/').next().unwrap_or_default().contains(':');
        if self.all_tags && has_tag {
            bail!("--all-tags pushes every tag: name the repository without one");
        }
        let names = if self.all_tags { all_tags(&store, &given)? } else { vec![given.clone()] };
        if !self.quiet {
            println!("The push refers to repository [{}/{}]", given.domain(), given.path());
            if !has_tag && !self.all_tags && given.digest().is_none() {
                println!("Using default tag: {}", given.tag().unwrap_or_default());
            }
        }
        let registries = Registries::from_env();
        for name in names {
            let progress: Arc<dyn Progress> = if self.quiet { Arc::new(Silent) } else { Arc::new(Blobs::default()) };
            let pushed = push(&store, &registries, &name, &progress)?;
            drop(progress);
            match self.quiet {
                true => println!("{name}"),
                false => {
                    println!("{}: digest: {} size: {}", name.tag().unwrap_or_default(), pushed.digest, pushed.size);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn all_tags(store: &Store, repository: &Reference) -> Result<Vec<Reference>> {
    let images = Images::new(store).list()?;
    let names = images.into_iter().flat_map(|image| image.names);
    let mut names: Vec<Reference> =
        names.filter(|name| name.same_repository(repository) && name.digest().is_none()).collect();
    names.sort();
    if names.is_empty() {
        bail!("no image here has a tag of {}: see `sampan images`", repository.repository());
    }
    Ok(names)
}

impl TagArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let images = Images::new(&store);
        images.tag(&images.find(&self.source)?, &self.target)?;
        Ok(ExitCode::SUCCESS)
    }
}

struct Silent;

impl Progress for Silent {
    fn wanted(&self, _digest: &str, _size: u64) {}
    fn sent(&self, _digest: &str, _bytes: u64) {}
    fn done(&self, _digest: &str, _how: Uploaded, _source: Option<&str>) {}
}

/// Shows how a push goes on: bars on a terminal, a line for each blob elsewhere.
#[derive(Default)]
struct Blobs {
    bars: Bars,
}

impl Progress for Blobs {
    fn wanted(&self, digest: &str, size: u64) {
        self.bars.begin(digest, size);
        if self.bars.is_terminal() {
            self.bars.say(digest, "Pushing", false);
        }
    }

    fn sent(&self, digest: &str, bytes: u64) {
        self.bars.more(digest, bytes);
    }

    fn done(&self, digest: &str, how: Uploaded, source: Option<&str>) {
        let words = match how {
            Uploaded::Existed => "Layer already exists".to_owned(),
            Uploaded::Mounted => format!("Mounted from {}", source.unwrap_or_default()),
            Uploaded::Sent => "Pushed".to_owned(),
        };
        self.bars.say(digest, &words, true);
    }
}
