//! `sampan`: containers that are WebAssembly programs, with Docker's command line.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "doc comments of arguments are their help: brackets mean what may be left out"
)]

mod commands;
mod format;
mod front;
mod health;
mod inside;
mod limits;
mod settings;
mod shared;
mod terminal;
mod verbatim;

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Args, Command};
use sampan_runtime::container::{ContainerError, id};
use sampan_runtime::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;

/// One command of the command line. Its arguments are described only when it is the one that was given, since
/// describing them all would take longer than starting a container.
struct Entry {
    name: &'static str,
    /// Another word for it, if there is one.
    alias: Option<&'static str>,
    about: &'static str,
    args: fn(Command) -> Command,
    does: Does,
}

enum Does {
    /// Something.
    This(fn(&Context, &ArgMatches) -> Result<ExitCode>),
    /// Nothing itself: it is a group of commands.
    Group(&'static [Entry]),
}

/// An error that a child of ours has told the user about.
#[derive(Debug, thiserror::Error)]
#[error("see above")]
pub struct AlreadyTold;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    root: Option<PathBuf>,
    namespace: Option<String>,
}

impl Context {
    /// The store that `--root` or `SAMPAN_ROOT` names, or the usual one; of its namespaces, the one that was named.
    pub fn store(&self) -> Result<Store> {
        let Some(name) = &self.namespace else { return Ok(Store::locate(self.root.as_deref())?) };
        let place = self.namespace_place(name)?;
        if !place.is_dir() {
            bail!("there is no namespace {name:?} in this store: k8s.io comes with `sampan serve --cri`");
        }
        Ok(Store::locate(Some(&place))?)
    }

    /// The namespace that was named, or this one: a store of its own, which is made if there is none.
    pub fn namespace(&self, usual: &str) -> Result<Store> {
        Ok(Store::locate(Some(&self.namespace_place(self.namespace.as_deref().unwrap_or(usual))?))?)
    }

    fn namespace_place(&self, name: &str) -> Result<PathBuf> {
        if !id::is_name(name) {
            bail!("{name:?} is no namespace: letters, digits, dots, dashes and underscores make one, as k8s.io");
        }
        let store = Store::locate(self.root.as_deref())?;
        let place = store.root().join("namespaces").join(name);
        Ok(place)
    }
}

/// A command from the type that has its arguments.
macro_rules! entry {
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
    ($name:literal, $about:literal, $module:ident :: $args:ident $(, $alias:literal)?) => {
        Entry {
            name: $name,
            alias: entry!(@alias $($alias)?),
            about: $about,
            args: <commands::$module::$args as Args>::augment_args,
            does: Does::This(|context, matches| {
                use clap::FromArgMatches;
                commands::$module::$args::from_arg_matches(matches)?.run(context)
            }),
        }
    };
}

/// A command that is a group of commands.
macro_rules! group {
    ($name:literal, $about:literal, $group:ident) => {
        Entry {
            name: $name,
            alias: None,
            about: $about,
            args: |command| with_entries(command, $group),
            does: Does::Group($group),
        }
    };
}

