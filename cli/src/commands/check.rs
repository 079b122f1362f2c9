//! `system check`.

use crate::Context;
use crate::commands::filter;
use crate::format::{Column, Listing};
use anyhow::Result;
use clap::Args;
use sampan_runtime::check::{self, Counts, Finding, Report, Severity};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// Check that everything in the store is whole
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print nothing when nothing is wrong
    #[arg(short, long)]
    quiet: bool,
    /// Make anew what can be made anew, and remove what killed commands have left
    #[arg(long)]
    repair: bool,
    /// Show also what killed commands have left
    #[arg(short, long)]
    verbose: bool,
}

const FINDINGS: Listing = Listing::new(
    "Path",
    &[
        Column::shown("Severity", "SEVERITY"),
        Column::shown("Object", "OBJECT"),
        Column::shown("Problem", "PROBLEM"),
        Column::shown("Path", "PATH"),
        Column::shown("Advice", "ADVICE"),
        Column::shown("Repaired", "REPAIRED"),
    ],
);

impl CheckArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let report = check::check(&context.store()?, self.repair)?;
        for skipped in &report.skipped {
            eprintln!("sampan: {skipped}");
        }
        let text = match self.format.as_deref() {
            None | Some("") => text(&report, self.quiet, self.verbose),
            format => FINDINGS.render(&report.findings.iter().map(row).collect::<Vec<_>>(), format, false)?,
        };
        filter::print(&text)?;
        Ok(if report.is_wrong() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn row(finding: &Finding) -> Value {
    json!({
        "Severity": finding.severity.word(),
        "Object": finding.object,
        "Problem": finding.problem,
        "Path": finding.path,
        "Advice": if finding.repaired { "" } else { &finding.advice },
        "Repaired": finding.repaired,
    })
}

/// A line for each finding, and what it comes to.
fn text(report: &Report, quiet: bool, verbose: bool) -> String {
    let mut text = String::new();
    let shown = |finding: &&Finding| verbose || finding.severity == Severity::Wrong;
    for Finding { object, problem, path, advice, repaired, .. } in report.findings.iter().filter(shown) {
        let what_next = if *repaired { "repaired" } else { advice };
        let _ = writeln!(text, "{object}: {problem} ({}): {what_next}", path.display());
    }
    if !quiet || report.is_wrong() {
        let _ = writeln!(text, "Checked {}: {}", counted(&report.counts), verdict(&report.findings));
    }
    text
}

fn counted(counts: &Counts) -> String {
    let Counts { images, layers, programs, containers, volumes, networks } = *counts;
    let all = [
        (images, "image"),
        (layers, "layer"),
        (programs, "program"),
        (containers, "container"),
        (volumes, "volume"),
        (networks, "network"),
    ];
    all.map(|(n, what)| number(n, what)).join(", ")
}

fn number(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn verdict(findings: &[Finding]) -> String {
    let count = |severity, repaired| {
        findings.iter().filter(|finding| finding.severity == severity && finding.repaired == repaired).count()
    };
    let parts: Vec<String> = [
        (count(Severity::Wrong, false), "problem", ""),
        (count(Severity::Wrong, true), "problem", " repaired"),
        (count(Severity::Left, false), "leftover", " of killed commands, which --repair removes"),
        (count(Severity::Left, true), "leftover", " of killed commands removed"),
    ]
    .into_iter()
    .filter(|(n, ..)| *n > 0)
    .map(|(n, what, then)| number(n, what) + then)
    .collect();
    if parts.is_empty() { "nothing is wrong".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, repaired: bool) -> Finding {
        Finding {
            severity,
            object: "image web".into(),
            problem: "its layer is lost".into(),
            path: "/s/x".into(),
            advice: "pull it".into(),
            repaired,
        }
    }

    fn report(findings: Vec<Finding>) -> Report {
        let mut report = Report::default();
        report.findings = findings;
        report.counts.images = 1;
        report
    }

    #[test]
    fn what_is_fine_is_one_line_or_none() {
        let fine = report(vec![]);
        let line = "Checked 1 image, 0 layers, 0 programs, 0 containers, 0 volumes, 0 networks: nothing is wrong\n";
        assert_eq!(text(&fine, false, false), line);
        assert_eq!(text(&fine, true, false), "");
    }

    #[test]
    fn leftovers_are_counted_and_problems_told() {
        let found = report(vec![finding(Severity::Wrong, false), finding(Severity::Left, false)]);
        let told = text(&found, true, false);
        assert!(told.starts_with("image web: its layer is lost (/s/x): pull it\nChecked "), "{told}");
        assert!(told.ends_with(": 1 problem, 1 leftover of killed commands, which --repair removes\n"), "{told}");
        assert_eq!(text(&found, true, true).lines().count(), 3);
        let repaired = report(vec![finding(Severity::Wrong, true), finding(Severity::Left, true)]);
        let told = text(&repaired, false, false);
        assert!(told.starts_with("image web: its layer is lost (/s/x): repaired\n"), "{told}");
        assert!(told.ends_with(": 1 problem repaired, 1 leftover of killed commands removed\n"), "{told}");
        assert!(!repaired.is_wrong() && found.is_wrong());
    }
}
