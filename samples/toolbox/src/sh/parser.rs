//! From tokens to commands: the grammar of POSIX.1-2024, Shell Command Language, 2.10, by recursive descent.

use super::ast::{Command, Compound, Item, List, Pipeline, Redirect, RedirectKind, Simple};
use super::lexer::{Lexer, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// The text ends within this.
    Incomplete(&'static str),
    /// This cannot be where it is.
    Unexpected(String),
}

impl ParseError {
    /// In the words of BusyBox's shell.
    pub fn words(&self) -> String {
        match self {
            Self::Incomplete("'" | "\"" | "`" | "\\") => "syntax error: unterminated quoted string".to_owned(),
            Self::Incomplete("${") => "syntax error: missing '}'".to_owned(),
            Self::Incomplete(_) => "syntax error: unexpected end of file".to_owned(),
            Self::Unexpected(what) => format!("syntax error: unexpected {what}"),
        }
    }
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

/// Words that are not a command's name where one is expected.
const CLOSING: [&str; 8] = ["then", "else", "elif", "fi", "do", "done", "esac", "}"];

pub struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(Token, Lexer<'a>)>,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        Self::of(Lexer::new(text))
    }

    pub fn of(lexer: Lexer<'a>) -> Self {
        Self { lexer, ahead: None }
    }

    /// For a text that may go on: what is missing makes the line incomplete.
    pub fn growing(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        lexer.more_may_come = true;
        Self::of(lexer)
    }

    /// How many lines have been read.
    pub fn line(&self) -> usize {
        self.lexer.line
    }

    pub fn start_at_line(&mut self, line: usize) {
        self.lexer.line = line;
    }

    fn peek(&mut self) -> Result<Token> {
        if let Some((token, _)) = &self.ahead {
            return Ok(token.clone());
        }
        let mut after = self.lexer.clone();
        let token = after.next()?;
        self.ahead = Some((token.clone(), after));
        Ok(token)
    }

    fn take(&mut self) -> Result<Token> {
        let token = self.peek()?;
        if let Some((_, after)) = self.ahead.take() {
            self.lexer = after;
        }
        Ok(token)
    }

    fn is_operator(&mut self, operator: &str) -> Result<bool> {
        Ok(matches!(self.peek()?, Token::Operator(o) if o == operator))
    }

    fn is_word(&mut self, word: &str) -> Result<bool> {
        Ok(matches!(self.peek()?, Token::Word(w) if w == word))
    }

    fn accept(&mut self, operator: &str) -> Result<bool> {
        let found = self.is_operator(operator)?;
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn unexpected<T>(&mut self) -> Result<T> {
        Err(match self.peek()? {
            Token::Word(word) => ParseError::Unexpected(format!("\"{word}\"")),
            Token::Number(number) => ParseError::Unexpected(format!("\"{number}\"")),
            Token::Operator(operator) => ParseError::Unexpected(format!("\"{operator}\"")),
            Token::Newline => ParseError::Unexpected("newline".to_owned()),
            Token::End => ParseError::Incomplete("command"),
        })
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        if self.is_word(word)? { self.take().map(drop) } else { self.unexpected() }
    }

    fn skip_newlines(&mut self) -> Result<()> {
        while self.peek()? == Token::Newline {
            self.take()?;
        }
        Ok(())
    }

    /// The commands up to the end of a line on which they may end; `None` at the end of the text.
    pub fn line_of_commands(&mut self) -> Result<Option<List>> {
        self.skip_newlines()?;
        if self.peek()? == Token::End {
            return Ok(None);
        }
        let mut list = List::new();
        loop {
            let ended = self.item(&mut list)?;
            match self.peek()? {
                Token::Newline => {
                    self.take()?;
                    return Ok(Some(list));
                }
                Token::End => return Ok(Some(list)),
                _ if ended => {}
                _ => return self.unexpected(),
            }
        }
    }

    /// One item and what ends it; whether something did.
    fn item(&mut self, list: &mut List) -> Result<bool> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            let and = if self.accept("&&")? {
                true
            } else if self.accept("||")? {
                false
            } else {
                break;
            };
            self.skip_newlines()?;
            rest.push((and, self.pipeline()?));
        }
        let background = self.accept("&")?;
        let ended = background || self.accept(";")?;
        list.push(Item { first, rest, background });
        Ok(ended)
    }

    /// Commands up to a word or operator that closes them.
    fn list(&mut self) -> Result<List> {
        let mut list = List::new();
        loop {
            self.skip_newlines()?;
            if self.at_close()? {
                break;
            }
            let ended = self.item(&mut list)?;
            if !ended && self.peek()? != Token::Newline {
                break;
            }
        }
        if list.is_empty() { self.unexpected() } else { Ok(list) }
    }

    fn at_close(&mut self) -> Result<bool> {
        Ok(match self.peek()? {
            Token::Word(word) => CLOSING.contains(&word.as_str()),
            Token::Operator(operator) => matches!(operator, ")" | ";;"),
            Token::End => true,
            _ => false,
        })
    }

    /// Where a command substitution ends that begins here.
    pub fn end_of_substitution(mut self) -> Result<usize> {
        self.skip_newlines()?;
        if !self.is_operator(")")? {
            self.list()?;
        }
        if !self.is_operator(")")? {
            return self.unexpected();
        }
        self.take()?;
        Ok(self.lexer.at)
    }

    fn pipeline(&mut self) -> Result<Pipeline> {
        let mut negated = false;
        while self.is_word("!")? {
            self.take()?;
            negated = !negated;
        }
        let mut commands = vec![self.command()?];
        while self.accept("|")? {
            self.skip_newlines()?;
            commands.push(self.command()?);
        }
        Ok(Pipeline { negated, commands })
    }

    fn command(&mut self) -> Result<Command> {
        let compound = match self.peek()? {
            Token::Operator("(") => {
                self.take()?;
                let list = self.list()?;
                if !self.accept(")")? {
                    return self.unexpected();
                }
                Compound::Subshell(list)
            }
            Token::Word(word) => match word.as_str() {
                "{" => {
                    self.take()?;
                    let list = self.list()?;
                    self.expect("}")?;
                    Compound::Group(list)
                }
                "if" => self.conditional()?,
                "while" | "until" => {
                    self.take()?;
                    let condition = self.list()?;
                    Compound::While { until: word == "until", condition, body: self.body()? }
                }
                "for" => self.for_loop()?,
                "case" => self.case()?,
                word if CLOSING.contains(&word) => return self.unexpected(),
                _ => return self.simple_or_function(),
            },
            Token::Operator("<" | ">" | ">>" | "<<" | "<<-" | "<&" | ">&" | "<>" | ">|") | Token::Number(_) => {
                return self.simple_or_function();
            }
            _ => return self.unexpected(),
        };
        let mut redirects = Vec::new();
        while let Some(redirect) = self.redirect()? {
            redirects.push(redirect);
        }
        Ok(Command::Compound(compound, redirects))
    }

    fn conditional(&mut self) -> Result<Compound> {
        let (mut arms, mut otherwise) = (Vec::new(), None);
        loop {
            self.take()?;
            let condition = self.list()?;
            self.expect("then")?;
            arms.push((condition, self.list()?));
            if self.is_word("elif")? {
                continue;
            }
            if self.is_word("else")? {
                self.take()?;
                otherwise = Some(self.list()?);
            }
            self.expect("fi")?;
            return Ok(Compound::If { arms, otherwise });
        }
    }

    fn body(&mut self) -> Result<List> {
        self.expect("do")?;
        let body = self.list()?;
        self.expect("done")?;
        Ok(body)
    }

    fn for_loop(&mut self) -> Result<Compound> {
        self.take()?;
        let Token::Word(name) = self.take()? else { return self.unexpected() };
        if !is_name(&name) {
            return Err(ParseError::Unexpected(format!("\"{name}\"")));
        }
        self.skip_newlines()?;
        let mut words = None;
        if self.is_word("in")? {
            self.take()?;
            let mut list = Vec::new();
            while let Token::Word(word) = self.peek()? {
                self.take()?;
                list.push(word);
            }
            words = Some(list);
        }
        self.accept(";")?;
        self.skip_newlines()?;
        Ok(Compound::For { name, words, body: self.body()? })
    }

    fn case(&mut self) -> Result<Compound> {
        self.take()?;
        let Token::Word(word) = self.take()? else { return self.unexpected() };
        self.skip_newlines()?;
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.skip_newlines()?;
            if self.is_word("esac")? {
                self.take()?;
                return Ok(Compound::Case { word, arms });
            }
            self.accept("(")?;
            let mut patterns = Vec::new();
            loop {
                let Token::Word(pattern) = self.peek()? else { return self.unexpected() };
                self.take()?;
                patterns.push(pattern);
                if !self.accept("|")? {
                    break;
                }
            }
            if !self.accept(")")? {
                return self.unexpected();
            }
            self.skip_newlines()?;
            let body = if self.at_close()? { List::new() } else { self.list()? };
            arms.push((patterns, body));
            self.skip_newlines()?;
            if !self.accept(";;")? && !self.is_word("esac")? {
                return self.unexpected();
            }
        }
    }

    fn redirect(&mut self) -> Result<Option<Redirect>> {
        let number = match self.peek()? {
            Token::Number(number) => {
                self.take()?;
                Some(number)
            }
            _ => None,
        };
        let Token::Operator(operator) = self.peek()? else { return Ok(None) };
        let (kind, fd) = match operator {
            "<" => (RedirectKind::Read, 0),
            ">" => (RedirectKind::Write, 1),
            ">|" => (RedirectKind::Clobber, 1),
            ">>" => (RedirectKind::Append, 1),
            "<>" => (RedirectKind::ReadWrite, 0),
            "<&" => (RedirectKind::Duplicate, 0),
            ">&" => (RedirectKind::Duplicate, 1),
            "<<" | "<<-" => (RedirectKind::Here { expand: true }, 0),
            _ => return Ok(None),
        };
        self.take()?;
        let Token::Word(word) = self.peek()? else { return self.unexpected() };
        self.take()?;
        let fd = number.unwrap_or(fd);
        if !matches!(kind, RedirectKind::Here { .. }) {
            return Ok(Some(Redirect { fd, kind, target: word }));
        }
        let expand = !word.contains(['\'', '"', '\\']);
        let delimiter: String = word.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
        let target = self.lexer.document(&delimiter, operator == "<<-")?;
        Ok(Some(Redirect { fd, kind: RedirectKind::Here { expand }, target }))
    }

    fn simple_or_function(&mut self) -> Result<Command> {
        let mut simple = Simple { line: self.lexer.line, ..Simple::default() };
        loop {
            if let Some(redirect) = self.redirect()? {
                simple.redirects.push(redirect);
                continue;
            }
            let Token::Word(word) = self.peek()? else { break };
            self.take()?;
            match assignment(&word).filter(|_| simple.words.is_empty()) {
                Some((name, value)) => simple.assignments.push((name.to_owned(), value.to_owned())),
                None => simple.words.push(word),
            }
        }
        if let [name] = simple.words.as_slice()
            && is_name(name)
            && simple.assignments.is_empty()
            && simple.redirects.is_empty()
            && self.accept("(")?
        {
            if !self.accept(")")? {
                return self.unexpected();
            }
            self.skip_newlines()?;
            return Ok(Command::Function(name.clone(), Box::new(self.command()?)));
        }
        if simple.words.is_empty() && simple.assignments.is_empty() && simple.redirects.is_empty() {
            return self.unexpected();
        }
        Ok(Command::Simple(simple))
    }
}

/// Whether this can be a variable's name.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `NAME=value`, if it is that.
pub fn assignment(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(name, _)| is_name(name))
}
