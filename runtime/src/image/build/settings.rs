//! The instructions that change how an image is run and nothing in it: ENV, WORKDIR (which may make its directory),
//! EXPOSE, LABEL, VOLUME, ENTRYPOINT and CMD.

use super::stage::Stage;
use super::{Problem, dockerfile, expand};
use crate::image::entry::{self, Node};
use crate::image::layer::Plan;
use oci_spec::image::Config;
use parse_dockerfile::{
    CmdInstruction, EntrypointInstruction, EnvInstruction, ExposeInstruction, JsonOrStringArray, LabelInstruction,
    VolumeInstruction, WorkdirInstruction,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

/// How an image is run. The form of [`Config`] that is easy to change, and ordered, so that the same settings are the
/// same bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub env: Vec<(String, String)>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub workdir: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub ports: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    pub user: Option<String>,
    pub stop_signal: Option<String>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let set = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect();
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Self {
            env: config.env().iter().flatten().map(pair).collect(),
            entrypoint: config.entrypoint().clone(),
            cmd: config.cmd().clone(),
            workdir: config.working_dir().clone(),
            labels: config.labels().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            ports: set(config.exposed_ports()),
            volumes: set(config.volumes()),
            user: config.user().clone(),
            stop_signal: config.stop_signal().clone(),
        }
    }
}

impl Settings {
    /// As the image's config has it.
    pub fn config(&self) -> Config {
        let list = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().cloned().collect::<Vec<_>>());
        let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let labels: HashMap<String, String> = self.labels.clone().into_iter().collect();
        let mut config = Config::default();
        config
            .set_env((!env.is_empty()).then_some(env))
            .set_entrypoint(self.entrypoint.clone())
            .set_cmd(self.cmd.clone())
            .set_working_dir(self.workdir.clone())
            .set_labels((!labels.is_empty()).then_some(labels))
            .set_exposed_ports(list(&self.ports))
            .set_volumes(list(&self.volumes))
            .set_user(self.user.clone())
            .set_stop_signal(self.stop_signal.clone());
        config
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// A path of the image as an instruction or an entrypoint means it: from the working directory, without `.`, `..`
    /// and double slashes.
    pub fn absolute(&self, path: &str) -> PathBuf {
        let joined = Path::new("/").join(self.workdir.as_deref().unwrap_or_default()).join(path);
        let mut clean = PathBuf::from("/");
        for component in joined.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => {
                    clean.pop();
                }
                _ => {}
            }
        }
        clean
    }
}

pub(super) fn env(stage: &mut Stage<'_>, i: &EnvInstruction<'_>) -> Result<(), Problem> {
    // All are expanded first: on one line, variables have the values that they had before it.
    for (name, value) in expanded_pairs(stage, &i.arguments.value)? {
        let env = &mut stage.settings.env;
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => env.push((name, value)),
        }
    }
    Ok(())
}

pub(super) fn label(stage: &mut Stage<'_>, i: &LabelInstruction<'_>) -> Result<(), Problem> {
    let labels = expanded_pairs(stage, &i.arguments.value)?;
    stage.settings.labels.extend(labels);
    Ok(())
}

fn expanded_pairs(stage: &Stage<'_>, text: &str) -> Result<Vec<(String, String)>, Problem> {
    let expand = |(name, value): (String, String)| Ok((stage.expand(&name)?, stage.expand(&value)?));
    expand::pairs(text, stage.escape)?.into_iter().map(expand).collect()
}

pub(super) fn workdir(stage: &mut Stage<'_>, i: &WorkdirInstruction<'_>) -> Result<Option<Plan>, Problem> {
    let path = stage.expand(&i.arguments.value)?;
    if path.is_empty() {
        return Err(Problem::Syntax("WORKDIR needs a path, and this one is empty".to_owned()));
    }
    let path = stage.settings.absolute(&path);
    stage.settings.workdir = Some(path.to_string_lossy().into_owned());
    // Docker makes the directory, so that what follows can count on it.
    let found = entry::resolve(stage.dirs(), &path, true)?;
    match found.node {
        Node::Missing => {
            let mut plan = stage.plan();
            plan.make_dirs(&found.path)?;
            Ok(Some(plan))
        }
        Node::Dir(_) => Ok(None),
        _ => Err(Problem::in_the_way(path)),
    }
}

pub(super) fn expose(stage: &mut Stage<'_>, i: &ExposeInstruction<'_>) -> Result<(), Problem> {
    for argument in &i.arguments {
        // A variable may hold several.
        for spec in stage.expand(&argument.value)?.split_whitespace() {
            stage.settings.ports.extend(ports(spec)?);
        }
    }
    Ok(())
}

/// `80`, `80/udp`, `8000-8010/tcp`: each port with its protocol.
fn ports(spec: &str) -> Result<Vec<String>, Problem> {
    let bad = || {
        Problem::Syntax(format!("EXPOSE {spec}: write PORT or PORT-PORT from 1 to 65535, then /tcp, /udp or nothing"))
    };
    let (range, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

pub(super) fn volume(stage: &mut Stage<'_>, i: &VolumeInstruction<'_>) -> Result<(), Problem> {
    let words = match &i.arguments {
        JsonOrStringArray::Json(words) => words.value.iter(),
        JsonOrStringArray::String(words) => words.iter(),
    };
    for word in words {
        let path = stage.expand(&word.value)?;
        if path.trim().is_empty() {
            return Err(Problem::Syntax("VOLUME needs paths, and this one is empty".to_owned()));
        }
        stage.settings.volumes.insert(path.trim().to_owned());
    }
    Ok(())
}

pub(super) fn entrypoint(stage: &mut Stage<'_>, i: &EntrypointInstruction<'_>) {
    stage.settings.entrypoint = Some(dockerfile::command(&i.arguments, stage.escape));
    // The arguments that the image below had were meant for its own entrypoint.
    if !stage.cmd_is_ours {
        stage.settings.cmd = None;
    }
}

pub(super) fn cmd(stage: &mut Stage<'_>, i: &CmdInstruction<'_>) {
    stage.settings.cmd = Some(dockerfile::command(&i.arguments, stage.escape));
    stage.cmd_is_ours = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed_with_their_protocol() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("8000-8002").unwrap(), ["8000/tcp", "8001/tcp", "8002/tcp"]);
        for bad in ["0", "65536", "x", "", "80/http", "2-1", "80:80", "-1", "1-"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_start_at_the_working_directory() {
        let mut settings = Settings::default();
        assert_eq!(settings.absolute("a/../../b//."), Path::new("/b"));
        settings.workdir = Some("/srv/app".to_owned());
        assert_eq!(settings.absolute("x"), Path::new("/srv/app/x"));
        assert_eq!(settings.absolute("."), Path::new("/srv/app"));
        assert_eq!(settings.absolute("/x"), Path::new("/x"));
    }

    #[test]
    fn settings_survive_the_config() {
        let settings = Settings {
            env: vec![("A".into(), "b=c".into())],
            labels: BTreeMap::from([("k".into(), "v".into())]),
            ports: BTreeSet::from(["80/tcp".into()]),
            cmd: Some(vec![]),
            ..Settings::default()
        };
        let back = Settings::from(&settings.config());
        assert_eq!(format!("{back:?}"), format!("{settings:?}"));
    }
}
