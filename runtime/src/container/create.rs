//! Making a container: the front end's settings and the image's configuration become a record, a bundle and a name.

use super::life::Lease;
use super::networks::NetworkRecord;
use super::record::{Container, Joined, MountPoint, Record};
use super::settings::{Inside, Join, MountRequest, MountSource, Settings};
use super::{ContainerError, Result, egress, id, networks, shared, volumes};
use crate::config::Config;
use crate::grants::{BindGrant, Grants, Limits, Membership, Port, Publish, RootGrant};
use crate::image::{Image, Images};
use crate::rootfs;
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Room on the disk for the record of the end, which the guest cannot fill.
const ROOM: &str = "room";

/// Gives up the room.
pub(super) fn give_up_room(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(ROOM));
}

/// The search path of a container whose image sets none, as Docker has it.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a container of `image` (none for a bare Wasm file).
///
/// # Errors
/// When the name is taken, nothing is to be run, a mount is impossible, or the store cannot be written; then nothing
/// is left of it.
pub fn create(store: &Store, settings: Settings, image: Option<&Image>) -> Result<Container> {
    let settled = settle(store, settings, image)?;
    make(store, settled, |dir, _lock, mut record, grants| {
        write_down(store, dir, &mut record, &grants)?;
        still_there(store, image).inspect_err(|_| release_name(store, &record.name, &record.id))?;
        let container = Container { dir: dir.to_owned(), record };
        container.tell(store, "create", []);
        Ok(container)
    })
}

/// The same for a container that is run here and now in the foreground, and removed at its end. One that has no name
/// and nothing that outlives it is written down only when it has run for a moment (`Unwritten`): most such commands
/// are over by then, and nobody else has ever heard of them.
///
/// # Errors
/// As [`create`].
pub fn create_and_lease(store: &Store, settings: Settings, image: Option<&Image>) -> Result<Lease> {
    // Peers look for it by its name, so it needs one.
    let later = settings.auto_remove && settings.name.is_none() && settings.join.is_none();
    let settled = settle(store, settings, image)?;
    let later = later && settled.wishes.iter().all(|wish| matches!(wish.source, MountSource::Bind { .. }));
    make(store, settled, |dir, lock, mut record, grants| {
        let unwritten = if later {
            let image_lock = image.map(|image| Images::new(store).hold(image)).transpose()?;
            Some(Unwritten { grants, _image: image_lock })
        } else {
            write_down(store, dir, &mut record, &grants)?;
            None
        };
        still_there(store, image).inspect_err(|_| release_name(store, &record.name, &record.id))?;
        let container = Container { dir: dir.to_owned(), record };
        if unwritten.is_none() {
            container.tell(store, "create", []);
        }
        Ok(Lease::new(container, lock, unwritten))
    })
}

/// A container of which nothing is written down yet but a locked directory with its writable layer.
#[derive(Debug)]
pub(super) struct Unwritten {
    /// What would stand in its bundle.
    pub grants: Grants,
    /// Until there is a record to say so, this keeps its image from being removed.
    _image: Option<Lock>,
}

impl Unwritten {
    /// Writes it down; from now on it is a container like every other.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(super) fn write_down(&self, store: &Store, container: &mut Container) -> Result<()> {
        write_down(store, &container.dir, &mut container.record, &self.grants)?;
        container.tell(store, "create", []);
        Ok(())
    }
}

/// Asked when an image's user can be seen: of this and a removal of the image at the same moment, one sees the other.
fn still_there(store: &Store, image: Option<&Image>) -> Result<()> {
    match image {
        Some(image) if !Images::new(store).contains(image)? => {
            Err(crate::image::ImageError::NotFound { name: image.display_name() }.into())
        }
        _ => Ok(()),
    }
}

/// What a container will be.
struct Settled {
    record: Record,
    /// The mounts that it wishes for.
    wishes: Vec<MountRequest>,
    /// The layers below it.
    layers: Vec<PathBuf>,
    /// Its Wasm file, if it has no image.
    module: Option<PathBuf>,
    /// The network that it joins.
    join: Option<(NetworkRecord, Join)>,
}

