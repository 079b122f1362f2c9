//! The formats that an image with Wasm comes in, read as one: a configuration, and layers that are unpacked.
//!
//! | format | config | layers |
//! | --- | --- | --- |
//! | OCI and Docker images | an image config | tar, tar+gzip, tar+zstd; or, as runwasi has it, Wasm |
//! | CNCF Wasm artifact | `application/vnd.wasm.config.v0+json` | one `application/wasm` |
//! | Spin | `application/vnd.fermyon.spin.application.v1+config` | Wasm, and files as `…content.layer.v1+data` |
//! | wasmCloud, older tools | any | `application/vnd.module.wasm.content.layer.v1+wasm` |
//!
//! A layer that is no archive is one file of the image. It is unpacked as a directory with that file in it, so that
//! nothing else has to know; the blobs and the manifest stay as they came, and with them their digests.

use super::index::MANIFEST_TYPE;
use super::{Layer, chain_ids};
use crate::container::health::Check;
use crate::digest;
use oci_spec::image::{Arch, Config, ImageConfiguration, Os, RootFs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";

const WASM_LAYERS: [&str; 5] = [
    "application/wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.w3c.wasm.module.v1+wasm",
];
const DATA_LAYER: &str = "application/vnd.wasm.content.layer.v1+data";

/// The annotation by which buildah, crun and Docker mark an image of another platform that carries Wasm.
const VARIANT: [&str; 2] = ["module.wasm.image/variant", "run.oci.handler"];
const TITLE: &str = "org.opencontainers.image.title";

/// A manifest, as it comes (OCI's or Docker's) and as we write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default = "known_version")]
    pub schema_version: u32,
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The one version that manifests have; some tools leave it out.
fn known_version() -> u32 {
    2
}

/// What a manifest says of one blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// The manifest of an image that is made here.
    pub fn of(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let media_type = Some(MANIFEST_TYPE.to_owned());
        Self { schema_version: known_version(), media_type, config, layers, annotations: None }
    }
}

impl Descriptor {
    pub fn new(media_type: &str, digest: String, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: None }
    }
}

/// An image's configuration and layers, whatever its format.
#[derive(Debug)]
pub(super) struct Shape {
    pub config: ImageConfiguration,
    pub layers: Vec<Layer>,
}

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Tar,
    Gzip,
    Zstd,
    /// Not at all: it is one file.
    File,
}

/// How a layer of this type is packed; none if it is of no type that we know.
pub(super) fn packing(media_type: &str) -> Option<Packing> {
    // Some tools add parameters.
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if WASM_LAYERS.contains(&media_type) || media_type == DATA_LAYER {
        return Some(Packing::File);
    }
    let rest = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"))?;
    match rest {
        "" => Some(Packing::Tar),
        "+gzip" | ".gzip" => Some(Packing::Gzip),
        "+zstd" | ".zstd" => Some(Packing::Zstd),
        _ => None,
    }
}

/// What layers can be, for messages.
pub(super) const ACCEPTED: &str = "tar, tar+gzip and tar+zstd layers of OCI and Docker images, application/wasm, \
     application/vnd.bytecodealliance.wasm.component.layer.v0+wasm, application/vnd.wasm.content.layer.v1+wasm (and \
     +data) and application/vnd.module.wasm.content.layer.v1+wasm";

/// How an image's config says that the health of its containers is checked (Docker image specification 1.2; OCI has no
/// place for it).
pub(super) fn health_check(config: &[u8]) -> Option<Check> {
    #[derive(Deserialize)]
    struct Outer {
        config: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "Healthcheck")]
        check: Check,
    }
    // Most say nothing, and this is on the way of every start.
    const KEY: &[u8] = b"\"Healthcheck\"";
    config.windows(KEY.len()).any(|window| window == KEY).then_some(())?;
    serde_json::from_slice::<Outer>(config).ok().map(|outer| outer.config.check)
}

/// Reads a manifest with its config.
///
/// The error says what is wrong with the two.
pub(super) fn shape(manifest: &Manifest, config: &[u8]) -> Result<Shape, String> {
    if manifest.schema_version != known_version() {
        return Err(format!("its manifest has the schema version {}, and 2 is known", manifest.schema_version));
    }
    let unknown: Vec<&str> =
        manifest.layers.iter().map(|l| l.media_type.as_str()).filter(|t| packing(t).is_none()).collect();
    if !unknown.is_empty() {
        return Err(format!("it has layers of the type {}; what can be taken: {ACCEPTED}", unknown.join(", ")));
    }
    let is_image = matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG);
    let read: Result<ImageConfiguration, _> = serde_json::from_slice(config);
    match read {
        Ok(config) if is_image || !config.rootfs().diff_ids().is_empty() => of_image(manifest, config),
        // A config of another type may be anything; an image's must be one, unless it stands for none.
        Err(e) if is_image && manifest.layers.iter().any(|l| packing(&l.media_type) != Some(Packing::File)) => {
            Err(format!("its config cannot be read: {e}"))
        }
        _ => of_artifact(manifest, config),
    }
}

