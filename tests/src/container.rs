//! A container with a name of its own, removed when its test is over.

use crate::command::kill;
use crate::files::unique;
use crate::{OrFail, Output, Store, until};
use rustix::process::Signal;
use std::fmt::Display;

/// A name for a container. What has it when the value is dropped is removed, with its anonymous volumes.
#[derive(Debug)]
pub struct Container<'a> {
    store: &'a Store,
    name: String,
}

impl<'a> Container<'a> {
    pub(crate) fn new(store: &'a Store, hint: &str) -> Self {
        Self { store, name: format!("{hint}-{}", unique()) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `inspect` says, through a template: `{{.State.Status}}`.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, format: &str) -> String {
        self.store.sampan(format!("inspect {self} -f")).arg(format).ok().line()
    }

    /// Its whole id.
    #[track_caller]
    #[must_use]
    pub fn id(&self) -> String {
        self.inspect("{{.Id}}")
    }

    /// `running`, `exited` or `created`.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> String {
        self.inspect("{{.State.Status}}")
    }

    /// Whether there is such a container.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.store.sampan(format!("inspect --type container {self}")).run().code == 0
    }

    /// Waits for its end and returns its exit code.
    #[track_caller]
    #[must_use]
    pub fn wait(&self) -> i32 {
        let code = self.store.sampan(format!("wait {self}")).ok().line();
        code.parse().or_fail(format_args!("{code:?} is no exit code"))
    }

    /// Its log.
    #[track_caller]
    #[must_use]
    pub fn logs(&self) -> Output {
        self.store.sampan(format!("logs {self}")).ok()
    }

    /// What the runtime has to say of it.
    #[track_caller]
    #[must_use]
    pub fn diagnostics(&self) -> String {
        let file = self.store.root().join("containers").join(self.id()).join("diagnostics.log");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Waits until its log has this.
    #[track_caller]
    pub fn says(&self, text: &str) {
        until(format_args!("{text:?} in the log of {self}"), || self.logs().stdout.contains(text).then_some(()));
    }

    /// Where the host listens for a port of it.
    #[track_caller]
    #[must_use]
    pub fn port(&self, port: &str) -> u16 {
        let address = self.store.sampan(format!("port {self} {port}")).ok().line();
        let number = address.rsplit(':').next().and_then(|number| number.parse().ok());
        number.or_fail(format_args!("{address:?} is no address"))
    }

    /// The process of its host: the one with the engine and the guest.
    #[track_caller]
    #[must_use]
    pub fn host(&self) -> u32 {
        self.process("{{.State.Pid}}")
    }

    /// The process of its keeper, the parent of its host.
    #[track_caller]
    #[must_use]
    pub fn keeper(&self) -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.host())).or_fail("its host is gone");
        // The fields after the command's name, which stands in parentheses: state, parent, …
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent.or_fail("its host has no parent")
    }

    /// Kills its host, its keeper or both from outside, as an administrator or the kernel may.
    #[track_caller]
    pub fn strike(&self, who: Strike) {
        let (host, keeper) = (self.host(), self.keeper());
        if who != Strike::Host {
            kill(keeper, Signal::KILL);
        }
        if who != Strike::Keeper {
            kill(host, Signal::KILL);
        }
        for (killed, pid) in [(who != Strike::Host, keeper), (who != Strike::Keeper, host)] {
            // A process that is busy dies a moment later.
            until(format_args!("the process {pid} is gone"), || (!killed || is_gone(pid)).then_some(()));
        }
    }

    #[track_caller]
    fn process(&self, format: &str) -> u32 {
        let pid = self.inspect(format);
        pid.parse().ok().filter(|pid| *pid > 0).or_fail(format_args!("{self} has no process: {pid:?}"))
    }
}

/// Whether a process is no more, or waits only for its parent to hear of that.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Which of a sandbox's processes is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The one with the engine and the guest.
    Host,
    /// The one that watches over it.
    Keeper,
    /// Both at once.
    Both,
}

impl Display for Container<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.store.sampan(format!("rm -f -v {self}")).run();
    }
}
