//! Credentials where Docker and Podman keep them: `config.json` and `auth.json` have one form
//! (containers-auth.json(5)), and either may name a program that keeps them (docker-credential-helpers' protocol).

use super::{RegistryError, Result};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value, json};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Docker Hub's name in these files, from before it had version 2.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that says that the secret is a token.
const TOKEN_USER: &str = "<token>";

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password (or what stands for one).
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that its token service takes for a login.
    IdentityToken(String),
}

impl Credential {
    /// What `auth` in these files says: base64 of `user:password`.
    #[must_use]
    pub fn from_basic(auth: &str) -> Option<Self> {
        decode(auth)
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password {{ user: {user:?}, .. }}"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

/// The files that credentials are read from and written to.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Read in this order.
    files: Vec<PathBuf>,
    /// Where `login` writes.
    own: Option<PathBuf>,
    /// One for whoever asks, instead of the files.
    given: Option<Credential>,
}

/// Where credentials went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, readable for whoever can read it.
    File(PathBuf),
    /// With this helper.
    Helper(String),
}

impl Credentials {
    /// `$REGISTRY_AUTH_FILE` alone, if it is set. Otherwise `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, which
    /// is written to as well, then Podman's: `$XDG_RUNTIME_DIR/containers/auth.json` and
    /// `$XDG_CONFIG_HOME/containers/auth.json`.
    #[must_use]
    pub fn from_env() -> Self {
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(file) = env("REGISTRY_AUTH_FILE") {
            return Self { files: vec![file.clone()], own: Some(file), given: None };
        }
        let docker = env("DOCKER_CONFIG").or_else(|| Some(env("HOME")?.join(".docker")));
        let own = docker.map(|dir| dir.join("config.json"));
        let run = env("XDG_RUNTIME_DIR")
            .unwrap_or_else(|| format!("/run/containers/{}", rustix::process::geteuid().as_raw()).into());
        let podman = [run.join("containers/auth.json"), run.join("auth.json")];
        let config = crate::config_home().map(|home| home.join("containers/auth.json"));
        Self { files: own.iter().cloned().chain(podman).chain(config).collect(), own, given: None }
    }

    /// This credential, whoever asks.
    #[must_use]
    pub fn only(credential: Credential) -> Self {
        Self { given: Some(credential), ..Self::default() }
    }

    /// The credential for a repository of a registry; none if nobody has logged in there.
    ///
    /// # Errors
    /// When a file is damaged, or a helper fails.
    pub fn get(&self, registry: &str, path: &str) -> Result<Option<Credential>> {
        if let Some(given) = &self.given {
            return Ok(Some(given.clone()));
        }
        for file in &self.files {
            let Some(config) = read(file)? else { continue };
            if let Some(helper) = helper_of(&config, registry)
                && let Some(found) = ask_helper(helper, &server(registry))?
            {
                return Ok(Some(found));
            }
            if let Some(found) = in_auths(&config, registry, path) {
                return found.map(Some).map_err(|reason| RegistryError::Config { path: file.clone(), reason });
            }
        }
        Ok(None)
    }

