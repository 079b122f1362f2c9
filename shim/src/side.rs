//! `sampan.v1`: what the Task API lacks.

use crate::exec::Execs;
use crate::fifos::open_streams;
use crate::generated::sandbox::{
    AttachRequest, AttachResponse, Bucket, Container, DetachRequest, DetachResponse, Fence as FenceMessage,
    HttpRequest, HttpResponse, InspectRequest, InspectResponse, JoinRequest, JoinResponse, NetworkRequest,
    NetworkResponse, Port, StatsRequest, StatsResponse, VersionRequest, VersionResponse,
};
use crate::generated::sandbox_ttrpc::{Sandbox, create_sandbox};
use crate::server::Busy;
use crate::task::{of_sandbox, refuse};
use async_trait::async_trait;
use sampan_runtime::container::shared::{Joined, Shared, Streams};
use sampan_runtime::guest::service::figures::BOUNDS;
use sampan_runtime::sandbox::{Fence, Keeper, Stats};
use std::collections::HashMap;
use std::sync::Arc;
use ttrpc::asynchronous::{Service as Methods, TtrpcContext as Context};
use ttrpc::{Code, Result};

struct SideService {
    keeper: Keeper,
    /// If containers share it.
    shared: Option<Shared>,
    busy: Busy,
    execs: Execs,
}

/// The service under its name.
pub(crate) fn services(keeper: Keeper, shared: Option<Shared>, busy: &Busy, execs: Execs) -> HashMap<String, Methods> {
    create_sandbox(Arc::new(SideService { keeper, shared, busy: busy.clone(), execs }))
}

/// What a container uses; refused for one that does not run.
pub(crate) async fn stats_of(keeper: &Keeper, id: &str) -> Result<Stats> {
    let stats = keeper.stats(id).await.map_err(of_sandbox)?;
    stats.ok_or_else(|| refuse(Code::FAILED_PRECONDITION, format!("container {id} does not run")))
}

#[async_trait]
impl Sandbox for SideService {
    async fn version(&self, _: &Context, _: VersionRequest) -> Result<VersionResponse> {
        let _call = self.busy.call();
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Ok(VersionResponse { service: 1, program, ..VersionResponse::default() })
    }

    async fn http(&self, _: &Context, request: HttpRequest) -> Result<HttpResponse> {
        let _call = self.busy.call();
        let counted = self.keeper.counted(&request.id).await.map_err(of_sandbox)?;
        let counts = counted.and_then(|counted| counted.http).ok_or_else(|| {
            refuse(Code::FAILED_PRECONDITION, format!("container {} is no HTTP service that runs", request.id))
        })?;
        let bounds = BOUNDS.into_iter().chain([0]);
        let bucket = |(up_to_us, count)| Bucket { up_to_us, count, ..Bucket::default() };
        Ok(HttpResponse {
            requests: counts.requests.into_iter().map(|(status, count)| (status.into(), count)).collect(),
            latency: bounds.zip(counts.latency).map(bucket).collect(),
            latency_sum_us: counts.latency_sum_us,
            instances_in_use: counts.in_use,
            instances_made: counts.instances,
            instantiation_us: counts.instantiation_us,
            connections: counts.connections,
            ..HttpResponse::default()
        })
    }

    async fn network(&self, _: &Context, request: NetworkRequest) -> Result<NetworkResponse> {
        let _call = self.busy.call();
        let counted = self.keeper.counted(&request.id).await.map_err(of_sandbox)?;
        let counted = counted
            .ok_or_else(|| refuse(Code::FAILED_PRECONDITION, format!("container {} does not run", request.id)))?;
        Ok(NetworkResponse {
            binds_refused: counted.refusals.binds,
            connections_refused: counted.refusals.connections,
            look_ups_refused: counted.refusals.look_ups,
            requests_refused: counted.refusals.requests,
            ..NetworkResponse::default()
        })
    }

    async fn stats(&self, _: &Context, request: StatsRequest) -> Result<StatsResponse> {
        let _call = self.busy.call();
        let Stats { usage, requests, refusals, read, written, pss } = stats_of(&self.keeper, &request.id).await?;
        Ok(StatsResponse {
            cpu_ns: usage.cpu_ns,
            cpu_held: usage.held,
            cpu_held_us: usage.held_us,
            memory: usage.memory,
            memory_limit: usage.memory_limit,
            pss,
            instances: usage.instances,
            received: usage.received,
            sent: usage.sent,
            block_read: read,
            block_written: written,
            requests: requests.map_or(0, |counts| counts.requests.iter().map(|(_, count)| count).sum()),
            refused: refusals.all(),
            sharing: u64::try_from(self.keeper.living()).unwrap_or(u64::MAX),
            ..StatsResponse::default()
        })
    }

    async fn detach(&self, _: &Context, request: DetachRequest) -> Result<DetachResponse> {
        let _call = self.busy.call();
        self.execs.release(&request.id, &request.exec)?;
        Ok(DetachResponse::default())
    }

    async fn attach(&self, _: &Context, request: AttachRequest) -> Result<AttachResponse> {
        let _call = self.busy.call();
        let [input, output, errors] = open_streams([&request.stdin, &request.stdout, &request.stderr]).await?;
        self.keeper.attach(&request.id, input, request.once, output, errors).map_err(of_sandbox)?;
        Ok(AttachResponse::default())
    }

    async fn join(&self, _: &Context, request: JoinRequest) -> Result<JoinResponse> {
        let _call = self.busy.call();
        let words = "this sandbox is of one container, and no other can share it";
        let shared = self.shared.as_ref().ok_or_else(|| refuse(Code::FAILED_PRECONDITION, words))?;
        let [input, output, errors] = open_streams([&request.stdin, &request.stdout, &request.stderr]).await?;
        let streams = Streams { input, output, errors, attached: request.attached };
        match shared.join(&request.id, streams).await {
            Joined::Started => Ok(JoinResponse::default()),
            Joined::Failed { code, message } => {
                Ok(JoinResponse { code: code.into(), message, ..JoinResponse::default() })
            }
            Joined::Closed => Err(refuse(Code::UNAVAILABLE, "the sandbox is about to end")),
        }
    }

    async fn inspect(&self, _: &Context, _: InspectRequest) -> Result<InspectResponse> {
        let _call = self.busy.call();
        let containers = self.keeper.containers().into_iter().filter_map(|id| {
            let snapshot = self.keeper.look(&id).ok()?;
            let ports = snapshot.ports.iter().map(|(port, host)| Port {
                container: port.to_string(),
                host: host.to_string(),
                ..Port::default()
            });
            let (phase, ports) = (snapshot.phase.word().to_owned(), ports.collect());
            Some(Container { id, phase, ports, ..Container::default() })
        });
        let fences = self.keeper.fences().map(|fences| fences.named()).unwrap_or_default();
        let fences = fences.into_iter().map(|(name, fence)| {
            let (stands, detail) = match fence {
                Fence::Stands(detail) => (true, detail),
                Fence::Missing(reason) => (false, reason),
            };
            FenceMessage { name: name.to_owned(), stands, detail, ..FenceMessage::default() }
        });
        Ok(InspectResponse {
            pid: self.keeper.host_pid(),
            containers: containers.collect(),
            fences: fences.collect(),
            ..InspectResponse::default()
        })
    }
}
