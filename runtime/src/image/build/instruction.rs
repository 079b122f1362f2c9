//! A statement → an instruction with its arguments, not expanded yet.

use super::lines::{self, HereDoc, Statement};
use super::words::{Flags, Words, flags};
use super::{Problem, expand};
use jiff::SignedDuration;

/// What a statement tells the builder to do.
#[derive(Debug, Clone)]
pub(super) enum Instruction {
    From(From),
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    Workdir(String),
    Copy(Copy),
    Run(Run),
    Entrypoint(Words),
    Cmd(Words),
    Volume(Vec<String>),
    Expose(Vec<String>),
    User(String),
    Shell(Vec<String>),
    StopSignal(String),
    HealthCheck(HealthCheck),
    /// The statement that is kept for whoever builds on the image.
    OnBuild(String),
}

#[derive(Debug, Clone)]
pub(super) struct From {
    pub image: String,
    pub platform: Option<String>,
    pub name: Option<String>,
}

/// COPY, and ADD, which can more.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub keyword: &'static str,
    pub sources: Vec<Source>,
    pub destination: String,
    /// A stage, an image or a build context instead of the main one.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub exclude: Vec<String>,
    /// Sources keep the directories above them.
    pub parents: bool,
    /// The layer does not look at those below it.
    pub link: bool,
    /// Of ADD: what a remote file must be.
    pub checksum: Option<String>,
    /// Of ADD: whether archives are unpacked; by Docker's rule local ones are and remote ones not.
    pub unpack: Option<bool>,
}

