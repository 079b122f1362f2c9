//! Speaking to the sandbox of a container.

use anyhow::{Result, bail};
use sampan_runtime::container::{Container, Status, restart};
use sampan_runtime::store::{Lock, Store};
use sampan_shim::client::{ClientError, SandboxClient};
use std::time::Duration;

/// How long the pauses of somebody who waits for a container's keeper grow.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a keeper has the container, be it on the way up or down, or waiting to start it again.
pub fn in_life(store: &Store, found: &Container) -> bool {
    Lock::is_held(&found.dir.join("lock")) || found.status(store).is_running()
}

/// Has `talk` end a container. If its restart policy was faster, the next start is called off, or ended too.
pub fn end(
    store: &Store,
    found: &Container,
    talk: impl AsyncFn(&SandboxClient) -> Result<(), ClientError>,
) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    while in_life(store, found) {
        if restart::call_off(store, found)? || speak(store, found, &talk)? {
            return Ok(());
        }
        if pause > PATIENCE {
            bail!("container {} could not be ended: it is started again and again", found.record.name);
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}

/// Speaks to the container's sandbox. False if that went away before it has answered, or waits for the container's
/// next start: the container has ended, even if somebody has started it again.
pub fn speak(
    store: &Store,
    found: &Container,
    talk: impl AsyncFnOnce(&SandboxClient) -> Result<(), ClientError>,
) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keeper = || match found.status(store) {
        Status::Running(running) => Some(running.keeper),
        _ => None,
    };
    runtime.block_on(async {
        let Some(client) = connect(store, found).await? else { return Ok(false) };
        let spoken_to = keeper();
        let is_there = || in_life(store, found) && keeper() == spoken_to;
        let answer = talk(&client).await;
        if let Err(error) = &answer
            && error.is_lost()
        {
            // Its process is on the way out, and holds the container for another moment.
            let mut pause = Duration::from_millis(1);
            while is_there() && pause < PATIENCE {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        match answer {
            Err(_) if !is_there() => Ok(false),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(true),
        }
    })
}

/// Connects to the container's sandbox; `None` when it has none, which is so while it waits for its next start too.
pub async fn connect(store: &Store, found: &Container) -> Result<Option<SandboxClient>> {
    let socket = found.socket(store);
    // A foreground container opens its socket a moment after its start.
    let mut pause = Duration::from_millis(1);
    loop {
        match SandboxClient::connect(&socket).await {
            Ok(client) => return Ok(Some(client)),
            Err(_) if !in_life(store, found) => return Ok(None),
            Err(_) if matches!(found.status(store), Status::Restarting(_)) => return Ok(None),
            Err(error) if pause > Duration::from_secs(1) => return Err(error.into()),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}
