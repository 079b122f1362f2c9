//! The fences around a host process, in the one order that works: namespaces and mounts → fork → no new privileges,
//! capabilities, landlock, seccomp → first thread → guest.
//!
//! (After landlock nothing can be mounted from inside, and a user namespace cannot be entered with two threads.)

use super::seccomp::{self, Allow};
use crate::grants::Sockets;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One fence: that it stands, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fence {
    /// It stands; with what is worth saying of it.
    Stands(String),
    /// It does not, and why.
    Missing(String),
}

impl<T: std::fmt::Display> From<Result<&str, T>> for Fence {
    fn from(result: Result<&str, T>) -> Self {
        match result {
            Ok(detail) => Self::Stands(detail.to_owned()),
            Err(reason) => Self::Missing(reason.to_string()),
        }
    }
}

/// Every fence of a sandbox, as `inspect` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fences {
    /// A mount namespace (and a user namespace where we are not root).
    pub namespaces: Fence,
    /// No program can gain rights by being executed.
    pub no_new_privileges: Fence,
    /// Root's rights, dropped but for those that files need.
    pub capabilities: Fence,
    /// Files beyond the container's trees, signals and abstract sockets.
    pub landlock: Fence,
    /// System calls.
    pub seccomp: Fence,
    /// New sockets.
    #[serde(default = "unknown")]
    pub sockets: Fence,
}

/// What an older version has not written down.
fn unknown() -> Fence {
    Fence::Missing("an older version has not said".to_owned())
}

/// The namespaces that this process has entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    /// Whether a user namespace had to be made, so that overlay needs its unprivileged form.
    pub rootless: bool,
}

/// Enters a mount namespace of its own, by way of a user namespace where we are not root.
///
/// # Errors
/// When the system refuses, saying why; then nothing has changed.
pub fn enter_namespaces() -> Result<Namespaces, String> {
    // What is mounted on the machine later is nobody's business here.
    enter(MountPropagationFlags::PRIVATE)
}

/// The same for a sandbox that lives as long as containers come: what is mounted on the machine later is seen there too.
///
/// # Errors
/// As [`enter_namespaces`].
pub fn enter_namespaces_to_stay() -> Result<Namespaces, String> {
    enter(MountPropagationFlags::DOWNSTREAM)
}

fn enter(propagation: MountPropagationFlags) -> Result<Namespaces, String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let rootless = !uid.is_root();
    let mut flags = UnshareFlags::NEWNS;
    if rootless {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: this process has one thread and shares neither descriptors nor file-system state with another.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| {
        let way_out = if rootless {
            " (user namespaces may be switched off: sysctl kernel.unprivileged_userns_clone)"
        } else {
            ""
        };
        format!("unshare: {e}{way_out}")
    })?;
    if rootless {
        let map = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("/proc/self/{file}: {e}"))
        };
        map("setgroups", "deny".into())?;
        map("uid_map", format!("0 {} 1", uid.as_raw()))?;
        map("gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    mount_change("/", propagation | MountPropagationFlags::REC).map_err(|e| format!("make mounts private: {e}"))?;
    Ok(Namespaces { rootless })
}

/// Raises the fences around a host process that has one thread. `trees` is the one directory that it may see, and
/// `low_ports` whether a port below 1024 has been granted; `sockets` says which it may still open.
#[must_use]
pub fn raise(namespaces: &Result<Namespaces, String>, trees: &[&Path], low_ports: bool, sockets: &Sockets) -> Fences {
    let allow = match sockets {
        Sockets::None => Allow::Listening,
        Sockets::Tcp(_) => Allow::Connecting,
        Sockets::Any(_) => Allow::Host,
    };
    let namespaces = match namespaces {
        Ok(Namespaces { rootless: false }) => Fence::Stands("mount".into()),
        Ok(Namespaces { rootless: true }) => Fence::Stands("user, mount".into()),
        Err(reason) => Fence::Missing(reason.clone()),
    };
    let no_new_privileges = rustix::thread::set_no_new_privs(true).map(|()| "set").into();
    let kept = if low_ports { "dropped but for files and low ports" } else { "dropped but for files" };
    let capabilities = drop_capabilities(low_ports).map(|()| kept).into();
    let ports_known = landlock_knows_ports();
    let landlock: Fence = confine(trees, sockets).into();
    let seccomp: Fence = seccomp::apply(allow).map(|()| "allow list").into();
    let sockets = closed(sockets, ports_known, &landlock, &seccomp);
    Fences { namespaces, no_new_privileges, capabilities, landlock, seccomp, sockets }
}