/// An image config: with archives, or with Wasm for layers.
fn of_image(manifest: &Manifest, mut config: ImageConfiguration) -> Result<Shape, String> {
    let wasm: Vec<&Descriptor> = manifest.layers.iter().filter(|l| is_wasm(l)).collect();
    let place = match wasm.as_slice() {
        [] => String::new(),
        [one] => entry(&mut config, one),
        several => return Err(too_many(several.len())),
    };
    // Some tools give a digest to each layer, some to the archives alone.
    let said = config.rootfs().diff_ids().clone();
    let archives = manifest.layers.iter().filter(|l| packing(&l.media_type) != Some(Packing::File)).count();
    let each = said.len() == manifest.layers.len();
    if !each && said.len() != archives {
        return Err(format!("its config has {} layers, and its manifest {}", said.len(), manifest.layers.len()));
    }
    let mut said = said.into_iter();
    let layers = manifest.layers.iter().map(|layer| {
        if packing(&layer.media_type) == Some(Packing::File) {
            if each {
                said.next();
            }
            let file = if is_wasm(layer) { place.clone() } else { title(layer)? };
            return Ok((layer, diff_id_of_file(layer, &file), Some(file)));
        }
        Ok((layer, said.next().unwrap_or_default(), None))
    });
    let layers = layers.collect::<Result<Vec<_>, String>>()?;
    Ok(Shape { layers: stacked(layers), config })
}

/// An artifact without an image config: its Wasm is what it runs.
fn of_artifact(manifest: &Manifest, config: &[u8]) -> Result<Shape, String> {
    let wasm: Vec<&Descriptor> = manifest.layers.iter().filter(|l| is_wasm(l)).collect();
    let said: Value = serde_json::from_slice(config).unwrap_or_default();
    let app = Spin::read(&manifest.config.media_type, &said);
    let module = match wasm.as_slice() {
        [one] => *one,
        [] => {
            return Err(format!(
                "it is of the type {:?} and carries no Wasm; what can be taken: {ACCEPTED}",
                manifest.config.media_type
            ));
        }
        several => return Err(too_many(several.len())),
    };
    let mut made = ImageConfiguration::default();
    let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
    let system = text("os").filter(|os| os.starts_with("wasi"));
    made.set_architecture(Arch::Wasm).set_os(Os::Other(system.unwrap_or_else(|| "wasip2".to_owned())));
    made.set_created(text("created")).set_author(text("author"));
    let mut settings = Config::default();
    settings.set_env(Some(app.env).filter(|env| !env.is_empty()));
    made.set_config(Some(settings));
    let place = entry(&mut made, module);
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        if is_wasm(layer) {
            layers.push((layer, diff_id_of_file(layer, &place), Some(place.clone())));
        } else if packing(&layer.media_type) == Some(Packing::File) {
            let files = app.files.iter().filter(|(digest, _)| *digest == layer.digest).map(|(_, path)| path.clone());
            let mut files: Vec<String> = files.collect();
            if files.is_empty() {
                files.push(title(layer)?);
            }
            layers.extend(files.into_iter().map(|file| (layer, diff_id_of_file(layer, &file), Some(file))));
        } else {
            return Err(format!("it has a layer of the type {}, and no image config", layer.media_type));
        }
    }
    let shape = Shape { layers: stacked(layers), config: made };
    let mut rootfs = RootFs::default();
    rootfs.set_diff_ids(shape.layers.iter().map(|layer| layer.diff_id.clone()).collect());
    let Shape { layers, mut config } = shape;
    config.set_rootfs(rootfs);
    Ok(Shape { layers, config })
}

/// What a Spin application's locked form says of its one component: `components[0]`, its `files` and its `env`
/// (`spin-locked-app`'s LockedComponent).
#[derive(Debug, Default)]
struct Spin {
    files: Vec<(String, String)>,
    env: Vec<String>,
}

impl Spin {
    fn read(media_type: &str, config: &Value) -> Self {
        let component = config.get("components").and_then(|all| all.get(0)).filter(|_| media_type == SPIN_CONFIG);
        let Some(component) = component else { return Self::default() };
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let list = component.get("files").and_then(Value::as_array);
        let files = list.into_iter().flatten().filter_map(|file| Some((text(file, "digest")?, text(file, "path")?)));
        let env = component.get("env").and_then(Value::as_object);
        let env = env.into_iter().flatten().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
        Self { files: files.map(|(digest, path)| (digest, absolute(&path))).collect(), env: env.collect() }
    }
}

