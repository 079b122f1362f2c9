//! `stats`.

use crate::Context;
use crate::commands::filter;
use crate::format::humanize::{self, bytes_size, human_size};
use crate::format::{Column, Listing};
use anyhow::{Context as _, Result};
use clap::Args;
use sampan_runtime::container::{self, Container};
use sampan_runtime::store::Store;
use sampan_shim::client::SandboxClient;
use sampan_shim::v1::StatsResponse;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Show what containers use, once a second
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids; all that run without any
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const STATS: Listing = Listing::new(
    "ID",
    &[
        Column::shown("ID", "CONTAINER ID"),
        Column::shown("Name", "NAME"),
        Column::shown("CPUPerc", "CPU %"),
        Column::shown("MemUsage", "MEM USAGE / LIMIT"),
        Column::shown("MemPerc", "MEM %"),
        Column::shown("NetIO", "NET I/O"),
        Column::shown("BlockIO", "BLOCK I/O"),
        // Instances, which are what a container has in the place of processes.
        Column::shown("PIDs", "PIDS"),
        Column::hidden("Container", "CONTAINER"),
        Column::hidden("PSS", "PSS"),
        Column::hidden("Requests", "REQUESTS"),
        // What it was refused of the network; the log's diagnostics say what.
        Column::hidden("Refused", "REFUSED"),
        Column::hidden("CPUTime", "CPU TIME"),
    ],
);

/// How long lies between two looks, which is what the share of a processor is measured over.
const PACE: Duration = Duration::from_secs(1);
/// How long a sandbox may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was known of a container at one moment.
struct Look {
    at: Instant,
    cpu_ns: u64,
}

impl StatsArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        // What is asked for by name has to be there.
        self.containers.iter().try_for_each(|name| container::find(&store, name).map(drop))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.watch(&store))
    }

    async fn watch(&self, store: &Store) -> Result<ExitCode> {
        let mut before = HashMap::new();
        // The first look has none before it.
        self.look(store, &mut before).await?;
        let live =
            !self.no_stream && std::io::stdout().is_terminal() && !matches!(self.format.as_deref(), Some("json"));
        loop {
            tokio::time::sleep(PACE).await;
            let rows = self.look(store, &mut before).await?;
            let text = STATS.render(&rows, self.format.as_deref(), false)?;
            // To the upper left corner of an empty screen, as Docker does.
            let start = if live { "\x1b[2J\x1b[H" } else { "" };
            let printed = filter::print(&format!("{start}{text}"))?;
            if self.no_stream {
                return Ok(printed);
            }
        }
    }

    /// A row for each container that is to be seen.
    async fn look(&self, store: &Store, before: &mut HashMap<String, Look>) -> Result<Vec<Value>> {
        let chosen: Vec<Container> = match self.containers.as_slice() {
            [] => container::list(store)?,
            // One that was removed meanwhile is seen no more.
            names => names.iter().filter_map(|name| container::find(store, name).ok()).collect(),
        };
        let all = self.all || !self.containers.is_empty();
        let mut rows = Vec::new();
        for found in chosen {
            let running = found.status(store).is_running();
            let stats = if running { ask(store, &found).await.ok() } else { None };
            if stats.is_none() && !all {
                continue;
            }
            let stats = stats.unwrap_or_default();
            let now = Look { at: Instant::now(), cpu_ns: stats.cpu_ns };
            let share = before.get(&found.record.id).map_or(0.0, |then| share(then, &now));
            before.insert(found.record.id.clone(), now);
            rows.push(self.row(&found, &stats, share));
        }
        Ok(rows)
    }

    fn row(&self, found: &Container, stats: &StatsResponse, share: f64) -> Value {
        let id = if self.no_trunc { &found.record.id } else { humanize::short_id(&found.record.id) };
        #[allow(clippy::cast_precision_loss, reason = "two digits of it are shown")]
        let of_memory = match stats.memory_limit {
            0 => 0.0,
            limit => stats.memory as f64 * 100.0 / limit as f64,
        };
        let both = |one, other| format!("{} / {}", human_size(one, 3), human_size(other, 3));
        json!({
            "ID": id,
            "Container": id,
            "Name": found.record.name,
            "CPUPerc": format!("{share:.2}%"),
            "MemUsage": format!("{} / {}", bytes_size(stats.memory), bytes_size(stats.memory_limit)),
            "MemPerc": format!("{of_memory:.2}%"),
            "NetIO": both(stats.received, stats.sent),
            "BlockIO": both(stats.block_read, stats.block_written),
            "PIDs": stats.instances.to_string(),
            "PSS": bytes_size(stats.pss),
            "Requests": stats.requests.to_string(),
            "Refused": stats.refused.to_string(),
            "CPUTime": format!("{:?}", Duration::from_nanos(stats.cpu_ns)),
        })
    }
}

/// The share of one processor between two looks, in percent.
fn share(then: &Look, now: &Look) -> f64 {
    let spent = Duration::from_nanos(now.cpu_ns.saturating_sub(then.cpu_ns));
    let passed = now.at.duration_since(then.at);
    if passed.is_zero() { 0.0 } else { spent.as_secs_f64() * 100.0 / passed.as_secs_f64() }
}

async fn ask(store: &Store, found: &Container) -> Result<StatsResponse> {
    let socket = found.socket(store);
    let asked = async { SandboxClient::connect(&socket).await?.stats(&found.record.id).await };
    let answer = tokio::time::timeout(PATIENCE, asked).await.context("the sandbox does not answer")?;
    Ok(answer?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_one_processor() {
        let at = Instant::now();
        let look = |after: u64, cpu_ms: u64| Look { at: at + Duration::from_millis(after), cpu_ns: cpu_ms * 1_000_000 };
        assert!((share(&look(0, 0), &look(1000, 1500)) - 150.0).abs() < 1e-9);
        assert!(share(&look(0, 5), &look(0, 9)).abs() < 1e-9);
        // A container that was started again begins from the start.
        assert!(share(&look(0, 500), &look(1000, 10)).abs() < 1e-9);
    }
}
