//! From a container's command to its compiled code.

use super::{ContainerError, Result};
use crate::grants::{Grants, RootGrant};
use crate::image::{Image, Images, directories_at, find_in_layers};
use crate::rootfs;
use crate::store::Store;
use oci_spec::image::ImageConfiguration;
use std::path::{Path, PathBuf};

/// The host's path of the program that a container runs: found in its mounts, its writable layer and its image, in
/// this order, as the guest would see it; a name without a slash is searched in PATH.
///
/// # Errors
/// When there is no such file.
pub fn locate_program(bundle: &Path, grants: &Grants) -> Result<PathBuf> {
    let program = grants.args.first().map(String::as_str).unwrap_or_default();
    let path = search_path(&grants.env);
    let look = |path: &Path| look_up(bundle, grants, path);
    let searched = (!program.contains('/')).then(|| path.to_owned());
    if let Some(found) = search(program, &grants.cwd, path, look)? {
        return Ok(found);
    }
    let place = rootfs::normalize(&Path::new(&grants.cwd).join(program).to_string_lossy());
    if searched.is_none() && is_directory(bundle, grants, &place)? {
        return Err(ContainerError::ProgramIsDirectory(program.to_owned()));
    }
    Err(ContainerError::NoProgram { program: program.to_owned(), path: searched })
}

fn is_directory(bundle: &Path, grants: &Grants, path: &Path) -> Result<bool> {
    if grants.binds.iter().any(|bind| bind.destination == path && bind.source.is_dir()) {
        return Ok(true);
    }
    Ok(!directories_at(&stack(bundle, grants), path)?.is_empty())
}

/// The directories that merge into the container's root, topmost first.
fn stack(bundle: &Path, grants: &Grants) -> Vec<PathBuf> {
    match &grants.root {
        RootGrant::Layers(layers) => std::iter::once(rootfs::upper(bundle)).chain(layers.iter().cloned()).collect(),
        RootGrant::Ready(root) => vec![bundle.join(root)],
    }
}

/// The same for an image without a container; `None` when it names no program, or one that it does not have.
///
/// # Errors
/// When the image cannot be read.
pub fn locate_in_image(store: &Store, image: &Image) -> Result<Option<PathBuf>> {
    if program_of(&image.config).is_none() {
        return Ok(None);
    }
    locate_in_layers(&image.config, &Images::new(store).layer_dirs(image)?)
}

/// The same for an image that is not in the store yet, with the directories of its layers, topmost first.
///
/// # Errors
/// When a directory cannot be looked into.
pub fn locate_in_layers(config: &ImageConfiguration, layers: &[PathBuf]) -> Result<Option<PathBuf>> {
    let (Some(program), Some(config)) = (program_of(config), config.config()) else { return Ok(None) };
    let env = config.env().clone().unwrap_or_default();
    let cwd = config.working_dir().as_deref().filter(|dir| !dir.is_empty()).unwrap_or("/");
    search(program, cwd, search_path(&env), |path| Ok(find_in_layers(layers, &path.to_string_lossy())?))
}

/// What an image says to run: the first word of its entrypoint, or else of its command.
#[must_use]
pub fn program_of(config: &ImageConfiguration) -> Option<&str> {
    let config = config.config().as_ref()?;
    config.entrypoint().iter().chain(config.cmd().iter()).flatten().next().map(String::as_str)
}

/// The search path of an environment; Docker's where it sets none.
fn search_path(env: &[String]) -> &str {
    env.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or(super::create::PATH)
}

/// Looks a program up as a shell would: by its path, or along PATH when it has no slash.
fn search(
    program: &str,
    cwd: &str,
    path: &str,
    look: impl Fn(&Path) -> Result<Option<PathBuf>>,
) -> Result<Option<PathBuf>> {
    let clean = |path: PathBuf| rootfs::normalize(&path.to_string_lossy());
    if program.contains('/') {
        return look(&clean(Path::new(cwd).join(program)));
    }
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        if let Some(found) = look(&clean(Path::new(dir).join(program)))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn look_up(bundle: &Path, grants: &Grants, path: &Path) -> Result<Option<PathBuf>> {
    let under = grants.binds.iter().filter(|bind| path.starts_with(&bind.destination));
    if let Some(bind) = under.max_by_key(|bind| bind.destination.components().count()) {
        let rest = path.strip_prefix(&bind.destination).unwrap_or(Path::new(""));
        if rest.as_os_str().is_empty() {
            return Ok(Some(bind.source.clone()).filter(|file| file.is_file()));
        }
        return Ok(find_in_layers(std::slice::from_ref(&bind.source), &Path::new("/").join(rest).to_string_lossy())?);
    }
    Ok(find_in_layers(&stack(bundle, grants), &path.to_string_lossy())?)
}