fn too_many(count: usize) -> String {
    format!("it has {count} Wasm layers, and a container runs one program: publish each as an image of its own")
}

fn is_wasm(layer: &Descriptor) -> bool {
    packing(&layer.media_type) == Some(Packing::File) && !layer.media_type.starts_with(DATA_LAYER)
}

/// Where the one module of an image lies: where its config looks for it, or in the root under its own name. Sees to it
/// that the config's entrypoint is that place.
fn entry(config: &mut ImageConfiguration, module: &Descriptor) -> String {
    let mut settings = config.config().clone().unwrap_or_default();
    let own = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let (mut entrypoint, mut cmd) = (own(settings.entrypoint()), own(settings.cmd()));
    let looks_so = |word: &&mut String| word.starts_with('/') || word.ends_with(".wasm");
    let place = if let Some(first) = entrypoint.first_mut() {
        *first = absolute(first);
        first.clone()
    } else if let Some(first) = cmd.first_mut().filter(looks_so) {
        *first = absolute(first);
        first.clone()
    } else {
        let place = title(module).ok().filter(|t| t.ends_with(".wasm")).unwrap_or_else(|| "/main.wasm".to_owned());
        entrypoint.push(place.clone());
        place
    };
    settings.set_entrypoint(Some(entrypoint).filter(|words| !words.is_empty()));
    settings.set_cmd(Some(cmd).filter(|words| !words.is_empty()));
    config.set_config(Some(settings));
    place
}

fn title(layer: &Descriptor) -> Result<String, String> {
    let title = layer.annotations.as_ref().and_then(|all| all.get(TITLE)).filter(|title| !title.is_empty());
    title.map(|title| absolute(title)).ok_or_else(|| {
        format!("nothing says where the file of layer {} belongs: it has no annotation {TITLE}", layer.digest)
    })
}

/// A path below the image's root, without `.` and `..`.
fn absolute(path: &str) -> String {
    crate::rootfs::normalize(path).to_string_lossy().into_owned()
}

/// What stands for the digest of the archive that a file's layer is not: it follows from the file and its place, so that no
/// other layer has it.
fn diff_id_of_file(layer: &Descriptor, place: &str) -> String {
    digest::of(format!("file {} {place}", layer.digest).as_bytes())
}

fn stacked(layers: Vec<(&Descriptor, String, Option<String>)>) -> Vec<Layer> {
    let diff_ids: Vec<String> = layers.iter().map(|(_, diff_id, _)| diff_id.clone()).collect();
    let made = layers.into_iter().zip(chain_ids(&diff_ids)).map(|((layer, diff_id, file), chain_id)| Layer {
        digest: layer.digest.clone(),
        media_type: layer.media_type.clone(),
        size: layer.size,
        diff_id,
        chain_id,
        file,
    });
    made.collect()
}

/// Whether the image is for us: a Wasm platform, an artifact with Wasm, or another platform's image that says that it
/// carries Wasm. The answer is the platform it is for if not.
pub(super) fn carries_wasm(manifest: &Manifest, shape: &Shape) -> Result<(), String> {
    let platform = format!("{}/{}", shape.config.os(), shape.config.architecture());
    let words = shape.config.config().iter().flat_map(|c| c.entrypoint().iter().chain(c.cmd().iter()).flatten());
    let runs_wasm = words.take(1).any(|word| word.ends_with(".wasm") || word.ends_with(".wat"));
    let marked = is_marked(manifest.annotations.as_ref()) || manifest.layers.iter().any(is_wasm);
    let is_wasm = matches!(shape.config.architecture().to_string().as_str(), "wasm" | "wasm32" | "wasm64");
    if marked || runs_wasm || is_wasm { Ok(()) } else { Err(platform) }
}

