//! What moves while blobs come and go: a bar each on a terminal, plain lines elsewhere.

use crate::format::humanize::short_id;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

/// A bar for each blob, or a line for each change.
pub struct Bars {
    all: Option<MultiProgress>,
    each: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Default for Bars {
    fn default() -> Self {
        let all = std::io::stdout().is_terminal();
        let all = all.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        Self { all, each: Mutex::default() }
    }
}

impl Bars {
    /// Whether there are bars.
    pub fn is_terminal(&self) -> bool {
        self.all.is_some()
    }

    /// There will be a blob of this size.
    pub fn begin(&self, digest: &str, size: u64) {
        let Some(all) = &self.all else { return };
        let style = ProgressStyle::with_template("{prefix}: {msg:18} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}")
            .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
        let bar = all.add(ProgressBar::new(size).with_style(style).with_prefix(short_id(digest).to_owned()));
        self.each.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.to_owned(), bar);
    }

    /// So much of it is done.
    pub fn at(&self, digest: &str, bytes: u64) {
        self.with(digest, |bar| bar.set_position(bytes));
    }

    /// So much more of it is done.
    pub fn more(&self, digest: &str, bytes: u64) {
        self.with(digest, |bar| bar.inc(bytes));
    }

    /// What is done with it now; at its end nothing more will come.
    pub fn say(&self, digest: &str, words: &str, is_end: bool) {
        if self.all.is_none() {
            println!("{}: {words}", short_id(digest));
        }
        self.with(digest, |bar| match is_end {
            true => {
                let style = ProgressStyle::with_template("{prefix}: {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.finish_with_message(words.to_owned());
            }
            false => bar.set_message(words.to_owned()),
        });
    }

    fn with(&self, digest: &str, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.each.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            act(bar);
        }
    }
}
