//! Taking a container away.

use super::create::release_name;
use super::update::UPDATE_LOCK;
use super::{Container, ContainerError, Result, networks, run_place, volumes};
use crate::store::{Lock, Store, StoreError, files};
use std::path::Path;
use std::time::Duration;

/// Removes a container that does not run.
/// `with_volumes` takes its anonymous volumes along.
///
/// # Errors
/// When it runs, or the store cannot be written.
pub fn remove(store: &Store, container: &Container, with_volumes: bool) -> Result<()> {
    let Some(_lock) = Lock::try_take(&container.dir.join("lock"))? else {
        return Err(ContainerError::Running {
            id: container.record.id.clone(),
            hint: "stop it first, or remove it with -f",
        });
    };
    take_away(store, container, with_volumes)
}

/// The same for who holds the lock already. Without its record it is no container any more; then goes its name, then
/// the rest, which a sweep would take if this process died here. (One that was never written down has no record.)
pub(super) fn take_away(store: &Store, container: &Container, with_volumes: bool) -> Result<()> {
    let record = container.dir.join("record.json");
    // A change of its settings at this moment must not bring the record back.
    let _update = Lock::wait(&container.dir.join(UPDATE_LOCK)).ok();
    match std::fs::remove_file(&record) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("remove", record)(e).into()),
        _ => {}
    }
    release_name(store, &container.record.name, &container.record.id);
    if let Some(joined) = &container.record.joined {
        networks::release_address(store, &joined.network, joined.address.ip, &container.record.id);
    }
    let _ = files::remove_tree(&run_place(store, &container.record.id));
    if with_volumes {
        volumes::discard_anonymous(store, &container.record.mounts);
    }
    files::remove_tree(&container.dir)?;
    container.tell(store, "destroy", []);
    Ok(())
}

/// Removes a container that was never written down: what it has is known, unless its guest has written something.
pub(super) fn take_away_unwritten(dir: &Path) -> Result<()> {
    for known in ["upper", "work/work", "work"] {
        let _ = std::fs::remove_dir(dir.join(known));
    }
    let _ = std::fs::remove_file(dir.join("lock"));
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(_) => Ok(files::remove_tree(dir)?),
    }
}

/// Removes what a killed `create` or `rm` has left: a directory without a record that nobody holds, with what
/// it had in the run directory, and its name.
pub(super) fn sweep(store: &Store, dir: &Path) {
    let lock = dir.join("lock");
    if !is_abandoned(dir) {
        return;
    }
    if !lock.exists() || matches!(Lock::try_take(&lock), Ok(Some(_))) {
        let id = dir.file_name().unwrap_or_default().to_string_lossy();
        let _ = files::remove_tree(&run_place(store, &id));
        // Its name first: who dies here leaves what the next sweep takes.
        for name in std::fs::read_dir(store.names()).into_iter().flatten().flatten() {
            release_name(store, &name.file_name().to_string_lossy(), &id);
        }
        let _ = files::remove_tree(dir);
    }
}

/// Whether a directory without a record was left by somebody who died.
pub(super) fn is_abandoned(dir: &Path) -> bool {
    // One that was made this moment may not have its lock yet.
    std::fs::metadata(dir).is_ok_and(|meta| is_old(&meta))
        && !dir.join("record.json").exists()
        && !Lock::is_held(&dir.join("lock"))
}

/// Whether something was not made at this moment. After the clock was set back, what is new may have a time to come, but
/// not by much.
pub(super) fn is_old(meta: &std::fs::Metadata) -> bool {
    meta.modified().is_ok_and(|made| match made.elapsed() {
        Ok(age) => age > MOMENT,
        Err(ahead) => ahead.duration() > MOMENT,
    })
}

/// How long a directory is left alone that looks abandoned.
const MOMENT: Duration = Duration::from_secs(10);
