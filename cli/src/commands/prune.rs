//! `image prune`, `container prune` and `system prune`.

use crate::Context;
use crate::commands::filter::{self, Filters};
use crate::commands::{network, volume};
use crate::format::humanize::human_size;
use crate::format::time::parse_since;
use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use sampan_runtime::container::{self, ContainerError, garbage};
use sampan_runtime::image::{Image, ImageError, Images, Kept};
use sampan_runtime::rootfs;
use sampan_runtime::store::{Store, StoreError, files};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::process::ExitCode;

/// Remove images that nobody needs
#[derive(Debug, Args)]
pub struct ImagePruneArgs {
    /// Remove every image that no container is made of, and not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Remove what fits: until, label or label!
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Remove all stopped containers
#[derive(Debug, Args)]
pub struct ContainerPruneArgs {
    /// Remove what fits: until, label or label!
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Remove stopped containers and what nobody needs then
#[derive(Debug, Args)]
pub struct SystemPruneArgs {
    /// Remove every image that no container is made of, and not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Remove what fits: until, label or label!
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes that no container uses, too
    #[arg(long)]
    volumes: bool,
}

/// What was given as filters, and what they mean now.
struct Wanted {
    filters: Filters,
    until: Option<Timestamp>,
}

impl Wanted {
    fn parse(given: &[String]) -> Result<Self> {
        let filters = Filters::parse(given, &["until", "label", "label!"])?;
        if filters.values("until").count() > 1 {
            bail!("invalid filter until: it can be given once");
        }
        let until = filters.values("until").next().map(|time| parse_since(time, Timestamp::now())).transpose()?;
        Ok(Self { filters, until })
    }

    fn fits(&self, created: Option<Timestamp>, labels: &BTreeMap<String, String>) -> bool {
        self.until.is_none_or(|until| created.is_some_and(|created| created < until))
            && self.filters.labels(labels)
            && self.filters.lacks_labels(labels)
    }
}

/// What was removed, for people.
#[derive(Default)]
struct Report {
    text: String,
    freed: u64,
}

impl Report {
    fn add(&mut self, heading: &str, lines: &[String]) {
        if !lines.is_empty() {
            self.text += &format!("Deleted {heading}:\n{}\n\n", lines.join("\n"));
        }
    }

    fn print(self) -> Result<ExitCode> {
        filter::print(&format!("{}Total reclaimed space: {}\n", self.text, human_size(self.freed, 4)))
    }
}

impl ImagePruneArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let wanted = Wanted::parse(&self.filter)?;
        let what = match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        };
        if !self.force && !agreed(&format!("This will remove {what}."))? {
            return Ok(ExitCode::SUCCESS);
        }
        let store = context.store()?;
        let mut report = Report::default();
        images(&store, self.all, &wanted, &mut report)?;
        code(&store, &mut report)?;
        report.print()
    }
}

impl ContainerPruneArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let wanted = Wanted::parse(&self.filter)?;
        if !self.force && !agreed("This will remove all stopped containers.")? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut report = Report::default();
        containers(&context.store()?, &wanted, &mut report)?;
        report.print()
    }
}

impl SystemPruneArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let wanted = Wanted::parse(&self.filter)?;
        if self.volumes && wanted.until.is_some() {
            bail!("the filter \"until\" says nothing of volumes: leave out --volumes or the filter");
        }
        let mut what = vec!["all stopped containers"];
        what.extend(self.volumes.then_some("all anonymous volumes not used by at least one container"));
        what.push(match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        });
        what.push("all networks not used by at least one container");
        what.push("all build cache that no image has");
        what.push("compiled code that no image and no container needs");
        let list: String = what.iter().map(|what| format!("\n  - {what}")).collect();
        if !self.force && !agreed(&format!("This will remove:{list}\n"))? {
            return Ok(ExitCode::SUCCESS);
        }
        let store = context.store()?;
        let mut report = Report::default();
        // In the order in which one needs the other.
        containers(&store, &wanted, &mut report)?;
        if self.volumes {
            let (names, freed) = volume::prune(&store, |volume| volume.anonymous && wanted.fits(None, &volume.labels))?;
            report.add("Volumes", &names);
            report.freed = report.freed.saturating_add(freed);
        }
        let gone = network::prune(&store, |network| wanted.fits(Some(network.created), &network.labels))?;
        report.add("Networks", &gone);
        images(&store, self.all, &wanted, &mut report)?;
        build_cache(&store, &wanted, &mut report)?;
        code(&store, &mut report)?;
        store.sweep();
        report.print()
    }
}

