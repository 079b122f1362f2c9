//! Content by digest: where it lies.

use crate::digest;
use crate::store::{Result, Store, StoreError};
use serde::Serialize;
use std::path::PathBuf;

/// A document as JSON, the same bytes each time: labels, ports and volumes are maps that have no order of their own, and
/// an image's id must not depend on how they happen to lie.
pub(crate) fn document(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value).map_err(|e| StoreError::Damaged {
        path: "a document".into(),
        reason: format!("it cannot be written as JSON: {e}"),
    })?;
    value.sort_all_objects();
    Ok(value.to_string().into_bytes())
}

/// Where the blob of this digest lies.
pub(crate) fn path(store: &Store, digest: &str) -> Result<PathBuf> {
    named(store, digest, store.content().join("blobs/sha256"))
}

/// Where the layer of this chain id is unpacked.
pub(crate) fn layer_dir(store: &Store, chain_id: &str) -> Result<PathBuf> {
    named(store, chain_id, store.layers())
}

fn named(store: &Store, digest: &str, dir: PathBuf) -> Result<PathBuf> {
    digest::hex(digest).map(|hex| dir.join(hex)).ok_or_else(|| StoreError::Damaged {
        path: store.content(),
        reason: format!("{digest:?} is named in it, which is not a sha256 digest"),
    })
}
