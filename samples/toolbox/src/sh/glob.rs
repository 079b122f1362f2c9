//! Patterns → the paths that match, sorted; none if there are none.

use super::pattern::{is_pattern, literal, matches};
use std::path::Path;

pub fn expand(pattern: &str) -> Vec<String> {
    let mut found = vec![if pattern.starts_with('/') { "/".to_owned() } else { String::new() }];
    let mut parts = pattern.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let mut next = Vec::new();
        for base in found {
            if is_pattern(part) {
                next.extend(names(&base, part).into_iter().map(|name| format!("{base}{name}")));
            } else {
                next.push(format!("{base}{}", literal(part)));
            }
        }
        next.retain(|path| if last { Path::new(path).symlink_metadata().is_ok() } else { Path::new(path).is_dir() });
        if !last || pattern.ends_with('/') {
            next.retain(|path| Path::new(path).is_dir());
            next.iter_mut().for_each(|path| path.push('/'));
        }
        found = next;
    }
    found.sort();
    found
}

fn names(base: &str, pattern: &str) -> Vec<String> {
    let directory = if base.is_empty() { "." } else { base };
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // A leading dot is matched by a dot alone.
        .filter(|name| !name.starts_with('.') || pattern.starts_with('.') || pattern.starts_with("\\."))
        .filter(|name| matches(name, pattern))
        .collect()
}