const COMMANDS: &[Entry] = &[
    entry!("attach", "See a running container's output, and type its input", attach::AttachArgs),
    entry!("build", "Build an image from a Dockerfile", build::BuildArgs),
    entry!("builder", "Manage what builds remember", builder::BuilderArgs),
    entry!("commit", "Make an image of a container", commit::CommitArgs),
    entry!("completion", "Print a shell's completion script", completion::CompletionArgs),
    group!("container", "Manage containers", CONTAINER),
    entry!("cp", "Copy files into a container or out of it", cp::CpArgs),
    entry!("create", "Create a container without starting it", run::CreateArgs),
    entry!("diff", "List what a container has changed in its image's files", cp::DiffArgs),
    entry!("events", "Show what happens, as it happens", events::EventsArgs),
    entry!("exec", "Run a program in a running container", exec::ExecArgs),
    entry!("export", "Write a container's files into a tar archive", commit::ExportArgs),
    entry!("history", "Show how an image was made, the last step first", history::HistoryArgs),
    group!("image", "Manage images", IMAGE),
    entry!("images", "List images", images::ImagesArgs),
    entry!("info", "Show what this machine can do for sandboxes", system::InfoArgs),
    entry!("inspect", "Show everything known of containers, images, volumes or networks", inspect::InspectArgs),
    // The runtime's own: what has no description is not shown.
    entry!("keep", "", run::KeepArgs),
    entry!("ready", "", run::ReadyArgs),
    entry!("kill", "Kill running containers", lifecycle::KillArgs),
    entry!("load", "Load images from an archive", exchange::LoadArgs),
    entry!("login", "Log in to a registry", login::LoginArgs),
    entry!("logout", "Log out from a registry", login::LogoutArgs),
    entry!("logs", "Show a container's output", logs::LogsArgs),
    entry!("network", "Manage networks", network::NetworkArgs),
    entry!("pause", "Hold running containers where they are", supervise::PauseArgs),
    entry!("port", "List a container's ports", port::PortArgs),
    entry!("ps", "List containers", ps::PsArgs),
    entry!("pull", "Get an image from a registry", pull::PullArgs),
    entry!("push", "Put an image into a registry", push::PushArgs),
    entry!("restart", "Stop containers and start them again", supervise::RestartArgs),
    entry!("rm", "Remove containers", lifecycle::RmArgs),
    entry!("rmi", "Remove images", images::RmiArgs),
    entry!("run", "Create a container from an image (or a .wasm file) and run it", run::RunArgs),
    entry!("save", "Write images into an archive that other tools can load", exchange::SaveArgs),
    entry!("serve", "Serve other programs: Kubernetes, metrics", serve::ServeArgs),
    entry!("start", "Start stopped containers", run::StartArgs),
    entry!("stats", "Show what containers use", stats::StatsArgs),
    entry!("stop", "Stop running containers", lifecycle::StopArgs),
    group!("system", "Look after the store", SYSTEM),
    entry!("tag", "Give an image another name", push::TagArgs),
    entry!("unpause", "Let paused containers go on", supervise::UnpauseArgs),
    entry!("update", "Change settings of containers, also of running ones", supervise::UpdateArgs),
    entry!("version", "Show the version", system::VersionArgs),
    entry!("volume", "Manage volumes", volume::VolumeArgs),
    entry!("wait", "Wait for containers to end, then print their exit codes", lifecycle::WaitArgs),
];

const CONTAINER: &[Entry] = &[
    entry!("attach", "See a running container's output, and type its input", attach::AttachArgs),
    entry!("commit", "Make an image of a container", commit::CommitArgs),
    entry!("cp", "Copy files into a container or out of it", cp::CpArgs),
    entry!("create", "Create a container without starting it", run::CreateArgs),
    entry!("diff", "List what a container has changed in its image's files", cp::DiffArgs),
    entry!("exec", "Run a program in a running container", exec::ExecArgs),
    entry!("export", "Write a container's files into a tar archive", commit::ExportArgs),
    entry!("inspect", "Show everything known of containers", inspect::ContainerInspectArgs),
    entry!("kill", "Kill running containers", lifecycle::KillArgs),
    entry!("logs", "Show a container's output", logs::LogsArgs),
    entry!("pause", "Hold running containers where they are", supervise::PauseArgs),
    entry!("ls", "List containers", ps::PsArgs, "list"),
    entry!("port", "List a container's ports", port::PortArgs),
    entry!("prune", "Remove all stopped containers", prune::ContainerPruneArgs),
    entry!("restart", "Stop containers and start them again", supervise::RestartArgs),
    entry!("rm", "Remove containers", lifecycle::RmArgs, "remove"),
    entry!("run", "Create a container from an image (or a .wasm file) and run it", run::RunArgs),
    entry!("start", "Start stopped containers", run::StartArgs),
    entry!("stats", "Show what containers use", stats::StatsArgs),
    entry!("stop", "Stop running containers", lifecycle::StopArgs),
    entry!("unpause", "Let paused containers go on", supervise::UnpauseArgs),
    entry!("update", "Change settings of containers, also of running ones", supervise::UpdateArgs),
    entry!("wait", "Wait for containers to end, then print their exit codes", lifecycle::WaitArgs),
];

