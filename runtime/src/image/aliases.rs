//! `aliases.conf`: what a name stands for that no image here has.
//!
//! A line is a pattern and what it means, blanks between the two; the first that fits counts. `#` begins a comment.
//!
//! ```text
//! python:3.*   python:3.14  Python 3.14, with pip     another name; the rest of the line is told to the user
//! ubuntu       !use scratch instead                   no image at all; the rest is told to the user
//! ```
//!
//! A pattern without a tag fits every tag. `*` stands for anything but a slash, `?` for one character. A name that means
//! itself is no alias, which takes one of ours back. Read in this order: `$XDG_CONFIG_HOME/sampan/aliases.conf`,
//! `/etc/sampan/aliases.conf`, and what is built in.

use super::{ImageError, Reference, Result};
use std::path::{Path, PathBuf};

const BUILT_IN: &str = include_str!("aliases.conf");

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alias {
    /// Another name.
    Means {
        /// That name.
        reference: Reference,
        /// What to tell the user.
        note: String,
    },
    /// Nothing; what to do instead.
    Refused(String),
}

/// Patterns and what they mean.
#[derive(Debug, Clone, Default)]
pub struct Aliases(Vec<(String, Alias)>);

impl Aliases {
    /// Reads the user's file, the system's, and what is built in.
    ///
    /// # Errors
    /// When a file cannot be read or understood; the line is named.
    pub fn load() -> Result<Self> {
        let mut all = Self::default();
        let own = crate::config_home().map(|home| home.join("sampan/aliases.conf"));
        for path in own.into_iter().chain([PathBuf::from("/etc/sampan/aliases.conf")]) {
            let bad = |reason: String| ImageError::Aliases { path: path.clone(), reason };
            match std::fs::read_to_string(&path) {
                Ok(text) => all.add(&text).map_err(bad)?,
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(bad(e.to_string())),
            }
        }
        let built_in = |reason: String| ImageError::Aliases { path: Path::new("built-in aliases").into(), reason };
        all.add(BUILT_IN).map_err(built_in)?;
        Ok(all)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
            if line.is_empty() {
                continue;
            }
            let bad = |reason: String| format!("line {number}: {reason}");
            let (pattern, means) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| bad(format!("wanted a pattern and what it means, found only {line:?}")))?;
            let alias = match means.trim_start().strip_prefix('!') {
                Some(advice) => Alias::Refused(advice.trim().to_owned()),
                None => {
                    let (name, note) = means.trim().split_once(char::is_whitespace).unwrap_or((means.trim(), ""));
                    let reference = name.parse().map_err(|e: super::BadReference| bad(e.to_string()))?;
                    Alias::Means { reference, note: note.trim().to_owned() }
                }
            };
            self.0.push((pattern.to_owned(), alias));
        }
        Ok(())
    }

    /// What a name stands for, if for anything but itself. A name with a digest says what it means.
    #[must_use]
    pub fn find(&self, name: &Reference) -> Option<Alias> {
        if name.digest().is_some() {
            return None;
        }
        let (repository, whole) = (name.repository(), name.familiar());
        let fits = |pattern: &str| {
            // A colon after the last slash is a tag's.
            let tagged = pattern.rsplit('/').next().is_some_and(|last| last.contains(':'));
            glob(pattern.as_bytes(), if tagged { whole.as_bytes() } else { repository.as_bytes() })
        };
        let (_, alias) = self.0.iter().find(|(pattern, _)| fits(pattern))?;
        Some(alias.clone()).filter(|alias| !matches!(alias, Alias::Means { reference, .. } if reference == name))
    }
}

/// Whether a pattern with `*` and `?` fits a whole text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if glob(rest, text) => true,
        (Some((b'*', _)), Some((c, after))) => *c != b'/' && glob(pattern, after),
        (Some((b'?', rest)), Some((c, after))) => *c != b'/' && glob(rest, after),
        (Some((p, rest)), Some((c, after))) => p == c && glob(rest, after),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(aliases: &Aliases, name: &str) -> String {
        match aliases.find(&name.parse().unwrap()) {
            None => "itself".to_owned(),
            Some(Alias::Means { reference, note }) => format!("{} {note}", reference.familiar()),
            Some(Alias::Refused(advice)) => format!("!{advice}"),
        }
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let mut aliases = Aliases::default();
        let text = "# names\npython:2*  !no two\n python python:3.14 with pip # ours\n\nme/*:v? you/x\nnginx nginx\nnginx !no\n";
        aliases.add(text).unwrap();
        for (name, means) in [
            ("python:3.7-slim", "python:3.14 with pip"),
            ("docker.io/library/python", "python:3.14 with pip"),
            ("python:2.7", "!no two"),
            ("python:3.14", "itself"),
            ("ghcr.io/x/python", "itself"),
            ("me/a:v1", "you/x:latest "),
            ("me/a:v10", "itself"),
            ("me/a/b:v1", "itself"),
            ("nginx", "!no"),
            ("nginx:1", "!no"),
        ] {
            let means = if name == "nginx" {
                "itself"
            } else if name == "nginx:1" {
                "nginx:latest "
            } else {
                means
            };
            assert_eq!(found(&aliases, name), means, "{name}");
        }
        let pinned = format!("python@{}", crate::digest::of(b""));
        assert_eq!(found(&aliases, &pinned), "itself");
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, words) in [("\nalone", "line 2: wanted a pattern"), ("x UPPER", "line 1: invalid image name")] {
            let error = Aliases::default().add(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_built_in_is_sound() {
        let mut aliases = Aliases::default();
        aliases.add(BUILT_IN).unwrap();
        assert!(found(&aliases, "python:3.7").starts_with("python:3.14"));
        assert!(found(&aliases, "ubuntu:24.04").starts_with('!'));
        assert!(found(&aliases, "nginx").starts_with('!'));
        assert_eq!(found(&aliases, "hello"), "itself");
    }
}
