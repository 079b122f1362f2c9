//! A file a command, or a few that belong together.

pub mod attach;
pub mod build;
pub mod builder;
pub mod check;
pub mod commit;
pub mod completion;
pub mod containerd;
pub mod cp;
pub mod df;
pub mod events;
pub mod exchange;
pub mod exec;
pub mod filter;
pub mod history;
pub mod image;
pub mod images;
pub mod inspect;
pub mod lifecycle;
pub mod login;
pub mod logs;
pub mod network;
pub mod output;
pub mod port;
pub mod progress;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod push;
pub mod restore;
pub mod run;
pub mod sandbox;
pub mod serve;
pub mod stats;
pub mod supervise;
pub mod system;
pub mod volume;
pub mod watch;

use anyhow::Result;
use std::process::ExitCode;

/// An error with its causes, each said once: many of ours have their cause in their own words already.
pub fn words(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.contains(&cause) {
            true => text,
            false if text.is_empty() => cause,
            false => format!("{text}: {cause}"),
        }
    })
}

/// Does the same for each of several names as Docker does: each success prints the name, each failure a line on
/// standard error, and one failure makes the whole fail.
pub fn for_each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(name) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("sampan: {}", words(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
