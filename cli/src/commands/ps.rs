//! `ps`.

use crate::Context;
use crate::commands::filter::{self, Filters, fits_name};
use crate::commands::port;
use crate::format::humanize::{self, SIZE_DIGITS};
use crate::format::text::ellipsis;
use crate::format::{Column, Listing};
use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use sampan_runtime::container::health::State;
use sampan_runtime::container::networks;
use sampan_runtime::container::{self, Container, MountKind, Record, Status};
use sampan_runtime::grants::Network;
use sampan_runtime::image::Images;
use sampan_runtime::rootfs;
use sampan_runtime::store::{Store, files};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// List containers
#[derive(Debug, Default, Args)]
pub struct PsArgs {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show what fits: ancestor, before, exited, health, id, label, name, network, since, status or volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show the last N containers that were made, whatever their state
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the last container that was made, whatever its state
    #[arg(short, long)]
    latest: bool,
    /// Show what the containers have written
    #[arg(short, long)]
    size: bool,
}

const PS: Listing = Listing::new(
    "ID",
    &[
        Column::shown("ID", "CONTAINER ID"),
        Column::shown("Image", "IMAGE"),
        Column::shown("Command", "COMMAND"),
        Column::shown("RunningFor", "CREATED"),
        Column::shown("Status", "STATUS"),
        Column::shown("Ports", "PORTS"),
        Column::shown("Names", "NAMES"),
        Column::hidden("Size", "SIZE"),
        Column::hidden("CreatedAt", "CREATED AT"),
        Column::hidden("Labels", "LABELS"),
        Column::hidden("LocalVolumes", "LOCAL VOLUMES"),
        Column::hidden("Mounts", "MOUNTS"),
        Column::hidden("Networks", "NETWORKS"),
        Column::hidden("State", "STATE"),
    ],
);

const KEYS: [&str; 11] =
    ["ancestor", "before", "exited", "health", "id", "label", "name", "network", "since", "status", "volume"];

/// Docker's states; a container of ours is never in some of them.
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

impl PsArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let wanted = Wanted::read(&self, &store)?;
        let chosen = wanted.choose(&store, container::list(&store)?);
        let mut rows = Rows::new(&store, &self);
        let rows: Vec<Value> = chosen.iter().map(|(container, status)| rows.row(container, status)).collect();
        let listing = if self.size { PS.also(&["Size"]) } else { PS };
        filter::print(&listing.render(&rows, self.format.as_deref(), self.quiet)?)
    }

    /// Adding up what containers have written takes a while, so it is done when it is to be seen.
    fn wants_size(&self) -> bool {
        self.size || self.format.as_ref().is_some_and(|format| format.contains(".Size"))
    }
}

/// Which containers are wanted.
struct Wanted {
    filters: Filters,
    all: bool,
    most: usize,
    exited: Vec<u8>,
    /// The ids of the images that `ancestor` names.
    images: HashSet<String>,
    networks: HashSet<String>,
    before: HashSet<String>,
    since: HashSet<String>,
}

impl Wanted {
    fn read(args: &PsArgs, store: &Store) -> Result<Self> {
        let filters = Filters::parse(&args.filter, &KEYS)?;
        if let Some(unknown) = filters.values("status").find(|status| !STATES.contains(status)) {
            bail!("invalid filter status={unknown}: the states are {}", STATES.join(", "));
        }
        let code = |code: &str| code.parse().map_err(|_| anyhow::anyhow!("invalid filter exited={code}: no exit code"));
        let exited = filters.values("exited").map(code).collect::<Result<_>>()?;
        let ids = |key| {
            filters.values(key).map(|name| Ok(container::find(store, name)?.record.id)).collect::<Result<HashSet<_>>>()
        };
        let (before, since) = (ids("before")?, ids("since")?);
        let images = Images::new(store);
        // An image that is not there has no containers, and it is no mistake to ask for them.
        let images = filters.values("ancestor").filter_map(|name| Some(images.find(name).ok()?.id)).collect();
        let network = |name: &str| match name.parse::<Network>() {
            Ok(known) => known.as_str().to_owned(),
            Err(_) => networks::inspect(store, name).map_or_else(|_| name.to_owned(), |network| network.name),
        };
        let networks = filters.values("network").map(network).collect();
        let most = match args.last {
            Some(most) if most > 0 => Some(usize::try_from(most)?),
            _ if args.latest => Some(1),
            _ => None,
        };
        let all = args.all || most.is_some() || filters.has("status");
        Ok(Self { all, most: most.unwrap_or(usize::MAX), exited, images, networks, before, since, filters })
    }

