//! `system df`.

use crate::Context;
use crate::commands::filter;
use crate::format::humanize::{self, SIZE_DIGITS, human_size};
use crate::format::{Column, Listing, Template};
use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use sampan_runtime::container::volumes::{self, Volume};
use sampan_runtime::container::{self, Container, Status, garbage};
use sampan_runtime::image::{Image, Images, Usage};
use sampan_runtime::rootfs;
use sampan_runtime::store::{Store, files};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::process::ExitCode;

/// Show what takes space
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show each image, container and volume
    #[arg(short, long)]
    verbose: bool,
}

const TYPES: Listing = Listing::new(
    "Type",
    &[
        Column::shown("Type", "TYPE"),
        Column::shown("TotalCount", "TOTAL"),
        Column::shown("Active", "ACTIVE"),
        Column::shown("Size", "SIZE"),
        Column::shown("Reclaimable", "RECLAIMABLE"),
    ],
);

const IMAGES: Listing = Listing::new(
    "ID",
    &[
        Column::shown("Repository", "REPOSITORY"),
        Column::shown("Tag", "TAG"),
        Column::shown("ID", "IMAGE ID"),
        Column::shown("CreatedSince", "CREATED"),
        Column::shown("Size", "SIZE"),
        Column::shown("SharedSize", "SHARED SIZE"),
        Column::shown("UniqueSize", "UNIQUE SIZE"),
        Column::shown("Containers", "CONTAINERS"),
    ],
);

const CONTAINERS: Listing = Listing::new(
    "ID",
    &[
        Column::shown("ID", "CONTAINER ID"),
        Column::shown("Image", "IMAGE"),
        Column::shown("Command", "COMMAND"),
        Column::shown("LocalVolumes", "LOCAL VOLUMES"),
        Column::shown("Size", "SIZE"),
        Column::shown("RunningFor", "CREATED"),
        Column::shown("Status", "STATUS"),
        Column::shown("Names", "NAMES"),
    ],
);

const VOLUMES: Listing = Listing::new(
    "Name",
    &[Column::shown("Name", "VOLUME NAME"), Column::shown("Links", "LINKS"), Column::shown("Size", "SIZE")],
);

/// All that takes space.
struct Space {
    images: Vec<(Image, Usage)>,
    image_bytes: u64,
    containers: Vec<(Container, Status, u64)>,
    volumes: Vec<(Volume, usize, u64)>,
    code: sampan_runtime::guest::garbage::CodeUse,
}

impl DfArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let space = Space::of(&store)?;
        let text = match (self.verbose, self.format.as_deref()) {
            (false, format) => TYPES.render(&space.types(), format, false)?,
            (true, None | Some("" | "table")) => space.tables()?,
            (true, Some("json")) => format!("{}\n", space.object()),
            (true, Some(format)) => Template::parse(format)?.render(&space.object())? + "\n",
        };
        filter::print(&text)
    }
}

impl Space {
    fn of(store: &Store) -> Result<Self> {
        let size = |c: Container| {
            let (status, size) = (c.status(store), files::tree_size(&rootfs::upper(&c.dir)));
            (c, status, size)
        };
        let containers: Vec<_> = container::list(store)?.into_iter().map(size).collect();
        let mut links: HashMap<String, usize> = HashMap::new();
        for mount in containers.iter().flat_map(|(c, ..)| &c.record.mounts) {
            *links.entry(mount.name.clone()).or_default() += 1;
        }
        let volume = |volume: Volume| {
            let (links, size) = (links.get(&volume.name).copied().unwrap_or(0), files::tree_size(&volume.data(store)));
            (volume, links, size)
        };
        let volumes = volumes::list(store)?.into_iter().map(volume).collect();
        let (images, image_bytes) = Images::new(store).usage()?;
        Ok(Self { images, image_bytes, containers, volumes, code: garbage::code_usage(store)? })
    }

    fn users(&self, image: &Image) -> usize {
        self.containers.iter().filter(|(c, ..)| c.record.image_id == image.id).count()
    }

