//! `port-forward`: connections into a pod. For each the client opens two streams with the same `requestid`, one for what goes
//! through and one on which an error is told (k8s.io/kubelet/pkg/cri/streaming/portforward).

use super::connection::{Connection, Opened, Reader, Writer};
use crate::cri::Node;
use bytes::Bytes;
use sampan_runtime::network::namespace;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the second stream of a pair may take, and how many wait for theirs.
const PAIR: Duration = Duration::from_secs(30);
const MOST: usize = 256;

/// Forwards connections until the client goes away.
pub(super) async fn forward(node: &Arc<Node>, mut connection: Connection, pod: &str) {
    let Ok(pod) = node.pod(pod) else { return connection.close().await };
    let network = (!pod.on_node()).then(|| node.pod_network(&pod.id));
    let mut waiting: HashMap<String, Opened> = HashMap::new();
    while let Ok(Some(opened)) = next(&mut connection, waiting.is_empty()).await {
        let request = opened.headers.get("requestid").cloned().unwrap_or_default();
        let Some(first) = waiting.remove(&request) else {
            if waiting.len() >= MOST {
                break;
            }
            waiting.insert(request, opened);
            continue;
        };
        let is_data = |opened: &Opened| opened.headers.get("streamtype").is_some_and(|kind| kind == "data");
        let (data, error) = if is_data(&first) { (first, opened) } else { (opened, first) };
        let network = network.clone();
        tokio::spawn(async move {
            let port = data.headers.get("port").and_then(|port| port.parse().ok()).unwrap_or_default();
            if let Err(problem) = through(network, port, data.reader, &data.writer).await {
                let _ = error.writer.write(problem.into()).await;
            }
            error.writer.finish().await;
            data.writer.finish().await;
        });
    }
    connection.close().await;
}

/// The next stream; one that waits for its pair does not wait for ever.
async fn next(connection: &mut Connection, idle: bool) -> Result<Option<Opened>, tokio::time::error::Elapsed> {
    if idle { Ok(connection.open().await) } else { tokio::time::timeout(PAIR, connection.open()).await }
}

/// Connects to a port of the pod, and moves everything both ways.
async fn through(network: Option<PathBuf>, port: u16, mut reader: Reader, writer: &Writer) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot connect to port {port} of the pod: {e}");
    let connected = tokio::task::spawn_blocking(move || namespace::connect(network.as_deref(), port)).await;
    let stream = connected.map_err(std::io::Error::other).flatten().map_err(failed)?;
    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(failed)?;
    let (mut read, mut write) = stream.into_split();
    let inward = async {
        while let Some(piece) = reader.next().await {
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let outward = async {
        let mut bytes = vec![0; 32 << 10];
        while let Ok(count @ 1..) = read.read(&mut bytes).await {
            if writer.write(Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default())).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(inward);
    tokio::select! {
        // It is over when the pod says so; a client that has said everything still hears the answer.
        () = outward => {}
        () = async { (&mut inward).await; std::future::pending::<()>().await } => {}
        () = writer.closed() => {}
    }
    Ok(())
}
