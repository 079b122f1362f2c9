//! Images as files that other tools read: an archive → images (`load`), images → an archive (`save`).
//!
//! ```text
//! contents   an archive → files in a scratch directory, each with its digest; nothing is believed yet
//! load       what the archive says of its files → images that are checked and unpacked, and then put in place at once
//! save       images → an archive
//! ```
//!
//! Two kinds of archives are in use. An **OCI archive** is an OCI image layout in a tar file (image-layout.md of the OCI
//! image specification): blobs by digest and `index.json`. A **Docker archive** has `manifest.json`, which says where in
//! the archive an image's config and its uncompressed layers lie. Docker since 25 writes both into one file; so do we.

mod contents;
mod load;
mod save;

#[cfg(test)]
mod tests;

pub use load::{Archive, Candidate};
pub use save::ArchiveFormat;

/// The file that says what an image layout has.
const INDEX: &str = "index.json";
/// The file that says what a Docker archive has.
const DOCKER_MANIFEST: &str = "manifest.json";
/// The file that says that this is an image layout.
const LAYOUT: &str = "oci-layout";
/// Where an image layout has its blobs.
const BLOBS: &str = "blobs/sha256/";
/// The annotation by which containerd and Docker give an image's whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation of the OCI image layout for a name: the whole one, or the tag alone, as tools please.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
