//! `certs.d/<host>/hosts.toml` → the endpoints of a registry, as containerd reads it
//! (<https://github.com/containerd/containerd/blob/main/docs/hosts.md>): mirrors in the order of the file, then the
//! server itself. A directory without that file is read as Docker does: `*.crt` are roots, `*.cert` and `*.key` are us.

use super::{RegistryError, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The directories that say where registries are; the first that knows a registry counts.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    dirs: Vec<PathBuf>,
}

/// One address at which a registry can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `https` or `http`.
    pub scheme: String,
    /// Host and port, as it is asked.
    pub authority: String,
    /// What stands before `/<name>/…`: `/v2`, or what the file says.
    pub prefix: String,
    /// Whether tags can be resolved here.
    pub resolve: bool,
    /// Whether content can be fetched by digest here.
    pub pull: bool,
    /// Whether content can be put here.
    pub push: bool,
    /// Whether this is the registry itself, and no mirror.
    pub is_origin: bool,
    /// Whether plain HTTP is tried when this speaks no TLS.
    pub or_plain: bool,
    /// How it is told from others.
    pub trust: Trust,
    /// Headers that are sent along.
    pub headers: Vec<(String, String)>,
}

/// Whom to believe, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// Any certificate will do.
    pub skip_verify: bool,
    /// Files of roots besides the system's.
    pub roots: Vec<PathBuf>,
    /// Our certificate and its key; both may lie in one file.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Host,
    #[serde(default)]
    host: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    #[serde(default)]
    header: std::collections::BTreeMap<String, OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Hosts {
    /// `SAMPAN_CERTS_D` (directories between colons), or the usual ones: `$XDG_CONFIG_HOME/sampan/certs.d`,
    /// `/etc/sampan/certs.d`, containerd's and Docker's.
    #[must_use]
    pub fn from_env() -> Self {
        if let Some(given) = std::env::var_os("SAMPAN_CERTS_D").filter(|dirs| !dirs.is_empty()) {
            return Self { dirs: std::env::split_paths(&given).collect() };
        }
        let own = crate::config_home().map(|home| home.join("sampan/certs.d"));
        let shared = ["/etc/sampan/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"];
        Self { dirs: own.into_iter().chain(shared.map(PathBuf::from)).collect() }
    }

    /// The endpoints of a registry, in the order in which they are asked.
    pub(super) fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>> {
        for name in [registry, "_default"] {
            for dir in self.dirs.iter().map(|dir| dir.join(name)) {
                if let Some(found) = in_dir(&dir, registry)? {
                    return Ok(found);
                }
            }
        }
        Ok(vec![usual(registry)])
    }
}

fn in_dir(dir: &Path, registry: &str) -> Result<Option<Vec<Endpoint>>> {
    let path = dir.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            return parse(&text, dir, registry).map(Some).map_err(|reason| RegistryError::Config { path, reason });
        }
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
        Err(e) => return Err(RegistryError::Config { path, reason: e.to_string() }),
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|f| f.path()).collect();
    files.sort();
    let with =
        |extension: &'static str| files.iter().filter(move |f| f.extension().is_some_and(|e| e == extension)).cloned();
    let client = with("cert").next().map(|cert| (cert.clone(), cert.with_extension("key")));
    let trust = Trust { skip_verify: false, roots: with("crt").collect(), client };
    if trust == Trust::default() {
        return Ok(None);
    }
    Ok(Some(vec![Endpoint { trust, ..usual(registry) }]))
}

/// What a registry's endpoint is where nothing is said of it.
fn usual(registry: &str) -> Endpoint {
    // Docker Hub's name and its registry's have never been the same.
    let authority = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let local = is_local(authority);
    Endpoint {
        scheme: "https".to_owned(),
        authority: authority.to_owned(),
        prefix: "/v2".to_owned(),
        resolve: true,
        pull: true,
        push: true,
        is_origin: true,
        // As Docker treats registries of this machine.
        or_plain: local,
        trust: Trust { skip_verify: local, ..Trust::default() },
        headers: Vec::new(),
    }
}

