//! RUN: a program of the stage's files, run on top of its layers; what it changed becomes a layer.

use super::Problem;
use super::instruction::Run;
use super::stage::Stage;
use super::words::Words;
use crate::config::Config;
use crate::container;
use crate::digest;
use crate::grants::{self, Egress, Grants, RootGrant};
use crate::guest::{code, script};
use crate::image::layer::Plan;
use crate::image::upper;
use crate::rootfs;
use crate::sandbox::log::{self, Line};
use crate::sandbox::{Attach, Entry, aside};
use crate::store::{Store, StoreError};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Where a here-document that begins with `#!` is a program.
const SCRIPTS: &str = "/dev/pipes";

/// What RUN shall run, all variables and the shell put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunStep {
    /// The program, as it was named, and its arguments.
    pub args: Vec<String>,
    /// Its environment: PATH, the ENVs, then the ARGs that no ENV hides.
    pub env: Vec<(String, String)>,
    /// An absolute path of the image.
    pub workdir: PathBuf,
    /// As USER has it.
    pub user: Option<String>,
    pub network: Network,
    /// A file that is there while it runs, and is no part of the layer.
    pub script: Option<Script>,
    /// Whether it is a line for the shell.
    in_shell: bool,
}

/// What a step may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Public addresses.
    Default,
    /// Nothing.
    None,
}

/// A here-document that is a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    /// An absolute path of the image.
    pub path: PathBuf,
    pub content: String,
}

/// What a program of a build runs on.
#[derive(Debug)]
struct Ground<'a> {
    store: &'a Store,
    /// The directories of the stage's layers, topmost first.
    layers: &'a [PathBuf],
    /// A bundle of its own, with an empty writable layer.
    bundle: PathBuf,
    /// The Wasm program, on the host.
    program: PathBuf,
    /// Whom it may call.
    egress: Egress,
    /// Whether what it says is kept for when it fails, and not shown.
    quiet: bool,
}

/// What an instruction means in a stage.
pub(super) fn prepare(stage: &Stage<'_>, i: &Run) -> Result<RunStep, Problem> {
    let network = match i.network.as_deref() {
        None if stage.build.options.offline => Network::None,
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some(other) => {
            return Err(Problem::Syntax(format!(
                "RUN --network={other}: there is default, which is public addresses, and none; others are granted with \
                 `sampan build --allow-net RULE`"
            )));
        }
    };
    let mut script = None;
    let args = match &i.command {
        Words::List(words) => words.clone(),
        Words::Line(line) => match i.here_docs.as_slice() {
            [] => stage.settings.command(&Words::Line(line.clone())),
            // The document is the whole command: a program of its own, or lines for the shell.
            [doc] if super::lines::here_doc(line).is_some() && doc.content.starts_with("#!") => {
                let path = Path::new(SCRIPTS).join(&doc.name);
                script = Some(Script { path: path.clone(), content: doc.content.clone() });
                vec![path.to_string_lossy().into_owned()]
            }
            [doc] if super::lines::here_doc(line).is_some() => {
                stage.settings.command(&Words::Line(doc.content.clone()))
            }
            // Documents of a command are for the shell to read.
            docs => {
                let mut whole = line.clone();
                for doc in docs {
                    whole.push('\n');
                    whole.push_str(&doc.content);
                    whole.push_str(&doc.name);
                }
                stage.settings.command(&Words::Line(whole))
            }
        },
    };
    let in_shell = script.is_none() && matches!(i.command, Words::Line(_));
    Ok(RunStep {
        args,
        env: environment(stage),
        workdir: stage.settings.absolute("."),
        user: stage.settings.user.clone(),
        network,
        script,
        in_shell,
    })
}

fn environment(stage: &Stage<'_>) -> Vec<(String, String)> {
    let mut env = vec![("PATH".to_owned(), container::PATH.to_owned())];
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    stage.build.args.proxies().for_each(|(name, value)| set(name, value));
    stage.args.iter().for_each(|(name, value)| value.iter().for_each(|value| set(name, value)));
    stage.settings.env.iter().for_each(|(name, value)| set(name, value));
    env
}

