//! Pushing: an image of the store → a registry, in the bytes that it has here, so that its digests are the same there.

use super::index::MANIFEST_TYPE;
use super::{ImageError, Images, Reference, blobs, index};
use crate::digest;
use crate::events;
use crate::registry::{Access, Counter, Registries, RegistryError, Repository, Uploaded};
use crate::store::{Store, StoreError, files};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// As many blobs go at once.
const AT_ONCE: usize = 4;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name with a digest.
    #[error("cannot push {0}: an image is pushed under a tag; leave out the part after @")]
    Digest(String),
    /// An id where a name is meant.
    #[error("no image here is called {0}: name it with `sampan tag IMAGE {0}` first")]
    NoName(String),
}

/// Is told how a push goes on, from several threads.
pub trait Progress: Send + Sync {
    /// A blob will be looked at; its size.
    fn wanted(&self, digest: &str, size: u64);

    /// So many more bytes of it have gone.
    fn sent(&self, digest: &str, bytes: u64);

    /// It is there; where it was mounted from, if it was.
    fn done(&self, digest: &str, how: Uploaded, source: Option<&str>);
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of its manifest.
    pub digest: String,
    /// The manifest's size.
    pub size: usize,
}

/// Pushes the image of this name to where the name says.
///
/// # Errors
/// When there is no image of the name, or the registry does not take it. Then the registry has no new manifest.
pub fn push(
    store: &Store,
    registries: &Registries,
    reference: &Reference,
    progress: &Arc<dyn Progress>,
) -> Result<Pushed, PushError> {
    let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
        return Err(PushError::Digest(reference.familiar()));
    };
    let images = Images::new(store);
    let found = match images.look_up(&reference.to_string()) {
        Err(ImageError::NotFound { .. }) => return Err(PushError::NoName(reference.familiar())),
        other => other?,
    };
    let digest = found.image.manifest.clone();
    let manifest = images.manifest(&digest)?;
    let bytes = files::read(&blobs::path(store, &digest)?)?;
    // Linked, so that they stay while they are sent, whatever is removed meanwhile.
    let scratch = store.scratch()?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for blob in manifest.layers.iter().chain([&manifest.config]).filter(|blob| seen.insert(&blob.digest)) {
        let file = scratch.path().join(digest::hex(&blob.digest).unwrap_or("none"));
        let place = blobs::path(store, &blob.digest)?;
        let linked = std::fs::hard_link(&place, &file).or_else(|_| std::fs::copy(&place, &file).map(drop));
        linked.map_err(StoreError::io("read", place))?;
        all.push((blob.digest.clone(), blob.size, file));
    }
    let sources = sources(&images, reference)?;
    let froms: BTreeSet<String> = all.iter().filter_map(|(digest, ..)| sources.get(digest).cloned()).collect();
    let froms: Vec<String> = froms.into_iter().collect();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(StoreError::io("start threads for", store.root()))?;
    runtime
        .block_on(async {
            let repository = Repository::open(registries, reference, Access::Push, &froms).await?;
            let put = async |(digest, size, file): (String, u64, std::path::PathBuf)| {
                // As with Docker, of the config nobody speaks.
                let told = digest != manifest.config.digest;
                if told {
                    progress.wanted(&digest, size);
                }
                let source = sources.get(&digest).map(String::as_str);
                let (listener, name) = (progress.clone(), digest.clone());
                let counter = Counter(Arc::new(move |bytes| {
                    if told {
                        listener.sent(&name, bytes);
                    }
                }));
                let how = repository.put_blob((&digest, size), &file, source, &counter).await?;
                if told {
                    progress.done(&digest, how, source);
                }
                Ok::<_, PushError>(())
            };
            futures::stream::iter(all).map(put).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
            let media_type = manifest.media_type.as_deref().unwrap_or(MANIFEST_TYPE);
            let size = bytes.len();
            repository.put_manifest(tag, media_type, bytes.into()).await?;
            Ok(Pushed { digest, size })
        })
        .inspect(|_| {
            events::tell(store, events::Kind::Image, "push", &found.image.id, [("name", reference.familiar())])
        })
}

/// Which repository of the same registry a blob is probably in, by the names of this store's images.
fn sources(images: &Images<'_>, reference: &Reference) -> Result<BTreeMap<String, String>, PushError> {
    let bytes = index::read(images.store)?;
    let mut sources = BTreeMap::new();
    for entry in index::entries(images.store, &bytes)? {
        let Some(name) = entry.name().and_then(|name| name.parse::<Reference>().ok()) else { continue };
        // A short name mostly means an image of this machine, which is no business of Docker Hub's.
        let is_short =
            name.repository() != format!("{}/{}", name.domain(), name.path()) && !name.repository().contains('/');
        if name.domain() != reference.domain() || name.path() == reference.path() || is_short {
            continue;
        }
        // One that was removed meanwhile is no source.
        let Ok(manifest) = images.manifest(entry.digest) else { continue };
        for blob in manifest.layers.into_iter().chain([manifest.config]) {
            sources.entry(blob.digest).or_insert_with(|| name.path().to_owned());
        }
    }
    Ok(sources)
}
