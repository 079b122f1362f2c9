//! What a container may use of its machine, all of its instances and programs together.
//!
//! In a bundle the limits stand where the OCI runtime specification has them (config-linux.md, "Memory" and "CPU";
//! config.md, "rlimits"), and in annotations where it has no place.

use super::{GrantError, Resources, unreadable};
use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Spec};
use serde::{Deserialize, Serialize};
use std::time::Duration;

mod annotation {
    pub const TIMEOUT: &str = "dev.sampan.timeout-ms";
    pub const STORAGE: &str = "dev.sampan.storage-size";
    pub const GRACE: &str = "dev.sampan.timeout-grace";
}

/// What a container may use. `None` is the default, which protects the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory, from [`Limits::LEAST_MEMORY`] on; by default [`Limits::default_memory`].
    pub memory: Option<u64>,
    /// Billionths of a processor, from [`Limits::LEAST_CPU`] on; by default as many as there are.
    pub nano_cpus: Option<u64>,
    /// Its share of a busy machine, where others that say nothing have 1024.
    pub cpu_shares: Option<u64>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// How long it may take to end when that is over, in seconds; Docker's 10 when `None`.
    pub grace: Option<u32>,
    /// How many files and sockets one of its programs may have open; by default as many as the sandbox's process.
    pub open_files: Option<u64>,
    /// How many bytes there may be in its own layer; by default as many as the disk has.
    pub storage: Option<u64>,
}

impl Limits {
    /// A page of Wasm memory: with less no program could begin.
    pub const LEAST_MEMORY: u64 = 64 << 10;
    /// A hundredth of a processor, as Docker has it.
    pub const LEAST_CPU: u64 = 10_000_000;
    /// Standard input, output and error, the root directory and one file.
    pub const LEAST_FILES: u64 = 5;

    /// The memory of a container that was given no limit, in bytes: half of the machine's, so that one container alone
    /// does not push out everything else. A guest with one 32-bit memory cannot have more than 4 GiB anyway.
    #[must_use]
    pub fn default_memory() -> u64 {
        let machine = rustix::system::sysinfo();
        // The field is as wide as the machine's words.
        #[allow(clippy::useless_conversion, reason = "it is 32 bits wide elsewhere")]
        let total = u64::from(machine.totalram).saturating_mul(u64::from(machine.mem_unit.max(1)));
        (total / 2).max(Self::LEAST_MEMORY)
    }

    /// Whether there is one that a program's files are looked at for.
    #[must_use]
    pub fn of_files(&self) -> bool {
        self.open_files.is_some() || self.storage.is_some()
    }

    /// Those that can be changed while the container runs.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources { memory: self.memory, nano_cpus: self.nano_cpus, cpu_shares: self.cpu_shares }
    }

    /// Writes the limits into a bundle.
    pub(super) fn write(&self, spec: &mut Spec) -> Result<(), GrantError> {
        let said = self.resources().to_linux()?;
        if let Some(linux) = spec.linux_mut() {
            let resources = linux.resources_mut().get_or_insert_default();
            resources.set_memory(*said.memory());
            resources.set_cpu(said.cpu().clone());
        }
        let files = self
            .open_files
            .map(|most| PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).hard(most).soft(most).build());
        if let Some(process) = spec.process_mut() {
            process.set_rlimits(files.transpose()?.map(|limit| vec![limit]));
        }
        let annotations = spec.annotations_mut().get_or_insert_default();
        annotations.extend(self.storage.map(|bytes| (annotation::STORAGE.to_owned(), bytes.to_string())));
        if let Some(timeout) = self.timeout {
            annotations.insert(annotation::TIMEOUT.to_owned(), timeout.as_millis().to_string());
            annotations.extend(self.grace.map(|grace| (annotation::GRACE.to_owned(), grace.to_string())));
        }
        Ok(())
    }

    /// Reads the limits of a bundle. Below zero is no limit there, and the default here.
    pub(super) fn read(spec: &Spec) -> Result<Self, GrantError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let said = resources.map(Resources::from_linux).transpose()?.unwrap_or_default();
        let note = |key: &str| spec.annotations().as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let limits = spec.process().as_ref().and_then(|process| process.rlimits().as_deref()).unwrap_or_default();
        let files = limits.iter().find(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
        let number = |key| note(key).map(|text| text.parse::<u64>().map_err(unreadable(key))).transpose();
        let mut limits = Self {
            timeout: number(annotation::TIMEOUT)?.map(Duration::from_millis),
            grace: number(annotation::GRACE)?.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
            storage: number(annotation::STORAGE)?,
            open_files: files.map(|limit| limit.soft().max(Self::LEAST_FILES)),
            ..Self::default()
        };
        said.apply(&mut limits);
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(limits: &Limits) -> Result<Limits, GrantError> {
        let mut spec = Spec::default();
        limits.write(&mut spec).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        Limits::read(&serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_bundle_says_every_limit() {
        let limits = Limits {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            cpu_shares: Some(512),
            timeout: Some(Duration::from_millis(2500)),
            grace: Some(3),
            open_files: Some(64),
            storage: Some(1 << 30),
        };
        assert_eq!(through(&limits).unwrap(), limits);
        assert_eq!(through(&Limits::default()).unwrap(), Limits::default());
    }

    #[test]
    fn what_no_program_could_live_with_is_refused() {
        assert!(
            through(&Limits { memory: Some(4096), ..Limits::default() })
                .unwrap_err()
                .to_string()
                .contains("memory.limit")
        );
        let little = Limits { nano_cpus: Some(1_000_000), ..Limits::default() };
        assert!(through(&little).unwrap_err().to_string().contains("cpu.quota"));
    }

    #[test]
    fn the_default_leaves_something_to_the_host() {
        let default = Limits::default_memory();
        assert!((Limits::LEAST_MEMORY..u64::MAX / 2).contains(&default));
    }
}
