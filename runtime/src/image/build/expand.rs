//! Words of a Dockerfile: quotes, escapes and variables, as BuildKit's shell lexer takes them.

use super::{Problem, pattern};
use std::iter::Peekable;
use std::str::Chars;

/// Looks a variable up.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A word without its quotes and escapes and with its variables' values: `$A`, `${A}`, `${A:-x}`, `${A-x}`, `${A:+x}`,
/// `${A+x}`, `${A:?why}`, `${A?why}`, `${A#x}`, `${A##x}`, `${A%x}`, `${A%%x}`, `${A/x/y}` and `${A//x/y}`. A variable
/// that is not set is empty.
pub(super) fn word(text: &str, escape: char, variables: Variables<'_>) -> Result<String, Problem> {
    let mut lexer = Lexer { rest: text.chars().peekable(), escape, variables };
    lexer.until(None, false).map_err(|what| Problem::Syntax(format!("{what} in {text:?}")))
}

/// A here-document with its variables' values. Quotes mean nothing in it, and an escape only before a dollar or another.
pub(super) fn text(text: &str, escape: char, variables: Variables<'_>) -> Result<String, Problem> {
    let mut lexer = Lexer { rest: text.chars().peekable(), escape, variables };
    let mut out = String::new();
    while let Some(c) = lexer.rest.next() {
        match c {
            '$' => {
                out.push_str(&lexer.variable().map_err(|what| Problem::Syntax(format!("{what} in a here-document")))?)
            }
            _ if c == escape => match lexer.rest.next_if(|n| *n == '$' || *n == escape) {
                Some(escaped) => out.push(escaped),
                None => out.push(c),
            },
            _ => out.push(c),
        }
    }
    Ok(out)
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    escape: char,
    variables: Variables<'a>,
}

impl Lexer<'_> {
    /// Up to this end. In a pattern escapes stay, as they mean something there.
    fn until(&mut self, end: Option<char>, pattern: bool) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                _ if Some(c) == end => return Ok(out),
                _ if c == self.escape && pattern => {
                    out.push('\\');
                    out.extend(self.rest.next());
                }
                '\'' => out.push_str(&self.single_quoted()?),
                '"' => out.push_str(&self.double_quoted()?),
                '$' => out.push_str(&self.variable()?),
                // At the very end an escape escapes nothing.
                _ if c == self.escape => out.extend(self.rest.next()),
                _ => out.push(c),
            }
        }
        end.map_or(Ok(out), |end| Err(format!("there is no closing {end:?}")))
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        for c in self.rest.by_ref() {
            match c {
                '\'' => return Ok(out),
                _ => out.push(c),
            }
        }
        Err("there is no closing \"'\"".to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                '"' => return Ok(out),
                '$' => out.push_str(&self.variable()?),
                // Only what would mean something here needs the escape; before anything else it stands for itself.
                _ if c == self.escape => match self.rest.next_if(|n| matches!(n, '"' | '$') || *n == c) {
                    Some(escaped) => out.push(escaped),
                    None => out.push(c),
                },
                _ => out.push(c),
            }
        }
        Err("there is no closing '\"'".to_owned())
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            // A lone dollar is one.
            return Ok(if name.is_empty() { "$".to_owned() } else { (self.variables)(&name).unwrap_or_default() });
        }
        let name = self.name();
        if name.is_empty() {
            return Err("there is no variable's name after \"${\"".to_owned());
        }
        let empty_counts_as_unset = self.rest.next_if_eq(&':').is_some();
        let modifier = self.rest.next().ok_or("there is no closing '}'")?;
        let value = (self.variables)(&name);
        if modifier == '}' && !empty_counts_as_unset {
            return Ok(value.unwrap_or_default());
        }
        if matches!(modifier, '#' | '%' | '/') && !empty_counts_as_unset {
            let twice = self.rest.next_if_eq(&modifier).is_some();
            let pattern = self.until(Some(if modifier == '/' { '/' } else { '}' }), true)?;
            let value = value.unwrap_or_default();
            return Ok(match modifier {
                '#' => pattern::trim_start(&value, &pattern, twice),
                '%' => pattern::trim_end(&value, &pattern, twice),
                _ => pattern::replace(&value, &pattern, &self.until(Some('}'), false)?, twice),
            });
        }
        if !matches!(modifier, '-' | '+' | '?') {
            let colon = if empty_counts_as_unset { ":" } else { "" };
            return Err(format!(
                "${{{name}{colon}{modifier}…}} is no form that is known (there are :- :+ :? - + ? # ## % %% / and //)"
            ));
        }
        let other = self.until(Some('}'), false)?;
        let value = value.filter(|v| !(empty_counts_as_unset && v.is_empty()));
        match (modifier, value) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) => Ok(other),
            ('+', Some(_)) => Ok(other),
            ('+', None) => Ok(String::new()),
            _ if other.is_empty() => Err(format!("the variable {name} must be set")),
            _ => Err(format!("the variable {name} must be set ({other})")),
        }
    }

    /// A variable's name. A shell's own variables (`$1`, `$@`, `$?`) have one of a single character, and are not set.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(own) = self.rest.next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!' | '0')) {
            return own.to_string();
        }
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            name.push(digit);
        }
        if !name.is_empty() {
            return name;
        }
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }
}

