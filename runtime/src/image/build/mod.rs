//! Building: a Dockerfile and a tree of files → an image.
//!
//! ```text
//! lines        the text → statements: one line each, with their here-documents and their place
//! words        flags, lists in brackets
//! instruction  a statement → an instruction with its arguments
//! dockerfile   statements → stages
//! stages       which stages are needed, and what their names mean
//! args         ARG: variables of the build, and the platform
//! expand       words, quotes and $VARIABLES; pattern: the patterns in ${x#…}
//! context      what COPY takes from: a context, a stage, an image; .dockerignore
//! glob         the patterns of COPY and .dockerignore
//! settings     the instructions that change how an image is run
//! copy, add    COPY and ADD
//! run          RUN
//! bases        the images that FROM names
//! digests      what the files of a context hold, remembered
//! input        a context that comes as a stream
//! output       an image's files, or its program alone, for elsewhere
//! stage        what the instructions so far have made; at the end, the image
//! commit       what a container has written → an image
//! ```
//!
//! An instruction is a function that takes its arguments and the `Stage`, and changes the settings or returns the files
//! of a new layer. A layer goes into the store when it is made, kept by the cache; the image is put in place at the end,
//! so that a build that fails or is killed has changed no image and no name.

mod add;
mod args;
mod bases;
mod builder;
pub(crate) mod commit;
mod context;
mod copy;
mod digests;
mod dockerfile;
mod error;
mod expand;
mod glob;
mod input;
mod instruction;
mod lines;
mod output;
mod pattern;
mod run;
mod settings;
mod stage;
mod stages;
mod words;

#[cfg(test)]
mod tests;

use super::{Image, ImageConfiguration, ImageError, Reference};
use crate::grants::Egress;
use crate::store::Store;
use std::path::PathBuf;

pub use args::Platform;
pub use bases::{Failure, Fetch, NamedContext, Pull};
pub use error::{BuildError, Location, Problem};
pub use input::{Input, input};
pub use output::{Interfaces, write_artifact, write_dir, write_tar};

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The directory that COPY takes from.
    pub context: PathBuf,
    /// The Dockerfile; `Dockerfile` in the context if not said.
    pub dockerfile: Option<PathBuf>,
    /// The Dockerfile's text, if it is in no file.
    pub text: Option<String>,
    /// The stage to build; the last if not said.
    pub target: Option<String>,
    /// Values of ARGs.
    pub args: Vec<(String, String)>,
    /// What stands for stages and images of these names.
    pub contexts: Vec<(String, NamedContext)>,
    /// What the image shall be called. Without a name it can be found by its id.
    pub tags: Vec<Reference>,
    /// Whether what RUN says is shown only when it fails.
    pub quiet: bool,
    /// Labels that are set after those of the Dockerfile.
    pub labels: Vec<(String, String)>,
    /// What the image is for; what its program is for if not said.
    pub platform: Option<Platform>,
    /// Do every step anew.
    pub no_cache: bool,
    /// Bring images that FROM names even when they are here.
    pub always_pull: bool,
    /// Brings images that are not here.
    pub pull: Option<Pull>,
    /// Whom RUN may call besides public addresses.
    pub egress: Egress,
    /// Whether RUN may call nobody unless it says so itself.
    pub offline: bool,
    /// Brings remote files, for ADD.
    pub fetch: Option<Fetch>,
    /// The time that the image bears instead of now, and the latest that a file in it may bear: with the same sources
    /// and this, a build gives the same image on any machine. See [`source_date`].
    pub source_date: Option<jiff::Timestamp>,
}

/// The time that `SOURCE_DATE_EPOCH` gives, as <https://reproducible-builds.org/specs/source-date-epoch/> has it: a
/// whole number of seconds since 1970. `None` if the text is not that.
#[must_use]
pub fn source_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(text.parse().ok()?).ok()
}

/// One step of a build.
#[derive(Debug, Clone, Copy)]
pub struct StepInfo<'a> {
    /// The stage's name, if several are built.
    pub stage: Option<&'a str>,
    /// Which step of the stage it is, counted from one; FROM is the first.
    pub index: usize,
    /// How many the stage has.
    pub total: usize,
    /// The instruction.
    pub instruction: &'a str,
}

/// Is told how a build goes on.
pub trait Progress {
    /// A step begins.
    fn step(&mut self, step: &StepInfo<'_>);
    /// The step that began last had nothing to do: an earlier build did the same.
    fn cached(&mut self) {}
    /// The step that began last has called somebody: names or addresses, with ports.
    fn called(&mut self, _whom: &[String]) {}
    /// Something is odd, and no reason to stop.
    fn warn(&mut self, _warning: &str) {}
}

/// Tells nobody.
impl Progress for () {
    fn step(&mut self, _step: &StepInfo<'_>) {}
}

/// Builds an image and gives it its names.
///
/// # Errors
/// When the Dockerfile or the context is not as it should be, or the store cannot be written. Then no image was made and
/// none has lost its name.
pub fn build(store: &Store, options: &BuildOptions, progress: &mut dyn Progress) -> Result<Image, BuildError> {
    build_with(store, options, progress, |_, _| Ok(()))
}

/// The same, and `ready` sees the image's config and its layers' directories (topmost first) before anybody else can:
/// what it refuses is not made, and nobody can take away an image that has no name yet.
///
/// # Errors
/// As [`build`], and what `ready` says.
pub fn build_with<E: From<BuildError>>(
    store: &Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    mut ready: impl FnMut(&ImageConfiguration, &[PathBuf]) -> Result<(), E>,
) -> Result<Image, E> {
    // An image may be removed meanwhile, and layers with it that the cache had promised; they are made anew. Where that
    // happens again and again, the last build takes nothing from the cache, and so can lose nothing.
    let mut built = builder::build(store, options, progress, &mut ready);
    for no_cache in [false, false, true] {
        if !matches!(&built, Err(builder::Stopped::Build(BuildError::Image(ImageError::LayerRemoved { .. })))) {
            break;
        }
        let options = BuildOptions { no_cache: no_cache || options.no_cache, ..options.clone() };
        built = builder::build(store, &options, progress, &mut ready);
    }
    built.map_err(|stopped| match stopped {
        builder::Stopped::Build(error) => error.into(),
        builder::Stopped::Ready(error) => error,
    })
}
