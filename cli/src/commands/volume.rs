//! `volume`: making, listing and removing volumes.

use crate::Context;
use crate::commands::filter::{self, Filters, fits_name};
use crate::commands::prune::agreed;
use crate::commands::{for_each, inspect};
use crate::format::{Column, Listing, humanize};
use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_runtime::container::volumes::{self, Volume};
use sampan_runtime::container::{self, ContainerError};
use sampan_runtime::store::{Store, files};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::ExitCode;

/// Manage volumes
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make a volume; one that is there already is left as it is
    Create(CreateArgs),
    /// Show everything known of volumes
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove volumes that no container uses
    Prune(PruneArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A label, which `ls --filter label=...` finds
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Its name; without one it is anonymous
    volume: Option<String>,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Show what fits: dangling, label or name
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Remove those with a name too
    #[arg(short, long)]
    all: bool,
    /// Remove what fits: label
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// Be content if there is no such volume
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

const VOLUMES: Listing = Listing::new(
    "Name",
    &[
        Column::shown("Driver", "DRIVER"),
        Column::shown("Name", "VOLUME NAME"),
        Column::hidden("Labels", "LABELS"),
        Column::hidden("Links", "LINKS"),
        Column::hidden("Mountpoint", "MOUNTPOINT"),
        Column::hidden("Scope", "SCOPE"),
        Column::hidden("Size", "SIZE"),
    ],
);

impl VolumeArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        match self.command {
            VolumeCommand::Create(args) => args.run(&store),
            VolumeCommand::Inspect(args) => inspect::print(&args.volumes, args.format.as_deref(), |name| {
                Ok(describe(&store, &volumes::inspect(&store, name)?))
            }),
            VolumeCommand::Ls(args) => args.run(&store),
            VolumeCommand::Prune(args) => args.run(&store),
            VolumeCommand::Rm(args) => for_each(&args.volumes, |name| match volumes::remove(&store, name) {
                Err(ContainerError::NoVolume(_)) if args.force => Ok(()),
                other => Ok(other?),
            }),
        }
    }
}

/// A volume in Docker's shape.
pub fn describe(store: &Store, volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.data(store),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

impl CreateArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        let label = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        let labels = self.label.iter().map(label).collect();
        let (volume, _) = volumes::create(store, self.volume.as_deref().filter(|name| !name.is_empty()), labels)?;
        filter::print(&format!("{}\n", volume.name))
    }
}

impl LsArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &["dangling", "label", "name"])?;
        let dangling = filters.flag("dangling")?;
        let used = if dangling.is_some() { used(store)? } else { HashSet::new() };
        let fits = |volume: &Volume| {
            dangling.is_none_or(|dangling| dangling != used.contains(&volume.name))
                && filters.labels(&volume.labels)
                && filters.any("name", |pattern| fits_name(pattern, &volume.name))
        };
        let found = volumes::list(store)?.into_iter().filter(fits);
        let rows: Vec<Value> = found.map(|volume| row(store, &volume)).collect();
        filter::print(&VOLUMES.render(&rows, self.format.as_deref(), self.quiet)?)
    }
}

fn row(store: &Store, volume: &Volume) -> Value {
    json!({
        "Driver": "local",
        "Name": volume.name,
        "Labels": filter::label_text(&volume.labels),
        "Label": volume.labels,
        "Links": "N/A",
        "Mountpoint": volume.data(store),
        "Scope": "local",
        "Size": "N/A",
    })
}

/// The names of the volumes that containers mount.
fn used(store: &Store) -> Result<HashSet<String>> {
    let mounts = container::list(store)?.into_iter().flat_map(|container| container.record.mounts);
    Ok(mounts.map(|mount| mount.name).collect())
}

impl PruneArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &["label"])?;
        let which = if self.all { "all" } else { "anonymous" };
        let what = format!("This will remove {which} local volumes not used by at least one container.");
        if !self.force && !agreed(&what)? {
            return Ok(ExitCode::SUCCESS);
        }
        let (names, freed) = prune(store, |volume| (self.all || volume.anonymous) && filters.labels(&volume.labels))?;
        let deleted = match names.as_slice() {
            [] => String::new(),
            names => format!("Deleted Volumes:\n{}\n\n", names.join("\n")),
        };
        filter::print(&format!("{deleted}Total reclaimed space: {}\n", humanize::human_size(freed, 4)))
    }
}

/// Removes volumes that no container uses and that `goes` picks. Gives their names, and how much they held.
pub fn prune(store: &Store, goes: impl Fn(&Volume) -> bool) -> Result<(Vec<String>, u64)> {
    let used = used(store)?;
    let (mut names, mut freed) = (Vec::new(), 0u64);
    for volume in volumes::list(store)?.into_iter().filter(|volume| !used.contains(&volume.name) && goes(volume)) {
        let size = files::tree_size(&volume.data(store));
        match volumes::remove(store, &volume.name) {
            Ok(()) => {
                freed = freed.saturating_add(size);
                names.push(volume.name);
            }
            // Somebody has removed it or begun to use it since.
            Err(ContainerError::NoVolume(_) | ContainerError::VolumeInUse { .. } | ContainerError::VolumeWanted(_)) => {
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((names, freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_every_key_of_the_listing_and_dockers_shape() {
        let dir = std::env::temp_dir().join(format!("sampan-volume-{}", std::process::id()));
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let labels = [("a".to_owned(), "b".to_owned())].into();
        let (volume, _) = volumes::create(&store, Some("data"), labels).unwrap();
        let row = row(&store, &volume);
        for column in VOLUMES.columns {
            assert!(row.get(column.key).is_some_and(Value::is_string), "{}", column.key);
        }
        assert_eq!((&row["Labels"], &row["Name"]), (&json!("a=b"), &json!("data")));
        let described = describe(&store, &volume);
        assert_eq!(described["Mountpoint"], json!(dir.join("root/volumes/data/_data")));
        assert!(used(&store).unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
