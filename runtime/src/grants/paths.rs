//! Paths of a guest's tree that it may see less of than of the rest. In a bundle they stand where the OCI runtime
//! specification has them (config-linux.md, "Masked Paths" and "Readonly Paths").

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Paths of a guest's tree, absolute. What is not there is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// Files that nobody can read, and directories with nothing in them.
    pub masked: Vec<PathBuf>,
    /// What nobody can write.
    pub read_only: Vec<PathBuf>,
}

impl Paths {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.masked.is_empty() && self.read_only.is_empty()
    }

    /// Writes the paths into a bundle, in the place of the specification's examples.
    pub(super) fn write(&self, spec: &mut Spec) {
        let said = |paths: &[PathBuf]| {
            let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            (!paths.is_empty()).then_some(paths)
        };
        if let Some(linux) = spec.linux_mut() {
            linux.set_masked_paths(said(&self.masked));
            linux.set_readonly_paths(said(&self.read_only));
        }
    }

    /// Reads the paths of a bundle.
    pub(super) fn read(spec: &Spec) -> Self {
        let Some(linux) = spec.linux() else { return Self::default() };
        let read = |paths: &Option<Vec<String>>| paths.iter().flatten().map(PathBuf::from).collect();
        Self { masked: read(linux.masked_paths()), read_only: read(linux.readonly_paths()) }
    }
}
