//! Finding containers, and telling whether one runs.

use super::record::{Container, Ended, Running, STARTED, Status};
use super::remove::sweep;
use super::{ContainerError, Result, health, restart, run_place, shared, socket};
use crate::events;
use crate::grants::Grants;
use crate::sandbox::{Fences, PAUSED};
use crate::store::{Durability, Lock, Store, files};
use std::path::{Path, PathBuf};

/// The container of this name, id, or first digits of an id; a name goes before an id.
///
/// # Errors
/// When there is none, or several.
pub fn find(store: &Store, wanted: &str) -> Result<Container> {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let safe = !wanted.is_empty() && !wanted.contains('/') && wanted != "." && wanted != "..";
    if !safe {
        return Err(ContainerError::NotFound(wanted.to_owned()));
    }
    if let Ok(id) = std::fs::read_link(store.names().join(wanted))
        && let Ok(container) = load(&store.containers().join(id))
    {
        return Ok(container);
    }
    if !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ContainerError::NotFound(wanted.to_owned()));
    }
    let ids = std::fs::read_dir(store.containers()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let fits: Vec<_> = ids.filter(|id| id.to_str().is_some_and(|id| id.starts_with(wanted))).collect();
    match fits.as_slice() {
        [] => Err(ContainerError::NotFound(wanted.to_owned())),
        [id] => load(&store.containers().join(id)).map_err(|_| ContainerError::NotFound(wanted.to_owned())),
        several => Err(ContainerError::Ambiguous { prefix: wanted.to_owned(), count: several.len() }),
    }
}

/// Every container, the newest first.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<Container>> {
    let dir = store.containers();
    let entries = std::fs::read_dir(&dir).map_err(crate::store::StoreError::io("read", &dir))?;
    // One that cannot be read is being made or removed right now, or its maker was killed.
    let read = |dir: PathBuf| load(&dir).inspect_err(|_| sweep(store, &dir)).ok();
    let mut all: Vec<Container> = entries.flatten().filter_map(|entry| read(entry.path())).collect();
    all.sort_by_key(|c| std::cmp::Reverse(c.record.created));
    Ok(all)
}

/// A run of which nobody is left to tell.
struct Lost {
    started: jiff::Timestamp,
    fences: Option<Fences>,
    restarts: u32,
}

impl From<Running> for Lost {
    fn from(running: Running) -> Self {
        Self { started: running.started, fences: running.fences, restarts: running.restarts }
    }
}

impl Lost {
    fn of_mark(dir: &Path) -> Option<Self> {
        let path = dir.join(STARTED);
        let started = match files::read_json(&path) {
            Ok(started) => started,
            Err(e) if e.is_not_found() => return None,
            // It has a name and, after a power cut, no content: that it was started is what counts.
            Err(_) => path.metadata().ok()?.modified().ok()?.try_into().ok()?,
        };
        Some(Self { started, fences: None, restarts: 0 })
    }
}

pub(super) fn load(dir: &Path) -> Result<Container> {
    let record = files::read_json(&dir.join("record.json"))?;
    Ok(Container { dir: dir.to_owned(), record })
}

impl Container {
    /// Tells that something has happened to the container.
    pub fn tell<const N: usize>(&self, store: &Store, action: &str, more: [(&str, String); N]) {
        let record = &self.record;
        let named = [("image".to_owned(), record.image.clone()), ("name".to_owned(), record.name.clone())];
        let more = more.into_iter().map(|(key, value)| (key.to_owned(), value));
        let attributes = record.labels.clone().into_iter().chain(named).chain(more).collect();
        events::tell_all(store, events::Kind::Container, action, &record.id, attributes);
    }

    /// What its bundle grants.
    ///
    /// # Errors
    /// When the bundle is not there, or says what cannot be granted.
    pub fn grants(&self) -> Result<Grants> {
        Ok(Grants::from_spec(&files::read_json(&self.dir.join("config.json"))?)?)
    }

    /// The socket of its sandbox, which is there while it runs.
    #[must_use]
    pub fn socket(&self, store: &Store) -> PathBuf {
        socket(&run_place(store, &self.record.id))
    }

    /// Whether it runs, or did when its keeper was killed or the machine went down.
    #[must_use]
    pub fn was_running(&self) -> bool {
        self.dir.join(STARTED).exists()
    }

    /// What the container is now. A run that was killed with its keeper is written down as ended when it is first
    /// looked at: nobody was left to do it earlier.
    #[must_use]
    pub fn status(&self, store: &Store) -> Status {
        let place = run_place(store, &self.record.id);
        let running = || files::read_json::<Running>(&place.join("running.json")).ok();
        if Lock::is_held(&self.dir.join("lock")) {
            if let Some(running) = running() {
                let (paused, health) = (place.join(PAUSED).exists(), health::of(store, &self.record));
                return Status::Running(Running { paused, health, ..running });
            }
            if let Some(restarting) = restart::waiting(&place) {
                return Status::Restarting(restarting);
            }
        }
        // The run directory does not outlive the machine's restart; what was written beside the record does.
        let lost = running().map(Lost::from).or_else(|| Lost::of_mark(&self.dir));
        if let Some(lost) = lost
            && let Ok(Some(_lock)) = Lock::try_take(&self.dir.join("lock"))
        {
            self.bury(store, &place, lost);
        }
        self.status_at_rest()
    }

    /// What it is if it does not run, which is not asked.
    #[must_use]
    pub fn status_at_rest(&self) -> Status {
        match files::read_json(&self.dir.join("ended.json")) {
            Ok(ended) => Status::Exited(ended),
            Err(e) if e.is_not_found() => Status::Created,
            // A power cut may have taken what was in it.
            Err(_) => Status::Exited(Ended::unknown("how it ended was lost in a crash")),
        }
    }

    fn bury(&self, store: &Store, place: &Path, lost: Lost) {
        let path = self.dir.join("ended.json");
        // A keeper that was killed between writing the end down and clearing up has told the truth already.
        let told = files::read_json::<Ended>(&path).is_ok_and(|known| known.started == Some(lost.started));
        let ended = Ended {
            started: Some(lost.started),
            fences: lost.fences,
            restarts: lost.restarts,
            ..Ended::unknown("the sandbox was killed")
        };
        if told || files::write_json(&path, &ended, Durability::Flushed).is_ok() {
            let _ = std::fs::remove_file(self.dir.join(STARTED));
            let _ = files::remove_tree(place);
        }
        if let Some(name) = &self.record.sandbox {
            shared::sweep(store, name);
        }
    }
}
