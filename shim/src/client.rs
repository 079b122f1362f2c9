//! Speaking to a running sandbox.

use crate::exec::ExecProcess;
use crate::v1::{
    AttachRequest, DetachRequest, HttpRequest, HttpResponse, JoinRequest, JoinResponse, NetworkRequest,
    NetworkResponse, SandboxClient as SideClient, StatsRequest, StatsResponse,
};
use containerd_shim_protos::api::{
    DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use sampan_runtime::grants::Resources;
use std::path::Path;
use std::time::Duration;
use ttrpc::asynchronous::Client;
use ttrpc::{Code, context};

const EXEC: &str = "run a program in the container";
const START: &str = "start the program";
/// How containerd names the type of what a Linux container may use.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// How containerd names the type of an OCI process.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The signals of a stop (signal(7)).
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

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

    /// Why a program could not be run inside a container: the exit code that says so (127 when it is not there, 126 when it
    /// cannot be run), and the sandbox's words. `None` for any other error.
    #[must_use]
    pub fn not_run(&self) -> Option<(u8, &str)> {
        let Self::Call { what: START, source: ttrpc::Error::RpcStatus(status) } = self else { return None };
        let code = match status.code() {
            Code::NOT_FOUND => 127,
            Code::FAILED_PRECONDITION => 126,
            _ => 1,
        };
        Some((code, status.message()))
    }
}

/// A connection to a sandbox's control socket.
#[derive(Clone)]
pub struct SandboxClient {
    task: TaskClient,
    side: SideClient,
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
        Ok(Self { task: TaskClient::new(client.clone()), side: SideClient::new(client) })
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

    /// Ends a container in its own time, or at once when `grace` is over; returns when it has ended.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), ClientError> {
        if !grace.is_zero() {
            self.kill(id, SIGTERM).await?;
            if let Ok(ended) = tokio::time::timeout(grace, self.wait(id)).await {
                return ended.map(drop);
            }
        }
        self.kill(id, SIGKILL).await?;
        self.wait(id).await.map(drop)
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

    /// Changes what a running container may use.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn limit(&self, id: &str, change: &Resources) -> Result<(), ClientError> {
        let call = |source| ClientError::Call { what: "change its limits", source };
        let value = change.to_linux().map_err(|e| e.to_string());
        let value = value.and_then(|linux| serde_json::to_vec(&linux).map_err(|e| e.to_string()));
        let value = value.map_err(|e| call(ttrpc::Error::Others(e)))?;
        let resources = Some(Any { type_url: RESOURCES.to_owned(), value, ..Any::default() }).into();
        let request = UpdateTaskRequest { id: id.to_owned(), resources, ..UpdateTaskRequest::default() };
        let answer = self.task.update(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(call)
    }

