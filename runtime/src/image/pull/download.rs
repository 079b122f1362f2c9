//! A blob → a file, resumed where an earlier pull left it.
//!
//! `downloads/<digest>` holds what has come of a blob; whoever fetches it has a lock on it, and others who want it wait.
//! A file that is whole is linked to where its pull needs it. Nothing else reads these files, so a killed pull leaves
//! nothing that counts, and what nobody asked for in a week goes.

use super::arrival::Coming;
use super::{Progress, PullError, Step};
use crate::digest::{self, Hash};
use crate::image::blobs;
use crate::registry::{RegistryError, Repository, Sink};
use crate::store::{Lock, Store, StoreError, files};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the beginning of a blob is kept for the next pull.
pub const KEPT: Duration = Duration::from_hours(24 * 7);

fn dir(store: &Store) -> PathBuf {
    store.root().join("downloads")
}

/// Sees to it that the blob is at `into`: from the store, from an earlier pull, or from the registry. Who waits for it
/// is told how it comes.
pub(super) async fn fetch(
    store: &Store,
    repository: &Repository,
    digest: &str,
    size: u64,
    into: &Path,
    coming: Coming,
    progress: &Arc<dyn Progress>,
) -> Result<(), PullError> {
    let coming = Arc::new(coming);
    let known = blobs::path(store, digest)?;
    files::make_dir(&dir(store))?;
    let path = dir(store).join(digest::hex(digest).unwrap_or("none"));
    loop {
        if known.metadata().is_ok_and(|meta| meta.len() == size) && link(&known, into)? {
            progress.layer(digest, Step::Exists);
            let file = File::open(into).map_err(StoreError::io("read", into))?;
            coming.begins(&Arc::new(file));
            coming.has(size);
            coming.is_whole();
            return Ok(());
        }
        let lock = {
            let path = path.clone();
            let wait = tokio::task::spawn_blocking(move || Lock::wait(&path));
            wait.await.map_err(|e| PullError::Threads(e.to_string()))??
        };
        // Whoever had it may be done with it, and have put the blob in its place since we looked.
        if !lock.is_of(&path) {
            continue;
        }
        if known.exists() {
            discard(store, digest);
            continue;
        }
        let mut partial = {
            let (path, digest, progress) = (path.clone(), digest.to_owned(), progress.clone());
            let coming = Arc::clone(&coming);
            let open = tokio::task::spawn_blocking(move || Partial::open(&path, size, digest, coming, progress));
            open.await.map_err(|e| PullError::Threads(e.to_string()))??
        };
        repository.download(digest, size, &mut partial).await?;
        if link(&path, into)? {
            progress.layer(digest, Step::Downloaded);
            progress.layer(digest, Step::Unpacking);
            coming.is_whole();
            return Ok(());
        }
    }
}

/// Links a file to a new place; false if it is gone.
fn link(from: &Path, to: &Path) -> Result<bool, PullError> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        // Some file systems have no links.
        Err(_) => match std::fs::copy(from, to) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StoreError::io("write", to)(e).into()),
        },
    }
}

/// Forgets a blob that is in its place.
pub(super) fn discard(store: &Store, digest: &str) {
    if let Some(hex) = digest::hex(digest) {
        let _ = std::fs::remove_file(dir(store).join(hex));
    }
}

/// Removes what is left of pulls that broke off longer ago than `age`, and that no pull is at work on. The answer is how
/// many bytes that gave back.
pub fn sweep(store: &Store, age: Duration) -> u64 {
    let mut freed = 0;
    for entry in std::fs::read_dir(dir(store)).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let is_old = meta.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|passed| passed >= age);
        if is_old && Lock::try_take(&entry.path()).is_ok_and(|lock| lock.is_some()) {
            freed += std::fs::remove_file(entry.path()).map_or(0, |()| meta.len());
        }
    }
    freed
}

/// What has come of a blob.
struct Partial {
    path: PathBuf,
    file: Arc<File>,
    hash: Hash,
    len: u64,
    digest: String,
    coming: Arc<Coming>,
    progress: Arc<dyn Progress>,
}

impl Partial {
    /// Opens what is there, and hashes it.
    fn open(
        path: &Path,
        size: u64,
        digest: String,
        coming: Arc<Coming>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, RegistryError> {
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = Arc::new(open().map_err(RegistryError::file("open", path))?);
        coming.begins(&file);
        let mut partial = Self { path: path.to_owned(), file, hash: Hash::new(), len: 0, digest, coming, progress };
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = (&*partial.file).read(&mut buffer).map_err(RegistryError::file("read", path))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            partial.count(piece);
        }
        if partial.len > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn count(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        self.len = self.len.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        self.coming.has(self.len);
        self.progress.layer(&self.digest, Step::Has(self.len));
    }
}

impl Sink for Partial {
    fn len(&self) -> u64 {
        self.len
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), RegistryError> {
        (&*self.file).write_all(piece).map_err(RegistryError::file("write", &self.path))?;
        self.count(piece);
        Ok(())
    }

    fn restart(&mut self) -> Result<(), RegistryError> {
        // First, so that nobody takes what is written next for what it has read.
        self.coming.restarts();
        let emptied = self.file.set_len(0).and_then(|()| (&*self.file).rewind());
        emptied.map_err(RegistryError::file("write", &self.path))?;
        (self.hash, self.len) = (Hash::new(), 0);
        self.progress.layer(&self.digest, Step::Has(0));
        Ok(())
    }

    fn digest(&self) -> String {
        self.hash.clone().digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;
    use crate::image::tests::Fixture;

    #[test]
    fn what_is_there_is_gone_on_with() {
        let fixture = Fixture::new();
        let path = fixture.dir.join("blob");
        let open = || Partial::open(&path, 10, digest::of(b"0123456789"), Arc::default(), Arc::new(())).unwrap();
        open().push(b"01234").unwrap();
        let mut again = open();
        assert_eq!(again.len(), 5);
        again.push(b"56789").unwrap();
        assert_eq!(again.digest(), digest::of(b"0123456789"));
        again.push(b"too much").unwrap();
        assert!(open().is_empty());
        assert_eq!(path.metadata().unwrap().len(), 0);
    }

    #[test]
    fn old_beginnings_go_unless_somebody_is_at_work_on_them() {
        let fixture = Fixture::new();
        let downloads = dir(&fixture.store);
        std::fs::create_dir(&downloads).unwrap();
        for name in ["free", "held"] {
            std::fs::write(downloads.join(name), "12345").unwrap();
        }
        let _lock = Lock::wait(&downloads.join("held")).unwrap();
        assert_eq!(sweep(&fixture.store, KEPT), 0);
        assert_eq!(sweep(&fixture.store, Duration::ZERO), 5);
        assert!(downloads.join("held").exists() && !downloads.join("free").exists());
    }
}
