//! The words of a statement: flags, lists, and what is in brackets.

use super::Problem;

/// What an instruction takes: `["a", "b"]` or a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Words {
    List(Vec<String>),
    Line(String),
}

impl Words {
    /// Text in brackets is a list if it is JSON; else it is a line, brackets and all, as Docker has it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        let list = text.starts_with('[').then(|| serde_json::from_str::<Vec<serde_json::Value>>(text).ok());
        let Some(list) = list.flatten() else { return Ok(Self::Line(text.to_owned())) };
        let word = |value: serde_json::Value| match value {
            serde_json::Value::String(word) => Ok(word),
            other => Err(Problem::Syntax(format!("{other} in {text} must be a string: write \"{other}\""))),
        };
        Ok(Self::List(list.into_iter().map(word).collect::<Result<_, _>>()?))
    }

    /// As a list: a line's words, which no quotes join.
    pub fn into_list(self) -> Vec<String> {
        match self {
            Self::List(list) => list,
            Self::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// The flags at the beginning of an instruction's arguments, without `--`, and the rest. Quotes and backslashes hide
/// spaces; `--` alone ends the flags.
pub(super) fn flags(text: &str) -> (Vec<(String, Option<String>)>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while let Some(after) = rest.strip_prefix("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if quote == Some(c) => quote = None,
                '\'' | '"' if quote.is_none() => quote = Some(c),
                '\\' => word.extend(chars.next().map(|(_, c)| c)),
                _ if quote.is_none() && c.is_whitespace() => {
                    end = at;
                    break;
                }
                _ => word.push(c),
            }
        }
        rest = after.get(end..).unwrap_or_default().trim_start();
        if word.is_empty() {
            break;
        }
        flags.push(match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        });
    }
    (flags, rest)
}

/// The flags of one instruction, taken one after the other; what is left over in the end is unknown.
#[derive(Debug)]
pub(super) struct Flags {
    keyword: &'static str,
    given: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
}

impl Flags {
    pub fn new(keyword: &'static str, given: Vec<(String, Option<String>)>) -> Self {
        Self { keyword, given, known: Vec::new() }
    }

    /// Every value of a flag.
    pub fn all(&mut self, name: &'static str) -> Result<Vec<String>, Problem> {
        self.known.push(name);
        let given: Vec<_> = self.given.extract_if(.., |(given, _)| given == name).collect();
        let value = |(_, value): (String, Option<String>)| {
            value.ok_or_else(|| Problem::Syntax(format!("{} --{name} needs a value: --{name}=…", self.keyword)))
        };
        given.into_iter().map(value).collect()
    }

    /// The value of a flag that can be given once.
    pub fn one(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        let mut all = self.all(name)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(Problem::Syntax(format!("{} --{name} is given twice", self.keyword))),
        }
    }

    /// A flag that is there or not; `--name=false` is not.
    pub fn is_set(&mut self, name: &'static str) -> Result<bool, Problem> {
        for (given, value) in &mut self.given {
            if given == name {
                value.get_or_insert_with(|| "true".to_owned());
            }
        }
        match self.one(name)?.as_deref() {
            None | Some("false" | "0" | "FALSE" | "False" | "f") => Ok(false),
            Some("true" | "1" | "TRUE" | "True" | "t") => Ok(true),
            Some(other) => Err(Problem::Syntax(format!("{} --{name}={other}: write true or false", self.keyword))),
        }
    }

    pub fn finish(self) -> Result<(), Problem> {
        let Some((name, _)) = self.given.first() else { return Ok(()) };
        let known = match self.known.as_slice() {
            [] => "it has none".to_owned(),
            known => format!("it has --{}", known.join(", --")),
        };
        Err(Problem::Syntax(format!("{} has no flag --{name}; {known}", self.keyword)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_first() {
        let (found, rest) = flags("--from=a --link --mount=type=bind,\"source=a b\" -- --x y");
        let found: Vec<(&str, Option<&str>)> = found.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        assert_eq!(found, [("from", Some("a")), ("link", None), ("mount", Some("type=bind,source=a b"))]);
        assert_eq!(rest, "--x y");
        assert_eq!(flags("a --b").1, "a --b");
        assert_eq!(flags("--a=\\").0.len(), 1);
    }

    #[test]
    fn unknown_flags_are_told_with_those_that_are_known() {
        let given = vec![("x".to_owned(), None), ("link".to_owned(), None)];
        let mut flags = Flags::new("COPY", given.clone());
        assert!(flags.is_set("link").unwrap());
        assert!(!flags.is_set("parents").unwrap());
        assert_eq!(flags.finish().unwrap_err().to_string(), "COPY has no flag --x; it has --link, --parents");
        assert!(Flags::new("COPY", given).one("x").unwrap_err().to_string().contains("needs a value"));
        let twice = vec![("x".to_owned(), Some("1".to_owned())); 2];
        assert!(Flags::new("COPY", twice).one("x").unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn brackets_are_a_list_if_they_are_json() {
        assert_eq!(Words::parse(r#" ["a", "b c"] "#).unwrap(), Words::List(vec!["a".into(), "b c".into()]));
        assert_eq!(Words::parse("[a b]").unwrap(), Words::Line("[a b]".into()));
        assert!(Words::parse("[1]").unwrap_err().to_string().contains("must be a string"));
        assert_eq!(Words::parse("a  b").unwrap().into_list(), ["a", "b"]);
    }
}
