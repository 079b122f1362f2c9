//! What was changed in a copy of all layers → the files of a layer. Where no overlay can be mounted a container's layers
//! are copied to its own directory at its first start, and it goes on there.
//!
//! A copy has neither the times nor the owners of what it was made of, so files are compared by their kind, mode and
//! content.

use super::Result;
use super::entry::{self, Node};
use super::layer::{LayerError, Plan};
use crate::store::StoreError;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is in the directory `copy` and not so in the layers (topmost first) that were copied there, as the plan of a
/// layer that makes the same of them.
///
/// # Errors
/// When something cannot be read, or has a name that an archive cannot hold.
pub(super) fn changes(copy: &Path, layers: &[PathBuf]) -> Result<Plan, LayerError> {
    let mut plan = Plan::new(layers.to_vec(), None);
    walk(&mut plan, copy, layers, Path::new(""))?;
    Ok(plan)
}

fn walk(plan: &mut Plan, copy: &Path, below: &[PathBuf], at: &Path) -> Result<(), LayerError> {
    let there = names_in(copy)?;
    let mut before = BTreeSet::new();
    for dir in below {
        before.extend(names_in(dir)?);
    }
    for name in before.iter().filter(|name| there.binary_search(name).is_err()) {
        if !matches!(entry::look(below, name)?, Node::Missing) {
            plan.make_dirs(at)?;
            plan.gone(&at.join(name));
        }
    }
    for name in there {
        let (host, path) = (copy.join(&name), at.join(&name));
        let meta = host.symlink_metadata().map_err(LayerError::read(&host))?;
        let known = entry::look(below, &name)?;
        if meta.is_dir() {
            let merged = match known {
                Node::Dir(merged) => merged,
                _ => Vec::new(),
            };
            // One that was there is as it was, and is repeated when something in it is not.
            if merged.is_empty() {
                plan.make_dirs(at)?;
                plan.changed_dir(&path, &meta)?;
            }
            walk(plan, &host, &merged, &path)?;
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&host).map_err(LayerError::read(&host))?;
            if !matches!(&known, Node::Link { target: known, .. } if *known == target) {
                plan.make_dirs(at)?;
                plan.changed(&path, &host, &meta)?;
            }
        } else if meta.is_file() && !matches!(&known, Node::File(known) if is_same(&host, &meta, known)?) {
            plan.make_dirs(at)?;
            plan.changed(&path, &host, &meta)?;
        }
    }
    Ok(())
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> Result<Vec<OsString>, LayerError> {
    let read = || -> std::io::Result<Vec<_>> { std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect() };
    let mut names = read().map_err(LayerError::read(dir))?;
    names.sort();
    Ok(names)
}

fn is_same(host: &Path, meta: &Metadata, known: &Path) -> Result<bool, LayerError> {
    let before = known.symlink_metadata().map_err(LayerError::read(known))?;
    if !before.is_file() || before.len() != meta.len() || (before.mode() ^ meta.mode()) & 0o777 != 0 {
        return Ok(false);
    }
    let open = |path: &Path| File::open(path).map(BufReader::new).map_err(StoreError::io("read", path));
    let (mut one, mut other) = (open(host)?, open(known)?);
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = one.read(&mut a).map_err(LayerError::read(host))?;
        if n == 0 {
            return Ok(true);
        }
        let (a, b) = (a.get(..n).unwrap_or_default(), b.get_mut(..n).unwrap_or_default());
        if other.read_exact(b).is_err() || a != b {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;
    use std::os::unix::fs::symlink;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_copy_is_compared_with_what_it_was_made_of() {
        let dir = temp_dir();
        let (lower, upper, copy) = (dir.join("lower"), dir.join("upper"), dir.join("copy"));
        for path in ["same/a", "d/same", "d/changed", "d/deleted", "gone/x", "kind"] {
            write(lower.join(path), "old");
        }
        symlink("a", lower.join("link")).unwrap();
        write(upper.join("d/top"), "old");
        std::fs::create_dir(&copy).unwrap();
        for layer in [&lower, &upper] {
            crate::rootfs::copy_tree(layer, &copy).unwrap();
        }
        let layers = [upper, lower];
        assert!(changes(&copy, &layers).unwrap().is_empty());

        write(copy.join("d/changed"), "new");
        write(copy.join("fresh/f"), "new");
        std::fs::remove_file(copy.join("d/deleted")).unwrap();
        std::fs::remove_dir_all(copy.join("gone")).unwrap();
        std::fs::remove_file(copy.join("kind")).unwrap();
        write(copy.join("kind/x"), "x");
        let blob = dir.join("blob");
        changes(&copy, &layers).unwrap().write(&blob).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(blob).unwrap()));
        let name = |e: std::io::Result<tar::Entry<'_, _>>| e.unwrap().path().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = archive.entries().unwrap().map(name).collect();
        names.sort();
        assert_eq!(names, [".wh.gone", "d/", "d/.wh.deleted", "d/changed", "fresh/", "fresh/f", "kind/", "kind/x"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
