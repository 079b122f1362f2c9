//! `completion`.

use crate::Context;
use crate::commands::filter;
use anyhow::Result;
use clap::Args;
use clap_complete::Shell;
use std::process::ExitCode;

/// Print a shell's completion script
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Whose script
    shell: Shell,
}

impl CompletionArgs {
    pub fn run(self, _: &Context) -> Result<ExitCode> {
        let mut command = crate::command_line();
        // Subcommands have no arguments before they are built.
        command.build();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sampan", &mut script);
        filter::print(&String::from_utf8(script)?)
    }
}
