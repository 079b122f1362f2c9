//! `run`, `create` and `start`.

use crate::front;
use crate::settings::ContainerFlags;
use crate::{Context, commands};
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::{self, Container};
use sampan_runtime::image::Images;
use sampan_runtime::store::Store;
use std::process::ExitCode;

// The arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    container: ContainerFlags,
}

// The arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    container: ContainerFlags,
}

// The arguments of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Show the container's output and return its exit code
    #[arg(short, long)]
    attach: bool,
    /// Give it this standard input (with -a, for a container that was made with -i)
    #[arg(short, long)]
    interactive: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

fn make(store: &Store, flags: ContainerFlags) -> Result<Container> {
    let image = match flags.module() {
        Some(_) => None,
        None => Some(Images::new(store).find(&flags.image)?),
    };
    Ok(container::create(store, flags.settings()?, image.as_ref())?)
}

impl RunArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let made = make(&store, self.container)?;
        let id = made.record.id.clone();
        let outcome = if self.detach {
            front::detached(&store, made.clone()).map(|()| 0)
        } else {
            front::attached(&store, made.clone(), true)
        };
        match outcome {
            Ok(code) => {
                if self.detach {
                    println!("{id}");
                }
                Ok(ExitCode::from(code))
            }
            Err(error) => {
                // What never ran leaves nothing. What did not go away by itself is gone, or is told by its own error.
                let _ = container::remove(&store, &made, true);
                Err(error)
            }
        }
    }
}

impl CreateArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let made = make(&context.store()?, self.container)?;
        println!("{}", made.record.id);
        Ok(ExitCode::SUCCESS)
    }
}

impl StartArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        if self.attach || self.interactive {
            let [name] = self.containers.as_slice() else {
                bail!("you cannot start and attach several containers at once");
            };
            let found = container::find(&store, name)?;
            return Ok(ExitCode::from(front::attached(&store, found, self.interactive)?));
        }
        if let [name] = self.containers.as_slice() {
            let found = container::find(&store, name)?;
            if !found.status(&store).is_running() {
                front::detached(&store, found)?;
            }
            println!("{name}");
            return Ok(ExitCode::SUCCESS);
        }
        commands::for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            if found.status(&store).is_running() { Ok(()) } else { front::detached(&store, found) }
        })
    }
}
