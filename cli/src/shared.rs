//! Containers that share a sandbox: asking it to run one, and making it when there is none.

use crate::commands::words;
use crate::front::{Failed, leave_terminal};
use anyhow::{Context as _, Result, bail};
use futures::{StreamExt, stream};
use sampan_runtime::container::shared::{Claim, Shared, socket};
use sampan_runtime::container::{self, ContainerError, Inside};
use sampan_runtime::sandbox::close_all_but;
use sampan_runtime::store::Store;
use sampan_shim::Serving;
use sampan_shim::client::SandboxClient;
use sampan_shim::v1::JoinResponse;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long somebody who makes or ends a sandbox may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many containers are on their way into a sandbox at a time.
const AT_A_TIME: usize = 16;
/// How long threads of a keeper wait for the next work.
const IDLE: Duration = Duration::from_secs(1);

/// Has containers run in the sandboxes that they share, over one connection to each.
#[derive(Default)]
pub struct Joiner {
    there: Option<(String, Runtime, SandboxClient)>,
}

impl Joiner {
    /// Starts a container in the sandbox of this name; returns when its first instruction was next.
    pub fn join(&mut self, store: &Store, name: &str, id: &str) -> Result<()> {
        self.ask(store, name, id, None)
    }

    /// Starts several in one sandbox, some at a time; what became of each, in their order.
    pub fn join_all(&mut self, store: &Store, name: &str, ids: &[&str]) -> Vec<Result<()>> {
        let Some((first, rest)) = ids.split_first() else { return Vec::new() };
        // It makes the sandbox if there is none.
        let mut all = vec![self.join(store, name, first)];
        let answers = match &self.there {
            Some((known, runtime, client)) if known == name => {
                let answers = stream::iter(rest).map(|id| client.join(id, None)).buffered(AT_A_TIME);
                runtime.block_on(answers.collect())
            }
            _ => Vec::new(),
        };
        let mut answers = answers.into_iter();
        for id in rest {
            all.push(match answers.next() {
                Some(Ok(Some(answer))) => started(answer),
                Some(Err(error)) => Err(error.into()),
                // The sandbox has ended since.
                Some(Ok(None)) | None => self.join(store, name, id),
            });
        }
        all
    }

    /// The same for somebody who looks on, by FIFOs, and stays to ask for its end.
    pub fn join_and_look(
        mut self,
        store: &Store,
        name: &str,
        id: &str,
        fifos: [String; 3],
    ) -> Result<(Runtime, SandboxClient)> {
        self.ask(store, name, id, Some(fifos))?;
        let (_, runtime, client) = self.there.context("the sandbox is gone")?;
        Ok((runtime, client))
    }

    fn ask(&mut self, store: &Store, name: &str, id: &str, fifos: Option<[String; 3]>) -> Result<()> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        while begun.elapsed() < PATIENCE {
            if self.is_there(store, name)?
                && let Some((_, runtime, client)) = &self.there
                && let Some(answer) = runtime.block_on(client.join(id, fifos.clone()))?
            {
                return started(answer);
            }
            self.there = None;
            match Claim::take(store, name)? {
                Some(claim) => make(store, claim, &container::find(store, id)?.record.inside)?,
                // Somebody makes it or ends it at this moment.
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        bail!("the sandbox {name} is there, and does not answer")
    }

    /// Connects to the sandbox, if there is one.
    fn is_there(&mut self, store: &Store, name: &str) -> Result<bool> {
        if self.there.as_ref().is_some_and(|(known, ..)| known == name) {
            return Ok(true);
        }
        self.there = None;
        let path = socket(store, name);
        // This needs no runtime to find that nobody is there.
        if UnixStream::connect(&path).is_err() {
            return Ok(false);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Ok(client) = runtime.block_on(SandboxClient::connect(&path)) {
            self.there = Some((name.to_owned(), runtime, client));
        }
        Ok(self.there.is_some())
    }
}

fn started(answer: JoinResponse) -> Result<()> {
    match u8::try_from(answer.code).unwrap_or(125) {
        0 => Ok(()),
        code => Err(Failed { code, message: answer.message }.into()),
    }
}

/// Makes the sandbox, in a process that goes on when this one ends; returns when it can be asked.
///
/// To be called while this process has one thread: it forks.
fn make(store: &Store, claim: Claim, inside: &Inside) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("cannot fork the keeper"),
        0 => {
            drop(reader);
            let mut answer = Some(File::from(writer));
            if let Err(error) = keep(store, claim, inside, &mut answer) {
                let code = error.downcast_ref::<ContainerError>().map_or(125, ContainerError::exit_code);
                let failed = Failed { code, message: words(&error) };
                if let (Some(mut pipe), Ok(text)) = (answer, serde_json::to_vec(&failed)) {
                    let _ = pipe.write_all(&text);
                }
            }
            std::process::exit(0);
        }
        _ => {
            drop(writer);
            // The sandbox's directory is the child's to take away.
            claim.leave_to_child();
            let mut text = Vec::new();
            File::from(reader).read_to_end(&mut text)?;
            match text.as_slice() {
                b"\n" => Ok(()),
                [] => bail!("the keeper died before the sandbox was there"),
                failed => Err(serde_json::from_slice::<Failed>(failed)?.into()),
            }
        }
    }
}

/// The keeper of a sandbox, from its beginning to its end.
fn keep(store: &Store, claim: Claim, inside: &Inside, answer: &mut Option<File>) -> Result<()> {
    leave_terminal().context("cannot leave the terminal")?;
    // Who has asked for the sandbox may look on by FIFOs, whose ends are not this process's.
    let answering = answer.iter().map(AsRawFd::as_raw_fd);
    close_all_but(answering.chain([claim.descriptor()]).collect());
    let shared = claim.make(store, inside)?;
    let runtime = tokio::runtime::Builder::new_current_thread().thread_keep_alive(IDLE).enable_all().build()?;
    let kept = runtime.block_on(serve(store, &shared, answer));
    runtime.shutdown_background();
    shared.clear();
    kept
}

async fn serve(store: &Store, shared: &Shared, answer: &mut Option<File>) -> Result<()> {
    let serving = Serving::open_shared(shared, store).await.context("cannot open the control socket")?;
    if let Some(mut pipe) = answer.take() {
        // Who has asked for it may be gone.
        let _ = pipe.write_all(b"\n");
    }
    let kept = shared.keep().await;
    serving.close().await;
    kept.context("cannot watch the host process")
}
