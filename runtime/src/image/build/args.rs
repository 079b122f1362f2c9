//! ARG: variables that are there while building and not in the image.

use super::{BuildOptions, Problem, expand};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What `--build-arg` can set without an ARG, for RUN alone; it is not written into the history.
const PROXIES: [&str; 10] = [
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What a builder is given besides ARGs: no program reads these, the builder does.
const OWN: [&str; 1] = ["SOURCE_DATE_EPOCH"];

/// The platform that an image is for: its "operating system"; the architecture is always `wasm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Platform {
    /// WASI 0.1: core modules.
    #[default]
    Wasip1,
    /// WASI 0.2 and later: components.
    Wasip2,
    /// WASI, whichever.
    Wasi,
}

impl Platform {
    /// The platform of this name: `wasip1/wasm`, `wasip2/wasm`, `wasi/wasm`; `wasm32` is the same, and without an
    /// architecture it is `wasm`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (system, architecture) = name.split_once('/').unwrap_or((name, "wasm"));
        match (system, architecture) {
            ("wasip1", "wasm" | "wasm32") => Some(Self::Wasip1),
            ("wasip2", "wasm" | "wasm32") => Some(Self::Wasip2),
            ("wasi", "wasm" | "wasm32") => Some(Self::Wasi),
            _ => None,
        }
    }

    /// The "operating system".
    #[must_use]
    pub fn system(self) -> &'static str {
        match self {
            Self::Wasip1 => "wasip1",
            Self::Wasip2 => "wasip2",
            Self::Wasi => "wasi",
        }
    }
}

/// The ARGs of a whole build.
#[derive(Debug)]
pub(super) struct Args {
    given: BTreeMap<String, String>,
    /// Those before the first FROM, and those that say what is built where.
    globals: BTreeMap<String, Option<String>>,
    used: RefCell<BTreeSet<String>>,
}

impl Args {
    pub fn new(options: &BuildOptions) -> Self {
        let platform = options.platform.unwrap_or_default();
        let host = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let target = options.target.clone().unwrap_or_else(|| "default".to_owned());
        let globals = [
            ("BUILDARCH", host.to_owned()),
            ("BUILDOS", "linux".to_owned()),
            ("BUILDPLATFORM", format!("linux/{host}")),
            ("BUILDVARIANT", String::new()),
            ("TARGETARCH", "wasm".to_owned()),
            ("TARGETOS", platform.system().to_owned()),
            ("TARGETPLATFORM", format!("{}/wasm", platform.system())),
            ("TARGETSTAGE", target),
            ("TARGETVARIANT", String::new()),
        ];
        Self {
            given: options.args.iter().cloned().collect(),
            globals: globals.map(|(name, value)| (name.to_owned(), Some(value))).into(),
            used: RefCell::default(),
        }
    }

    fn given(&self, name: &str) -> Option<String> {
        let value = self.given.get(name).cloned();
        if value.is_some() {
            self.used.borrow_mut().insert(name.to_owned());
        }
        value
    }

    /// An ARG before the first FROM.
    pub fn declare_global(&mut self, name: &str, default: Option<&str>, escape: char) -> Result<(), Problem> {
        let value = match self.given(name) {
            Some(given) => Some(given),
            None => match default {
                Some(default) => Some(expand::word(default, escape, &|name| self.global(name))?),
                None => self.global(name),
            },
        };
        self.globals.insert(name.to_owned(), value);
        Ok(())
    }

    /// What a name means in FROM.
    pub fn global(&self, name: &str) -> Option<String> {
        self.globals.get(name).cloned().flatten()
    }

    /// The value of an ARG within a stage, its default expanded already.
    pub fn declare(&self, name: &str, default: Option<String>) -> Option<String> {
        self.given(name).or(default).or_else(|| self.global(name))
    }

    /// The proxies that are given, for RUN.
    pub fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().filter(|(name, _)| PROXIES.contains(&name.as_str())).map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// What was given and nobody asked for.
    pub fn unused(&self) -> Vec<&str> {
        let used = self.used.borrow();
        let known = |name: &&str| used.contains(*name) || PROXIES.contains(name) || OWN.contains(name);
        self.given.keys().map(String::as_str).filter(|name| !known(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(given: &[(&str, &str)]) -> Args {
        let args = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Args::new(&BuildOptions { args, platform: Platform::parse("wasip2"), ..BuildOptions::default() })
    }

    #[test]
    fn args_have_docker_s_scopes() {
        let mut args = args(&[("A", "given"), ("HTTP_PROXY", "p"), ("X", "x"), ("SOURCE_DATE_EPOCH", "0")]);
        args.declare_global("A", Some("default"), '\\').unwrap();
        args.declare_global("B", Some("$A-$TARGETOS"), '\\').unwrap();
        args.declare_global("C", None, '\\').unwrap();
        assert_eq!(args.global("B").as_deref(), Some("given-wasip2"));
        assert_eq!(args.global("C"), None);
        assert_eq!(args.declare("A", None).as_deref(), Some("given"));
        assert_eq!(args.declare("B", Some("own".to_owned())).as_deref(), Some("own"));
        assert_eq!(args.declare("TARGETPLATFORM", None).as_deref(), Some("wasip2/wasm"));
        assert_eq!(args.declare("D", None), None);
        assert_eq!(args.proxies().collect::<Vec<_>>(), [("HTTP_PROXY", "p")]);
        assert_eq!(args.unused(), ["X"]);
    }

    #[test]
    fn platforms_are_those_of_wasm() {
        assert_eq!(Platform::parse("wasi/wasm32"), Some(Platform::Wasi));
        assert_eq!(Platform::parse("wasip1"), Some(Platform::Wasip1));
        for other in ["linux/amd64", "wasip1/amd64", "wasip3/wasm", ""] {
            assert_eq!(Platform::parse(other), None);
        }
    }
}
