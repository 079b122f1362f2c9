//! `config.toml`: what this machine's user wants for every container, whichever front end makes it.
//!
//! ```toml
//! [network]
//! allow-net = ["*.example.com:443", "10.1.0.0/16"]
//!
//! [kubernetes.handlers.databases]
//! allow-net = ["10.2.0.0/16:5432"]
//! ```
//!
//! It is the file that `SAMPAN_CONFIG` names, or the first that there is of `$XDG_CONFIG_HOME/sampan/config.toml` and
//! `/etc/sampan/config.toml`. The others are not read.

use crate::grants::{Egress, Network};
use crate::image::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the configuration {}: {reason}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; the line is named.
    pub reason: String,
}

/// What the file says; nothing where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it was read.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// The section `[network]`.
    pub network: NetworkConfig,
    /// The section `[kubernetes]`.
    pub kubernetes: KubernetesConfig,
}

/// The section `[network]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkConfig {
    /// Whom every container may call besides its own rules.
    pub allow_net: Egress,
}

/// The section `[kubernetes]`: what `serve --cri` does besides what kubelet asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KubernetesConfig {
    /// Images that kubelet shall never clear away, by their names.
    pub pinned_images: Vec<Reference>,
    /// Runtime handlers by their names; one of ours is replaced.
    pub handlers: BTreeMap<String, HandlerConfig>,
}

/// A section `[kubernetes.handlers.NAME]`: what the pods of a runtime handler are granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HandlerConfig {
    /// Whom its pods may call besides their own containers.
    pub allow_net: Egress,
    /// Whether their programs may start others of their image.
    pub spawn: bool,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or understood, or `SAMPAN_CONFIG` names one that is not there.
    pub fn load() -> Result<Self, ConfigError> {
        if let Some(path) = std::env::var_os("SAMPAN_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from) {
            let missing = || ConfigError { path: path.clone(), reason: "there is no such file".to_owned() };
            return read(&path)?.ok_or_else(missing);
        }
        let own = crate::config_home().map(|home| home.join("sampan/config.toml"));
        for path in own.into_iter().chain([PathBuf::from("/etc/sampan/config.toml")]) {
            if let Some(found) = read(&path)? {
                return Ok(found);
            }
        }
        Ok(Self::default())
    }

    /// Whom a container may call by this file: nobody where nobody can be called.
    #[must_use]
    pub fn egress(&self, network: Network) -> Egress {
        if network == Network::None { Egress::default() } else { self.network.allow_net.clone() }
    }
}

fn read(path: &Path) -> Result<Option<Config>, ConfigError> {
    let bad = |reason: String| ConfigError { path: path.to_owned(), reason };
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map(|config| Some(Config { file: Some(path.to_owned()), ..config })).map_err(bad),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(bad(e.to_string())),
    }
}

fn parse(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start));
        let words = e.message().replace('\n', " ");
        before.map_or_else(|| words.clone(), |before| format!("line {}: {words}", before.matches('\n').count() + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_the_flag() {
        assert_eq!(parse("# nothing\n").unwrap(), Config::default());
        let config = parse("[network]\nallow-net = [\"*.a.com:443\", \"10.0.0.0/8\"]\n").unwrap();
        assert_eq!(config.egress(Network::Default), Egress::parse("*.a.com:443,10.0.0.0/8").unwrap());
        assert!(config.egress(Network::None).is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_is_known() {
        for (text, words) in [
            ("[net]\n", &["line 1: ", "unknown field `net`", "expected `network` or `kubernetes`"][..]),
            ("[kubernetes]\npinned-images = [\"a b\"]\n", &["line 2: ", "a b"]),
            ("[kubernetes.handlers.a]\nspwan = true\n", &["line 2: ", "`spwan`", "expected `allow-net` or `spawn`"]),
            ("\n[network]\nallow_net = []\n", &["line 3: ", "`allow_net`", "expected `allow-net`"]),
            ("[network]\nallow-net = [\"a.com\",\n\"x:0\"]\n", &["line 2: ", "\"x:0\"", "from 1 to 65535"]),
            ("[network]\nallow-net = \"all\"\n", &["line 2: ", "expected a sequence"]),
            ("[network\n", &["line 1: "]),
        ] {
            let error = parse(text).unwrap_err();
            for part in words {
                assert!(error.contains(part), "{text:?}: {error}");
            }
        }
    }
}
