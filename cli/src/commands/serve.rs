//! `serve`: the front ends that other programs speak to.

use crate::Context;
use crate::front::Signals;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sampan_runtime::config::Config;
use sampan_shim::{cri, metrics};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::net::TcpListener;

/// Serve other programs: Kubernetes, metrics
#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "faces")]
pub struct ServeArgs {
    /// Be the container runtime of a Kubernetes node at this socket, as unix:///run/sampan/sampan.sock
    #[arg(long, value_name = "SOCKET", group = "faces")]
    cri: Option<String>,
    /// Serve figures of all running containers to Prometheus at this address, as http://ADDRESS:PORT/metrics
    #[arg(long, value_name = "ADDRESS:PORT", group = "faces")]
    metrics: Option<SocketAddr>,
    /// Where the CNI configurations of the pods' network are
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d", requires = "cri")]
    cni_conf_dir: PathBuf,
    /// Where the CNI plugins are, instead of /opt/cni/bin and /usr/lib/cni
    #[arg(long, value_name = "DIRECTORY", requires = "cri")]
    cni_bin_dir: Vec<PathBuf>,
}

impl ServeArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let ends = Signals::take(&[libc::SIGINT, libc::SIGTERM]).context("cannot take Ctrl-C")?;
        let mut runtime = match self.cri {
            Some(_) => tokio::runtime::Builder::new_multi_thread(),
            None => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime = runtime.worker_threads(2).enable_all().build()?;
        let served = runtime.block_on(async {
            let mut ends = ends.listen()?;
            tokio::select! {
                served = self.metrics(context) => served,
                served = self.cri(context) => served,
                _ = ends.next() => Ok(()),
            }
        });
        runtime.shutdown_background();
        served.map(|()| ExitCode::SUCCESS)
    }

    async fn metrics(&self, context: &Context) -> Result<()> {
        let Some(address) = self.metrics else { return std::future::pending().await };
        let store = context.store()?;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot serve metrics at {address}"))?;
        // The port may have been the system's choice.
        println!("metrics: http://{}/metrics", listener.local_addr()?);
        match metrics::serve(listener, &store).await.context("cannot serve metrics")? {}
    }

    async fn cri(&self, context: &Context) -> Result<()> {
        let Some(address) = &self.cri else { return std::future::pending().await };
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if !path.starts_with('/') {
            bail!("cannot serve CRI at {address}: a socket is wanted, as unix:///run/sampan/sampan.sock");
        }
        if !rustix::process::geteuid().is_root() {
            bail!("cannot serve CRI: pods have network namespaces and mounts of the node, which are for root");
        }
        let config = Config::load()?.kubernetes;
        let mut options = cri::Options { cni_configs: self.cni_conf_dir.clone(), config, ..cri::Options::default() };
        if !self.cni_bin_dir.is_empty() {
            options.cni_plugins.clone_from(&self.cni_bin_dir);
        }
        // A node's images and containers come and go as kubelet likes, and no user's with them.
        let store = context.namespace("k8s.io")?;
        let listener = cri::listen(path.as_ref())?;
        println!("cri: unix://{path}");
        Ok(cri::serve(listener, &store, options).await?)
    }
}
