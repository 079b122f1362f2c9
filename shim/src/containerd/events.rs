//! What is told to containerd of its containers, in the order in which it happens.

use super::Call;
use crate::task::time;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use containerd_shim_protos::topics;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use ttrpc::asynchronous::Client;

/// So often is it tried to tell something, and so long waited after the first time; containerd's own shims do the same.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// How long containerd may take to hear of something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that containerd has a name for.
pub(super) trait Event: MessageFull {
    const TOPIC: &'static str;
}

macro_rules! events {
    ($($event:ident: $topic:ident,)*) => {
        $(impl Event for events::$event { const TOPIC: &'static str = topics::$topic; })*
    };
}

events! {
    TaskCreate: TASK_CREATE_EVENT_TOPIC,
    TaskStart: TASK_START_EVENT_TOPIC,
    TaskExit: TASK_EXIT_EVENT_TOPIC,
    TaskDelete: TASK_DELETE_EVENT_TOPIC,
    TaskOOM: TASK_OOM_EVENT_TOPIC,
    TaskPaused: TASK_PAUSED_EVENT_TOPIC,
    TaskResumed: TASK_RESUMED_EVENT_TOPIC,
    TaskExecAdded: TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted: TASK_EXEC_STARTED_EVENT_TOPIC,
}

/// Tells containerd, without anybody waiting for it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Events {
    namespace: String,
    queue: Arc<Mutex<Option<mpsc::UnboundedSender<Envelope>>>>,
}

impl Events {
    /// What tells it, and the work of telling, which is over when everything has been told after [`Events::end`].
    pub fn new(call: &Call) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let queue = Arc::new(Mutex::new(Some(sender)));
        let way = Way {
            ttrpc: call.ttrpc.clone(),
            publisher: call.publisher.clone(),
            address: call.address.clone(),
            client: None,
        };
        (Self { namespace: call.namespace.clone(), queue }, way.tell_all(receiver))
    }

    /// Tells that something has happened.
    pub fn tell<E: Event>(&self, event: &E) {
        let Ok(value) = event.write_to_bytes() else { return };
        let type_url = E::descriptor().full_name().to_owned();
        let envelope = Envelope {
            timestamp: MessageField::some(time(jiff::Timestamp::now())),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: MessageField::some(Any { type_url, value, ..Any::default() }),
            ..Envelope::default()
        };
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = queue.send(envelope);
        }
    }

    /// There is nothing more to tell.
    pub fn end(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The way to containerd.
struct Way {
    ttrpc: String,
    publisher: String,
    address: String,
    client: Option<EventsClient>,
}

impl Way {
    async fn tell_all(mut self, mut queue: mpsc::UnboundedReceiver<Envelope>) {
        while let Some(envelope) = queue.recv().await {
            for attempt in 1..=TRIES {
                match self.tell(&envelope).await {
                    Ok(()) => break,
                    Err(reason) if attempt == TRIES => {
                        let _ = writeln!(
                            std::io::stderr(),
                            "sampan: containerd was not told of {}: {reason}",
                            envelope.topic
                        );
                    }
                    // It may be about to be started again.
                    Err(_) => tokio::time::sleep(PAUSE * attempt).await,
                }
            }
        }
    }

    async fn tell(&mut self, envelope: &Envelope) -> Result<(), String> {
        if self.ttrpc.is_empty() {
            let command = self.publish(envelope);
            let done = tokio::task::spawn_blocking(move || command.and_then(run)).await;
            return done.map_err(std::io::Error::other).flatten().map_err(|e| e.to_string());
        }
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let path = self.ttrpc.strip_prefix("unix://").unwrap_or(&self.ttrpc);
                let client = Client::connect(&format!("unix://{path}")).await.map_err(|e| e.to_string())?;
                self.client.insert(EventsClient::new(client)).clone()
            }
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope.clone()), ..ForwardRequest::default() };
        let told = client.forward(ttrpc::context::with_duration(PATIENCE), &request).await;
        told.map(drop).map_err(|error| {
            self.client = None;
            error.to_string()
        })
    }

    /// The call of containerd that tells it, for one that has no other ears.
    fn publish(&self, envelope: &Envelope) -> std::io::Result<(Command, Vec<u8>)> {
        let mut command = Command::new(&self.publisher);
        command.args(["--address", &self.address, "publish", "--topic", &envelope.topic]);
        command.args(["--namespace", &envelope.namespace]).stdout(Stdio::null()).stderr(Stdio::null());
        let event = envelope.event.clone().into_option().unwrap_or_default();
        Ok((command, event.write_to_bytes().map_err(std::io::Error::other)?))
    }
}

fn run((mut command, input): (Command, Vec<u8>)) -> std::io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&input));
    let status = child.wait()?;
    written?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("publish: {status}"))) }
}
