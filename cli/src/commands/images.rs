//! `images` and `rmi`.

use crate::Context;
use crate::commands::filter::{self, Filters, glob};
use crate::format::humanize::{self, SIZE_DIGITS};
use crate::format::{Column, Listing};
use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use sampan_runtime::container;
use sampan_runtime::image::{Image, ImageError, Images, Reference};
use sampan_runtime::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// List images
#[derive(Debug, Default, Args)]
pub struct ImagesArgs {
    /// Show all images; without it too, as there are no intermediate ones to hide
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show what fits: before, dangling, label, reference or since
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only images of this name, which can have wildcards
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Remove images
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Remove all names of an image that is given by its id, or of one that containers use
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

const IMAGES: Listing = Listing::new(
    "ID",
    &[
        Column::shown("Repository", "REPOSITORY"),
        Column::shown("Tag", "TAG"),
        Column::hidden("Digest", "DIGEST"),
        Column::shown("ID", "IMAGE ID"),
        Column::shown("CreatedSince", "CREATED"),
        Column::shown("Size", "SIZE"),
        Column::hidden("CreatedAt", "CREATED AT"),
        Column::hidden("Containers", "CONTAINERS"),
        Column::hidden("SharedSize", "SHARED SIZE"),
        Column::hidden("UniqueSize", "UNIQUE SIZE"),
        Column::hidden("VirtualSize", "SIZE"),
    ],
);

/// Docker's word for what a listing does not say.
const NOT_SAID: &str = "N/A";

impl ImagesArgs {
    pub fn run(mut self, context: &Context) -> Result<ExitCode> {
        // Docker's own reading of it.
        self.filter.extend(self.reference.take().map(|name| format!("reference={name}")));
        let rows = self.rows(&context.store()?, Timestamp::now())?;
        let listing = if self.digests { IMAGES.also(&["Digest"]) } else { IMAGES };
        filter::print(&listing.render(&rows, self.format.as_deref(), self.quiet)?)
    }

    fn rows(&self, store: &Store, now: Timestamp) -> Result<Vec<Value>> {
        let filters = Filters::parse(&self.filter, &["before", "dangling", "label", "reference", "since"])?;
        let dangling = filters.flag("dangling")?;
        let images = Images::new(store);
        let made = |key| filters.values(key).map(|name| Ok(images.find(name)?.created())).collect::<Result<Vec<_>>>();
        let (before, since) = (made("before")?, made("since")?);
        let mut rows = Vec::new();
        for image in images.list()? {
            let fits = dangling.is_none_or(|dangling| dangling == image.names.is_empty())
                && (before.is_empty() || before.iter().any(|time| image.created() < *time))
                && (since.is_empty() || since.iter().any(|time| image.created() > *time))
                && (!filters.has("label") || filters.labels(&labels(&image)));
            if fits {
                let named = |name: &Reference| filters.any("reference", |pattern| is_called(name, pattern));
                let shown = image.names.iter().filter(|name| named(name));
                rows.extend(shown.map(|name| self.row(&image, Some(name), now)));
                if image.names.is_empty() && !filters.has("reference") {
                    rows.push(self.row(&image, None, now));
                }
            }
        }
        Ok(rows)
    }

    fn row(&self, image: &Image, name: Option<&Reference>, now: Timestamp) -> Value {
        let none = || "<none>".to_owned();
        let size = humanize::human_size(image.size, SIZE_DIGITS);
        let (since, at) = match image.created() {
            Some(created) => (humanize::age(created, now), humanize::created_at(created)),
            None => (NOT_SAID.to_owned(), NOT_SAID.to_owned()),
        };
        json!({
            "Repository": name.map_or_else(none, Reference::repository),
            "Tag": name.and_then(Reference::tag).map_or_else(none, str::to_owned),
            "Digest": image.manifest,
            "ID": if self.no_trunc { &image.id } else { image.short_id() },
            "CreatedSince": since,
            "CreatedAt": at,
            "Size": size,
            "VirtualSize": size,
            "Containers": NOT_SAID,
            "SharedSize": NOT_SAID,
            "UniqueSize": NOT_SAID,
        })
    }
}

/// Whether a name is what a pattern means: with its tag or without.
fn is_called(name: &Reference, pattern: &str) -> bool {
    glob(pattern, &name.familiar()) || glob(pattern, &name.repository())
}

fn labels(image: &Image) -> BTreeMap<String, String> {
    let config = image.config.config().as_ref();
    config.and_then(|config| config.labels().clone()).unwrap_or_default().into_iter().collect()
}

impl RmiArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let (mut text, mut code) = (String::new(), ExitCode::SUCCESS);
        for name in &self.images {
            match Images::new(&store).remove(name, self.force, &|image| user_of(&store, image)) {
                Ok(removed) => {
                    text.extend(removed.untagged.iter().map(|name| format!("Untagged: {name}\n")));
                    text.extend(removed.deleted.iter().map(|id| format!("Deleted: {id}\n")));
                }
                Err(error) => {
                    eprintln!("sampan: {error}");
                    // With -f it is enough that it is gone, as with Docker.
                    if !(self.force && matches!(error, ImageError::NotFound { .. })) {
                        code = ExitCode::FAILURE;
                    }
                }
            }
        }
        filter::print(&text)?;
        Ok(code)
    }
}

/// A container that is made of the image, running or not. It looks anew each time, since what it says decides about a
/// removal while containers may be made.
fn user_of(store: &Store, image: &Image) -> Option<String> {
    match container::list(store) {
        Ok(all) => {
            let user = all.into_iter().find(|container| container.record.image_id == image.id)?;
            Some(container::id::short(&user.record.id).to_owned())
        }
        // What cannot be known must not be lost.
        Err(error) => Some(format!("(unknown: {error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_meant_with_and_without_its_tag() {
        let web: Reference = "ghcr.io/me/web:1.2".parse().unwrap();
        for pattern in ["ghcr.io/me/web", "ghcr.io/me/web:1.2", "ghcr.io/*/w*", "*/*/*:1*"] {
            assert!(is_called(&web, pattern), "{pattern}");
        }
        for pattern in ["web", "*", "ghcr.io/me/web:1", "*/web"] {
            assert!(!is_called(&web, pattern), "{pattern}");
        }
    }

    #[test]
    fn every_row_has_every_key_of_the_listing() {
        let image = Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            manifest: format!("sha256:{}", "cd".repeat(32)),
            names: vec!["web".parse().unwrap()],
            health: None,
            config: Default::default(),
            layers: vec![],
            size: 1234,
        };
        let row = ImagesArgs::default().row(&image, image.names.first(), Timestamp::now());
        for column in IMAGES.columns {
            assert!(row.get(column.key).is_some_and(Value::is_string), "{}", column.key);
        }
        assert_eq!(
            (&row["Repository"], &row["Tag"], &row["ID"]),
            (&json!("web"), &json!("latest"), &json!("abababababab"))
        );
        assert_eq!(ImagesArgs::default().row(&image, None, Timestamp::now())["Tag"], "<none>");
    }
}
