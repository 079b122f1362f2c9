//! Image names by Docker's rules: a short name means Docker Hub's library, and no tag means `latest`.
//!
//! The grammar is that of <https://github.com/distribution/reference>, which every registry and client follows.

use crate::digest;
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const LIBRARY: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// As the grammar has it, to keep a name below the length of a file name on every system.
const LONGEST_NAME: usize = 255;

/// A name that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name {text:?}: {reason}")]
pub struct BadReference {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub reason: String,
}

/// An image's name, complete: where it lives, what it is called there, and which version is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// The registry, `docker.io` if the name had none.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The name within the registry: `library/web`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name without tag and digest as a person writes it: `web`, `ghcr.io/owner/web`.
    #[must_use]
    pub fn repository(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            self.path.strip_prefix(LIBRARY).unwrap_or(&self.path).to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The tag; `latest` if the name had neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, for a name that pins one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The whole reference as a person writes it: `web:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_version(self.repository())
    }

    /// The same name without the tag if there is a digest, which says more than it.
    #[must_use]
    pub fn pinned(&self) -> Self {
        let mut name = self.clone();
        name.tag = name.tag.filter(|_| name.digest.is_none());
        name
    }

    /// Whether both name the same repository, whatever the version.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    fn with_version(&self, mut name: String) -> String {
        for (mark, part) in [(':', &self.tag), ('@', &self.digest)] {
            if let Some(part) = part {
                name.push(mark);
                name.push_str(part);
            }
        }
        name
    }
}

/// The complete form, as the content store names images: `docker.io/library/web:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_version(format!("{}/{}", self.domain, self.path)))
    }
}

impl TryFrom<String> for Reference {
    type Error = BadReference;
    fn try_from(text: String) -> Result<Self, BadReference> {
        text.parse()
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        parse(text).map_err(|reason| BadReference { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if digest::is_hex(text, 64..=64) {
        return Err("64 hex digits are an image's id, and cannot be a name".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
        _ => (rest, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain(first) => (check_domain(first)?, path),
        _ => (DEFAULT_DOMAIN, name),
    };
    check_path(path)?;
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{LIBRARY}{path}") } else { path.to_owned() };
    if domain.len() + 1 + path.len() > LONGEST_NAME {
        return Err(format!("it is longer than {LONGEST_NAME} characters"));
    }
    let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
    Ok(Reference { domain: domain.to_owned(), path, tag, digest: digest.map(str::to_owned) })
}

/// Docker tells a registry from a part of the path by its look.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.contains(|c: char| c.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<&str, String> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let good_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    if !good_host || port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("{domain:?} is not a registry's host[:port]"));
    }
    // The old name of the same registry.
    Ok(if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain })
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("it names nothing; a name looks like web, web:1.2 or ghcr.io/owner/web".to_owned());
    }
    if path.contains(|c: char| c.is_ascii_uppercase()) {
        return Err(format!("it must be lowercase: {}", path.to_ascii_lowercase()));
    }
    for part in path.split('/') {
        if !is_path_component(part) {
            return Err(format!(
                "{part:?} must be lowercase letters and digits, with single '.', '_', '__' or '-' between them"
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_in_words = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    ends_in_words
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<&str, String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    if tag.len() <= 128 && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
        return Ok(tag);
    }
    Err(format!("the tag {tag:?} must be 1 to 128 letters, digits, '_', '.' or '-', and not begin with '.' or '-'"))
}

fn check_digest(digest: &str) -> Result<&str, String> {
    match digest::hex(digest) {
        Some(_) => Ok(digest),
        None => Err(format!("the digest {digest:?} must be sha256: and 64 lowercase hex digits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_and_shortened_as_docker_does() {
        let at = format!("web@{DIGEST}");
        for (given, full, familiar) in [
            ("web", "docker.io/library/web:latest", "web:latest"),
            ("web:1.2", "docker.io/library/web:1.2", "web:1.2"),
            ("me/web", "docker.io/me/web:latest", "me/web:latest"),
            ("docker.io/web", "docker.io/library/web:latest", "web:latest"),
            ("index.docker.io/me/web", "docker.io/me/web:latest", "me/web:latest"),
            ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
            ("ghcr.io/o/n_a__b--c.d", "ghcr.io/o/n_a__b--c.d:latest", "ghcr.io/o/n_a__b--c.d:latest"),
            ("[::1]:80/x", "[::1]:80/x:latest", "[::1]:80/x:latest"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            (&at, &format!("docker.io/library/web@{DIGEST}"), &at),
            (&format!("web:1@{DIGEST}"), &format!("docker.io/library/web:1@{DIGEST}"), &format!("web:1@{DIGEST}")),
        ] {
            let reference: Reference = given.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar), "{given}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "the full form of {given} means the same");
        }
        assert_eq!("ghcr.io/o/n:1".parse::<Reference>().unwrap().repository(), "ghcr.io/o/n");
    }

    #[test]
    fn bad_names_say_which_rule_they_break() {
        let long = "a".repeat(256);
        for (given, words) in [
            ("", "names nothing"),
            ("Web", "lowercase: web"),
            ("a/Web", "lowercase"),
            ("a//b", "\"\" must be"),
            ("web:", "the tag"),
            ("web:.x", "the tag"),
            ("web:a b", "the tag"),
            ("-web", "\"-web\" must be"),
            ("a..b", "\"a..b\""),
            ("a___b", "\"a___b\""),
            ("a/b_", "\"b_\""),
            ("../etc", "not a registry"),
            ("host:x/y", "not a registry"),
            ("web@sha256:12", "the digest"),
            (&DIGEST[7..], "an image's id"),
            (&long, "longer than 255"),
        ] {
            let error = given.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(words), "{given}: {error}");
        }
    }
}
