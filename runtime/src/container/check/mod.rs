//! Are the containers whole: record, bundle, name and what they have in the run directory; and volumes and networks?
//!
//! What is being made or removed has its lock held, or no record; of such a one nothing is said.

mod places;
mod run;

use super::create::{release_name, take_name};
use super::record::{Container, Ended, MountKind, Record};
use super::{ContainerError, Result, id, networks, remove, volumes};
use crate::check::{Finding, REPAIR, Report, names_in};
use crate::grants::RootGrant;
use crate::image::Images;
use crate::rootfs;
use crate::store::{Durability, Lock, Store, StoreError, files};
use std::path::{Path, PathBuf};

/// Goes through the containers and their names.
///
/// # Errors
/// When the directory of containers cannot be read.
pub(crate) fn check(store: &Store, report: &mut Report) -> Result<()> {
    let dir = store.containers();
    std::fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?;
    for id in names_in(&dir) {
        let place = dir.join(&id);
        if place.join("record.json").exists() {
            report.counts.containers += 1;
            check_one(store, &place, &id, report);
        } else if remove::is_abandoned(&place) {
            let finding = Finding::left("a container", "whoever made or removed it was killed", &place);
            report.mend(finding, || -> Result<bool, std::convert::Infallible> {
                remove::sweep(store, &place);
                Ok(!place.exists())
            });
        }
    }
    check_names(store, report);
    run::check(store, report);
    places::check(store, report);
    Ok(())
}

/// The name of a running container that has this layer below it.
pub(crate) fn user_of_layer(store: &Store, layer: &Path) -> Option<String> {
    let uses = |container: &Container| {
        Lock::is_held(&container.dir.join("lock")) && layers(container).is_ok_and(|all| all.iter().any(|l| l == layer))
    };
    super::list(store).ok()?.into_iter().find(uses).map(|container| container.record.name)
}

/// The layers below a container.
fn layers(container: &Container) -> Result<Vec<PathBuf>> {
    Ok(match container.grants()?.root {
        RootGrant::Layers(layers) => layers,
        RootGrant::Ready(_) => vec![],
    })
}

type Mend<'a> = Box<dyn FnOnce() -> Result<bool> + 'a>;

fn check_one(store: &Store, dir: &Path, id: &str, report: &mut Report) {
    // It is being removed if its record is gone afterwards: then what was seen says nothing.
    let still_there = || dir.join("record.json").exists();
    let record: Record = match files::read_json(&dir.join("record.json")) {
        Ok(record) => record,
        Err(error) => {
            if still_there() {
                let object = format!("container {}", id::short(id));
                let advice = "nothing can be made of it: remove its directory, when what is in upper/ is saved";
                report.note(Finding::wrong(object, error, dir, advice));
            }
            return;
        }
    };
    let object = format!("container {}", record.name);
    let container = Container { dir: dir.to_owned(), record };
    // One that was killed with its keeper is written down as ended now, as by every other look.
    let _ = container.status(store);
    let mut found: Vec<(Finding, Option<Mend<'_>>)> = Vec::new();
    let record = &container.record;
    if record.id != id {
        let problem = format!("its record is that of {}", id::short(&record.id));
        found.push((Finding::wrong(&object, problem, dir, "bring back its own from a copy of the store"), None));
    }
    check_bundle(store, &container, &object, &mut found);
    check_end(&container, &object, &mut found);
    check_name(store, &container, &object, &mut found);
    check_mounts(store, &container, &object, &mut found);
    if !still_there() {
        return;
    }
    for (finding, mend) in found {
        match mend {
            Some(mend) => report.mend(finding, mend),
            None => report.note(finding),
        }
    }
}

type Found<'a> = Vec<(Finding, Option<Mend<'a>>)>;

fn check_bundle<'a>(store: &'a Store, container: &'a Container, object: &str, found: &mut Found<'a>) {
    let dir = &container.dir;
    let again = format!("make it anew: sampan rm {}, then create it again", container.record.name);
    match layers(container) {
        Err(error) => found.push((Finding::wrong(object, error, &dir.join("config.json"), &again), None)),
        Ok(layers) => {
            for layer in layers.into_iter().filter(|layer| !layer.is_dir()) {
                let finding = Finding::wrong(object, "an unpacked layer of its image is lost", &layer, REPAIR);
                let mend = move || {
                    let images = Images::new(store);
                    let image = images.find(&container.record.image_id)?;
                    images.layer_dirs(&image)?;
                    match layer.is_dir() {
                        true => Ok(true),
                        false => Err(StoreError::io("unpack", &layer)(std::io::ErrorKind::NotFound.into()).into()),
                    }
                };
                found.push((finding, Some(Box::new(mend))));
            }
        }
    }
    if !rootfs::upper(dir).is_dir() {
        let finding = Finding::wrong(object, "what it has written is lost", &rootfs::upper(dir), &again);
        found.push((finding, None));
    } else if !dir.join("work").is_dir() {
        let finding =
            Finding::wrong(object, "the work directory of its writable layer is lost", &dir.join("work"), REPAIR);
        found.push((finding, Some(Box::new(move || Ok(rootfs::make_writable_layer(dir).map(|()| true)?)))));
    }
}

