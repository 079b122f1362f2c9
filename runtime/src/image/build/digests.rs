//! What the files of a context hold, remembered by their identity: a file that did not change is not read again.

use crate::digest;
use crate::image::layer::{LayerError, Stamp};
use crate::store::{Durability, Store, files};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More than any sensible context has; beyond it what was not asked for is forgotten.
const MOST: usize = 100_000;

/// The digests of one context's files.
#[derive(Debug)]
pub(super) struct Digests {
    place: PathBuf,
    /// Whether the context is there once more for another build.
    stays: bool,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Read when a file is first asked for.
    known: Option<HashMap<(u64, u64), Known>>,
    changed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    digest: String,
}

impl Digests {
    /// What the store remembers of this context.
    pub fn of(store: &Store, context: &Path) -> Self {
        let name = digest::of(context.as_os_str().as_bytes());
        let place = store.cache().join("contexts").join(name.trim_start_matches("sha256:"));
        Self { place, stays: !super::input::is_passing(store, context), state: RefCell::default() }
    }

    /// The digest of a file's content.
    pub fn digest(&self, host: &Path, stamp: &Stamp) -> Result<String, LayerError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let known = state.known.get_or_insert_with(|| {
            let list: Vec<Known> = files::read_json(&self.place).unwrap_or_default();
            list.into_iter().map(|known| (known.stamp.id(), known)).collect()
        });
        if let Some(known) = known.get(&stamp.id()).filter(|known| known.stamp == *stamp) {
            return Ok(known.digest.clone());
        }
        let digest = hash(host).map_err(LayerError::read(host))?;
        // A file that was written just now can be written once more without another time: then the next build reads it
        // again.
        if stamp.is_settled(now()) {
            known.insert(stamp.id(), Known { stamp: stamp.clone(), digest: digest.clone() });
            state.changed = true;
        }
        Ok(digest)
    }

    /// Keeps what was learned; only a matter of speed, so errors do not count.
    pub fn save(&self) {
        let state = self.state.borrow();
        let Some(known) = state.known.as_ref().filter(|_| state.changed && self.stays) else { return };
        let mut list: Vec<&Known> = known.values().collect();
        list.truncate(MOST);
        let dir = self.place.parent().unwrap_or(&self.place);
        let _ = files::make_dir(dir).and_then(|()| files::write_json(&self.place, &list, Durability::Buffered));
    }
}

/// Nanoseconds since 1970.
fn now() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

fn hash(host: &Path) -> std::io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(host)?;
    digest::of_all(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;

    #[test]
    fn a_file_is_read_again_only_when_it_changed() {
        let dir = temp_dir();
        let store = Store::open(&dir.join("s"), &dir.join("r")).unwrap();
        let file = dir.join("f");
        std::fs::write(&file, "one").unwrap();
        let stamp = || Stamp::of(&file.symlink_metadata().unwrap());
        let (fresh, mut old) = (stamp(), stamp());
        old.age(1_000_000_000 * 60);
        let digests = Digests::of(&store, &dir);
        let first = digests.digest(&file, &old).unwrap();
        assert_eq!(first, digest::of(b"one"));
        digests.save();
        // It is not read: there is nothing to read.
        std::fs::remove_file(&file).unwrap();
        let again = Digests::of(&store, &dir);
        assert_eq!(again.digest(&file, &old).unwrap(), first);
        std::fs::write(&file, "two").unwrap();
        assert_ne!(again.digest(&file, &stamp()).unwrap(), first);
        // What is too fresh is not remembered.
        assert_ne!(again.digest(&file, &fresh).unwrap(), first);
        assert_eq!(again.digest(&file, &old).unwrap(), first);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
