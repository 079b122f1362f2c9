//! What goes wrong with registries.

use std::path::PathBuf;

/// What goes wrong with registries.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answers, or the connection broke too often.
    #[error("cannot reach the registry {host}: {reason}")]
    Unreachable {
        /// The host, as it was asked.
        host: String,
        /// What the system or the TLS library said.
        reason: String,
    },
    /// Nothing came for a long time.
    #[error("the registry {host} fell silent for {seconds} seconds during {what}; try again, what has come is kept")]
    Silent {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// 401, or the token service's no.
    #[error("{host} wants to know who asks for {what}{}: log in with `sampan login {registry}`, or the name is wrong", said(.detail))]
    Unauthorized {
        /// The host.
        host: String,
        /// The registry's name, for `login`.
        registry: String,
        /// What was asked.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// 403.
    #[error("{host} does not give you {what}{}", said(.detail))]
    Denied {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// 404.
    #[error("{host} has no {what}{}", said(.detail))]
    NotFound {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// Any other answer that is no success.
    #[error("{host} answered {status} when asked for {what}{}", said(.detail))]
    Status {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// The status and its name.
        status: String,
        /// The registry's own words.
        detail: String,
    },
    /// What came is not what its digest says.
    #[error(
        "{host} sent something else for {what}: its digest is {found}, and {wanted} was wanted; nothing of it is kept"
    )]
    Digest {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// The digest that was asked for.
        wanted: String,
        /// The digest of what came.
        found: String,
    },
    /// What came is longer or shorter than was said.
    #[error("{host} sent {found} bytes of {what}, which has {wanted} by the manifest; nothing of it is kept")]
    Size {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// The size that the manifest says.
        wanted: u64,
        /// What came, or more.
        found: u64,
    },
    /// An answer that is not what the specification says.
    #[error("{host} answered the question for {what} in a way that no registry should: {reason}")]
    Answer {
        /// The host.
        host: String,
        /// What was asked.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of our own configuration.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that keeps credentials.
    #[error("the credential helper docker-credential-{helper} failed: {reason}")]
    Helper {
        /// Its name.
        helper: String,
        /// What it said.
        reason: String,
    },
    /// A file of this machine, on the way to or from a registry.
    #[error("cannot {action} {}: {reason}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl RegistryError {
    /// Wraps what the system said of a file; for `map_err`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |e| Self::File { action, path, reason: e.to_string() }
    }

    /// Whether what came was not what was asked for.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Size { .. })
    }
}

/// A registry's own words, from the body of an answer that is no success
/// (OCI distribution specification, "Error Codes"): at most a line of them.
pub(super) fn words(body: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(body);
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let told = json.as_ref().and_then(|json| {
        let first = json.get("errors").and_then(|errors| errors.get(0)).unwrap_or(json);
        let message = first.get("message").or_else(|| first.get("details")).and_then(|m| m.as_str());
        message.filter(|m| !m.is_empty()).or_else(|| first.get("code").and_then(|c| c.as_str())).map(str::to_owned)
    });
    // A page for people is none for a terminal.
    let plain = || if text.trim_start().starts_with('<') { String::new() } else { text.into_owned() };
    let line = told.unwrap_or_else(plain).split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_quoted_in_one_line() {
        for (body, line) in [
            (r#"{"errors":[{"code":"DENIED","message":"requested access\nis denied"}]}"#, "requested access is denied"),
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":""}]}"#, "MANIFEST_UNKNOWN"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("404 page not found\n", "404 page not found"),
            ("<html>no</html>", ""),
            ("\u{1b}[31mred", "[31mred"),
            ("", ""),
        ] {
            assert_eq!(words(body.as_bytes()), line);
        }
    }
}
