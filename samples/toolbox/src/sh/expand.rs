//! From words to arguments (POSIX.1-2024, Shell Command Language, 2.6): tildes, parameters, commands and arithmetic,
//! then fields, then paths, then quotes.

use super::{Run, Shell, arith, glob, pattern};

/// One argument on its way: its text, and the same as a pattern in which what was quoted means itself.
#[derive(Debug, Clone, Default)]
struct Field {
    text: String,
    pattern: String,
    /// Whether anything was quoted, so that it counts though it is empty.
    quoted: bool,
}

impl Field {
    fn push(&mut self, c: char, quoted: bool) {
        self.text.push(c);
        if quoted {
            self.pattern.push('\\');
        }
        self.pattern.push(c);
    }
}

/// What an expansion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Arguments: split into fields.
    Fields,
    /// One string.
    Single,
}

struct Expansion<'s> {
    shell: &'s mut Shell,
    mode: Mode,
    done: Vec<Field>,
    field: Option<Field>,
}

impl Shell {
    /// The arguments that words become.
    pub fn expand_words(&mut self, words: &[String]) -> Run<Vec<String>> {
        let mut all = Vec::with_capacity(words.len());
        for word in words {
            let fields = self.expand(word, Mode::Fields)?;
            for field in fields {
                let paths = if self.options.noglob || !pattern::is_pattern(&field.pattern) {
                    Vec::new()
                } else {
                    glob::expand(&field.pattern)
                };
                if paths.is_empty() {
                    all.push(field.text);
                } else {
                    all.extend(paths);
                }
            }
        }
        Ok(all)
    }

    /// The one string that a word becomes.
    pub fn expand_single(&mut self, word: &str) -> Run<String> {
        Ok(join(self.expand(word, Mode::Single)?).text)
    }

    /// The pattern that a word becomes.
    pub fn expand_pattern(&mut self, word: &str) -> Run<String> {
        Ok(join(self.expand(word, Mode::Single)?).pattern)
    }

    /// The text of a here-document.
    pub fn expand_document(&mut self, text: &str) -> Run<String> {
        let chars: Vec<char> = text.chars().collect();
        let mut expansion = Expansion { shell: self, mode: Mode::Single, done: Vec::new(), field: None };
        expansion.double_quoted(&chars, true)?;
        Ok(join(expansion.finish()).text)
    }

    fn expand(&mut self, word: &str, mode: Mode) -> Run<Vec<Field>> {
        let mut expansion = Expansion { shell: self, mode, done: Vec::new(), field: None };
        let chars: Vec<char> = word.chars().collect();
        expansion.word(&chars)?;
        Ok(expansion.finish())
    }
}

fn join(fields: Vec<Field>) -> Field {
    let mut fields = fields.into_iter();
    let mut all = fields.next().unwrap_or_default();
    for field in fields {
        all.push(' ', false);
        all.text.push_str(&field.text);
        all.pattern.push_str(&field.pattern);
    }
    all
}

