//! What happens to containers, for who asks for a stream of it (GetContainerEvents): what the server does it tells itself,
//! and of the ends of containers it reads in the store's events.

use super::Node;
use super::v1::{ContainerEventResponse, ContainerEventType};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sampan_runtime::events;
use sampan_runtime::store::Store;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
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
    let Ok(mut log) = Log::at_end(&node.store) else { return };
    while let Ok(mut ready) = inotify.readable().await {
        drain(inotify.get_ref());
        ready.clear_ready();
        for id in log.ended() {
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

/// The store's events, read on and on.
#[derive(Debug)]
struct Log {
    path: std::path::PathBuf,
    file: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Log {
    fn at_end(store: &Store) -> std::io::Result<Self> {
        let (path, _) = events::places(store);
        let file = match File::open(&path) {
            Ok(mut file) => {
                file.seek(SeekFrom::End(0))?;
                Some(BufReader::new(file))
            }
            Err(_) => None,
        };
        Ok(Self { path, file, line: Vec::new() })
    }

    /// The containers that have ended since the last time.
    fn ended(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            if self.file.is_none() {
                self.file = File::open(&self.path).ok().map(BufReader::new);
            }
            let Some(file) = &mut self.file else { return all };
            while file.read_until(b'\n', &mut self.line).is_ok_and(|count| count > 0) {
                if !self.line.ends_with(b"\n") {
                    break;
                }
                let event = events::parse(&self.line);
                all.extend(event.filter(|e| e.kind == events::Kind::Container && e.action == "die").map(|e| e.id));
                self.line.clear();
            }
            let key = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
            let same = file.get_ref().metadata().map(key).ok() == std::fs::metadata(&self.path).map(key).ok();
            if same {
                return all;
            }
            // It has become the older of two.
            (self.file, self.line) = (None, Vec::new());
            if !self.path.exists() {
                return all;
            }
        }
    }
}
