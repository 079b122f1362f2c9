//! An image in Docker's shape.

use anyhow::Result;
use sampan_runtime::container::locate_in_image;
use sampan_runtime::guest::code;
use sampan_runtime::image::{Image, Reference};
use sampan_runtime::store::Store;
use serde_json::{Value, json};

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
        "Sampan": { "Imports": imports(store, image) },
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
fn imports(store: &Store, image: &Image) -> Option<Vec<String>> {
    let program = locate_in_image(store, image).ok()??;
    Some(code::prepare(store, &program).ok()?.description.imports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_image_has_every_key() {
        let config = config_of(&Value::Null);
        assert_eq!((&config["Env"], &config["Cmd"], &config["Labels"]), (&json!([]), &Value::Null, &json!({})));
        let said = config_of(&json!({"Env": ["A=1"], "Labels": null}));
        assert_eq!((&said["Env"], &said["Labels"]), (&json!(["A=1"]), &json!({})));
    }
}
