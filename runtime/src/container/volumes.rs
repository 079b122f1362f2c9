//! Volumes: directories that outlive containers. `volumes/<name>/_data` is the content, `volumes/<name>/volume.json`
//! what is known of it.

use super::record::{MountKind, MountPoint};
use super::settings::{MountRequest, MountSource};
use super::{ContainerError, Result, find, id};
use crate::events;
use crate::store::{Durability, Lock, Store, StoreError, files};
use crate::{image, rootfs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name; 64 hex digits for an anonymous one.
    pub name: String,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it was made without a name.
    pub anonymous: bool,
}

impl Volume {
    /// Where its content lies.
    #[must_use]
    pub fn data(&self, store: &Store) -> PathBuf {
        data(store, &self.name)
    }
}

fn data(store: &Store, name: &str) -> PathBuf {
    store.volumes().join(name).join("_data")
}

/// Makes a volume; one of that name that is there already is returned as it is. The flag says whether it is new.
///
/// # Errors
/// When the name is against the rule, or the store cannot be written.
pub fn create(store: &Store, name: Option<&str>, labels: BTreeMap<String, String>) -> Result<(Volume, bool)> {
    let anonymous = name.is_none();
    let name = match name {
        Some(name) if id::is_name(name) => name.to_owned(),
        Some(name) => return Err(ContainerError::BadName { what: "volume", name: name.to_owned() }),
        None => id::new_id().map_err(StoreError::io("draw a name for a volume in", store.volumes()))?,
    };
    if let Ok(volume) = inspect(store, &name) {
        return Ok((volume, false));
    }
    let volume = Volume { name, created: jiff::Timestamp::now(), labels, anonymous };
    let scratch = store.scratch()?;
    let made = scratch.path().join("volume");
    files::make_dir(&made.join("_data"))?;
    files::write_json(&made.join("volume.json"), &volume, Durability::Flushed)?;
    let place = store.volumes().join(&volume.name);
    match std::fs::rename(&made, &place) {
        Ok(()) => {
            files::flush_dir(&store.volumes())?;
            let driver = [("driver", "local".to_owned())];
            events::tell(store, events::Kind::Volume, "create", &volume.name, driver);
            Ok((volume, true))
        }
        // Somebody else was faster.
        Err(_) if place.join("volume.json").exists() => Ok((inspect(store, &volume.name)?, false)),
        Err(e) => Err(StoreError::io("create", place)(e).into()),
    }
}

/// The volume of this name.
///
/// # Errors
/// When there is none.
pub fn inspect(store: &Store, name: &str) -> Result<Volume> {
    let no_volume = || ContainerError::NoVolume(name.to_owned());
    if !id::is_name(name) {
        return Err(no_volume());
    }
    files::read_json(&record(store, name)).map_err(|_| no_volume())
}

fn record(store: &Store, name: &str) -> PathBuf {
    store.volumes().join(name).join("volume.json")
}