const IMAGE: &[Entry] = &[
    entry!("build", "Build an image from a Dockerfile", build::BuildArgs),
    entry!("history", "Show how an image was made, the last step first", history::HistoryArgs),
    entry!("inspect", "Show everything known of images, and what they can ask for", image::ImageInspectArgs),
    entry!("load", "Load images from an archive", exchange::LoadArgs),
    entry!("ls", "List images", images::ImagesArgs, "list"),
    entry!("prune", "Remove images that nobody needs", prune::ImagePruneArgs),
    entry!("pull", "Get an image from a registry", pull::PullArgs),
    entry!("push", "Put an image into a registry", push::PushArgs),
    entry!("rm", "Remove images", images::RmiArgs, "remove"),
    entry!("save", "Write images into an archive that other tools can load", exchange::SaveArgs),
    entry!("tag", "Give an image another name", push::TagArgs),
];

const SYSTEM: &[Entry] = &[
    entry!("check", "Check that everything in the store is whole", check::CheckArgs),
    entry!("df", "Show what takes space", df::DfArgs),
    entry!("info", "Show what this machine can do for sandboxes", system::InfoArgs),
    entry!("install", "Have containers that should run restored when the machine starts", restore::InstallArgs),
    entry!("prune", "Remove stopped containers and what nobody needs then", prune::SystemPruneArgs),
    entry!("restore", "Start the containers that should run and do not", restore::RestoreArgs),
];

/// The whole command line. Subcommands describe themselves when clap comes to them.
pub fn command_line() -> Command {
    let root = Arg::new("root")
        .long("root")
        .value_name("DIR")
        .value_parser(clap::value_parser!(PathBuf))
        .env("SAMPAN_ROOT")
        .global(true)
        .help("Where images and containers lie");
    let namespace = Arg::new("namespace")
        .long("namespace")
        .value_name("NAME")
        .global(true)
        .help("Whose images and containers: none for yours, k8s.io for those of the Kubernetes node");
    let command = Command::new("sampan")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Containers that are WebAssembly programs")
        .arg(root)
        .arg(namespace);
    with_entries(command, COMMANDS)
}

/// A command with these as its subcommands, one of which has to be given.
fn with_entries(command: Command, entries: &'static [Entry]) -> Command {
    let describe = |entry: &Entry| {
        let command = Command::new(entry.name).about(entry.about).hide(entry.about.is_empty()).defer(entry.args);
        match entry.alias {
            Some(alias) => command.visible_alias(alias),
            None => command,
        }
    };
    command.subcommand_required(true).arg_required_else_help(true).subcommands(entries.iter().map(describe))
}

/// The command that was given, and what was given to it.
fn chosen<'m>(entries: &'static [Entry], matches: &'m ArgMatches) -> Option<(&'static Entry, &'m ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let entry = entries.iter().find(|entry| entry.name == name)?;
    match entry.does {
        Does::This(_) => Some((entry, matches)),
        Does::Group(group) => chosen(group, matches),
    }
}

fn main() -> ExitCode {
    sampan_runtime::one_arena();
    if let Some(code) = sampan_runtime::guest::compile::run_if_child() {
        return code;
    }
    let mut words = std::env::args_os();
    if commands::containerd::is_called(words.next().as_deref()) {
        return commands::containerd::run(words.map(|word| word.to_string_lossy().into_owned()));
    }
    let matches = match verbatim::read(command_line, std::env::args_os().collect()) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            // Docker's code for a command line that it cannot read.
            return ExitCode::from(if error.use_stderr() { 125 } else { 0 });
        }
    };
    let context = Context {
        root: matches.get_one::<PathBuf>("root").cloned(),
        namespace: matches.get_one::<String>("namespace").cloned(),
    };
    let Some((entry, sub)) = chosen(COMMANDS, &matches) else { return ExitCode::from(125) };
    let Does::This(run) = entry.does else { return ExitCode::from(125) };
    run(&context, sub).unwrap_or_else(|error| {
        if !error.is::<AlreadyTold>() {
            eprintln!("sampan: {}", commands::words(&error));
        }
        ExitCode::from(exit_code(entry.name, &error))
    })
}

/// 125, 126 and 127 where the exit code could be the container's own, as Docker has it; 1 elsewhere.
fn exit_code(command: &str, error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ContainerError>() {
        _ if command == "exec" => error.downcast_ref::<front::Failed>().map_or(1, |failed| failed.code),
        _ if !matches!(command, "run" | "create" | "start") => 1,
        Some(error) => error.exit_code(),
        None => error.downcast_ref::<front::Failed>().map_or(125, |failed| failed.code),
    }
}
