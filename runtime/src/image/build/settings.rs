//! The instructions that change how an image is run and nothing in it: ENV, ARG, WORKDIR (which may make its directory),
//! EXPOSE, LABEL, VOLUME, USER, SHELL, STOPSIGNAL, HEALTHCHECK, ENTRYPOINT and CMD.

use super::Problem;
use super::instruction::HealthCheck;
use super::stage::Stage;
use super::words::Words;
use crate::image::entry::{self, Node};
use crate::image::layer::Plan;
use crate::rootfs;
use oci_spec::image::Config;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The shell of the shell form where SHELL names no other.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The keys of an image's config that the OCI specification knows; others are Docker's.
const KNOWN: [&str; 9] =
    ["Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes", "WorkingDir"];

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
    /// What Docker's configs have besides, as it stands there: `Healthcheck`, `OnBuild`, `Shell` and whatever comes.
    pub rest: Map<String, Value>,
}

impl Settings {
    /// Those of an image, from the object `config` of its config.
    pub fn of(whole: &Map<String, Value>) -> Self {
        let config = serde_json::from_value::<Config>(Value::Object(whole.clone())).unwrap_or_default();
        let set = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect();
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let rest = whole.iter().filter(|(key, value)| !KNOWN.contains(&key.as_str()) && !value.is_null());
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
            rest: rest.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// As the image's config has it, but for the rest.
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
        rootfs::normalize(&joined.to_string_lossy())
    }

    /// What to execute: the words of the exec form, or the shell form's line given to the shell.
    pub fn command(&self, words: &Words) -> Vec<String> {
        match words {
            Words::List(words) => words.clone(),
            Words::Line(line) => self.shell().into_iter().chain([line.clone()]).collect(),
        }
    }

    /// The shell of the shell form.
    pub fn shell(&self) -> Vec<String> {
        let given = self.rest.get("Shell").and_then(|shell| serde_json::from_value(shell.clone()).ok());
        given.filter(|words: &Vec<String>| !words.is_empty()).unwrap_or_else(|| SHELL.map(str::to_owned).to_vec())
    }

    /// Takes away the triggers that the image below has for whoever builds on it.
    pub fn take_triggers(&mut self) -> Vec<String> {
        self.rest.remove("OnBuild").and_then(|triggers| serde_json::from_value(triggers).ok()).unwrap_or_default()
    }

    /// Adds a trigger for whoever builds on this image.
    pub fn on_build(&mut self, trigger: &str) {
        let triggers = self.rest.entry("OnBuild").or_insert_with(|| json!([]));
        if let Some(triggers) = triggers.as_array_mut() {
            triggers.push(trigger.into());
        }
    }
}

pub(super) fn env(stage: &mut Stage<'_>, pairs: &[(String, String)]) -> Result<(), Problem> {
    // All are expanded first: on one line, variables have the values that they had before it.
    for (name, value) in expanded_pairs(stage, pairs)? {
        if name.is_empty() {
            return Err(Problem::Syntax("ENV needs names, and this one is empty".to_owned()));
        }
        let env = &mut stage.settings.env;
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => env.push((name, value)),
        }
    }
    Ok(())
}

pub(super) fn arg(stage: &mut Stage<'_>, args: &[(String, Option<String>)]) -> Result<(), Problem> {
    for (name, default) in args {
        let name = stage.expand(name)?;
        let default = default.as_ref().map(|default| stage.expand(default)).transpose()?;
        let value = stage.build.args.declare(&name, default);
        stage.args.insert(name, value);
    }
    Ok(())
}

pub(super) fn label(stage: &mut Stage<'_>, pairs: &[(String, String)]) -> Result<(), Problem> {
    let labels = expanded_pairs(stage, pairs)?;
    stage.settings.labels.extend(labels);
    Ok(())
}

fn expanded_pairs(stage: &Stage<'_>, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, Problem> {
    pairs.iter().map(|(name, value)| Ok((stage.expand(name)?, stage.expand(value)?))).collect()
}

