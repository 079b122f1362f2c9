//! Making a container: the front end's settings and the image's configuration become a record, a bundle and a name.

use super::record::{Container, MountPoint, Record};
use super::{ContainerError, Result, id, volumes};
use crate::grants::{BindGrant, Grants, Network, Port, Publish, RootGrant};
use crate::image::{Image, Images};
use crate::rootfs;
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a front end asks for. Empty fields leave the image's word.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The name; drawn when `None`.
    pub name: Option<String>,
    /// The image as the user named it, or the Wasm file.
    pub image: String,
    /// Instead of the image's entrypoint; `Some(vec![])` takes it away.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command.
    pub command: Vec<String>,
    /// Over the image's environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Instead of the image's working directory.
    pub working_dir: Option<String>,
    /// Over the image's labels.
    pub labels: BTreeMap<String, String>,
    /// Ports with an address of the host.
    pub published: Vec<Publish>,
    /// Whether every exposed port is published somewhere.
    pub publish_all: bool,
    /// Ports that it may bind besides the image's.
    pub exposed: Vec<Port>,
    /// What is mounted besides the image's volumes.
    pub mounts: Vec<MountRequest>,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// How it is connected.
    pub network: Network,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// The grace period of `stop`, in seconds; Docker's 10 when `None`.
    pub stop_timeout: Option<u32>,
    /// A Wasm file that is the program, for a container without an image.
    pub module: Option<PathBuf>,
}

/// A mount that a front end asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// What is mounted.
    pub source: MountSource,
    /// The guest's path, absolute.
    pub destination: String,
    /// Whether the guest may write there.
    pub writable: bool,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the host; made as a directory if it is missing and `create` is set, as `-v` does.
    Bind {
        /// The path, absolute.
        path: PathBuf,
        /// Whether a missing one is made.
        create: bool,
    },
    /// A named volume, made if it is missing.
    Volume(String),
    /// A new volume without a name.
    Anonymous,
}

/// Room on the disk for the record of the end, which the guest cannot fill.
const ROOM: &str = "room";

/// Gives up the room.
pub(super) fn give_up_room(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(ROOM));
}

/// The search path of a container whose image sets none, as Docker has it.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a container of `image` (none for a bare Wasm file).
///
/// # Errors
/// When the name is taken, nothing is to be run, a mount is impossible, or the store cannot be written; then nothing
/// is left of it.
pub fn create(store: &Store, settings: Settings, image: Option<&Image>) -> Result<Container> {
    if let Some(name) = &settings.name
        && !id::is_name(name)
    {
        return Err(ContainerError::BadName { what: "container", name: name.clone() });
    }
    let id = id::new_id().map_err(StoreError::io("draw an id for a container in", store.containers()))?;
    let layers = image.map(|image| Images::new(store).layer_dirs(image)).transpose()?.unwrap_or_default();
    let module = settings.module.clone();
    let (mut record, wishes) = settle(settings, image, id)?;
    if record.entrypoint.is_empty() && record.command.is_empty() {
        return Err(ContainerError::NoCommand);
    }
    record.mounts = volumes::settle(store, wishes, &layers)?;
    let dir = store.containers().join(&record.id);
    let filled = fill(store, &dir, &mut record, layers, module.as_deref());
    // Asked after the record is there: of this and a removal of the image at the same moment, one sees the other.
    let whole = filled.and_then(|()| match image {
        Some(image) if !Images::new(store).contains(image)? => {
            Err(crate::image::ImageError::NotFound { name: image.display_name() }.into())
        }
        _ => Ok(()),
    });
    match whole {
        Ok(()) => Ok(Container { dir, record }),
        Err(error) => {
            let _ = files::remove_tree(&dir);
            volumes::discard_anonymous(store, &record.mounts);
            Err(error)
        }
    }
}

