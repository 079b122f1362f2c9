//! What images take on the disk.

use super::images::again_if_removed;
use super::{Image, Images, Result, blobs};
use crate::store::files;
use std::collections::HashMap;

/// What one image takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Its parts, each with a name that is the same for every image that has the part, and their sizes in bytes: the
    /// blobs of its manifest, config and layers, and its unpacked layers.
    pub parts: Vec<(String, u64)>,
}

impl Usage {
    /// All of it, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }
}

impl Images<'_> {
    /// Every image with what it takes, and what all of them take together: what two share counts once there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self) -> Result<(Vec<(Image, Usage)>, u64)> {
        again_if_removed(self.store, || {
            let mut sizes: HashMap<String, u64> = HashMap::new();
            let mut all = Vec::new();
            for image in self.list()? {
                let mut parts = Vec::new();
                for digest in [&image.manifest, &image.id].into_iter().chain(image.layers.iter().map(|l| &l.digest)) {
                    let path = blobs::path(self.store, digest)?;
                    parts.push((digest.clone(), path.symlink_metadata().map_or(0, |meta| meta.len())));
                }
                for layer in &image.layers {
                    let dir = blobs::layer_dir(self.store, &layer.chain_id)?;
                    let name = format!("unpacked {}", layer.chain_id);
                    let size = sizes.get(&name).copied().unwrap_or_else(|| files::tree_size(&dir));
                    parts.push((name, size));
                }
                parts.sort();
                parts.dedup();
                sizes.extend(parts.iter().cloned());
                all.push((image, Usage { parts }));
            }
            let total = sizes.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
            Ok((all, total))
        })
    }
}
