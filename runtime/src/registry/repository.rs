//! One repository at its endpoints: manifests, blobs, uploads (OCI distribution specification v1.1, "Endpoints").

use super::auth::{self, Asker};
use super::hosts::Endpoint;
use super::transport::{self, Ask, Counter, Payload, Transport, follow, read_to_limit};
use super::{Registries, RegistryError, Result, error};
use crate::digest;
use crate::image::Reference;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::Path;
use tokio::sync::Mutex;

/// Manifests and configs are held in memory. The specification lets registries refuse manifests above 4 MiB.
pub(super) const LONGEST_DOCUMENT: u64 = 4 << 20;
const LONGEST_ERROR: usize = 64 << 10;

/// The kinds of manifest that are asked for.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

/// A manifest, as it came and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is, as the registry said.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Existed,
    /// The registry took it over from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// One repository of a registry.
#[derive(Debug)]
pub struct Repository {
    registry: String,
    path: String,
    peers: Vec<Peer>,
}

/// One endpoint, and what is known of it.
#[derive(Debug)]
pub(super) struct Peer {
    endpoint: Endpoint,
    transport: Transport,
    /// The registry that is meant, which mirrors are told.
    namespace: String,
    /// The name that one logs in under.
    registry: String,
    scopes: Vec<String>,
    credential: Option<super::Credential>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Repository {
    /// The repository that a reference names. `sources` are other repositories of the registry that blobs may be mounted
    /// from.
    ///
    /// # Errors
    /// When the configuration of the registry or the credentials cannot be read.
    pub async fn open(all: &Registries, reference: &Reference, access: Access, sources: &[String]) -> Result<Self> {
        let (registry, path) = (reference.domain(), reference.path());
        let rights = if access == Access::Push { "pull,push" } else { "pull" };
        let own = format!("repository:{path}:{rights}");
        let others = sources.iter().map(|source| format!("repository:{source}:pull"));
        let scopes: Vec<String> = std::iter::once(own).chain(others).collect();
        let peers = open_peers(all, registry, path, &scopes).await?;
        Ok(Self { registry: registry.to_owned(), path: path.to_owned(), peers })
    }

    /// Asks for nothing but whether we are let in, as `login` does.
    ///
    /// # Errors
    /// When the registry cannot be reached, or does not let us in.
    pub async fn check_login(all: &Registries, registry: &str) -> Result<()> {
        let peers = open_peers(all, registry, "", &[]).await?;
        let peer =
            peers.iter().find(|peer| peer.endpoint.is_origin).ok_or_else(|| none_that("be logged in to", registry))?;
        let ask = Ask { uri: peer.uri("/")?, what: "you".to_owned(), ..Ask::default() };
        let answer = peer.send(&ask).await?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ => Err(peer.refusal(&ask, answer).await),
        }
    }

