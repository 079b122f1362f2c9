//! `exec`: one more program in a running container.

use crate::commands::sandbox;
use crate::front::{Failed, Signals};
use crate::inside::{self, Fifos, Wanted};
use crate::settings::{absolute_workdir, read_env_file, variable};
use crate::terminal::{DetachKeys, Raw, window};
use crate::{Context, commands};
use anyhow::{Result, bail};
use clap::Args;
use oci_spec::runtime::{BoxBuilder, ProcessBuilder, UserBuilder};
use sampan_runtime::container::{self, Container, ContainerError, id};
use sampan_runtime::guest::code;
use sampan_runtime::store::Store;
use sampan_shim::client::{ClientError, SandboxClient};
use sampan_shim::{ExecProcess, More};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run a program in a running container
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Run it in the background
    #[arg(short, long)]
    detach: bool,
    /// The keys that leave it behind in a terminal
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::USUAL)]
    detach_keys: String,
    /// Set an environment variable (NAME=value, or NAME to take it from here)
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Run this Wasm file instead of a program of the container; what follows are its arguments
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// The user to be: root (0), whom every container of ours has and no other
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Name or id
    container: String,
    /// The program, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

const SIGKILL: u32 = 9;

impl ExecArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        if let Some(user) = &self.user
            && !user.split(':').all(|part| matches!(part, "root" | "0"))
        {
            bail!("user {user:?}: a container has one user, who is root (0) in its own tree and nobody outside of it");
        }
        if self.command.is_empty() && self.module.is_none() {
            bail!("name a program to run in the container, or a Wasm file with --module");
        }
        let keys = DetachKeys::parse(&self.detach_keys)?;
        if self.tty && self.interactive && !self.detach && !rustix::termios::isatty(std::io::stdin()) {
            bail!("the input device is not a TTY: leave out -t, or -i");
        }
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        if !found.status(&store).is_running() {
            bail!(ContainerError::NotRunning(found.record.id));
        }
        // Before the first thread.
        let signals = inside::signals()?;
        let process = self.process(&store)?;
        let wanted =
            Wanted { input: self.interactive && !self.detach, output: !self.detach, errors: !self.detach && !self.tty };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(async {
            let Some(client) = sandbox::connect(&store, &found).await? else {
                bail!(ContainerError::NotRunning(found.record.id.clone()));
            };
            let fifos = Fifos::make(&store, wanted)?;
            let session = Session { client, found: &found, exec: id::new_id()?, tty: self.tty };
            session.run(process, fifos, self.detach, keys, &signals).await
        });
        // Standard input may be waited for, for ever.
        runtime.shutdown_background();
        code.map(ExitCode::from)
    }

    fn process(&self, store: &Store) -> Result<ExecProcess> {
        let mut more = More { toolbox: true, leash: !self.detach, detach: self.detach, ..More::default() };
        let mut args = self.command.clone();
        if let Some(module) = &self.module {
            if !module.is_file() {
                bail!("cannot run {}: there is no such file", module.display());
            }
            let code = code::prepare(store, module)
                .map_err(|e| Failed { code: 126, message: commands::words(&anyhow::Error::from(e)) })?;
            let kind = code.description.kind;
            if kind.is_service() {
                let message = format!("cannot run {}: it is a {kind}, and a command was wanted", module.display());
                bail!(Failed { code: 126, message });
            }
            more.module = Some(code.digest);
            args.insert(0, format!("/{}", module.file_name().unwrap_or_default().to_string_lossy()));
        }
        let mut env = Vec::new();
        if self.tty {
            env.push("TERM=xterm".to_owned());
        }
        for file in &self.env_file {
            env.extend(read_env_file(file)?);
        }
        env.extend(self.env.iter().filter_map(|given| variable(given)));
        let cwd = self.workdir.clone().map(absolute_workdir).transpose()?.unwrap_or_default();
        let user = UserBuilder::default().uid(0_u32).gid(0_u32).build()?;
        let mut process = ProcessBuilder::default().terminal(self.tty).user(user).args(args).env(env).cwd(cwd);
        if let Some((columns, rows)) = window().filter(|_| self.tty) {
            process = process.console_size(BoxBuilder::default().width(columns).height(rows).build()?);
        }
        let process = process.build()?;
        Ok(ExecProcess { process, more })
    }
}

/// One program, and we at it.
struct Session<'a> {
    client: SandboxClient,
    found: &'a Container,
    exec: String,
    tty: bool,
}

impl Session<'_> {
    async fn run(
        &self,
        process: ExecProcess,
        mut fifos: Fifos,
        detach: bool,
        keys: DetachKeys,
        signals: &Signals,
    ) -> Result<u8> {
        let (client, id, exec) = (&self.client, &self.found.record.id, &self.exec);
        let mut listening = signals.listen()?;
        let streams = fifos.paths();
        let started = async {
            let starting = client.exec(id, exec, &process, streams);
            tokio::pin!(starting);
            loop {
                tokio::select! {
                    started = &mut starting => return started.map_err(|e| failed(e, self.found)),
                    signal = listening.next() => if signal != libc::SIGWINCH.cast_unsigned() {
                        // Whoever compiles a program for us learns by our end that we do not wait.
                        let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
                        bail!(Failed { code, message: "interrupted before the program started".to_owned() });
                    },
                }
            }
        };
        started.await?;
        fifos.forget_names();
        if detach {
            return Ok(0);
        }
        self.resize().await;
        let raw = if self.tty { Raw::enter()? } else { None };
        let detached = fifos.type_in(self.tty.then_some(keys))?;
        let signals = async {
            let mut before = false;
            loop {
                let signal = listening.next().await;
                if signal == libc::SIGWINCH.cast_unsigned() {
                    self.resize().await;
                } else {
                    let _ = client.kill_exec(id, exec, if before { SIGKILL } else { signal }).await;
                    before = true;
                }
            }
        };
        let ended = async {
            tokio::select! {
                code = client.wait_exec(id, exec) => code.map(Some),
                Ok(()) = detached => client.detach_exec(id, exec).await.map(|()| None),
                () = signals => Ok(None),
            }
        };
        let code = fifos.show(ended).await?;
        drop(raw);
        match code {
            Ok(Some(code)) => {
                let _ = client.forget_exec(id, exec).await;
                Ok(code)
            }
            Ok(None) => {
                eprintln!("read escape sequence");
                Ok(0)
            }
            // The sandbox went away with the container.
            Err(error) if error.is_lost() => Ok(sampan_runtime::guest::KILLED),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells how large our window is.
    async fn resize(&self) {
        if let Some((columns, rows)) = window().filter(|_| self.tty) {
            let _ = self.client.resize(&self.found.record.id, &self.exec, columns, rows).await;
        }
    }
}

/// A program that did not start, in the sandbox's words.
fn failed(error: ClientError, found: &Container) -> anyhow::Error {
    let container = &found.record.name;
    match error.not_run() {
        Some((code, words)) => Failed { code, message: format!("{container}: {words}") }.into(),
        // It went away with the container.
        None if error.is_lost() => ContainerError::NotRunning(found.record.id.clone()).into(),
        None => anyhow::Error::from(error).context(format!("cannot run a program in {container}")),
    }
}
