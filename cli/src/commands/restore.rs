//! `system restore` and `system install`: what should run, after the machine was down.

use crate::commands::words;
use crate::{Context, front};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sampan_runtime::container::{self, Status};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

// The arguments of `system restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {}

// The arguments of `system install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Print the unit instead
    #[arg(long)]
    print: bool,
}

impl RestoreArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let mut code = ExitCode::SUCCESS;
        for container in container::list(&store)? {
            let Status::Exited(ended) = container.status(&store) else { continue };
            if !container.record.restart.revives(&ended) {
                continue;
            }
            let name = container.record.name.clone();
            match front::detached(&store, container) {
                Ok(()) => println!("{name}"),
                Err(error) => {
                    eprintln!("sampan: {name}: {}", words(&error));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

const UNIT: &str = "sampan.service";

impl InstallArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let root = std::path::absolute(context.store()?.root())?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let for_all = rustix::process::geteuid().is_root();
        let text = unit(&program, &root, for_all)?;
        if self.print {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        let dir = if for_all { PathBuf::from("/etc/systemd/system") } else { user_units()? };
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let place = dir.join(UNIT);
        let beside = dir.join(format!(".{UNIT}.{}", std::process::id()));
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &place))
            .with_context(|| format!("cannot write {}", place.display()))?;
        println!("{}", place.display());
        let whose: &[&str] = if for_all { &[] } else { &["--user"] };
        let calls = [&["daemon-reload"][..], &["enable", UNIT]];
        let whole = |call: &[&str]| [&["systemctl"][..], whose, call].concat().join(" ");
        if !Path::new("/run/systemd/system").exists() {
            eprintln!("sampan: systemd does not run here; where it does: {}", calls.map(whole).join(" && "));
            return Ok(ExitCode::SUCCESS);
        }
        for call in calls {
            let done = Command::new("systemctl").args(whose).args(call).status();
            if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
                bail!("`{}` failed: the unit is in its place and not enabled", whole(call));
            }
        }
        if !for_all {
            eprintln!("sampan: containers are restored when you log in; `loginctl enable-linger` does it at boot");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn user_units() -> Result<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = config.filter(|path| path.is_absolute()).or_else(home);
    Ok(config.context("there is no directory for units: neither XDG_CONFIG_HOME nor HOME is set")?.join("systemd/user"))
}

/// The unit (systemd.service(5)). What it starts goes on when it is done, and outlives a restart of the unit.
fn unit(program: &Path, root: &Path, for_all: bool) -> Result<String> {
    let quoted = |path: &Path| match path.to_str() {
        // A quoted word in which what has a meaning is escaped, specifiers and variables too.
        Some(path) if !path.contains(char::is_control) => {
            let escaped = path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
            Ok(format!("\"{escaped}\""))
        }
        _ => Err(anyhow::anyhow!("{} cannot stand in a unit", path.display())),
    };
    let (program, root) = (quoted(program)?, quoted(root)?);
    let (after, wanted_by) = if for_all {
        ("After=network-online.target\nWants=network-online.target\n", "multi-user.target")
    } else {
        ("", "default.target")
    };
    Ok(format!(
        "[Unit]\nDescription=Sampan containers that should run\n{after}\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=process\n\
         ExecStart={program} --root {root} system restore\n\n\
         [Install]\nWantedBy={wanted_by}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_its_paths_quoted() {
        let text = unit(Path::new("/opt/a b/sam$pan"), Path::new("/var/lib/50%"), true).unwrap();
        assert!(text.contains("ExecStart=\"/opt/a b/sam$$pan\" --root \"/var/lib/50%%\" system restore\n"), "{text}");
        assert!(text.contains("WantedBy=multi-user.target") && text.contains("network-online.target"));
        assert!(unit(Path::new("/a"), Path::new("/b"), false).unwrap().contains("WantedBy=default.target"));
        assert!(unit(Path::new("/a\nb"), Path::new("/b"), true).is_err());
    }
}
