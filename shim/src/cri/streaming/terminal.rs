//! `exec` and `attach`: the streams of a program. The protocol is `v4.channel.k8s.io` (k8s.io/apimachinery,
//! pkg/util/remotecommand): a stream for each of standard input, output and error, one for the size of the window, and one on
//! which the end is told.

use super::connection::{Connection, Opened, Reader, Writer};
use super::{PATIENCE, Streams};
use crate::client::SandboxClient;
use crate::cri::containers::Known;
use crate::cri::run::{Pipes, not_run, process};
use crate::cri::{Node, draw_id};
use crate::exec::ExecProcess;
use bytes::Bytes;
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tonic::Status;

/// The streams of a session, as the client has opened them.
#[derive(Debug, Default)]
struct Opens {
    error: Option<Opened>,
    stdin: Option<Opened>,
    stdout: Option<Opened>,
    stderr: Option<Opened>,
    resize: Option<Opened>,
}

impl Opens {
    /// Waits until all are there that were asked for.
    async fn wait(connection: &mut Connection, streams: Streams) -> Option<Self> {
        let mut all = Self::default();
        for _ in 0..streams.count() {
            let opened = connection.open().await?;
            let place = match opened.headers.get("streamtype").map(String::as_str) {
                Some("error") => &mut all.error,
                Some("stdin") => &mut all.stdin,
                Some("stdout") => &mut all.stdout,
                Some("stderr") => &mut all.stderr,
                Some("resize") => &mut all.resize,
                _ => return None,
            };
            *place = Some(opened);
        }
        Some(all)
    }

    /// Waits until the client goes.
    fn gone(&self) -> impl Future<Output = ()> + use<> {
        let error = self.error.as_ref().map(|opened| opened.writer.clone());
        async move {
            match &error {
                Some(writer) => writer.closed().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Tells the end, and that nothing more comes on any stream.
    async fn end(self, connection: Connection, ended: Result<u8, Status>) {
        for shown in [&self.stdout, &self.stderr].into_iter().flatten() {
            shown.writer.finish().await;
        }
        if let Some(error) = &self.error {
            let _ = error.writer.write(verdict(ended).into()).await;
            error.writer.finish().await;
        }
        connection.close().await;
    }
}

/// The end as a `metav1.Status`.
fn verdict(ended: Result<u8, Status>) -> String {
    match ended {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": error.message(),
        }),
    }
    .to_string()
}

/// The FIFOs between the streams and the sandbox.
struct Ends {
    paths: [String; 3],
    input: Option<AsyncFd<OwnedFd>>,
    output: Option<AsyncFd<OwnedFd>>,
    errors: Option<AsyncFd<OwnedFd>>,
    _pipes: Pipes,
}

impl Ends {
    fn make(node: &Node, streams: Streams) -> std::io::Result<Self> {
        let pipes = Pipes::make(node)?;
        let open = |name, wanted: bool| wanted.then(|| pipes.open(name)).transpose().map(Option::unzip);
        let (input_path, input) = open("in", streams.stdin)?;
        // A terminal has its one stream, whoever looks.
        let (output_path, output) = open("out", streams.stdout || streams.tty)?;
        let (errors_path, errors) = open("err", streams.stderr && !streams.tty)?;
        let paths = [input_path, output_path, errors_path].map(Option::unwrap_or_default);
        Ok(Self { paths, input, output, errors, _pipes: pipes })
    }
}

/// Whose streams they are.
struct Whose<'a> {
    client: &'a SandboxClient,
    container: &'a str,
    /// Empty for the container's own program.
    exec: &'a str,
}

/// Moves everything both ways until the program has ended; then what it had written before.
async fn session<T>(whose: &Whose<'_>, opens: &mut Opens, ends: Ends, ended: impl Future<Output = T>) -> T {
    let Ends { input, output, errors, .. } = ends;
    let mut stdin = opens.stdin.as_mut().map(|opened| &mut opened.reader);
    let mut resize = opens.resize.as_mut().map(|opened| &mut opened.reader);
    let (stdout, stderr) = (writer(&opens.stdout), writer(&opens.stderr));
    let typing = async {
        if let (Some(reader), Some(input)) = (&mut stdin, input) {
            type_in(reader, &input).await;
        }
        std::future::pending::<()>().await;
    };
    let resizing = async {
        if let Some(reader) = &mut resize {
            follow(whose, reader).await;
        }
        std::future::pending::<()>().await;
    };
    let out = async { show(output.as_ref(), stdout).await };
    let err = async { show(errors.as_ref(), stderr).await };
    let value = tokio::select! {
        value = ended => value,
        () = typing => std::future::pending().await,
        () = resizing => std::future::pending().await,
        () = out => std::future::pending().await,
        () = err => std::future::pending().await,
    };
    rest(output.as_ref(), stdout).await;
    rest(errors.as_ref(), stderr).await;
    value
}

