//! `inspect`: containers, images, volumes and networks in Docker's shapes, each with our own facts under `Sampan`.

mod container;
mod image;

use crate::Context;
use crate::commands::{filter, network, volume, words};
use crate::format;
use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use sampan_runtime::container::{self as containers, ContainerError, volumes};
use sampan_runtime::image::{ImageError, Images};
use sampan_runtime::store::Store;
use serde_json::{Map, Value};
use std::process::ExitCode;

/// Show everything known of containers, images, volumes or networks
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show what containers have written
    #[arg(short, long)]
    size: bool,
    /// Look at things of one type only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Show everything known of containers
#[derive(Debug, Args)]
pub struct ContainerInspectArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show what they have written
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

impl ContainerInspectArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let Self { format, size, names } = self;
        InspectArgs { format, size, kind: Some(Kind::Container), names }.run(context)
    }
}

/// A type of things, in the order in which a name is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
    Volume,
    Network,
}

impl InspectArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        print(&self.names, self.format.as_deref(), |name| self.look(&store, name))
    }

    fn look(&self, store: &Store, name: &str) -> Result<Value> {
        let kinds = self.kind.as_ref().map_or(Kind::value_variants(), std::slice::from_ref);
        for kind in kinds {
            let found = match kind {
                Kind::Container => self.container(store, name)?,
                Kind::Image => look_at_image(store, name)?,
                Kind::Volume => look_at_volume(store, name)?,
                Kind::Network => network::look_if_there(store, name)?,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(match self.kind {
            None => anyhow!("no such object: {name}"),
            Some(Kind::Container) => anyhow!("no such container: {name}"),
            Some(Kind::Image) => anyhow!("no such image: {name}"),
            Some(Kind::Volume) => anyhow!("no such volume: {name}"),
            Some(Kind::Network) => anyhow!("no such network: {name}"),
        })
    }

    fn container(&self, store: &Store, name: &str) -> Result<Option<Value>> {
        match containers::find(store, name) {
            Ok(found) => Ok(Some(container::describe(store, &found, self.size))),
            Err(ContainerError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

pub fn look_at_image(store: &Store, name: &str) -> Result<Option<Value>> {
    match Images::new(store).find(name) {
        Ok(found) => Ok(Some(image::describe(store, &found)?)),
        // What can be no image's name is none.
        Err(ImageError::NotFound { .. } | ImageError::Reference(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn look_at_volume(store: &Store, name: &str) -> Result<Option<Value>> {
    match volumes::inspect(store, name) {
        Ok(found) => Ok(Some(volume::describe(store, &found))),
        Err(ContainerError::NoVolume(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Prints what is found under the names, and complains of the others, as Docker does.
pub fn print(names: &[String], format: Option<&str>, look: impl Fn(&str) -> Result<Value>) -> Result<ExitCode> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match look(name) {
            Ok(object) => found.push(object),
            Err(error) => errors.push(error),
        }
    }
    filter::print(&format::inspect(&found, format)?)?;
    for error in &errors {
        eprintln!("sampan: {}", words(error));
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An object whose keys stand for themselves, as Docker writes sets: `{"8000/tcp": {}}`.
fn set(keys: impl Iterator<Item = String>) -> Value {
    keys.map(|key| (key, Value::Object(Map::new()))).collect::<Map<_, _>>().into()
}

/// Docker writes an empty list in some places as nothing.
fn list_or_null(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { list.into() }
}
