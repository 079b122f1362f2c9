//! From a container's command to its compiled code.

use super::{ContainerError, Result};
use crate::grants::{Grants, RootGrant};
use crate::guest::script;
use crate::image::{Image, Images, directories_at, find_in_layers};
use crate::rootfs;
use crate::store::{Store, StoreError};
use oci_spec::image::ImageConfiguration;
use std::path::{Path, PathBuf};

/// The host's path of the program that a container runs: found in its mounts, its writable layer and its image, in
/// this order, as the guest would see it; a name without a slash is searched in PATH. Of a script it is the interpreter
/// that its first line names, and the second value is the arguments that this one gets instead of the container's.
///
/// # Errors
/// When there is no such file.
pub fn locate_program(bundle: &Path, grants: &Grants) -> Result<(PathBuf, Option<Vec<String>>)> {
    let path = search_path(&grants.env);
    let look = |path: &Path| look_up(bundle, grants, path);
    let program = match follow(&grants.args, &grants.cwd, path, look)? {
        Followed::Found(host, args) => return Ok((host, args)),
        Followed::Missing(program) => program,
    };
    if let Some(script) = grants.args.first().filter(|first| **first != program) {
        return Err(ContainerError::NoInterpreter { script: script.clone(), interpreter: program });
    }
    let searched = (!program.contains('/')).then(|| path.to_owned());
    let place = rootfs::normalize(&Path::new(&grants.cwd).join(&program).to_string_lossy());
    if searched.is_none() && is_directory(bundle, grants, &place)? {
        return Err(ContainerError::ProgramIsDirectory(program));
    }
    Err(ContainerError::NoProgram { program, path: searched })
}

/// Where the way from a name to a program ends.
enum Followed {
    /// The program on the host, and other arguments if it was a script that was named.
    Found(PathBuf, Option<Vec<String>>),
    /// The name of what is not there: the program, or the interpreter of a script.
    Missing(String),
}

/// Finds a program by its name, through scripts to the interpreter of the last.
fn follow(args: &[String], cwd: &str, path: &str, look: impl Fn(&Path) -> Result<Option<PathBuf>>) -> Result<Followed> {
    let mut other: Option<Vec<String>> = None;
    for _ in 0..script::MOST_SCRIPTS {
        let args = other.as_deref().unwrap_or(args);
        let name = args.first().map(String::as_str).unwrap_or_default();
        let Some((host, guest)) = search(name, cwd, path, &look)? else {
            return Ok(Followed::Missing(name.to_owned()));
        };
        let start = script::start_of(&host).map_err(StoreError::io("read", &host))?;
        let Some(named) = script::interpreter(&start) else { return Ok(Followed::Found(host, other)) };
        let script = if name.contains('/') { name.to_owned() } else { guest.to_string_lossy().into_owned() };
        other = Some(script::words(named, script, args));
    }
    Err(ContainerError::Scripts(args.first().cloned().unwrap_or_default()))
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
    let look = |path: &Path| Ok(find_in_layers(layers, &path.to_string_lossy())?);
    Ok(match follow(&[program.to_owned()], cwd, search_path(&env), look)? {
        Followed::Found(host, _) => Some(host),
        Followed::Missing(_) => None,
    })
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

/// Looks a program up as a shell would: by its path, or along PATH when it has no slash. Where it is on the host, and
/// for the guest.
pub(crate) fn search<E>(
    program: &str,
    cwd: &str,
    path: &str,
    look: impl Fn(&Path) -> Result<Option<PathBuf>, E>,
) -> Result<Option<(PathBuf, PathBuf)>, E> {
    let clean = |path: PathBuf| rootfs::normalize(&path.to_string_lossy());
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![clean(Path::new(cwd).join(program))],
        false => path.split(':').filter(|dir| !dir.is_empty()).map(|dir| clean(Path::new(dir).join(program))).collect(),
    };
    for guest in places {
        if let Some(host) = look(&guest)? {
            return Ok(Some((host, guest)));
        }
    }
    Ok(None)
}

fn look_up(bundle: &Path, grants: &Grants, path: &Path) -> Result<Option<PathBuf>> {
    if grants.paths.masked.iter().any(|masked| path.starts_with(masked)) {
        return Ok(None);
    }
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
