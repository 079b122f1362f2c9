//! An image in Docker's shape.

use anyhow::Result;
use sampan_runtime::guest::code;
use sampan_runtime::image::{Image, Images, Reference, find_in_layers};
use sampan_runtime::rootfs::normalize;
use sampan_runtime::store::Store;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Everything known of an image.
pub fn describe(store: &Store, image: &Image) -> Result<Value> {
    // What the image's config says has the same words here and there; its outer keys differ in case only.
    let said = serde_json::to_value(&image.config)?;
    let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
    let config = said.get("config").unwrap_or(&Value::Null);
    let tags = image.names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar);
    let mut digests: Vec<_> =
        image.names.iter().map(|name| format!("{}@{}", name.repository(), image.manifest)).collect();
    digests.sort();
    digests.dedup();
    Ok(json!({
        "Id": image.id,
        "RepoTags": tags.collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Parent": "",
        "Comment": "",
        "Created": text("created"),
        "Author": text("author"),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": image.size,
        "Config": config_of(config),
        "RootFS": {
            "Type": "layers",
            "Layers": image.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
        },
        "Sampan": { "Imports": imports(store, image, config) },
    }))
}

fn config_of(config: &Value) -> Value {
    let or =
        |key: &str, otherwise: Value| config.get(key).filter(|value| !value.is_null()).cloned().unwrap_or(otherwise);
    json!({
        "User": or("User", "".into()),
        "ExposedPorts": or("ExposedPorts", json!({})),
        "Env": or("Env", json!([])),
        "Entrypoint": or("Entrypoint", Value::Null),
        "Cmd": or("Cmd", Value::Null),
        "Volumes": or("Volumes", Value::Null),
        "WorkingDir": or("WorkingDir", "".into()),
        "Labels": or("Labels", json!({})),
        "StopSignal": or("StopSignal", "".into()),
    })
}

/// What the image's program can ask for; nothing if there is no program, or it is no guest. A build has compiled it, so
/// that this is a look into the cache.
fn imports(store: &Store, image: &Image, config: &Value) -> Option<Vec<String>> {
    let layers = Images::new(store).layer_dirs(image).ok()?;
    let program = program(config, |path| find_in_layers(&layers, path).ok().flatten())?;
    Some(code::prepare(store, &program).ok()?.description.imports)
}

/// What a container searches when its image sets nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first word of what the image runs, looked for as it would be when a container starts.
fn program(config: &Value, find: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let first = |key: &str| config.get(key)?.as_array()?.first()?.as_str();
    let program = first("Entrypoint").or_else(|| first("Cmd"))?;
    let under = |dir: &str| find(&normalize(&Path::new(dir).join(program).to_string_lossy()).to_string_lossy());
    if program.contains('/') {
        let cwd = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
        return under(cwd);
    }
    let env = config.get("Env").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let path = env.iter().find_map(|variable| variable.as_str()?.strip_prefix("PATH=")).unwrap_or(PATH);
    path.split(':').filter(|dir| !dir.is_empty()).find_map(under)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_start_would_find_it() {
        let look = |config: Value| program(&config, |path| Some(PathBuf::from(path)));
        let found = |path: &str| Some(PathBuf::from(path));
        assert_eq!(look(json!({"Entrypoint": ["/app.wasm"], "Cmd": ["x"]})), found("/app.wasm"));
        assert_eq!(look(json!({"Cmd": ["./app.wasm"], "WorkingDir": "/srv"})), found("/srv/app.wasm"));
        assert_eq!(look(json!({"Cmd": ["bin/../app"], "WorkingDir": ""})), found("/app"));
        assert_eq!(look(json!({"Cmd": ["python"], "Env": ["PATH=:/usr/bin:/bin"]})), found("/usr/bin/python"));
        assert_eq!(look(json!({"Cmd": ["python"]})), found("/usr/local/sbin/python"));
        assert_eq!(look(json!({"Entrypoint": null, "Cmd": []})), None);
        assert_eq!(look(Value::Null), None);
    }

    #[test]
    fn an_empty_image_has_every_key() {
        let config = config_of(&Value::Null);
        assert_eq!((&config["Env"], &config["Cmd"], &config["Labels"]), (&json!([]), &Value::Null, &json!({})));
        let said = config_of(&json!({"Env": ["A=1"], "Labels": null}));
        assert_eq!((&said["Env"], &said["Labels"]), (&json!(["A=1"]), &json!({})));
    }
}
