//! A container's files and settings → an image.

use super::create::PATH;
use super::record::{MountKind, Record};
use super::{Container, ContainerError, Result, id};
use crate::grants::RootGrant;
use crate::image::build::BuildError;
use crate::image::build::commit::{self as build, Committed, Written};
use crate::image::{Image, Images, Reference};
use crate::rootfs;
use crate::store::Store;
use oci_spec::image::{Config, ImageConfiguration};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// What a container is made into.
#[derive(Debug, Clone, Default)]
pub struct CommitSettings {
    /// What the image shall be called; without a name it can be found by its id.
    pub names: Vec<Reference>,
    /// Whose work it is.
    pub author: Option<String>,
    /// A word on it.
    pub message: Option<String>,
    /// Instructions of a Dockerfile that change how it is run.
    pub changes: Vec<String>,
}

/// Makes an image of a container: its own image, what it has written over it as a layer more, and how it is run. What
/// is mounted is not in it.
///
/// `ready` sees the image's config and its layers' directories (topmost first) before the image is there; what it
/// refuses is not made.
///
/// # Errors
/// When a change cannot be done, a file cannot be read, or the store cannot be written; then no image was made.
pub fn commit<E: From<ContainerError>>(
    store: &Store,
    container: &Container,
    settings: CommitSettings,
    ready: impl FnOnce(&ImageConfiguration, &[PathBuf]) -> Result<(), E>,
) -> Result<Image, E> {
    let record = &container.record;
    let (base, written) = found(store, container)?;
    let image = Committed {
        names: settings.names,
        author: settings.author,
        message: settings.message,
        created_by: record.args().join(" "),
        config: config_of(record, base.as_ref()),
        changes: settings.changes,
    };
    // Two kinds of errors go through one door: what `ready` says is kept beside it.
    let mut refused = None;
    let made = build::commit::<Refusal>(store, base, image, &written, |config, dirs| {
        ready(config, dirs).map_err(|e| {
            refused = Some(e);
            Refusal::Ready
        })
    });
    made.map_err(|e| match (e, refused) {
        (Refusal::Ready, Some(refused)) => refused,
        // It was removed while its files were read.
        _ if !container.dir.join("record.json").exists() => ContainerError::NotFound(record.id.clone()).into(),
        (Refusal::Build(e), _) => ContainerError::from(e).into(),
        (Refusal::Ready, None) => ContainerError::NotFound(record.id.clone()).into(),
    })
}

enum Refusal {
    Ready,
    Build(BuildError),
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

/// The image that the container is made of, and where what it has written lies.
fn found(store: &Store, container: &Container) -> Result<(Option<Image>, Written)> {
    let base = match container.record.image_id.as_str() {
        "" => None,
        id => Some(Images::new(store).find(id)?),
    };
    Ok((base, written(container)?.0))
}

/// Where what the container has written lies, and the layers (topmost first) that it was written over.
pub(super) fn written(container: &Container) -> Result<(Written, Vec<PathBuf>)> {
    let grants = container.grants()?;
    let upper = rootfs::upper(&container.dir);
    Ok(match grants.root {
        RootGrant::Layers(layers) if rootfs::is_copied(&container.dir) => {
            (Written::Copy(upper, layers.clone()), layers)
        }
        RootGrant::Layers(layers) => (Written::Upper(upper), layers),
        RootGrant::Ready(root) => (Written::Upper(container.dir.join(root)), Vec::new()),
    })
}

/// How the container is run, without what is its own and no image's: its name in the network, and what is said of the
/// working directory.
fn config_of(record: &Record, base: Option<&Image>) -> Config {
    let before = base.and_then(|image| image.config.config().clone()).unwrap_or_default();
    let own =
        [format!("HOSTNAME={}", id::short(&record.id)), format!("PWD={}", record.working_dir), format!("PATH={PATH}")];
    let said_before = |variable: &String| before.env().iter().flatten().any(|v| v == variable);
    let env: Vec<String> = record.env.iter().filter(|v| !own.contains(v) || said_before(v)).cloned().collect();
    let ports: BTreeSet<String> = record
        .exposed
        .iter()
        .copied()
        .chain(record.published.iter().map(|p| p.port))
        .map(|port| port.to_string())
        .collect();
    let anonymous = record.mounts.iter().filter(|m| m.kind == MountKind::Anonymous);
    let volumes: BTreeSet<String> = anonymous
        .map(|m| m.destination.to_string_lossy().into_owned())
        .chain(before.volumes().iter().flatten().cloned())
        .collect();
    let list = |all: BTreeSet<String>| (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>());
    let words = |all: &Vec<String>| (!all.is_empty()).then(|| all.clone());
    let labels: HashMap<String, String> = record.labels.clone().into_iter().collect();
    let workdir = Some(record.working_dir.clone()).filter(|dir| dir != "/");
    let mut config = before;
    let workdir = workdir.or_else(|| config.working_dir().clone().map(|_| "/".to_owned()));
    config
        .set_env(words(&env))
        .set_entrypoint(words(&record.entrypoint))
        .set_cmd(words(&record.command))
        .set_working_dir(workdir)
        .set_labels((!labels.is_empty()).then_some(labels))
        .set_exposed_ports(list(ports))
        .set_volumes(list(volumes));
    config
}
