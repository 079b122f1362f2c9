//! What a build is for besides an image of the store: its files in a directory or an archive, or its program alone as a
//! Wasm artifact.

use super::context::Context;
use super::{BuildError, Problem, copy};
use crate::digest;
use crate::image::index::MANIFEST_TYPE;
use crate::image::layer::Plan;
use crate::image::{Image, Images, LayerError, blobs};
use crate::store::{Store, StoreError};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use tar::{EntryType, Header};

/// The types of the CNCF's Wasm artifact: <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>.
const ARTIFACT_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const ARTIFACT_LAYER: &str = "application/wasm";

/// What a component imports and exports; of a module nothing is said.
#[derive(Debug, Clone, Copy)]
pub struct Interfaces<'a> {
    /// The interfaces that it asks for.
    pub imports: &'a [String],
    /// The interfaces that it has.
    pub exports: &'a [String],
}

/// Copies an image's files into a directory, which is made if it is not there; what is there under the same names goes.
///
/// # Errors
/// When the image cannot be read, or the directory cannot be written.
pub fn write_dir(store: &Store, image: &Image, to: &Path) -> Result<(), BuildError> {
    let write = || -> Result<(), LayerError> { files(store, image)?.write_into(to) };
    write().map_err(|problem| BuildError::Output { problem })
}

/// Writes an image's files as a tar archive without compression.
///
/// # Errors
/// When the image cannot be read, or the archive cannot be written.
pub fn write_tar(store: &Store, image: &Image, out: impl Write) -> Result<(), BuildError> {
    let write = || -> Result<(), LayerError> {
        files(store, image)?
            .archive(out, Path::new("the archive"))
            .and_then(|(mut out, _)| out.flush().map_err(|e| StoreError::io("write", "the archive")(e).into()))
    };
    write().map_err(|problem| BuildError::Output { problem })
}

/// All files of an image, its layers merged.
fn files(store: &Store, image: &Image) -> Result<Plan, LayerError> {
    let dirs = Images::new(store).layer_dirs(image).map_err(|e| match e {
        crate::image::ImageError::Store(e) => LayerError::Store(e),
        other => StoreError::Damaged { path: store.layers(), reason: other.to_string() }.into(),
    })?;
    let tree = Context::of_layers(dirs, image.display_name());
    copy::everything(&tree).map_err(|problem| match problem {
        Problem::Layer(error) => error,
        Problem::Store(error) => error.into(),
        other => StoreError::Damaged { path: store.layers(), reason: other.to_string() }.into(),
    })
}

/// Writes the program of an image as a Wasm artifact, in an archive that is an OCI image layout. `name` is what it is
/// called there.
///
/// # Errors
/// When the program cannot be read, or the archive cannot be written.
pub fn write_artifact(
    image: &Image,
    program: &Path,
    component: Option<Interfaces<'_>>,
    name: Option<&str>,
    out: impl Write,
) -> Result<(), BuildError> {
    let failed = |problem: LayerError| BuildError::Output { problem };
    let document = |value: Value| blobs::document(&value).map_err(|e| failed(e.into()));
    let mut wasm = Vec::new();
    let read = File::open(program).and_then(|mut file| file.read_to_end(&mut wasm));
    read.map_err(LayerError::read(program)).map_err(failed)?;
    let layer = digest::of(&wasm);
    let mut config = Map::new();
    config.insert("created".to_owned(), json!(image.config.created()));
    config.insert("architecture".to_owned(), json!("wasm"));
    config.insert("os".to_owned(), json!(if component.is_some() { "wasip2" } else { "wasip1" }));
    config.insert("layerDigests".to_owned(), json!([layer]));
    if let Some(author) = image.config.author() {
        config.insert("author".to_owned(), json!(author));
    }
    if let Some(component) = component {
        let interfaces = json!({ "exports": component.exports, "imports": component.imports });
        config.insert("component".to_owned(), interfaces);
    }
    let config = Value::Object(config);
    let config = document(config)?;
    let of =
        |media_type: &str, digest: &str, size: usize| json!({"mediaType": media_type, "digest": digest, "size": size});
    let manifest = document(json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": of(ARTIFACT_CONFIG, &digest::of(&config), config.len()),
        "layers": [of(ARTIFACT_LAYER, &layer, wasm.len())],
    }))?;
    let mut entry = of(MANIFEST_TYPE, &digest::of(&manifest), manifest.len());
    if let (Some(name), Some(entry)) = (name, entry.as_object_mut()) {
        entry.insert("annotations".to_owned(), json!({"org.opencontainers.image.ref.name": name}));
    }
    let index = document(json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let mut archive = tar::Builder::new(out);
    let mut write = || -> std::io::Result<()> {
        for dir in ["blobs/", "blobs/sha256/"] {
            put(&mut archive, dir, &[], EntryType::Directory)?;
        }
        for blob in [&config, &manifest, &wasm] {
            let name = format!("blobs/sha256/{}", digest::of(blob).trim_start_matches("sha256:"));
            put(&mut archive, &name, blob, EntryType::Regular)?;
        }
        put(&mut archive, "index.json", &index, EntryType::Regular)?;
        put(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, EntryType::Regular)?;
        archive.finish()?;
        archive.get_mut().flush()
    };
    write().map_err(|e| failed(StoreError::io("write", "the archive")(e).into()))
}

/// An entry that says nothing of the moment.
fn put(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8], kind: EntryType) -> std::io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
    archive.append_data(&mut header, name, content)
}
