//! The limits that can be changed while a container runs.

use super::{GrantError, Limits, unreadable};
use oci_spec::runtime::{LinuxCpu, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder};
use serde::{Deserialize, Serialize};

/// The period of a quota, in microseconds: what Docker and Kubernetes write.
const PERIOD: u64 = 100_000;
/// The CPU shares of who says nothing of them.
pub const SHARES: u64 = 1024;

/// Limits of memory and processors, as the OCI runtime specification has them (config-linux.md, "Memory" and "CPU").
/// `None` says nothing of a limit, and 0 that it is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// See [`Limits::memory`].
    pub memory: Option<u64>,
    /// See [`Limits::nano_cpus`].
    pub nano_cpus: Option<u64>,
    /// See [`Limits::cpu_shares`].
    pub cpu_shares: Option<u64>,
}

impl Resources {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes those limits of which something is said.
    pub fn apply(&self, limits: &mut Limits) {
        let change = |limit: &mut Option<u64>, said: Option<u64>| {
            if let Some(said) = said {
                *limit = Some(said).filter(|said| *said > 0);
            }
        };
        change(&mut limits.memory, self.memory);
        change(&mut limits.nano_cpus, self.nano_cpus);
        change(&mut limits.cpu_shares, self.cpu_shares);
    }

    /// In the form of a bundle, where -1 is no limit.
    ///
    /// # Errors
    /// When oci-spec refuses a value.
    pub fn to_linux(&self) -> Result<LinuxResources, GrantError> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let or_none = |value: u64| if value == 0 { -1 } else { number(value) };
        let mut linux = LinuxResourcesBuilder::default().build()?;
        if let Some(bytes) = self.memory {
            linux.set_memory(Some(LinuxMemoryBuilder::default().limit(or_none(bytes)).build()?));
        }
        if self.nano_cpus.is_some() || self.cpu_shares.is_some() {
            let mut cpu = LinuxCpuBuilder::default().build()?;
            cpu.set_shares(self.cpu_shares.map(|shares| if shares == 0 { SHARES } else { shares }));
            if let Some(nano) = self.nano_cpus {
                let quota = u128::from(nano) * u128::from(PERIOD) / 1_000_000_000;
                cpu.set_quota(Some(or_none(u64::try_from(quota).unwrap_or(u64::MAX))));
                cpu.set_period(Some(PERIOD));
            }
            linux.set_cpu(Some(cpu));
        }
        Ok(linux)
    }

    /// From that form. There, 0 says nothing.
    ///
    /// # Errors
    /// When a program could not live with a limit.
    pub fn from_linux(linux: &LinuxResources) -> Result<Self, GrantError> {
        let memory = linux.memory().as_ref().and_then(|memory| said(memory.limit()));
        if let Some(bytes @ 1..Limits::LEAST_MEMORY) = memory {
            let reason = format!("{bytes} bytes are less than the {} of the smallest memory", Limits::LEAST_MEMORY);
            return Err(unreadable("linux.resources.memory.limit")(reason));
        }
        let cpu = linux.cpu().as_ref();
        Ok(Self {
            memory,
            nano_cpus: cpu.map(quota).transpose()?.flatten(),
            cpu_shares: cpu.and_then(LinuxCpu::shares).filter(|shares| *shares > 0),
        })
    }
}

/// Below zero is no limit.
fn said(number: Option<i64>) -> Option<u64> {
    number.filter(|number| *number != 0).map(|number| u64::try_from(number).unwrap_or(0))
}

/// A quota of so many microseconds in each period, as billionths of a processor.
fn quota(cpu: &LinuxCpu) -> Result<Option<u64>, GrantError> {
    let Some(quota) = said(cpu.quota()) else { return Ok(None) };
    if quota == 0 {
        return Ok(Some(0));
    }
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(PERIOD);
    let nano = u128::from(quota) * 1_000_000_000 / u128::from(period);
    match u64::try_from(nano).ok() {
        Some(nano) if nano >= Limits::LEAST_CPU => Ok(Some(nano)),
        _ => {
            let reason = format!("{quota} of {period} microseconds is less than a hundredth of a processor");
            Err(unreadable("linux.resources.cpu.quota")(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_through_and_the_rest_stays() {
        let said = Resources { memory: Some(64 << 20), nano_cpus: Some(0), cpu_shares: None };
        assert_eq!(Resources::from_linux(&said.to_linux().unwrap()).unwrap(), said);
        let nothing = Resources::default();
        assert!(Resources::from_linux(&nothing.to_linux().unwrap()).unwrap().is_empty());
        let mut limits = Limits { nano_cpus: Some(500_000_000), cpu_shares: Some(512), ..Limits::default() };
        said.apply(&mut limits);
        assert_eq!(limits, Limits { memory: Some(64 << 20), cpu_shares: Some(512), ..Limits::default() });
    }
}
