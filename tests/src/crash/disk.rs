//! A file system of its own, whose power can be cut: what was not flushed is lost.
//!
//! It is an image file on a loop device. The cut is the kernel's own, for testing file systems: `EXT4_IOC_SHUTDOWN` with
//! `EXT4_GOING_FLAGS_NOLOGFLUSH` (xfs has the same by another name) stops it at once. What is dirty in memory is never
//! written, what is in the journal's open transaction neither; mounting it again replays the journal. What the file
//! system had sent to the device is taken as written: a disk that loses its own cache is not what is tested here.

use crate::{Dir, OrFail, Run, until};
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// `_IOR('X', 125, __u32)`: ext4's and xfs's request to go down.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Without writing the journal first.
const NO_LOG_FLUSH: u32 = 2;

/// A mounted file system; it goes away with its value.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    place: PathBuf,
    _dir: Dir,
}

impl Disk {
    /// An empty one: `ext4` or `xfs`. From here on this thread, and what it starts, has mounts of its own: the sandboxes
    /// of other tests would otherwise hold on to this one.
    #[track_caller]
    #[must_use]
    pub fn new(kind: &str) -> Self {
        // SAFETY: only what this thread sees of mounts, and its working directory, is no longer shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.or_fail("cannot have mounts of our own");
        Run::new(["mount", "--make-rprivate", "/"]).ok();
        let dir = Dir::new();
        let (image, place) = (dir.join("image"), dir.join("disk"));
        let file = File::create(&image).or_fail(image.display());
        file.set_len(400 << 20).or_fail(image.display());
        std::fs::create_dir(&place).or_fail(place.display());
        let quiet = if kind == "xfs" { "-q" } else { "-qF" };
        Run::new([format!("mkfs.{kind}"), quiet.to_owned()]).arg(&image).ok();
        let disk = Self { image, place, _dir: dir };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Cuts the power. From now on nothing can be read or written.
    #[track_caller]
    pub fn cut(&self) {
        let root = File::open(&self.place).or_fail(self.place.display());
        let flags = NO_LOG_FLUSH;
        // SAFETY: the request reads one 32-bit number, which lives as long as the call.
        let cut = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const flags) };
        if cut != 0 {
            crate::fail(format_args!("cannot cut the power: {}", std::io::Error::last_os_error()));
        }
    }

    /// The power comes back: the journal is replayed. Nothing may have the file system open any more.
    #[track_caller]
    pub fn start_again(&mut self) {
        until("the disk is unmounted", || (Run::new(["umount"]).arg(&self.place).run().code == 0).then_some(()));
        let device = || Run::new(["losetup", "-j"]).arg(&self.image).run().stdout;
        until("nobody has the disk any more", || device().is_empty().then_some(()));
        self.mount();
    }

    #[track_caller]
    fn mount(&self) {
        Run::new(["mount", "-o", "loop"]).arg(&self.image).arg(&self.place).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Run::new(["umount", "-l"]).arg(&self.place).run();
    }
}
