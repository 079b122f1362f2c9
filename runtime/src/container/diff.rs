//! What a container has changed in its image's files.

use super::commit::written;
use super::{Container, Result};
use crate::image::{Change, changed};
use std::path::PathBuf;

/// The paths that a container has changed, in their order; absolute, as the container sees them. What is mounted is not
/// looked at.
///
/// # Errors
/// When a file cannot be read.
pub fn diff(container: &Container) -> Result<Vec<(PathBuf, Change)>> {
    let (written, layers) = written(container)?;
    Ok(changed(&written, &layers)?)
}