/// The image's word and the user's, one over the other as Docker does it.
fn settle(settings: Settings, image: Option<&Image>, id: String) -> Result<(Record, Vec<MountRequest>)> {
    let config = image.and_then(|image| image.config.config().as_ref());
    let from_image = |get: fn(&oci_spec::image::Config) -> &Option<Vec<String>>| {
        config.and_then(|c| get(c).clone()).unwrap_or_default()
    };
    // A new entrypoint takes the image's command away with the old one.
    let command = if settings.command.is_empty() && settings.entrypoint.is_none() {
        from_image(|c| c.cmd())
    } else {
        settings.command
    };
    let entrypoint = settings.entrypoint.unwrap_or_else(|| from_image(|c| c.entrypoint()));
    let mut env = from_image(|c| c.env());
    if !env.iter().any(|v| v.starts_with("PATH=")) {
        env.insert(0, format!("PATH={PATH}"));
    }
    let working_dir = settings
        .working_dir
        .or_else(|| config.and_then(|c| c.working_dir().clone()).filter(|dir| !dir.is_empty()))
        .map_or_else(|| "/".to_owned(), |dir| rootfs::normalize(&dir).to_string_lossy().into_owned());
    set(&mut env, format!("HOSTNAME={}", id::short(&id)));
    if working_dir != "/" {
        // Programs for WASI 0.1 have no other way to learn it.
        set(&mut env, format!("PWD={working_dir}"));
    }
    for variable in settings.env {
        set(&mut env, variable);
    }
    let mut labels: BTreeMap<String, String> =
        config.and_then(|c| c.labels().clone()).unwrap_or_default().into_iter().collect();
    labels.extend(settings.labels);
    let mut exposed: Vec<Port> =
        from_image(|c| c.exposed_ports()).iter().filter_map(|port| port.parse().ok()).chain(settings.exposed).collect();
    exposed.sort_unstable();
    exposed.dedup();
    let mut published = settings.published;
    if settings.publish_all {
        let missing = exposed.iter().filter(|port| !published.iter().any(|p| p.port == **port));
        let anywhere: Vec<_> = missing.map(|port| Publish::anywhere(*port)).collect();
        published.extend(anywhere);
    }
    let mut mounts = settings.mounts;
    for volume in from_image(|c| c.volumes()) {
        let place = rootfs::normalize(&volume);
        if !mounts.iter().any(|m| rootfs::normalize(&m.destination) == place) {
            mounts.push(MountRequest { source: MountSource::Anonymous, destination: volume, writable: true });
        }
    }
    let record = Record {
        name: settings.name.unwrap_or_default(),
        created: jiff::Timestamp::now(),
        image: settings.image,
        image_id: image.map(|image| image.id.clone()).unwrap_or_default(),
        entrypoint,
        command,
        env,
        working_dir,
        labels,
        network: settings.network,
        published,
        exposed,
        mounts: vec![],
        read_only: settings.read_only,
        auto_remove: settings.auto_remove,
        open_stdin: settings.open_stdin,
        stop_timeout: settings.stop_timeout.unwrap_or(10),
        id,
    };
    Ok((record, mounts))
}

/// Sets a variable, in the place of an earlier one of that name.
fn set(env: &mut Vec<String>, variable: String) {
    let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
    let same = |v: &String| v.split_once('=').is_some_and(|(n, _)| n == name);
    match env.iter().position(same) {
        Some(n) => {
            if let Some(old) = env.get_mut(n) {
                *old = variable;
            }
        }
        None => env.push(variable),
    }
}