    /// What would stay if all images went that no container uses: their parts, each once.
    fn image_bytes_in_use(&self) -> u64 {
        let mut seen = HashSet::new();
        let used = self.images.iter().filter(|(image, _)| self.users(image) > 0);
        let parts = used.flat_map(|(_, usage)| &usage.parts);
        parts.filter(|(name, _)| seen.insert(name.clone())).fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Docker's table of types.
    fn types(&self) -> Vec<Value> {
        let row = |kind: &str, total: usize, active: usize, size: u64, free: u64| {
            let percent = free.saturating_mul(100).checked_div(size);
            let percent = percent.map_or_else(String::new, |percent| format!(" ({percent}%)"));
            json!({
                "Type": kind,
                "TotalCount": total.to_string(),
                "Active": active.to_string(),
                "Size": human_size(size, 4),
                "Reclaimable": format!("{}{percent}", human_size(free, 4)),
            })
        };
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0_u64, u64::saturating_add);
        let active = self.images.iter().filter(|(image, _)| self.users(image) > 0).count();
        let running = self.containers.iter().filter(|(_, status, _)| status.is_running()).count();
        let written = sum(&mut self.containers.iter().map(|(.., size)| *size));
        let stopped = sum(&mut self.containers.iter().filter(|(_, s, _)| !s.is_running()).map(|(.., size)| *size));
        let held = self.volumes.iter().filter(|(_, links, _)| *links > 0).count();
        let stored = sum(&mut self.volumes.iter().map(|(.., size)| *size));
        let unused = sum(&mut self.volumes.iter().filter(|(_, links, _)| *links == 0).map(|(.., size)| *size));
        let free = self.image_bytes.saturating_sub(self.image_bytes_in_use());
        vec![
            row("Images", self.images.len(), active, self.image_bytes, free),
            row("Containers", self.containers.len(), running, written, stopped),
            row("Local Volumes", self.volumes.len(), held, stored, unused),
            row("Compiled Code", self.code.total, self.code.needed, self.code.size, self.code.reclaimable),
        ]
    }

    fn image_rows(&self) -> Vec<Value> {
        let now = Timestamp::now();
        let mut owners: HashMap<&str, usize> = HashMap::new();
        for (name, _) in self.images.iter().flat_map(|(_, usage)| &usage.parts) {
            *owners.entry(name).or_default() += 1;
        }
        let row = |(image, usage): &(Image, Usage)| {
            let shared = usage.parts.iter().filter(|(name, _)| owners.get(name.as_str()).is_some_and(|n| *n > 1));
            let shared = shared.fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
            let name = image.names.first();
            json!({
                "Repository": name.map_or_else(|| "<none>".to_owned(), |name| name.repository()),
                "Tag": name.and_then(|name| name.tag()).unwrap_or("<none>"),
                "ID": image.short_id(),
                "CreatedSince": image.created().map_or_else(|| "N/A".to_owned(), |time| humanize::age(time, now)),
                "Size": human_size(usage.size(), SIZE_DIGITS),
                "SharedSize": human_size(shared, SIZE_DIGITS),
                "UniqueSize": human_size(usage.size().saturating_sub(shared), SIZE_DIGITS),
                "Containers": self.users(image).to_string(),
            })
        };
        self.images.iter().map(row).collect()
    }

    fn container_rows(&self) -> Vec<Value> {
        let now = Timestamp::now();
        let row = |(container, status, size): &(Container, Status, u64)| {
            let record = &container.record;
            let shown = crate::commands::ps::shown(status);
            let volumes = record.mounts.iter().filter(|mount| !mount.name.is_empty()).count();
            json!({
                "ID": humanize::short_id(&record.id),
                "Image": record.image,
                "Command": humanize::command(&record.args(), false),
                "LocalVolumes": volumes.to_string(),
                "Size": human_size(*size, SIZE_DIGITS),
                "RunningFor": humanize::age(record.created, now),
                "Status": shown.text(now),
                "Names": record.name,
            })
        };
        self.containers.iter().map(row).collect()
    }

    fn volume_rows(&self) -> Vec<Value> {
        let row = |(volume, links, size): &(Volume, usize, u64)| {
            json!({
                "Name": volume.name,
                "Links": links.to_string(),
                "Size": human_size(*size, SIZE_DIGITS),
            })
        };
        self.volumes.iter().map(row).collect()
    }

    fn tables(&self) -> Result<String> {
        Ok(format!(
            "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
             Compiled code usage: {}\n",
            IMAGES.render(&self.image_rows(), None, false)?,
            CONTAINERS.render(&self.container_rows(), None, false)?,
            VOLUMES.render(&self.volume_rows(), None, false)?,
            human_size(self.code.size, 4),
        ))
    }

    fn object(&self) -> Value {
        json!({
            "Images": self.image_rows(),
            "Containers": self.container_rows(),
            "Volumes": self.volume_rows(),
            "CompiledCode": { "Size": human_size(self.code.size, 4), "Reclaimable": human_size(self.code.reclaimable, 4) },
        })
    }
}
