//! Those who look at a container's output while it runs.

use crate::guest::stdio::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everybody who looks. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Arc<Mutex<Vec<Viewer>>>);

#[derive(Debug)]
struct Viewer {
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

/// Who takes nothing for so long does not look any more: what holds the container back must have an end.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

impl Outputs {
    /// Somebody more: descriptors for the two streams, from now on.
    ///
    /// # Errors
    /// When a descriptor cannot be prepared.
    pub fn add(&self, output: Option<OwnedFd>, errors: Option<OwnedFd>) -> std::io::Result<()> {
        for fd in output.iter().chain(&errors) {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        self.all().push(Viewer { output, errors });
        Ok(())
    }

    /// Nobody looks any more: who reads finds the end.
    pub(super) fn close(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, Vec<Viewer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows something to everybody, waiting for those who are slow.
    pub(super) fn write(&self, channel: Channel, bytes: &[u8]) {
        let mut all = self.all();
        for viewer in all.iter_mut() {
            let to = if channel == Channel::Stdout { &mut viewer.output } else { &mut viewer.errors };
            if to.as_ref().is_some_and(|fd| !write(fd, bytes)) {
                *to = None;
            }
        }
        all.retain(|viewer| viewer.output.is_some() || viewer.errors.is_some());
    }

    /// Tells everybody something of the container.
    pub(super) fn tell(&self, words: &[u8]) {
        for viewer in self.all().iter() {
            match (&viewer.errors, &viewer.output) {
                (Some(errors), _) => drop(write(errors, words)),
                // A terminal, where a line begins on the left only if it is told so.
                (None, Some(output)) => drop(write(output, &[words, b"\r"].concat())),
                (None, None) => {}
            }
        }
    }
}

/// Writes everything; false when nobody takes it.
fn write(fd: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(fd, PollFlags::OUT)];
                match poll(&mut fds, Some(&PATIENCE)) {
                    Ok(0) => return false,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_goes_to_everybody_who_is_there() {
        let outputs = Outputs::default();
        let (one, to_one) = rustix::pipe::pipe().unwrap();
        let (two, to_two) = rustix::pipe::pipe().unwrap();
        let (gone, to_gone) = rustix::pipe::pipe().unwrap();
        drop(gone);
        outputs.add(Some(to_gone), None).unwrap();
        outputs.add(Some(to_one), None).unwrap();
        outputs.add(None, Some(to_two)).unwrap();
        outputs.write(Channel::Stdout, b"out");
        outputs.write(Channel::Stderr, b"err");
        assert_eq!(outputs.all().len(), 2);
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&one, &mut bytes), Ok(3));
        assert_eq!(&bytes[..3], b"out");
        assert_eq!(rustix::io::read(&two, &mut bytes), Ok(3));
        assert_eq!(&bytes[..3], b"err");
    }
}