fn writer(opened: &Option<Opened>) -> Option<&Writer> {
    opened.as_ref().map(|opened| &opened.writer)
}

/// Writes what the client types, until its end, which is then the program's.
async fn type_in(reader: &mut Reader, input: &AsyncFd<OwnedFd>) {
    while let Some(mut piece) = reader.next().await {
        while !piece.is_empty() {
            let Ok(mut ready) = input.writable().await else { return };
            match rustix::io::write(input.get_ref(), &piece) {
                Ok(count) => drop(piece.split_to(count)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// What a client says of its window.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Makes the terminal as large as the client's window, again and again.
async fn follow(whose: &Whose<'_>, reader: &mut Reader) {
    let mut text = Vec::new();
    while let Some(piece) = reader.next().await {
        text.extend_from_slice(&piece);
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        let last = sizes.by_ref().map_while(Result::ok).last();
        let read = sizes.byte_offset();
        text.drain(..read.min(text.len()));
        if let Some(Size { width, height }) = last {
            let _ = whose.client.resize(whose.container, whose.exec, width, height).await;
        }
        // One is a line of JSON.
        if text.len() > 4096 {
            return;
        }
    }
}

/// Shows everything, for ever.
async fn show(fifo: Option<&AsyncFd<OwnedFd>>, writer: Option<&Writer>) {
    let Some(fifo) = fifo else { return std::future::pending().await };
    while let Ok(mut ready) = fifo.readable().await {
        if rest(Some(fifo), writer).await {
            ready.clear_ready();
        }
    }
}

/// Shows what is there; false when the client is gone.
async fn rest(fifo: Option<&AsyncFd<OwnedFd>>, writer: Option<&Writer>) -> bool {
    let Some(fifo) = fifo else { return true };
    let mut bytes = vec![0; 32 << 10];
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(fifo.get_ref(), &mut bytes)) {
        if let Some(writer) = writer
            && writer.write(Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default())).await.is_err()
        {
            return false;
        }
    }
    true
}

/// Shows a client a program inside a container, or without one what the container itself says from now on, and types what
/// the client types; until the program ends, or the client goes.
pub(super) async fn serve(
    node: &Arc<Node>,
    mut connection: Connection,
    container: &str,
    args: Option<&[String]>,
    streams: Streams,
) {
    let Ok(Some(mut opens)) = tokio::time::timeout(PATIENCE, Opens::wait(&mut connection, streams)).await else {
        return;
    };
    let ended = async {
        let known = node.running(container)?;
        let client = node.sandbox(&known).await?;
        let ends = Ends::make(node, streams).map_err(|e| Status::internal(format!("cannot make pipes: {e}")))?;
        match args {
            Some(args) => exec(&client, known.id(), &process(args, streams.tty)?, ends, &mut opens).await,
            None => attach(&client, &known, ends, &mut opens).await,
        }
    };
    let ended = ended.await;
    opens.end(connection, ended).await;
}

async fn exec(
    client: &SandboxClient,
    container: &str,
    process: &ExecProcess,
    ends: Ends,
    opens: &mut Opens,
) -> Result<u8, Status> {
    let exec = draw_id()?;
    client.exec(container, &exec, process, ends.paths.clone()).await.map_err(not_run)?;
    let gone = opens.gone();
    let ended = async {
        tokio::select! {
            code = client.wait_exec(container, &exec) => code.map_err(|e| Status::unavailable(e.to_string())),
            () = gone => {
                let _ = client.kill_exec(container, &exec, 9).await;
                Err(Status::cancelled("the client has gone"))
            }
        }
    };
    let ended = session(&Whose { client, container, exec: &exec }, opens, ends, ended).await;
    let _ = client.forget_exec(container, &exec).await;
    ended
}

async fn attach(client: &SandboxClient, known: &Known, ends: Ends, opens: &mut Opens) -> Result<u8, Status> {
    let once = known.asked.config().stdin_once;
    let attached = client.attach(known.id(), ends.paths.clone(), once).await;
    attached.map_err(|e| Status::unknown(e.to_string()))?;
    let gone = opens.gone();
    let ended = async {
        tokio::select! {
            _ = client.wait(known.id()) => {}
            () = gone => {}
        }
    };
    session(&Whose { client, container: known.id(), exec: "" }, opens, ends, ended).await;
    Ok(0)
}
