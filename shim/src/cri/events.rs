//! What happens to containers, for who asks for a stream of it (GetContainerEvents): what the server does it tells itself,
//! and of the ends of containers it reads in the store's events.

use super::Node;
use super::v1::{ContainerEventResponse, ContainerEventType};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sampan_runtime::events;
use sampan_runtime::store::Store;
use sampan_runtime::tail::{self, Tail};
use std::io::{Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

/// How many events somebody may be behind who listens.
const KEPT: usize = 1024;

/// Who listens.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<ContainerEventResponse>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Events {
    pub fn listen(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.0.subscribe()
    }
}

impl Node {
    /// Tells that something has happened to a container, or to a pod itself, which is `id` then.
    pub(super) fn tell(&self, what: ContainerEventType, id: &str, pod: &str) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let status = self.pod(pod).ok().map(|pod| self.pod_status(&pod));
        let all = self.containers_of(pod);
        let statuses = all.iter().map(|known| known.status(&self.status_of(known))).collect();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: what.into(),
            created_at: super::nanos(jiff::Timestamp::now()),
            pod_sandbox_status: status,
            containers_statuses: statuses,
        };
        let _ = self.events.0.send(event);
    }
}

/// Tells the ends of containers, for ever. Where the store's events cannot be watched nobody hears of them, and kubelet,
/// which lists containers too, does not depend on it.
pub(super) async fn watch(node: Arc<Node>) {
    let Ok(inotify) = watched(&node.store) else { return };
    let Ok(mut log) = from_now(&node.store) else { return };
    while let Ok(mut ready) = inotify.readable().await {
        drain(inotify.get_ref());
        ready.clear_ready();
        for id in ended(&mut log).unwrap_or_default() {
            if let Ok(known) = node.container(&id) {
                node.tell(ContainerEventType::ContainerStoppedEvent, &id, &known.asked.pod);
            }
        }
    }
}

fn watched(store: &Store) -> std::io::Result<AsyncFd<OwnedFd>> {
    let dir = events::watched(store)?;
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, &dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
    Ok(unsafe { AsyncFd::register(inotify) }?)
}

fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4 << 10];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    while reader.next().is_ok() {}
}

/// The store's events from now on.
fn from_now(store: &Store) -> std::io::Result<Tail> {
    let (path, _) = events::places(store);
    let mut newest = tail::open(&path)?;
    if let Some(file) = &mut newest {
        file.seek(SeekFrom::End(0))?;
    }
    Ok(Tail::new(path, newest))
}

/// The containers that have ended since the last time.
fn ended(log: &mut Tail) -> std::io::Result<Vec<String>> {
    let mut all = Vec::new();
    let _ = log.read_on(|line| {
        let event = events::parse(line);
        all.extend(event.filter(|e| e.kind == events::Kind::Container && e.action == "die").map(|e| e.id));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}
