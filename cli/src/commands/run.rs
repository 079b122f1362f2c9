//! `run`, `create`, `start`, and what starts a container again.

use crate::commands::attach::{self, SessionFlags};
use crate::commands::pull;
use crate::front;
use crate::settings::ContainerFlags;
use crate::shared::Joiner;
use crate::{Context, commands};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sampan_runtime::container::life::Lease;
use sampan_runtime::container::restart::Again;
use sampan_runtime::container::{self, ContainerError};
use sampan_runtime::image::Image;
use sampan_runtime::store::Store;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

// The arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    session: SessionFlags,
    #[command(flatten)]
    container: ContainerFlags,
}

// The arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    container: ContainerFlags,
}

// The arguments of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Show the container's output and return its exit code
    #[arg(short, long)]
    attach: bool,
    /// Give it this standard input (with -a, for a container that was made with -i)
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    session: SessionFlags,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

// The runtime's own: it is there before it is needed, and starts the one container whose id it reads.
#[derive(Debug, Args)]
pub struct ReadyArgs {}

type Maker<T> = fn(&Store, container::Settings, Option<&Image>) -> Result<T, ContainerError>;

fn make<T>(store: &Store, flags: ContainerFlags, make: Maker<T>) -> Result<T> {
    let image = match flags.module() {
        Some(_) => None,
        None => Some(pull::find(store, &flags.image, flags.pull, flags.quiet)?),
    };
    Ok(make(store, flags.settings()?, image.as_ref())?)
}

impl RunArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        self.session.keys()?;
        if !self.detach && self.container.tty {
            attach::check_terminal(self.container.interactive)?;
        }
        let (made, outcome) = if self.detach {
            let made = make(&store, self.container, container::create)?;
            let id = made.record.id.clone();
            let started = front::detached(&store, made.clone());
            (made, started.map(|()| (0, Some(id))))
        } else if self.container.tty || self.container.sandbox.is_some() {
            let with_input = self.container.interactive;
            let made = make(&store, self.container, container::create)?;
            let code = attach::started(&store, made.clone(), with_input, &self.session);
            (made, code.map(|code| (code, None)))
        } else {
            let lease = make(&store, self.container, container::create_and_lease)?;
            (lease.container().clone(), front::attached(&store, lease, true).map(|code| (code, None)))
        };
        match outcome {
            Ok((code, id)) => {
                if let Some(id) = id {
                    println!("{id}");
                }
                Ok(ExitCode::from(code))
            }
            Err(error) => {
                // What never ran leaves nothing. What did not go away by itself is gone, or is told by its own error.
                let _ = container::remove(&store, &made, true);
                Err(error)
            }
        }
    }
}

impl CreateArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let made = make(&context.store()?, self.container, container::create)?;
        println!("{}", made.record.id);
        Ok(ExitCode::SUCCESS)
    }
}

impl StartArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        if self.attach || self.interactive {
            let [name] = self.containers.as_slice() else {
                bail!("you cannot start and attach several containers at once");
            };
            let found = container::find(&store, name)?;
            if found.record.tty || found.record.sandbox.is_some() {
                if found.record.tty {
                    attach::check_terminal(self.interactive && found.record.open_stdin)?;
                }
                let with_input = self.interactive && found.record.open_stdin;
                return Ok(ExitCode::from(attach::started(&store, found, with_input, &self.session)?));
            }
            let lease = Lease::take(found)?;
            return Ok(ExitCode::from(front::attached(&store, lease, self.interactive)?));
        }
        if let [name] = self.containers.as_slice() {
            let found = container::find(&store, name)?;
            if !found.status(&store).is_running() {
                front::detached(&store, found)?;
            }
            println!("{name}");
            return Ok(ExitCode::SUCCESS);
        }
        let mut joined = join_all(&store, &self.containers);
        commands::for_each(&self.containers, |name| {
            if let Some(joined) = joined.remove(name) {
                return joined;
            }
            let found = container::find(&store, name)?;
            if found.status(&store).is_running() { Ok(()) } else { front::detached(&store, found) }
        })
    }
}

impl ReadyArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let mut id = String::new();
        std::io::stdin().take(4096).read_to_string(&mut id).context("cannot read an id")?;
        // Who might have needed it is gone.
        if !id.is_empty() {
            front::detached(&store, container::find(&store, id.trim())?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts those that share sandboxes, over one connection to each; what became of them, by the name that was given.
fn join_all(store: &Store, names: &[String]) -> HashMap<String, Result<()>> {
    let mut sandboxes: BTreeMap<String, Vec<(&String, String)>> = BTreeMap::new();
    for name in names {
        if let Ok(found) = container::find(store, name)
            && let Some(sandbox) = &found.record.sandbox
            && !found.status(store).is_running()
        {
            sandboxes.entry(sandbox.clone()).or_default().push((name, found.record.id));
        }
    }
    let mut all = HashMap::new();
    for (sandbox, members) in sandboxes {
        let ids: Vec<&str> = members.iter().map(|(_, id)| id.as_str()).collect();
        let joined = Joiner::default().join_all(store, &sandbox, &ids);
        all.extend(members.iter().map(|(name, _)| (*name).clone()).zip(joined));
    }
    all
}

// The arguments of `keep`.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// The descriptor of the container's lock
    #[arg(long, value_name = "FD")]
    lock: RawFd,
    /// Be the container's front end
    #[arg(long)]
    attach: bool,
    /// Give it this standard input
    #[arg(long)]
    interactive: bool,
    /// The container's id
    id: String,
}

impl KeepArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        // SAFETY: the descriptor is only looked at, and the call says itself whether it is open.
        let open = self.lock > 2 && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(self.lock) }).is_ok();
        if !open {
            bail!("this command is the runtime's own: it goes on with a container that is to be started again");
        }
        // SAFETY: the descriptor is open, as was asked just now, and this process has taken no other yet.
        let lock = unsafe { OwnedFd::from_raw_fd(self.lock) };
        let store = context.store()?;
        let again = Again::take_over(&store, &self.id, lock)?;
        let foreground = self.attach.then_some(self.interactive);
        Ok(ExitCode::from(front::resume(&store, again, foreground)?))
    }
}
