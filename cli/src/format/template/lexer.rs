//! Cuts a template into tokens.

use serde_json::Value;
use std::ops::Range;

use super::Fault;
use super::literal;

/// A piece of a template.
#[derive(Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it stands in the template.
    pub at: Range<usize>,
    /// Whether white space, or nothing, stands before it inside the braces.
    pub spaced: bool,
}

/// The kinds of tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Text outside of braces.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.Name`
    Field(String),
    /// `.`
    Dot,
    /// `$name`, or `$` alone
    Variable(String),
    /// `if`, `end` and the like
    Keyword(&'static str),
    /// A function, or `true`, `false` and `nil`
    Word(String),
    /// A string, a number or a character
    Literal(Value),
    /// `(`
    LeftParen,
    /// `)`
    RightParen,
    /// `|`
    Pipe,
    /// `,`
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// All tokens of a template, comments left out and white space trimmed where `{{-` and `-}}` want it.
pub fn tokens(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new() };
    let mut trim = false;
    while !lexer.rest().is_empty() {
        trim = lexer.text(trim) && lexer.action()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

const KEYWORDS: [&str; 10] = ["if", "with", "range", "else", "end", "break", "continue", "define", "template", "block"];

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const TRIMMING_CLOSE: &str = "-}}";

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind, length: usize, spaced: bool) {
        let end = self.at + length;
        self.tokens.push(Token { kind, at: self.at..end, spaced });
        self.at = end;
    }

    fn fault<T>(&self, message: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::new(self.at..self.at, message))
    }

    /// Passes over white space and tells whether there was any.
    fn space(&mut self) -> bool {
        let length = self.rest().len() - self.rest().trim_start_matches(is_space).len();
        self.at += length;
        length > 0
    }

    /// Takes the text up to the next `{{` and tells whether there is one.
    fn text(&mut self, trim_start: bool) -> bool {
        let rest = self.rest();
        let length = rest.find(OPEN).unwrap_or(rest.len());
        let (mut text, action) = rest.split_at(length);
        if trim_start {
            text = text.trim_start_matches(is_space);
        }
        if action.strip_prefix(OPEN).is_some_and(trims) {
            text = text.trim_end_matches(is_space);
        }
        if text.is_empty() {
            self.at += length;
        } else {
            self.push(Kind::Text(text.to_owned()), length, true);
        }
        !action.is_empty()
    }

    /// Takes an action from `{{` to `}}` and tells whether it trims the text behind it.
    fn action(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        self.push(Kind::Open, OPEN.len(), true);
        if trims(self.rest()) {
            self.at += 1;
        }
        if self.rest().trim_start_matches(is_space).starts_with("/*") {
            return self.comment();
        }
        let mut depth = 0_usize;
        let mut spaced = true;
        loop {
            spaced |= self.space();
            let rest = self.rest();
            if rest.starts_with(CLOSE) || spaced && rest.starts_with(TRIMMING_CLOSE) {
                if depth > 0 {
                    return self.fault("unclosed left paren");
                }
                let trims = rest.starts_with(TRIMMING_CLOSE);
                self.push(Kind::Close, if trims { TRIMMING_CLOSE.len() } else { CLOSE.len() }, spaced);
                return Ok(trims);
            }
            let Some(first) = rest.chars().next() else {
                return Err(Fault::new(start..start, "unclosed action: a }} is missing"));
            };
            match first {
                '(' => depth += 1,
                ')' if depth == 0 => return self.fault("unexpected right paren"),
                ')' => depth -= 1,
                _ => {}
            }
            let (kind, length) = self.token(rest, first)?;
            self.push(kind, length, spaced);
            spaced = false;
        }
    }

    /// A comment leaves no token, not even its `{{`.
    fn comment(&mut self) -> Result<bool, Fault> {
        self.tokens.pop();
        self.space();
        let Some((comment, behind)) = self.rest().split_once("*/") else {
            return self.fault("unclosed comment");
        };
        self.at += comment.len() + 2;
        let trims = behind.trim_start_matches(is_space).starts_with(TRIMMING_CLOSE) && self.space();
        let close = if trims { TRIMMING_CLOSE } else { CLOSE };
        if !self.rest().starts_with(close) {
            return self.fault("comment ends before closing delimiter");
        }
        self.at += close.len();
        Ok(trims)
    }

    /// The token at the start of `rest`, which starts with `first`, and its length.
    fn token(&self, rest: &str, first: char) -> Result<(Kind, usize), Fault> {
        let behind = rest.get(first.len_utf8()..).unwrap_or_default();
        let name = behind.split(|c| !is_word(c)).next().unwrap_or_default();
        let digit_next = behind.starts_with(|c: char| c.is_ascii_digit());
        Ok(match first {
            '(' => (Kind::LeftParen, 1),
            ')' => (Kind::RightParen, 1),
            '|' => (Kind::Pipe, 1),
            ',' => (Kind::Comma, 1),
            '=' => (Kind::Assign, 1),
            ':' if behind.starts_with('=') => (Kind::Declare, 2),
            '$' => (Kind::Variable(format!("${name}")), 1 + name.len()),
            '.' if digit_next => self.literal(literal::number(rest))?,
            '.' if name.is_empty() => (Kind::Dot, 1),
            '.' => (Kind::Field(name.to_owned()), 1 + name.len()),
            '+' | '-' | '0'..='9' => self.literal(literal::number(rest))?,
            '"' | '\'' | '`' => match literal::quoted(behind, first) {
                Some(found) => self.literal(found)?,
                None => return self.fault("unterminated quoted string"),
            },
            _ if is_word(first) => {
                let word = rest.get(..first.len_utf8() + name.len()).unwrap_or_default();
                let keyword = KEYWORDS.iter().find(|keyword| **keyword == word);
                (keyword.map_or_else(|| Kind::Word(word.to_owned()), |keyword| Kind::Keyword(keyword)), word.len())
            }
            _ => return self.fault(format!("unexpected {first:?} in command")),
        })
    }

    fn literal(&self, (length, value): (usize, Option<Value>)) -> Result<(Kind, usize), Fault> {
        match value {
            Some(value) => Ok((Kind::Literal(value), length)),
            None => Err(Fault::new(self.at..self.at + length, "malformed literal")),
        }
    }
}

