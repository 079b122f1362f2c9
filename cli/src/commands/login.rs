//! `login` and `logout`.

use crate::Context;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use sampan_runtime::registry::credentials::Kept;
use sampan_runtime::registry::{Credential, Credentials, Registries, RegistryError, Repository};
use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

const DOCKER_HUB: &str = "docker.io";

// The arguments of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The user name
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// The password; others on this machine can see it, so --password-stdin is better
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// The registry; Docker Hub without it
    #[arg(value_name = "SERVER", default_value = DOCKER_HUB, hide_default_value = true)]
    server: String,
}

// The arguments of `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry; Docker Hub without it
    #[arg(value_name = "SERVER", default_value = DOCKER_HUB, hide_default_value = true)]
    server: String,
}

impl LoginArgs {
    pub fn run(self, _context: &Context) -> Result<ExitCode> {
        let server = registry(&self.server)?;
        let mut registries = Registries::from_env();
        let says_nothing = self.username.is_none() && self.password.is_none() && !self.password_stdin;
        if says_nothing && registries.credentials.get(&server, "")?.is_some() {
            println!("Authenticating with existing credentials...");
            check(&registries, &server)?;
            println!("Login Succeeded");
            return Ok(ExitCode::SUCCESS);
        }
        let credential = self.credential()?;
        let keeper = std::mem::replace(&mut registries.credentials, Credentials::only(credential.clone()));
        check(&registries, &server)?;
        if let Kept::File(path) = keeper.store(&server, &credential)? {
            eprintln!("WARNING! Your credentials are stored unencrypted in '{}'.", path.display());
        }
        println!("Login Succeeded");
        Ok(ExitCode::SUCCESS)
    }

    fn credential(&self) -> Result<Credential> {
        let terminal = std::io::stdin().is_terminal();
        let user = match &self.username {
            Some(user) => user.clone(),
            None if self.password_stdin => bail!("--password-stdin needs --username"),
            None if !terminal => bail!("standard input is no terminal: give --username and --password-stdin"),
            None => ask("Username: ", false)?,
        };
        let password = if let Some(password) = &self.password {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        } else if self.password_stdin {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the password")?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        } else if terminal {
            ask("Password: ", true)?
        } else {
            bail!("standard input is no terminal: give --password-stdin");
        };
        if user.is_empty() || password.is_empty() {
            bail!("a user name and a password are needed, and neither can be empty");
        }
        if user.contains(':') {
            bail!("a user name cannot hold a colon");
        }
        Ok(Credential::Password { user, password })
    }
}

impl LogoutArgs {
    pub fn run(self, _context: &Context) -> Result<ExitCode> {
        let server = registry(&self.server)?;
        if Credentials::from_env().erase(&server)? {
            println!("Removing login credentials for {server}");
        } else {
            println!("Not logged in to {server}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Tries the credentials.
fn check(registries: &Registries, server: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(Repository::check_login(registries, server)) {
        Ok(()) => Ok(()),
        Err(RegistryError::Unauthorized { detail, .. } | RegistryError::Denied { detail, .. }) => {
            let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
            bail!("{server} does not know this user with this password{detail}")
        }
        Err(error) => Err(error.into()),
    }
}

/// A registry's name, from what people call it: addresses and Docker Hub's many names too.
fn registry(given: &str) -> Result<String> {
    let name = given.trim_start_matches("https://").trim_start_matches("http://");
    let name = name.split('/').next().unwrap_or_default();
    match name {
        "" => bail!("{given:?} names no registry"),
        "index.docker.io" | "registry-1.docker.io" | "hub.docker.com" => Ok(DOCKER_HUB.to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Asks at the terminal; what is hidden is not shown while it is typed.
fn ask(question: &str, hidden: bool) -> Result<String> {
    let stdin = std::io::stdin();
    print!("{question}");
    std::io::stdout().flush()?;
    let before = tcgetattr(&stdin)?;
    if hidden {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if hidden {
        tcsetattr(&stdin, OptionalActions::Flush, &before)?;
        println!();
    }
    read.context("cannot read from the terminal")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_many_names() {
        for (given, name) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://localhost:5000/", "localhost:5000"),
            ("ghcr.io/owner", "ghcr.io"),
        ] {
            assert_eq!(registry(given).unwrap(), name);
        }
        assert!(registry("https:///x").is_err());
    }
}
