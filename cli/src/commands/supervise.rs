//! `restart`, `pause`, `unpause` and `update`.

use crate::commands::for_each;
use crate::commands::lifecycle::stop;
use crate::commands::sandbox::speak;
use crate::limits::ResourceFlags;
use crate::{Context, front};
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::restart::Policy;
use sampan_runtime::container::{self, Container, ContainerError, Status, Update};
use sampan_runtime::store::Store;
use sampan_shim::client::{ClientError, SandboxClient};
use std::process::ExitCode;

// The arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Seconds to wait before killing; the container's own setting, or 10, without it
    #[arg(short, long, value_name = "SECONDS", alias = "timeout")]
    time: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `unpause`.
#[derive(Debug, Args)]
pub struct UnpauseArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// When to start the container again by itself: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<Policy>,
    #[command(flatten)]
    resources: ResourceFlags,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl RestartArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            stop(&store, &found, self.time)?;
            front::detached(&store, found.clone())?;
            found.tell(&store, "restart", []);
            Ok(())
        })
    }
}

impl PauseArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            ask_running(&store, &found, async |client| client.pause(&found.record.id).await)?;
            found.tell(&store, "pause", []);
            Ok(())
        })
    }
}

impl UnpauseArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            ask_running(&store, &found, async |client| client.resume(&found.record.id).await)?;
            found.tell(&store, "unpause", []);
            Ok(())
        })
    }
}

/// Asks something of the sandbox of a container, which has to run.
fn ask_running(
    store: &Store,
    found: &Container,
    ask: impl AsyncFnOnce(&SandboxClient) -> Result<(), ClientError>,
) -> Result<()> {
    let runs = matches!(found.status(store), Status::Running(_)) && speak(store, found, ask)?;
    if runs { Ok(()) } else { Err(ContainerError::NotRunning(found.record.id.clone()).into()) }
}

impl UpdateArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let change = Update { restart: self.restart, resources: self.resources.resources() };
        if change == Update::default() {
            bail!("nothing is to be changed: give --restart, --memory, --cpus or --cpu-shares");
        }
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            // Limits that it cannot have are not written down either.
            if !change.resources.is_empty() && found.status(&store).is_running() {
                speak(&store, &found, async |client| client.limit(&found.record.id, &change.resources).await)?;
            }
            container::update(&found, change)?;
            found.tell(&store, "update", []);
            Ok(())
        })
    }
}