/// Whether what stands behind `{{` trims the text before it: a hyphen, then white space.
fn trims(behind_open: &str) -> bool {
    behind_open.strip_prefix('-').is_some_and(|rest| rest.starts_with(is_space))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Whether the character can be part of a name.
pub fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Kind> {
        tokens(source).unwrap().into_iter().map(|token| token.kind).collect()
    }

    fn text(text: &str) -> Kind {
        Kind::Text(text.to_owned())
    }

    #[test]
    fn cuts_actions() {
        let field = |name: &str| Kind::Field(name.to_owned());
        assert_eq!(
            kinds("a{{.ID.x | f $v (.) }}b"),
            [
                text("a"),
                Kind::Open,
                field("ID"),
                field("x"),
                Kind::Pipe,
                Kind::Word("f".to_owned()),
                Kind::Variable("$v".to_owned()),
                Kind::LeftParen,
                Kind::Dot,
                Kind::RightParen,
                Kind::Close,
                text("b")
            ]
        );
    }

    #[test]
    fn trims_and_drops_comments() {
        let dot = [Kind::Open, Kind::Dot, Kind::Close];
        assert_eq!(kinds("a \n {{- . -}} \t b")[..], [&[text("a")], &dot[..], &[text("b")]].concat());
        assert_eq!(kinds(" {{/* {{.}} */}} "), [text(" "), text(" ")]);
        assert_eq!(kinds("a {{- /* x */ -}} b"), [text("a"), text("b")]);
        assert_eq!(kinds("{{-3}}"), [Kind::Open, Kind::Literal((-3).into()), Kind::Close]);
    }

    #[test]
    fn refuses_what_go_refuses() {
        for source in [
            "{{.ID",
            "{{(}}",
            "{{)}}",
            "{{\"a}}",
            "{{\"\n\"}}",
            "{{/* a}}",
            "{{/* a */ b}}",
            "{{1x}}",
            "{{#}}",
            "{{'ab'}}",
        ] {
            assert!(tokens(source).is_err(), "{source}");
        }
    }
}
