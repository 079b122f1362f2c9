//! This program under the name of a containerd shim.

use crate::front::leave_terminal;
use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, Mode, OFlags};
use sampan_runtime::sandbox::close_all_but;
use sampan_runtime::store::{Durability, Store, files};
use sampan_shim::containerd::{Action, Call, Claim, Group, Kept, NAME, Speaks, delete, info};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;

/// Where a shim says where it answers: in a container's bundle, for a containerd that is started again.
const ADDRESS: &str = "address";
/// The FIFO in a bundle by which containerd reads what its shim has to say.
const LOG: &str = "log";
/// As much is read of what containerd hands over; its own shims read no more.
const MOST: u64 = 10 << 20;

/// Whether this program was called as a shim.
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// Does what containerd asks for, and answers on standard output.
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    match answer(args) {
        Ok(bytes) if std::io::stdout().write_all(&bytes).is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // containerd shows it to its user.
            let _ = writeln!(std::io::stderr(), "sampan: {}", super::words(&error));
            ExitCode::FAILURE
        }
    }
}

fn answer(args: impl IntoIterator<Item = String>) -> Result<Vec<u8>> {
    let call = Call::read(args)?;
    let root = std::env::var_os("SAMPAN_ROOT").filter(|root| !root.is_empty());
    let store = || Store::locate(root.as_deref().map(Path::new));
    Ok(match call.action {
        Action::Version => format!("{NAME}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION")).into_bytes(),
        Action::Info => info()?,
        Action::Delete => delete(&store()?, &call)?,
        Action::Start => start(&store()?, &call)?,
    })
}

/// Finds the sandbox of the bundle's group or makes it, and says where it answers.
fn start(store: &Store, call: &Call) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin().take(MOST).read_to_end(&mut input).context("cannot read what containerd hands over")?;
    let most = std::env::var("MAX_SHIM_VERSION").ok();
    let speaks = Speaks::of(&call.id, most.as_deref(), &input);
    store.run_dir()?;
    let group = Group::of(store, call)?;
    if let Some(claim) = group.claim()? {
        make(store, call, &group, claim)?;
    }
    let address = group.address();
    files::write(&call.bundle.join(ADDRESS), address.as_bytes(), Durability::Buffered)?;
    Ok(speaks.answer(&address)?)
}

/// Makes the sandbox, in a process that goes on when this one ends; returns when it can be asked.
///
/// To be called while this process has one thread: it forks.
fn make(store: &Store, call: &Call, group: &Group, claim: Claim) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("cannot fork the keeper"),
        0 => {
            drop(reader);
            let mut pipe = Some(File::from(writer));
            if let Err(error) = keep(store, call, group, claim, &mut pipe) {
                let words = super::words(&error);
                match pipe {
                    Some(mut pipe) => drop(pipe.write_all(words.as_bytes())),
                    None => drop(writeln!(std::io::stderr(), "sampan: {words}")),
                }
            }
            std::process::exit(0);
        }
        _ => {
            drop(writer);
            // The sandbox's directory is the child's to take away.
            drop(claim);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text)?;
            match text.as_str() {
                "\n" => Ok(()),
                "" => bail!("the keeper died before the sandbox was there"),
                words => bail!("{words}"),
            }
        }
    }
}

/// The keeper of a sandbox, from its beginning to its end.
fn keep(store: &Store, call: &Call, group: &Group, claim: Claim, pipe: &mut Option<File>) -> Result<()> {
    leave_terminal().context("cannot leave containerd's session")?;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(log) = rustix::fs::openat(CWD, call.bundle.join(LOG), flags, Mode::empty()) {
        rustix::stdio::dup2_stderr(&log).context("cannot open containerd's log")?;
    }
    close_all_but(pipe.iter().map(AsRawFd::as_raw_fd).chain([claim.descriptor()]).collect());
    let kept = Kept::make(store, call, group, claim)?;
    let ready = || {
        if let Some(mut pipe) = pipe.take() {
            // Who has asked for it may be gone.
            let _ = pipe.write_all(b"\n");
        }
    };
    Ok(kept.serve(store, ready)?)
}
