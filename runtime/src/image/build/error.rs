//! What goes wrong in a build, and where in the Dockerfile.

use crate::image::{ImageError, LayerError};
use crate::store::StoreError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile cannot be read.
    #[error("cannot read the Dockerfile {}: {source}; name another with -f", path.display())]
    Dockerfile {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The build context cannot be read.
    #[error("cannot read the build context {}: {source}; it must be a directory", path.display())]
    Context {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An instruction cannot be done.
    #[error("{at}: {problem}")]
    At {
        /// Which instruction.
        at: Location,
        /// Why not.
        problem: Problem,
    },
    /// A container cannot be made into an image.
    #[error("{problem}")]
    Commit {
        /// Why not.
        problem: Problem,
    },
    /// The image cannot be put in place.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A place in a Dockerfile, counted from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why an instruction cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The text is no instruction.
    #[error("{0}")]
    Syntax(String),
    /// No instruction is called so.
    #[error(
        "unknown instruction {0:?}; this version knows FROM, COPY, ENV, WORKDIR, EXPOSE, LABEL, VOLUME, ENTRYPOINT and CMD"
    )]
    UnknownInstruction(String),
    /// Docker knows this, and this version does not yet.
    #[error("{what} is not supported yet by this version")]
    NotYet {
        /// The instruction or its flag.
        what: String,
    },
    /// There is no such base image, here or at its registry.
    #[error("FROM {name} failed: {reason}")]
    NoBase {
        /// Its name, as written.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A source of COPY is not there.
    #[error("COPY failed: {path:?} is not in the build context {}{}", context.display(), why_ignored(*.ignored))]
    NotInContext {
        /// The source, as written.
        path: String,
        /// The build context.
        context: PathBuf,
        /// Whether it is there, and left out by `.dockerignore`.
        ignored: bool,
    },
    /// A source of COPY is not to be had.
    #[error("COPY failed: {path:?} leads out of the build context {}; copy it into the context first", context.display())]
    OutsideContext {
        /// The source, as written.
        path: String,
        /// The build context.
        context: PathBuf,
    },
    /// Something cannot be in the new layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The image below, or the new layer.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Problem {
    /// Wraps what the system said of reading a source; for `map_err`.
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| LayerError::Read { path, source }.into()
    }

    /// Something that is no directory is in the way, there in the image.
    pub(super) fn in_the_way(path: impl AsRef<Path>) -> Self {
        LayerError::NotADirectory { path: Path::new("/").join(path) }.into()
    }
}

fn why_ignored(ignored: bool) -> &'static str {
    if ignored { ": .dockerignore leaves it out" } else { "" }
}
