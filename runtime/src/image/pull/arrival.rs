//! A blob that is on its way, for whoever unpacks it meanwhile: a reader that waits for what has not come yet.
//!
//! What is read before all of it is there is not verified. So nothing that was made of it counts before the blob
//! [is whole](Arrival::whole), which its download says when the digest is right; and a download that starts over makes
//! whoever has read of the old beginning start over too.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How far a blob has come.
#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    /// How many bytes of the file are there.
    len: u64,
    /// How often it was begun.
    attempt: u32,
    /// Whether all of it is there, and verified.
    whole: bool,
}

/// The end that says how far the blob has come. A blob whose end this is dropped without that will not come.
#[derive(Debug, Default)]
pub(super) struct Coming(watch::Sender<State>);

impl Coming {
    /// It begins in this file; what it began with before counts no more.
    pub fn begins(&self, file: &Arc<File>) {
        self.0.send_modify(|state| {
            let attempt = state.attempt + 1;
            *state = State { file: Some(Arc::clone(file)), len: 0, attempt, whole: false };
        });
    }

    /// So much of it is there.
    pub fn has(&self, len: u64) {
        self.0.send_modify(|state| state.len = len);
    }

    /// What is there is thrown away.
    pub fn restarts(&self) {
        self.0.send_modify(|state| (state.len, state.attempt) = (0, state.attempt + 1));
    }

    /// All of it is there, and is what it should be.
    pub fn is_whole(&self) {
        self.0.send_modify(|state| state.whole = true);
    }

    /// The other end.
    pub fn arrival(&self) -> Arrival {
        Arrival(self.0.subscribe())
    }
}

/// The end that waits for the blob.
#[derive(Debug, Clone)]
pub(super) struct Arrival(watch::Receiver<State>);

/// A blob will not come; its download says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BrokenOff;

impl Arrival {
    /// Waits until it begins.
    pub async fn begun(&mut self) -> Result<(), BrokenOff> {
        self.0.wait_for(|state| state.file.is_some()).await.map(drop).map_err(|_| BrokenOff)
    }

    /// Waits until it is whole. The answer is which attempt that was.
    pub async fn whole(&mut self) -> Result<u32, BrokenOff> {
        let whole = self.0.wait_for(|state| state.whole).await;
        whole.map(|state| state.attempt).map_err(|_| BrokenOff)
    }

    /// What reads it from its beginning as it comes, on a thread that may wait; and which attempt it reads.
    pub fn reader(&self) -> (Reader, u32) {
        let state = self.0.borrow();
        let attempt = state.attempt;
        drop(state);
        (Reader { blob: self.0.clone(), attempt, at: 0 }, attempt)
    }
}

/// Reads a blob as it comes.
pub(super) struct Reader {
    blob: watch::Receiver<State>,
    attempt: u32,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let gone = || Error::new(ErrorKind::ConnectionAborted, "the blob that it is read from broke off");
        let (attempt, at) = (self.attempt, self.at);
        let more = self.blob.wait_for(|state| state.whole || state.len > at || state.attempt != attempt);
        let (file, len) = {
            let state = Handle::current().block_on(more).map_err(|_| gone())?;
            match &state.file {
                Some(file) if state.attempt == attempt => (Arc::clone(file), state.len),
                _ => return Err(gone()),
            }
        };
        let there = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = there.min(buffer.len());
        let read = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 && wanted > 0 {
            return Err(gone());
        }
        self.at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A blob's file, to which a test writes.
    fn blob() -> Arc<File> {
        let path = crate::store::files::tests::temp_dir().join("blob");
        Arc::new(File::options().create_new(true).read(true).write(true).open(path).unwrap())
    }

    fn put(file: &Arc<File>, coming: &Coming, text: &[u8], len: u64) {
        (&**file).write_all(text).unwrap();
        coming.has(len);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_is_read_as_it_comes_and_to_the_end() {
        let (coming, file) = (Coming::default(), blob());
        let mut arrival = coming.arrival();
        coming.begins(&file);
        assert_eq!(arrival.begun().await, Ok(()));
        let reading = tokio::task::spawn_blocking(move || {
            let (mut reader, attempt) = arrival.reader();
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            (text, attempt, arrival)
        });
        put(&file, &coming, b"one ", 4);
        put(&file, &coming, b"two", 7);
        coming.is_whole();
        let (text, attempt, mut arrival) = reading.await.unwrap();
        assert_eq!((text.as_str(), attempt, arrival.whole().await), ("one two", 1, Ok(1)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_starts_over_is_read_no_further() {
        let (coming, file) = (Coming::default(), blob());
        coming.begins(&file);
        put(&file, &coming, b"a lie", 5);
        let mut arrival = coming.arrival();
        let (mut reader, first) = arrival.reader();
        let error = tokio::task::spawn_blocking(move || {
            let mut text = [0; 5];
            reader.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"a lie");
            coming.restarts();
            let error = reader.read(&mut text).unwrap_err();
            drop(coming);
            error
        })
        .await
        .unwrap();
        let whole = arrival.whole().await;
        assert_eq!((error.kind(), whole, first), (ErrorKind::ConnectionAborted, Err(BrokenOff), 1));
    }
}
