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
    /// An image shall be for something that its program is not.
    #[error(
        "the image shall be for {wanted}/wasm, and its program is for {found}/wasm; leave --platform out, or correct it"
    )]
    OtherPlatform {
        /// What was asked for.
        wanted: &'static str,
        /// What the program is.
        found: &'static str,
    },
    /// What was built cannot be written where it shall be.
    #[error("cannot write what was built: {problem}")]
    Output {
        /// Why not.
        problem: LayerError,
    },
    /// Images were to be pulled, and whoever asked gave no way to.
    #[error("images cannot be pulled here; leave --pull out")]
    CannotPull,
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
    #[error("unknown instruction {word:?}; there are {known}")]
    UnknownInstruction {
        /// The word.
        word: String,
        /// What there is.
        known: &'static str,
    },
    /// Docker knows this, and this version does not yet.
    #[error("{what} is not supported yet by this version")]
    NotYet {
        /// The instruction or its flag.
        what: String,
    },
    /// There is no such base image in the store, and none could be brought.
    #[error("there is no image {name} here, {}{hint}", why_not(.pull))]
    NoBase {
        /// Its name, as written.
        name: String,
        /// Why none could be brought.
        pull: Option<String>,
        /// What else the user may have meant.
        hint: String,
    },
    /// Stages need each other in a circle.
    #[error("circular dependency: stage {path}; one of them must come from another image, or from scratch")]
    Circular {
        /// The stages, in the order in which they need each other.
        path: String,
    },
    /// There is no such stage.
    #[error("there is no stage {name:?}; this Dockerfile has {known}")]
    NoStage {
        /// What was asked for.
        name: String,
        /// The stages.
        known: String,
    },
    /// A native program would have to run.
    #[error(
        "{what}, and nothing native runs here: RUN runs Wasm programs. Build outside and COPY the result, or give what this \
         stage would make as a directory: --build-context {stage}=DIR"
    )]
    Native {
        /// What is native.
        what: String,
        /// The stage's name.
        stage: String,
    },
    /// RUN's program ended with an exit code other than 0.
    #[error("RUN failed: {command:?} ended with the exit code {code}{said}")]
    RunFailed {
        /// What was run.
        command: String,
        /// Its exit code.
        code: u8,
        /// What it said, if that was not shown.
        said: String,
    },
    /// RUN's program could not be run at all.
    #[error("RUN failed: {reason}")]
    CannotRun {
        /// Why.
        reason: String,
    },
    /// What RUN names is not there.
    #[error("RUN failed: there is no program {program:?} in this stage{hint}")]
    NoProgram {
        /// Its name or path.
        program: String,
        /// What to do.
        hint: &'static str,
    },
    /// A remote file.
    #[error("ADD {url} failed: {reason}")]
    Remote {
        /// Where it is.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A source of COPY is not there.
    #[error("COPY failed: {path:?} is not in {context}{}", why_ignored(*.ignored))]
    NotInContext {
        /// The source, as written.
        path: String,
        /// What was looked in: "the build context DIR", "the stage NAME".
        context: String,
        /// Whether it is there, and left out by `.dockerignore`.
        ignored: bool,
    },
    /// A source of COPY is not to be had.
    #[error("COPY failed: {path:?} leads out of {context}; copy it into the context first")]
    OutsideContext {
        /// The source, as written.
        path: String,
        /// What was looked in: "the build context DIR", "the stage NAME".
        context: String,
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

fn why_not(pull: &Option<String>) -> &str {
    pull.as_deref().unwrap_or("and this version cannot pull one; build it first")
}