/// How far new sockets are kept from the host process.
fn closed(sockets: &Sockets, ports_known: bool, landlock: &Fence, seccomp: &Fence) -> Fence {
    match (sockets, seccomp, landlock) {
        (Sockets::Any(why), ..) => Fence::Missing(format!("{why}; its egress is the runtime's to keep")),
        (_, Fence::Missing(reason), _) => Fence::Missing(reason.clone()),
        (Sockets::None, ..) => Fence::Stands("none can be opened".into()),
        (Sockets::Tcp(ports), _, Fence::Stands(_)) if ports_known => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            Fence::Stands(format!("TCP to ports {}", ports.join(", ")))
        }
        (Sockets::Tcp(_), ..) => Fence::Missing("TCP to all ports: landlock knows them from Linux 6.7 on".into()),
    }
}

/// Whether the kernel's landlock is of version 4 at least.
fn landlock_knows_ports() -> bool {
    const VERSION: libc::c_int = 1;
    // SAFETY: without attributes, and with this flag, the call only answers a number (landlock_create_ruleset(2)).
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    version >= 4
}

/// Raises the fences around the compiling child: no file, no socket, no program.
pub fn compiler() {
    // Where a fence cannot stand the child is still a process of its own with limits, which `info` tells.
    let _ = rustix::thread::set_no_new_privs(true);
    let _ = keep_capabilities(CapabilitySet::empty());
    let _ = confine(&[], &Sockets::Any(String::new()));
    let _ = seccomp::apply(Allow::Compiler);
}

/// Keeps what root needs to be root of the guest's own tree, and a low port where one was granted.
fn drop_capabilities(low_ports: bool) -> rustix::io::Result<()> {
    let mut keep = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    if low_ports {
        keep |= CapabilitySet::NET_BIND_SERVICE;
    }
    keep_capabilities(keep)
}

fn keep_capabilities(keep: CapabilitySet) -> rustix::io::Result<()> {
    let have = rustix::thread::capabilities(None)?;
    let kept = have.permitted & keep;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

/// Landlock: what lies beneath `trees` and nothing else, neither program nor device; no signal and no abstract socket
/// to anybody outside; where the ports are known that it connects to, no others.
fn confine(trees: &[&Path], sockets: &Sockets) -> Result<&'static str, String> {
    let all = AccessFs::from_all(ABI::V5);
    let granted = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let raise = || -> Result<RulesetStatus, landlock::RulesetError> {
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::from_all(ABI::V6))?;
        let mut rules = match sockets {
            Sockets::Tcp(ports) => {
                let mut rules = rules.handle_access(AccessNet::ConnectTcp)?.create()?;
                for port in ports {
                    rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
                }
                rules
            }
            _ => rules.create()?,
        };
        for tree in trees {
            if let Ok(tree) = PathFd::new(tree) {
                rules = rules.add_rule(PathBeneath::new(tree, granted))?;
            }
        }
        Ok(rules.restrict_self()?.ruleset)
    };
    match raise() {
        Ok(RulesetStatus::FullyEnforced) => Ok("files, signals, abstract sockets"),
        Ok(RulesetStatus::PartiallyEnforced) => Ok("files, as far as this kernel can"),
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no landlock".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

impl Fences {
    /// Each fence with its name, in the order in which they are raised.
    #[must_use]
    pub fn named(self) -> Vec<(&'static str, Fence)> {
        vec![
            ("namespaces", self.namespaces),
            ("noNewPrivileges", self.no_new_privileges),
            ("capabilities", self.capabilities),
            ("landlock", self.landlock),
            ("seccomp", self.seccomp),
            ("sockets", self.sockets),
        ]
    }
}