pub(super) fn workdir(stage: &mut Stage<'_>, path: &str) -> Result<Option<Plan>, Problem> {
    let path = stage.expand(path)?;
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

pub(super) fn expose(stage: &mut Stage<'_>, specs: &[String]) -> Result<(), Problem> {
    for spec in specs {
        // A variable may hold several.
        for spec in stage.expand(spec)?.split_whitespace() {
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

pub(super) fn volume(stage: &mut Stage<'_>, paths: &[String]) -> Result<(), Problem> {
    if paths.is_empty() {
        return Err(Problem::Syntax("VOLUME needs paths, and has none".to_owned()));
    }
    for path in paths {
        let path = stage.expand(path)?;
        if path.trim().is_empty() {
            return Err(Problem::Syntax("VOLUME needs paths, and this one is empty".to_owned()));
        }
        stage.settings.volumes.insert(path.trim().to_owned());
    }
    Ok(())
}

pub(super) fn user(stage: &mut Stage<'_>, user: &str) -> Result<(), Problem> {
    match stage.expand(user)?.trim() {
        "" => Err(Problem::Syntax("USER needs a user, and this one is empty".to_owned())),
        user => {
            stage.settings.user = Some(user.to_owned());
            Ok(())
        }
    }
}

/// A signal by its number, 1 to 64, or its name with or without SIG, kept as it is given.
pub(super) fn stop_signal(stage: &mut Stage<'_>, signal: &str) -> Result<(), Problem> {
    const NAMES: &str = " HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD CONT \
                         STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS UNUSED RTMIN RTMAX ";
    let signal = stage.expand(signal)?;
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| {
        let offset = name.strip_prefix("RTMIN+").or_else(|| name.strip_prefix("RTMAX-"));
        offset.and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 15)
    };
    let is_number = signal.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    if is_number || (!name.is_empty() && NAMES.contains(&format!(" {name} "))) || real_time(name) {
        stage.settings.stop_signal = Some(signal);
        return Ok(());
    }
    Err(Problem::Syntax(format!(
        "STOPSIGNAL {signal}: there is no such signal; write a name such as SIGTERM, or a number"
    )))
}

pub(super) fn shell(stage: &mut Stage<'_>, words: &[String]) {
    stage.settings.rest.insert("Shell".to_owned(), json!(words));
}

/// As Docker's configs have it: times are nanoseconds, and those that are 0 or not there are inherited.
pub(super) fn health_check(stage: &mut Stage<'_>, check: &HealthCheck) {
    let mut value = Map::new();
    let test = match &check.test {
        None => vec!["NONE".to_owned()],
        Some(Words::List(words)) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
        Some(Words::Line(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    value.insert("Test".to_owned(), json!(test));
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, time) in times {
        if let Some(time) = time.and_then(|time| u64::try_from(time.as_nanos()).ok()).filter(|time| *time > 0) {
            value.insert(name.to_owned(), json!(time));
        }
    }
    if let Some(retries) = check.retries {
        value.insert("Retries".to_owned(), json!(retries));
    }
    stage.settings.rest.insert("Healthcheck".to_owned(), Value::Object(value));
}

pub(super) fn entrypoint(stage: &mut Stage<'_>, words: &Words) {
    stage.settings.entrypoint = Some(stage.settings.command(words));
    // The arguments that the image below had were meant for its own entrypoint.
    if !stage.cmd_is_ours {
        stage.settings.cmd = None;
    }
}

pub(super) fn cmd(stage: &mut Stage<'_>, words: &Words) {
    stage.settings.cmd = Some(stage.settings.command(words));
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
        let mut whole = serde_json::to_value(settings.config()).unwrap();
        whole["Healthcheck"] = json!({"Test": ["NONE"]});
        whole["ArgsEscaped"] = json!(true);
        whole["Image"] = Value::Null;
        let back = Settings::of(whole.as_object().unwrap());
        assert_eq!(
            serde_json::to_value(&back.rest).unwrap(),
            json!({"Healthcheck": {"Test": ["NONE"]}, "ArgsEscaped": true})
        );
        let back = Settings { rest: Map::new(), ..back };
        assert_eq!(format!("{back:?}"), format!("{settings:?}"));
    }

    #[test]
    fn a_trigger_is_for_the_next_only() {
        let mut settings = Settings::default();
        settings.on_build("RUN a");
        settings.on_build("RUN b");
        assert_eq!(settings.take_triggers(), ["RUN a", "RUN b"]);
        assert!(settings.take_triggers().is_empty());
    }

    #[test]
    fn the_shell_form_is_given_to_the_shell() {
        let mut settings = Settings::default();
        let line = Words::Line("a b".to_owned());
        assert_eq!(settings.command(&line), ["/bin/sh", "-c", "a b"]);
        settings.rest.insert("Shell".to_owned(), json!(["/bin/x"]));
        assert_eq!(settings.command(&line), ["/bin/x", "a b"]);
        assert_eq!(settings.command(&Words::List(vec!["a".to_owned()])), ["a"]);
    }
}
