//! `cp` and `diff`: a container's files.

use crate::Context;
use crate::commands::exchange::write_archive;
use crate::format::humanize;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::{self, CopyOptions};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Copy files into a container or out of it
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Keep the owners, as numbers
    #[arg(short, long)]
    archive: bool,
    /// Follow a link that the source names
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// CONTAINER:PATH, a path here, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// List what a container has changed in its image's files
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Name or id
    container: String,
}

/// `CONTAINER:PATH`; `None` for a path here, which begins with `/` or `.` where it has a colon.
fn in_container(given: &str) -> Option<(&str, &str)> {
    if given.starts_with(['/', '.']) {
        return None;
    }
    given.split_once(':').filter(|(container, _)| !container.is_empty())
}

impl CpArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let options = CopyOptions { archive: self.archive, follow: self.follow_link };
        let copied = match (in_container(&self.source), in_container(&self.destination)) {
            (Some(_), Some(_)) => bail!("cannot copy between two containers: copy to a path here first"),
            (None, None) => bail!("one of the two must be CONTAINER:PATH"),
            (Some((name, from)), None) => {
                let found = container::find(&store, name)?;
                if self.destination == "-" {
                    return write_archive(None, "copy", |out| {
                        Ok(container::copy_out_as_archive(&store, &found, from, options, out)?)
                    });
                }
                container::copy_out(&store, &found, from, &self.destination, options)?
            }
            (None, Some((name, to))) => {
                let found = container::find(&store, name)?;
                match self.source.as_str() {
                    "-" if std::io::stdin().is_terminal() => {
                        bail!("cp reads an archive from standard input, and that is a terminal: redirect it")
                    }
                    "-" => {
                        container::copy_archive_in(&store, &found, std::io::stdin().lock(), to, options)?;
                        return Ok(ExitCode::SUCCESS);
                    }
                    from => container::copy_in(&store, &found, from, to, options)?,
                }
            }
        };
        if !self.quiet {
            eprintln!("Successfully copied {} to {}", humanize::human_size(copied.bytes, 3), self.destination);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl DiffArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let found = container::find(&store, &self.container)?;
        let lines = container::diff(&found)?;
        let lines = lines.into_iter().map(|(path, change)| format!("{} {}\n", change.letter(), path.display()));
        crate::commands::filter::print(&lines.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_means_a_container_unless_the_path_says_otherwise() {
        assert_eq!(in_container("web:/etc"), Some(("web", "/etc")));
        assert_eq!(in_container("web:etc:x"), Some(("web", "etc:x")));
        for path in ["/a:b", "./a:b", "../a:b", "plain", "-", ":x"] {
            assert_eq!(in_container(path), None, "{path}");
        }
    }
}
