//! The sandbox: two processes from one fork that run the containers of one pod, or one container that stands alone.
//!
//! The **keeper** (this side of the fork; for a foreground `run` the command itself) is small and has no engine: it
//! holds mounts, logs, the record of what ended how. The **host** has the engine and the guests, behind the fences.

pub mod aside;
mod asking;
pub mod cgroup;
mod deadlines;
pub mod exec;
pub mod fence;
mod host;
mod keeper;
pub mod log;
pub mod outputs;
mod resources;
mod seccomp;
mod snapshot;
mod stats;
pub mod terminal;
mod wire;

pub use exec::{ExecError, ExecSpec, ExecStdio};
pub use fence::{Fence, Fences};
pub(crate) use host::allow_many_files;
pub use keeper::Keeper;
pub(crate) use keeper::PAUSED;
pub use log::Attach;
pub use outputs::Outputs;
pub use snapshot::{Exit, Phase, Snapshot};
pub use stats::Stats;

use crate::container::Inside;
use crate::grants::{Grants, Protocol};
use crate::guest::code::Code;
use crate::guest::process::Roster;
use crate::network::reserve::{PortInUse, reserve};
use crate::network::{namespace, peers};
use crate::rootfs::{self, RootfsError};
use crate::store::Store;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// A sandbox or a container in it that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A port.
    #[error(transparent)]
    Port(#[from] PortInUse),
    /// The tree.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The system.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host process is gone.
    #[error("the sandbox is gone")]
    Gone,
    /// A container that cannot join this sandbox.
    #[error(
        "this sandbox cannot take another container: it has no mount namespace (`sampan inspect` says why), so its host \
         cannot be given more directories; give the container a sandbox of its own"
    )]
    NoRoom,
    /// A sandbox that cannot be shared.
    #[error(
        "a sandbox that containers share needs a mount namespace, which this system refuses ({0}): leave --sandbox out, and \
         the container gets a sandbox of its own"
    )]
    NoSharing(String),
    /// A container that cannot be held up alone.
    #[error(
        "container {0} shares its sandbox with others that run, which would be paused with it; pause the sandbox's \
         containers by stopping them, or give each a sandbox of its own"
    )]
    Shared(String),
    /// Less memory than a container has already.
    #[error("container {id} has {used} bytes of memory, more than the {limit} that it is to be limited to")]
    InUse {
        /// Which one.
        id: String,
        /// What it has.
        used: u64,
        /// What it may have from now on.
        limit: u64,
    },
    /// No such container in this sandbox.
    #[error("no container {0} in this sandbox")]
    NoContainer(String),
    /// Not in this state of the container.
    #[error("container {id} is {phase}, so it cannot be {wanted}")]
    Phase {
        /// Which one.
        id: String,
        /// What it is.
        phase: &'static str,
        /// What was asked.
        wanted: &'static str,
    },
}

fn system<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |e| SandboxError::System { action, source: e.into() }
}

/// A container that is to run.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its bundle: the writable layer and the log lie there.
    pub bundle: PathBuf,
    /// What it is granted.
    pub grants: Grants,
    /// Its program.
    pub code: Code,
    /// Where the code of programs that it starts is kept and compiled to, when the grants let it start any.
    pub store: Option<Store>,
    /// Where the members of its network are written down, when the grants have one.
    pub network: Option<PathBuf>,
    /// Its standard input, when the grants have one.
    pub input: Option<OwnedFd>,
    /// Where its output goes besides the log.
    pub attach: Attach,
    /// How the log is kept.
    pub log: log::Config,
}

