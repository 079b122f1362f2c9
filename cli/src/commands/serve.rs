//! `serve`: the front ends that other programs speak to.

use crate::Context;
use crate::front::Signals;
use anyhow::{Context as _, Result};
use clap::Args;
use sampan_shim::metrics;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::net::TcpListener;

/// Serve other programs: metrics
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Serve figures of all running containers to Prometheus at this address, as http://ADDRESS:PORT/metrics
    #[arg(long, value_name = "ADDRESS:PORT", required = true)]
    metrics: SocketAddr,
}

impl ServeArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let ends = Signals::take(&[libc::SIGINT, libc::SIGTERM]).context("cannot take Ctrl-C")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut ends = ends.listen()?;
            let listener = TcpListener::bind(self.metrics);
            let listener = listener.await.with_context(|| format!("cannot serve metrics at {}", self.metrics))?;
            // The port may have been the system's choice.
            println!("metrics: http://{}/metrics", listener.local_addr()?);
            tokio::select! {
                served = metrics::serve(listener, &store) => match served.context("cannot serve metrics")? {},
                _ = ends.next() => Ok(ExitCode::SUCCESS),
            }
        })
    }
}
