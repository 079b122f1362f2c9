//! containerd's Task API (`containerd.task.v2.Task`, and `v3.Task`, whose messages are the same).

use crate::create::Created;
use crate::exec::Execs;
use crate::server::Busy;
use crate::side::stats_of;
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryStat, Metrics, PidsStat};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim_async::{Task, create_task};
use oci_spec::runtime::Spec;
use sampan_runtime::config::Config;
use sampan_runtime::grants::{Grants, Resources};
use sampan_runtime::sandbox::{ExecError, Exit, Keeper, Phase, SandboxError, Snapshot, Stats};
use sampan_runtime::store::Store;
use std::collections::HashMap;
use std::sync::Arc;
use ttrpc::asynchronous::{Service as Methods, TtrpcContext as Context};
use ttrpc::{Code, Error, Result};

/// The service of a sandbox.
#[derive(Clone)]
pub(crate) struct TaskService {
    pub(crate) keeper: Keeper,
    pub(crate) store: Store,
    pub(crate) busy: Busy,
    pub(crate) execs: Execs,
    pub(crate) created: Created,
}

impl TaskService {
    pub(crate) fn new(keeper: &Keeper, store: &Store, busy: &Busy, execs: &Execs) -> Self {
        let (keeper, store, busy, execs) = (keeper.clone(), store.clone(), busy.clone(), execs.clone());
        Self { keeper, store, busy, execs, created: Created::default() }
    }
}

/// A service under both of its names.
pub(crate) fn services(service: Arc<dyn Task + Send + Sync>) -> HashMap<String, Methods> {
    let v3 = create_task(Arc::clone(&service));
    let v2 = create_task(service);
    v3.into_iter().chain(v2.into_iter().map(|(name, methods)| (name.replace(".v3.", ".v2."), methods))).collect()
}

pub(crate) fn refuse(code: Code, message: impl Into<String>) -> Error {
    Error::RpcStatus(ttrpc::get_status(code, message.into()))
}

pub(crate) fn of_sandbox(error: SandboxError) -> Error {
    let code = match &error {
        SandboxError::NoContainer(_) => Code::NOT_FOUND,
        SandboxError::Phase { .. } | SandboxError::Shared(_) | SandboxError::InUse { .. } => Code::FAILED_PRECONDITION,
        SandboxError::Gone => Code::UNAVAILABLE,
        _ => Code::INTERNAL,
    };
    refuse(code, error.to_string())
}

pub(crate) fn of_exec(error: ExecError) -> Error {
    if let ExecError::Sandbox(error) = error {
        return of_sandbox(error);
    }
    let code = match &error {
        ExecError::NotFound { .. } | ExecError::NoProgram { .. } => Code::NOT_FOUND,
        ExecError::Taken { .. } => Code::ALREADY_EXISTS,
        ExecError::NoCommand => Code::INVALID_ARGUMENT,
        error if error.exit_code() == 126 => Code::FAILED_PRECONDITION,
        _ => Code::INTERNAL,
    };
    refuse(code, error.to_string())
}

/// The state of what has this phase.
fn status_of(phase: &Phase) -> Status {
    match phase {
        Phase::Created => Status::CREATED,
        Phase::Starting | Phase::Running => Status::RUNNING,
        Phase::Ended(_) => Status::STOPPED,
    }
}

pub(crate) fn time(at: jiff::Timestamp) -> Timestamp {
    Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond(), ..Timestamp::default() }
}

fn exit_of(snapshot: &Snapshot) -> Option<&Exit> {
    match &snapshot.phase {
        Phase::Ended(exit) => Some(exit),
        _ => None,
    }
}

/// The name by which containerd knows the message.
const METRICS: &str = "io.containerd.cgroups.v2.Metrics";

