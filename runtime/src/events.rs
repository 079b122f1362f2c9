//! What happens in a store, for whoever wants to hear of it: a line of JSON each, in the run directory, where each
//! command and each keeper writes what it did.
//!
//! Nothing depends on it: what cannot be written is not told.

use crate::store::{Lock, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    /// Docker's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: jiff::Timestamp,
    /// What it is about.
    pub kind: Kind,
    /// What has happened to it, in Docker's words: `create`, `start`, `die`.
    pub action: String,
    /// Whom it has happened to: an id, or the name of what has none.
    pub id: String,
    /// What is worth knowing besides: `image`, `name`, `exitCode`.
    pub attributes: BTreeMap<String, String>,
}

/// A file that has grown so large becomes the older one of two.
const MOST: u64 = 1 << 20;

/// Where events are written: the newest, and those before.
#[must_use]
pub fn places(store: &Store) -> (PathBuf, PathBuf) {
    let dir = store.run_path().join("events");
    (dir.join("log"), dir.join("log.1"))
}

/// Tells that something has happened now.
pub fn tell<const N: usize>(store: &Store, kind: Kind, action: &str, id: &str, attributes: [(&str, String); N]) {
    let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    tell_all(store, kind, action, id, attributes);
}

/// The same with as many attributes as there are.
pub fn tell_all(store: &Store, kind: Kind, action: &str, id: &str, attributes: BTreeMap<String, String>) {
    let event = Event { time: jiff::Timestamp::now(), kind, action: action.to_owned(), id: id.to_owned(), attributes };
    let Ok(mut line) = serde_json::to_vec(&event) else { return };
    line.push(b'\n');
    let (log, _) = places(store);
    let open = || File::options().create(true).append(true).open(&log);
    let file = open().or_else(|_| {
        let made = store.run_dir().is_ok() && log.parent().is_some_and(|dir| std::fs::create_dir_all(dir).is_ok());
        if made { open() } else { Err(std::io::ErrorKind::NotFound.into()) }
    });
    let Ok(mut file) = file else { return };
    // One write to a file that is appended to: lines of several writers do not mix.
    let _ = file.write_all(&line);
    if file.metadata().is_ok_and(|meta| meta.len() > MOST) {
        make_room(store);
    }
}

fn make_room(store: &Store) {
    let (log, older) = places(store);
    let Ok(Some(_lock)) = Lock::try_take(&log.with_extension("lock")) else { return };
    if std::fs::metadata(&log).is_ok_and(|meta| meta.len() > MOST) {
        let _ = std::fs::rename(&log, older);
    }
}

/// Reads a line of the log; `None` for one that was cut by a crash.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}

/// Makes the place where events are written, for who wants to watch it.
///
/// # Errors
/// When the run directory cannot be made.
pub fn watched(store: &Store) -> std::io::Result<PathBuf> {
    let (log, _) = places(store);
    let dir = log.parent().unwrap_or(Path::new("/")).to_owned();
    store.run_dir().map_err(std::io::Error::other)?;
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_in_their_order_and_room_is_made() {
        let dir = crate::store::files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        tell(&store, Kind::Volume, "create", "data", [("driver", "local".to_owned())]);
        tell(&store, Kind::Volume, "destroy", "data", []);
        let (log, older) = places(&store);
        let read = |path: &Path| -> Vec<Event> {
            std::fs::read(path).unwrap().split_inclusive(|b| *b == b'\n').filter_map(parse).collect()
        };
        let actions: Vec<String> = read(&log).into_iter().map(|event| event.action).collect();
        assert_eq!(actions, ["create", "destroy"]);
        let long = "x".repeat(600_000);
        for _ in 0..2 {
            tell(&store, Kind::Image, "tag", "sha256:ab", [("name", long.clone())]);
        }
        assert!(!log.exists() && read(&older).len() == 4);
        tell(&store, Kind::Image, "untag", "sha256:ab", []);
        assert_eq!(read(&log).len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
