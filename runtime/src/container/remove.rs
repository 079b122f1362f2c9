//! Taking a container away.

use super::{Container, ContainerError, Result, run_place, volumes};
use crate::store::{Lock, Store, StoreError, files};

/// Removes a container that does not run: its directory goes out of sight in one step, then its name, then the rest.
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

/// The same for who holds the lock already.
pub(super) fn take_away(store: &Store, container: &Container, with_volumes: bool) -> Result<()> {
    let scratch = store.scratch()?;
    let aside = scratch.path().join("container");
    std::fs::rename(&container.dir, &aside).map_err(StoreError::io("remove", &container.dir))?;
    let link = store.names().join(&container.record.name);
    if std::fs::read_link(&link).is_ok_and(|id| id.as_os_str() == container.record.id.as_str()) {
        let _ = std::fs::remove_file(&link);
    }
    let _ = files::remove_tree(&run_place(store, &container.record.id));
    if with_volumes {
        volumes::discard_anonymous(store, &container.record.mounts);
    }
    Ok(())
}