    /// Keeps a credential: with the helper that the file names, or else in the file itself, with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be written, or the helper fails.
    pub fn store(&self, registry: &str, credential: &Credential) -> Result<Kept> {
        let (path, mut config) = self.own_file()?;
        let (user, secret) = match credential {
            Credential::Password { user, password } => (user.as_str(), password.as_str()),
            Credential::IdentityToken(token) => (TOKEN_USER, token.as_str()),
        };
        let server = server(registry);
        let entry = match helper_of(&config, registry).map(str::to_owned) {
            Some(helper) => {
                let sent = json!({ "ServerURL": server, "Username": user, "Secret": secret }).to_string();
                run_helper(&helper, "store", &sent)?;
                set_auth(&mut config, &server, json!({}));
                write(&path, &config)?;
                return Ok(Kept::Helper(helper));
            }
            None if user == TOKEN_USER => json!({ "identitytoken": secret }),
            None => {
                json!({ "auth": base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}")) })
            }
        };
        set_auth(&mut config, &server, entry);
        write(&path, &config)?;
        Ok(Kept::File(path))
    }

    /// Forgets the credential for a registry, and says whether there was one.
    ///
    /// # Errors
    /// When the file cannot be written, or the helper fails.
    pub fn erase(&self, registry: &str) -> Result<bool> {
        let mut erased = false;
        for path in &self.files {
            let Some(mut config) = read(path)? else { continue };
            let helper = helper_of(&config, registry).map(str::to_owned);
            let known = keys(registry);
            let auths = config.get_mut("auths").and_then(Value::as_object_mut);
            let before = auths.as_ref().map_or(0, |auths| auths.len());
            let after = auths.map_or(0, |auths| {
                auths.retain(|key, _| !known.contains(key));
                auths.len()
            });
            if let Some(helper) = helper {
                let server = server(registry);
                erased |= ask_helper(&helper, &server)?.is_some();
                run_helper(&helper, "erase", &server)?;
            }
            if after != before {
                erased = true;
                write(path, &config)?;
            }
        }
        Ok(erased)
    }

    fn own_file(&self) -> Result<(PathBuf, Map<String, Value>)> {
        let missing = || RegistryError::Config {
            path: "~/.docker/config.json".into(),
            reason: "there is no home directory; name a file with REGISTRY_AUTH_FILE".to_owned(),
        };
        let path = self.own.clone().ok_or_else(missing)?;
        // A link is written through, not replaced.
        let path = path.canonicalize().unwrap_or(path);
        let config = read(&path)?.unwrap_or_default();
        Ok((path, config))
    }
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let damaged = |reason: String| RegistryError::Config { path: path.to_owned(), reason };
    match std::fs::read(path) {
        Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(None),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(format!("it is damaged: {e}"))),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
        // Somebody else's file, named by an environment that came along with sudo: nothing for us.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(damaged(e.to_string())),
    }
}

/// Writes the file beside its place, so that it is never half there and never readable for others.
fn write(path: &Path, config: &Map<String, Value>) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let beside = dir.join(format!(".sampan-{}.json", std::process::id()));
    let fill = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let _ = std::fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(serde_json::to_string_pretty(config)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    fill().map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        RegistryError::file("write", path)(e)
    })
}

/// The name that a registry goes by with helpers, and in the file.
fn server(registry: &str) -> String {
    if registry == "docker.io" { DOCKER_HUB.to_owned() } else { registry.to_owned() }
}

/// The names that a registry may have in the file.
fn keys(registry: &str) -> Vec<String> {
    let mut all: Vec<String> = match registry {
        "docker.io" => vec![DOCKER_HUB.to_owned(), "index.docker.io".to_owned()],
        _ => vec![],
    };
    for scheme in ["", "https://", "http://"] {
        all.extend(["", "/", "/v1", "/v1/", "/v2", "/v2/"].map(|end| format!("{scheme}{registry}{end}")));
    }
    all
}

fn helper_of<'c>(config: &'c Map<String, Value>, registry: &str) -> Option<&'c str> {
    let of_registry = config
        .get("credHelpers")
        .and_then(Value::as_object)
        .and_then(|helpers| keys(registry).iter().find_map(|key| helpers.get(key)?.as_str()));
    of_registry.or_else(|| config.get("credsStore")?.as_str()).filter(|name| !name.is_empty())
}

