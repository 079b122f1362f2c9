//! `commit` and `export`: what a container has made of its image.

use crate::Context;
use crate::commands::exchange::{compile, write_archive};
use crate::commands::filter;
use anyhow::Result;
use clap::{ArgAction, Args};
use sampan_runtime::container::{self, CommitSettings, Frozen};
use sampan_runtime::image::Reference;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make an image of a container
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Whose work the image is
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Do an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A word on the image, for its history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let a running container stand still meanwhile
    #[arg(
        short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        require_equals = true, action = ArgAction::Set
    )]
    pause: bool,
    /// Name or id
    container: String,
    /// Name the image: name[:tag]
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<Reference>,
}

/// Write a container's files into a tar archive
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    container: String,
}

impl CommitArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        let name = self.reference.as_ref().map_or_else(|| "the image".to_owned(), Reference::familiar);
        let settings = CommitSettings {
            names: self.reference.into_iter().collect(),
            author: self.author,
            message: self.message,
            changes: self.change,
        };
        let still = if self.pause { Frozen::freeze(&store, &found)? } else { None };
        let image = container::commit(&store, &found, settings, |config, layers| {
            // All that was written is taken.
            drop(still);
            compile(&store, &name, config, layers).map(drop)
        })?;
        filter::print(&format!("{}\n", image.id))
    }
}

impl ExportArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        write_archive(self.output.as_deref(), "export", |out| Ok(container::export(&store, &found, out)?))
    }
}
