//! Why there is no image after a pull.

use crate::container::ContainerError;
use crate::image::ImageError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why there is no image after a pull.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The image cannot be put in place, or a layer cannot be unpacked.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The program cannot be looked for.
    #[error(transparent)]
    Program(#[from] Box<ContainerError>),
    /// The index has nothing for us.
    #[error(
        "{image} has nothing for {}: it is for {}", wanted_platform(.wanted.as_deref()), list(.there)
    )]
    NoPlatform {
        /// The image.
        image: String,
        /// What was asked for with `--platform`.
        wanted: Option<String>,
        /// What there is.
        there: Vec<String>,
    },
    /// The image is for processors, not for Wasm.
    #[error(
        "{image} carries no Wasm: it is for {platform}, and sampan runs Wasm alone \
         (wasip2/wasm, wasip1/wasm, wasi/wasm, or the annotation module.wasm.image/variant=compat)"
    )]
    Native {
        /// The image.
        image: String,
        /// What it is for.
        platform: String,
    },
    /// A manifest, index or config that cannot be taken.
    #[error("{image} cannot be taken: {reason}")]
    Format {
        /// The image.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another image's removal took layers away that this one shares.
    #[error("layers of the image were removed again and again while it was pulled; try again")]
    LayerRemoved,
    /// A part of the work broke down.
    #[error("the pull broke down: {0}")]
    Threads(String),
}

fn wanted_platform(wanted: Option<&str>) -> &str {
    wanted.unwrap_or("Wasm (wasip2/wasm, wasip1/wasm, wasi/wasm)")
}

fn list(there: &[String]) -> String {
    if there.is_empty() { "no platform at all".to_owned() } else { there.join(", ") }
}
