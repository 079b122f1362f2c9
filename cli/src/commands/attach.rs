//! `attach`, and what `run -t` and `start -a` do at a container's terminal.

use crate::Context;
use crate::commands::sandbox;
use crate::front::{self, Heard, Signals};
use crate::inside::{self, Fifos, Wanted};
use crate::shared::Joiner;
use crate::terminal::{DetachKeys, Raw, window};
use anyhow::{Result, bail};
use clap::{ArgAction, Args};
use sampan_runtime::container::{self, Container, ContainerError};
use sampan_runtime::store::Store;
use sampan_shim::client::SandboxClient;
use std::process::ExitCode;

// How somebody is at a container's terminal.
#[derive(Debug, Args)]
pub struct SessionFlags {
    /// The keys that leave it behind in a terminal
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::USUAL)]
    detach_keys: String,
    /// Pass signals on to the container
    #[arg(
        long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        require_equals = true, action = ArgAction::Set
    )]
    sig_proxy: bool,
}

impl SessionFlags {
    /// The keys, if they are such.
    pub fn keys(&self) -> Result<DetachKeys> {
        DetachKeys::parse(&self.detach_keys)
    }
}

/// See a running container's output, and type its input
#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    session: SessionFlags,
    /// Do not write to its standard input
    #[arg(long)]
    no_stdin: bool,
    /// Name or id
    container: String,
}

/// Docker's words when the detach keys were pressed.
const DETACHED: &str = "read escape sequence";

impl AttachArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let keys = self.session.keys()?;
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        if !found.status(&store).is_running() {
            bail!("you cannot attach to a stopped container: start it first, or `sampan start -a` it");
        }
        let (tty, with_input) = (found.record.tty, !self.no_stdin && found.record.open_stdin);
        if tty {
            check_terminal(with_input)?;
        }
        // Before the first thread.
        let signals = inside::signals()?;
        let fifos = Fifos::make(&store, Wanted { input: with_input, output: true, errors: !tty })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(async {
            let Some(client) = sandbox::connect(&store, &found).await? else {
                bail!(ContainerError::NotRunning(found.record.id.clone()));
            };
            client.attach(&found.record.id, fifos.paths(), false).await?;
            fifos.forget_names();
            let ended = async { client.wait(&found.record.id).await };
            let session =
                Session { client: Some(&client), id: &found.record.id, tty, sig_proxy: self.session.sig_proxy };
            let code = session.look(fifos, keys, &signals, ended).await?;
            Ok(code.transpose()?.unwrap_or(0))
        });
        // Standard input may be waited for, for ever.
        runtime.shutdown_background();
        code.map(ExitCode::from)
    }
}

/// Fails when there is no terminal to type at, as Docker does.
pub fn check_terminal(with_input: bool) -> Result<()> {
    if with_input && !rustix::termios::isatty(std::io::stdin()) {
        bail!("the input device is not a TTY: leave out -t, or -i");
    }
    Ok(())
}

/// Starts a container that has a terminal, and stays at it until its end or until it is left; its exit code.
///
/// Its keeper is a process of its own, so that the container goes on when it is left.
pub fn started(store: &Store, container: Container, with_input: bool, flags: &SessionFlags) -> Result<u8> {
    let keys = flags.keys()?;
    let id = container.record.id.clone();
    if let Some(name) = container.record.sandbox.clone() {
        return joined(store, &name, &container, with_input, flags);
    }
    let mut fifos = Fifos::make(store, Wanted { input: with_input, output: true, errors: false })?;
    let heard = front::detach(store, container.clone(), Some(&mut fifos))?;
    fifos.forget_names();
    // Before the first thread.
    let signals = inside::signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        // It may be over already, and removed.
        let client = sandbox::connect(store, &container).await.ok().flatten();
        let session = Session { client: client.as_ref(), id: &id, tty: true, sig_proxy: flags.sig_proxy };
        session.look(fifos, keys, &signals, tokio::task::spawn_blocking(|| Heard::code(heard))).await
    });
    runtime.shutdown_background();
    Ok(code?.transpose()?.unwrap_or(0))
}

/// The same in a sandbox that it shares with others.
fn joined(store: &Store, name: &str, found: &Container, with_input: bool, flags: &SessionFlags) -> Result<u8> {
    let (id, tty) = (&found.record.id, found.record.tty);
    let fifos = Fifos::make(store, Wanted { input: with_input, output: true, errors: !tty })?;
    let (runtime, client) = Joiner::default().join_and_look(store, name, id, fifos.paths())?;
    fifos.forget_names();
    let signals = inside::signals()?;
    let code = runtime.block_on(async {
        let ended = async { client.wait(id).await };
        let session = Session { client: Some(&client), id, tty, sig_proxy: flags.sig_proxy };
        session.look(fifos, flags.keys()?, &signals, ended).await
    });
    runtime.shutdown_background();
    Ok(code?.transpose()?.unwrap_or(0))
}

/// One container, and we at its streams.
struct Session<'a> {
    client: Option<&'a SandboxClient>,
    id: &'a str,
    tty: bool,
    sig_proxy: bool,
}

impl Session<'_> {
    /// Stays until the container has ended; `None` when it was left.
    async fn look<T, E>(
        &self,
        mut fifos: Fifos,
        keys: DetachKeys,
        signals: &Signals,
        ended: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<Result<T, E>>> {
        let mut listening = signals.listen()?;
        self.resize().await;
        let raw = if self.tty { Raw::enter()? } else { None };
        let detached = fifos.type_in(self.tty.then_some(keys))?;
        let signals = async {
            loop {
                let signal = listening.next().await;
                if signal == libc::SIGWINCH.cast_unsigned() {
                    self.resize().await;
                } else if !self.sig_proxy || signal == libc::SIGHUP.cast_unsigned() {
                    // Only we go.
                    return;
                } else if let Some(client) = self.client {
                    let _ = client.kill(self.id, signal).await;
                }
            }
        };
        let over = async {
            tokio::select! {
                ended = ended => Some(ended),
                Ok(()) = detached => None,
                () = signals => None,
            }
        };
        let outcome = fifos.show(over).await?;
        drop(raw);
        if outcome.is_none() && self.tty {
            eprintln!("{DETACHED}");
        }
        Ok(outcome)
    }

    /// Tells how large our window is.
    async fn resize(&self) {
        if let (Some((columns, rows)), Some(client), true) = (window(), self.client, self.tty) {
            let _ = client.resize(self.id, "", columns, rows).await;
        }
    }
}