impl Expansion<'_> {
    fn finish(mut self) -> Vec<Field> {
        self.end_field();
        self.done
    }

    fn end_field(&mut self) {
        self.done.extend(self.field.take());
    }

    fn field(&mut self) -> &mut Field {
        self.field.get_or_insert_default()
    }

    fn push(&mut self, text: &str, quoted: bool) {
        let field = self.field();
        field.quoted |= quoted;
        text.chars().for_each(|c| field.push(c, quoted));
    }

    /// What an expansion without quotes gave: split where IFS says.
    fn push_split(&mut self, text: &str) {
        if self.mode == Mode::Single {
            return text.chars().for_each(|c| self.field().push(c, false));
        }
        let ifs = self.shell.get("IFS").unwrap_or_else(|| " \t\n".to_owned());
        let blank = |c: char| matches!(c, ' ' | '\t' | '\n') && ifs.contains(c);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if !ifs.contains(c) {
                self.field().push(c, false);
                continue;
            }
            // Blanks around another separator belong to it.
            let mut separators = usize::from(!blank(c));
            while let Some(next) = chars.next_if(|c| blank(*c) || (separators == 0 && ifs.contains(*c))) {
                separators += usize::from(!blank(next));
            }
            if separators > 0 {
                self.field();
            }
            self.end_field();
        }
    }

    fn word(&mut self, chars: &[char]) -> Run<()> {
        let mut at = self.tilde(chars);
        while let Some(c) = chars.get(at).copied() {
            match c {
                '\\' => {
                    if let Some(next) = chars.get(at + 1) {
                        self.push(&next.to_string(), true);
                    }
                    at += 2;
                }
                '\'' => {
                    let end = find(chars, at + 1, '\'');
                    self.push(&text(chars, at + 1, end), true);
                    at = end + 1;
                }
                '"' => {
                    let end = end_of_part(chars, at);
                    self.field().quoted = true;
                    let inner = chars.get(at + 1..end.saturating_sub(1)).unwrap_or_default().to_vec();
                    self.double_quoted(&inner, false)?;
                    at = end;
                }
                '$' | '`' => at = self.substitution(chars, at, false)?,
                _ => {
                    self.field().push(c, false);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// A tilde at the beginning; where the rest begins.
    fn tilde(&mut self, chars: &[char]) -> usize {
        if chars.first() != Some(&'~') || !matches!(chars.get(1), None | Some('/')) {
            return 0;
        }
        let Some(home) = self.shell.get("HOME") else { return 0 };
        self.push(&home, true);
        1
    }

    fn double_quoted(&mut self, chars: &[char], document: bool) -> Run<()> {
        let mut at = 0;
        while let Some(c) = chars.get(at).copied() {
            match c {
                '\\' => {
                    match chars.get(at + 1) {
                        Some('\n') => {}
                        Some(next @ ('$' | '`' | '\\')) => self.push(&next.to_string(), true),
                        Some('"') if !document => self.push("\"", true),
                        Some(next) => self.push(&format!("\\{next}"), true),
                        None => self.push("\\", true),
                    }
                    at += 2;
                }
                '$' | '`' => at = self.substitution(chars, at, true)?,
                _ => {
                    self.push(&c.to_string(), true);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn give(&mut self, value: &str, quoted: bool) {
        if quoted { self.push(value, true) } else { self.push_split(value) }
    }

    /// What begins with a dollar or a backquote; where the rest begins.
    fn substitution(&mut self, chars: &[char], at: usize, quoted: bool) -> Run<usize> {
        let end = end_of_part(chars, at);
        if chars.get(at) == Some(&'`') {
            let mut script = String::new();
            let mut inner = chars.get(at + 1..end.saturating_sub(1)).unwrap_or_default().iter().peekable();
            while let Some(c) = inner.next() {
                let next = inner.next_if(|n| *c == '\\' && (matches!(n, '$' | '`' | '\\') || (quoted && **n == '"')));
                script.push(*next.unwrap_or(c));
            }
            let output = self.shell.substitute(&script)?;
            self.give(&output, quoted);
            return Ok(end);
        }
        match chars.get(at + 1).copied() {
            Some('(') if chars.get(at + 2) == Some(&'(') && is_arithmetic(chars, at) => {
                let source = text(chars, at + 3, end.saturating_sub(2));
                let expression = self.shell.expand_document(&source)?;
                let value = match arith::evaluate(self.shell, &expression) {
                    Ok(value) => value,
                    Err(words) => return Err(self.shell.fatal(&words)),
                };
                self.give(&value.to_string(), quoted);
                Ok(end)
            }
            Some('(') => {
                let output = self.shell.substitute(&text(chars, at + 2, end.saturating_sub(1)))?;
                self.give(&output, quoted);
                Ok(end)
            }
            Some('{') => {
                let inner = chars.get(at + 2..end.saturating_sub(1)).unwrap_or_default().to_vec();
                self.braced(&inner, quoted)?;
                Ok(end)
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let end = (at + 1..chars.len())
                    .find(|n| !chars[*n].is_ascii_alphanumeric() && chars[*n] != '_')
                    .unwrap_or(chars.len());
                self.parameter(&text(chars, at + 1, end), quoted)?;
                Ok(end)
            }
            Some(c) if c.is_ascii_digit() || "@*#?-$!".contains(c) => {
                self.parameter(&c.to_string(), quoted)?;
                Ok(at + 2)
            }
            _ => {
                self.field().push('$', quoted);
                Ok(at + 1)
            }
        }
    }

    /// A plain parameter.
    fn parameter(&mut self, name: &str, quoted: bool) -> Run<()> {
        if name == "@" || (name == "*" && !quoted) {
            self.arguments(quoted);
            return Ok(());
        }
        let value = match self.shell.parameter(name) {
            Some(value) => value,
            None if self.shell.options.nounset => {
                return Err(self.shell.fatal(&format!("{name}: parameter not set")));
            }
            None => String::new(),
        };
        self.give(&value, quoted);
        Ok(())
    }

    /// `$@`: every positional parameter as a field of its own.
    fn arguments(&mut self, quoted: bool) {
        let all = self.shell.positional.clone();
        for (n, value) in all.iter().enumerate() {
            if n > 0 {
                match self.mode {
                    Mode::Fields => self.end_field(),
                    Mode::Single => self.push(" ", quoted),
                }
            }
            if quoted && self.mode == Mode::Fields {
                self.field().quoted = true;
            }
            self.give(value, quoted);
        }
        // "$@" without parameters is nothing at all, and not an empty argument.
        if all.is_empty() && quoted && self.field.as_ref().is_some_and(|f| f.text.is_empty()) {
            self.field = None;
        }
    }

    /// `${…}`.
    fn braced(&mut self, chars: &[char], quoted: bool) -> Run<()> {
        let bad = |shell: &mut Shell| Err(shell.fatal("syntax error: bad substitution"));
        let length = chars.first() == Some(&'#') && chars.len() > 1 && !is_operator(chars, 1);
        let start = usize::from(length);
        let name_end = match chars.get(start) {
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => (start..chars.len())
                .find(|n| !chars[*n].is_ascii_alphanumeric() && chars[*n] != '_')
                .unwrap_or(chars.len()),
            Some(c) if c.is_ascii_digit() => {
                (start..chars.len()).find(|n| !chars[*n].is_ascii_digit()).unwrap_or(chars.len())
            }
            Some(c) if "@*#?-$!".contains(*c) => start + 1,
            _ => return bad(self.shell),
        };
        let name = text(chars, start, name_end);
        if length {
            if name_end != chars.len() {
                return bad(self.shell);
            }
            let count = match name.as_str() {
                "@" | "*" => self.shell.positional.len(),
                name => self.shell.parameter(name).unwrap_or_default().chars().count(),
            };
            self.give(&count.to_string(), quoted);
            return Ok(());
        }
        let Some(operator) = chars.get(name_end).copied() else { return self.parameter(&name, quoted) };
        let colon = operator == ':' && matches!(chars.get(name_end + 1), Some('-' | '=' | '?' | '+'));
        let at = name_end + usize::from(colon);
        let argument = chars.get(at + 1..).unwrap_or_default().to_vec();
        let value = self.shell.parameter(&name).filter(|value| !colon || !value.is_empty());
        match chars.get(at).copied() {
            Some('-') => match value {
                Some(_) => self.parameter(&name, quoted)?,
                None => self.inner_word(&argument, quoted)?,
            },
            Some('+') => {
                if value.is_some() {
                    self.inner_word(&argument, quoted)?;
                }
            }
            Some('=') => match value {
                Some(_) => self.parameter(&name, quoted)?,
                None => {
                    let new = self.shell.expand_single(&String::from_iter(&argument))?;
                    self.shell.set(&name, &new)?;
                    self.give(&new, quoted);
                }
            },
            Some('?') => match value {
                Some(_) => self.parameter(&name, quoted)?,
                None => {
                    let words = self.shell.expand_single(&String::from_iter(&argument))?;
                    let words = if words.is_empty() { "parameter not set" } else { &words };
                    return Err(self.shell.fatal(&format!("{name}: {words}")));
                }
            },
            Some(which @ ('#' | '%')) => {
                let longest = argument.first() == Some(&which);
                let source = String::from_iter(argument.get(usize::from(longest)..).unwrap_or_default());
                let pattern = self.shell.expand_pattern(&source)?;
                let value = self.value_of(&name)?;
                let cut = if which == '#' {
                    pattern::without_prefix(&value, &pattern, longest)
                } else {
                    pattern::without_suffix(&value, &pattern, longest)
                };
                self.give(cut, quoted);
            }
            Some('/') => {
                let value = self.value_of(&name)?;
                let all = argument.first() == Some(&'/');
                let argument = argument.get(usize::from(all)..).unwrap_or_default();
                let middle = middle_of(argument, '/');
                let pattern = self.shell.expand_pattern(&text(argument, 0, middle))?;
                let with = self.shell.expand_single(&text(argument, middle + 1, argument.len()))?;
                self.give(&pattern::replace(&value, &pattern, &with, all), quoted);
            }
            Some(':') => {
                let value: Vec<char> = self.value_of(&name)?.chars().collect();
                let middle = middle_of(&argument, ':');
                let from = self.number(&text(&argument, 0, middle))?;
                let long = i64::try_from(value.len()).unwrap_or(i64::MAX);
                let from = if from < 0 { (long + from).max(0) } else { from.min(long) };
                let to = if middle < argument.len() {
                    let count = self.number(&text(&argument, middle + 1, argument.len()))?;
                    if count < 0 { long + count } else { from + count }
                } else {
                    long
                };
                let index = |n: i64| usize::try_from(n.clamp(0, long)).unwrap_or(0);
                self.give(&text(&value, index(from), index(to)), quoted);
            }
            _ => return bad(self.shell),
        }
        Ok(())
    }

    fn number(&mut self, source: &str) -> Run<i64> {
        let expression = self.shell.expand_document(source)?;
        arith::evaluate(self.shell, &expression).map_err(|words| self.shell.fatal(&words))
    }

    fn value_of(&mut self, name: &str) -> Run<String> {
        match self.shell.parameter(name) {
            None if self.shell.options.nounset => Err(self.shell.fatal(&format!("{name}: parameter not set"))),
            value => Ok(value.unwrap_or_default()),
        }
    }

    /// The word within `${x-word}`: with the quotes that it is in, and its own.
    fn inner_word(&mut self, chars: &[char], quoted: bool) -> Run<()> {
        if !quoted {
            return self.word(chars);
        }
        let mut at = 0;
        while at < chars.len() {
            if chars.get(at) == Some(&'"') {
                let end = end_of_part(chars, at);
                let inner = chars.get(at + 1..end.saturating_sub(1)).unwrap_or_default().to_vec();
                self.double_quoted(&inner, false)?;
                at = end;
            } else {
                let end = (at..chars.len()).find(|n| chars[*n] == '"').unwrap_or(chars.len());
                self.double_quoted(&chars.get(at..end).unwrap_or_default().to_vec(), false)?;
                at = end;
            }
        }
        Ok(())
    }
}

fn is_operator(chars: &[char], at: usize) -> bool {
    // `${#-x}` is the count of parameters with a default; `${#-}` is the length of `$-`.
    chars.len() > at + 1 && matches!(chars.get(at), Some('-' | '=' | '?' | '+' | ':' | '%' | '#'))
}

fn text(chars: &[char], from: usize, to: usize) -> String {
    chars.get(from..to.min(chars.len())).unwrap_or_default().iter().collect()
}

fn find(chars: &[char], from: usize, wanted: char) -> usize {
    (from..chars.len()).find(|n| chars[*n] == wanted).unwrap_or(chars.len())
}

/// Where a character is that is neither quoted nor substituted; the end if nowhere.
fn middle_of(chars: &[char], wanted: char) -> usize {
    let mut at = 0;
    while at < chars.len() && chars[at] != wanted {
        at = end_of_part(chars, at).max(at + 1);
    }
    at.min(chars.len())
}

fn is_arithmetic(chars: &[char], at: usize) -> bool {
    let source: String = chars.get(at..).unwrap_or_default().iter().collect();
    super::lexer::Lexer::new(&source).arithmetic(3).is_some()
}

/// The end of what begins here, as the lexer sees it.
fn end_of_part(chars: &[char], at: usize) -> usize {
    let source: String = chars.get(at..).unwrap_or_default().iter().collect();
    let end = super::lexer::Lexer::new(&source).part(0).unwrap_or(source.len());
    at + source.get(..end).map_or(1, |part| part.chars().count())
}
