//! From text to tokens (POSIX.1-2024, Shell Command Language, 2.3). What a word is made of is only skipped over here.

use super::parser::{ParseError, Parser};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// The number before a redirection.
    Number(u32),
    Operator(&'static str),
    Newline,
    End,
}

/// The longer ones first.
const OPERATORS: [&str; 19] =
    ["<<-", "<<", "<&", "<>", "<", ">>", ">&", ">|", ">", "&&", "&", "||", "|", ";;", ";", "(", ")", "\n", "\r\n"];

#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    pub at: usize,
    pub line: usize,
    /// Where a line ends behind which here-documents lie, and where these end.
    documents: BTreeMap<usize, usize>,
    /// Whether more of the text may come, so that what is missing is not an error yet.
    pub more_may_come: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, line: 1, documents: BTreeMap::new(), more_may_come: false }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn starts_with(&self, at: usize, what: &str) -> bool {
        self.text.get(at..).is_some_and(|rest| rest.starts_with(what.as_bytes()))
    }

    pub fn slice(&self, from: usize, to: usize) -> String {
        String::from_utf8_lossy(self.text.get(from..to).unwrap_or_default()).into_owned()
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.byte(self.at) {
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'\\') if self.byte(self.at + 1) == Some(b'\n') => {
                    self.at += 2;
                    self.line += 1;
                }
                Some(b'#') => {
                    while self.byte(self.at).is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    pub fn next(&mut self) -> Result<Token, ParseError> {
        self.skip_blanks();
        if self.byte(self.at).is_none() {
            return Ok(Token::End);
        }
        if let Some(operator) = OPERATORS.iter().find(|o| self.starts_with(self.at, o)) {
            if operator.ends_with('\n') {
                let end = self.at;
                self.at = self.documents.get(&end).copied().unwrap_or(end + 1);
                self.line += self.text[end..self.at.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
                return Ok(Token::Newline);
            }
            self.at += operator.len();
            return Ok(Token::Operator(operator));
        }
        let start = self.at;
        self.skip_word()?;
        let word = self.slice(start, self.at);
        self.line += word.bytes().filter(|b| *b == b'\n').count();
        if matches!(self.byte(self.at), Some(b'<' | b'>'))
            && let Ok(number) = word.parse()
        {
            return Ok(Token::Number(number));
        }
        Ok(Token::Word(word.replace("\\\n", "")))
    }

    fn skip_word(&mut self) -> Result<(), ParseError> {
        while let Some(byte) = self.byte(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => break,
                _ => self.at = self.part(self.at)?,
            }
        }
        Ok(())
    }

    /// The end of one part of a word: a byte, or what is quoted or substituted.
    pub fn part(&self, at: usize) -> Result<usize, ParseError> {
        match self.byte(at) {
            Some(b'\\') => match self.byte(at + 1) {
                None if self.more_may_come => Err(ParseError::Incomplete("\\")),
                None => Ok(at + 1),
                Some(_) => Ok(at + 2),
            },
            Some(b'\'') => self.find(at + 1, b'\'').map(|end| end + 1).ok_or(ParseError::Incomplete("'")),
            Some(b'"') => self.double_quoted(at + 1),
            Some(b'`') => self.backquoted(at + 1),
            Some(b'$') => self.dollar(at),
            _ => Ok(at + 1),
        }
    }

    fn find(&self, from: usize, byte: u8) -> Option<usize> {
        self.text.get(from..)?.iter().position(|b| *b == byte).map(|n| from + n)
    }

    fn double_quoted(&self, mut at: usize) -> Result<usize, ParseError> {
        loop {
            match self.byte(at) {
                None => return Err(ParseError::Incomplete("\"")),
                Some(b'"') => return Ok(at + 1),
                Some(b'\'') => at += 1,
                _ => at = self.part(at)?,
            }
        }
    }

    fn backquoted(&self, mut at: usize) -> Result<usize, ParseError> {
        loop {
            match self.byte(at) {
                None => return Err(ParseError::Incomplete("`")),
                Some(b'`') => return Ok(at + 1),
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
            }
        }
    }

    fn dollar(&self, at: usize) -> Result<usize, ParseError> {
        if self.starts_with(at, "$((")
            && let Some(end) = self.arithmetic(at + 3)
        {
            return Ok(end);
        }
        match self.byte(at + 1) {
            Some(b'(') => {
                // Only a parser knows which parenthesis ends it.
                let mut inner = self.clone();
                inner.at = at + 2;
                Parser::of(inner).end_of_substitution()
            }
            Some(b'{') => self.braced(at + 2),
            _ => Ok(at + 1),
        }
    }

    /// The end of an arithmetic expansion, if this is one: behind the `))` that fits.
    pub fn arithmetic(&self, mut at: usize) -> Option<usize> {
        let mut open = 0;
        loop {
            match self.byte(at)? {
                b'(' => open += 1,
                b')' if open > 0 => open -= 1,
                b')' if self.byte(at + 1) == Some(b')') => return Some(at + 2),
                b')' => return None,
                b'$' | b'`' | b'\\' => {
                    at = self.part(at).ok()?;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn braced(&self, mut at: usize) -> Result<usize, ParseError> {
        loop {
            match self.byte(at) {
                None => return Err(ParseError::Incomplete("${")),
                Some(b'}') => return Ok(at + 1),
                _ => at = self.part(at)?,
            }
        }
    }

    /// Takes the here-document that begins behind the line which is being read.
    pub fn document(&mut self, delimiter: &str, strip_tabs: bool) -> Result<String, ParseError> {
        let mut newline = self.at;
        while self.byte(newline).is_some_and(|b| b != b'\n') {
            // What cannot be skipped is told when it is read.
            newline = self.part(newline).unwrap_or(newline + 1);
        }
        if self.byte(newline).is_none() {
            return if self.more_may_come { Err(ParseError::Incomplete("<<")) } else { Ok(String::new()) };
        }
        let mut at = self.documents.get(&newline).copied().unwrap_or(newline + 1);
        let mut body = String::new();
        loop {
            if at >= self.text.len() {
                if self.more_may_come {
                    return Err(ParseError::Incomplete("<<"));
                }
                break;
            }
            let end = self.find(at, b'\n').unwrap_or(self.text.len());
            let whole = self.slice(at, end);
            let line = if strip_tabs { whole.trim_start_matches('\t') } else { &whole };
            at = (end + 1).min(self.text.len());
            if line == delimiter {
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        self.documents.insert(newline, at);
        Ok(body)
    }
}
