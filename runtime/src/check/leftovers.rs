//! What processes that were killed have left: scratch directories, and files that were to replace others.

use super::{Finding, Report, names_in};
use crate::store::{Store, files};
use std::path::{Path, PathBuf};

pub(super) fn check(store: &Store, report: &mut Report) {
    for scratch in store.abandoned() {
        let finding = Finding::left("scratch", "its maker was killed", &scratch);
        report.mend(finding, || files::remove_tree(&scratch).map(|()| true));
    }
    for dir in directories(store) {
        for file in files::abandoned_beside(&dir) {
            let finding = Finding::left("a half-written file", "its writer was killed", &file);
            report.mend(finding, || match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(true),
            });
        }
    }
}

/// Where files are replaced by others that are written beside them.
fn directories(store: &Store) -> Vec<PathBuf> {
    let below = |dir: PathBuf| names_in(&dir).into_iter().map(move |name| dir.join(name));
    let mut all = vec![store.root().to_owned(), store.content()];
    for parent in [
        store.cache(),
        store.code(),
        store.containers(),
        store.volumes(),
        store.networks(),
        store.run_path().to_owned(),
    ] {
        all.extend(below(parent));
    }
    all.extend(below(store.run_path().join("networks")));
    // The run directories of other stores are none of this one's.
    all.retain(|dir| dir.is_dir() && !is_of_another_store(dir, store.run_path()));
    all
}

fn is_of_another_store(dir: &Path, run: &Path) -> bool {
    dir.parent() == Some(run) && dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"r-"))
}
