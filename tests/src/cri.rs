//! A client of CRI, as small as a measurement wants it: gRPC's unary calls over HTTP/2 on a Unix socket, one after the other.

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::path::Path;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// A connection to a container runtime.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Cri {
    /// Connects to a socket.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.with_context(|| format!("{}", socket.display()))?;
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// Calls a method of the runtime service.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub fn call<Answer: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Answer> {
        self.runtime.block_on(call(self.sender.clone(), method, request))
    }

    /// Calls a method many times at once.
    ///
    /// # Errors
    /// What the server says first.
    pub fn call_all<Answer: Message + Default>(&self, method: &str, requests: &[impl Message]) -> Result<Vec<Answer>> {
        self.runtime.block_on(async {
            let calls = requests.iter().map(|request| call(self.sender.clone(), method, request));
            futures::future::try_join_all(calls).await
        })
    }
}

async fn call<Answer: Message + Default>(
    mut sender: SendRequest<Full<Bytes>>,
    method: &str,
    request: &impl Message,
) -> Result<Answer> {
    let message = request.encode_to_vec();
    // Not compressed, and its length.
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::from(body))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let first = answer.headers().clone();
    let body = answer.into_body().collect().await?;
    let said = |name| {
        let last = body.trailers().and_then(|trailers| trailers.get(name)).or_else(|| first.get(name));
        last.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    if said("grpc-status") != "0" {
        bail!("{method}: {}", said("grpc-message"));
    }
    let bytes = body.to_bytes();
    ensure!(bytes.len() >= 5, "{method}: the answer is cut off");
    Ok(Answer::decode(bytes.slice(5..))?)
}
