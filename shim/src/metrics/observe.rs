//! What is to be told: the containers of a store, and what the sandboxes of those that run have counted.

use crate::client::SandboxClient;
use crate::v1::{HttpResponse, NetworkResponse, StatsResponse};
use futures::stream::{self, StreamExt as _};
use sampan_runtime::container::{self, Container, ContainerError, Record, Running, Status};
use sampan_runtime::store::Store;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one sandbox may take to answer; a scrape is given up after ten seconds by default.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many sandboxes are asked at once.
const AT_ONCE: usize = 16;

/// All that is told at one scrape.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// How many containers there are in each state.
    pub states: BTreeMap<&'static str, u64>,
    /// Those that run.
    pub running: Vec<Figures>,
}

/// What is known of one running container.
#[derive(Debug)]
pub(super) struct Figures {
    pub record: Record,
    pub running: Running,
    /// `None` when its sandbox has not answered.
    pub stats: Option<StatsResponse>,
    pub network: Option<NetworkResponse>,
    /// `None` also for what is no HTTP service.
    pub http: Option<HttpResponse>,
}

/// Looks at all containers, and asks those that run.
pub(super) async fn all(store: &Store) -> Result<Observed, ContainerError> {
    let mut observed = Observed::default();
    let mut running = Vec::new();
    for container in container::list(store)? {
        let status = container.status(store);
        *observed.states.entry(status.word()).or_default() += 1;
        if let Status::Running(at) = status {
            running.push((container, at));
        }
    }
    let asked = stream::iter(running).map(|(container, at)| ask(store, container, at));
    observed.running = asked.buffered(AT_ONCE).collect().await;
    Ok(observed)
}

async fn ask(store: &Store, container: Container, running: Running) -> Figures {
    let socket = container.socket(store);
    let mut figures = Figures { record: container.record, running, stats: None, network: None, http: None };
    let asking = async {
        let client = SandboxClient::connect(&socket).await.ok()?;
        let id = figures.record.id.clone();
        figures.stats = client.stats(&id).await.ok();
        figures.network = client.network(&id).await.ok();
        figures.http = client.http(&id).await.ok();
        Some(())
    };
    // One that does not answer is told without figures.
    let _ = tokio::time::timeout(PATIENCE, asking).await;
    figures
}