/// The volume of this name, made if it is missing, and a lock that keeps it from being removed.
fn hold(store: &Store, name: Option<&str>) -> Result<(Volume, Lock)> {
    loop {
        let (volume, _) = create(store, name, BTreeMap::new())?;
        let path = record(store, &volume.name);
        match Lock::share(&path) {
            Ok(Some(lock)) if lock.is_of(&path) => return Ok((volume, lock)),
            // It is being removed, which takes a moment, or was.
            Ok(_) => std::thread::yield_now(),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Every volume, by name.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<Volume>> {
    let dir = store.volumes();
    let entries = std::fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?;
    let mut all: Vec<Volume> =
        entries.flatten().filter_map(|e| files::read_json(&e.path().join("volume.json")).ok()).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The id of a container that mounts the volume, if there is one.
///
/// # Errors
/// When the store cannot be read.
pub fn user_of(store: &Store, name: &str) -> Result<Option<String>> {
    let mounts = |c: &super::Container| c.record.mounts.iter().any(|m| m.name == name);
    Ok(find::list(store)?.into_iter().find(mounts).map(|c| c.record.id))
}

/// Removes a volume and its content.
///
/// # Errors
/// When there is none, or a container mounts it.
pub fn remove(store: &Store, name: &str) -> Result<()> {
    inspect(store, name)?;
    // Who makes a container with it has a share of this lock until its record says so.
    let lock = Lock::try_take(&record(store, name)).map_err(|error| match error.is_not_found() {
        true => ContainerError::NoVolume(name.to_owned()),
        false => error.into(),
    })?;
    let Some(_lock) = lock else { return Err(ContainerError::VolumeWanted(name.to_owned())) };
    if let Some(by) = user_of(store, name)? {
        return Err(ContainerError::VolumeInUse { name: name.to_owned(), by });
    }
    take_away(store, name)
}

/// Moves the volume out of sight in one step, then removes it.
fn take_away(store: &Store, name: &str) -> Result<()> {
    let scratch = store.scratch()?;
    let place = store.volumes().join(name);
    std::fs::rename(&place, scratch.path().join("volume")).map_err(StoreError::io("remove", place))?;
    events::tell(store, events::Kind::Volume, "destroy", name, [("driver", "local".to_owned())]);
    Ok(())
}

/// Removes the anonymous volumes among `mounts`; what fails stays for `volume prune`.
pub(super) fn discard_anonymous(store: &Store, mounts: &[MountPoint]) {
    for mount in mounts.iter().filter(|m| m.kind == MountKind::Anonymous) {
        let _ = take_away(store, &mount.name);
    }
}

/// Turns wishes into mounts, making the volumes that are missing. A new or empty volume starts with what the image has
/// at its place, as Docker does it. As long as the locks live nobody can remove the volumes: until there is a record that
/// says who uses them.
pub(super) fn settle(
    store: &Store,
    wishes: Vec<MountRequest>,
    layers: &[PathBuf],
) -> Result<(Vec<MountPoint>, Vec<Lock>)> {
    let mut mounts: Vec<MountPoint> = Vec::new();
    let mut locks = Vec::new();
    for wish in wishes {
        match settle_one(store, &wish, layers, &mut locks) {
            Ok(mount) if mounts.iter().any(|m| m.destination == mount.destination) => {
                mounts.push(mount);
                discard_anonymous(store, &mounts);
                let reason = "something is mounted there already".to_owned();
                return Err(ContainerError::BadMount { given: wish.destination, reason });
            }
            Ok(mount) => mounts.push(mount),
            Err(error) => {
                discard_anonymous(store, &mounts);
                return Err(error);
            }
        }
    }
    Ok((mounts, locks))
}

fn settle_one(store: &Store, wish: &MountRequest, layers: &[PathBuf], locks: &mut Vec<Lock>) -> Result<MountPoint> {
    let bad = |reason: &str| ContainerError::BadMount { given: wish.destination.clone(), reason: reason.to_owned() };
    if !wish.destination.starts_with('/') {
        return Err(bad("the path in the container must be absolute"));
    }
    let destination = rootfs::normalize(&wish.destination);
    if destination == Path::new("/") {
        return Err(bad("the container's root cannot be mounted over"));
    }
    let (kind, name, source) = match &wish.source {
        MountSource::Bind { path, create: missing } => {
            if !path.exists() {
                if !missing {
                    return Err(ContainerError::BadMount {
                        given: path.display().to_string(),
                        reason: "there is no such file or directory on the host".to_owned(),
                    });
                }
                files::make_dir(path)?;
            }
            let path = path.canonicalize().map_err(StoreError::io("find", path))?;
            (MountKind::Bind, String::new(), path)
        }
        MountSource::Volume(name) => {
            let (volume, lock) = hold(store, Some(name))?;
            locks.push(lock);
            seed(&volume.data(store), &destination, layers)?;
            (MountKind::Volume, volume.name.clone(), volume.data(store))
        }
        MountSource::Anonymous => {
            let (volume, lock) = hold(store, None)?;
            locks.push(lock);
            seed(&volume.data(store), &destination, layers)?;
            (MountKind::Anonymous, volume.name.clone(), volume.data(store))
        }
    };
    Ok(MountPoint { kind, name, source, destination, writable: wish.writable, shallow: wish.shallow })
}

/// Copies what the image has at `destination` into an empty volume.
fn seed(volume: &Path, destination: &Path, layers: &[PathBuf]) -> Result<()> {
    let empty = std::fs::read_dir(volume).map_err(StoreError::io("read", volume))?.next().is_none();
    if !empty {
        return Ok(());
    }
    // Resolved within the image: a link of its leads to nothing of the host.
    for source in image::directories_at(layers, destination)?.iter().rev() {
        rootfs::copy_tree(source, volume)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_come_and_go() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let (volume, new) = create(&store, Some("data"), BTreeMap::new()).unwrap();
        assert!(new && volume.data(&store).is_dir());
        assert!(!create(&store, Some("data"), BTreeMap::new()).unwrap().1);
        assert!(create(&store, Some("../x"), BTreeMap::new()).is_err());
        assert_eq!(list(&store).unwrap().len(), 1);
        remove(&store, "data").unwrap();
        assert!(matches!(remove(&store, "data"), Err(ContainerError::NoVolume(_))));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_volume_starts_with_what_the_image_has() {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let layer = dir.join("layer");
        std::fs::create_dir_all(layer.join("data")).unwrap();
        std::fs::write(layer.join("data/seed"), "x").unwrap();
        let wish = MountRequest {
            source: MountSource::Anonymous,
            destination: "/data/".into(),
            writable: true,
            shallow: false,
        };
        let (mounts, locks) = settle(&store, vec![wish.clone()], std::slice::from_ref(&layer)).unwrap();
        assert!(mounts[0].source.join("seed").exists());
        let name = &mounts[0].name;
        assert!(matches!(remove(&store, name), Err(ContainerError::VolumeWanted(_))));
        drop(locks);
        // Twice at one place is refused, and the volumes made for it are gone again.
        let before = list(&store).unwrap().len();
        assert!(settle(&store, vec![wish.clone(), wish], &[]).is_err());
        assert_eq!(list(&store).unwrap().len(), before);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
