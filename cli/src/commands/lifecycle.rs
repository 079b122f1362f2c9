//! `stop`, `kill`, `wait` and `rm`.

use crate::Context;
use crate::commands::sandbox::{PATIENCE, end, in_life, speak};
use crate::commands::{for_each, words};
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::{self, Container, ContainerError, Status};
use sampan_runtime::store::Store;
use std::cell::Cell;
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

impl StopArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        for_each(&self.containers, |name| {
            let found = container::find(&store, name)?;
            stop(&store, &found, self.time)
        })
    }
}

/// Ends a container in its own time: within `grace` seconds, or its own setting. One that does not run has ended.
pub fn stop(store: &Store, found: &Container, grace: Option<u32>) -> Result<()> {
    let grace = grace.unwrap_or(found.record.stop_timeout);
    let grace = Duration::from_secs(grace.into());
    end(store, found, async |client| client.stop(&found.record.id, grace).await)?;
    found.tell(store, "stop", []);
    Ok(())
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
            end(&store, &found, async |client| {
                client.kill(&found.record.id, signal).await?;
                found.tell(&store, "kill", [("signal", signal.to_string())]);
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

/// The exit code of the container's end: the next one, or the last if it does not run.
fn wait_for(store: &Store, found: &Container) -> Result<u8> {
    let code = Cell::new(None);
    let mut pause = Duration::from_millis(1);
    loop {
        if in_life(store, found) {
            speak(store, found, async |client| {
                code.set(Some(client.wait(&found.record.id).await?));
                Ok(())
            })?;
        }
        match (code.get(), found.status(store)) {
            (Some(code), _) => return Ok(code),
            (None, Status::Exited(ended)) => return Ok(ended.code),
            (None, Status::Created) => return Ok(0),
            // It is about to be started again, or was meanwhile.
            (None, Status::Running(_) | Status::Restarting(_)) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(PATIENCE / 20);
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
    end(store, found, async |client| client.stop(&found.record.id, Duration::ZERO).await)
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
