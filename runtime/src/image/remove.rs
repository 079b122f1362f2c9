//! Taking names and images away, by the rules of `docker rmi`, and sweeping what no image mentions.

use super::index::{self, Change};
use super::{Image, ImageError, Images, Kept, Reference, Result, cache};
use crate::store::{Scratch, StoreError, files};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// What [`Images::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that were taken away.
    pub untagged: Vec<String>,
    /// The image's id and the chain ids of the layers that went with it; empty if the image stays.
    pub deleted: Vec<String>,
}

/// What [`Images::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names and images that were removed, as [`Images::remove`] says it.
    pub removed: Removed,
    /// The bytes that were freed.
    pub freed: u64,
    /// Whether an image is damaged, so that nobody knows what it needs and nothing was freed.
    pub unknown: bool,
}

impl Images<'_> {
    /// Removes a name or an image. By name: that name, and with the last name the image. By id: the image, if it has
    /// one name at most or `force` is given.
    ///
    /// `in_use` tells the short id of a container that uses the image. Such an image is refused; with `force` it loses
    /// its names and stays, since the container's files are its layers. The index is locked while `in_use` is asked, so it
    /// must not change images itself.
    ///
    /// # Errors
    /// When there is no such image, it is in use, it has several names, or the store cannot be written.
    pub fn remove(&self, wanted: &str, force: bool, in_use: &dyn Fn(&Image) -> Option<String>) -> Result<Removed> {
        let in_use = |image: &Image| match self.is_held(image) {
            true => Some("that starts right now".to_owned()),
            false => in_use(image),
        };
        // Under the lock from here, so that what is decided is what is done.
        let mut change = Change::begin(self.store)?;
        let found = match self.look_up(wanted) {
            // What cannot be read can be removed.
            Err(ImageError::Store(error)) => self.look_up_blank(wanted).map_err(|_| error)?,
            other => other?,
        };
        let image = &found.image;
        let going = if found.by_name.is_empty() { &image.names } else { &found.by_name };
        let mut removed = Removed { untagged: going.iter().map(Reference::familiar).collect(), deleted: Vec::new() };

        if going.len() < image.names.len() {
            return untag(&mut change, going, removed);
        }
        if found.by_name.is_empty() && going.len() > 1 && !force {
            return Err(ImageError::SeveralNames { image: image.short_id().to_owned(), names: removed.untagged });
        }
        if let Some(container) = in_use(image) {
            return match force && !going.is_empty() {
                true => untag(&mut change, going, removed),
                false => Err(ImageError::InUse { image: image.display_name(), container, force }),
            };
        }
        let entries = change.remove(&image.manifest);
        change.save()?;
        // A container may have been made since we looked: either it sees that the image is gone, or we see it now (the
        // other half of this is in `Images::contains`).
        if let Some(container) = in_use(image) {
            change.restore(entries);
            if force && !going.is_empty() {
                return untag(&mut change, going, removed);
            }
            change.save()?;
            return Err(ImageError::InUse { image: image.display_name(), container, force });
        }
        removed.deleted.push(image.id.clone());
        if let Some(swept) = self.sweep(&change, Cached::NotOf(image))? {
            let layers = image.layers.iter().rev().map(|layer| layer.chain_id.clone());
            removed.deleted.extend(layers.filter(|id| !swept.layers.contains(id)));
            // Deleting takes time, and nobody need wait for it.
            drop(change);
            drop(swept);
        }
        Ok(removed)
    }

    /// Removes the images that `goes` picks and that no container uses, and all blobs and unpacked layers that belong to
    /// no image any more. `used` tells the ids of the images that containers are made of; it is asked twice, since a
    /// container may come meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, goes: &dyn Fn(&Image) -> bool, used: &dyn Fn() -> Result<BTreeSet<String>>) -> Result<Pruned> {
        let mut change = Change::begin(self.store)?;
        let before = used()?;
        let going: Vec<Image> =
            self.list()?.into_iter().filter(|image| !before.contains(&image.id) && goes(image)).collect();
        let mut taken: Vec<_> =
            going.iter().map(|image| (image, change.remove_image(&image.id, &image.manifest))).collect();
        if !taken.is_empty() {
            change.save()?;
            let after = used()?;
            let back: Vec<_> = taken.extract_if(.., |(image, _)| after.contains(&image.id)).collect();
            if !back.is_empty() {
                back.into_iter().for_each(|(_, entries)| change.restore(entries));
                change.save()?;
            }
        }
        let mut pruned = Pruned::default();
        let of_taken = |kept: &Kept| {
            let of = |image: &Image| {
                kept.layer.as_ref().is_some_and(|layer| image.layers.iter().any(|own| own.chain_id == layer.chain_id))
            };
            taken.iter().any(|(image, _)| of(image))
        };
        let swept = self.sweep(&change, Cached::If(&|kept, in_image| in_image || !of_taken(kept)))?;
        let kept = swept.as_ref().map(|swept| &swept.layers);
        for (image, _) in &taken {
            pruned.removed.untagged.extend(image.names.iter().map(Reference::familiar));
            pruned.removed.deleted.push(image.id.clone());
            let layers = image.layers.iter().rev().map(|layer| layer.chain_id.clone());
            pruned.removed.deleted.extend(layers.filter(|id| kept.is_some_and(|kept| !kept.contains(id))));
        }
        // Deleting takes time, and nobody need wait for it.
        drop(change);
        pruned.freed = swept.as_ref().map_or(0, |swept| files::tree_size(swept.trash.path()));
        pruned.unknown = swept.is_none();
        Ok(pruned)
    }

    /// Removes an image that has no name, and leaves what the build cache has of it.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn discard(&self, image: &Image) -> Result<()> {
        let mut change = Change::begin(self.store)?;
        if self.look_up(&image.id)?.image.names.is_empty() {
            change.remove(&image.manifest);
            change.save()?;
            let swept = self.sweep(&change, Cached::Limited)?;
            drop(change);
            drop(swept);
        }
        Ok(())
    }

    /// Forgets steps of the build cache and sweeps what they kept: those that `goes` says, given whether an image has the
    /// layer too. Tells which they were, and how many bytes they took that no image needs.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune_cache(&self, goes: &dyn Fn(&Kept, bool) -> bool) -> Result<Vec<(Kept, u64)>> {
        let change = Change::begin(self.store)?;
        let before = cache::all(self.store)?;
        let swept = self.sweep(&change, Cached::If(&|kept, in_image| !goes(kept, in_image)))?;
        drop(change);
        let Some(swept) = swept else { return Ok(Vec::new()) };
        let after: BTreeSet<String> = cache::all(self.store)?.into_iter().map(|kept| kept.key).collect();
        let mut counted = BTreeSet::new();
        let mut freed = |kept: &Kept| {
            let gone = |layer: &&super::Layer| !swept.layers.contains(&layer.chain_id);
            let layer = kept.layer.as_ref().filter(gone)?;
            counted.insert(layer.digest.clone()).then_some(layer.size)
        };
        let gone = before.into_iter().filter(|kept| !after.contains(&kept.key));
        Ok(gone.map(|kept| (freed(&kept).unwrap_or(0), kept)).map(|(freed, kept)| (kept, freed)).collect())
    }

    /// Drops what the build cache has beyond its limits; for the end of a build.
    pub(super) fn limit_cache(&self) -> Result<()> {
        // What images have is not counted then; this only tells whether it is worth a closer look.
        if cache::beyond_limits(&cache::all(self.store)?, &BTreeSet::new(), SystemTime::now()).is_empty() {
            return Ok(());
        }
        let change = Change::begin(self.store)?;
        let swept = self.sweep(&change, Cached::Limited)?;
        drop(change);
        drop(swept);
        Ok(())
    }

    /// The steps that the build cache keeps, when images have the layers `needed`; others are forgotten.
    fn kept(&self, needed: &BTreeSet<String>, cached: Cached<'_>) -> Result<Vec<Kept>> {
        let all = cache::all(self.store)?;
        let in_image = |kept: &Kept| kept.layer.as_ref().is_some_and(|layer| needed.contains(&layer.chain_id));
        let mut gone: BTreeSet<String> =
            cache::beyond_limits(&all, needed, SystemTime::now()).into_iter().map(|kept| kept.key.clone()).collect();
        let asked = all.iter().filter(|kept| match cached {
            Cached::Limited => false,
            Cached::NotOf(image) => {
                let of_image = |layer: &super::Layer| image.layers.iter().any(|own| own.chain_id == layer.chain_id);
                kept.layer.as_ref().is_some_and(of_image) && !in_image(kept)
            }
            Cached::If(stays) => !stays(kept, in_image(kept)),
        });
        gone.extend(asked.map(|kept| kept.key.clone()));
        let (stay, go): (Vec<Kept>, Vec<Kept>) = all.into_iter().partition(|kept| !gone.contains(&kept.key));
        cache::forget(self.store, &go);
        Ok(stay)
    }

    /// Moves away the blobs and unpacked layers that no image mentions. `change` holds the lock: while it lives, nobody
    /// else puts blobs in place. `None` if it cannot be told what is mentioned; then nothing is moved.
    fn sweep(&self, change: &Change, cached: Cached<'_>) -> Result<Option<Swept>> {
        let mut swept = Swept { layers: BTreeSet::new(), trash: self.store.scratch()? };
        let mut blobs = BTreeSet::new();
        let bytes = index::read(self.store)?;
        let entries = index::entries(self.store, &bytes)?;
        let mut ids = BTreeSet::new();
        for digest in change.digests() {
            let Ok(image) = self.load(&digest, &entries) else { return Ok(None) };
            ids.insert(image.id.clone());
            blobs.extend([image.manifest, image.id]);
            for layer in image.layers {
                blobs.insert(layer.digest);
                swept.layers.insert(layer.chain_id);
            }
        }
        for kept in self.kept(&swept.layers, cached)? {
            let Some(layer) = kept.layer else { continue };
            blobs.insert(layer.digest);
            swept.layers.insert(layer.chain_id);
        }
        // Moved, not deleted in place: half a layer would look like a whole one.
        let blobs = ("blob", self.store.content().join("blobs/sha256"), &blobs);
        let layers = ("layer", self.store.layers(), &swept.layers);
        for (kind, dir, kept) in [blobs, layers] {
            for name in names_in(&dir)?.iter().filter(|name| !kept.contains(&format!("sha256:{name}"))) {
                let (from, to) = (dir.join(name), swept.trash.path().join(format!("{kind}-{name}")));
                std::fs::rename(&from, to).map_err(StoreError::io("remove", from))?;
            }
        }
        super::pull::sweep(self.store, super::pull::KEPT);
        cache::forget_images(self.store, |id| ids.contains(id));
        files::sweep_beside(&self.store.content());
        cache::sweep(self.store);
        Ok(Some(swept))
    }
}

/// Which steps of the build cache keep their layers.
#[derive(Clone, Copy)]
pub(super) enum Cached<'a> {
    /// Those within the limits.
    Limited,
    /// The same, but not those whose layers only this image had: who removes an image wants its place.
    NotOf(&'a Image),
    /// Those that this says.
    If(&'a dyn Fn(&Kept, bool) -> bool),
}

/// What a sweep found.
#[derive(Debug)]
struct Swept {
    /// The chain ids of the layers that stay.
    layers: BTreeSet<String>,
    /// What was moved away, deleted when this is dropped.
    trash: Scratch,
}

fn untag(change: &mut Change, names: &[Reference], removed: Removed) -> Result<Removed> {
    for name in names {
        change.unname(&name.to_string());
    }
    change.save()?;
    Ok(removed)
}

fn names_in(dir: &std::path::Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    Ok(read().map_err(StoreError::io("list", dir))?)
}
