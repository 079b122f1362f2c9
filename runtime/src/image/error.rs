//! What goes wrong with images.

use super::BadReference;
use crate::store::StoreError;

/// What goes wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name breaks Docker's rules for names.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// No image has this name or id.
    #[error("no such image: {name}; pull it, build it with `sampan build -t {name} .`, or see `sampan images`")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The name means an image that cannot be run here.
    #[error("{name} cannot be had here: {advice}")]
    NotForUs {
        /// What was asked for.
        name: String,
        /// What to do instead.
        advice: String,
    },
    /// A file of aliases cannot be read.
    #[error("{}: {reason}", path.display())]
    Aliases {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Several images' ids begin so.
    #[error("{prefix} is ambiguous: the ids of {count} images begin so; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many images fit.
        count: usize,
    },
    /// An image that a container needs was to be removed.
    #[error("conflict: image {image} is used by container {container}; remove the container first{}", or_force(*.force))]
    InUse {
        /// The image, by name or short id.
        image: String,
        /// The container's short id.
        container: String,
        /// Whether force was given already and could not help.
        force: bool,
    },
    /// An image with several names was to be removed by its id.
    #[error("conflict: image {image} has several names ({}); remove them by name, or all at once with --force", .names.join(", "))]
    SeveralNames {
        /// The short id.
        image: String,
        /// The names.
        names: Vec<String>,
    },
    /// A digest was given where a name is meant.
    #[error("cannot name an image {reference}: a digest is made, not given; leave out the part after @")]
    DigestAsName {
        /// What was given.
        reference: String,
    },
    /// The image below a build went away while the build ran.
    #[error("the base image {base} was removed while this build ran; bring it back and build again")]
    BaseRemoved {
        /// The base image's short id.
        base: String,
    },
    /// A layer that a build counted on went away while it ran.
    #[error("the layer {digest} was removed while this build ran; build again")]
    LayerRemoved {
        /// The layer's digest.
        digest: String,
    },
    /// An artifact, whose layers are no archives, was to be put into a Docker archive.
    #[error(
        "image {image} is an artifact, whose Wasm is a layer of its own, and a Docker archive holds only archives: save \
         it with --format oci-archive"
    )]
    NoDockerForm {
        /// The image.
        image: String,
    },
    /// A layer is of a kind that cannot be unpacked.
    #[error("layer {digest} has the type {media_type:?}; what can be taken: {accepted}")]
    LayerType {
        /// The layer's digest.
        digest: String,
        /// Its media type.
        media_type: String,
        /// The types that can be unpacked.
        accepted: &'static str,
    },
    /// A layer's archive is not what the image says, or tries to leave its directory.
    #[error("layer {digest} is refused: {reason}")]
    BadLayer {
        /// The layer's digest.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit that the environment moves is no number.
    #[error("{variable} is {value:?}, and a number was wanted, with k, m, g or t at its end or nothing")]
    BadLimit {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// An archive of images is not what it should be.
    #[error("cannot load the archive: {reason}")]
    BadArchive {
        /// What is wrong with it.
        reason: String,
    },
    /// An archive of images cannot be read at all.
    #[error("cannot read the archive: {0}")]
    ArchiveRead(std::io::Error),
    /// An archive of images cannot be written.
    #[error("cannot write the archive: {0}")]
    ArchiveWrite(std::io::Error),
    /// Something in an image is of a kind that nobody here knows.
    #[error("{what} has the type {found:?}, and what is accepted is {}", .accepted.join(", "))]
    UnknownType {
        /// What it is, with its digest.
        what: String,
        /// Its media type.
        found: String,
        /// The types that are known.
        accepted: &'static [&'static str],
    },
    /// An index has no image that can be run here.
    #[error("the index {digest} has no image for Wasm: it has {}; wanted is {wanted}", .found.join(", "))]
    NoPlatform {
        /// The index's digest.
        digest: String,
        /// The platforms that it has.
        found: Vec<String>,
        /// The platforms that were looked for.
        wanted: &'static str,
    },
}

fn or_force(given: bool) -> &'static str {
    if given { "" } else { ", or give --force to take only the names away" }
}