    /// The peers that can do something, in their order.
    pub(super) fn peers(&self, can: fn(&Endpoint) -> bool) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(move |peer| can(&peer.endpoint))
    }

    /// The one that is written to.
    fn target(&self) -> Result<&Peer> {
        // A mirror that may be pushed to goes before the registry, as containerd has it.
        self.peers(|e| e.push).next().ok_or_else(|| none_that("be pushed to", &self.registry))
    }

    /// The manifest of a tag or digest, from the first endpoint that has it.
    ///
    /// # Errors
    /// What the last endpoint said if none has it; a manifest that is not what its digest says.
    pub async fn manifest(&self, version: &str) -> Result<Fetched> {
        let by_digest = version.contains(':');
        let mut last = none_that("be asked", &self.registry);
        for peer in self.peers(if by_digest { |e| e.pull } else { |e| e.resolve }) {
            match self.manifest_at(peer, version).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn manifest_at(&self, peer: &Peer, version: &str) -> Result<Fetched> {
        let mark = if version.contains(':') { '@' } else { ':' };
        let what = format!("{}{mark}{version}", self.name());
        let mut ask = Ask { uri: peer.uri(&format!("/{}/manifests/{version}", self.path))?, what, ..Ask::default() };
        ask.headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let answer = peer.success(&ask, &[StatusCode::OK]).await?;
        let media_type = text(answer.headers(), "content-type").unwrap_or_default().to_owned();
        let said = text(answer.headers(), "docker-content-digest").map(str::to_owned);
        let bytes = peer.document(&ask, answer).await?;
        let digest = digest::of(&bytes);
        let wanted = if version.contains(':') { Some(version.to_owned()) } else { said };
        // A registry may know a manifest by another algorithm's digest; that is not ours to check.
        match wanted.filter(|wanted| *wanted != digest && wanted.starts_with("sha256:")) {
            Some(wanted) => Err(RegistryError::Digest { host: peer.host(), what: ask.what, wanted, found: digest }),
            None => Ok(Fetched { bytes, media_type, digest }),
        }
    }

    /// A small blob, whole and verified.
    ///
    /// # Errors
    /// When no endpoint has it, it is larger than a document may be, or not what its digest says.
    pub async fn document(&self, digest: &str, size: u64) -> Result<Bytes> {
        let what = format!("{}@{digest}", self.name());
        let mut last = none_that("be asked", &self.registry);
        for peer in self.peers(|e| e.pull) {
            if size > LONGEST_DOCUMENT {
                return Err(RegistryError::Size { host: peer.host(), what, wanted: LONGEST_DOCUMENT, found: size });
            }
            match self.document_at(peer, digest, size, &what).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn document_at(&self, peer: &Peer, digest: &str, size: u64, what: &str) -> Result<Bytes> {
        let ask = Ask { uri: peer.uri(&self.blob_path(digest))?, what: what.to_owned(), ..Ask::default() };
        let answer = peer.success(&ask, &[StatusCode::OK]).await?;
        let bytes = peer.document(&ask, answer).await?;
        let (host, what) = (peer.host(), ask.what);
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != size {
            return Err(RegistryError::Size { host, what, wanted: size, found });
        }
        match digest::of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(RegistryError::Digest { host, what, wanted: digest.to_owned(), found }),
        }
    }

    /// Sees to it that the repository has this blob, which lies in a file: looks, mounts it from `source`, or sends it.
    ///
    /// # Errors
    /// When the registry cannot be reached or does not take it.
    pub async fn put_blob(
        &self,
        (digest, size): (&str, u64),
        file: &Path,
        source: Option<&str>,
        counter: &Counter,
    ) -> Result<Uploaded> {
        let peer = self.target()?;
        let what = format!("{}@{digest}", self.name());
        let head =
            Ask { method: Method::HEAD, uri: peer.uri(&self.blob_path(digest))?, what: what.clone(), ..Ask::default() };
        if peer.send(&head).await?.status() == StatusCode::OK {
            return Ok(Uploaded::Existed);
        }
        // An upload that broke off begins anew, at a new place.
        let mut attempt = 1;
        loop {
            let from = source.filter(|_| attempt == 1);
            match self.upload(peer, digest, Payload::File(file.to_owned(), size, counter.clone()), from, &what).await {
                Err(RegistryError::Unreachable { .. } | RegistryError::Status { .. }) if attempt < 4 => {
                    tokio::time::sleep(transport::pause(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn upload(
        &self,
        peer: &Peer,
        digest: &str,
        payload: Payload,
        source: Option<&str>,
        what: &str,
    ) -> Result<Uploaded> {
        let escaped = utf8_percent_encode(digest, NON_ALPHANUMERIC);
        let query = source.map_or_else(String::new, |source| {
            format!("?mount={escaped}&from={}", utf8_percent_encode(source, NON_ALPHANUMERIC))
        });
        let begin = Ask {
            method: Method::POST,
            uri: peer.uri(&format!("/{}/blobs/uploads/{query}", self.path))?,
            what: format!("a place for {what}"),
            ..Ask::default()
        };
        let answer = peer.success(&begin, &[StatusCode::ACCEPTED, StatusCode::CREATED]).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        let odd = |reason| RegistryError::Answer { host: peer.host(), what: begin.what.clone(), reason };
        let place = follow(&begin.uri, answer.headers()).map_err(odd)?;
        let mark = if place.query().is_some() { '&' } else { '?' };
        let uri =
            format!("{place}{mark}digest={escaped}").parse().map_err(|_| odd(format!("{place} is no address")))?;
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]);
        let send = Ask { method: Method::PUT, uri, headers, payload, what: format!("a place for {what}") };
        peer.success(&send, &[StatusCode::CREATED, StatusCode::NO_CONTENT]).await?;
        Ok(Uploaded::Sent)
    }

    /// Puts a manifest under a tag. Its blobs must be there.
    ///
    /// # Errors
    /// When the registry cannot be reached, does not take it, or understands another digest by it.
    pub async fn put_manifest(&self, tag: &str, media_type: &str, bytes: Bytes) -> Result<()> {
        let peer = self.target()?;
        let wanted = digest::of(&bytes);
        let mut ask = Ask {
            method: Method::PUT,
            uri: peer.uri(&format!("/{}/manifests/{tag}", self.path))?,
            payload: Payload::Bytes(bytes),
            what: format!("a place for {}:{tag}", self.name()),
            ..Ask::default()
        };
        let odd = |reason| RegistryError::Answer { host: peer.host(), what: ask.what.clone(), reason };
        let (name, value) = transport::header("content-type", media_type).map_err(odd)?;
        ask.headers.insert(name, value);
        let answer = peer.success(&ask, &[StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED]).await?;
        match text(answer.headers(), "docker-content-digest") {
            Some(found) if found != wanted => {
                Err(RegistryError::Digest { host: peer.host(), what: ask.what, wanted, found: found.to_owned() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn blob_path(&self, digest: &str) -> String {
        format!("/{}/blobs/{digest}", self.path)
    }

    /// The repository in words.
    pub(super) fn name(&self) -> &str {
        &self.path
    }
}

async fn open_peers(all: &Registries, registry: &str, path: &str, scopes: &[String]) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for mut endpoint in all.hosts.endpoints(registry)? {
        let mut transport = Transport::new(&endpoint.authority, &endpoint.scheme, &endpoint.trust)?;
        if endpoint.or_plain && !speaks_tls(&endpoint).await {
            "http".clone_into(&mut endpoint.scheme);
            transport = Transport::new(&endpoint.authority, "http", &endpoint.trust)?;
        }
        let whose = if endpoint.is_origin { registry } else { &endpoint.authority };
        let credential = all.credentials.get(whose, path)?;
        peers.push(Peer {
            namespace: registry.to_owned(),
            registry: whose.to_owned(),
            scopes: scopes.to_vec(),
            endpoint,
            transport,
            credential,
            authorization: Mutex::default(),
        });
    }
    Ok(peers)
}

/// Whether a registry of this machine speaks TLS.
async fn speaks_tls(endpoint: &Endpoint) -> bool {
    let Ok(transport) = Transport::new(&endpoint.authority, "https", &endpoint.trust) else { return true };
    let Ok(uri) = format!("https://{}{}/", endpoint.authority, endpoint.prefix).parse() else { return true };
    let ask = Ask { method: Method::HEAD, uri, what: "TLS".to_owned(), ..Ask::default() };
    transport.answers(&ask).await
}

fn none_that(can: &str, registry: &str) -> RegistryError {
    RegistryError::Config {
        path: "hosts.toml".into(),
        reason: format!("no host of the registry {registry} may {can}; see its capabilities"),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

impl Peer {
    pub fn host(&self) -> String {
        self.endpoint.authority.clone()
    }

    pub fn uri(&self, path: &str) -> Result<Uri> {
        let Endpoint { scheme, authority, prefix, is_origin, .. } = &self.endpoint;
        // A mirror may serve several registries, and is told which one is meant.
        let mark = if path.contains('?') { '&' } else { '?' };
        let query = if *is_origin { String::new() } else { format!("{mark}ns={}", self.namespace) };
        format!("{scheme}://{authority}{prefix}{path}{query}").parse().map_err(|e: http::uri::InvalidUri| {
            RegistryError::Answer { host: self.host(), what: path.to_owned(), reason: e.to_string() }
        })
    }

    /// Sends a request with what the registry wants to see of us.
    pub async fn send(&self, ask: &Ask) -> Result<Response<Incoming>> {
        let mut ask = ask.clone();
        for (name, value) in &self.endpoint.headers {
            let bad = |reason| RegistryError::Config { path: "hosts.toml".into(), reason };
            let (name, value) = transport::header(name, value).map_err(bad)?;
            ask.headers.append(name, value);
        }
        let shown = self.authorization.lock().await.clone();
        let answer = self.transport.send(&ask, shown.clone()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(challenge) = auth::challenge(answer.headers()) else { return Ok(answer) };
        let fresh = {
            // Of several requests that are turned away at once, one asks for a token.
            let mut known = self.authorization.lock().await;
            if *known == shown {
                let host = self.host();
                let asker = Asker {
                    host: &host,
                    registry: &self.registry,
                    what: &ask.what,
                    scopes: &self.scopes,
                    trust: &self.endpoint.trust,
                    credential: self.credential.as_ref(),
                };
                *known = Some(asker.answer(&challenge).await?);
            }
            known.clone()
        };
        self.transport.send(&ask, fresh).await
    }

    /// Sends a request, and takes any other status than these for a failure.
    pub async fn success(&self, ask: &Ask, wanted: &[StatusCode]) -> Result<Response<Incoming>> {
        let answer = self.send(ask).await?;
        if wanted.contains(&answer.status()) { Ok(answer) } else { Err(self.refusal(ask, answer).await) }
    }

    /// What an answer says that is no success.
    pub async fn refusal(&self, ask: &Ask, answer: Response<Incoming>) -> RegistryError {
        let status = answer.status();
        let detail = read_to_limit(answer, LONGEST_ERROR).await.map(|body| error::words(&body)).unwrap_or_default();
        let (host, what) = (self.host(), ask.what.clone());
        match status {
            StatusCode::UNAUTHORIZED => {
                RegistryError::Unauthorized { host, registry: self.registry.clone(), what, detail }
            }
            StatusCode::FORBIDDEN => RegistryError::Denied { host, what, detail },
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, detail },
            other => RegistryError::Status { host, what, status: other.to_string(), detail },
        }
    }

    async fn document(&self, ask: &Ask, answer: Response<Incoming>) -> Result<Bytes> {
        let limit = usize::try_from(LONGEST_DOCUMENT).unwrap_or(usize::MAX);
        let host = self.host();
        match read_to_limit(answer, limit + 1).await {
            Ok(bytes) if bytes.len() > limit => {
                let reason = format!("it is larger than {LONGEST_DOCUMENT} bytes");
                Err(RegistryError::Answer { host, what: ask.what.clone(), reason })
            }
            Ok(bytes) => Ok(bytes),
            Err(reason) => Err(RegistryError::Unreachable { host, reason }),
        }
    }
}
