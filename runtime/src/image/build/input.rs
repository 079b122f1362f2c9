//! What standard input can be: a Dockerfile, or a whole context as an archive.

use super::BuildError;
use crate::image::packed::{self, Packed};
use crate::image::unpack::unpack_archive;
use crate::store::{Scratch, Store, StoreError};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// A context that came as a stream. It goes with its value.
#[derive(Debug)]
pub struct Input {
    scratch: Scratch,
    /// The Dockerfile, if the stream was that and no archive; then the context is empty.
    pub text: Option<String>,
}

impl Input {
    /// The context's directory.
    #[must_use]
    pub fn context(&self) -> PathBuf {
        self.scratch.path().join("context")
    }
}

/// Reads a context from a stream: a tar archive, compressed or not, or else a Dockerfile.
///
/// # Errors
/// When it cannot be read, is neither, or the store cannot be written.
pub fn input(store: &Store, mut stream: impl Read) -> Result<Input, BuildError> {
    let failed = |source: std::io::Error| BuildError::Context { path: PathBuf::from("-"), source };
    let invalid = |what: String| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    let scratch = store.scratch()?;
    let context = scratch.path().join("context");
    let mut start = Vec::new();
    stream.by_ref().take(512).read_to_end(&mut start).map_err(failed)?;
    let is_packed = Packed::of(&start).is_some();
    let is_tar = start.get(257..262) == Some(b"ustar");
    let mut whole = Cursor::new(start).chain(stream);
    if !is_packed && !is_tar {
        let mut text = String::new();
        whole.read_to_string(&mut text).map_err(|e| {
            invalid(format!("standard input is neither a tar archive, compressed or not, nor a Dockerfile ({e})"))
        })?;
        std::fs::create_dir(&context).map_err(StoreError::io("create", &context))?;
        return Ok(Input { scratch, text: Some(text) });
    }
    unpack_archive(packed::unpacked(whole).map_err(failed)?, &context)
        .map_err(|reason| invalid(format!("the archive on standard input: {reason}")))?;
    Ok(Input { scratch, text: None })
}

/// Whether a directory is such a context, of which nothing need be remembered.
pub(super) fn is_passing(store: &Store, context: &Path) -> bool {
    context.starts_with(store.root())
}