    /// The wanted ones of all containers, which are ordered by age, with what they are now.
    fn choose(&self, store: &Store, all: Vec<Container>) -> Vec<(Container, Status)> {
        let place = |ids: &HashSet<String>, all: &[Container]| all.iter().position(|c| ids.contains(&c.record.id));
        // Of several the widest counts: the first before which, and the last since which.
        let start = place(&self.before, &all).map_or(0, |at| at + 1);
        let end = all.iter().rposition(|c| self.since.contains(&c.record.id)).unwrap_or(all.len());
        let within = all.into_iter().take(end).skip(start).filter(|c| self.fits_record(&c.record));
        let runs = Runs::of(store);
        if self.most < usize::MAX {
            return within.filter_map(|c| self.look(&runs, &c).map(|status| (c, status))).take(self.most).collect();
        }
        let within: Vec<Container> = within.collect();
        let looks = self.look_at_all(&runs, &within);
        within.into_iter().zip(looks).filter_map(|(c, status)| status.map(|status| (c, status))).collect()
    }

    /// Looks at containers; if they are many, with as many threads as there are processors: a look is system calls.
    fn look_at_all(&self, runs: &Runs<'_>, containers: &[Container]) -> Vec<Option<Status>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = containers.len().div_ceil(threads).max(100);
        let look = |share: &[Container]| share.iter().map(|c| self.look(runs, c)).collect::<Vec<_>>();
        if containers.len() <= share {
            return look(containers);
        }
        std::thread::scope(|scope| {
            let look = &look;
            let threads: Vec<_> = containers.chunks(share).map(|share| scope.spawn(move || look(share))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        })
    }

    fn fits_record(&self, record: &Record) -> bool {
        let named = |volume: &str| {
            record.mounts.iter().any(|mount| mount.name == volume || mount.destination == Path::new(volume))
        };
        let filters = &self.filters;
        filters.any("name", |pattern| fits_name(pattern, &record.name))
            && filters.any("id", |id| record.id.starts_with(id))
            && filters.labels(&record.labels)
            && filters.any("ancestor", |name| record.image == name || self.images.contains(&record.image_id))
            && filters.any("network", |_| self.networks.contains(record.network_name()))
            && filters.any("volume", named)
    }

    /// What the container is now, if that fits.
    fn look(&self, runs: &Runs<'_>, container: &Container) -> Option<Status> {
        if !self.all && !runs.may_have(container) {
            return None;
        }
        let status = runs.status(container);
        let exited = |code: u8| matches!(&status, Status::Exited(ended) if ended.code == code);
        let fits = (self.all || status.is_running())
            && (self.exited.is_empty() || self.exited.iter().copied().any(exited))
            && self.filters.any("status", |word| word == status.word())
            && self.filters.any("health", |word| word == health_word(&status));
        fits.then_some(status)
    }
}

/// The runs of a store, found in one look: what has no place in the run directory does not run, so that its lock and
/// its state need not be asked for.
struct Runs<'a> {
    store: &'a Store,
    places: HashSet<OsString>,
}

impl<'a> Runs<'a> {
    fn of(store: &'a Store) -> Self {
        let entries = std::fs::read_dir(store.run_path()).into_iter().flatten().flatten();
        Self { store, places: entries.map(|entry| entry.file_name()).collect() }
    }

    fn may_have(&self, container: &Container) -> bool {
        self.places.contains(OsStr::new(container::id::short(&container.record.id)))
    }

    fn status(&self, container: &Container) -> Status {
        if self.may_have(container) || container.was_running() {
            return container.status(self.store);
        }
        container.status_at_rest()
    }
}

/// Makes the listing's rows.
struct Rows<'a> {
    store: &'a Store,
    args: &'a PsArgs,
    now: Timestamp,
    /// What the images are called now and how large they are, by what the containers say of them.
    images: HashMap<(String, String), (String, u64)>,
}

impl<'a> Rows<'a> {
    fn new(store: &'a Store, args: &'a PsArgs) -> Self {
        Self { store, args, now: Timestamp::now(), images: HashMap::new() }
    }

    fn row(&mut self, container: &Container, status: &Status) -> Value {
        let record = &container.record;
        let whole = self.args.no_trunc;
        let id = if whole { &record.id } else { humanize::short_id(&record.id) };
        if self.args.quiet {
            return json!({ "ID": id });
        }
        let (image, image_size) = self.image(record);
        let ports = match status {
            Status::Running(running) => port::listing(record, running),
            _ => String::new(),
        };
        let mut row = json!({
            "ID": id,
            "Image": image,
            "Command": humanize::command(&record.args(), whole),
            "RunningFor": humanize::age(record.created, self.now),
            "Status": shown(status).text(self.now),
            "Ports": ports,
            "Names": record.name,
        });
        // The usual table has no more than that, and a thousand containers have a thousand rows.
        if let Some(row) = row.as_object_mut().filter(|_| self.args.size || self.args.format.is_some()) {
            let size = match self.args.wants_size() {
                true => size_text(written(&container.dir), image_size),
                false => "0B".to_owned(),
            };
            let volumes = record.mounts.iter().filter(|mount| mount.kind != MountKind::Bind).count();
            row.extend([
                ("Size".to_owned(), size.into()),
                ("CreatedAt".to_owned(), humanize::created_at(record.created).into()),
                ("Labels".to_owned(), filter::label_text(&record.labels).into()),
                ("Label".to_owned(), json!(record.labels)),
                ("LocalVolumes".to_owned(), volumes.to_string().into()),
                ("Mounts".to_owned(), mounts(record, whole).into()),
                ("Networks".to_owned(), record.network_name().into()),
                ("State".to_owned(), status.word().into()),
            ]);
        }
        row
    }

