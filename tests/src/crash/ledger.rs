//! What was acknowledged, held against what the store says.

use super::{Chance, Wish};
use crate::{OrFail, Store, fail};
use std::collections::BTreeMap;

/// What there is, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Names and ids.
    images: BTreeMap<String, String>,
    containers: BTreeMap<String, Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    id: String,
    /// Whether it runs; nothing where the command that was to start or stop it was killed, and its keeper goes on.
    runs: Option<bool>,
    /// Files that were copied into it.
    files: BTreeMap<String, String>,
}

impl Ledger {
    /// What the store says.
    #[track_caller]
    pub fn look(store: &Store) -> Self {
        let mut ledger = Self::default();
        let images = store.sampan("images --no-trunc --format").arg("{{.Repository}}:{{.Tag}} {{.ID}}").ok();
        for line in images.lines() {
            let (name, id) = line.split_once(' ').or_fail("an image has a name and an id");
            if !name.starts_with('<') {
                ledger.images.insert(name.to_owned(), id.trim_start_matches("sha256:").to_owned());
            }
        }
        let containers = store.sampan("ps -a --no-trunc --format").arg("{{.Names}} {{.ID}} {{.State}}").ok();
        for line in containers.lines() {
            let mut parts = line.split(' ').map(str::to_owned);
            let mut part = || parts.next().or_fail(format_args!("{line:?} has three parts"));
            let (name, id, state) = (part(), part(), part());
            ledger.containers.insert(name, Known { id, runs: Some(state == "running"), files: BTreeMap::new() });
        }
        ledger
    }

    /// The names of images.
    pub fn images(&self) -> impl Iterator<Item = String> {
        self.images.keys().cloned()
    }

    /// The names of containers.
    pub fn containers(&self) -> impl Iterator<Item = String> {
        self.containers.keys().cloned()
    }

    /// Whether there is a container of this name.
    pub fn has_container(&self, name: &str) -> bool {
        self.containers.contains_key(name)
    }

    /// A container; with `runs` one that does or does not.
    pub fn a_container(&self, chance: &mut Chance, runs: Option<bool>) -> Option<String> {
        let fits = |known: &Known| runs.is_none() || known.runs == runs;
        let all: Vec<&String> = self.containers.iter().filter(|(_, known)| fits(known)).map(|(name, _)| name).collect();
        chance.one(&all).map(|name| (*name).clone())
    }

    /// Every sandbox was killed.
    pub fn all_killed(&mut self) {
        self.containers.values_mut().for_each(|known| known.runs = Some(false));
    }

    /// The machine went down: what had been written into containers was never promised to outlive that, nor removals of
    /// containers.
    pub fn forget_runs(&mut self, now: &Self) {
        for (name, known) in &mut self.containers {
            known.files.clear();
            known.runs = now.containers.get(name).and_then(|there| there.runs);
        }
        for (name, there) in &now.containers {
            self.containers.entry(name.clone()).or_insert_with(|| there.clone());
        }
    }

    /// A command has told that it is so.
    #[track_caller]
    pub fn acknowledge(&mut self, wish: &Wish, line: &str, ids: &BTreeMap<String, String>) {
        match wish {
            Wish::Image(name) => {
                let id = ids.get(name).map_or_else(|| Wish::id(line), |id| Wish::id(id));
                self.images.insert(name.clone(), id);
            }
            Wish::NoImage(name) => drop(self.images.remove(name)),
            Wish::Container(name, runs) => match self.containers.get_mut(name) {
                Some(known) => known.runs = Some(*runs),
                None => {
                    let known = Known { id: Wish::id(line), runs: Some(*runs), files: BTreeMap::new() };
                    self.containers.insert(name.clone(), known);
                }
            },
            Wish::NoContainer(name) => drop(self.containers.remove(name)),
            Wish::File(name, path, content) => {
                if let Some(known) = self.containers.get_mut(name) {
                    known.files.insert(path.clone(), content.clone());
                }
            }
        }
    }

    /// A command was struck before it had told anything: it is so or not.
    #[track_caller]
    pub fn adopt(&mut self, wish: &Wish, now: &Self) {
        match wish {
            Wish::Image(name) | Wish::NoImage(name) => match now.images.get(name) {
                Some(id) => drop(self.images.insert(name.clone(), id.clone())),
                None => drop(self.images.remove(name)),
            },
            Wish::Container(name, _) => match (now.containers.get(name), self.containers.get_mut(name)) {
                // It was there before, so it must be: only what it does is not known.
                (_, Some(known)) => known.runs = None,
                (Some(there), None) => {
                    self.containers.insert(name.clone(), Known { runs: None, ..there.clone() });
                }
                (None, None) => {}
            },
            Wish::NoContainer(name) => match now.containers.contains_key(name) {
                // Its end was asked for, and may come yet.
                true => self.containers.get_mut(name).into_iter().for_each(|known| known.runs = None),
                false => drop(self.containers.remove(name)),
            },
            Wish::File(name, path, _) => {
                if let Some(known) = self.containers.get_mut(name) {
                    known.files.remove(path);
                }
            }
        }
    }

    /// Fails the test unless the store says the same.
    #[track_caller]
    pub fn must_be(&self, now: &Self, store: &Store, told: &str) {
        if self.images != now.images {
            fail(format_args!("{told}\nwanted the images {:#?}\nfound {:#?}", self.images, now.images));
        }
        let ids = |ledger: &Self| -> BTreeMap<String, String> {
            ledger.containers.iter().map(|(name, known)| (name.clone(), known.id.clone())).collect()
        };
        if ids(self) != ids(now) {
            fail(format_args!("{told}\nwanted the containers {:#?}\nfound {:#?}", ids(self), ids(now)));
        }
        for (name, known) in &self.containers {
            let there = now.containers.get(name).and_then(|there| there.runs);
            if known.runs.is_some() && known.runs != there {
                fail(format_args!("{told}\n{name}: wanted running to be {:?}, found {there:?}", known.runs));
            }
            for (path, content) in &known.files {
                let file = store.root().join("containers").join(&known.id).join("upper").join(path);
                let found = std::fs::read_to_string(&file).unwrap_or_default();
                if found != *content {
                    fail(format_args!("{told}\n{name} has not the /{path} that was copied into it"));
                }
            }
        }
    }
}