/// Whether annotations say that there is Wasm inside.
pub(super) fn is_marked(annotations: Option<&BTreeMap<String, String>>) -> bool {
    let said = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str).unwrap_or_default();
    VARIANT.iter().any(|key| matches!(said(key), "compat" | "compat-smart" | "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn manifest(config: &str, layers: Value) -> Manifest {
        let config = json!({"mediaType": config, "digest": A, "size": 2});
        serde_json::from_value(json!({"schemaVersion": 2, "config": config, "layers": layers})).unwrap()
    }

    fn wasm(media_type: &str) -> Value {
        json!([{"mediaType": media_type, "digest": A, "size": 1}])
    }

    fn image(settings: &Value, diff_ids: &Value) -> Vec<u8> {
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        json!({"os": "wasip1", "architecture": "wasm", "config": settings, "rootfs": rootfs}).to_string().into_bytes()
    }

    fn runs(shape: &Shape) -> Vec<String> {
        let config = shape.config.config().clone().unwrap();
        [config.entrypoint(), config.cmd()].into_iter().flatten().flatten().cloned().collect()
    }

    #[test]
    fn layers_are_told_by_their_types() {
        for (media_type, packed) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Packing::Tar)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Packing::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Packing::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Packing::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Packing::Tar)),
            ("application/wasm", Some(Packing::File)),
            ("application/vnd.module.wasm.content.layer.v1+wasm", Some(Packing::File)),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("text/plain", None),
        ] {
            assert_eq!(packing(media_type), packed, "{media_type}");
        }
    }

    #[test]
    fn an_artifact_runs_its_module() {
        let config =
            br#"{"os": "wasip1", "architecture": "wasm", "layerDigests": [], "created": "2026-01-01T00:00:00Z"}"#;
        let found = shape(&manifest(WASM_CONFIG, wasm("application/wasm")), config).unwrap();
        assert_eq!(runs(&found), ["/main.wasm"]);
        assert_eq!(found.layers[0].file.as_deref(), Some("/main.wasm"));
        assert_eq!(found.config.os().to_string(), "wasip1");
        let titled = json!([{"mediaType": "application/wasm", "digest": A, "size": 1,
            "annotations": {TITLE: "../../bin/hello.wasm"}}]);
        let found = shape(&manifest("application/vnd.oci.empty.v1+json", titled), b"{}").unwrap();
        assert_eq!(runs(&found), ["/bin/hello.wasm"]);
        carries_wasm(&manifest("x", wasm("application/wasm")), &found).unwrap();
    }

    #[test]
    fn an_image_with_wasm_for_a_layer_has_it_where_its_entrypoint_is() {
        let manifest = manifest(OCI_CONFIG, wasm("application/wasm"));
        let of = |settings: Value, diff_ids: Value| shape(&manifest, &image(&settings, &diff_ids)).unwrap();
        let found = of(json!({"Entrypoint": ["app.wasm", "-v"]}), json!([]));
        assert_eq!(
            (runs(&found), found.layers[0].file.as_deref()),
            (vec!["/app.wasm".into(), "-v".into()], Some("/app.wasm"))
        );
        let found = of(json!({"Cmd": ["--port", "80"]}), json!([B]));
        assert_eq!(runs(&found), ["/main.wasm", "--port", "80"]);
        assert_ne!(found.layers[0].diff_id, B, "a digest that is not checked names nothing");
        assert_eq!(runs(&of(json!({"Cmd": ["/x/y.wasm"]}), json!([]))), ["/x/y.wasm"]);
    }

    #[test]
    fn a_spin_application_has_its_files_and_variables() {
        let app = json!({"components": [{"id": "c", "source": {"digest": A}, "env": {"K": "v"},
            "files": [{"digest": B, "path": "/static/x.html"}]}]});
        let layers = json!([
            {"mediaType": "application/vnd.wasm.content.layer.v1+wasm", "digest": A, "size": 1},
            {"mediaType": DATA_LAYER, "digest": B, "size": 1},
        ]);
        let found = shape(&manifest(SPIN_CONFIG, layers.clone()), app.to_string().as_bytes()).unwrap();
        assert_eq!(found.layers[1].file.as_deref(), Some("/static/x.html"));
        assert_eq!(found.config.config().as_ref().unwrap().env().as_deref(), Some(&["K=v".to_owned()][..]));
        let error = shape(&manifest(SPIN_CONFIG, layers), b"{}").unwrap_err();
        assert!(error.contains(TITLE), "{error}");
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        let tar = json!([{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": A, "size": 1}]);
        let two = json!([{"mediaType": "application/wasm", "digest": A, "size": 1},
            {"mediaType": "application/wasm", "digest": B, "size": 1}]);
        for (manifest, config, words) in [
            (manifest(OCI_CONFIG, wasm("text/plain")), "{}", "the type text/plain; what can be taken: tar,"),
            (manifest(OCI_CONFIG, tar.clone()), "{}", "config cannot be read"),
            (manifest(OCI_CONFIG, tar.clone()), "", "config cannot be read"),
            (manifest("application/vnd.cncf.helm.config.v1+json", tar), "{}", "helm"),
            (manifest(WASM_CONFIG, two), "{}", "2 Wasm layers"),
        ] {
            let error = shape(&manifest, config.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let one = manifest(
            OCI_CONFIG,
            json!([{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": A, "size": 1}]),
        );
        let error = shape(&one, &image(&json!({}), &json!([A, B]))).unwrap_err();
        assert!(error.contains("2 layers, and its manifest 1"), "{error}");
    }
}
