//! `history`.

use crate::Context;
use crate::commands::filter;
use crate::format::humanize::{self, SIZE_DIGITS};
use crate::format::text::ellipsis;
use crate::format::{Column, Listing};
use anyhow::Result;
use clap::{ArgAction, Args};
use jiff::Timestamp;
use sampan_runtime::image::{Image, Images};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Show how an image was made, the last step first
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print sizes and times for people, not for programs
    #[arg(
        short = 'H', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        require_equals = true, action = ArgAction::Set
    )]
    human: bool,
    /// Show whole ids and instructions
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Name or id
    image: String,
}

const HISTORY: Listing = Listing::new(
    "ID",
    &[
        Column::shown("ID", "IMAGE"),
        Column::shown("CreatedSince", "CREATED"),
        Column::hidden("CreatedAt", "CREATED AT"),
        Column::shown("CreatedBy", "CREATED BY"),
        Column::shown("Size", "SIZE"),
        Column::shown("Comment", "COMMENT"),
    ],
);

/// As Docker says it of the steps below the last, which are no images of their own.
const MISSING: &str = "<missing>";
/// The width of an instruction in the table.
const WIDTH: usize = 45;

impl HistoryArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let image = Images::new(&context.store()?).find(&self.image)?;
        let rows = self.rows(&image, Timestamp::now());
        filter::print(&HISTORY.render(&rows, self.format.as_deref(), self.quiet)?)
    }

    fn rows(&self, image: &Image, now: Timestamp) -> Vec<Value> {
        let lines = image.config.history().clone().unwrap_or_default();
        let mut layers = image.layers.iter();
        let mut rows: Vec<Value> = Vec::new();
        for line in &lines {
            // Lines and layers stand in the same order, and a line says whether it has a layer.
            let size = match line.empty_layer() {
                Some(true) => 0,
                _ => layers.next().map_or(0, |layer| layer.size),
            };
            rows.push(self.row(
                line.created().as_deref(),
                line.created_by().as_deref(),
                size,
                line.comment().as_deref(),
                now,
            ));
        }
        // What a tool has added without a word on it.
        rows.extend(layers.map(|layer| self.row(None, None, layer.size, None, now)));
        rows.reverse();
        if let Some(id) = rows.first_mut().and_then(|row| row.get_mut("ID")) {
            *id = if self.no_trunc { image.id.as_str() } else { image.short_id() }.into();
        }
        rows
    }

    fn row(&self, created: Option<&str>, by: Option<&str>, size: u64, comment: Option<&str>, now: Timestamp) -> Value {
        let created = created.and_then(|time| time.parse::<Timestamp>().ok());
        let at = created.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
        let since = created.map(|time| humanize::age(time, now)).unwrap_or_else(|| "N/A".to_owned());
        let by = by.unwrap_or_default().replace(['\t', '\n'], " ");
        json!({
            "ID": MISSING,
            "CreatedSince": if self.human { since } else { at.clone() },
            "CreatedAt": at,
            "CreatedBy": if self.no_trunc { by } else { ellipsis(&by, WIDTH) },
            "Size": if self.human { humanize::human_size(size, SIZE_DIGITS) } else { size.to_string() },
            "Comment": comment.unwrap_or_default(),
        })
    }
}
