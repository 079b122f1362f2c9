//! What `inspect` prints.

use anyhow::Result;
use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::Template;

/// Prints the objects as an indented JSON array, as an array on one line for the format `json`, or each through the
/// template.
pub fn inspect(objects: &[Value], format: Option<&str>) -> Result<String> {
    match format {
        None | Some("") => {
            let mut indented = Vec::new();
            objects.serialize(&mut Serializer::with_formatter(&mut indented, PrettyFormatter::with_indent(b"    ")))?;
            indented.push(b'\n');
            Ok(String::from_utf8(indented)?)
        }
        Some("json") => Ok(serde_json::to_string(objects)? + "\n"),
        Some(format) => {
            let template = Template::parse(format)?;
            objects.iter().map(|object| Ok(template.render(object)? + "\n")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_json_and_templates() {
        let objects = [serde_json::json!({"Id": "a", "Env": []}), serde_json::json!({"Id": "b", "Env": ["X=1"]})];
        assert_eq!(inspect(&objects, Some("{{.Id}}\\t{{len .Env}}")).unwrap(), "a\\t0\nb\\t1\n");
        assert_eq!(inspect(&objects[..1], Some("json")).unwrap(), "[{\"Env\":[],\"Id\":\"a\"}]\n");
        assert_eq!(
            inspect(&objects[1..], None).unwrap(),
            "[\n    {\n        \"Env\": [\n            \"X=1\"\n        ],\n        \"Id\": \"b\"\n    }\n]\n"
        );
        assert_eq!(inspect(&[], None).unwrap(), "[]\n");
    }
}