/// Makes the container's directory. It is locked while it is made, and a container from the moment that its record is
/// there; then it takes its name, so that a name always means a container that is whole.
fn fill(store: &Store, dir: &Path, record: &mut Record, layers: Vec<PathBuf>, module: Option<&Path>) -> Result<()> {
    let durability = if record.auto_remove { Durability::Buffered } else { Durability::Flushed };
    std::fs::create_dir(dir).map_err(StoreError::io("create", dir))?;
    let _lock = Lock::wait(&dir.join("lock"))?;
    rootfs::make_writable_layer(dir)?;
    if let Some(module) = module {
        let inside = rootfs::upper(dir).join(module.file_name().unwrap_or_default());
        std::fs::copy(module, &inside).map_err(StoreError::io("copy to the container", module))?;
    }
    let grants = Grants {
        args: record.args(),
        env: record.env.clone(),
        cwd: record.working_dir.clone(),
        root: RootGrant::Layers(layers),
        root_writable: !record.read_only,
        binds: record.mounts.iter().map(bind).collect(),
        network: record.network,
        published: record.published.clone(),
        exposed: record.exposed.clone(),
        stdin: record.open_stdin,
    };
    files::write_json(&dir.join("config.json"), &grants.to_spec()?, durability)?;
    if !record.auto_remove {
        std::fs::write(dir.join(ROOM), [0; 4096]).map_err(StoreError::io("write", dir.join(ROOM)))?;
    }
    let drawn = record.name.is_empty();
    let mut attempt = 0;
    loop {
        if drawn {
            record.name = id::draw_name(&record.id, attempt);
        }
        files::write_json(&dir.join("record.json"), record, durability)?;
        match take_name(store, &record.name, &record.id) {
            Err(ContainerError::NameInUse { .. }) if drawn && attempt < 100 => attempt += 1,
            other => return other,
        }
    }
}

fn bind(mount: &MountPoint) -> BindGrant {
    BindGrant { source: mount.source.clone(), destination: mount.destination.clone(), writable: mount.writable }
}

/// Takes a name for an id. Making a link is one system call, so of two who try one fails.
pub(super) fn take_name(store: &Store, name: &str, id: &str) -> Result<()> {
    let link = store.names().join(name);
    let take = || std::os::unix::fs::symlink(id, &link);
    match take() {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(StoreError::io("take the name", &link)(e).into()),
    }
    // Somebody has it, or had it when it died: a name whose container is gone is free. One at a time may find so.
    let _lock = Lock::wait(&store.root().join("names.lock"))?;
    let by = std::fs::read_link(&link).map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
    if store.containers().join(&by).join("record.json").exists() {
        return Err(ContainerError::NameInUse { name: name.to_owned(), by });
    }
    let _ = std::fs::remove_file(&link);
    take().map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => ContainerError::NameInUse { name: name.to_owned(), by },
        _ => StoreError::io("take the name", &link)(e).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (PathBuf, Store) {
        let dir = files::tests::temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        (dir, store)
    }

    fn settings(name: &str) -> Settings {
        Settings {
            name: Some(name.into()).filter(|n: &String| !n.is_empty()),
            command: vec!["/a.wasm".into()],
            env: vec!["A=2".into(), "HOSTNAME=h".into()],
            ..Settings::default()
        }
    }

    #[test]
    fn a_name_is_taken_once_and_free_again() {
        let (dir, store) = store();
        let first = create(&store, settings("web"), None).unwrap();
        let error = create(&store, settings("web"), None).unwrap_err();
        assert!(error.to_string().contains(id::short(&first.record.id)), "{error}");
        assert_eq!(std::fs::read_dir(store.containers()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
        // As if its owner had died half way through being removed.
        std::fs::remove_dir_all(&first.dir).unwrap();
        create(&store, settings("web"), None).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_wrong_leaves_nothing() {
        let (dir, store) = store();
        assert!(matches!(create(&store, settings("-x"), None), Err(ContainerError::BadName { .. })));
        let nothing = Settings { command: vec![], ..settings("") };
        assert!(matches!(create(&store, nothing, None), Err(ContainerError::NoCommand)));
        assert_eq!(std::fs::read_dir(store.containers()).unwrap().count(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn later_variables_win_in_the_place_of_earlier_ones() {
        let (dir, store) = store();
        let made = create(&store, settings(""), None).unwrap();
        let env = &made.record.env;
        assert!(env.contains(&"A=2".into()) && env.contains(&"HOSTNAME=h".into()));
        assert_eq!(env.iter().filter(|v| v.starts_with("HOSTNAME=")).count(), 1);
        assert!(id::is_name(&made.record.name));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
