//! Speaking to a running sandbox.

use crate::v1;
use containerd_shim_protos::api::{KillRequest, PauseRequest, ResumeRequest, WaitRequest};
use containerd_shim_protos::shim_async::TaskClient;
use std::path::Path;
use std::time::Duration;
use ttrpc::asynchronous::Client;
use ttrpc::context;

/// What a sandbox that was asked did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot reach the sandbox at {socket}: {source}")]
    Connect {
        /// The control socket.
        socket: String,
        /// What went wrong.
        source: ttrpc::Error,
    },
    /// The sandbox refused, or went away.
    #[error("the sandbox refused to {what}: {source}")]
    Call {
        /// What was asked.
        what: &'static str,
        /// What it said.
        source: ttrpc::Error,
    },
}

impl ClientError {
    /// Whether the connection broke, rather than that the sandbox said no.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !matches!(self, Self::Call { source: ttrpc::Error::RpcStatus(_), .. })
    }
}

/// A connection to a sandbox's control socket.
#[derive(Clone)]
pub struct SandboxClient {
    task: TaskClient,
    side: v1::SandboxClient,
}

impl std::fmt::Debug for SandboxClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxClient").finish_non_exhaustive()
    }
}

impl SandboxClient {
    /// Connects to the control socket.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let address = format!("unix://{}", socket.display());
        let client = Client::connect(&address)
            .await
            .map_err(|source| ClientError::Connect { socket: socket.display().to_string(), source })?;
        Ok(Self { task: TaskClient::new(client.clone()), side: v1::SandboxClient::new(client) })
    }

    /// Sends a signal's meaning to a container.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn kill(&self, id: &str, signal: u32) -> Result<(), ClientError> {
        let request = KillRequest { id: id.to_owned(), signal, ..KillRequest::default() };
        let answer = self.task.kill(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "send a signal", source })
    }

    /// Holds a container where it is.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn pause(&self, id: &str) -> Result<(), ClientError> {
        let request = PauseRequest { id: id.to_owned(), ..PauseRequest::default() };
        let answer = self.task.pause(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "pause", source })
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn resume(&self, id: &str) -> Result<(), ClientError> {
        let request = ResumeRequest { id: id.to_owned(), ..ResumeRequest::default() };
        let answer = self.task.resume(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "go on", source })
    }

    /// What a container uses.
    ///
    /// # Errors
    /// When it does not run, or the sandbox goes away.
    pub async fn stats(&self, id: &str) -> Result<v1::StatsResponse, ClientError> {
        let request = v1::StatsRequest { id: id.to_owned(), ..v1::StatsRequest::default() };
        let answer = self.side.stats(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map_err(|source| ClientError::Call { what: "say what a container uses", source })
    }

    /// Waits for a container's end and returns its exit code.
    ///
    /// # Errors
    /// When the sandbox goes away without an answer.
    pub async fn wait(&self, id: &str) -> Result<u8, ClientError> {
        let request = WaitRequest { id: id.to_owned(), ..WaitRequest::default() };
        let answer = self.task.wait(context::Context::default(), &request).await;
        let answer = answer.map_err(|source| ClientError::Call { what: "wait", source })?;
        Ok(u8::try_from(answer.exit_status).unwrap_or(u8::MAX))
    }
}
