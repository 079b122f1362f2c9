//! Taking a container away.

use super::{Container, ContainerError, Result, run_place, volumes};
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
/// the rest, which a sweep would take if this process died here.
pub(super) fn take_away(store: &Store, container: &Container, with_volumes: bool) -> Result<()> {
    let record = container.dir.join("record.json");
    std::fs::remove_file(&record).map_err(StoreError::io("remove", &record))?;
    let link = store.names().join(&container.record.name);
    if std::fs::read_link(&link).is_ok_and(|id| id.as_os_str() == container.record.id.as_str()) {
        let _ = std::fs::remove_file(&link);
    }
    let _ = files::remove_tree(&run_place(store, &container.record.id));
    if with_volumes {
        volumes::discard_anonymous(store, &container.record.mounts);
    }
    files::remove_tree(&container.dir)?;
    Ok(())
}

/// Removes what a killed `create` or `rm` has left: a directory without a record that nobody holds.
pub(super) fn sweep(dir: &Path) {
    let lock = dir.join("lock");
    // One that was made this moment may not have its lock yet.
    let old = |meta: std::fs::Metadata| meta.modified().ok().and_then(|m| m.elapsed().ok()).is_some_and(|e| e > MOMENT);
    if !std::fs::metadata(dir).is_ok_and(old) || dir.join("record.json").exists() {
        return;
    }
    if !lock.exists() || matches!(Lock::try_take(&lock), Ok(Some(_))) {
        let _ = files::remove_tree(dir);
    }
}

/// How long a directory is left alone that looks abandoned.
const MOMENT: Duration = Duration::from_secs(10);