fn metrics(stats: &Stats) -> Metrics {
    let usage = &stats.usage;
    let cpu = CPUStat {
        usage_usec: usage.cpu_ns / 1000,
        // What the thread did in the kernel for its guest is not told apart.
        user_usec: usage.cpu_ns / 1000,
        nr_throttled: usage.held,
        throttled_usec: usage.held_us,
        ..CPUStat::default()
    };
    let memory = MemoryStat {
        anon: usage.memory,
        usage: usage.memory,
        usage_limit: usage.memory_limit,
        ..MemoryStat::default()
    };
    let disks = IOEntry { rbytes: stats.read, wbytes: stats.written, ..IOEntry::default() };
    Metrics {
        pids: Some(PidsStat { current: usage.instances, ..PidsStat::default() }).into(),
        cpu: Some(cpu).into(),
        memory: Some(memory).into(),
        io: Some(IOStat { usage: vec![disks], ..IOStat::default() }).into(),
        ..Metrics::default()
    }
}

/// The same as containerd passes it on.
pub(crate) fn metrics_any(stats: &Stats) -> Result<Any> {
    let value = metrics(stats).write_to_bytes();
    let value = value.map_err(|e| refuse(Code::INTERNAL, format!("cannot write the metrics: {e}")))?;
    Ok(Any { type_url: METRICS.to_owned(), value, ..Any::default() })
}

