//! Changing what was settled when a container was made.

use super::record::Record;
use super::restart::Policy;
use super::{Container, ContainerError, Result, shared};
use crate::grants::Resources;
use crate::store::{Durability, Lock, files};

/// Held by who changes the record, or takes it away.
pub(super) const UPDATE_LOCK: &str = "update.lock";

/// What is to be changed. Empty fields leave things as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Update {
    /// What becomes of it when it ends.
    pub restart: Option<Policy>,
    /// What it may use.
    pub resources: Resources,
}

/// Changes a container, also while it runs: the next end is under the new policy, and the next start under the new limits.
///
/// # Errors
/// When the change contradicts what is there, or the store cannot be written.
pub fn update(container: &Container, change: Update) -> Result<()> {
    // Of two changes at once neither is lost.
    let _lock = Lock::wait(&container.dir.join(UPDATE_LOCK))?;
    let path = container.dir.join("record.json");
    let mut record: Record = files::read_json(&path)?;
    if let Some(restart) = change.restart {
        if record.auto_remove && restart != Policy::No {
            return Err(ContainerError::RemovedAtItsEnd(record.id));
        }
        if let Some(name) = &record.sandbox {
            shared::check(name, restart, record.on_failure)?;
        }
        record.restart = restart;
    }
    if !change.resources.is_empty() {
        change.resources.apply(&mut record.limits);
        let path = container.dir.join("config.json");
        let mut grants = container.grants()?;
        change.resources.apply(&mut grants.limits);
        files::write_json(&path, &grants.to_spec()?, Durability::Flushed)?;
    }
    files::write_json(&path, &record, Durability::Flushed)?;
    Ok(())
}