    /// What to call a container's image, and its size: what the user called it as long as that still means the same
    /// image, and its id from then on.
    fn image(&mut self, record: &Record) -> (String, u64) {
        let key = (record.image.clone(), record.image_id.clone());
        let (store, whole) = (self.store, self.args.no_trunc);
        self.images.entry(key).or_insert_with(|| image_name(store, record, whole)).clone()
    }
}

/// Docker's word for the health of a container; `none` for one that is not checked, or does not run.
fn health_word(status: &Status) -> &'static str {
    match status {
        Status::Running(running) => running.health.as_ref().map_or("none", |health| health.status.word()),
        _ => "none",
    }
}

/// What the status column tells.
pub fn shown(status: &Status) -> humanize::Status<'static> {
    match status {
        Status::Created => humanize::Status::Created,
        Status::Running(running) => {
            let health = running.health.as_ref().map(|health| match health.status {
                State::Starting => "health: starting",
                known => known.word(),
            });
            let note = if running.paused { Some("Paused") } else { health };
            humanize::Status::Up { since: running.started, note }
        }
        Status::Restarting(waiting) => humanize::Status::Restarting { code: waiting.code.into(), at: waiting.ended },
        Status::Exited(ended) => humanize::Status::Exited { code: ended.code.into(), at: ended.finished },
    }
}

fn image_name(store: &Store, record: &Record, whole: bool) -> (String, u64) {
    if record.image_id.is_empty() {
        return (record.image.clone(), 0);
    }
    let images = Images::new(store);
    let named = images.find(&record.image).ok().filter(|image| image.id == record.image_id);
    let name = if named.is_some() { &record.image } else { &record.image_id };
    let size = named.or_else(|| images.find(&record.image_id).ok()).map_or(0, |image| image.size);
    let name = match name.split_once('@') {
        _ if whole => name,
        Some((name, _digest)) => name,
        None if name.starts_with(humanize::short_id(&record.image_id)) || *name == record.image_id => {
            humanize::short_id(name)
        }
        None => name,
    };
    (name.to_owned(), size)
}

fn mounts(record: &Record, whole: bool) -> String {
    let shown = record.mounts.iter().map(|mount| {
        let name = match mount.kind {
            MountKind::Bind => mount.source.to_string_lossy(),
            MountKind::Volume | MountKind::Anonymous => mount.name.as_str().into(),
        };
        if whole { name.into_owned() } else { ellipsis(&name, 15) }
    });
    shown.collect::<Vec<_>>().join(",")
}

/// What a container has written, in bytes: the size of its own layer's files.
pub fn written(dir: &Path) -> u64 {
    files::tree_size(&rootfs::upper(dir))
}

fn size_text(written: u64, image: u64) -> String {
    let size = humanize::human_size(written, SIZE_DIGITS);
    format!("{size} (virtual {})", humanize::human_size(written.saturating_add(image), SIZE_DIGITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_every_key_of_the_listing() {
        let dir = std::env::temp_dir().join(format!("sampan-ps-{}", std::process::id()));
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let settings = container::Settings { command: vec!["/app.wasm".into(), "a b".into()], ..Default::default() };
        let container = container::create(&store, settings, None).unwrap();
        std::fs::write(rootfs::upper(&container.dir).join("f"), b"12345").unwrap();
        let args = PsArgs { all: true, size: true, ..PsArgs::default() };
        let row = Rows::new(&store, &args).row(&container, &Status::Created);
        for column in PS.columns {
            assert!(row.get(column.key).is_some_and(Value::is_string), "{}", column.key);
        }
        let usual = Rows::new(&store, &PsArgs::default()).row(&container, &Status::Created);
        assert!(PS.columns.iter().all(|column| usual.get(column.key).is_some() == column.shown));
        assert_eq!(row["Size"], "5B (virtual 5B)");
        assert_eq!(row["Command"], "\"/app.wasm 'a b'\"");
        let wanted = |filter: &[&str]| {
            let filter = filter.iter().map(|text| (*text).to_owned()).collect();
            let args = PsArgs { all: true, filter, ..PsArgs::default() };
            Wanted::read(&args, &store).map(|w| w.choose(&store, container::list(&store).unwrap()).len())
        };
        assert_eq!(wanted(&[]).unwrap(), 1);
        assert_eq!(wanted(&["status=created", "status=exited"]).unwrap(), 1);
        assert_eq!(wanted(&["status=exited"]).unwrap(), 0);
        assert_eq!(wanted(&["exited=0"]).unwrap(), 0);
        assert_eq!(wanted(&[&format!("before={}", container.record.name)]).unwrap(), 0);
        assert_eq!(wanted(&[&format!("since={}", container.record.id)]).unwrap(), 0);
        assert!(wanted(&["status=alive"]).unwrap_err().to_string().contains("created, restarting, running"));
        assert!(wanted(&["exited=x"]).is_err() && wanted(&["before=nobody"]).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
