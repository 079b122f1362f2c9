//! The images of a store: list, find, name, put in place.

use super::aliases::{Alias, Aliases};
use super::formats::{self, Shape};
use super::index::{self, Change, Entry};
use super::{Image, ImageConfiguration, ImageError, Layer, Reference, Result, blobs, unpack};
use crate::digest;
use crate::store::{Lock, Scratch, Store, StoreError, files};
use std::path::PathBuf;

/// The images of a store.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    pub(super) store: &'a Store,
}

/// Where an image is.
#[derive(Debug)]
pub enum Resolved {
    /// In the store.
    Here {
        /// The image.
        image: Box<Image>,
        /// What to tell the user, who named another one.
        warning: Option<String>,
    },
    /// At a registry.
    Elsewhere {
        /// What to pull.
        reference: Reference,
        /// What to tell the user, who named another one.
        warning: Option<String>,
    },
}

/// An image, and how it was asked for.
#[derive(Debug)]
pub(super) struct Found {
    pub image: Image,
    /// The names that were meant; none if it was asked for by its id.
    pub by_name: Vec<Reference>,
}

/// One of several images that were made in one scratch directory.
#[derive(Debug)]
pub(super) struct New {
    /// The manifest's blob.
    pub manifest: (String, u64),
    /// The image's id.
    pub id: String,
    /// What the image is to be called.
    pub names: Vec<Reference>,
}

/// An image that was made in a scratch directory and is ready to be put in place.
#[derive(Debug)]
pub(super) struct Finished<'s> {
    /// Where it was made.
    pub scratch: &'s Scratch,
    /// Blobs: their digests and where in the scratch directory they are, flushed.
    pub blobs: Vec<(String, PathBuf)>,
    /// Unpacked layers: their chain ids and where in the scratch directory they are.
    pub unpacked: Vec<(String, PathBuf)>,
    /// The manifest's blob.
    pub manifest: (String, u64),
    /// The image's id.
    pub id: String,
    /// What the image is to be called.
    pub names: Vec<Reference>,
    /// The image whose layers lie below.
    pub base: Option<Image>,
    /// All its layers: those that are not among the blobs must be in the store.
    pub needs: Vec<Layer>,
}