/// Whether the address is of this machine: `localhost`, 127.0.0.0/8, `[::1]`.
fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn parse(text: &str, dir: &Path, registry: &str) -> Result<Vec<Endpoint>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string().trim().replace('\n', " "))?;
    let mut all = Vec::new();
    for (url, host) in file.host {
        let host: Host = host.try_into().map_err(|e| format!("[host.\"{url}\"]: {}", e.to_string().trim()))?;
        all.push(endpoint(&url, host, dir)?);
    }
    let own = match &file.server {
        Some(url) => endpoint(url, file.own, dir)?,
        None => {
            let usual = usual(registry);
            let said = endpoint(&usual.authority, file.own, dir)?;
            let skip_verify = said.trust.skip_verify || usual.trust.skip_verify;
            Endpoint { or_plain: usual.or_plain, trust: Trust { skip_verify, ..said.trust }, ..said }
        }
    };
    // A server that is listed as a host too is asked once, in the place and the way that the list has it.
    match all.iter_mut().find(|e| (&e.scheme, &e.authority, &e.prefix) == (&own.scheme, &own.authority, &own.prefix)) {
        Some(listed) => listed.is_origin = true,
        None => all.push(Endpoint { is_origin: true, ..own }),
    }
    Ok(all)
}

fn endpoint(url: &str, host: Host, dir: &Path) -> Result<Endpoint, String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => return Err(format!("{url:?} has the scheme {scheme:?}; http and https are known")),
        None => ("https", url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.parse::<http::uri::Authority>().is_err() {
        return Err(format!("{url:?} names no host"));
    }
    let authority = if authority == "docker.io" { "registry-1.docker.io" } else { authority };
    let path = path.trim_matches('/');
    let prefix = match (path, host.override_path.unwrap_or(false)) {
        ("", true) => String::new(),
        (path, true) => format!("/{path}"),
        ("", false) => "/v2".to_owned(),
        (path, false) if path == "v2" || path.ends_with("/v2") => format!("/{path}"),
        (path, false) => format!("/{path}/v2"),
    };
    let can = |what: &str| host.capabilities.as_ref().is_none_or(|all| all.iter().any(|c| c == what));
    let (resolve, pull, push) = (can("resolve"), can("pull"), can("push"));
    if let Some(unknown) =
        host.capabilities.iter().flatten().find(|c| !matches!(c.as_str(), "resolve" | "pull" | "push" | "referrers"))
    {
        return Err(format!("{unknown:?} is no capability; resolve, pull and push are"));
    }
    let headers = host.header.into_iter().flat_map(|(name, values)| {
        values.all().into_iter().map(move |value| (name.clone(), value)).collect::<Vec<_>>()
    });
    let trust = Trust {
        skip_verify: host.skip_verify.unwrap_or(false),
        roots: host.ca.map(OneOrMany::all).unwrap_or_default().into_iter().map(|ca| dir.join(ca)).collect(),
        client: host.client.map(|client| client_files(&client, dir)).transpose()?,
    };
    Ok(Endpoint {
        scheme: scheme.to_owned(),
        authority: authority.to_owned(),
        prefix,
        resolve,
        pull,
        push,
        is_origin: false,
        or_plain: false,
        trust,
        headers: headers.collect(),
    })
}

