//! Compiled code that no container and no image needs.

use super::{Container, Result, find, program};
use crate::guest::garbage::{self, CodeUse};
use crate::store::Store;
use std::path::PathBuf;

/// What compiled code takes, and how much of it is needed.
///
/// # Errors
/// When the store cannot be read.
pub fn code_usage(store: &Store) -> Result<CodeUse> {
    Ok(garbage::usage(store, &programs(store)?)?)
}

/// Removes compiled code that nobody needs, and says what there was.
///
/// # Errors
/// When the store cannot be read or written.
pub fn sweep_code(store: &Store) -> Result<CodeUse> {
    Ok(garbage::sweep(store, &programs(store)?)?)
}

/// The files that containers run.
fn programs(store: &Store) -> Result<Vec<PathBuf>> {
    let program =
        |container: &Container| Some(program::locate_program(&container.dir, &container.grants().ok()?).ok()?.0);
    Ok(find::list(store)?.iter().filter_map(program).collect())
}