/// What the container will be; nothing is made yet.
fn settle(store: &Store, settings: Settings, image: Option<&Image>) -> Result<Settled> {
    if let Some(name) = &settings.name
        && !id::is_name(name)
    {
        return Err(ContainerError::BadName { what: "container", name: name.clone() });
    }
    if let Some(name) = &settings.sandbox {
        shared::check(name, settings.restart, settings.on_failure)?;
    }
    let id = id::new_id().map_err(StoreError::io("draw an id for a container in", store.containers()))?;
    let layers = image.map(|image| Images::new(store).layer_dirs(image)).transpose()?.unwrap_or_default();
    let module = settings.module.clone();
    let join = match settings.join.clone() {
        None => None,
        Some(join) => Some((networks::inspect(store, &join.network)?, join)),
    };
    let (mut record, wishes) = merge(settings, image, id);
    if record.entrypoint.is_empty() && record.command.is_empty() {
        return Err(ContainerError::NoCommand);
    }
    egress::gather(&mut record, join.as_ref().map(|(network, _)| network), &Config::load()?);
    Ok(Settled { record, wishes, layers, module, join })
}

/// Makes the container's directory, locked, with its writable layer, and then what `finish` makes of it; of a failure
/// nothing is left.
fn make<T>(
    store: &Store,
    settled: Settled,
    finish: impl FnOnce(&Path, Lock, Record, Grants) -> Result<T>,
) -> Result<T> {
    let Settled { mut record, wishes, layers, module, join } = settled;
    let (mounts, _held) = volumes::settle(store, wishes, &layers)?;
    record.mounts = mounts;
    let dir = store.containers().join(&record.id);
    let mounts = record.mounts.clone();
    let made = fill(&dir, module.as_deref()).and_then(|lock| {
        if let Some((network, join)) = join {
            let address = networks::take_address(store, &network, &record.id, join.ip)?;
            record.joined = Some(Joined { network: network.name, address, aliases: join.aliases });
        }
        let grants = grants(&record, layers);
        finish(&dir, lock, record, grants)
    });
    made.inspect_err(|_| {
        let _ = files::remove_tree(&dir);
        volumes::discard_anonymous(store, &mounts);
    })
}

/// The image's word and the user's, one over the other as Docker does it.
fn merge(settings: Settings, image: Option<&Image>, id: String) -> (Record, Vec<MountRequest>) {
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
    if settings.tty {
        set(&mut env, "TERM=xterm".to_owned());
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
            mounts.push(MountRequest {
                source: MountSource::Anonymous,
                destination: volume,
                writable: true,
                shallow: false,
            });
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
        sandbox: settings.sandbox,
        inside: settings.inside,
        network: settings.network,
        joined: None,
        egress: settings.egress,
        egress_from: vec![],
        published,
        exposed,
        mounts: vec![],
        secrets: settings.secrets,
        paths: settings.paths,
        proc: settings.proc,
        read_only: settings.read_only,
        auto_remove: settings.auto_remove,
        open_stdin: settings.open_stdin,
        tty: settings.tty,
        allow_spawn: settings.allow_spawn,
        http: settings.http.clone(),
        limits: settings.limits,
        stop_timeout: settings.stop_timeout.unwrap_or(10),
        restart: settings.restart,
        log: settings.log,
        health: settings.health.over(image.and_then(|image| image.health.as_ref())),
        on_failure: settings.on_failure,
        id,
    };
    (record, mounts)
}

