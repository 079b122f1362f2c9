//! The Task API as containerd wants it: that of every sandbox, and besides events, the pod's own container, and an end that
//! comes when containerd says so.

use super::events::Events;
use super::grants::{complete, is_pod};
use super::keep::set_oom_score;
use super::pods::Pods;
use crate::task::{TaskService, exit_response, metrics_any, of_sandbox, refuse, time};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::shim_async::Task;
use oci_spec::runtime::Spec;
use sampan_runtime::config::Config;
use sampan_runtime::sandbox::{Exit, Phase, Stats};
use sampan_runtime::store::files;
use std::path::Path;
use tokio::sync::watch;
use ttrpc::asynchronous::TtrpcContext as Context;
use ttrpc::{Code, Result};

#[derive(Clone)]
pub(super) struct ShimTask {
    pub inner: TaskService,
    pub events: Events,
    pub pods: Pods,
    /// Becomes true when containerd wants the sandbox no more.
    pub over: watch::Sender<bool>,
}

impl ShimTask {
    fn pid(&self) -> u32 {
        self.inner.keeper.host_pid()
    }

    /// Refuses what a pod's own container cannot do.
    fn no_pod(&self, id: &str) -> Result<()> {
        if !self.pods.has(id) {
            return Ok(());
        }
        let words = format!("{id} stands for its pod: there is no program in it");
        Err(refuse(Code::FAILED_PRECONDITION, words))
    }

    fn tell_exit(&self, container_id: String, id: String, exit: &Exit) {
        if exit.out_of_memory {
            self.events.tell(&events::TaskOOM { container_id: container_id.clone(), ..events::TaskOOM::default() });
        }
        let (exit_status, exited_at) = (exit.code.into(), Some(time(exit.at)).into());
        let pid = self.pid();
        self.events.tell(&events::TaskExit {
            container_id,
            id,
            pid,
            exit_status,
            exited_at,
            ..events::TaskExit::default()
        });
    }

    /// Tells of the end of a container when it comes.
    fn watch(&self, id: String) {
        let this = self.clone();
        tokio::spawn(async move {
            let exit = if this.pods.has(&id) {
                this.pods.wait(&id).await.ok()
            } else {
                let ended = this.inner.keeper.wait(&id).await.ok();
                ended.and_then(|snapshot| if let Phase::Ended(exit) = snapshot.phase { Some(exit) } else { None })
            };
            if let Some(exit) = exit {
                this.tell_exit(id.clone(), id, &exit);
            }
        });
    }

    /// The same for what is run inside one.
    fn watch_exec(&self, id: String, exec: String) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(exit) = this.inner.execs.wait(&id, &exec).await {
                this.tell_exit(id, exec, &exit);
            }
        });
    }

    async fn make(&self, request: CreateTaskRequest) -> Result<()> {
        let invalid = |e: String| refuse(Code::INVALID_ARGUMENT, e);
        let spec: Spec =
            files::read_json(&Path::new(&request.bundle).join("config.json")).map_err(|e| invalid(e.to_string()))?;
        if is_pod(&spec) {
            return self.pods.add(&request);
        }
        let config = Config::load().map_err(|e| refuse(Code::FAILED_PRECONDITION, e.to_string()))?;
        let adjust = |spec: &Spec, grants: &mut _| complete(spec, grants, &config);
        self.inner.created.create(&self.inner.keeper, &self.inner.store, request, adjust).await?;
        if let Some(score) = spec.process().as_ref().and_then(|process| process.oom_score_adj()) {
            set_oom_score(self.pid(), Some(score));
        }
        Ok(())
    }
}

#[async_trait]
impl Task for ShimTask {
    async fn state(&self, context: &Context, request: StateRequest) -> Result<StateResponse> {
        if self.pods.has(&request.id) {
            return self.pods.state(&request.id, self.pid());
        }
        self.inner.state(context, request).await
    }

