//! The account of one container: what its instances and programs use together, and how much of it they may.

use super::cpu::Cpu;
use super::storage::Storage;
use crate::grants::{Limits, Resources};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use wasmtime::{Engine, ResourceLimiter, Store};

/// Up to here the default limit is not looked up: it is never less on a machine that runs anything.
const FREE: u64 = 32 << 20;
/// What an element of a table takes, in bytes.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// A guest that asked for more memory than its container may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "out of memory: the container may have {limit} bytes, has {used} and wanted {wanted} more; more is given by --memory"
)]
pub(super) struct OutOfMemory {
    limit: u64,
    used: u64,
    wanted: u64,
}

/// The account of one container.
#[derive(Debug, Default)]
pub struct Account {
    /// The limit that was asked for; 0 is the default.
    given: AtomicU64,
    default: OnceLock<u64>,
    memory: AtomicU64,
    killed: AtomicBool,
    cpu: Arc<Cpu>,
    instances: AtomicU64,
    storage: OnceLock<Arc<Storage>>,
}

impl Account {
    /// An account with these limits, and nothing on it.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let cpu = Arc::new(Cpu::new(limits.nano_cpus));
        let given = AtomicU64::new(limits.memory.unwrap_or(0));
        Arc::new(Self { given, cpu, ..Self::default() })
    }

    /// Changes the limits, of guests that run in this engine. Memory that is there stays: with less than that no more is
    /// given.
    pub(super) fn limit(&self, change: Resources, engine: Option<&Engine>) {
        if let Some(memory) = change.memory {
            self.given.store(memory, Ordering::Relaxed);
        }
        if let Some(nano) = change.nano_cpus {
            self.cpu.limit(Some(nano).filter(|nano| *nano > 0), engine);
        }
    }

    /// The limit of its memory that was asked for.
    fn given(&self) -> Option<u64> {
        Some(self.given.load(Ordering::Relaxed)).filter(|given| *given > 0)
    }

    /// Limits what the container may have in its own layer.
    pub fn limit_storage(&self, storage: Storage) {
        let _ = self.storage.set(Arc::new(storage));
    }

    /// What it may have in its own layer, if there is a limit.
    #[must_use]
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        self.storage.get()
    }

    /// The processor's time.
    #[must_use]
    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    /// How many stores there are at this moment.
    #[must_use]
    pub fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    /// How many bytes of memory all may have together.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.given().unwrap_or_else(|| *self.default.get_or_init(Limits::default_memory))
    }

    /// How many bytes of memory all have together.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Says that a program was ended because it wanted too much memory.
    pub(super) fn out_of_memory(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// Whether one was.
    #[must_use]
    pub fn was_out_of_memory(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let given = self.given();
        let fits = |sum: u64| sum <= given.unwrap_or(FREE) || sum <= self.memory_limit();
        let add = |used: u64| used.checked_add(bytes).filter(|sum| fits(*sum));
        match self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(used) => Err(OutOfMemory { limit: self.memory_limit(), used, wanted: bytes }),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Charges memory of the host that a guest has it keep, until the value is dropped; `None` when there is no room.
    #[must_use]
    pub fn buffer(self: &Arc<Self>, bytes: u64) -> Option<Buffer> {
        self.charge(bytes).ok().map(|()| Buffer { account: Arc::clone(self), bytes })
    }
}

/// Memory of the host on an account.
#[derive(Debug)]
pub struct Buffer {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// What one store has on its container's account: the memories and tables of its instances, until it goes.
#[derive(Debug)]
pub struct Meter {
    account: Arc<Account>,
    charged: u64,
    /// What the growth that is under way took.
    last: u64,
}

impl Meter {
    /// A store's part of an account.
    #[must_use]
    pub fn new(account: &Arc<Account>) -> Self {
        account.instances.fetch_add(1, Ordering::Relaxed);
        Self { account: Arc::clone(account), charged: 0, last: 0 }
    }

    /// The account.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        self.account.charge(bytes)?;
        self.charged += bytes;
        self.last = bytes;
        Ok(true)
    }

    fn undo(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.charged -= last;
        self.account.give_back(last);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.account.instances.fetch_sub(1, Ordering::Relaxed);
        self.account.give_back(self.charged);
    }
}

fn difference(current: usize, desired: usize) -> u64 {
    u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX)
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            // Its own limit, which it knows and can live with.
            self.last = 0;
            return Ok(false);
        }
        self.grow(difference(current, desired))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            self.last = 0;
            return Ok(false);
        }
        self.grow(difference(current, desired).saturating_mul(ELEMENT))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

/// The data of a store that is on an account.
pub trait Metered: 'static {
    /// Its part of the account.
    fn meter(&mut self) -> &mut Meter;
}

/// Has a store's growth charged, and no single call of the host copy more than the container may have.
pub fn meter<T: Metered>(store: &mut Store<T>) {
    store.limiter(|state| state.meter());
    if let Some(most) = store.data_mut().meter().account.given() {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        store.set_hostcall_fuel(store.hostcall_fuel().min(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(memory: u64) -> Arc<Account> {
        Account::new(&Limits { memory: Some(memory), ..Limits::default() })
    }

    #[test]
    fn stores_share_one_limit_and_give_back_what_they_had() {
        let account = account(1 << 20);
        let (mut one, mut other) = (Meter::new(&account), Meter::new(&account));
        assert!(one.memory_growing(0, 900 << 10, None).unwrap());
        let refused = other.memory_growing(0, 200 << 10, None).unwrap_err();
        assert!(refused.is::<OutOfMemory>() && refused.to_string().contains("--memory"), "{refused}");
        // 8 bytes an element.
        assert!(other.table_growing(0, 1000, Some(1000)).unwrap());
        assert_eq!((account.memory(), account.instances()), ((900 << 10) + 8000, 2));
        drop(one);
        assert!(other.memory_growing(0, 200 << 10, None).unwrap());
        assert!(account.buffer(900 << 10).is_none());
        drop(account.buffer(64 << 10).unwrap());
        drop(other);
        assert_eq!(account.memory(), 0);
    }

    #[test]
    fn a_growth_that_fails_otherwise_costs_nothing() {
        let account = account(1 << 20);
        let mut meter = Meter::new(&account);
        assert!(!meter.memory_growing(0, 2 << 20, Some(1 << 20)).unwrap());
        meter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert!(meter.memory_growing(0, 100, None).unwrap());
        meter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert_eq!(account.memory(), 0);
    }
}
