//! The command line and the environment. What this server does not do is refused, and not passed over.

use std::path::{Path, PathBuf};

/// What the server goes by.
pub struct Settings {
    /// Where the files are.
    pub root: PathBuf,
    /// Where it listens.
    pub port: u16,
}

const USAGE: &str = "nginx [-g 'daemon off;'] [-t] [-v]

A web server for the files of a directory, in the place of nginx. It reads no configuration; it heeds
  NGINX_PORT   where it listens (80)
  NGINX_ROOT   what it serves (/usr/share/nginx/html)";

/// The settings, or `None` when there is nothing to serve: all was said.
pub fn read() -> Result<Option<Settings>, String> {
    let (mut args, mut only_test) = (std::env::args().skip(1), false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-g" => directives(&args.next().ok_or("option \"-g\" requires parameter")?)?,
            "-t" => only_test = true,
            "-v" | "-V" => {
                eprintln!("nginx version: {}", crate::files::SERVER);
                return Ok(None);
            }
            "-h" | "-?" | "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            "-c" | "-p" | "-e" => {
                return Err(format!("this server reads no configuration: option {arg:?} is for nginx itself"));
            }
            "-s" => return Err("signals are not for Wasm: stop the container instead".into()),
            _ => return Err(format!("invalid option: {arg:?}")),
        }
    }
    for path in ["/etc/nginx/nginx.conf", "/etc/nginx/conf.d", "/etc/nginx/templates"] {
        if exists(Path::new(path)) {
            return Err(format!(
                "this server reads no configuration, and there is {path}: it serves files, and heeds NGINX_PORT and NGINX_ROOT"
            ));
        }
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let port = match variable("NGINX_PORT") {
        None => 80,
        Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or(format!("NGINX_PORT is no port: {text:?}"))?,
    };
    let root = PathBuf::from(variable("NGINX_ROOT").unwrap_or_else(|| "/usr/share/nginx/html".into()));
    if only_test {
        eprintln!("nginx: configuration test is successful");
        return Ok(None);
    }
    Ok(Some(Settings { root, port }))
}

/// A directory counts when there is something in it.
fn exists(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    }
}

fn directives(text: &str) -> Result<(), String> {
    for directive in text.split(';').map(|d| d.split_whitespace().collect::<Vec<_>>()) {
        match directive[..] {
            [] | ["daemon", "off"] => {}
            _ => {
                return Err(format!(
                    "this server reads no configuration, and \"daemon off;\" is what it does: {text:?}"
                ));
            }
        }
    }
    Ok(())
}
