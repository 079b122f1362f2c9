//! A file of the web, for ADD: no registry's business, but the same connections, redirects and patience.

use super::hosts::Trust;
use super::transport::{self, Ask, Transport};
use super::{RegistryError, Result};
use http::{StatusCode, Uri, header};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

/// A file that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server does not give it.
    #[error("the server answered {0}")]
    Refused(StatusCode),
    /// What a registry's answer could have failed with too.
    #[error(transparent)]
    Failed(#[from] RegistryError),
}

/// Fetches `http://…` or `https://…` into a file, which bears the time that the server says (`Last-Modified`).
///
/// # Errors
/// When the address is none, the server cannot be reached or refuses, or the file cannot be written; it may then hold
/// a part.
pub async fn fetch(url: &str, into: &Path) -> Result<(), FetchError> {
    let odd = |reason: String| RegistryError::Config { path: url.into(), reason };
    let uri: Uri = url.parse().map_err(|e| odd(format!("it is no address: {e}")))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(odd("an address begins with http:// or https:// and a host".to_owned()).into());
    };
    let transport = Transport::new(authority.as_str(), scheme, &Trust::default())?;
    let ask = Ask { what: url.to_owned(), uri: uri.clone(), ..Ask::default() };
    let answer = transport.send(&ask, None).await?;
    let host = authority.to_string();
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Refused(answer.status()));
    }
    let modified = answer.headers().get(header::LAST_MODIFIED).and_then(|value| value.to_str().ok()).and_then(time);
    let mut body = answer.into_body();
    let mut file = File::create(into).map_err(RegistryError::file("create", into))?;
    let broken = |reason| RegistryError::Unreachable { host: host.clone(), reason };
    while let Some(piece) = transport::next(&mut body).await.map_err(broken)? {
        file.write_all(&piece).map_err(RegistryError::file("write", into))?;
    }
    if let Some(modified) = modified {
        file.set_modified(modified).map_err(RegistryError::file("set the time of", into))?;
    }
    Ok(())
}

/// A date as HTTP writes it (RFC 9110, section 5.6.7).
fn time(text: &str) -> Option<SystemTime> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned(text).ok()?;
    Some(zoned.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_file() {
        let known = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(784_111_777);
        assert_eq!(time("Sun, 06 Nov 1994 08:49:37 GMT"), Some(known));
        assert_eq!(time("yesterday"), None);
    }
}
