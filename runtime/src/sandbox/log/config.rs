//! How a container's log is kept.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The format of a log, in Docker's and kubelet's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// One JSON object a line.
    #[default]
    JsonFile,
    /// The lines of a Kubernetes node.
    Cri,
    /// No log at all.
    None,
}

/// A word that names no driver.
#[derive(Debug, thiserror::Error)]
#[error("there is no log driver {0:?}: they are json-file, cri and none")]
pub struct NoDriver(String);

impl FromStr for Driver {
    type Err = NoDriver;

    fn from_str(text: &str) -> Result<Self, NoDriver> {
        match text {
            "json-file" => Ok(Self::JsonFile),
            "cri" => Ok(Self::Cri),
            "none" => Ok(Self::None),
            other => Err(NoDriver(other.to_owned())),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JsonFile => "json-file",
            Self::Cri => "cri",
            Self::None => "none",
        })
    }
}

/// How a container's log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its format.
    pub driver: Driver,
    /// Bytes after which the file is put aside and a new one begun; without a limit it grows as it will.
    pub max_size: Option<u64>,
    /// How many files there are at most, with the one that is written.
    pub max_files: u32,
}

impl Default for Config {
    /// 100 MB altogether, as with Docker's `local` driver: a talkative guest fills no disk.
    fn default() -> Self {
        Self { driver: Driver::default(), max_size: Some(20 << 20), max_files: 5 }
    }
}
