//! One blob, resumed where it broke off, from whichever endpoint has it.

use super::repository::{Peer, Repository};
use super::transport::{self, Ask};
use super::{RegistryError, Result};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;

/// How often a blob may break off without anything having come.
const FRUITLESS: u32 = 4;

/// Where a blob goes. What is in it already is taken for the blob's beginning.
pub trait Sink: Send {
    /// How much is there.
    fn len(&self) -> u64;

    /// Adds a piece.
    ///
    /// # Errors
    /// When it cannot be written.
    fn push(&mut self, piece: &[u8]) -> Result<()>;

    /// Throws away what is there.
    ///
    /// # Errors
    /// When it cannot be thrown away.
    fn restart(&mut self) -> Result<()>;

    /// The digest of what is there.
    fn digest(&self) -> String;

    /// Whether there is nothing yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Repository {
    /// Fetches a blob of a known size into a sink, going on where it ends; what comes is verified.
    ///
    /// # Errors
    /// What the last endpoint said if none gives it; when what came is not what its digest says, and then the sink is
    /// empty.
    pub async fn download(&self, digest: &str, size: u64, sink: &mut dyn Sink) -> Result<()> {
        let what = format!("{}@{digest}", self.name());
        let mut last = None;
        for peer in self.peers(|e| e.pull) {
            // What an earlier pull has left may be wrong, or another endpoint's lie: then it is fetched once more.
            let mut again = !sink.is_empty();
            loop {
                match self.take_from(peer, digest, size, sink, &what).await {
                    Ok(()) => return Ok(()),
                    Err(error @ RegistryError::File { .. }) => return Err(error),
                    Err(error) => {
                        let lie = error.is_lie();
                        last = Some(error);
                        if lie {
                            sink.restart()?;
                        }
                        if !lie || !std::mem::take(&mut again) {
                            break;
                        }
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Config {
            path: "hosts.toml".into(),
            reason: "no host of the registry may be pulled from; see its capabilities".to_owned(),
        }))
    }

    async fn take_from(&self, peer: &Peer, digest: &str, size: u64, sink: &mut dyn Sink, what: &str) -> Result<()> {
        let mut fruitless = 0;
        while sink.len() < size {
            let before = sink.len();
            let reason = match self.piece(peer, digest, size, sink, what).await? {
                None => "the answer ended too early".to_owned(),
                Some(reason) => reason,
            };
            if sink.len() >= size {
                break;
            }
            fruitless = if sink.len() > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS {
                let reason = format!("{what} broke off again and again: {reason}; what has come is kept");
                return Err(RegistryError::Unreachable { host: peer.host(), reason });
            }
            tokio::time::sleep(transport::pause(fruitless.max(1))).await;
        }
        if sink.len() > size {
            let (host, what, found) = (peer.host(), what.to_owned(), sink.len());
            return Err(RegistryError::Size { host, what, wanted: size, found });
        }
        match sink.digest() {
            found if found == digest => Ok(()),
            found => {
                let (host, what, wanted) = (peer.host(), what.to_owned(), digest.to_owned());
                Err(RegistryError::Digest { host, what, wanted, found })
            }
        }
    }

    /// Takes one answer for as long as it lasts, and says why it ended if that was not its end.
    async fn piece(
        &self,
        peer: &Peer,
        digest: &str,
        size: u64,
        sink: &mut dyn Sink,
        what: &str,
    ) -> Result<Option<String>> {
        let mut ask = Ask { uri: peer.uri(&self.blob_path(digest))?, what: what.to_owned(), ..Ask::default() };
        let from = sink.len();
        if from > 0 {
            let value = HeaderValue::try_from(format!("bytes={from}-"));
            ask.headers.extend(value.map(|value| (header::RANGE, value)));
        }
        let answer = peer.send(&ask).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(answer.headers()) == Some(from) => {}
            // It knows no ranges, or what we have is none of it.
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                sink.restart()?;
                if answer.status() != StatusCode::OK {
                    return Ok(Some("it gave another range than it was asked for".to_owned()));
                }
            }
            StatusCode::OK => {}
            _ => return Err(peer.refusal(&ask, answer).await),
        }
        take(answer, size, sink).await
    }
}

async fn take(answer: Response<Incoming>, size: u64, sink: &mut dyn Sink) -> Result<Option<String>> {
    let mut body = answer.into_body();
    loop {
        match transport::next(&mut body).await {
            Ok(None) => return Ok(None),
            Err(reason) => return Ok(Some(reason)),
            Ok(Some(piece)) => sink.push(&piece)?,
        }
        // Enough to know that it is too long; its end may never come.
        if sink.len() > size {
            return Ok(None);
        }
    }
}

/// The first byte of `Content-Range: bytes 5-9/10` (RFC 9110, section 14.4).
fn starts_at(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_starts() {
        let of = |text| starts_at(&HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(text))]));
        assert_eq!(of("bytes 5-9/10"), Some(5));
        assert_eq!(of("bytes */10"), None);
        assert_eq!(of("lines 1-2/3"), None);
    }
}
