//! `sampan`: containers that are WebAssembly programs, with Docker's command line.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "doc comments of arguments are their help: brackets mean what may be left out"
)]

mod commands;
mod format;
mod front;
mod settings;

use anyhow::Result;
use clap::{Arg, ArgMatches, Args, Command};
use sampan_runtime::container::ContainerError;
use sampan_runtime::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;

/// One command of the command line. Its arguments are described only when it is the one that was given, since
/// describing them all would take longer than starting a container.
struct Entry {
    name: &'static str,
    about: &'static str,
    args: fn(Command) -> Command,
    run: fn(&Context, &ArgMatches) -> Result<ExitCode>,
}

/// An error that a child of ours has told the user about.
#[derive(Debug, thiserror::Error)]
#[error("see above")]
pub struct AlreadyTold;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    root: Option<PathBuf>,
}

impl Context {
    /// The store that `--root` or `SAMPAN_ROOT` names, or the usual one.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::locate(self.root.as_deref())?)
    }
}

/// A command from the type that has its arguments.
macro_rules! entry {
    ($name:literal, $about:literal, $module:ident :: $args:ident) => {
        Entry {
            name: $name,
            about: $about,
            args: <commands::$module::$args as Args>::augment_args,
            run: |context, matches| {
                use clap::FromArgMatches;
                commands::$module::$args::from_arg_matches(matches)?.run(context)
            },
        }
    };
}

const COMMANDS: &[Entry] = &[
    entry!("build", "Build an image from a Dockerfile", build::BuildArgs),
    entry!("completion", "Print a shell's completion script", completion::CompletionArgs),
    entry!("create", "Create a container without starting it", run::CreateArgs),
    entry!("images", "List images", images::ImagesArgs),
    entry!("info", "Show what this machine can do for sandboxes", system::InfoArgs),
    entry!("inspect", "Show everything known of containers, images or volumes", inspect::InspectArgs),
    entry!("kill", "Kill running containers", lifecycle::KillArgs),
    entry!("login", "Log in to a registry", login::LoginArgs),
    entry!("logout", "Log out from a registry", login::LogoutArgs),
    entry!("logs", "Show a container's output", logs::LogsArgs),
    entry!("port", "List a container's ports", port::PortArgs),
    entry!("ps", "List containers", ps::PsArgs),
    entry!("pull", "Get an image from a registry", pull::PullArgs),
    entry!("push", "Put an image into a registry", push::PushArgs),
    entry!("rm", "Remove containers", lifecycle::RmArgs),
    entry!("rmi", "Remove images", images::RmiArgs),
    entry!("run", "Create a container from an image (or a .wasm file) and run it", run::RunArgs),
    entry!("start", "Start stopped containers", run::StartArgs),
    entry!("stop", "Stop running containers", lifecycle::StopArgs),
    entry!("tag", "Give an image another name", push::TagArgs),
    entry!("version", "Show the version", system::VersionArgs),
    entry!("volume", "Manage volumes", volume::VolumeArgs),
    entry!("wait", "Wait for containers to end, then print their exit codes", lifecycle::WaitArgs),
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
    Command::new("sampan")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Containers that are WebAssembly programs")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(root)
        .subcommands(COMMANDS.iter().map(|entry| Command::new(entry.name).about(entry.about).defer(entry.args)))
}

fn main() -> ExitCode {
    sampan_runtime::one_arena();
    if let Some(code) = sampan_runtime::guest::compile::run_if_child() {
        return code;
    }
    let matches = match command_line().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            // Docker's code for a command line that it cannot read.
            return ExitCode::from(if error.use_stderr() { 125 } else { 0 });
        }
    };
    let context = Context { root: matches.get_one::<PathBuf>("root").cloned() };
    let chosen = matches.subcommand().and_then(|(name, sub)| Some((COMMANDS.iter().find(|e| e.name == name)?, sub)));
    let Some((entry, sub)) = chosen else { return ExitCode::from(125) };
    (entry.run)(&context, sub).unwrap_or_else(|error| {
        if !error.is::<AlreadyTold>() {
            eprintln!("sampan: {}", commands::words(&error));
        }
        ExitCode::from(exit_code(entry.name, &error))
    })
}

/// 125, 126 and 127 where the exit code could be the container's own, as Docker has it; 1 elsewhere.
fn exit_code(command: &str, error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ContainerError>() {
        _ if !matches!(command, "run" | "create" | "start") => 1,
        Some(error) => error.exit_code(),
        None => error.downcast_ref::<front::Failed>().map_or(125, |failed| failed.code),
    }
}