/// Makes a sandbox around one container and starts it. `place` is a directory of its own in the run directory.
///
/// To be called while this process has one thread: it enters namespaces and forks. The host process never returns
/// from here.
///
/// # Errors
/// When a port is in use, a mount fails, or the system refuses; then nothing is left.
pub fn launch(place: &Path, entry: Entry) -> Result<Keeper, SandboxError> {
    let reserved = reserve(&entry.grants, entry.code.description.opens())?;
    let low_ports = entry.grants.published.iter().any(|p| p.host.port() > 0 && p.host.port() < 1024)
        || (entry.grants.network == crate::grants::Network::Host
            && entry.grants.ports().iter().any(|p| p.number < 1024 && p.protocol == Protocol::Tcp));
    let trees = place.parent().unwrap_or(place).join(TREES);
    let tree = mount_place(&trees, 0)?;
    let namespaces = fence::enter_namespaces();
    // Mounting takes as long as the host takes to get ready, so the two go on side by side: the host waits for the tree.
    let preopens = match &namespaces {
        Ok(_) => vec![rootfs::preopen(&tree)],
        Err(_) => rootfs::fallback(&entry.grants, &entry.bundle)?,
    };
    let mut visible: Vec<PathBuf> = vec![trees.clone()];
    if namespaces.is_err() {
        visible.extend(preopens.iter().map(|p| p.host.clone()));
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(system("make the control socket"))?;
    let (output, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make the output pipe"))?;
    let terminal =
        entry.grants.terminal.then(terminal::Terminal::open).transpose().map_err(system("make a terminal"))?;
    let (ours_of_terminal, guests_end) = terminal.unzip();
    let Entry { id, bundle, grants, code, store, network, input, attach, log } = entry;
    let to = log::To { attach, log };
    let digest = code.digest;
    let answers = asking::answers::Answers::new(store, grants.egress.clone(), network.clone(), &bundle);
    let launch = host::Launch {
        id: id.clone(),
        grants,
        preopens,
        description: code.description,
        code: code.file,
        output: writer,
        input,
        terminal: guests_end,
        reserved,
        roster: Roster::hidden(),
    };
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(system("fork the host process")(std::io::Error::last_os_error())),
        0 => {
            drop((ours, output));
            let visible: Vec<&Path> = visible.iter().map(PathBuf::as_path).collect();
            host::run(theirs, Some(launch), &namespaces, &visible, low_ports)
        }
        pid => {
            drop(theirs);
            // From here on an error ends the host: it lives as long as the socket.
            if let Ok(namespaces) = &namespaces {
                rootfs::assemble(&launch.grants, &bundle, &tree, namespaces.rootless)?;
            }
            if let Some(shares) = launch.grants.limits.cpu_shares {
                share_of_session(shares);
            }
            let peers = join(&id, &bundle, &launch.grants, network.as_deref())?;
            let recorder = keeper::record(ours_of_terminal.as_ref(), &launch.output)?;
            drop(launch);
            wire::send(ours.as_fd(), &wire::Order::Begin, &[]).map_err(|_| SandboxError::Gone)?;
            let made = keeper::Made {
                place: place.to_owned(),
                trees,
                pid,
                socket: ours,
                rootless: namespaces.map(|n| n.rootless).ok(),
                shared: false,
            };
            Keeper::new(made, Some((id, bundle, digest, answers, peers, output, to, recorder)))
        }
    }
}

/// Makes a sandbox that containers share, with none in it yet. `place` is a directory of its own in the run directory, and
/// `trees` where every sandbox mounts its containers' trees.
///
/// To be called while this process has one thread: it enters namespaces and forks. The host process never returns
/// from here.
///
/// # Errors
/// When there is no mount namespace to be had, or the system refuses; then nothing is left.
pub fn launch_shared(place: &Path, trees: &Path, inside: &Inside) -> Result<Keeper, SandboxError> {
    std::fs::create_dir_all(trees).map_err(system("make the sandbox's directory"))?;
    if let Some(cgroup) = &inside.cgroup {
        cgroup::join(cgroup).map_err(system("enter the cgroup"))?;
    }
    // The keeper too: it opens the doors, and looks names up.
    if let Some(network) = &inside.network {
        namespace::enter(network).map_err(system("enter the network namespace"))?;
    }
    let namespaces = fence::enter_namespaces_to_stay();
    let rootless = namespaces.clone().map_err(SandboxError::NoSharing)?.rootless;
    // As many mount points as containers come, of which nothing is left when the namespace goes.
    rootfs::cover(trees)?;
    for (file, instead) in [("/etc/resolv.conf", &inside.resolv_conf), ("/etc/hosts", &inside.hosts)] {
        if let Some(instead) = instead {
            rootfs::stand_in(instead, Path::new(file))?;
        }
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(system("make the control socket"))?;
    // SAFETY: this process has one thread, so the child may go on as its parent would.
    match unsafe { libc::fork() } {
        -1 => Err(system("fork the host process")(std::io::Error::last_os_error())),
        0 => {
            drop(ours);
            // Which ports its containers will publish is not known yet.
            host::run(theirs, None, &namespaces, &[trees], true)
        }
        pid => {
            let (place, trees) = (place.to_owned(), trees.to_owned());
            Keeper::new(keeper::Made { place, trees, pid, socket: ours, rootless: Some(rootless), shared: true }, None)
        }
    }
}

/// Where the kernel weighs whole sessions against each other (sched_autogroup_enabled, sched(7)), the niceness of a thread
/// counts within its session alone: a keeper that has one for its sandbox gives it the container's share.
fn share_of_session(shares: u64) {
    let ours = rustix::process::getsid(None).is_ok_and(|session| session == rustix::process::getpid());
    if ours {
        // Where there is no such thing there is no such file.
        let _ = std::fs::write("/proc/self/autogroup", crate::guest::cpu::niceness(shares).to_string());
    }
}

/// Makes a container known to its peers.
fn join(
    id: &str,
    bundle: &Path,
    grants: &Grants,
    network: Option<&Path>,
) -> Result<Option<peers::Registered>, SandboxError> {
    let (Some(dir), Some(member), Some(address)) = (network, &grants.member, grants.address) else { return Ok(None) };
    let member =
        peers::Member { address, names: member.names.clone(), bundle: bundle.to_owned(), listeners: Vec::new() };
    let joined = peers::Registered::new(dir, id, member);
    joined.map(Some).map_err(|e| system("join the network")(std::io::Error::other(e)))
}

/// Where in the run directory every sandbox mounts its containers' trees, each in its own namespace: empty for everybody
/// else. One place for all, since a mount point that is to be removed must be unmounted first, and that takes a millisecond.
pub const TREES: &str = "trees";

/// The directory for the tree of a sandbox's `n`th container.
fn mount_place(trees: &Path, n: usize) -> Result<PathBuf, SandboxError> {
    let place = trees.join(n.to_string());
    match std::fs::create_dir(&place) {
        Ok(()) => Ok(place),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(place),
        Err(_) => {
            std::fs::create_dir_all(&place).map_err(system("make the sandbox's directory"))?;
            Ok(place)
        }
    }
}

/// Closes every descriptor behind the standard streams but these: a child of a fork has those of its parent.
///
/// To be called when nothing is used any more that has another.
pub fn close_all_but(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().map(i32::unsigned_abs).chain([u32::MAX]) {
        if fd > from {
            // SAFETY: no value that is used from here on owns a descriptor in this gap.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - u32::from(fd != u32::MAX), 0) };
        }
        from = fd.saturating_add(1).max(from);
    }
}

/// Unmaps this program's text, which is the same on disk: what runs on is mapped again when it is next needed, in
/// pieces, and the rest is not kept in an idle sandbox's account. Nor is memory that was freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn rest() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    // SAFETY: sysconf(3) only answers. (rustix would ask the kernel anew, which the fences do not allow.)
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (start, end) = (start.next_multiple_of(page), end - end % page);
    if let Some(length) = end.checked_sub(start) {
        // SAFETY: the allocator's own function, which takes no memory that is in use.
        unsafe { libc::malloc_trim(0) };
        // SAFETY: between the two symbols of the linker lie headers, constants and text: private, read-only mappings of
        // the program's file, which reads the same when its pages are mapped anew.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn rest() {}

/// Who is at the other end of a Unix socket (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
}

impl Peer {
    /// Whether the peer may control our sandboxes: root, or the user that we are.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        self.uid == 0
            || self.uid == rustix::process::geteuid().as_raw()
            || self.uid == rustix::process::getuid().as_raw()
    }
}

/// Looks at the other end of a Unix socket.
///
/// # Errors
/// When it is no such socket.
pub fn peer_of(socket: std::os::fd::BorrowedFd<'_>) -> std::io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { uid: credentials.uid.as_raw() })
}