/// `"both.pem"`, `["both.pem"]`, `["cert.pem", "key.pem"]` inside a list: containerd takes all of them; the first pair
/// is what we show.
fn client_files(value: &toml::Value, dir: &Path) -> Result<(PathBuf, PathBuf), String> {
    use toml::Value::{Array, String};
    match value {
        String(both) => Ok((dir.join(both), dir.join(both))),
        Array(list) => match list.as_slice() {
            [String(both), ..] => Ok((dir.join(both), dir.join(both))),
            [Array(pair), ..] => match pair.as_slice() {
                [String(cert), String(key)] if !key.is_empty() => Ok((dir.join(cert), dir.join(key))),
                [String(both), ..] => Ok((dir.join(both), dir.join(both))),
                _ => Err("client is a list of pairs of files: [[\"cert.pem\", \"key.pem\"]]".to_owned()),
            },
            _ => Err("client is an empty list".to_owned()),
        },
        _ => Err("client is a file or a list of files".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;

    fn shown(endpoints: &[Endpoint]) -> Vec<String> {
        let can = |e: &Endpoint| {
            let all = [(e.resolve, 'r'), (e.pull, 'p'), (e.push, 'P'), (e.is_origin, '*'), (e.trust.skip_verify, '!')];
            all.into_iter().filter(|(is, _)| *is).map(|(_, c)| c).collect::<String>()
        };
        endpoints.iter().map(|e| format!("{}://{}{} {}", e.scheme, e.authority, e.prefix, can(e))).collect()
    }

    #[test]
    fn a_registry_nobody_speaks_of_is_asked_itself() {
        let hosts = Hosts { dirs: vec!["/none/such".into()] };
        let of = |registry| shown(&hosts.endpoints(registry).unwrap());
        assert_eq!(of("docker.io"), ["https://registry-1.docker.io/v2 rpP*"]);
        assert_eq!(of("ghcr.io"), ["https://ghcr.io/v2 rpP*"]);
        assert_eq!(of("127.0.0.2:5000"), ["https://127.0.0.2:5000/v2 rpP*!"]);
        for (name, local) in [("localhost", true), ("localhost:1", true), ("[::1]:5", true), ("10.0.0.1:1", false)] {
            assert_eq!(is_local(name), local, "{name}");
            assert_eq!(hosts.endpoints(name).unwrap()[0].or_plain, local, "{name}");
        }
    }

    #[test]
    fn mirrors_come_first_and_in_their_order() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              ca = "z.crt"
              [host."https://z.example".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."http://a.example:5000/some/path"]
              capabilities = ["pull"]
              skip_verify = true
              client = [["c.pem", "k.pem"]]
            [host."https://b.example/v2/proxy"]
              override_path = true
        "#;
        let all = parse(text, Path::new("/d"), "docker.io").unwrap();
        assert_eq!(
            shown(&all),
            [
                "https://z.example/v2 rp",
                "http://a.example:5000/some/path/v2 p!",
                "https://b.example/v2/proxy rpP",
                "https://registry-1.docker.io/v2 rpP*",
            ]
        );
        assert_eq!(all[0].trust.roots, [PathBuf::from("/d/z.crt")]);
        assert_eq!(all[0].headers.len(), 3);
        assert_eq!(all[1].trust.client, Some(("/d/c.pem".into(), "/d/k.pem".into())));
    }

    #[test]
    fn a_server_that_is_listed_is_asked_once() {
        let text = "server = \"http://r:5000\"\n[host.\"http://r:5000\"]\ncapabilities = [\"pull\"]\n";
        assert_eq!(shown(&parse(text, Path::new("/"), "r:5000").unwrap()), ["http://r:5000/v2 p*"]);
        assert_eq!(shown(&parse("skip_verify = true", Path::new("/"), "r").unwrap()), ["https://r/v2 rpP*!"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("server = 3", "server"),
            ("[host.\"ftp://x\"]", "ftp"),
            ("[host.\"https:// x\"]", "no host"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("client = 3", "client"),
        ] {
            let error = parse(text, Path::new("/"), "r").unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_directory_that_knows_it_counts_and_then_the_default() {
        let dir = temp_dir();
        for (place, name, text) in [
            ("a/_default", "hosts.toml", "server = \"https://default\""),
            ("b/known", "hosts.toml", "server = \"https://b\""),
            ("b/docker", "ca.crt", ""),
            ("b/docker", "me.cert", ""),
        ] {
            std::fs::create_dir_all(dir.join(place)).unwrap();
            std::fs::write(dir.join(place).join(name), text).unwrap();
        }
        let hosts = Hosts { dirs: vec![dir.join("a"), dir.join("b")] };
        assert_eq!(shown(&hosts.endpoints("known").unwrap()), ["https://b/v2 rpP*"]);
        assert_eq!(shown(&hosts.endpoints("other").unwrap()), ["https://default/v2 rpP*"]);
        let docker = &hosts.endpoints("docker").unwrap()[0];
        assert_eq!((docker.authority.as_str(), docker.trust.roots.len()), ("docker", 1));
        assert_eq!(docker.trust.client.as_ref().unwrap().1, dir.join("b/docker/me.key"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