/// Sets a variable, in the place of an earlier one of that name.
pub(crate) fn set(env: &mut Vec<String>, variable: String) {
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

fn fill(dir: &Path, module: Option<&Path>) -> Result<Lock> {
    std::fs::create_dir(dir).map_err(StoreError::io("create", dir))?;
    let lock = Lock::wait(&dir.join("lock"))?;
    rootfs::make_writable_layer(dir)?;
    if let Some(module) = module {
        let inside = rootfs::upper(dir).join(module.file_name().unwrap_or_default());
        std::fs::copy(module, &inside).map_err(StoreError::io("copy to the container", module))?;
    }
    Ok(lock)
}

fn grants(record: &Record, layers: Vec<PathBuf>) -> Grants {
    Grants {
        args: record.args(),
        env: record.env.clone(),
        cwd: record.working_dir.clone(),
        root: RootGrant::Layers(layers),
        root_writable: !record.read_only,
        binds: record.mounts.iter().map(bind).collect(),
        secrets: record.secrets.clone(),
        paths: record.paths.clone(),
        proc: record.proc.clone(),
        network: record.network,
        published: record.published.clone(),
        exposed: record.exposed.clone(),
        address: record.address(),
        member: record.joined.as_ref().map(|joined| Membership { network: joined.network.clone(), names: vec![] }),
        egress: record.egress.clone(),
        stdin: record.open_stdin,
        terminal: record.tty,
        spawn: record.allow_spawn,
        http: record.http.clone(),
        limits: Limits { grace: Some(record.stop_timeout), ..record.limits.clone() },
    }
}

/// Takes the container's name and writes the bundle and then the record, which makes it a container: a directory without
/// one, or a name that leads to such a directory, was left by somebody who died, unless the directory is locked.
fn write_down(store: &Store, dir: &Path, record: &mut Record, grants: &Grants) -> Result<()> {
    if !record.auto_remove {
        std::fs::write(dir.join(ROOM), [0; 4096]).map_err(StoreError::io("write", dir.join(ROOM)))?;
    }
    if record.name.is_empty() {
        record.name = draw_name(store, &record.id)?;
    } else {
        take_name(store, &record.name, &record.id)?;
    }
    write_files(store, dir, record, grants).inspect_err(|_| release_name(store, &record.name, &record.id))
}

fn write_files(store: &Store, dir: &Path, record: &Record, grants: &Grants) -> Result<()> {
    // What is removed at its end, or is of a pod, which kubelet makes anew, need not outlive the power.
    let passing = record.auto_remove || record.inside != Inside::default();
    let durability = if passing { Durability::Buffered } else { Durability::Flushed };
    let spec = match &grants.member {
        None => grants.to_spec()?,
        // Its peers know it by its name, which it has now.
        Some(member) => {
            Grants { member: Some(Membership { names: record.names(), ..member.clone() }), ..grants.clone() }
                .to_spec()?
        }
    };
    files::write_json(&dir.join("config.json"), &spec, durability)?;
    files::write_json(&dir.join("record.json"), record, durability)?;
    if durability == Durability::Flushed {
        files::flush_dir(&store.containers())?;
        files::flush_dir(&store.names())?;
    }
    Ok(())
}

fn draw_name(store: &Store, id: &str) -> Result<String> {
    let mut attempt = 0;
    loop {
        let name = id::draw_name(id, attempt);
        match take_name(store, &name, id) {
            Err(ContainerError::NameInUse { .. }) if attempt < 100 => attempt += 1,
            other => return other.map(|()| name),
        }
    }
}

fn bind(mount: &MountPoint) -> BindGrant {
    BindGrant {
        source: mount.source.clone(),
        destination: mount.destination.clone(),
        writable: mount.writable,
        shallow: mount.shallow,
    }
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
    let dir = store.containers().join(&by);
    // One that is being made has its lock before its name and its record after it.
    if Lock::is_held(&dir.join("lock")) || dir.join("record.json").exists() {
        return Err(ContainerError::NameInUse { name: name.to_owned(), by });
    }
    let _ = std::fs::remove_file(&link);
    take().map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => ContainerError::NameInUse { name: name.to_owned(), by },
        _ => StoreError::io("take the name", &link)(e).into(),
    })
}

/// Gives a name back, if it is (still) the one of this id.
pub(super) fn release_name(store: &Store, name: &str, id: &str) {
    let link = store.names().join(name);
    if std::fs::read_link(&link).is_ok_and(|known| known.as_os_str() == id) {
        let _ = std::fs::remove_file(&link);
    }
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
    fn a_name_is_taken_while_its_container_is_being_made_and_free_when_its_maker_died() {
        let (dir, store) = store();
        let half = store.containers().join("ab");
        std::fs::create_dir(&half).unwrap();
        std::os::unix::fs::symlink("ab", store.names().join("web")).unwrap();
        let making = Lock::wait(&half.join("lock")).unwrap();
        assert!(matches!(create(&store, settings("web"), None), Err(ContainerError::NameInUse { .. })));
        drop(making);
        create(&store, settings("web"), None).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_runs_in_the_foreground_without_a_name_is_written_down_later() {
        let (dir, store) = store();
        let lease = |name| {
            let settings = Settings { auto_remove: true, ..settings(name) };
            create_and_lease(&store, settings, None).unwrap()
        };
        let written = |lease: &Lease| lease.container().dir.join("record.json").exists();
        assert!(!written(&lease("")) && written(&lease("web")));
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