/// The answer to who waits for an end.
pub(crate) fn exit_response(exit: Option<&Exit>) -> WaitResponse {
    WaitResponse {
        exit_status: exit.map_or(0, |e| e.code.into()),
        exited_at: exit.map(|e| time(e.at)).into(),
        ..WaitResponse::default()
    }
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &Context, request: StateRequest) -> Result<StateResponse> {
        let _call = self.busy.call();
        let snapshot = self.keeper.look(&request.id).map_err(of_sandbox)?;
        if !request.exec_id.is_empty() {
            let (phase, [stdin, stdout, stderr], terminal) = self.execs.look(&request.id, &request.exec_id)?;
            let exit = if let Phase::Ended(exit) = &phase { Some(exit) } else { None };
            return Ok(StateResponse {
                bundle: snapshot.bundle.to_string_lossy().into_owned(),
                pid: snapshot.pid,
                status: status_of(&phase).into(),
                stdin,
                stdout,
                stderr,
                terminal,
                exit_status: exit.map_or(0, |e| e.code.into()),
                exited_at: exit.map(|e| time(e.at)).into(),
                id: request.id,
                exec_id: request.exec_id,
                ..StateResponse::default()
            });
        }
        let status = match snapshot.phase {
            Phase::Running if self.keeper.is_paused() => Status::PAUSED,
            ref phase => status_of(phase),
        };
        let exit = exit_of(&snapshot);
        let ([stdin, stdout, stderr], terminal) = self.created.streams(&request.id);
        Ok(StateResponse {
            stdin,
            stdout,
            stderr,
            terminal,
            id: request.id,
            bundle: snapshot.bundle.to_string_lossy().into_owned(),
            pid: snapshot.pid,
            status: status.into(),
            exit_status: exit.map_or(0, |e| e.code.into()),
            exited_at: exit.map(|e| time(e.at)).into(),
            ..StateResponse::default()
        })
    }

    /// Adds a container to this sandbox from a bundle. Without streams its output goes to the bundle's log.
    async fn create(&self, _: &Context, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let _call = self.busy.call();
        let config = Config::load().map_err(|e| refuse(Code::FAILED_PRECONDITION, e.to_string()))?;
        let adjust = |_: &Spec, grants: &mut Grants| {
            grants.egress.extend(config.egress(grants.network));
            Ok(())
        };
        self.created.create(&self.keeper, &self.store, request, adjust).await?;
        Ok(CreateTaskResponse { pid: self.keeper.host_pid(), ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &Context, request: StartRequest) -> Result<StartResponse> {
        let _call = self.busy.call();
        if !request.exec_id.is_empty() {
            self.execs.start(&request.id, &request.exec_id).await?;
            return Ok(StartResponse { pid: self.keeper.host_pid(), ..StartResponse::default() });
        }
        self.keeper.start(&request.id).map_err(of_sandbox)?;
        self.created.started(&self.keeper, &request.id)?;
        let snapshot = self.keeper.started(&request.id).await.map_err(of_sandbox)?;
        if let Some(Exit { message: Some(message), .. }) = exit_of(&snapshot)
            && snapshot.started.is_none()
        {
            return Err(refuse(Code::FAILED_PRECONDITION, message.clone()));
        }
        Ok(StartResponse { pid: snapshot.pid, ..StartResponse::default() })
    }

    async fn delete(&self, _: &Context, request: DeleteRequest) -> Result<DeleteResponse> {
        let _call = self.busy.call();
        if !request.exec_id.is_empty() {
            let exit = self.execs.delete(&request.id, &request.exec_id)?;
            return Ok(DeleteResponse {
                pid: self.keeper.host_pid(),
                exit_status: exit.as_ref().map_or(0, |e| e.code.into()),
                exited_at: exit.map(|e| time(e.at)).into(),
                ..DeleteResponse::default()
            });
        }
        let snapshot = self.keeper.delete(&request.id).map_err(of_sandbox)?;
        self.created.forget(&request.id);
        let exit = exit_of(&snapshot);
        Ok(DeleteResponse {
            pid: snapshot.pid,
            exit_status: exit.map_or(0, |e| e.code.into()),
            exited_at: exit.map(|e| time(e.at)).into(),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &Context, request: PidsRequest) -> Result<PidsResponse> {
        let _call = self.busy.call();
        let snapshot = self.keeper.look(&request.id).map_err(of_sandbox)?;
        let processes = vec![ProcessInfo { pid: snapshot.pid, ..ProcessInfo::default() }];
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn pause(&self, _: &Context, request: PauseRequest) -> Result<Empty> {
        let _call = self.busy.call();
        self.keeper.pause(&request.id).map_err(of_sandbox)?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &Context, request: ResumeRequest) -> Result<Empty> {
        let _call = self.busy.call();
        self.keeper.unpause(&request.id).map_err(of_sandbox)?;
        Ok(Empty::default())
    }

    /// WASI has no signals: SIGKILL ends at once, the signals that ask a program to end do so gently, others have no
    /// meaning for a guest.
    async fn kill(&self, _: &Context, request: KillRequest) -> Result<Empty> {
        let _call = self.busy.call();
        // SIGHUP 1, SIGINT 2, SIGQUIT 3, SIGKILL 9, SIGTERM 15; SIGCHLD 17, SIGCONT 18, SIGURG 23 and SIGWINCH 28 mean nothing
        // to a program without handlers (signal(7)).
        match request.signal {
            17 | 18 | 23 | 28 => self.keeper.look(&request.id).map(drop),
            signal @ (0 | 1 | 2 | 3 | 9 | 15) if !request.exec_id.is_empty() => {
                let signal = u8::try_from(signal).unwrap_or_default();
                return self.execs.kill(&request.id, &request.exec_id, signal).map(|()| Empty::default());
            }
            0 => self.keeper.look(&request.id).map(drop),
            9 => self.keeper.kill(&request.id),
            1 | 2 | 3 | 15 => self.keeper.stop(&request.id),
            other => {
                let words = format!(
                    "signal {other} has no meaning for a Wasm program: SIGTERM and SIGKILL (and HUP, INT, QUIT) have"
                );
                return Err(refuse(Code::INVALID_ARGUMENT, words));
            }
        }
        .map_err(of_sandbox)?;
        Ok(Empty::default())
    }

    /// In the form of containerd's metrics of cgroups (version 2), which is what its users know to read.
    async fn stats(&self, _: &Context, request: StatsRequest) -> Result<StatsResponse> {
        let _call = self.busy.call();
        let stats = stats_of(&self.keeper, &request.id).await?;
        Ok(StatsResponse { stats: Some(metrics_any(&stats)?).into(), ..StatsResponse::default() })
    }

    /// Changes limits of memory and processors (`LinuxResources` of the OCI runtime specification, as JSON).
    async fn update(&self, _: &Context, request: UpdateTaskRequest) -> Result<Empty> {
        let _call = self.busy.call();
        let invalid = |e: String| refuse(Code::INVALID_ARGUMENT, format!("cannot read the resources: {e}"));
        let linux = serde_json::from_slice(&request.resources.value).map_err(|e| invalid(e.to_string()))?;
        let change = Resources::from_linux(&linux).map_err(|e| invalid(e.to_string()))?;
        self.keeper.limit(&request.id, change).await.map_err(of_sandbox)?;
        Ok(Empty::default())
    }

    /// Writes down a program that is to be run inside a container; `start` with its name starts it.
    async fn exec(&self, _: &Context, request: ExecProcessRequest) -> Result<Empty> {
        let _call = self.busy.call();
        self.execs.add(request).map(|()| Empty::default())
    }

    async fn checkpoint(&self, _: &Context, _: CheckpointTaskRequest) -> Result<Empty> {
        Err(refuse(Code::UNIMPLEMENTED, "a Wasm program cannot be checkpointed"))
    }

    async fn close_io(&self, _: &Context, request: CloseIORequest) -> Result<Empty> {
        let _call = self.busy.call();
        self.keeper.look(&request.id).map_err(of_sandbox)?;
        match (request.stdin, request.exec_id.as_str()) {
            (false, _) => {}
            (true, "") if self.created.close_input(&request.id) => {}
            (true, "") => self.keeper.close_input(&request.id).map_err(of_sandbox)?,
            (true, exec) => self.execs.close_input(&request.id, exec)?,
        }
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &Context, request: ResizePtyRequest) -> Result<Empty> {
        let _call = self.busy.call();
        self.keeper.look(&request.id).map_err(of_sandbox)?;
        if request.exec_id.is_empty() {
            let size = |n: u32| u16::try_from(n).map_err(|e| refuse(Code::INVALID_ARGUMENT, format!("{n}: {e}")));
            let (columns, rows) = (size(request.width)?, size(request.height)?);
            let waits = matches!(self.keeper.look(&request.id).map_err(of_sandbox)?.phase, Phase::Created);
            if waits && self.created.resize(&request.id, columns, rows) {
                return Ok(Empty::default());
            }
            return self.keeper.resize(&request.id, columns, rows).map_err(of_sandbox).map(|()| Empty::default());
        }
        self.execs.resize(&request).map(|()| Empty::default())
    }

    async fn wait(&self, _: &Context, request: WaitRequest) -> Result<WaitResponse> {
        let _call = self.busy.call();
        if !request.exec_id.is_empty() {
            let exit = self.execs.wait(&request.id, &request.exec_id).await?;
            return Ok(exit_response(Some(&exit)));
        }
        let snapshot = self.keeper.wait_settled(&request.id).await.map_err(of_sandbox)?;
        Ok(exit_response(exit_of(&snapshot)))
    }

    async fn connect(&self, _: &Context, _: ConnectRequest) -> Result<ConnectResponse> {
        let _call = self.busy.call();
        let pid = self.keeper.host_pid();
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    /// Ends the sandbox when nothing runs in it any more.
    async fn shutdown(&self, _: &Context, request: ShutdownRequest) -> Result<Empty> {
        let _call = self.busy.call();
        let running =
            |id: &String| self.keeper.look(id).is_ok_and(|s| matches!(s.phase, Phase::Starting | Phase::Running));
        if request.now || !self.keeper.containers().iter().any(running) {
            self.keeper.kill_host();
        }
        Ok(Empty::default())
    }
}