/// The names and values of ENV and LABEL, not expanded yet: `A=1 B="x y"`, or the old form `A all the rest`.
pub(super) fn pairs(text: &str, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let words = split(text, escape);
    if words.first().is_some_and(|word| !word.contains('=')) {
        return match text.trim_start().split_once(char::is_whitespace) {
            Some((name, value)) => Ok(vec![(name.to_owned(), value.trim().to_owned())]),
            None => Err(Problem::Syntax(format!("{text:?} has no value; write NAME=VALUE"))),
        };
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Problem::Syntax(format!("{word:?} has no name before the '='"))),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => {
            Err(Problem::Syntax(format!("there is no '=' in {word:?}; write NAME=VALUE, with quotes around spaces")))
        }
    };
    words.iter().map(pair).collect()
}

/// Splits at spaces that are neither quoted nor escaped. Quotes and escapes stay.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            _ if quote.is_none() && c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            '\'' | '"' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            _ if c == escape && quote != Some('\'') => {
                word.push(c);
                word.extend(rest.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "P" => Some("a/b/c.txt".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn words_are_expanded_as_docker_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$A", "a"),
            ("x$A/y", "xa/y"),
            ("${A}b", "ab"),
            ("$Ab", ""),
            ("$", "$"),
            ("$/", "$/"),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "a b"),
            (r#""\$A \" \x""#, r#"$A " \x"#),
            (r"a\ b\\", r"a b\"),
            ("${A:-x}${EMPTY:-x}${NO:-x}", "axx"),
            ("${A-x}${EMPTY-x}${NO-x}", "ax"),
            ("${A:+x}${EMPTY:+x}${NO:+x}", "x"),
            ("${A+x}${EMPTY+x}${NO+x}", "xx"),
            ("${NO:-${A:-y}z}", "az"),
            ("${NO:-\"}\"}", "}"),
            ("${A:?no}", "a"),
            ("${P#*/}|${P##*/}|${P%/*}|${P%%/*}", "b/c.txt|c.txt|a/b|a"),
            ("${P/?/x}|${P//[abc]/x}|${P//b/}|${P/b/$A}", "x/b/c.txt|a/b/c.txt|a//c.txt|a/a/c.txt"),
            (r"${P/\//-}", "a-b/c.txt"),
            ("$1a$@", "a"),
        ] {
            assert_eq!(word(text, '\\', &variables).unwrap(), expected, "{text}");
        }
        assert_eq!(word("a`$b\\c", '`', &variables).unwrap(), "a$b\\c");
    }

    #[test]
    fn here_documents_keep_their_quotes() {
        let text = |given: &str| text(given, '\\', &variables).unwrap();
        assert_eq!(text("a = \"$A\" '$A' \\$A \\n ${NO:-x}\n"), "a = \"a\" 'a' $A \\n x\n");
    }

    #[test]
    fn broken_words_say_how() {
        for (text, words) in [
            ("${A", "no closing '}'"),
            ("${A:-x", "no closing '}'"),
            ("'x", "no closing"),
            ("\"x", "no closing"),
            ("${}", "no variable's name"),
            ("${A^x}", "no form"),
            ("${A:#x}", "no form"),
            ("${A/x}", "no closing '/'"),
            ("${A:}", "no form"),
            ("${NO:?why}", "NO must be set (why)"),
        ] {
            let error = word(text, '\\', &variables).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn pairs_come_in_two_forms() {
        let pairs =
            |text| pairs(text, '\\').map(|p| p.into_iter().map(|(n, v)| format!("{n}|{v}")).collect::<Vec<_>>());
        assert_eq!(
            pairs(r#"A=1 B="x y" C='it''s' D=a\ b E="#).unwrap(),
            ["A|1", "B|\"x y\"", "C|'it''s'", "D|a\\ b", "E|"]
        );
        assert_eq!(pairs("ONE TWO= THREE=x").unwrap(), ["ONE|TWO= THREE=x"]);
        assert!(pairs("A=1 B").unwrap_err().to_string().contains("no '=' in \"B\""));
        assert!(pairs("A").unwrap_err().to_string().contains("no value"));
        assert!(pairs("=x").unwrap_err().to_string().contains("no name"));
    }
}