impl Copy {
    /// The whole of a tree into the root.
    pub fn everything() -> Self {
        Self {
            keyword: "COPY",
            sources: vec![Source::Path("/".to_owned())],
            destination: "/".to_owned(),
            from: None,
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
            link: false,
            checksum: None,
            unpack: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Path(String),
    HereDoc(HereDoc),
}

#[derive(Debug, Clone)]
pub(super) struct Run {
    pub command: Words,
    pub here_docs: Vec<HereDoc>,
    /// `--network`.
    pub network: Option<String>,
    pub mounts: Vec<String>,
    pub security: Option<String>,
}

/// Times are as given; `None` is the one that is inherited or Docker's.
#[derive(Debug, Clone)]
pub(super) struct HealthCheck {
    /// `None` takes away a check of the image below.
    pub test: Option<Words>,
    pub interval: Option<SignedDuration>,
    pub timeout: Option<SignedDuration>,
    pub start_period: Option<SignedDuration>,
    pub start_interval: Option<SignedDuration>,
    pub retries: Option<u32>,
}

/// The names of the instructions, for whoever mistypes one.
const KNOWN: &str = "ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, FROM, HEALTHCHECK, LABEL, MAINTAINER, ONBUILD, RUN, \
                     SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR";

/// The instruction of a statement, and its name in capitals.
pub(super) fn parse(statement: &Statement, escape: char) -> Result<(Instruction, &'static str), Problem> {
    let (given, rest) = lines::keyword(&statement.text).unwrap_or_default();
    let upper = given.to_ascii_uppercase();
    let Some(keyword) = KNOWN.split([',', ' ']).find(|known| *known == upper && *known != "and") else {
        return Err(Problem::UnknownInstruction { word: given.to_owned(), known: KNOWN });
    };
    let (given, arguments) = match keyword {
        "ADD" | "COPY" | "FROM" | "HEALTHCHECK" | "RUN" => flags(rest),
        _ => (Vec::new(), rest),
    };
    if arguments.is_empty() {
        return Err(Problem::Syntax(format!("{keyword} needs arguments, and has none")));
    }
    let mut flags = Flags::new(keyword, given);
    let line = || arguments.to_owned();
    let instruction = match keyword {
        "FROM" => Instruction::From(from(&mut flags, arguments)?),
        "ARG" => Instruction::Arg(args(arguments, escape)?),
        "ENV" => Instruction::Env(expand::pairs(arguments, escape)?),
        "LABEL" => Instruction::Label(expand::pairs(arguments, escape)?),
        "MAINTAINER" => Instruction::Maintainer(line()),
        "WORKDIR" => Instruction::Workdir(line()),
        "COPY" | "ADD" => Instruction::Copy(copy(keyword, &mut flags, arguments, &statement.here_docs)?),
        "RUN" => Instruction::Run(run(&mut flags, arguments, &statement.here_docs)?),
        "ENTRYPOINT" => Instruction::Entrypoint(Words::parse(arguments)?),
        "CMD" => Instruction::Cmd(Words::parse(arguments)?),
        "VOLUME" => Instruction::Volume(Words::parse(arguments)?.into_list()),
        "EXPOSE" => Instruction::Expose(Words::Line(line()).into_list()),
        "USER" => Instruction::User(line()),
        "SHELL" => match Words::parse(arguments)? {
            Words::List(words) if !words.is_empty() => Instruction::Shell(words),
            _ => return Err(Problem::Syntax("SHELL needs the form with brackets: SHELL [\"/bin/sh\", \"-c\"]".into())),
        },
        "STOPSIGNAL" => Instruction::StopSignal(line()),
        "HEALTHCHECK" => Instruction::HealthCheck(health_check(&mut flags, arguments)?),
        _ => Instruction::OnBuild(on_build(arguments, statement, escape)?),
    };
    flags.finish()?;
    Ok((instruction, keyword))
}

fn from(flags: &mut Flags, arguments: &str) -> Result<From, Problem> {
    let platform = flags.one("platform")?;
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (image, name) = match words.as_slice() {
        [image] => (image, None),
        [image, as_, name] if as_.eq_ignore_ascii_case("AS") => (image, Some(name.to_ascii_lowercase())),
        _ => return Err(Problem::Syntax(format!("FROM {arguments}: write FROM IMAGE or FROM IMAGE AS NAME"))),
    };
    // As Docker has it, so that a stage's name can be told from a number, a path and an option.
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(name) =
        name.as_ref().filter(|n| !n.starts_with(|c: char| c.is_ascii_alphabetic()) || !n.chars().all(word))
    {
        return Err(Problem::Syntax(format!(
            "{name:?} is no name for a stage: it begins with a letter, then come letters, digits, '-', '_' or '.'"
        )));
    }
    if name.as_deref() == Some("scratch") || name.as_deref() == Some("context") {
        return Err(Problem::Syntax(format!(
            "a stage cannot be called {}: that has a meaning already",
            name.unwrap_or_default()
        )));
    }
    Ok(From { image: (*image).to_owned(), platform, name })
}

fn args(arguments: &str, escape: char) -> Result<Vec<(String, Option<String>)>, Problem> {
    let arg = |word: String| {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        match name.is_empty() {
            true => Err(Problem::Syntax(format!("{word:?} has no name before the '='"))),
            false => Ok((name, value)),
        }
    };
    expand::split(arguments, escape).into_iter().map(arg).collect()
}

fn copy(keyword: &'static str, flags: &mut Flags, arguments: &str, docs: &[HereDoc]) -> Result<Copy, Problem> {
    let mut copy = Copy {
        keyword,
        sources: Vec::new(),
        destination: String::new(),
        from: None,
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        exclude: flags.all("exclude")?,
        parents: false,
        link: flags.is_set("link")?,
        checksum: None,
        unpack: None,
    };
    if keyword == "COPY" {
        copy.from = flags.one("from")?;
        copy.parents = flags.is_set("parents")?;
    } else {
        copy.checksum = flags.one("checksum")?;
        let given = flags.all("unpack")?;
        copy.unpack = match given.last().map(String::as_str) {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(other) => return Err(Problem::Syntax(format!("ADD --unpack={other}: write true or false"))),
        };
    }
    let mut words = Words::parse(arguments)?.into_list();
    let destination = words.pop().filter(|_| !words.is_empty());
    copy.destination = destination.ok_or_else(|| {
        Problem::Syntax(format!("{keyword} needs at least two arguments: what to copy, and where to put it"))
    })?;
    if !docs.is_empty() && lines::here_doc(&copy.destination).is_some() {
        return Err(Problem::Syntax(format!("{keyword} {arguments}: a here-document is no place to copy to")));
    }
    let mut docs = docs.iter();
    let source = |word: String| match lines::here_doc(&word).and_then(|_| docs.next()) {
        Some(doc) => Source::HereDoc(doc.clone()),
        None => Source::Path(word),
    };
    copy.sources = words.into_iter().map(source).collect();
    Ok(copy)
}

fn run(flags: &mut Flags, arguments: &str, here_docs: &[HereDoc]) -> Result<Run, Problem> {
    let network = flags.one("network")?;
    let (mounts, security) = (flags.all("mount")?, flags.one("security")?);
    let command = Words::parse(arguments)?;
    if command == Words::List(Vec::new()) {
        return Err(Problem::Syntax("RUN [] names no program".to_owned()));
    }
    Ok(Run { command, here_docs: here_docs.to_vec(), network, mounts, security })
}

fn health_check(flags: &mut Flags, arguments: &str) -> Result<HealthCheck, Problem> {
    let mut time = |name: &'static str| {
        let Some(text) = flags.one(name)? else { return Ok(None) };
        let wrong = |why: &str| Problem::Syntax(format!("HEALTHCHECK --{name}={text}: {why}"));
        let time: SignedDuration = text.parse().map_err(|_| wrong("write a time such as 30s or 1m30s"))?;
        match time.is_zero() || time >= SignedDuration::from_millis(1) {
            true => Ok(Some(time)),
            false => Err(wrong("it cannot be less than 1ms")),
        }
    };
    let (interval, timeout) = (time("interval")?, time("timeout")?);
    let (start_period, start_interval) = (time("start-period")?, time("start-interval")?);
    let wrong = |text: &String| Problem::Syntax(format!("HEALTHCHECK --retries={text}: write a number from 1"));
    let retries = flags.one("retries")?;
    let retries = retries.map(|text| text.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(&text))).transpose()?;
    let (kind, command) = lines::keyword(arguments).unwrap_or_default();
    let test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => None,
        "NONE" => return Err(Problem::Syntax("HEALTHCHECK NONE takes no arguments".to_owned())),
        "CMD" if !command.is_empty() => Some(Words::parse(command)?),
        _ => return Err(Problem::Syntax(format!("HEALTHCHECK {arguments}: write CMD and a command, or NONE"))),
    };
    Ok(HealthCheck { test, interval, timeout, start_period, start_interval, retries })
}

/// What is kept is the text, here-documents too; that it is an instruction is seen to now.
fn on_build(trigger: &str, statement: &Statement, escape: char) -> Result<String, Problem> {
    let inner = Statement { text: trigger.to_owned(), ..statement.clone() };
    match parse(&inner, escape)?.1 {
        "ONBUILD" => Err(Problem::Syntax("ONBUILD ONBUILD has no meaning: a trigger works once".to_owned())),
        keyword @ ("FROM" | "MAINTAINER") => Err(Problem::Syntax(format!("{keyword} cannot be a trigger of ONBUILD"))),
        _ => {
            let mut text = trigger.to_owned();
            for doc in &statement.here_docs {
                text.push('\n');
                text.push_str(&doc.content);
                text.push_str(&doc.name);
            }
            Ok(text)
        }
    }
}