impl<'a> Images<'a> {
    /// The images of this store.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Every image, the newest first; an image with several names is listed once, one without a name too. Of one that
    /// cannot be read only its id and its names are known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>> {
        // One that was removed while we looked is not in the index when we look again.
        let whole = again_if_removed(self.store, || self.list_all(|_, error| Err(error)));
        whole.or_else(|_| self.list_all(|blank, _| Ok(blank)))
    }

    fn list_all(&self, unreadable: impl Fn(Image, ImageError) -> Result<Image>) -> Result<Vec<Image>> {
        let bytes = index::read(self.store)?;
        let entries = index::entries(self.store, &bytes)?;
        let mut images: Vec<Image> = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            if entries.iter().take(i).any(|e| e.digest == entry.digest) {
                continue;
            }
            let image = self.load(entry.digest, &entries).or_else(|error| unreadable(blank(entry, &entries), error))?;
            match images.iter_mut().find(|known| known.id == image.id) {
                // The same image, packed in another way.
                Some(known) => known.names.extend(image.names),
                None => images.push(image),
            }
        }
        images.sort_by(|a, b| b.created().cmp(&a.created()).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image of this name or id, of which no more than that need be readable.
    pub(super) fn look_up_blank(&self, wanted: &str) -> Result<Found> {
        let bytes = index::read(self.store)?;
        let entries = index::entries(self.store, &bytes)?;
        let fits = wanted.parse::<Reference>().map(|reference| by_name(&entries, &reference)).unwrap_or_default();
        if let Some(entry) = fits.first() {
            let by_name = fits.iter().filter_map(|e| e.name()?.parse().ok()).collect();
            return Ok(Found { image: blank(entry, &entries), by_name });
        }
        let digest = self.by_id(&entries, wanted)?;
        let entry = entries.iter().find(|entry| entry.digest == digest);
        let not_found = || ImageError::NotFound { name: wanted.to_owned() };
        Ok(Found { image: blank(entry.ok_or_else(not_found)?, &entries), by_name: Vec::new() })
    }

    /// The image of this name (`web`, `web:1`, `web@sha256:…`), or whose id is or begins so. A name wins over an id.
    ///
    /// # Errors
    /// When there is none, or several fit, or the store cannot be read.
    pub fn find(&self, wanted: &str) -> Result<Image> {
        Ok(self.look_up(wanted)?.image)
    }

    /// The image of this name or id; if it is not here, what the [aliases](super::aliases) make of the name: the image that they mean, or
    /// the name to pull. With `anew` only an id is looked for here, and names are to be pulled.
    ///
    /// # Errors
    /// As [`Images::find`], and when the aliases say that there can be no such image.
    pub fn resolve(&self, wanted: &str, anew: bool) -> Result<Resolved> {
        let reference = wanted.parse::<Reference>();
        let missing = match (self.find(wanted), &reference) {
            (Ok(image), Ok(reference)) if anew && by_name_at_all(&image, reference) => None,
            (Ok(image), _) => return Ok(Resolved::Here { image: Box::new(image), warning: None }),
            (Err(error @ ImageError::NotFound { .. }), _) => Some(error),
            (Err(error), _) => return Err(error),
        };
        let reference = match (reference, missing) {
            (Ok(reference), _) => reference,
            (Err(_), Some(error)) => return Err(error),
            (Err(error), None) => return Err(error.into()),
        };
        let aliases = Aliases::load()?;
        let (asked, (reference, warning)) = (
            reference.familiar(),
            match aliases.find(&reference) {
                None => (reference, None),
                Some(Alias::Refused(advice)) => {
                    return Err(ImageError::NotForUs { name: reference.familiar(), advice });
                }
                Some(Alias::Means { reference: meant, note }) => {
                    let note = if note.is_empty() { note } else { format!(" ({note})") };
                    let warning = format!("{} is {} here{note}", reference.familiar(), meant.familiar());
                    (meant, Some(warning))
                }
            },
        );
        if warning.is_some() && !anew {
            match self.find(&reference.to_string()) {
                Ok(image) => return Ok(Resolved::Here { image: Box::new(image), warning }),
                Err(ImageError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // What a name means may itself be nothing that a registry has.
        if warning.is_some()
            && let Some(Alias::Refused(advice)) = aliases.find(&reference)
        {
            return Err(ImageError::NotForUs { name: asked, advice });
        }
        Ok(Resolved::Elsewhere { reference, warning })
    }

    /// Whether the image is (still) in the store, by whatever name.
    ///
    /// A container is made in this order: write its record, then ask this. [`Images::remove`] takes the image out of
    /// the index and then looks for containers once more, so that one of the two sees the other.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn contains(&self, image: &Image) -> Result<bool> {
        let bytes = index::read(self.store)?;
        let is_it = |entry: &Entry<'_>| entry.digest == image.manifest || entry.id() == Some(image.id.as_str());
        Ok(index::entries(self.store, &bytes)?.iter().any(is_it))
    }

    /// Keeps the image from being removed as long as the lock lives, for a container that has no record yet to do so.
    /// As with a record, ask [`Images::contains`] after it.
    ///
    /// # Errors
    /// When the image is gone, or is being removed right now.
    pub fn hold(&self, image: &Image) -> Result<Lock> {
        match Lock::share(&blobs::path(self.store, &image.id)?) {
            Ok(Some(lock)) => Ok(lock),
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Err(ImageError::NotFound { name: image.display_name() }),
        }
    }

    /// Whether somebody holds the image.
    pub(super) fn is_held(&self, image: &Image) -> bool {
        blobs::path(self.store, &image.id).is_ok_and(|path| Lock::is_held(&path))
    }

    /// Gives the image this name. An image that had it before loses it, in the same step.
    ///
    /// # Errors
    /// When the image is no longer in the store, the name holds a digest, or the store cannot be written.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<()> {
        let name = as_name(name)?;
        let mut change = Change::begin(self.store)?;
        if !change.has(&image.manifest) {
            return Err(ImageError::NotFound { name: image.display_name() });
        }
        change.name(&image.manifest, &name);
        change.save()
    }

    /// Takes the name away, whichever image has it. The image stays, without a name if this was its last.
    ///
    /// # Errors
    /// When the name holds a digest, or the store cannot be written.
    pub fn untag(&self, name: &Reference) -> Result<()> {
        let name = as_name(name)?;
        let mut change = Change::begin(self.store)?;
        change.unname(&name);
        change.save()
    }

    /// The directories that hold the image's layers, topmost first, as overlayfs wants them. Layers that are not
    /// unpacked yet are; when all are, this costs one look at each.
    ///
    /// # Errors
    /// When a layer is missing, is not what the image says, or cannot be unpacked.
    pub fn layer_dirs(&self, image: &Image) -> Result<Vec<PathBuf>> {
        unpack::layer_dirs(self.store, &image.layers)
    }

    /// Puts a finished image in place: its blobs, then its name, then its unpacked layers. Until the index is replaced
    /// nothing has happened that anybody can see.
    pub(super) fn publish(&self, new: Finished<'_>) -> Result<Image> {
        let made = New { manifest: new.manifest, id: new.id, names: new.names };
        let needs = (new.base.as_ref(), new.needs.as_slice());
        let mut images = self.publish_all(new.scratch, &new.blobs, &new.unpacked, &[made], needs)?;
        images.pop().ok_or_else(|| ImageError::NotFound { name: String::new() })
    }

    /// The same for several images that share what they are made of: all of them are there at once, or none. What they need
    /// besides, an image below and layers, must be there.
    pub(super) fn publish_all(
        &self,
        scratch: &Scratch,
        blobs: &[(String, PathBuf)],
        unpacked: &[(String, PathBuf)],
        images: &[New],
        (base, needs): (Option<&Image>, &[Layer]),
    ) -> Result<Vec<Image>> {
        unpack::flush(scratch.path())?;
        let mut change = Change::begin(self.store)?;
        if let Some(base) = base.filter(|base| !change.has(&base.manifest)) {
            return Err(ImageError::BaseRemoved { base: base.display_name() });
        }
        for layer in needs {
            let is_new = blobs.iter().any(|(digest, _)| *digest == layer.digest);
            if !is_new && !blobs::path(self.store, &layer.digest)?.exists() {
                return Err(ImageError::LayerRemoved { digest: layer.digest.clone() });
            }
        }
        for (digest, made) in blobs {
            let place = blobs::path(self.store, digest)?;
            std::fs::rename(made, &place).map_err(StoreError::io("write", place))?;
        }
        let dir = self.store.content().join("blobs/sha256");
        std::fs::File::open(&dir).and_then(|d| d.sync_all()).map_err(StoreError::io("flush", dir))?;

        for New { manifest: (manifest, size), id, names } in images {
            let media_type = self.manifest(manifest)?.media_type;
            change.add(manifest, media_type.as_deref(), *size, id);
            for name in names {
                change.name(manifest, &name.to_string());
            }
        }
        change.save()?;
        // Only now, since a layer's directory that belongs to no image would be swept.
        for (chain_id, made) in unpacked {
            unpack::put_in_place(self.store, chain_id, made)?;
        }
        // Still under the lock, so that nobody can have removed it again.
        let bytes = index::read(self.store)?;
        let entries = index::entries(self.store, &bytes)?;
        images.iter().map(|image| self.load(&image.manifest.0, &entries)).collect()
    }

    /// The image of this manifest, if it is there and has all these names already.
    pub(super) fn is_there(&self, manifest: &str, names: &[Reference]) -> Result<Option<Image>> {
        let bytes = index::read(self.store)?;
        let entries = index::entries(self.store, &bytes)?;
        let mut its = entries.iter().filter(|entry| entry.digest == manifest).peekable();
        if its.peek().is_none() {
            return Ok(None);
        }
        let known: Vec<&str> = its.filter_map(Entry::name).collect();
        for name in names {
            if !known.contains(&as_name(name)?.as_str()) {
                return Ok(None);
            }
        }
        self.load(manifest, &entries).map(Some)
    }

    pub(super) fn look_up(&self, wanted: &str) -> Result<Found> {
        again_if_removed(self.store, || {
            let bytes = index::read(self.store)?;
            let entries = index::entries(self.store, &bytes)?;
            if let Ok(reference) = wanted.parse::<Reference>() {
                let fits = by_name(&entries, &reference);
                if let Some(entry) = fits.first() {
                    let by_name = fits.iter().filter_map(|e| e.name()?.parse().ok()).collect();
                    return Ok(Found { image: self.load(entry.digest, &entries)?, by_name });
                }
            }
            let digest = self.by_id(&entries, wanted)?;
            Ok(Found { image: self.load(digest, &entries)?, by_name: Vec::new() })
        })
    }

    /// The manifest of the one image whose id begins so.
    fn by_id<'e>(&self, entries: &[Entry<'e>], wanted: &str) -> Result<&'e str> {
        let prefix = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if !digest::is_hex(prefix, 1..=64) {
            // Of what can be no id, say why it is no name either.
            wanted.parse::<Reference>()?;
            return Err(ImageError::NotFound { name: wanted.to_owned() });
        }
        let mut fits: Vec<(String, &'e str)> = Vec::new();
        for entry in entries {
            let id = match entry.id() {
                Some(id) => id.to_owned(),
                None => self.manifest(entry.digest)?.config.digest,
            };
            if digest::hex(&id).is_some_and(|hex| hex.starts_with(prefix)) && fits.iter().all(|(known, _)| *known != id)
            {
                fits.push((id, entry.digest));
            }
        }
        match fits.as_slice() {
            [] => Err(ImageError::NotFound { name: wanted.to_owned() }),
            [(_, digest)] => Ok(digest),
            several => Err(ImageError::Ambiguous { prefix: wanted.to_owned(), count: several.len() }),
        }
    }

    /// Reads an image. Its names are those of the entries that show to its manifest.
    pub(super) fn load(&self, digest: &str, entries: &[Entry<'_>]) -> Result<Image> {
        let manifest = self.manifest(digest)?;
        let path = blobs::path(self.store, &manifest.config.digest)?;
        let bytes = files::read(&path)?;
        let health = formats::health_check(&bytes);
        let shape = formats::shape(&manifest, &bytes);
        let Shape { config, layers } =
            shape.map_err(|reason| StoreError::Damaged { path, reason: format!("{reason} (manifest {digest})") })?;
        let names = names_of(digest, entries);
        let size = manifest.layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size));
        Ok(Image { id: manifest.config.digest, manifest: digest.to_owned(), names, config, health, layers, size })
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<formats::Manifest> {
        Ok(files::read_json(&blobs::path(self.store, digest)?)?)
    }
}