/// What the cache knows a step by: all that the program is given, and the layers below. Proxies are not among it, as
/// they say how to come to something and not to what.
pub(super) fn key(stage: &Stage<'_>, step: &RunStep) -> String {
    let proxies: Vec<&str> = stage.build.args.proxies().map(|(name, _)| name).collect();
    let mut step = step.clone();
    step.env.retain(|(name, _)| !proxies.contains(&name.as_str()));
    digest::of(format!("run 1\n{}\n{:?}\n{step:?}", stage.chain_id(), stage.build.latest).as_bytes())
}

/// Runs a step on top of a stage's layers: what it changed, as the plan of a layer, which may be empty; and whom it has
/// called.
pub(super) fn run(stage: &Stage<'_>, step: &RunStep) -> Result<(Plan, Vec<String>), Problem> {
    let (program, step) = find(stage, step)?;
    let bundle = stage.build.scratch("run");
    rootfs::make_writable_layer(&bundle).map_err(|e| Problem::CannotRun { reason: e.to_string() })?;
    let upper = rootfs::upper(&bundle);
    if let Some(script) = &step.script {
        put(script, &upper)?;
    }
    let quiet = stage.build.options.quiet;
    let egress = match step.network {
        Network::None => Egress::default(),
        Network::Default => {
            let mut egress = Egress::public();
            egress.extend(stage.build.options.egress.clone());
            let config = Config::load().map_err(|e| Problem::CannotRun { reason: e.to_string() })?;
            egress.extend(config.network.allow_net);
            egress
        }
    };
    let ground = Ground { store: stage.build.store, layers: stage.dirs(), bundle, program, egress, quiet };
    execute(&ground, &step)?;
    if let Some(script) = &step.script {
        take_away(script, &upper);
    }
    Ok((upper::changes(&upper, stage.build.latest)?, called(&ground.bundle)))
}

/// Whom a step has called, in the order of its calls.
fn called(bundle: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log::diagnostics_place(bundle)).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(" called ")).map(|(_, whom)| whom.to_owned()).collect()
}

/// Puts a here-document that is a program where it is looked for.
fn put(script: &Script, upper: &Path) -> Result<(), StoreError> {
    let file = upper.join(script.path.strip_prefix("/").unwrap_or(&script.path));
    crate::store::files::make_dir(file.parent().unwrap_or(upper))?;
    std::fs::write(&file, &script.content).map_err(StoreError::io("write", file))
}

/// Takes it away again, and the directories that were made for it.
fn take_away(script: &Script, upper: &Path) {
    let file = upper.join(script.path.strip_prefix("/").unwrap_or(&script.path));
    let _ = std::fs::remove_file(&file);
    for dir in file.ancestors().skip(1).take_while(|dir| *dir != upper) {
        let _ = std::fs::remove_dir(dir);
    }
}

/// Runs the program in a sandbox whose root is an overlay of the ground, and waits for its end. An exit code other than
/// 0 is a problem.
fn execute(ground: &Ground<'_>, step: &RunStep) -> Result<(), Problem> {
    let cannot = |e: &dyn std::fmt::Display| Problem::CannotRun { reason: e.to_string() };
    let cwd = step.workdir.to_string_lossy().into_owned();
    let env = step.env.iter().map(|(name, value)| format!("{name}={value}"));
    let grants = Grants {
        args: step.args.clone(),
        // Programs for WASI 0.1 have no other way to learn where they are.
        env: env.chain([format!("PWD={cwd}")]).collect(),
        cwd,
        root: RootGrant::Layers(ground.layers.to_vec()),
        root_writable: true,
        binds: vec![],
        secrets: vec![],
        paths: grants::Paths::default(),
        proc: None,
        network: match step.network {
            Network::Default => grants::Network::Default,
            Network::None => grants::Network::None,
        },
        address: None,
        member: None,
        published: vec![],
        exposed: vec![],
        egress: ground.egress.clone(),
        stdin: false,
        terminal: false,
        spawn: true,
        http: grants::Http::default(),
        limits: grants::Limits::default(),
    };
    let code = code::prepare(ground.store, &ground.program).map_err(|e| cannot(&e))?;
    let place = ground.store.run_dir()?.join("build");
    let entry = Entry {
        id: "run".to_owned(),
        bundle: ground.bundle.clone(),
        grants,
        code,
        store: Some(ground.store.clone()),
        network: None,
        input: None,
        attach: if ground.quiet { Attach::Detached } else { Attach::Terminal },
        log: log::Config::default(),
    };
    let exit = aside::run(&place, entry).map_err(|e| cannot(&e))?;
    match (exit.code, exit.message) {
        (0, _) => Ok(()),
        (126, Some(reason)) => Err(Problem::CannotRun { reason }),
        (code, _) => Err(Problem::RunFailed {
            command: step.args.join(" "),
            code,
            said: if ground.quiet { last_words(&ground.bundle) } else { String::new() },
        }),
    }
}