fn containers(store: &Store, wanted: &Wanted, report: &mut Report) -> Result<()> {
    let mut gone = Vec::new();
    for container in container::list(store)? {
        let record = &container.record;
        let stopped = !container.status(store).is_running();
        if !stopped || !wanted.fits(Some(record.created), &record.labels) {
            continue;
        }
        let size = files::tree_size(&rootfs::upper(&container.dir));
        match container::remove(store, &container, false) {
            Ok(()) => {
                report.freed = report.freed.saturating_add(size);
                gone.push(record.id.clone());
            }
            // Somebody has started or removed it since.
            Err(ContainerError::Running { .. } | ContainerError::NotFound(_)) => {}
            Err(_) if !container.dir.exists() => {}
            Err(error) => return Err(error.into()),
        }
    }
    report.add("Containers", &gone);
    Ok(())
}

fn images(store: &Store, all: bool, wanted: &Wanted, report: &mut Report) -> Result<()> {
    let goes = |image: &Image| {
        let labels = image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
        (all || image.names.is_empty()) && wanted.fits(image.created(), &labels.into_iter().collect())
    };
    let used = || -> std::result::Result<BTreeSet<String>, ImageError> {
        match container::list(store) {
            Ok(all) => Ok(all.into_iter().map(|container| container.record.image_id).collect()),
            Err(ContainerError::Store(error)) => Err(error.into()),
            Err(ContainerError::Image(error)) => Err(error),
            Err(error) => {
                let (path, reason) = (store.containers(), error.to_string());
                Err(StoreError::Damaged { path, reason }.into())
            }
        }
    };
    let pruned = Images::new(store).prune(&goes, &used)?;
    if pruned.unknown {
        eprintln!(
            "sampan: an image of this store is damaged, so that nobody knows which layers it needs: no layer was removed; \
             see `sampan images`"
        );
    }
    let untagged = pruned.removed.untagged.iter().map(|name| format!("untagged: {name}"));
    let deleted = pruned.removed.deleted.iter().map(|id| format!("deleted: {id}"));
    report.add("Images", &untagged.chain(deleted).collect::<Vec<_>>());
    report.freed = report.freed.saturating_add(pruned.freed);
    Ok(())
}

/// The steps of builds that no image has any more. They have no labels, so a filter on those leaves them alone.
fn build_cache(store: &Store, wanted: &Wanted, report: &mut Report) -> Result<()> {
    let last_used = |kept: &Kept| Timestamp::try_from(kept.used).unwrap_or(Timestamp::UNIX_EPOCH);
    let goes = |kept: &Kept, in_image: bool| !in_image && wanted.fits(Some(last_used(kept)), &BTreeMap::new());
    let gone = Images::new(store).prune_cache(&goes)?;
    report.freed = gone.iter().fold(report.freed, |all, (_, freed)| all.saturating_add(*freed));
    Ok(())
}

fn code(store: &Store, report: &mut Report) -> Result<()> {
    let swept = garbage::sweep_code(store)?;
    report.freed = report.freed.saturating_add(swept.reclaimable);
    Ok(())
}

/// Asks whether to go on, in Docker's words.
pub fn agreed(what: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    write!(out, "WARNING! {what}\nAre you sure you want to continue? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_pick_by_age_and_label() {
        let wanted = |given: &[&str]| Wanted::parse(&given.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
        let labels = BTreeMap::from([("keep".to_owned(), "1".to_owned())]);
        let none = BTreeMap::new();
        let old: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        let until = wanted(&["until=1h"]).unwrap();
        assert!(until.fits(Some(old), &none) && !until.fits(Some(Timestamp::now()), &none) && !until.fits(None, &none));
        assert!(wanted(&["label=keep"]).unwrap().fits(None, &labels));
        assert!(!wanted(&["label!=keep"]).unwrap().fits(None, &labels));
        assert!(!wanted(&["label!=keep=1"]).unwrap().fits(None, &labels));
        assert!(wanted(&["label!=keep=2"]).unwrap().fits(None, &labels));
        assert!(wanted(&["until=1h", "until=2h"]).is_err() && wanted(&["name=x"]).is_err());
    }
}