    async fn create(&self, _: &Context, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let _call = self.inner.busy.call();
        let told = events::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(events::TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..events::TaskIO::default()
            })
            .into(),
            checkpoint: request.checkpoint.clone(),
            pid: self.pid(),
            ..events::TaskCreate::default()
        };
        self.make(request).await?;
        self.events.tell(&told);
        Ok(CreateTaskResponse { pid: self.pid(), ..CreateTaskResponse::default() })
    }

    async fn start(&self, context: &Context, request: StartRequest) -> Result<StartResponse> {
        let (container_id, exec_id, pid) = (request.id.clone(), request.exec_id.clone(), self.pid());
        if self.pods.has(&request.id) && exec_id.is_empty() {
            self.pods.start(&request.id)?;
        } else {
            self.inner.start(context, request).await?;
        }
        if exec_id.is_empty() {
            self.events.tell(&events::TaskStart {
                container_id: container_id.clone(),
                pid,
                ..events::TaskStart::default()
            });
            self.watch(container_id);
        } else {
            let (id, exec) = (container_id.clone(), exec_id.clone());
            self.events.tell(&events::TaskExecStarted {
                container_id,
                exec_id,
                pid,
                ..events::TaskExecStarted::default()
            });
            self.watch_exec(id, exec);
        }
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn delete(&self, context: &Context, request: DeleteRequest) -> Result<DeleteResponse> {
        let (container_id, whole) = (request.id.clone(), request.exec_id.is_empty());
        let response = if self.pods.has(&request.id) && whole {
            let exit = self.pods.delete(&request.id)?;
            DeleteResponse {
                pid: self.pid(),
                exit_status: exit.as_ref().map_or(0, |exit| exit.code.into()),
                exited_at: exit.map(|exit| time(exit.at)).into(),
                ..DeleteResponse::default()
            }
        } else {
            self.inner.delete(context, request).await?
        };
        if whole {
            let DeleteResponse { pid, exit_status, exited_at, .. } = response.clone();
            self.events.tell(&events::TaskDelete {
                container_id,
                pid,
                exit_status,
                exited_at,
                ..events::TaskDelete::default()
            });
        }
        Ok(response)
    }

    async fn pids(&self, context: &Context, request: PidsRequest) -> Result<PidsResponse> {
        if self.pods.has(&request.id) {
            let processes = vec![ProcessInfo { pid: self.pid(), ..ProcessInfo::default() }];
            return Ok(PidsResponse { processes, ..PidsResponse::default() });
        }
        self.inner.pids(context, request).await
    }

    async fn pause(&self, context: &Context, request: PauseRequest) -> Result<Empty> {
        self.no_pod(&request.id)?;
        let container_id = request.id.clone();
        self.inner.pause(context, request).await?;
        self.events.tell(&events::TaskPaused { container_id, ..events::TaskPaused::default() });
        Ok(Empty::default())
    }

    async fn resume(&self, context: &Context, request: ResumeRequest) -> Result<Empty> {
        self.no_pod(&request.id)?;
        let container_id = request.id.clone();
        self.inner.resume(context, request).await?;
        self.events.tell(&events::TaskResumed { container_id, ..events::TaskResumed::default() });
        Ok(Empty::default())
    }

    /// What has ended is not there to be killed: that is how others know that they need not wait for its end.
    async fn kill(&self, context: &Context, request: KillRequest) -> Result<Empty> {
        let finished =
            |id: &str| refuse(Code::NOT_FOUND, format!("container {id} has ended: process already finished"));
        if self.pods.has(&request.id) && request.exec_id.is_empty() {
            // The program that is not run ends with SIGTERM as it does with SIGKILL.
            let gentle = matches!(request.signal, 2 | 3 | 9 | 15);
            return match request.signal {
                0 => Ok(Empty::default()),
                _ if gentle && !self.pods.end(Some(&request.id)) => Err(finished(&request.id)),
                _ => Ok(Empty::default()),
            };
        }
        let phase = match request.exec_id.as_str() {
            "" => self.inner.keeper.look(&request.id).map_err(of_sandbox)?.phase,
            exec => self.inner.execs.look(&request.id, exec)?.0,
        };
        if matches!(phase, Phase::Ended(_)) {
            return Err(finished(&request.id));
        }
        self.inner.kill(context, request).await
    }

    async fn stats(&self, context: &Context, request: StatsRequest) -> Result<StatsResponse> {
        if self.pods.has(&request.id) {
            let stats = Some(metrics_any(&Stats::default())?).into();
            return Ok(StatsResponse { stats, ..StatsResponse::default() });
        }
        self.inner.stats(context, request).await
    }

    async fn update(&self, context: &Context, request: UpdateTaskRequest) -> Result<Empty> {
        if self.pods.has(&request.id) {
            // There is nothing that could use it.
            return Ok(Empty::default());
        }
        self.inner.update(context, request).await
    }

    async fn exec(&self, context: &Context, request: ExecProcessRequest) -> Result<Empty> {
        self.no_pod(&request.id)?;
        let (container_id, exec_id) = (request.id.clone(), request.exec_id.clone());
        self.inner.exec(context, self.inner.created.as_its_user(request)).await?;
        self.events.tell(&events::TaskExecAdded { container_id, exec_id, ..events::TaskExecAdded::default() });
        Ok(Empty::default())
    }

    async fn checkpoint(&self, context: &Context, request: CheckpointTaskRequest) -> Result<Empty> {
        self.inner.checkpoint(context, request).await
    }

    async fn close_io(&self, context: &Context, request: CloseIORequest) -> Result<Empty> {
        if self.pods.has(&request.id) {
            return Ok(Empty::default());
        }
        self.inner.close_io(context, request).await
    }

    async fn resize_pty(&self, context: &Context, request: ResizePtyRequest) -> Result<Empty> {
        self.no_pod(&request.id)?;
        self.inner.resize_pty(context, request).await
    }

    async fn wait(&self, context: &Context, request: WaitRequest) -> Result<WaitResponse> {
        if self.pods.has(&request.id) && request.exec_id.is_empty() {
            let _call = self.inner.busy.call();
            let exit = self.pods.wait(&request.id).await?;
            return Ok(exit_response(Some(&exit)));
        }
        self.inner.wait(context, request).await
    }

    async fn connect(&self, context: &Context, request: ConnectRequest) -> Result<ConnectResponse> {
        self.inner.connect(context, request).await
    }

    /// Ends the sandbox when it has no containers any more: containerd says this after each of them.
    async fn shutdown(&self, _: &Context, request: ShutdownRequest) -> Result<Empty> {
        let _call = self.inner.busy.call();
        if request.now || (self.inner.keeper.containers().is_empty() && self.pods.count() == 0) {
            self.over.send_replace(true);
        }
        Ok(Empty::default())
    }
}
