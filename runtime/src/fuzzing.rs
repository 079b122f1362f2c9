//! Doors for the fuzz targets in `fuzz/`; there only when they are built, and in tests, so that they go on fitting.

use crate::image::Reference;
use crate::image::build::{BuildOptions, build};
use crate::image::exchange::Archive;
use crate::store::{Store, files};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of this run's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sampan-fuzz-{}-{n}", std::process::id()));
        let _ = std::fs::create_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = files::remove_tree(&self.0);
    }
}

/// Unpacks a layer's archive, with a file beside it that must stay as it is.
///
/// # Panics
/// When something outside of its directory was touched.
#[allow(clippy::panic, reason = "this is how a fuzz target says that it has found something")]
pub fn layer(bytes: &[u8]) {
    let place = Place::new();
    let victim = place.0.join("victim");
    let _ = std::fs::write(&victim, "safe");
    crate::image::unpack_for_fuzzing(bytes, &place.0.join("layer"));
    let left = std::fs::read_dir(&place.0).into_iter().flatten().count();
    if std::fs::read(&victim).ok().as_deref() != Some(b"safe") || left > 2 {
        panic!("something outside of the layer was touched");
    }
}

/// Reads an archive of images.
pub fn archive(bytes: &[u8]) {
    let place = Place::new();
    if let Ok(store) = Store::open(&place.0.join("root"), &place.0.join("run")) {
        let _ = Archive::read(&store, bytes);
    }
}

/// Builds a Dockerfile in a context with one file.
pub fn dockerfile(text: &str) {
    let place = Place::new();
    let context = place.0.join("context");
    let _ = std::fs::create_dir(&context);
    let _ = std::fs::write(context.join("f"), "x");
    let _ = std::fs::write(context.join("Dockerfile"), text);
    if let Ok(store) = Store::open(&place.0.join("root"), &place.0.join("run")) {
        let _ = build(&store, &BuildOptions { context, ..BuildOptions::default() }, &mut ());
    }
}

/// Reads an image's name, and writes it again.
///
/// # Panics
/// When it is another name then.
#[allow(clippy::panic, reason = "this is how a fuzz target says that it has found something")]
pub fn reference(text: &str) {
    if let Ok(name) = text.parse::<Reference>() {
        for written in [name.to_string(), name.familiar()] {
            if written.parse::<Reference>().ok().as_ref() != Some(&name) {
                panic!("{text:?} is written as {written:?}, which is another name");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_doors_open() {
        super::layer(b"no layer");
        super::archive(b"no archive");
        super::dockerfile("FROM scratch\nCOPY f /\n");
        super::reference("web:1");
        super::reference("no name");
    }
}
