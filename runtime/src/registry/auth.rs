//! A challenge and credentials → what is sent along: Basic (RFC 7617), or a bearer token from the service that the
//! registry names (<https://distribution.github.io/distribution/spec/auth/token/> and `/oauth/`).

use super::credentials::Credential;
use super::hosts::Trust;
use super::transport::{Ask, Payload, Transport, read_to_limit};
use super::{RegistryError, Result, error};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A token service has no reason to say more than this.
const LONGEST_ANSWER: usize = 1 << 20;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token, from here.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge of an answer; a token before a password if there is a choice.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| parse(value.to_str().ok()?));
    let mut found: Vec<Challenge> = all.collect();
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found.into_iter().next()
}

/// One `WWW-Authenticate` (RFC 9110, section 11.6.1): a scheme and `key="value"` pairs.
fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut values, mut rest) = (BTreeMap::new(), rest.trim_start());
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    let realm = values.remove("realm")?;
    Some(Challenge::Bearer { realm, service: values.remove("service"), scope: values.remove("scope") })
}

/// Who asks, and for what.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    /// The host that wants to know.
    pub host: &'a str,
    /// The registry's name.
    pub registry: &'a str,
    /// What is asked, in words.
    pub what: &'a str,
    /// What the token is for: `repository:web:pull`.
    pub scopes: &'a [String],
    /// How the host is told from others.
    pub trust: &'a Trust,
    /// Who we are.
    pub credential: Option<&'a Credential>,
}

impl Asker<'_> {
    /// What answers the challenge.
    pub async fn answer(&self, challenge: &Challenge) -> Result<HeaderValue> {
        match (challenge, self.credential) {
            (Challenge::Basic, Some(Credential::Password { user, password })) => basic(user, password),
            (Challenge::Basic, Some(Credential::IdentityToken(_))) => {
                Err(self.turned_away("it wants a password, and there is a token only".to_owned()))
            }
            (Challenge::Basic, None) => Err(self.turned_away(String::new())),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                sensitive(format!("Bearer {token}")).ok_or_else(|| self.odd(realm, "its token is no header"))
            }
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String> {
        let uri: Uri = realm.parse().map_err(|_| self.odd(realm, "the registry names it, and it is no address"))?;
        let authority = uri.authority().ok_or_else(|| self.odd(realm, "it names no host"))?.to_string();
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(service.map(|service| ("service", service)));
        match self.scopes {
            // What the registry asks for is all that is known, as with `login`.
            [] => fields.extend(scope.map(|scope| ("scope", scope))),
            scopes => fields.extend(scopes.iter().map(|scope| ("scope", scope.as_str()))),
        }
        let mut ask = Ask { what: "a token".to_owned(), ..Ask::default() };
        let mut authorize = None;
        if let Some(Credential::IdentityToken(token)) = self.credential {
            let joined = self.scopes.join(" ");
            fields.retain(|(name, _)| *name != "scope");
            fields.extend([("grant_type", "refresh_token"), ("client_id", "sampan"), ("refresh_token", token)]);
            fields.push(("scope", if joined.is_empty() { scope.unwrap_or_default() } else { &joined }));
            ask.method = Method::POST;
            ask.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            ask.payload = Payload::Bytes(form(&fields).into());
            ask.uri = uri;
        } else {
            if let Some(Credential::Password { user, password }) = self.credential {
                fields.push(("account", user));
                authorize = Some(basic(user, password)?);
            }
            let mark = if uri.query().is_some() { '&' } else { '?' };
            ask.uri =
                format!("{uri}{mark}{}", form(&fields)).parse().map_err(|_| self.odd(realm, "it is no address"))?;
        }
        // A token service beside the registry has the registry's certificate; one elsewhere has one of its own.
        let beside = authority == self.host;
        let trust = if beside { self.trust.clone() } else { Trust::default() };
        let transport = Transport::new(&authority, ask.uri.scheme_str().unwrap_or("https"), &trust)?;
        let answer = transport.send(&ask, authorize).await?;
        let status = answer.status();
        let body = read_to_limit(answer, LONGEST_ANSWER).await.map_err(|reason| self.odd(realm, &reason))?;
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.turned_away(error::words(&body)));
            }
            other => {
                let (host, what) = (authority, format!("a token for {}", self.what));
                return Err(RegistryError::Status {
                    host,
                    what,
                    status: other.to_string(),
                    detail: error::words(&body),
                });
            }
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| self.odd(realm, &e.to_string()))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| self.odd(realm, "there is no token in it"))
    }

    fn turned_away(&self, detail: String) -> RegistryError {
        let (host, registry, what) = (self.host.to_owned(), self.registry.to_owned(), self.what.to_owned());
        RegistryError::Unauthorized { host, registry, what, detail }
    }

    fn odd(&self, realm: &str, reason: &str) -> RegistryError {
        let what = format!("a token for {}", self.what);
        RegistryError::Answer { host: realm.to_owned(), what, reason: reason.to_owned() }
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    let value = sensitive(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    // Base64 is always a header's value.
    value.ok_or_else(|| RegistryError::Config { path: "credentials".into(), reason: "they are no header".to_owned() })
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) })
        };
        for (text, read) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Negotiate", None),
            ("Bearer", None),
            ("Bearer realm=\"https://a/t\"", bearer("https://a/t", None, None)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push\",error=\"invalid_token\"",
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            ("bearer Realm=https://a/t, Service=s", bearer("https://a/t", Some("s"), None)),
            ("Bearer realm=\"unclosed", None),
        ] {
            assert_eq!(parse(text), read, "{text}");
        }
        let values = ["Basic realm=\"x\"", "Bearer realm=\"https://a\""];
        let headers = values.map(|v| (header::WWW_AUTHENTICATE, HeaderValue::from_static(v)));
        let mut all = HeaderMap::new();
        headers.into_iter().for_each(|(name, value)| {
            all.append(name, value);
        });
        assert!(matches!(challenge(&all), Some(Challenge::Bearer { .. })));
    }

    #[test]
    fn what_goes_into_an_address_is_escaped() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull,push"), ("account", "a&b")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&account=a%26b"
        );
    }
}
