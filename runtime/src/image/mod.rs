//! Images: reference → pull or build → content store → unpacked layers.
//!
//! The content store is an OCI image layout (`content/` in the [store](crate::store)): blobs named by their digest and
//! one `index.json` that says which manifests there are and what they are called. Nothing else names images.
//!
//! ```text
//! reference   "web" → docker.io/library/web:latest
//! blobs       content by digest: where it lies, and writers that hash what they write
//! index       index.json, read without a lock and changed under one
//! images      the images of a store: list, find, tag, publish
//! usage       what images take on the disk
//! remove      taking names and images away, and sweeping what no image mentions
//! formats     a manifest and its config, of whatever kind → a configuration and layers
//! platform    which of an index's images is meant
//! unpack      a layer's archive → a directory, never outside of it
//! entry       a path → the file it means in a stack of layer directories
//! layer       files → a layer's blob, the same bytes each time
//! upper       what an overlay's writable directory changed → such files, for RUN and commit
//! changed     what a container has written → the paths that differ, as diff lists them
//! copied      what was changed in a copy of all layers → such files, where there is no overlay
//! export      the whole tree of a container → an archive
//! build       a Dockerfile → an image
//! cache       the steps of builds, and what they gave
//! pull        a registry → an image
//! push        an image → a registry
//! check       whether all of it is whole
//! aliases     what names stand for that are not here
//! exchange    images ↔ archives that other tools read
//! ```

pub mod aliases;
mod blobs;
pub mod build;
mod cache;
mod changed;
pub(crate) mod check;
mod copied;
pub mod entry;
mod error;
pub mod exchange;
mod export;
mod formats;
mod images;
mod index;
mod layer;
mod packed;
mod platform;
pub mod pull;
pub mod push;
mod reference;
mod remove;
mod unpack;
mod upper;
mod usage;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use oci_spec::image::ImageConfiguration;

pub use cache::Kept;
pub use changed::Change;
pub(crate) use changed::changed;
pub use entry::find_in_layers;
pub(crate) use entry::{directories_at, is_opaque};
pub use error::ImageError;
pub(crate) use export::export;
pub use images::{Images, Resolved};
pub use layer::LayerError;
pub use platform::{BadPlatform, Platform};
pub use reference::{BadReference, Reference};
pub use remove::{Pruned, Removed};
pub use usage::Usage;

#[cfg(any(fuzzing, test))]
pub(crate) use unpack::unpack_for_fuzzing;

/// The result of what is done with images.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// An image as the store knows it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Docker's image id: `sha256:` and the digest of the config.
    pub id: String,
    /// The digest of the manifest, `sha256:…`.
    pub manifest: String,
    /// What the image is called; none for a dangling one.
    pub names: Vec<Reference>,
    /// What the image says about itself and how to run it.
    pub config: ImageConfiguration,
    /// How it says that the health of its containers is checked.
    pub health: Option<crate::container::health::Check>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// What the layers and the config take in the content store.
    pub size: u64,
}

impl Image {
    /// The first twelve digits of the id, as tables show it.
    #[must_use]
    pub fn short_id(&self) -> &str {
        let hex = crate::digest::hex(&self.id).unwrap_or(&self.id);
        hex.get(..12).unwrap_or(hex)
    }

    /// When the image was made, if its config says so.
    #[must_use]
    pub fn created(&self) -> Option<jiff::Timestamp> {
        self.config.created().as_ref()?.parse().ok()
    }

    /// What to call the image in a message: its first name, or else the short id.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.names.first().map_or_else(|| self.short_id().to_owned(), Reference::familiar)
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the blob, as stored.
    pub digest: String,
    /// What the blob is: an archive, and how it is compressed.
    pub media_type: String,
    /// The blob's size.
    pub size: u64,
    /// The digest of the archive, uncompressed.
    pub diff_id: String,
    /// What names this layer on top of those below it; the unpacked directory is called by its hex digits.
    pub chain_id: String,
    /// The path of the one file that the layer is, if it is no archive.
    pub file: Option<String>,
}

/// The chain ids of layers with these diff ids, lowest first.
///
/// OCI image specification, config.md: `ChainID(L0|…|Ln) = Digest(ChainID(L0|…|Ln-1) + " " + DiffID(Ln))`.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => crate::digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}
