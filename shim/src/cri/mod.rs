//! The Container Runtime Interface of Kubernetes (`runtime.v1` of k8s.io/cri-api) over a Unix socket, for kubelet and
//! crictl.
//!
//! A pod is a record, a network namespace and a sandbox by name, which is made with the first of the pod's containers and
//! ends with the last. Nothing is kept in memory that is not on the disk or in the sandboxes: a server that is started
//! again finds everything as it is.
//!
//! ```text
//! service     the calls, as gRPC has them
//! pods        making, stopping and removing pods; what is written down of them
//! network     a pod's network namespace, and the CNI plugins that connect it
//! handlers    what runtime handlers grant, and a pod's annotations take away
//! settings    a container as kubelet asks for it → settings
//! identity    users and groups, as programs are shown them
//! containers  making, starting, stopping and removing containers; what is written down of them
//! starter     a process that makes sandboxes
//! run         programs inside containers: ExecSync
//! streaming   programs inside containers, and connections into pods, with a client at the other end
//! stats       what containers and pods use
//! images      the image service
//! events      what happens to containers
//! ```

mod containers;
mod events;
mod handlers;
mod identity;
mod images;
mod network;
mod pods;
mod run;
mod service;
mod settings;
mod starter;
mod stats;
mod streaming;

use sampan_runtime::config::KubernetesConfig;
use sampan_runtime::container::{ContainerError, id};
use sampan_runtime::image::ImageError;
use sampan_runtime::store::{Store, StoreError};
use service::Service;
use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tokio::sync::OwnedMutexGuard;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::transport::Server;

/// The generated messages and stubs of `runtime.v1`, for those too who call such a server.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, unused_qualifications, reason = "generated")]
#[allow(missing_debug_implementations, dead_code, nonstandard_style, unused, reason = "generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// The largest message that is taken: what gRPC clients of CRI allow themselves.
const LARGEST: usize = 16 << 20;

/// Where a node's settings are that CRI does not carry.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where CNI's configurations are.
    pub cni_configs: PathBuf,
    /// Where its plugins are, in the order in which they are looked for.
    pub cni_plugins: Vec<PathBuf>,
    /// The machine's own configuration.
    pub config: KubernetesConfig,
}

impl Default for Options {
    fn default() -> Self {
        let plugins = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from);
        Self { cni_configs: "/etc/cni/net.d".into(), cni_plugins: plugins.into(), config: KubernetesConfig::default() }
    }
}

/// What goes wrong with serving.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody answers at the socket.
    #[error("{} is in use: another server answers there", .0.display())]
    InUse(PathBuf),
    /// The socket.
    #[error("cannot {action} {}: {source}", path.display())]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The port of the streams.
    #[error("cannot open a port of the loopback interface for streams: {0}")]
    Streams(std::io::Error),
    /// The connection.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What every call has.
#[derive(Debug)]
struct Node {
    store: Store,
    handlers: handlers::Handlers,
    options: Options,
    /// Of two who make, stop or remove the same pod, one waits for the other.
    pods: Locks,
    events: events::Events,
    starter: starter::Starter,
    places: streaming::Places,
}

/// Opens the socket, in the place of one that a killed server has left.
///
/// # Errors
/// When somebody answers there, or the socket cannot be made.
pub fn listen(socket: &Path) -> Result<UnixListener, CriError> {
    let failed = |action| {
        let path = socket.to_owned();
        move |source| CriError::Socket { action, path, source }
    };
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(CriError::InUse(socket.to_owned()));
    }
    if std::fs::symlink_metadata(socket).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(socket).map_err(failed("remove the old socket"))?;
    }
    let listener = UnixListener::bind(socket).map_err(failed("listen at"))?;
    // Who speaks here has the machine.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed("close"))?;
    Ok(listener)
}

/// Answers kubelet until the future is dropped.
///
/// # Errors
/// When connections cannot be taken any more.
pub async fn serve(listener: UnixListener, store: &Store, options: Options) -> Result<(), CriError> {
    let (places, streams) = streaming::Places::open().await.map_err(CriError::Streams)?;
    let node = Arc::new(Node {
        store: store.clone(),
        handlers: handlers::Handlers::new(&options.config),
        options,
        pods: Locks::default(),
        events: events::Events::default(),
        starter: starter::Starter::new(store),
        places,
    });
    node.sweep();
    let runtime = v1::runtime_service_server::RuntimeServiceServer::new(Service(Arc::clone(&node)));
    let images = v1::image_service_server::ImageServiceServer::new(Service(Arc::clone(&node)));
    let served = Server::builder()
        .add_service(runtime.max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST))
        .add_service(images.max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let served = tokio::select! {
        served = served => served,
        () = async { tokio::join!(events::watch(Arc::clone(&node)), streaming::serve(Arc::clone(&node), streams)); } => {
            std::future::pending().await
        }
    };
    Ok(served?)
}

/// Locks by name: who has one keeps those waiting who want the same, and nobody else.
#[derive(Debug, Default)]
struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    async fn take(&self, name: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(all.entry(name).or_default())
        };
        lock.lock_owned().await
    }
}

/// Whether labels are as a client wants them.
fn labelled(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A new id, for whatever wants one.
fn draw_id() -> Result<String, Status> {
    id::new_id().map_err(|e| Status::internal(format!("cannot draw an id: {e}")))
}

/// Work that waits for the disk or for other processes, in a thread of its own.
async fn apart<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let node = Arc::clone(node);
    let done = tokio::task::spawn_blocking(move || work(&node)).await;
    done.unwrap_or_else(|e| Err(Status::internal(format!("the call broke off: {e}"))))
}

fn of_container(error: ContainerError) -> Status {
    match error {
        ContainerError::NotFound(_) | ContainerError::Ambiguous { .. } => Status::not_found(error.to_string()),
        ContainerError::NotRunning(_) => Status::failed_precondition(error.to_string()),
        ContainerError::NameInUse { .. } => Status::already_exists(error.to_string()),
        ContainerError::Image(error) => of_image(error),
        error => Status::unknown(error.to_string()),
    }
}

fn of_image(error: ImageError) -> Status {
    match error {
        ImageError::NotFound { .. } => Status::not_found(error.to_string()),
        error => Status::unknown(error.to_string()),
    }
}

fn of_store(error: StoreError) -> Status {
    Status::internal(error.to_string())
}

/// Nanoseconds since 1970.
fn nanos(at: jiff::Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}
