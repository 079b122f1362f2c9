//! The calls of the runtime service, as gRPC has them. Of an id that nobody knows, a status is "not found", and stopping
//! or removing it has been done.

use super::containers::Known;
use super::streaming::{Session, Streams};
use super::v1::runtime_service_server::RuntimeService;
use super::v1::*;
use super::{Node, apart, network};
use futures::stream::{Stream, StreamExt};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

/// Both services. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Service(pub Arc<Node>);

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

/// Whether an error says that there is nothing of this id, which is what a removal wants.
fn gone(error: &Status) -> bool {
    error.code() == tonic::Code::NotFound
}

impl Service {
    /// A container, or none if it is gone.
    fn maybe(&self, id: &str) -> Result<Option<Known>, Status> {
        match self.0.container(id) {
            Ok(known) => Ok(Some(known)),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn conditions(&self) -> Vec<RuntimeCondition> {
        let ready = |kind: &str, trouble: Option<(&str, String)>| {
            let status = trouble.is_none();
            let (reason, message) = trouble.unwrap_or_default();
            RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
        };
        let network = network::trouble(&self.0.options).map(|why| ("NetworkPluginNotReady", why));
        vec![ready("RuntimeReady", None), ready("NetworkReady", network)]
    }
}

/// Refuses what no client needs of a runtime, in a word.
macro_rules! refused {
    ($($name:ident($request:ty) -> $answer:ty, $why:literal;)*) => { $(
        fn $name<'life, 'future>(
            &'life self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<$answer>> + Send + 'future>>
        where
            'life: 'future,
            Self: 'future,
        {
            Box::pin(async { Err(Status::unimplemented($why)) })
        }
    )* };
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "sampan".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            info.insert("root".to_owned(), self.0.store.root().to_string_lossy().into_owned());
            info.insert("run".to_owned(), self.0.store.run_path().to_string_lossy().into_owned());
        }
        // A mount is read-only by its attribute, which those below it get too.
        let features = Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false });
        let handler = |name: &String| RuntimeHandler { name: name.clone(), features };
        ok(StatusResponse {
            status: Some(RuntimeStatus { conditions: self.conditions() }),
            info,
            runtime_handlers: self.0.handlers.names().map(handler).collect(),
            features: Some(RuntimeFeatures::default()),
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        ok(RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() }),
        })
    }

    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        // The node's range of addresses is the CNI configuration's to know.
        ok(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("a pod needs a config"))?;
        let of = config.metadata.clone().unwrap_or_default();
        let _one = self.0.pods.take(format!("{}/{}/{}/{}", of.namespace, of.name, of.uid, of.attempt)).await;
        let id = apart(&self.0, move |node| node.run_pod(config, request.runtime_handler)).await?;
        self.0.tell(ContainerEventType::ContainerCreatedEvent, &id, &id);
        self.0.tell(ContainerEventType::ContainerStartedEvent, &id, &id);
        ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let _one = self.0.pods.take(id.clone()).await;
        self.0.stop_pod(&id).await?;
        self.0.tell(ContainerEventType::ContainerStoppedEvent, &id, &id);
        ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let _one = self.0.pods.take(id.clone()).await;
        self.0.remove_pod(&id).await?;
        self.0.tell(ContainerEventType::ContainerDeletedEvent, &id, &id);
        ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.0.pod(&request.pod_sandbox_id)?;
        let containers = self.0.containers_of(&pod.id);
        let status = Some(self.0.pod_status(&pod));
        let network = match request.verbose {
            true => apart(&self.0, move |node| Ok(network::look(node, &pod))).await?,
            false => None,
        };
        ok(PodSandboxStatusResponse {
            status,
            info: network.into_iter().map(|network| ("network".to_owned(), network.to_string())).collect(),
            containers_statuses: containers.iter().map(|known| known.status(&self.0.status_of(known))).collect(),
            timestamp: super::nanos(jiff::Timestamp::now()),
        })
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let items = apart(&self.0, move |node| Ok(node.list_pods(filter))).await?;
        ok(ListPodSandboxResponse { items })
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("a container needs a config"))?;
        let pod = self.0.pod(&request.pod_sandbox_id)?;
        let of = pod.id.clone();
        let id = apart(&self.0, move |node| node.create(&pod, config)).await?;
        self.0.tell(ContainerEventType::ContainerCreatedEvent, &id, &of);
        ok(CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let known = self.0.container(&request.into_inner().container_id)?;
        self.0.start(&known).await?;
        self.0.tell(ContainerEventType::ContainerStartedEvent, known.id(), &known.asked.pod);
        ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        if let Some(known) = self.maybe(&request.container_id)? {
            self.0.stop(&known, request.timeout).await?;
        }
        ok(StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        if let Some(known) = self.maybe(&request.into_inner().container_id)? {
            self.0.stop(&known, 0).await?;
            let (id, pod) = (known.id().to_owned(), known.asked.pod.clone());
            apart(&self.0, move |node| node.remove(&known)).await?;
            self.0.tell(ContainerEventType::ContainerDeletedEvent, &id, &pod);
        }
        ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter;
        let containers = apart(&self.0, move |node| Ok(node.list_containers(filter))).await?;
        ok(ListContainersResponse { containers })
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let known = self.0.container(&request.into_inner().container_id)?;
        let status = Some(known.status(&self.0.status_of(&known)));
        ok(ContainerStatusResponse { status, info: HashMap::new() })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let known = self.0.container(&request.container_id)?;
        self.0.update(&known, &request.linux.unwrap_or_default()).await?;
        ok(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.0.reopen_log(&self.0.running(&request.into_inner().container_id)?)?;
        ok(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let known = self.0.running(&request.container_id)?;
        let patience = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        ok(self.0.exec_sync(&known, &request.cmd, patience).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        let container = self.0.running(&request.container_id)?.id().to_owned();
        if request.cmd.is_empty() {
            return Err(Status::invalid_argument("a command is wanted"));
        }
        let streams = Streams::of(request.stdin, request.stdout, request.stderr, request.tty)?;
        let url = self.0.places.offer(Session::Exec { container, args: request.cmd, streams })?;
        ok(ExecResponse { url })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        let container = self.0.running(&request.container_id)?.id().to_owned();
        let streams = Streams::of(request.stdin, request.stdout, request.stderr, request.tty)?;
        ok(AttachResponse { url: self.0.places.offer(Session::Attach { container, streams })? })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let pod = self.0.pod(&request.into_inner().pod_sandbox_id)?.id;
        ok(PortForwardResponse { url: self.0.places.offer(Session::Forward { pod })? })
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let known = self.0.container(&request.into_inner().container_id)?;
        let looked = self.0.look(vec![known]).await;
        let layers = self.0.store.containers();
        ok(ContainerStatsResponse { stats: looked.first().map(|looked| looked.stats(&layers)) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = |known: &Known| known.fits(&filter.id, &filter.pod_sandbox_id, &filter.label_selector);
        let looked = self.0.look(self.0.containers().into_iter().filter(wanted).collect()).await;
        let layers = self.0.store.containers();
        let running = looked.iter().filter(|looked| looked.used.is_some());
        ok(ListContainerStatsResponse { stats: running.map(|looked| looked.stats(&layers)).collect() })
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let pod = self.0.pod(&request.into_inner().pod_sandbox_id)?;
        let looked = self.0.look(self.0.containers_of(&pod.id)).await;
        ok(PodSandboxStatsResponse { stats: Some(self.0.pod_stats(&pod, &looked)) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let looked = self.0.look(self.0.containers()).await;
        let pods = self.0.pods();
        let wanted = pods.iter().filter(|pod| pod.fits(&filter.id, &filter.label_selector));
        ok(ListPodSandboxStatsResponse { stats: wanted.map(|pod| self.0.pod_stats(pod, &looked)).collect() })
    }

    type GetContainerEventsStream = Streaming<ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let listening = self.0.events.listen();
        let events = futures::stream::unfold(listening, |mut listening| async {
            loop {
                match listening.recv().await {
                    Ok(event) => return Some((Ok(event), listening)),
                    // Who is too slow lists everything now and then.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        ok(events.boxed())
    }

    type StreamPodSandboxesStream = Streaming<StreamPodSandboxesResponse>;
    type StreamContainersStream = Streaming<StreamContainersResponse>;
    type StreamContainerStatsStream = Streaming<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streaming<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streaming<StreamPodSandboxMetricsResponse>;

    refused! {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> Self::StreamPodSandboxesStream, "pods are listed";
        stream_containers(StreamContainersRequest) -> Self::StreamContainersStream, "containers are listed";
        stream_container_stats(StreamContainerStatsRequest) -> Self::StreamContainerStatsStream, "stats are listed";
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> Self::StreamPodSandboxStatsStream, "stats are listed";
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> Self::StreamPodSandboxMetricsStream,
            "metrics are at `sampan serve --metrics`";
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse,
            "metrics are at `sampan serve --metrics`";
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse,
            "metrics are at `sampan serve --metrics`";
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse,
            "a Wasm instance cannot be written down and go on elsewhere";
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse,
            "a Wasm instance cannot be written down and go on elsewhere";
        restore_pod(RestorePodRequest) -> RestorePodResponse,
            "a Wasm instance cannot be written down and go on elsewhere";
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse,
            "limits are each container's";
    }
}
