//! Which of an index's images is meant.

use super::formats::is_marked;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The platforms of Wasm images, the best first: the newest WASI, then what older tools call it.
const WASM: [&str; 5] = ["wasip2/wasm", "wasip1/wasm", "wasi/wasm", "wasi/wasm32", "linux/wasm"];

/// A platform as `--platform` names it: `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system: `wasip2`, `linux`.
    pub os: String,
    /// The architecture: `wasm`, `amd64`.
    pub architecture: String,
    /// The variant, for those that have one: `v7`.
    pub variant: Option<String>,
}

/// A platform that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: wanted os/architecture, such as wasip2/wasm")]
pub struct BadPlatform(String);

impl FromStr for Platform {
    type Err = BadPlatform;

    fn from_str(text: &str) -> Result<Self, BadPlatform> {
        let bad = || BadPlatform(text.to_owned());
        let word = |w: &&str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
        let mut parts = text.split('/');
        let mut next = || parts.next().map(|part| Some(part).filter(word).ok_or_else(bad)).transpose();
        let (Some(os), Some(architecture), variant) = (next()?, next()?, next()?) else { return Err(bad()) };
        if parts.next().is_some() {
            return Err(bad());
        }
        let own = str::to_owned;
        Ok(Self { os: own(os), architecture: own(architecture), variant: variant.map(own) })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Whether an image of this platform is meant; who names no variant means any.
    pub(super) fn fits(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let wanted = self.variant.as_deref();
        self.os == os && self.architecture == architecture && (wanted.is_none() || wanted == variant)
    }
}

/// An image index, or Docker's manifest list.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub manifests: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    pub digest: String,
    pub size: u64,
    platform: Option<Said>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Said {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Entry {
    fn platform(&self) -> Option<String> {
        let Said { os, architecture, variant } = self.platform.as_ref()?;
        let variant = variant.as_ref().map(|v| format!("/{v}")).unwrap_or_default();
        Some(format!("{os}/{architecture}{variant}"))
    }

    /// Provenance and the like, which buildx puts beside the images.
    fn is_note(&self) -> bool {
        self.platform().as_deref() == Some("unknown/unknown")
            || self.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
    }
}

impl Index {
    /// The entry for a platform; without one the best that has Wasm. The error lists the platforms that there are.
    pub(super) fn select(&self, wanted: Option<&Platform>) -> Result<&Entry, Vec<String>> {
        let all = || self.manifests.iter().filter(|entry| !entry.is_note());
        let found = match wanted {
            Some(wanted) => all().find(|entry| {
                let said = entry.platform.as_ref();
                said.is_some_and(|s| wanted.fits(&s.os, &s.architecture, s.variant.as_deref()))
            }),
            None => {
                let of = |platform: &'static &'static str| {
                    all().find(|entry| entry.platform().as_deref() == Some(*platform))
                };
                let by_platform = WASM.iter().find_map(of);
                let marked = || all().find(|entry| is_marked(entry.annotations.as_ref()));
                // One alone that says nothing of itself: its config will.
                let alone = || all().next().filter(|entry| entry.platform.is_none() && all().count() == 1);
                by_platform.or_else(marked).or_else(alone)
            }
        };
        let mut there: Vec<String> = all().map(|e| e.platform().unwrap_or_else(|| "no platform".to_owned())).collect();
        there.dedup();
        found.ok_or(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index(platforms: &[&str]) -> Index {
        let entry = |platform: &&str| {
            let mut entry = json!({"digest": platform, "size": 1, "mediaType": "m"});
            let (platform, marked) = platform.split_once('!').map_or((*platform, false), |(p, _)| (p, true));
            if let Some((os, architecture)) = platform.split_once('/') {
                entry["platform"] = json!({"os": os, "architecture": architecture});
            }
            if marked {
                entry["annotations"] = json!({"module.wasm.image/variant": "compat"});
            }
            entry
        };
        serde_json::from_value(json!({"manifests": platforms.iter().map(entry).collect::<Vec<_>>()})).unwrap()
    }

    #[test]
    fn the_best_wasm_is_taken() {
        for (there, taken) in [
            (&["linux/amd64", "wasi/wasm", "wasip1/wasm", "wasip2/wasm"][..], Ok("wasip2/wasm")),
            (&["linux/amd64", "linux/wasm", "wasi/wasm32"], Ok("wasi/wasm32")),
            (&["linux/arm64", "linux/amd64!"], Ok("linux/amd64!")),
            (&["alone"], Ok("alone")),
            (&["linux/amd64", "unknown/unknown"], Err("linux/amd64")),
            (&[], Err("")),
        ] {
            let index = index(there);
            let found = index.select(None).map(|entry| entry.digest.as_str()).map_err(|all| all.join(" "));
            assert_eq!(found, taken.map_err(str::to_owned), "{there:?}");
        }
    }

    #[test]
    fn a_platform_is_chosen_by_name() {
        let index = index(&["wasip2/wasm", "wasip1/wasm"]);
        let select = |name: &str| index.select(Some(&name.parse().unwrap())).map(|entry| entry.digest.clone());
        assert_eq!(select("wasip1/wasm").unwrap(), "wasip1/wasm");
        assert_eq!(select("linux/amd64").unwrap_err(), ["wasip2/wasm", "wasip1/wasm"]);
        for bad in ["", "linux", "linux/", "a/b/c/d", "a b/c"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
    }
}