/// The last lines of a program whose output was not shown.
fn last_words(bundle: &Path) -> String {
    const LINES: usize = 20;
    let Ok(log) = File::open(log::place(bundle)) else { return String::new() };
    let mut last = std::collections::VecDeque::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if let Ok(line) = serde_json::from_str::<Line<'_>>(&line) {
            last.push_back(line.log.into_owned());
        }
        if last.len() > LINES {
            last.pop_front();
        }
    }
    last.into_iter().fold(String::from("; it said:\n"), |text, line| text + &line)
}

/// The Wasm program that a step means, on the host; with `#!` lines followed, so that the first argument is its name.
fn find(stage: &Stage<'_>, step: &RunStep) -> Result<(PathBuf, RunStep), Problem> {
    let mut step = step.clone();
    for _ in 0..script::MOST_SCRIPTS {
        let name = step.args.first().cloned().unwrap_or_default();
        let document = step.script.as_ref().filter(|script| script.path == Path::new(&name));
        let found = match document {
            Some(_) => None,
            None => find_program(stage, &name)?,
        };
        let start = match (document, &found) {
            (Some(document), _) => document.content.clone().into_bytes(),
            (None, Some((file, _))) => script::start_of(file).map_err(Problem::read(file))?,
            (None, None) => return Err(missing(stage, &step, name)),
        };
        if start.starts_with(b"\x7fELF") {
            let what = format!("RUN would run {name}, which is a native program (ELF)");
            return Err(Problem::Native { what, stage: stage.name.clone() });
        }
        match (script::interpreter(&start), found) {
            (Some(named), found) => {
                let searched = found.filter(|_| !name.contains('/'));
                let path = searched.map_or(name, |(_, guest)| guest.to_string_lossy().into_owned());
                step.args = script::words(named, path, &step.args);
            }
            (None, Some((file, _))) => return Ok((file, step)),
            (None, None) => return Err(missing(stage, &step, name)),
        }
    }
    let name = step.args.into_iter().next().unwrap_or_default();
    Err(Problem::NoProgram { program: name, hint: ": too many #! lines lead from one to the next" })
}

fn missing(stage: &Stage<'_>, step: &RunStep, program: String) -> Problem {
    let platform = stage.base.as_ref().map(|base| (base.display_name(), base.config.architecture().to_string()));
    if let Some((name, architecture)) = platform.filter(|(_, architecture)| !architecture.starts_with("wasm")) {
        let what = format!("the image {name} is for {architecture}");
        return Problem::Native { what, stage: stage.name.clone() };
    }
    let hint = if step.in_shell {
        ", and RUN with a line needs a shell: begin with an image that has a Wasm shell, name another one with SHELL, or \
         write RUN [\"program\", \"argument\"]"
    } else {
        ": COPY it first, or correct its name"
    };
    Problem::NoProgram { program, hint }
}

/// Where a program that a stage names is, on the host and in the image: by its path, or along PATH if its name has no
/// slash.
pub(super) fn find_program(stage: &Stage<'_>, program: &str) -> Result<Option<(PathBuf, PathBuf)>, StoreError> {
    let path = stage.settings.variable("PATH").unwrap_or_else(|| container::PATH.to_owned());
    let cwd = stage.settings.absolute(".");
    let look = |path: &Path| stage.file(&path.to_string_lossy());
    container::search(program, &cwd.to_string_lossy(), &path, look)
}
