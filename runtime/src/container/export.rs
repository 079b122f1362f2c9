//! A container's files → an archive.

use super::{Container, Result};
use crate::grants::RootGrant;
use crate::image::{self, Images};
use crate::rootfs;
use crate::store::Store;
use std::io::Write;
use std::path::PathBuf;

/// Writes the container's tree as an archive: its image and what it has written over it, without what is mounted. Links
/// are as the image has them.
///
/// A running container's files are taken as they are at the moment that each is read.
///
/// # Errors
/// When a file cannot be read, or the archive cannot be written.
pub fn export(store: &Store, container: &Container, out: impl Write) -> Result<()> {
    let image = match container.record.image_id.as_str() {
        "" => None,
        id => Some(Images::new(store).find(id)?),
    };
    Ok(image::export(store, &tree(container)?, image.as_ref(), out)?)
}

/// The directories that make the container's tree together, topmost first.
pub(super) fn tree(container: &Container) -> Result<Vec<PathBuf>> {
    let grants = container.grants()?;
    Ok(match grants.root {
        RootGrant::Ready(root) => vec![container.dir.join(root)],
        // Of a copy, the layers may have what was deleted in it.
        RootGrant::Layers(_) if rootfs::is_copied(&container.dir) => vec![rootfs::upper(&container.dir)],
        RootGrant::Layers(layers) => std::iter::once(rootfs::upper(&container.dir)).chain(layers).collect(),
    })
}
