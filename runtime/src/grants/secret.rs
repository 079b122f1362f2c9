//! Secrets: what a guest may know and nobody else, by a reference to a file of the host. What is in the file is never
//! written down; it is read at each start.

use super::{GrantError, unreadable};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its name: letters, digits, `_`, `.` and `-`.
    pub id: String,
    /// The host's file, absolute.
    pub source: PathBuf,
    /// How the guest sees it.
    pub shown: Shown,
}

/// How a guest sees a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// As a file in memory, at this absolute path.
    File(PathBuf),
    /// As the value of a variable.
    Variable(String),
}

impl Secret {
    /// Where those are that nobody wants elsewhere, as with Docker and Podman.
    pub const DIR: &str = "/run/secrets";

    /// Secrets as an annotation; nothing of none.
    pub(super) fn note(secrets: &[Self]) -> String {
        if secrets.is_empty() { String::new() } else { serde_json::to_string(secrets).unwrap_or_default() }
    }

    pub(super) fn read(note: Option<&str>, field: &str) -> Result<Vec<Self>, GrantError> {
        note.map_or_else(|| Ok(vec![]), |note| serde_json::from_str(note).map_err(unreadable(field)))
    }
}
