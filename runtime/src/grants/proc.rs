//! What a guest's programs are told of themselves and each other, in `/proc`. In a bundle the user stands where the OCI
//! runtime specification has it (config.md, "User"), and the rest in an annotation.

use super::{GrantError, unreadable};
use oci_spec::runtime::{Spec, UserBuilder};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The annotation that says that there is a `/proc`.
const ANNOTATION: &str = "dev.sampan.proc";

/// What is told in `/proc`. WASI has no users: a number given here keeps a program from nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proc {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All of its groups.
    pub groups: Vec<u32>,
    /// Which programs it sees.
    pub sees: Sees,
}

/// Which programs of its sandbox a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sees {
    /// Its own.
    #[default]
    Own,
    /// All that see all.
    Sandbox,
    /// Those that the container of this id sees.
    Container(String),
}

impl fmt::Display for Sees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Sandbox => f.write_str("sandbox"),
            Self::Container(id) => write!(f, "container:{id}"),
        }
    }
}

impl FromStr for Sees {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "own" => Ok(Self::Own),
            None if text == "sandbox" => Ok(Self::Sandbox),
            // It becomes the name of a directory.
            Some(("container", id)) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Ok(Self::Container(id.to_owned()))
            }
            _ => Err(format!("{text:?} is none of own, sandbox and container:ID")),
        }
    }
}

impl Proc {
    /// Writes it into a bundle.
    pub(super) fn write(&self, spec: &mut Spec) -> Result<(), GrantError> {
        let user = UserBuilder::default().uid(self.uid).gid(self.gid).additional_gids(self.groups.clone()).build()?;
        if let Some(process) = spec.process_mut() {
            process.set_user(user);
        }
        spec.annotations_mut().get_or_insert_default().insert(ANNOTATION.to_owned(), self.sees.to_string());
        Ok(())
    }

    /// Reads it from a bundle.
    pub(super) fn read(spec: &Spec) -> Result<Option<Self>, GrantError> {
        let Some(sees) = spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION)) else { return Ok(None) };
        let sees = sees.parse().map_err(unreadable(ANNOTATION))?;
        let user = spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
        let groups = user.additional_gids().clone().unwrap_or_default();
        Ok(Some(Self { uid: user.uid(), gid: user.gid(), groups, sees }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_container_sees_is_no_path() {
        for good in ["own", "sandbox", "container:0a1b"] {
            assert_eq!(good.parse::<Sees>().unwrap().to_string(), good);
        }
        for bad in ["", "all", "container:", "container:../x", "own:a"] {
            assert!(bad.parse::<Sees>().is_err(), "{bad}");
        }
    }
}
