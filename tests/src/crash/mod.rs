//! Commands that are struck down at random moments, round after round: what they had acknowledged is there afterwards,
//! what they had not is whole or gone, and `system check` finds nothing wrong.
//!
//! ```text
//! deed    what can be done to a store, and what follows from it
//! ledger  what was acknowledged, held against what the store says
//! disk    a file system of its own, for power cuts
//! ```
//!
//! The seed is printed; `SAMPAN_SEED` sets it, so that a failure can be had again (as far as moments can), and
//! `SAMPAN_ROUNDS` the number of rounds.

mod deed;
pub mod disk;
mod ledger;

use crate::registry::Registry;
use crate::{Dir, Output, Store, eventually};
use deed::{Deed, Wish};
use disk::Disk;
use ledger::Ledger;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// When the last leftover must be gone: what is half made is left alone for ten seconds.
const SWEPT: Duration = Duration::from_secs(20);

/// Numbers that look like chance, the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// With the seed of the environment, or another one each time; it is printed.
    #[must_use]
    pub fn of_environment() -> Self {
        let given = std::env::var("SAMPAN_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
        let seed = given.unwrap_or_else(|| u64::try_from(now % 1_000_000_007).unwrap_or(1));
        eprintln!("SAMPAN_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

/// How many rounds: what the environment says, or else so many.
#[must_use]
pub fn rounds(usual: u32) -> u32 {
    std::env::var("SAMPAN_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A store that is struck again and again.
#[derive(Debug)]
pub struct Rounds {
    store: Store,
    /// The file system that it is on, if the power is to be cut.
    disk: Option<Disk>,
    registry: Registry,
    dir: Dir,
    chance: Chance,
    ledger: Ledger,
    /// How long each kind of deed takes, from the first of its kind, which nothing befalls.
    times: BTreeMap<&'static str, Duration>,
    /// The ids of the images that can be had by name: from the registry and from an archive.
    known: BTreeMap<String, String>,
    struck: u32,
    acknowledged: u32,
}

impl Rounds {
    /// A fresh store, with a registry and an archive to take images from. With a disk the store is on it, and the power
    /// is cut instead of processes being killed.
    #[track_caller]
    #[must_use]
    pub fn prepare(disk: Option<Disk>) -> Self {
        let store = match &disk {
            None => Store::fresh(&["hello", "probe"]),
            Some(disk) => Store::at(disk.path(), &["hello", "probe"]),
        };
        let (registry, dir) = (Registry::start(), Dir::new());
        let mut known = BTreeMap::new();
        let noise: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for n in 0..2 {
            let context = Dir::context(&format!("FROM probe\nLABEL pulled={n}\nCOPY big /big\n"));
            let context = context.file("big", noise.get(n..).unwrap_or_default());
            let name = registry.name(&format!("pulled{n}"));
            known.insert(format!("{name}:latest"), store.build_from(&name, &context));
            store.sampan(format!("push {name}")).ok();
            store.sampan(format!("rmi {name}")).ok();
        }
        let context = Dir::context("FROM hello\nCOPY big /big\n").file("big", &noise);
        known.insert("loaded:latest".into(), store.build_from("loaded", &context));
        store.sampan(format!("save -o '{dir}/loaded.tar' loaded")).ok();
        store.sampan("rmi loaded").ok();
        store.sampan("run --rm hello").ok();
        let ledger = Ledger::look(&store);
        let (chance, times) = (Chance::of_environment(), BTreeMap::new());
        Self { store, disk, registry, dir, chance, ledger, times, known, struck: 0, acknowledged: 0 }
    }

    /// So many rounds, and then all that must hold at the end.
    #[track_caller]
    pub fn run(mut self, rounds: u32) {
        let before = swept_tree(&self.store);
        for round in 0..rounds {
            let deed = Deed::pick(&mut self.chance, &self.ledger, &self.registry, &self.dir);
            let told = format!("round {round}: {}", deed.line);
            self.round(deed, &told);
        }
        eprintln!("{rounds} rounds: {} acknowledged, {} struck", self.acknowledged, self.struck);
        self.finish(&before);
    }

    #[track_caller]
    fn round(&mut self, deed: Deed, told: &str) {
        if self.chance.below(12) == 0 {
            // Compiled anew, so that it can be struck at that too.
            let _ = std::fs::remove_dir_all(self.store.root().join("code"));
        }
        let begun = Instant::now();
        let mut started = self.store.sampan(&deed.line).in_a_group().start();
        let Some(whole) = self.times.get(deed.kind).copied() else {
            let output = started.finish();
            self.times.insert(deed.kind, begun.elapsed() * 6 / 5);
            return self.settle(deed, Some(output.ok()), false, told);
        };
        let part = u32::try_from(self.chance.below(1000)).unwrap_or(0);
        let moment = begun + whole * part / 1000;
        // The moment is what is tested: there is nothing to watch for.
        while Instant::now() < moment {
            std::thread::sleep(Duration::from_micros(100));
        }
        let over = !started.is_running();
        let all = self.disk.is_some() || self.chance.below(4) == 0;
        if let Some(disk) = &self.disk {
            disk.cut();
        }
        started.signal_group(Signal::KILL);
        if all {
            self.kill_all();
        }
        let output = started.finish();
        if self.disk.is_some() {
            self.start_again();
        }
        // On a disk without power all kinds of things succeed that are none.
        let acknowledged = output.code == 0 && (over || self.disk.is_none());
        self.settle(deed, acknowledged.then_some(output), all, told);
    }

    /// Kills everything that works on the store.
    #[track_caller]
    fn kill_all(&self) {
        eventually("all processes are gone", || {
            let all = self.store.processes();
            all.iter().for_each(|pid| crate::command::kill(*pid, Signal::KILL));
            all.is_empty()
        });
    }

    /// The machine comes up again: nothing of what ran is known to it.
    #[track_caller]
    fn start_again(&mut self) {
        let _ = std::fs::remove_dir_all(self.store.run_dir());
        if let Some(disk) = &mut self.disk {
            disk.start_again();
        }
    }

    /// What must hold after each round.
    #[track_caller]
    fn settle(&mut self, deed: Deed, output: Option<Output>, all_killed: bool, told: &str) {
        let line = output.as_ref().map(Output::line);
        self.acknowledged += u32::from(line.is_some());
        self.struck += u32::from(line.is_none());
        let durable = self.disk.is_none();
        self.store.sampan("system check -q").run().or_told(told);
        let now = Ledger::look(&self.store);
        match line {
            Some(line) => self.ledger.acknowledge(&deed.wish, &line, &self.known),
            None => self.ledger.adopt(&deed.wish, &now),
        }
        if all_killed {
            self.ledger.all_killed();
        }
        if !durable {
            self.ledger.forget_runs(&now);
        }
        self.ledger.must_be(&now, &self.store, told);
    }

    /// When all rounds are over: everything that is there works, and when it is removed nothing is left.
    #[track_caller]
    fn finish(self, before: &BTreeSet<String>) {
        let Self { store, ledger, .. } = &self;
        for image in ledger.images() {
            store.sampan(format!("run --rm {image} args whole")).ok();
        }
        for container in ledger.containers() {
            store.sampan(format!("rm -f -v {container}")).ok();
        }
        for image in ledger.images().filter(|name| !matches!(name.as_str(), "hello:latest" | "probe:latest")) {
            store.sampan(format!("rmi -f {image}")).ok();
        }
        for image in store.sampan("images -q --no-trunc --filter dangling=true").ok().lines() {
            store.sampan(format!("rmi -f {image}")).ok();
        }
        store.sampan("volume prune -a -f").ok();
        store.sampan("builder prune -a -f").ok();
        let begun = Instant::now();
        eventually("nothing is left", || {
            store.sampan("system check --repair -q").ok();
            left(store, before).is_empty() && store.processes().is_empty() || begun.elapsed() > SWEPT
        });
        assert_eq!(left(store, before), Vec::<String>::new());
        store.sampan("system check").ok().stdout_has(": nothing is wrong");
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        // A store on a disk of its own is not swept by itself.
        for pid in self.store.processes() {
            crate::command::kill(pid, Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(self.store.run_dir());
    }
}

/// What there is when all that was left is swept.
fn swept_tree(store: &Store) -> BTreeSet<String> {
    store.sampan("builder prune -a -f").ok();
    store.sampan("system check --repair -q").ok();
    store.tree()
}

/// What there is that was not there before, or the other way round. What builds and pulls remember may come and go.
fn left(store: &Store, before: &BTreeSet<String>) -> Vec<String> {
    let now = store.tree();
    let remembered = |path: &&String| path.starts_with("cache/") || path.starts_with("downloads/");
    now.symmetric_difference(before).filter(|path| !remembered(path)).cloned().collect()
}

trait OrTold {
    fn or_told(self, told: &str) -> Output;
}

impl OrTold for Output {
    #[track_caller]
    fn or_told(self, told: &str) -> Output {
        if self.code != 0 {
            crate::fail(format_args!("{told}\n{self}"));
        }
        self
    }
}

impl Wish {
    /// The id that a command has printed.
    fn id(line: &str) -> String {
        line.lines().last().unwrap_or_default().trim_start_matches("sha256:").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |seed| {
            let mut chance = Chance(seed);
            (0..100).map(|_| chance.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        let all: BTreeSet<usize> = numbers(7).into_iter().collect();
        assert_eq!(all.len(), 10);
        assert_eq!(Chance(1).one::<u8>(&[]), None);
    }
}
