//! The tree that a template is parsed into.

use serde_json::Value;
use std::ops::Range;

use super::functions::Function;

/// A piece of a template that does something.
#[derive(Debug)]
pub enum Node {
    /// Text to print as it is.
    Text(String),
    /// `{{pipeline}}`: prints a value, or sets a variable.
    Action(Pipeline),
    /// `{{if}}`
    If(Branch),
    /// `{{with}}`
    With(Branch),
    /// `{{range}}`
    Range(Branch),
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// `if`, `with` or `range`, up to its `end`.
#[derive(Debug)]
pub struct Branch {
    /// What decides.
    pub pipeline: Pipeline,
    /// What is done if it is something.
    pub then: Vec<Node>,
    /// What is done if it is nothing.
    pub otherwise: Vec<Node>,
}

/// `$variable := command | command`
#[derive(Debug)]
pub struct Pipeline {
    /// The variables that are set, which only a `range` can have two of.
    pub variables: Vec<String>,
    /// Whether the variables are there already (`=`) rather than new (`:=`).
    pub assigns: bool,
    /// The commands, each of which gets the value of the one before as its last argument. There is one at least.
    pub commands: Vec<Command>,
}

/// A function or a value, and arguments.
#[derive(Debug)]
pub struct Command {
    /// What is called, or evaluated if there are no arguments.
    pub head: Operand,
    /// What it is given.
    pub arguments: Vec<Operand>,
}

/// A value and the fields to take from it, one from the other.
#[derive(Debug)]
pub struct Operand {
    /// Where the fields are taken from.
    pub base: Base,
    /// The names of the fields.
    pub fields: Vec<String>,
    /// Where it stands in the template.
    pub at: Range<usize>,
}

/// What an operand starts with.
#[derive(Debug)]
pub enum Base {
    /// `.`
    Dot,
    /// `$name`
    Variable(String),
    /// A string, a number or the like.
    Literal(Value),
    /// `len`
    Function(&'static Function),
    /// `(pipeline)`
    Group(Box<Pipeline>),
}
