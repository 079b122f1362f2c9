//! Programs inside containers whose output is collected: ExecSync.

use super::Node;
use super::containers::Known;
use super::v1::ExecSyncResponse;
use crate::client::{ClientError, SandboxClient};
use crate::exec::{ExecProcess, More};
use oci_spec::runtime::{ProcessBuilder, UserBuilder};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use sampan_runtime::container::id;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tonic::Status;

/// As much of each stream is kept, as with containerd: kubelet takes no more.
const MOST: usize = 16 << 20;

/// FIFOs for the streams of a program, in a directory that goes away with the value.
#[derive(Debug)]
pub(super) struct Pipes {
    dir: PathBuf,
}

impl Pipes {
    pub fn make(node: &Node) -> std::io::Result<Self> {
        let run = node.store.run_dir().map_err(std::io::Error::other)?;
        let dir = run.join(format!("x{}", id::short(&id::new_id()?)));
        std::fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Makes one, and opens both of its ends, so that nobody waits for the other.
    pub fn open(&self, name: &str) -> std::io::Result<(String, AsyncFd<OwnedFd>)> {
        let path = self.dir.join(name);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = rustix::fs::open(&path, flags, Mode::empty())?;
        // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same.
        let fifo = unsafe { AsyncFd::register(fifo) }?;
        Ok((path.to_string_lossy().into_owned(), fifo))
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Takes what there is; true when more may come.
fn take(fifo: &OwnedFd, into: &mut Vec<u8>) {
    let mut bytes = [0; 64 << 10];
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut bytes)) {
        let room = MOST.saturating_sub(into.len());
        into.extend_from_slice(bytes.get(..count.min(room)).unwrap_or_default());
    }
}

/// Takes everything, for ever.
async fn collect(fifo: &AsyncFd<OwnedFd>, into: &mut Vec<u8>) {
    while let Ok(mut ready) = fifo.readable().await {
        take(fifo.get_ref(), into);
        ready.clear_ready();
    }
}

/// A program of the container's own tree, by its arguments.
pub(super) fn process(args: &[String], tty: bool) -> Result<ExecProcess, Status> {
    let build = || {
        let user = UserBuilder::default().uid(0_u32).gid(0_u32).build()?;
        let env = if tty { vec!["TERM=xterm".to_owned()] } else { vec![] };
        ProcessBuilder::default().terminal(tty).user(user).args(args).env(env).cwd(Path::new("")).build()
    };
    let process = build().map_err(|e| Status::internal(e.to_string()))?;
    // Somebody always looks on, and ends it by going away; and under CRI nothing stands in for a program.
    Ok(ExecProcess { process, more: More { leash: true, ..More::default() } })
}

impl Node {
    /// The sandbox of a container that runs.
    pub(super) async fn sandbox(&self, known: &Known) -> Result<SandboxClient, Status> {
        let client = SandboxClient::connect(&known.container.socket(&self.store)).await;
        client.map_err(|e| Status::unavailable(e.to_string()))
    }

    /// Runs a program inside a container, to its end or for so long.
    pub(super) async fn exec_sync(
        &self,
        known: &Known,
        args: &[String],
        patience: Option<Duration>,
    ) -> Result<ExecSyncResponse, Status> {
        let client = self.sandbox(known).await?;
        let broken = |e: std::io::Error| Status::internal(format!("cannot make pipes: {e}"));
        let pipes = Pipes::make(self).map_err(broken)?;
        let (stdout_path, stdout) = pipes.open("out").map_err(broken)?;
        let (stderr_path, stderr) = pipes.open("err").map_err(broken)?;
        let exec = super::draw_id()?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let run = async {
            client
                .exec(known.id(), &exec, &process(args, false)?, [String::new(), stdout_path, stderr_path])
                .await
                .map_err(not_run)?;
            client.wait_exec(known.id(), &exec).await.map_err(|e| Status::unavailable(e.to_string()))
        };
        let limited = async {
            match patience {
                Some(patience) => tokio::time::timeout(patience, run).await.ok(),
                None => Some(run.await),
            }
        };
        let ended = tokio::select! {
            ended = limited => ended,
            () = collect(&stdout, &mut out) => None,
            () = collect(&stderr, &mut err) => None,
        };
        let Some(ended) = ended else {
            let _ = client.kill_exec(known.id(), &exec, 9).await;
            let _ = client.wait_exec(known.id(), &exec).await;
            let _ = client.forget_exec(known.id(), &exec).await;
            let seconds = patience.unwrap_or_default().as_secs();
            return Err(Status::deadline_exceeded(format!("{args:?} did not end within {seconds} s")));
        };
        let code = ended?;
        take(stdout.get_ref(), &mut out);
        take(stderr.get_ref(), &mut err);
        let _ = client.forget_exec(known.id(), &exec).await;
        Ok(ExecSyncResponse { stdout: out, stderr: err, exit_code: code.into() })
    }
}

/// A program that did not start, in the sandbox's words.
pub(super) fn not_run(error: ClientError) -> Status {
    match error.not_run() {
        Some((127, words)) => Status::not_found(words),
        Some((_, words)) => Status::failed_precondition(words),
        None => Status::unknown(error.to_string()),
    }
}