/// The record of its end.
fn check_end<'a>(container: &'a Container, object: &str, found: &mut Found<'a>) {
    let path = container.dir.join("ended.json");
    let error = match files::read_json::<Ended>(&path) {
        Err(e) if !e.is_not_found() => e,
        _ => return,
    };
    let problem = format!("how it ended is not known: {error}");
    // The name of a file that was not flushed can outlive a power cut, and its content not.
    let finding = match path.metadata().is_ok_and(|meta| meta.len() == 0) {
        true => Finding::left(object, problem, &path),
        false => Finding::wrong(object, problem, &path, REPAIR),
    };
    let mend = move || {
        let ended = Ended::unknown("the record of its end was damaged");
        // Not while it runs: its keeper writes the next one.
        let Some(_lock) = Lock::try_take(&container.dir.join("lock"))? else { return Ok(false) };
        files::write_json(&container.dir.join("ended.json"), &ended, Durability::Flushed)?;
        Ok(true)
    };
    found.push((finding, Some(Box::new(mend))));
}

/// The link from its name to it.
fn check_name<'a>(store: &'a Store, container: &'a Container, object: &str, found: &mut Found<'a>) {
    let Record { id, name, .. } = &container.record;
    let link = store.names().join(name);
    let leads = std::fs::read_link(&link).map(|to| to.to_string_lossy().into_owned());
    match leads {
        Ok(to) if to == *id => {}
        Ok(to) if store.containers().join(&to).join("record.json").exists() => {
            let problem = format!("its name leads to the container {}", id::short(&to));
            found.push((Finding::wrong(object, problem, &link, "remove one of the two by its id"), None));
        }
        _ => {
            let finding = Finding::wrong(object, "its name does not lead to it", &link, REPAIR);
            found.push((finding, Some(Box::new(move || take_name(store, name, id).map(|()| true)))));
        }
    }
}

/// Its volumes, and its address in its network.
fn check_mounts<'a>(store: &'a Store, container: &'a Container, object: &str, found: &mut Found<'a>) {
    let record = &container.record;
    for mount in record.mounts.iter().filter(|mount| mount.kind != MountKind::Bind) {
        if volumes::inspect(store, &mount.name).is_err() {
            let problem = format!("its volume {} is lost", mount.name);
            let advice = format!("bring it back from a copy, or an empty one: sampan volume create {}", mount.name);
            found.push((Finding::wrong(object, problem, &mount.source, advice), None));
        }
    }
    let Some(joined) = &record.joined else { return };
    let place = store.networks().join(&joined.network);
    if !place.join("network.json").exists() {
        let problem = format!("its network {} is lost", joined.network);
        let advice = format!("sampan network create --subnet {} {}", joined.address, joined.network);
        return found.push((Finding::wrong(object, problem, &place, advice), None));
    }
    let link = place.join("addresses").join(joined.address.ip.to_string());
    match std::fs::read_link(&link) {
        Ok(to) if to.as_os_str() == record.id.as_str() => {}
        _ => {
            let finding = Finding::wrong(object, "its address in its network is not kept for it", &link, REPAIR);
            let mend = move || {
                let network = networks::inspect(store, &joined.network)?;
                networks::take_address(store, &network, &record.id, Some(joined.address.ip))?;
                Ok(true)
            };
            found.push((finding, Some(Box::new(mend))));
        }
    }
}

/// Names that lead to no container of theirs.
fn check_names(store: &Store, report: &mut Report) {
    for name in names_in(&store.names()) {
        if let Some(problem) = wrong_name(store, &name) {
            let link = store.names().join(&name);
            let finding = match problem {
                NameProblem::Dangling => Finding::left(format!("the name {name}"), "its container is gone", &link),
                NameProblem::Foreign(owner) => {
                    let problem = format!("it leads to a container that is called {owner}");
                    Finding::wrong(format!("the name {name}"), problem, &link, REPAIR)
                }
            };
            report.mend(finding, || -> Result<bool, ContainerError> {
                // As who takes a name does it: one at a time may find that it is free.
                let _lock = Lock::wait(&store.root().join("names.lock"))?;
                let leads = std::fs::read_link(&link).map_err(StoreError::io("read", &link))?;
                if wrong_name(store, &name).is_none() {
                    return Ok(false);
                }
                release_name(store, &name, &leads.to_string_lossy());
                Ok(true)
            });
        }
    }
}

enum NameProblem {
    Dangling,
    Foreign(String),
}

fn wrong_name(store: &Store, name: &str) -> Option<NameProblem> {
    let id = std::fs::read_link(store.names().join(name)).ok()?;
    let dir = store.containers().join(id);
    // Its container is being made or removed, or runs.
    if Lock::is_held(&dir.join("lock")) {
        return None;
    }
    match files::read_json::<Record>(&dir.join("record.json")) {
        Ok(record) if record.name == name => None,
        Ok(record) => Some(NameProblem::Foreign(record.name)),
        Err(e) if e.is_not_found() => {
            // It may have been made and locked since, or taken away and the name given to another.
            let still = std::fs::read_link(store.names().join(name)).is_ok_and(|to| store.containers().join(to) == dir);
            (still && !Lock::is_held(&dir.join("lock")) && !dir.join("record.json").exists())
                .then_some(NameProblem::Dangling)
        }
        // That is told of the container.
        Err(_) => None,
    }
}