fn in_auths(config: &Map<String, Value>, registry: &str, path: &str) -> Option<Result<Credential, String>> {
    let auths = config.get("auths")?.as_object()?;
    // Podman's files can have a credential for a part of a registry; the longest name counts.
    let mut part = path;
    let mut names = Vec::new();
    while !part.is_empty() {
        names.push(format!("{registry}/{part}"));
        part = part.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    let found = names
        .into_iter()
        .chain(keys(registry))
        .find_map(|key| auths.get(&key)?.as_object().filter(|entry| !entry.is_empty()))?;
    let text = |key: &str| found.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Ok(Credential::IdentityToken(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        return Some(decode(auth).ok_or_else(|| format!("the entry for {registry} is no credential: log in again")));
    }
    let (user, password) = (text("username")?.to_owned(), text("password")?.to_owned());
    Some(Ok(Credential::Password { user, password }))
}

fn decode(auth: &str) -> Option<Credential> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, lenient).decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Old versions of Docker wrote zero bytes at the end.
    Some(Credential::Password { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

fn set_auth(config: &mut Map<String, Value>, server: &str, entry: Value) {
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if !auths.is_object() {
        *auths = json!({});
    }
    if let Some(auths) = auths.as_object_mut() {
        auths.insert(server.to_owned(), entry);
    }
}

fn ask_helper(helper: &str, server: &str) -> Result<Option<Credential>> {
    let failed = |reason: String| RegistryError::Helper { helper: helper.to_owned(), reason };
    let answer = match run_helper(helper, "get", server) {
        Ok(answer) => answer,
        // What every helper says when it has none.
        Err(RegistryError::Helper { reason, .. }) if reason.contains("credentials not found") => return Ok(None),
        Err(e) => return Err(e),
    };
    let json: Value = serde_json::from_slice(&answer).map_err(|e| failed(format!("its answer is no JSON: {e}")))?;
    let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(match (text("Username"), text("Secret")) {
        (_, secret) if secret.is_empty() => None,
        (user, secret) if user == TOKEN_USER => Some(Credential::IdentityToken(secret)),
        (user, password) => Some(Credential::Password { user, password }),
    })
}

fn run_helper(helper: &str, action: &str, input: &str) -> Result<Vec<u8>> {
    let failed = |reason: String| RegistryError::Helper { helper: helper.to_owned(), reason };
    // The name comes from a file and becomes the name of a program.
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("no helper can be called so".to_owned()));
    }
    let mut command = Command::new(format!("docker-credential-{helper}"));
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(format!("it cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its reasons, and its exit code.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    Err(failed(said.iter().find(|text| !text.is_empty()).cloned().unwrap_or_else(|| output.status.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::tests::temp_dir;
    use std::os::unix::fs::PermissionsExt;

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password { user: user.into(), password: password.into() }
    }

    fn at(path: &Path) -> Credentials {
        Credentials { files: vec![path.to_owned()], own: Some(path.to_owned()), given: None }
    }

    #[test]
    fn what_docker_and_podman_wrote_is_found() {
        let dir = temp_dir();
        let file = dir.join("config.json");
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "http://old.example/v1/": {"username": "u", "password": "p"},
            "quay.io": {"auth": "YTpi"},
            "quay.io/org": {"auth": "b3JnOng6eQ"},
            "token.example": {"auth": "eDp5", "identitytoken": "t"},
            "empty.example": {},
            "broken.example": {"auth": "!!"}
        }}"#;
        std::fs::write(&file, text).unwrap();
        let get = |registry: &str, path: &str| at(&file).get(registry, path);
        assert_eq!(get("docker.io", "library/x").unwrap(), Some(password("hub", "pw")));
        assert_eq!(get("old.example", "x").unwrap(), Some(password("u", "p")));
        assert_eq!(get("quay.io", "other/x").unwrap(), Some(password("a", "b")));
        assert_eq!(get("quay.io", "org/x").unwrap(), Some(password("org", "x:y")));
        assert_eq!(get("token.example", "x").unwrap(), Some(Credential::IdentityToken("t".into())));
        assert_eq!(get("empty.example", "x").unwrap(), None);
        assert_eq!(get("unknown.example", "x").unwrap(), None);
        assert!(get("broken.example", "x").unwrap_err().to_string().contains("log in again"));
        std::fs::write(&file, "{").unwrap();
        assert!(get("x", "x").unwrap_err().to_string().contains("damaged"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_kept_is_private_and_disturbs_nothing() {
        let dir = temp_dir();
        let file = dir.join("new/config.json");
        let all = at(&file);
        assert_eq!(all.store("docker.io", &password("me", "p:w")).unwrap(), Kept::File(file.clone()));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(all.get("docker.io", "x").unwrap(), Some(password("me", "p:w")));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert!(config["auths"][DOCKER_HUB]["auth"].is_string());
        config["detachKeys"] = "x".into();
        std::fs::write(&file, config.to_string()).unwrap();
        all.store("r:5000", &Credential::IdentityToken("t".into())).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("detachKeys"));
        assert!(all.erase("docker.io").unwrap());
        assert!(!all.erase("docker.io").unwrap());
        assert_eq!(all.get("docker.io", "x").unwrap(), None);
        assert_eq!(all.get("r:5000", "x").unwrap(), Some(Credential::IdentityToken("t".into())));
        assert!(!format!("{:?}", password("a", "secret")).contains("secret"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let dir = temp_dir();
        let file = dir.join("c.json");
        std::fs::write(&file, r#"{"credsStore": "none-such-here", "credHelpers": {"evil": "../../bin/sh"}}"#).unwrap();
        let error = at(&file).get("r", "x").unwrap_err().to_string();
        assert!(error.contains("docker-credential-none-such-here"), "{error}");
        assert!(at(&file).get("evil", "x").unwrap_err().to_string().contains("no helper can be called so"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
