//! The store as a whole: does everything hold what it should, and does it all fit together?
//!
//! ```text
//! container::check  records and bundles, names, what is in the run directory; volumes and networks
//! image::check      the index, the blobs that it names, the layers that were unpacked from them
//! guest::check      compiled code, against the hash that was recorded when it was made
//! leftovers         scratch and half-written files of processes that are gone
//! ```
//!
//! Commands that run beside a check are neither held up for long nor accused: what looks wrong is looked at once more,
//! under the lock of whoever may be changing it. What is *wrong* costs somebody something: a lost or changed byte, a name
//! that leads nowhere while its container is there. What was *left* by a process that was killed costs space alone: every
//! command works beside it, and much of it goes with the next command of its kind.
//!
//! With `repair` what can be had again is made anew (unpacked layers, compiled code, a container's name), and what was
//! left is swept. A blob that is lost cannot be made by anybody but its registry.

mod leftovers;

use crate::container::{self, Result};
use crate::store::Store;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Whether something is broken, or only in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something does not hold what it should.
    Wrong,
    /// A process that was killed has left it; nothing is the worse for it.
    Left,
}

impl Severity {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Left => "left",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as its user knows it: `image web:latest`.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Where.
    pub path: PathBuf,
    /// What to do; with a repair that failed, also why.
    pub advice: String,
    /// Whether it was repaired.
    pub repaired: bool,
}

impl Finding {
    /// Something wrong, with what to do about it.
    pub(crate) fn wrong(object: impl Display, problem: impl Display, path: &Path, advice: impl Display) -> Self {
        Self {
            severity: Severity::Wrong,
            object: object.to_string(),
            problem: problem.to_string(),
            path: path.to_owned(),
            advice: advice.to_string(),
            repaired: false,
        }
    }

    /// Something that was left.
    pub(crate) fn left(object: impl Display, problem: impl Display, path: &Path) -> Self {
        Self { severity: Severity::Left, ..Self::wrong(object, problem, path, REPAIR) }
    }
}

/// What to do where a repair helps.
pub(crate) const REPAIR: &str = "sampan system check --repair";

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Images, by their manifests.
    pub images: usize,
    /// Unpacked layers, compared with their archives.
    pub layers: usize,
    /// Programs' compiled code.
    pub programs: usize,
    /// Containers.
    pub containers: usize,
    /// Volumes.
    pub volumes: usize,
    /// Networks that users made.
    pub networks: usize,
}

/// What came of it all.
#[derive(Debug, Default)]
pub struct Report {
    /// What was found, in the order of the store's directories.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub counts: Counts,
    /// What could not be looked at, and why.
    pub skipped: Vec<String>,
    repair: bool,
}

impl Report {
    /// Whether something is wrong, and was not repaired.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Wrong && !finding.repaired)
    }

    /// Whether what is found is to be repaired.
    pub(crate) fn repairs(&self) -> bool {
        self.repair
    }

    /// Something that nobody here can repair.
    pub(crate) fn note(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Something that `mend` repairs, if that is wanted. It says false when there is nothing to repair any more, for
    /// somebody else was faster.
    pub(crate) fn mend<E: Display>(&mut self, mut finding: Finding, mend: impl FnOnce() -> Result<bool, E>) {
        if self.repair {
            match mend() {
                Ok(true) => finding.repaired = true,
                Ok(false) => return,
                Err(error) => finding.advice = format!("it could not be repaired: {error}"),
            }
        }
        self.findings.push(finding);
    }
}

/// Goes through the whole store; with `repair` also mends what can be mended.
///
/// # Errors
/// When the store's directories cannot be read at all.
pub fn check(store: &Store, repair: bool) -> Result<Report> {
    let mut report = Report { repair, ..Report::default() };
    // First, since whoever makes scratch sweeps that of others.
    leftovers::check(store, &mut report);
    // Then containers: one that was killed with its keeper is written down as ended before anything else is judged.
    container::check::check(store, &mut report)?;
    crate::image::check::check(store, &mut report, &|layer| container::check::user_of_layer(store, layer));
    crate::guest::check::check(store, &mut report);
    Ok(report)
}

/// The names in a directory; none if it is not there.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