/// What the index alone knows of an image.
fn blank(entry: &Entry<'_>, entries: &[Entry<'_>]) -> Image {
    Image {
        id: entry.id().unwrap_or(entry.digest).to_owned(),
        manifest: entry.digest.to_owned(),
        names: names_of(entry.digest, entries),
        config: ImageConfiguration::default(),
        health: None,
        layers: Vec::new(),
        size: 0,
    }
}

/// The names by which the index knows a manifest.
fn names_of(digest: &str, entries: &[Entry<'_>]) -> Vec<Reference> {
    entries.iter().filter(|e| e.digest == digest).filter_map(|e| e.name()?.parse().ok()).collect()
}

/// The entries that a name means: the one of that name, or, with a digest, those of that repository and digest.
fn by_name<'e>(entries: &[Entry<'e>], reference: &Reference) -> Vec<Entry<'e>> {
    let Some(digest) = reference.digest() else {
        let full = reference.to_string();
        return entries.iter().filter(|e| e.name() == Some(full.as_str())).copied().collect();
    };
    // A name that an image was pulled by may hold the digest of an index, which is not its manifest's.
    let full = reference.pinned().to_string();
    let same = |e: &&Entry<'e>| {
        if e.name() == Some(full.as_str()) {
            return true;
        }
        let name = e.name().and_then(|n| n.parse::<Reference>().ok());
        e.digest == digest && name.is_some_and(|n| n.same_repository(reference))
    };
    entries.iter().filter(same).copied().collect()
}

/// Whether the image was found by its name, and not by its id.
fn by_name_at_all(image: &Image, reference: &Reference) -> bool {
    image.names.iter().any(|name| name.same_repository(reference))
}

/// The complete name, as the index has it.
pub(super) fn as_name(reference: &Reference) -> Result<String> {
    match reference.digest() {
        None => Ok(reference.to_string()),
        Some(_) => Err(ImageError::DigestAsName { reference: reference.familiar() }),
    }
}

/// Readers take no lock, so an image can go away between the index and its blobs. Another look then tells: either the
/// index no longer has it, or, if that is as it was, the store really is damaged.
pub(super) fn again_if_removed<T>(store: &Store, look: impl Fn() -> Result<T>) -> Result<T> {
    let mut before = None;
    loop {
        match look() {
            Err(ImageError::Store(e)) if e.is_not_found() => {
                let now = index::read(store)?;
                if before.as_ref() == Some(&now) {
                    return Err(e.into());
                }
                before = Some(now);
            }
            other => return other,
        }
    }
}
