//! The directories of an image's layers while they are made, several at a time: who needs those below one waits for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What is known of one layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    NotYet,
    There(PathBuf),
    Never,
}

/// The directories of all layers, lowest first.
#[derive(Debug, Clone)]
pub(super) struct Dirs(Arc<watch::Sender<Vec<Known>>>);

impl Dirs {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(watch::Sender::new(vec![Known::NotYet; count])))
    }

    /// The place of one layer, for whoever makes it. Dropped without being filled, it stays empty for good.
    pub fn place(&self, number: usize) -> Place {
        Place { dirs: self.clone(), number }
    }

    fn set(&self, number: usize, known: &Known) {
        self.0.send_modify(|all| match all.get_mut(number) {
            Some(place) if *place == Known::NotYet => place.clone_from(known),
            _ => {}
        });
    }
}

/// The place of one layer.
#[derive(Debug)]
pub(super) struct Place {
    dirs: Dirs,
    number: usize,
}

impl Place {
    pub fn number(&self) -> usize {
        self.number
    }

    /// The layer is there.
    pub fn fill(&self, dir: &Path) {
        self.dirs.set(self.number, &Known::There(dir.to_owned()));
    }

    /// Waits for all layers below, on a thread that may wait: their directories, topmost first; none if one of them will
    /// not come.
    pub fn below(&self) -> Option<Vec<PathBuf>> {
        let mut dirs = self.dirs.0.subscribe();
        let known = dirs.wait_for(|all| all.iter().take(self.number).all(|known| *known != Known::NotYet));
        let all = Handle::current().block_on(known).ok()?;
        let below = all.iter().take(self.number).rev().map(|known| match known {
            Known::There(dir) => Some(dir.clone()),
            Known::NotYet | Known::Never => None,
        });
        below.collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dirs.set(self.number, &Known::Never);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_needs_those_below_waits_for_them() {
        let dirs = Dirs::new(3);
        let [lowest, middle, upper] = [0, 1, 2].map(|number| dirs.place(number));
        middle.fill(Path::new("/middle"));
        let waiting = tokio::task::spawn_blocking(move || (upper.below(), middle.below()));
        lowest.fill(Path::new("/lowest"));
        let (of_upper, of_middle) = waiting.await.unwrap();
        assert_eq!(of_upper, Some(vec!["/middle".into(), "/lowest".into()]));
        assert_eq!(of_middle, Some(vec!["/lowest".into()]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_given_up_is_waited_for_no_longer() {
        let dirs = Dirs::new(2);
        let (lower, upper) = (dirs.place(0), dirs.place(1));
        let waiting = tokio::task::spawn_blocking(move || upper.below());
        drop(lower);
        assert_eq!(waiting.await.unwrap(), None);
    }
}
