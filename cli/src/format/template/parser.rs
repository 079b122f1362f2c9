//! Makes a tree of a template's tokens.

use serde_json::Value;
use std::ops::Range;

use super::Fault;
use super::ast::{Base, Branch, Command, Node, Operand, Pipeline};
use super::functions;
use super::lexer::{Kind, Token};

/// Parentheses and branches may stand inside each other this deep: parsing and rendering go down as deep.
const DEEPEST: usize = 200;

/// Parses the tokens of the template `source`.
pub fn parse(source: &str, tokens: &[Token]) -> Result<Vec<Node>, Fault> {
    let mut parser =
        Parser { tokens, at: source.len()..source.len(), variables: vec!["$".to_owned()], loops: 0, depth: 0 };
    match parser.list()? {
        (nodes, Stop::Eof) => Ok(nodes),
        (_, Stop::End | Stop::Else) => parser.fault("there is nothing to end here"),
    }
}

/// What ends a list of nodes.
enum Stop {
    /// The end of the template.
    Eof,
    /// `{{end}}`
    End,
    /// `{{else`: what follows the word is still to be read.
    Else,
}

struct Parser<'a> {
    /// Those still to come.
    tokens: &'a [Token],
    /// Where the last token stood.
    at: Range<usize>,
    /// The names of the variables there are at this place.
    variables: Vec<String>,
    /// How many loops there are around this place.
    loops: usize,
    /// How many branches and parentheses there are around this place.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn fault<T>(&self, message: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::new(self.at.clone(), message))
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.first()
    }

    fn next(&mut self) -> Option<&'a Kind> {
        let (token, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        self.at = token.at.clone();
        Some(&token.kind)
    }

    fn next_if(&mut self, kind: &Kind) -> bool {
        self.peek().is_some_and(|token| token.kind == *kind) && self.next().is_some()
    }

    fn keyword(&mut self) -> Option<&'static str> {
        let Kind::Keyword(keyword) = self.peek()?.kind else {
            return None;
        };
        self.next();
        Some(keyword)
    }

    /// Goes into a branch or parentheses. Whoever does comes out again by taking one from the depth.
    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEEPEST { self.fault("nested too deeply") } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), Fault> {
        match self.next() {
            Some(Kind::Close) => Ok(()),
            _ => self.fault("unexpected: the action should end here"),
        }
    }

    /// The nodes up to an `else` or `end` that belongs to what is around them.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        while let Some(kind) = self.next() {
            if let Kind::Text(text) = kind {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            // A text ends with `{{`, so an action starts here.
            nodes.push(match self.keyword() {
                None => Node::Action(self.pipeline(&Kind::Close, 1)?),
                Some("else") => return Ok((nodes, Stop::Else)),
                Some("end") => {
                    self.close()?;
                    return Ok((nodes, Stop::End));
                }
                Some(keyword @ ("break" | "continue")) if self.loops > 0 => {
                    self.close()?;
                    if keyword == "break" { Node::Break } else { Node::Continue }
                }
                Some("break" | "continue") => return self.fault("there is no range around this"),
                Some(keyword) => self.branch(keyword)?,
            });
        }
        Ok((nodes, Stop::Eof))
    }

    /// `if`, `with` or `range` behind the keyword, its `end` included.
    fn branch(&mut self, keyword: &'static str) -> Result<Node, Fault> {
        self.enter()?;
        let start = self.at.clone();
        let known = self.variables.len();
        let most = if keyword == "range" { 2 } else { 1 };
        let make = match keyword {
            "if" => Node::If,
            "with" => Node::With,
            "range" => Node::Range,
            _ => return self.fault("not supported in a format"),
        };
        let pipeline = self.pipeline(&Kind::Close, most)?;

        self.loops += usize::from(keyword == "range");
        let (then, stop) = self.list()?;
        self.loops -= usize::from(keyword == "range");

        let (otherwise, stop) = match stop {
            Stop::Else => self.otherwise(keyword)?,
            stop => (Vec::new(), stop),
        };
        self.variables.truncate(known);
        self.depth -= 1;
        match stop {
            Stop::End => Ok(make(Branch { pipeline, then, otherwise })),
            Stop::Else => self.fault("expected end"),
            Stop::Eof => Err(Fault::new(start, "has no {{end}}")),
        }
    }

    /// What stands behind an `else` of this keyword.
    fn otherwise(&mut self, keyword: &'static str) -> Result<(Vec<Node>, Stop), Fault> {
        if keyword != "range" && self.next_if(&Kind::Keyword(keyword)) {
            // `{{else if}}` has no end of its own: it takes that of the first `if`.
            return Ok((vec![self.branch(keyword)?], Stop::End));
        }
        self.close()?;
        self.list()
    }

    /// A pipeline and the token that ends it, with variables as many as `most`.
    fn pipeline(&mut self, end: &Kind, most: usize) -> Result<Pipeline, Fault> {
        let (variables, assigns) = self.assignment(most)?;
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(end)?);
            if self.next_if(end) {
                break;
            }
            // A command ends with a `|` if it does not end the pipeline.
            self.next();
        }
        // Known from here on only: `$x := $x` speaks of another `$x`.
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$key, $value :=`, if the pipeline has that; what else starts with a variable is left.
    fn assignment(&mut self, most: usize) -> Result<(Vec<String>, bool), Fault> {
        let mut ahead = self.tokens.iter().map(|token| &token.kind);
        let mut variables = Vec::new();
        let assigns = loop {
            let (Some(Kind::Variable(name)), Some(next)) = (ahead.next(), ahead.next()) else {
                return Ok((Vec::new(), false));
            };
            variables.push(name.clone());
            match next {
                Kind::Comma => {}
                Kind::Declare => break false,
                Kind::Assign => break true,
                _ => return Ok((Vec::new(), false)),
            }
        };
        for _ in 0..2 * variables.len() {
            self.next();
        }
        if variables.len() > most {
            return self.fault("too many variables");
        }
        match variables.iter().find(|name| assigns && !self.variables.contains(name)) {
            Some(name) => self.fault(format!("undefined variable {name:?}")),
            None => Ok((variables, assigns)),
        }
    }

    /// Operands up to a `|` or the end of the pipeline, which are left.
    fn command(&mut self, end: &Kind) -> Result<Command, Fault> {
        let mut operands = Vec::new();
        loop {
            let Some(token) = self.peek() else {
                return self.fault("unexpected end");
            };
            if token.kind == *end || token.kind == Kind::Pipe {
                break;
            }
            let glued = !token.spaced && !operands.is_empty();
            let operand = self.operand()?;
            if glued {
                return Err(Fault::new(operand.at, "unexpected: white space is missing before it"));
            }
            operands.push(operand);
        }
        let mut operands = operands.into_iter();
        match operands.next() {
            Some(head) => Ok(Command { head, arguments: operands.collect() }),
            None => {
                self.next();
                self.fault("missing value for command")
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, Fault> {
        let mut fields = Vec::new();
        let kind = self.next();
        let start = self.at.start;
        let base = match kind {
            Some(Kind::Literal(value)) => Base::Literal(value.clone()),
            Some(Kind::Word(word)) => match word.as_str() {
                "true" => Base::Literal(Value::Bool(true)),
                "false" => Base::Literal(Value::Bool(false)),
                "nil" => Base::Literal(Value::Null),
                _ => match functions::find(word) {
                    Some(function) => Base::Function(function),
                    None => return self.fault(format!("function {word:?} not defined")),
                },
            },
            Some(Kind::Dot) => Base::Dot,
            Some(Kind::Field(name)) => {
                fields.push(name.clone());
                Base::Dot
            }
            Some(Kind::Variable(name)) if self.variables.contains(name) => Base::Variable(name.clone()),
            Some(Kind::Variable(name)) => return self.fault(format!("undefined variable {name:?}")),
            Some(Kind::LeftParen) => {
                self.enter()?;
                let group = self.pipeline(&Kind::RightParen, 1)?;
                self.depth -= 1;
                Base::Group(Box::new(group))
            }
            _ => return self.fault("unexpected in a command"),
        };
        // Only these have fields: one behind a literal or a function is a mistake.
        if matches!(base, Base::Variable(_) | Base::Group(_)) || !fields.is_empty() {
            while let Some(Token { kind: Kind::Field(name), spaced: false, .. }) = self.peek() {
                self.next();
                fields.push(name.clone());
            }
        }
        Ok(Operand { base, fields, at: start..self.at.end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::template::lexer::tokens;

    fn message(source: &str) -> String {
        tokens(source).and_then(|tokens| parse(source, &tokens)).unwrap_err().explain(source).to_string()
    }

    #[test]
    fn places_fields_and_arguments() {
        let source = "{{f}}".replace('f', "join .A.B .C (.D).E | len");
        let nodes = parse(&source, &tokens(&source).unwrap()).unwrap();
        let [Node::Action(Pipeline { commands, .. })] = &nodes[..] else { panic!("{nodes:?}") };
        let arguments: Vec<_> = commands[0].arguments.iter().map(|operand| operand.fields.join("/")).collect();
        assert_eq!(arguments, ["A/B", "C", "E"]);
        assert_eq!(&source[commands[0].arguments[2].at.clone()], "(.D).E");
        assert_eq!(commands.len(), 2);
    }

    #[test]
    fn goes_only_so_deep() {
        let parens = |depth| format!("{{{{{}.{}}}}}", "(".repeat(depth), ")".repeat(depth));
        let branches = |depth| "{{if .}}".repeat(depth) + &"{{end}}".repeat(depth);
        for source in [parens(DEEPEST), branches(DEEPEST), branches(1).repeat(2 * DEEPEST)] {
            assert!(parse(&source, &tokens(&source).unwrap()).is_ok());
        }
        for source in [parens(DEEPEST + 1), branches(DEEPEST + 1), parens(100_000)] {
            assert!(message(&source).ends_with("nested too deeply"));
        }
    }

    #[test]
    fn explains_faults() {
        for (source, expected) in [
            ("{{if .A}}", "1:3: at <if>: has no {{end}}"),
            ("{{if}}{{end}}", "1:5: at <}}>: missing value for command"),
            ("a\n{{end}}", "2:6: at <}}>: there is nothing to end here"),
            ("{{else}}", "1:3: at <else>: there is nothing to end here"),
            ("{{if .}}{{else}}{{else}}{{end}}", "1:19: at <else>: expected end"),
            ("{{if .}}{{else with .}}{{end}}", "1:16: at <with>: unexpected: the action should end here"),
            ("{{foo .ID}}", "1:3: at <foo>: function \"foo\" not defined"),
            ("{{$x}}", "1:3: at <$x>: undefined variable \"$x\""),
            ("{{$x = 1}}", "1:6: at <=>: undefined variable \"$x\""),
            ("{{if $x := 1}}{{end}}{{$x}}", "1:24: at <$x>: undefined variable \"$x\""),
            ("{{$a, $b := .}}", "1:10: at <:=>: too many variables"),
            ("{{.ID\"x\"}}", "1:6: at <\"x\">: unexpected: white space is missing before it"),
            ("{{. | }}", "1:7: at <}}>: missing value for command"),
            ("{{break}}", "1:3: at <break>: there is no range around this"),
            ("{{template \"x\"}}", "1:3: at <template>: not supported in a format"),
            ("{{.a-b}}", "1:5: at <-b>: malformed literal"),
            ("{{len .A, .B}}", "1:9: at <,>: unexpected in a command"),
        ] {
            assert_eq!(message(source), format!("template parsing error: {expected}"), "{source}");
        }
    }
}
