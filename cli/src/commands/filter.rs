//! What the listings have in common: `--filter`, and printing to a reader that may have gone.

use anyhow::{Result, anyhow, bail};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// What was given as `--filter`, each a key and a value.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    /// Reads `key=value`s, of which only these keys are known.
    pub fn parse(given: &[String], known: &[&str]) -> Result<Self> {
        let read = |text: &String| {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                anyhow!("invalid filter {text:?}: it is written like {}=VALUE", known.join("=VALUE or "))
            })?;
            let key = key.trim().to_ascii_lowercase();
            if !known.contains(&key.as_str()) {
                bail!("invalid filter {text:?}: the known ones are {}", known.join(", "));
            }
            Ok((key, value.trim().to_owned()))
        };
        given.iter().map(read).collect::<Result<_>>().map(Self)
    }

    /// The values that were given for a key.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether the key was given at all.
    pub fn has(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether one of the key's values fits, or none was given.
    pub fn any(&self, key: &str, fits: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(fits)
    }

    /// Whether all filters on labels fit: unlike other keys, Docker wants each of these to.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.values("label").all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Whether no filter on labels that must not be there fits.
    pub fn lacks_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.values("label!").any(|unwanted| match unwanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(unwanted),
        })
    }

    /// The truth that a key was given, if it was.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let mut truth = None;
        for value in self.values(key) {
            let this = match value {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => bail!("invalid filter {key}={value}: it is true or false"),
            };
            if truth.is_some_and(|known| known != this) {
                bail!("invalid filter {key}: it cannot be both true and false");
            }
            truth = Some(this);
        }
        Ok(truth)
    }
}

/// Docker takes a regular expression for a name; here it is a part of the name, with `^` and `$` for its ends. Docker's
/// names begin with a slash, so that may be there.
pub fn fits_name(pattern: &str, name: &str) -> bool {
    let (begin, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    let part = rest.strip_prefix('/').unwrap_or(rest);
    match (begin || rest.starts_with('/'), end) {
        (true, true) => name == part,
        (true, false) => name.starts_with(part),
        (false, true) => name.ends_with(part),
        (false, false) => name.contains(part),
    }
}

/// Whether a pattern fits the whole text, by the rules of Go's `path.Match`, which Docker's patterns for names have:
/// `*` is anything but a slash, `?` one such character, `[a-c]` and `[^a-c]` one of a class.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    let Some(first) = rest.next() else { return text.is_empty() };
    let mut after = text.chars();
    match first {
        '*' => {
            // As far as the next slash, which the star leaves to the rest of the pattern.
            let end = text.find('/').unwrap_or(text.len());
            let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]).take_while(|at| *at <= end);
            places.any(|at| glob(rest.as_str(), text.get(at..).unwrap_or_default()))
        }
        '?' => after.next().is_some_and(|character| character != '/') && glob(rest.as_str(), after.as_str()),
        '[' => match (rest.as_str().split_once(']'), after.next()) {
            (Some((class, rest)), Some(character)) => in_class(class, character) && glob(rest, after.as_str()),
            _ => false,
        },
        '\\' => after.next() == rest.next() && glob(rest.as_str(), after.as_str()),
        literal => after.next() == Some(literal) && glob(rest.as_str(), after.as_str()),
    }
}

fn in_class(class: &str, character: char) -> bool {
    let negated = class.strip_prefix('^');
    let mut members = negated.unwrap_or(class).chars().peekable();
    let mut inside = false;
    while let Some(low) = members.next() {
        let high = match members.next_if_eq(&'-') {
            Some(_) => members.next().unwrap_or(low),
            None => low,
        };
        inside |= (low..=high).contains(&character);
    }
    inside != negated.is_some()
}

/// Labels as the listings show them: `a=b,c=d`.
pub fn label_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Prints a command's whole answer. A reader that has seen enough, such as `head`, is no failure.
pub fn print(text: &str) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(given: &[&str]) -> Result<Filters> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&given, &["name", "label", "dangling"])
    }

    #[test]
    fn one_of_a_key_is_enough_but_for_labels() {
        let some = filters(&["name=a", "Name = b", "label=x", "label=y=1"]).unwrap();
        assert!(some.any("name", |name| name == "b") && !some.any("name", |name| name == "c"));
        assert!(some.any("dangling", |_| false));
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert!(some.labels(&labels(&[("x", ""), ("y", "1")])));
        assert!(!some.labels(&labels(&[("x", ""), ("y", "2")])));
        assert!(!some.labels(&labels(&[("y", "1")])));
    }

    #[test]
    fn what_is_wrong_with_a_filter_is_told() {
        assert!(filters(&["name"]).unwrap_err().to_string().contains("name=VALUE or label=VALUE"));
        assert!(filters(&["size=1"]).unwrap_err().to_string().contains("name, label, dangling"));
        let flag = |given: &[&str]| filters(given).unwrap().flag("dangling");
        assert_eq!(flag(&["dangling=1", "dangling=true"]).unwrap(), Some(true));
        assert_eq!(flag(&[]).unwrap(), None);
        assert!(flag(&["dangling=maybe"]).is_err());
        assert!(flag(&["dangling=1", "dangling=0"]).is_err());
    }

    #[test]
    fn names_fit_in_part_or_whole() {
        for (pattern, fits) in [
            ("web", true),
            ("eb", true),
            ("^web", true),
            ("^/web-1$", true),
            ("/web-1", true),
            ("1$", true),
            ("^web$", false),
            ("^eb", false),
            ("web$", false),
            ("db", false),
        ] {
            assert_eq!(fits_name(pattern, "web-1"), fits, "{pattern}");
        }
    }

    #[test]
    fn patterns_fit_as_gos_do() {
        for (pattern, text) in [
            ("", ""),
            ("web", "web"),
            ("*", ""),
            ("*", "web:1"),
            ("w*b*", "web:1"),
            ("*/web", "me/web"),
            ("*/*", "me/web"),
            ("w?b", "wéb"),
            ("web:[0-9]", "web:1"),
            ("web:[^a-z]*", "web:1.2"),
            ("web\\*", "web*"),
        ] {
            assert!(glob(pattern, text), "{pattern} fits {text}");
        }
        for (pattern, text) in [
            ("", "x"),
            ("web", "web:1"),
            ("*", "me/web"),
            ("*web", "me/web"),
            ("w?b", "w/b"),
            ("web:[0-9]", "web:x"),
            ("web:[^0-9]", "web:1"),
            ("[", "["),
            ("web?", "web"),
        ] {
            assert!(!glob(pattern, text), "{pattern} does not fit {text}");
        }
    }
}
