//! `builder prune`: what builds remember.

use crate::Context;
use crate::commands::filter::{self, Filters};
use crate::commands::prune::agreed;
use crate::format::humanize::{SIZE_DIGITS, age, human_size};
use crate::format::time::parse_since;
use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use sampan_runtime::image::{Images, Kept};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Manage what builds remember
#[derive(Debug, Args)]
pub struct BuilderArgs {
    #[command(subcommand)]
    command: BuilderCommand,
}

#[derive(Debug, Subcommand)]
enum BuilderCommand {
    /// Remove the steps of builds that no image has
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Remove all steps, and not only those that no image has
    #[arg(short, long)]
    all: bool,
    /// Remove what fits: until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl BuilderArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let BuilderCommand::Prune(args) = self.command;
        let store = context.store()?;
        let filters = Filters::parse(&args.filter, &["until"])?;
        let now = Timestamp::now();
        let until = filters.values("until").map(|text| parse_since(text, now)).collect::<Result<Vec<_>>>()?;
        let which = if args.all { "all build cache" } else { "all build cache that no image has" };
        if !args.force && !agreed(&format!("This will remove {which}."))? {
            return Ok(ExitCode::SUCCESS);
        }
        let used = |kept: &Kept| Timestamp::try_from(kept.used).unwrap_or(Timestamp::UNIX_EPOCH);
        let goes = |kept: &Kept, in_image: bool| (args.all || !in_image) && until.iter().all(|time| used(kept) < *time);
        let gone = Images::new(&store).prune_cache(&goes)?;
        let mut text = String::new();
        if !gone.is_empty() {
            let _ = writeln!(text, "ID\t\t\t\t\t\tRECLAIMABLE\tSIZE\t\tLAST ACCESSED");
        }
        let mut total: u64 = 0;
        for (kept, freed) in &gone {
            total = total.saturating_add(*freed);
            let id = kept.key.get(..25).unwrap_or(&kept.key);
            let size = human_size(kept.layer.as_ref().map_or(0, |layer| layer.size), SIZE_DIGITS);
            let _ = writeln!(text, "{id:<40}\t{}\t\t{size:<8}\t{}", *freed > 0, age(used(kept), now));
        }
        filter::print(&format!("{text}Total:\t{}\n", human_size(total, SIZE_DIGITS)))
    }
}
