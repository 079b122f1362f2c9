//! How much a container may have in its own layer. Each write is charged before it is made; what was overwritten or
//! removed since is seen when the layer is measured again, which happens when what is charged has come to the limit.

use super::account::Metered;
use bytes::Bytes;
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, Host, HostDescriptor};
use wasmtime_wasi::p2::{DynOutputStream, FsError, OutputStream, Pollable, StreamError, StreamResult};

/// The layer is measured no more often than this: a guest that is refused again and again waits.
const PACE: Duration = Duration::from_millis(100);
/// What statfs(2) says of an overlay.
const OVERLAY: u64 = 0x794c_7630;

/// Measures a container's own layer.
pub trait Measure: std::fmt::Debug + Send + Sync {
    /// How many bytes are in it; `None` when it cannot be said.
    fn measure(&self) -> Option<u64>;
}

/// What a container may have in its own layer.
#[derive(Debug)]
pub struct Storage {
    limit: u64,
    /// Whether the layer is part of an overlay, so that a file that is not lies in a volume.
    overlay: bool,
    layer: Arc<dyn Measure>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was measured, and charged since; nothing before the first write.
    used: Option<u64>,
    measured: Option<Instant>,
}

impl Storage {
    /// A limit for the layer of the tree at `root`.
    #[must_use]
    pub fn new(limit: u64, root: &Path, layer: Arc<dyn Measure>) -> Self {
        let overlay = File::open(root).is_ok_and(|root| is_overlay(&root));
        Self { limit, overlay, layer, state: Mutex::default() }
    }

    /// Charges so many bytes that are about to be written to a file.
    ///
    /// # Errors
    /// ENOSPC when there is no room for them.
    pub fn take(&self, file: &File, bytes: u64) -> Result<(), Errno> {
        if self.overlay && !is_overlay(file) {
            return Ok(());
        }
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = state.used.and_then(fits) {
            state.used = Some(sum);
            return Ok(());
        }
        if let Some(at) = state.measured {
            std::thread::sleep(PACE.saturating_sub(at.elapsed()));
        }
        let used = self.layer.measure().ok_or(Errno::IO)?;
        *state = State { used: Some(used), measured: Some(Instant::now()) };
        state.used = Some(fits(used).ok_or(Errno::NOSPC)?);
        Ok(())
    }

    /// Charges what a file grows by when it gets this length.
    ///
    /// # Errors
    /// As [`Storage::take`].
    pub fn resize(&self, file: &File, length: u64) -> Result<(), Errno> {
        let now = file.metadata().map_or(0, |meta| meta.len());
        if length > now { self.take(file, length - now) } else { Ok(()) }
    }
}

fn is_overlay(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| u64::try_from(found.f_type) == Ok(OVERLAY))
}

/// A file's stream whose bytes are charged.
struct Charged {
    inner: DynOutputStream,
    file: Arc<File>,
    storage: Arc<Storage>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Charged {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Charged {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let room = self.storage.take(&self.file, bytes.len() as u64);
        room.map_err(|errno| StreamError::LastOperationFailed(std::io::Error::from(errno).into()))?;
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }
    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

type Fd = Resource<Descriptor>;

fn same(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

/// The file behind a descriptor, and the limit of its container's layer.
fn held<T: Metered + WasiFilesystemView>(data: &mut T, fd: &Fd) -> Option<(Arc<File>, Arc<Storage>)> {
    let storage = data.meter().account().storage().cloned()?;
    match data.filesystem().table.get(fd) {
        Ok(Descriptor::File(file)) => Some((Arc::clone(&file.file), storage)),
        _ => None,
    }
}

fn answer<T: WasiFilesystemView, R>(
    data: &mut T,
    result: std::result::Result<R, FsError>,
) -> Result<(std::result::Result<R, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(Host::convert_error_code(&mut data.filesystem(), error)?),
    },))
}

fn charge(data: Option<(Arc<File>, Arc<Storage>)>, act: impl FnOnce(&Storage, &File) -> Result<(), Errno>) -> bool {
    data.is_none_or(|(file, storage)| act(&storage, &file).is_ok())
}

/// Puts the limit between guests of WASI 0.2 and their files.
///
/// # Errors
/// When the linker refuses a definition.
pub(super) fn limit<T: Metered + WasiFilesystemView>(linker: &mut Linker<T>) -> Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:filesystem/types@0.2.12")?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: StoreContextMut<'_, T>, (fd, bytes, offset): (Fd, Vec<u8>, u64)| {
            Box::new(async move {
                let data = store.data_mut();
                if !charge(held(data, &fd), |storage, file| storage.take(file, bytes.len() as u64)) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let written = HostDescriptor::write(&mut data.filesystem(), fd, bytes, offset).await;
                answer(data, written)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.set-size",
        |mut store: StoreContextMut<'_, T>, (fd, size): (Fd, u64)| {
            Box::new(async move {
                let data = store.data_mut();
                if !charge(held(data, &fd), |storage, file| storage.resize(file, size)) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let done = HostDescriptor::set_size(&mut data.filesystem(), fd, size).await;
                answer(data, done)
            })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, T>, (fd, offset): (Fd, u64)| {
            let data = store.data_mut();
            let made = HostDescriptor::write_via_stream(&mut data.filesystem(), same(&fd), offset);
            charged(data, &fd, &made)?;
            answer(data, made)
        },
    )?;
    types.func_wrap("[method]descriptor.append-via-stream", |mut store: StoreContextMut<'_, T>, (fd,): (Fd,)| {
        let data = store.data_mut();
        let made = HostDescriptor::append_via_stream(&mut data.filesystem(), same(&fd));
        charged(data, &fd, &made)?;
        answer(data, made)
    })
}

/// Has a stream that was made for a file charged.
fn charged<T: Metered + WasiFilesystemView>(
    data: &mut T,
    fd: &Fd,
    made: &std::result::Result<Resource<DynOutputStream>, FsError>,
) -> Result<()> {
    let (Ok(stream), Some((file, storage))) = (made, held(data, fd)) else { return Ok(()) };
    let place = data.filesystem().table.get_mut(stream)?;
    let inner = std::mem::replace(place, Box::new(wasmtime_wasi::p2::pipe::ClosedOutputStream));
    *place = Box::new(Charged { inner, file, storage });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct Layer(AtomicU64, AtomicU64);

    impl Measure for Layer {
        fn measure(&self) -> Option<u64> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Some(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn what_was_removed_is_room_again() {
        let dir = crate::store::files::tests::temp_dir();
        let file = File::create(dir.join("f")).unwrap();
        let layer = Arc::new(Layer::default());
        let storage = Storage::new(1000, &dir, Arc::clone(&layer) as Arc<dyn Measure>);
        assert_eq!((storage.take(&file, 600), storage.take(&file, 400)), (Ok(()), Ok(())));
        layer.0.store(1000, Ordering::Relaxed);
        assert_eq!(storage.take(&file, 1), Err(Errno::NOSPC));
        layer.0.store(200, Ordering::Relaxed);
        assert_eq!(storage.take(&file, 800), Ok(()));
        assert_eq!(layer.1.load(Ordering::Relaxed), 3);
        layer.0.store(1000, Ordering::Relaxed);
        assert_eq!(storage.resize(&file, 1), Err(Errno::NOSPC));
        assert_eq!(storage.resize(&file, 0), Ok(()));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
