//! The templates of `--format`: the language of Go's package `text/template`, evaluated over JSON values.
//!
//! It is our own because the crate `gtmpl` (0.7.1) runs the `{{else}}` of every `range`, evaluates all of `and` and `or`,
//! prints maps in Rust's debug notation and knows neither `$x = 1` nor `{{break}}`.
//!
//! A template goes through `lexer` and `literal` (tokens), `parser` (the tree of `ast`) and `eval` (text). `functions`
//! and `printf` are what templates can call, `value` is what Go thinks of values. Not supported, as nobody types them on
//! a command line: `define`, `template`, `block`, `call`, `html`, `js`, `urlquery`, `printf`'s `%[1]d`, complex numbers.

mod ast;
mod eval;
mod functions;
mod lexer;
mod literal;
mod parser;
mod printf;
mod value;

#[cfg(test)]
mod tests;

use anyhow::{Result, anyhow};
use serde_json::Value;
use std::ops::Range;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    source: String,
    nodes: Vec<ast::Node>,
}

impl Template {
    /// Parses a template; the error tells the place and what is wrong there.
    pub fn parse(source: &str) -> Result<Self> {
        let parsed = lexer::tokens(source).and_then(|tokens| parser::parse(source, &tokens));
        let nodes = parsed.map_err(|fault| fault.explain(source))?;
        Ok(Self { source: source.to_owned(), nodes })
    }

    /// Renders the template over an object. A field that the object itself lacks is an error naming those it has;
    /// what is missing further inside is `<no value>`.
    pub fn render(&self, value: &Value) -> Result<String> {
        let (text, fault) = eval::render(&self.nodes, value, false);
        fault.map_or(Ok(text), |fault| Err(fault.explain(&self.source)))
    }

    /// Renders the line of headings of a table over an object of headings: functions such as `lower` leave a heading as
    /// it is. What cannot be done with a heading though it might be with a row ends the line; unknown keys are errors.
    pub(super) fn render_headings(&self, headings: &Value) -> Result<String> {
        let (text, fault) = eval::render(&self.nodes, headings, true);
        fault.filter(|fault| fault.unknown_field).map_or(Ok(text), |fault| Err(fault.explain(&self.source)))
    }
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    message: String,
    /// The bytes of the template that are to blame.
    at: Range<usize>,
    /// Whether the object to render lacks a field.
    unknown_field: bool,
}

impl Fault {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), at, unknown_field: false }
    }

    fn explain(&self, source: &str) -> anyhow::Error {
        let before = source.get(..self.at.start).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        match source.get(self.at.clone()).unwrap_or_default().trim_end() {
            "" => anyhow!("template parsing error: {line}:{column}: {}", self.message),
            culprit => anyhow!("template parsing error: {line}:{column}: at <{culprit}>: {}", self.message),
        }
    }
}
