//! Where FROM and COPY --from find images: in the store, or brought by whoever can.

use super::Problem;
use super::stage::Build;
use crate::image::{Image, ImageError, Images};
use crate::store::Store;
use std::path::PathBuf;

/// What anything that is brought from elsewhere can fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Brings an image of this name, for this platform if one is said, into the store.
pub type Pull = fn(&Store, &str, Option<&str>) -> Result<Image, Failure>;

/// Writes the file at a URL to a new file.
pub type Fetch = fn(&str, &std::path::Path) -> Result<(), Failure>;

/// Something that stands for a stage or an image: `--build-context NAME=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Dir(PathBuf),
    /// An image, by its name.
    Image(String),
}

/// The image of this name. `hint` is what else the user may have meant.
pub(super) fn find(build: &Build<'_>, name: &str, platform: Option<&str>, hint: String) -> Result<Image, Problem> {
    let options = build.options;
    if !options.always_pull {
        match Images::new(build.store).find(name) {
            Err(ImageError::NotFound { .. }) => {}
            other => return Ok(other?),
        }
    }
    let name = name.to_owned();
    let Some(pull) = options.pull else { return Err(Problem::NoBase { name, pull: None, hint }) };
    pull(build.store, &name, platform).map_err(|error| Problem::NoBase { name, pull: Some(error.to_string()), hint })
}
