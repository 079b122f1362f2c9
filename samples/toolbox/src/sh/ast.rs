//! What a script means, before anything is expanded. A word is kept as it was written: what its quotes and dollars mean
//! is worked out when it is expanded.

use serde::{Deserialize, Serialize};

/// A word as it was written.
pub type Word = String;
/// Commands one after the other.
pub type List = Vec<Item>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    pub first: Pipeline,
    /// What follows by `&&` (true) or `||`.
    pub rest: Vec<(bool, Pipeline)>,
    /// Whether it is not waited for (`&`).
    pub background: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pipeline {
    pub negated: bool,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    Simple(Simple),
    Compound(Compound, Vec<Redirect>),
    Function(String, Box<Command>),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Simple {
    pub assignments: Vec<(String, Word)>,
    pub words: Vec<Word>,
    pub redirects: Vec<Redirect>,
    pub line: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Compound {
    Group(List),
    Subshell(List),
    If { arms: Vec<(List, List)>, otherwise: Option<List> },
    While { until: bool, condition: List, body: List },
    For { name: String, words: Option<Vec<Word>>, body: List },
    Case { word: Word, arms: Vec<(Vec<Word>, List)> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Redirect {
    pub fd: u32,
    pub kind: RedirectKind,
    /// A file's name, a descriptor's number, or the text of a here-document.
    pub target: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectKind {
    Read,
    Write,
    /// `>|`: over an existing file even with `set -C`.
    Clobber,
    Append,
    ReadWrite,
    /// `<&` or `>&`.
    Duplicate,
    /// A here-document, and whether its dollars mean something.
    Here {
        expand: bool,
    },
}
