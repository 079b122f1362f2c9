//! What a test needs of the machine. Where it is missing the test is skipped, with a line that says why; on the build
//! server (`CI=true`) that is a failure, so that nothing is skipped there for ever without anybody noticing.

use crate::fail;
use std::process::{Command, Stdio};

/// Something that not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The right to mount, and to become another user.
    Root,
    /// A program in the search path.
    Tool(&'static str),
    /// User namespaces for everybody: what a sandbox is made of without root.
    UserNamespaces,
    /// An IPv6 loopback.
    Ipv6,
    /// File systems in image files can be mounted.
    LoopDevice,
    /// The plugins that connect pods.
    CniPlugins,
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Root => is_root(),
            Self::Tool(name) => succeeds("sh", &["-c", &format!("command -v {name}")]),
            Self::UserNamespaces if is_root() => succeeds(
                "setpriv",
                &["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--mount", "true"],
            ),
            Self::UserNamespaces => succeeds("unshare", &["--user", "--mount", "true"]),
            Self::LoopDevice => succeeds("losetup", &["-f"]),
            Self::CniPlugins => std::path::Path::new("/usr/lib/cni/bridge").exists(),
            Self::Ipv6 => std::net::TcpListener::bind("[::1]:0").is_ok(),
        }
    }
}

/// Whether one of the needs is not met, so that the test has to be left: `if lacks(&[Need::Root]) { return }`.
#[track_caller]
#[must_use]
pub fn lacks(needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !need.is_met()) else { return false };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        fail(format_args!("this machine lacks {missing:?}, and on the build server no test is skipped"));
    }
    // Past the test runner, which keeps the output of what succeeds to itself.
    let line = format!("SKIPPED {test}: this machine lacks {missing:?}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    true
}

/// Whether these tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
