//! What a container may use of its machine, all of its instances and programs together.
//!
//! In a bundle the limits stand where the OCI runtime specification has them (config-linux.md, "Memory").

use super::{GrantError, unreadable};
use oci_spec::runtime::{LinuxMemoryBuilder, Spec};
use serde::{Deserialize, Serialize};

/// What a container may use. `None` is the default, which protects the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory, from [`Limits::LEAST_MEMORY`] on; by default [`Limits::default_memory`].
    pub memory: Option<u64>,
}

impl Limits {
    /// A page of Wasm memory: with less no program could begin.
    pub const LEAST_MEMORY: u64 = 64 << 10;

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

    /// Writes the limits into a bundle.
    pub(super) fn write(&self, spec: &mut Spec) -> Result<(), GrantError> {
        let memory = match self.memory {
            Some(bytes) => Some(LinuxMemoryBuilder::default().limit(i64::try_from(bytes).unwrap_or(i64::MAX)).build()?),
            None => None,
        };
        if let Some(linux) = spec.linux_mut() {
            linux.resources_mut().get_or_insert_default().set_memory(memory);
        }
        Ok(())
    }

    /// Reads the limits of a bundle. Below zero is no limit there, and the default here.
    pub(super) fn read(spec: &Spec) -> Result<Self, GrantError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let memory = resources.and_then(|all| all.memory().as_ref()?.limit());
        let memory = match memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0) {
            Some(bytes) if bytes < Self::LEAST_MEMORY => {
                let reason = format!("{bytes} bytes are less than the {} of the smallest memory", Self::LEAST_MEMORY);
                return Err(unreadable("linux.resources.memory.limit")(reason));
            }
            memory => memory,
        };
        Ok(Self { memory })
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
        let limits = Limits { memory: Some(64 << 20) };
        assert_eq!(through(&limits).unwrap(), limits);
        assert_eq!(through(&Limits::default()).unwrap(), Limits::default());
    }

    #[test]
    fn what_no_program_could_live_with_is_refused() {
        assert!(through(&Limits { memory: Some(4096) }).unwrap_err().to_string().contains("memory.limit"));
    }

    #[test]
    fn the_default_leaves_something_to_the_host() {
        let default = Limits::default_memory();
        assert!((Limits::LEAST_MEMORY..u64::MAX / 2).contains(&default));
    }
}