    /// What has been counted of an HTTP service's requests.
    ///
    /// # Errors
    /// When it is none or does not run, or the sandbox goes away.
    pub async fn http(&self, id: &str) -> Result<HttpResponse, ClientError> {
        let request = HttpRequest { id: id.to_owned(), ..HttpRequest::default() };
        let answer = self.side.http(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map_err(|source| ClientError::Call { what: "say what it has counted of requests", source })
    }

    /// What a container was refused of the network.
    ///
    /// # Errors
    /// When it does not run, or the sandbox goes away.
    pub async fn network(&self, id: &str) -> Result<NetworkResponse, ClientError> {
        let request = NetworkRequest { id: id.to_owned(), ..NetworkRequest::default() };
        let answer = self.side.network(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map_err(|source| ClientError::Call { what: "say what a container was refused", source })
    }

    /// What a container uses.
    ///
    /// # Errors
    /// When it does not run, or the sandbox goes away.
    pub async fn stats(&self, id: &str) -> Result<StatsResponse, ClientError> {
        let request = StatsRequest { id: id.to_owned(), ..StatsRequest::default() };
        let answer = self.side.stats(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map_err(|source| ClientError::Call { what: "say what a container uses", source })
    }

    /// Has a program run inside a container under a name that nobody has yet; returns when its first instruction is next.
    /// `streams` are the paths of the FIFOs for standard input, output and error; an empty one is none.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away; [`ClientError::not_run`] tells why.
    pub async fn exec(
        &self,
        id: &str,
        exec: &str,
        process: &ExecProcess,
        streams: [String; 3],
    ) -> Result<(), ClientError> {
        let call = |what| move |source| ClientError::Call { what, source };
        let value = serde_json::to_vec(process).map_err(|e| call(EXEC)(ttrpc::Error::Others(e.to_string())))?;
        let spec = Any { type_url: PROCESS.to_owned(), value, ..Any::default() };
        let [stdin, stdout, stderr] = streams;
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        let terminal = process.process.terminal().unwrap_or(false);
        let (start_id, start_exec) = (id.clone(), exec_id.clone());
        let spec = Some(spec).into();
        let request =
            ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec, ..ExecProcessRequest::default() };
        self.task.exec(context::with_duration(Duration::from_secs(10)), &request).await.map_err(call(EXEC))?;
        let request = StartRequest { id: start_id, exec_id: start_exec, ..StartRequest::default() };
        // It may have to be compiled first.
        let started = self.task.start(context::Context::default(), &request).await.map_err(call(START));
        if started.is_err() {
            let _ = self.forget_exec(&request.id, exec).await;
        }
        started.map(drop)
    }

    /// Waits for the end of what is run inside a container, and returns its exit code.
    ///
    /// # Errors
    /// When the sandbox goes away without an answer.
    pub async fn wait_exec(&self, id: &str, exec: &str) -> Result<u8, ClientError> {
        let request = WaitRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..WaitRequest::default() };
        let answer = self.task.wait(context::Context::default(), &request).await;
        let answer = answer.map_err(|source| ClientError::Call { what: "wait", source })?;
        Ok(u8::try_from(answer.exit_status).unwrap_or(u8::MAX))
    }

    /// Ends what is run inside a container by a signal.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn kill_exec(&self, id: &str, exec: &str, signal: u32) -> Result<(), ClientError> {
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        let request = KillRequest { id, exec_id, signal, ..KillRequest::default() };
        let answer = self.task.kill(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "send a signal", source })
    }

    /// Shows a running container's output from now on, and writes its standard input, whose end is the container's if it is
    /// `once`. `streams` are the paths of the FIFOs for standard input, output and error; an empty one is none.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn attach(&self, id: &str, streams: [String; 3], once: bool) -> Result<(), ClientError> {
        let [stdin, stdout, stderr] = streams;
        let request = AttachRequest { id: id.to_owned(), stdin, stdout, stderr, once, ..AttachRequest::default() };
        let answer = self.side.attach(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "attach", source })
    }

    /// Lets what is run inside a container go on when we go away.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn detach_exec(&self, id: &str, exec: &str) -> Result<(), ClientError> {
        let request = DetachRequest { id: id.to_owned(), exec: exec.to_owned(), ..DetachRequest::default() };
        let answer = self.side.detach(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "let a program go on", source })
    }

    /// Forgets what was run inside a container and has ended.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn forget_exec(&self, id: &str, exec: &str) -> Result<(), ClientError> {
        let request = DeleteRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..DeleteRequest::default() };
        let answer = self.task.delete(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "forget a process", source })
    }

    /// Says how large a window is, in characters: that of what is run inside a container, or of the container's own program
    /// when `exec` is empty.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn resize(&self, id: &str, exec: &str, columns: u16, rows: u16) -> Result<(), ClientError> {
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        let (width, height) = (columns.into(), rows.into());
        let request = ResizePtyRequest { id, exec_id, width, height, ..ResizePtyRequest::default() };
        let answer = self.task.resize_pty(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "resize the terminal", source })
    }

    /// Has a container of the store, which was made for this sandbox, run in it; returns when its first instruction was next.
    /// `streams` are the paths of the FIFOs of who looks on and will ask for its end. `None` when the sandbox is about to
    /// end, or has: a new one can be made.
    ///
    /// # Errors
    /// When the sandbox refuses.
    pub async fn join(&self, id: &str, streams: Option<[String; 3]>) -> Result<Option<JoinResponse>, ClientError> {
        let attached = streams.is_some();
        let [stdin, stdout, stderr] = streams.unwrap_or_default();
        let request = JoinRequest { id: id.to_owned(), stdin, stdout, stderr, attached, ..JoinRequest::default() };
        // It may have to be compiled first.
        match self.side.join(context::Context::default(), &request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::UNAVAILABLE => Ok(None),
            Err(source) => match (ClientError::Call { what: "run a container", source }) {
                lost if lost.is_lost() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Says that the sandbox of this container is wanted no more, if nothing is in it.
    ///
    /// # Errors
    /// When the sandbox refuses or goes away.
    pub async fn shutdown(&self, id: &str) -> Result<(), ClientError> {
        let request = ShutdownRequest { id: id.to_owned(), ..ShutdownRequest::default() };
        let answer = self.task.shutdown(context::with_duration(Duration::from_secs(10)), &request).await;
        answer.map(drop).map_err(|source| ClientError::Call { what: "end", source })
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
