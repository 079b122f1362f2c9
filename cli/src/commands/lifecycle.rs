//! `stop`, `kill`, `wait` and `rm`.

use crate::Context;
use crate::commands::{for_each, words};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use sampan_runtime::container::{self, Container, ContainerError, Status};
use sampan_runtime::store::{Lock, Store};
use sampan_shim::client::{ClientError, SandboxClient};
use std::process::ExitCode;
use std::time::Duration;

// The arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds to wait before killing; the container's own setting, or 10, without it
    #[arg(short, long, value_name = "SECONDS", alias = "timeout")]
    time: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The signal whose meaning is sent: KILL ends at once, TERM, INT, HUP and QUIT in its own time
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill running containers first
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// How long the pauses of somebody who waits for a container's keeper grow.
const PATIENCE: Duration = Duration::from_secs(2);

impl StopArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            let grace = self.time.unwrap_or(found.record.stop_timeout);
            if !in_life(&store, &found) {
                return Ok(());
            }
            speak(&store, &found, async |client| {
                if grace > 0 {
                    client.kill(&found.record.id, SIGTERM).await?;
                    let gone = client.wait(&found.record.id);
                    if let Ok(ended) = tokio::time::timeout(Duration::from_secs(grace.into()), gone).await {
                        return ended.map(drop);
                    }
                }
                client.kill(&found.record.id, SIGKILL).await?;
                client.wait(&found.record.id).await.map(drop)
            })
        })
    }
}

impl KillArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let signal = parse_signal(&self.signal)?;
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            if !in_life(&store, &found) {
                bail!(ContainerError::NotRunning(found.record.id.clone()));
            }
            speak(&store, &found, async |client| {
                client.kill(&found.record.id, signal).await?;
                if signal == SIGKILL { client.wait(&found.record.id).await.map(drop) } else { Ok(()) }
            })
        })
    }
}

impl WaitArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let mut all_found = true;
        for name in &self.containers {
            match container::find(&store, name).map_err(Into::into).and_then(|found| wait_for(&store, &found)) {
                Ok(code) => println!("{code}"),
                Err(error) => {
                    eprintln!("sampan: {}", words(&error));
                    all_found = false;
                }
            }
        }
        Ok(if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn wait_for(store: &Store, found: &Container) -> Result<u8> {
    if in_life(store, found) {
        let mut code = None;
        speak(store, found, async |client| {
            code = Some(client.wait(&found.record.id).await?);
            Ok(())
        })?;
        if let Some(code) = code {
            return Ok(code);
        }
    }
    match found.status(store) {
        Status::Exited(ended) => Ok(ended.code),
        Status::Created => Ok(0),
        Status::Running(_) => Err(anyhow!("container {} was started again meanwhile", found.record.name)),
    }
}

impl RmArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = match container::find(&store, name) {
                // With -f it is enough that it is gone, as with Docker.
                Err(ContainerError::NotFound(_)) if self.force => return Ok(()),
                other => other?,
            };
            match self.force {
                true => remove_by_force(&store, &found, self.volumes),
                false => remove(&store, &found, self.volumes),
            }
        })
    }
}

/// Whether a keeper has the container, be it on the way up or down.
fn in_life(store: &Store, found: &Container) -> bool {
    Lock::is_held(&found.dir.join("lock")) || found.status(store).is_running()
}

/// Kills what runs and removes it, again if somebody has started it in between.
fn remove_by_force(store: &Store, found: &Container, volumes: bool) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        if in_life(store, found) {
            kill_now(store, found)?;
        }
        match remove(store, found, volumes) {
            Err(error) if is_running(&error) && pause < PATIENCE => std::thread::sleep(pause),
            other => return other,
        }
        pause *= 2;
    }
}

fn is_running(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ContainerError::Running { .. }))
}

fn remove(store: &Store, found: &Container, volumes: bool) -> Result<()> {
    // Writes down the end of one that was killed from outside, so that nothing of it is left.
    let _ = found.status(store);
    match container::remove(store, found, volumes) {
        // Its keeper was faster (--rm).
        Err(_) if !found.dir.exists() => Ok(()),
        other => Ok(other?),
    }
}

/// Ends a container and waits until it has ended.
fn kill_now(store: &Store, found: &Container) -> Result<()> {
    speak(store, found, async |client| {
        client.kill(&found.record.id, SIGKILL).await?;
        client.wait(&found.record.id).await.map(drop)
    })
}

/// Speaks to the container's sandbox. One that goes away before it has answered has ended, which is what the callers
/// want, even if somebody has started the container again; they look at its record.
fn speak(
    store: &Store,
    found: &Container,
    talk: impl AsyncFnOnce(&SandboxClient) -> std::result::Result<(), ClientError>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Some(client) = connect(store, found).await? else { return Ok(()) };
        let keeper = || match found.status(store) {
            Status::Running(running) => Some(running.keeper),
            _ => None,
        };
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
            Err(_) if !is_there() => Ok(()),
            other => Ok(other?),
        }
    })
}

/// Connects to the container's sandbox; `None` when it is not in life.
pub async fn connect(store: &Store, found: &Container) -> Result<Option<SandboxClient>> {
    let socket = store.run_path().join(container::id::short(&found.record.id)).join("sock");
    // A foreground container opens its socket a moment after its start.
    let mut pause = Duration::from_millis(1);
    loop {
        match SandboxClient::connect(&socket).await {
            Ok(client) => return Ok(Some(client)),
            Err(_) if !in_life(store, found) => return Ok(None),
            Err(error) if pause > Duration::from_secs(1) => return Err(error.into()),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}

fn parse_signal(given: &str) -> Result<u32> {
    let name = given.to_ascii_uppercase();
    Ok(match name.strip_prefix("SIG").unwrap_or(&name) {
        "KILL" | "9" => SIGKILL,
        "TERM" | "15" => SIGTERM,
        "INT" | "2" => 2,
        "HUP" | "1" => 1,
        "QUIT" | "3" => 3,
        _ => bail!("signal {given:?} has no meaning for a Wasm program: KILL, TERM, INT, HUP and QUIT have"),
    })
}
