//! `grep`, and regular expressions in the two forms of POSIX.

use super::{Flags, chomp, lines, of, output, written};
use regex_lite::{Regex, RegexBuilder};
use std::fs;
use std::io::Write;

/// A regular expression of POSIX in the words of the library: in the basic form `\(`, `\{`, `\|`, `\+` and `\?` are the
/// operators, and the same without the backslash are plain.
pub fn translate(pattern: &str, extended: bool) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    // Where a `*` is plain, since there is nothing before it.
    let mut start = true;
    while let Some(c) = chars.next() {
        let was_start = std::mem::take(&mut start);
        match c {
            '\\' => match chars.next() {
                Some(next @ ('(' | ')' | '{' | '}' | '|' | '+' | '?')) => {
                    if extended {
                        out.push('\\');
                    } else {
                        start = matches!(next, '(' | '|');
                    }
                    out.push(next);
                }
                Some('<' | '>') => out.push_str("\\b"),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(next) if next.is_ascii_alphanumeric() => out.extend(['\\', next]),
                Some(next) => out.push_str(&escape(next)),
                None => out.push_str("\\\\"),
            },
            '(' | ')' | '{' | '}' | '|' | '+' | '?' if !extended => out.extend(['\\', c]),
            '(' | '|' => {
                start = true;
                out.push(c);
            }
            '{' if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str("\\{"),
            '*' if was_start => out.push_str("\\*"),
            '^' => {
                if extended || was_start {
                    out.push('^');
                    start = true;
                } else {
                    out.push_str("\\^");
                }
            }
            '$' => {
                let mut rest = chars.clone();
                let last = match rest.next() {
                    None => true,
                    Some('\\') => matches!(rest.next(), Some(')' | '|')),
                    _ => false,
                };
                out.push_str(if extended || last { "$" } else { "\\$" });
            }
            '[' => {
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                let mut first = true;
                while let Some(c) = chars.next() {
                    match c {
                        ']' if !first => break,
                        ']' | '\\' | '&' | '~' => out.extend(['\\', c]),
                        '[' if chars.peek() == Some(&':') => {
                            out.push('[');
                            for c in chars.by_ref() {
                                out.push(c);
                                if c == ']' {
                                    break;
                                }
                            }
                        }
                        '[' => out.push_str("\\["),
                        '-' if first || chars.peek() == Some(&']') => out.push_str("\\-"),
                        c => out.push(c),
                    }
                    first = false;
                }
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

fn escape(c: char) -> String {
    regex_lite::escape(&c.to_string())
}

pub fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).case_insensitive(ignore_case).build();
    built.map_err(|error| format!("bad regex '{pattern}': {error}"))
}

pub fn grep(args: &[String]) -> Result<i32, String> {
    let long = [("quiet", 'q'), ("ignore-case", 'i'), ("count", 'c'), ("color", '!'), ("include", '#')];
    let flags = Flags::parse(args, "qivcnlLohHsrRwxEFPe:f:m:A:B:C:!:#:", &long)?;
    let name = args.first().and_then(|n| n.rsplit('/').next()).unwrap_or("grep");
    let mut rest = flags.rest.clone();
    let mut patterns: Vec<String> = flags.values('e').flat_map(|e| e.split('\n')).map(str::to_owned).collect();
    for path in flags.values('f') {
        patterns.extend(fs::read_to_string(path).map_err(of(path))?.lines().map(str::to_owned));
    }
    if !flags.has('e') && !flags.has('f') {
        if rest.is_empty() {
            return Err("missing pattern".to_owned());
        }
        patterns.extend(rest.remove(0).split('\n').map(str::to_owned));
    }
    let fixed = flags.has('F') || name == "fgrep";
    let extended = flags.has('E') || flags.has('P') || name == "egrep";
    let parts: Vec<String> = patterns
        .iter()
        .map(|p| match (fixed, flags.has('P')) {
            (true, _) => regex_lite::escape(p),
            (_, true) => p.clone(),
            _ => translate(p, extended),
        })
        .map(|p| if flags.has('x') { format!("^(?:{p})$") } else { p })
        .map(|p| if flags.has('w') { format!(r"(?:^|\b)(?:{p})(?:\b|$)") } else { format!("(?:{p})") })
        .collect();
    let regex = compile(&parts.join("|"), flags.has('i'))?;
    let recursive = flags.has('r') || flags.has('R');
    let mut paths = if rest.is_empty() { vec![if recursive { "." } else { "-" }.to_owned()] } else { rest };
    let mut problem = false;
    if recursive {
        paths = paths.into_iter().flat_map(|path| files_below(&path)).collect();
    }
    let names = (paths.len() > 1 || recursive || flags.has('H')) && !flags.has('h');
    let mut search = Search { regex, flags: &flags, names, out: output(), found: false };
    for path in &paths {
        if let Err(words) = search.file(path) {
            if words.starts_with('\0') {
                return Err(words);
            }
            problem = true;
            if !flags.has('s') {
                eprintln!("{name}: {words}");
            }
        }
        if search.found && flags.has('q') {
            return Ok(0);
        }
    }
    written(search.out.flush())?;
    // Who asks for colours gets none.
    Ok(if problem && !(search.found && flags.has('q')) { 2 } else { i32::from(!search.found) })
}

fn files_below(path: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut below: Vec<String> = entries.flatten().map(|e| e.path().to_string_lossy().into_owned()).collect();
    below.sort();
    below
        .into_iter()
        .flat_map(
            |path| if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) { vec![] } else { files_below(&path) },
        )
        .collect()
}

struct Search<'a> {
    regex: Regex,
    flags: &'a Flags,
    names: bool,
    out: std::io::BufWriter<std::io::Stdout>,
    found: bool,
}

impl Search<'_> {
    fn file(&mut self, path: &str) -> Result<(), String> {
        let flags = self.flags;
        let context = |letter| flags.value(letter).or(flags.value('C')).map_or(Ok(0), super::number);
        let (before, after) = (context('B')?, context('A')?);
        let most = flags.value('m').map_or(Ok(u64::MAX), super::number)?;
        let shown = if path == "-" { "(standard input)" } else { path };
        let (mut all, mut line) = (lines(path)?, Vec::new());
        let (mut count, mut number, mut still, mut last_shown) = (0u64, 0u64, 0u64, 0u64);
        let mut kept: std::collections::VecDeque<String> = std::collections::VecDeque::new();
        while count < most && all.next(&mut line)? {
            number += 1;
            let text = String::from_utf8_lossy(chomp(&line)).into_owned();
            let hit = self.regex.is_match(&text) != flags.has('v');
            if hit {
                count += 1;
                self.found = true;
                if flags.has('q') {
                    return Ok(());
                }
                if flags.has('l') || flags.has('L') {
                    break;
                }
                if flags.has('c') {
                    continue;
                }
                if flags.has('o') && !flags.has('v') {
                    let parts: Vec<String> = self.regex.find_iter(&text).map(|m| m.as_str().to_owned()).collect();
                    for part in parts.iter().filter(|part| !part.is_empty()) {
                        self.line(shown, number, part, ':')?;
                    }
                    continue;
                }
                let first = number - kept.len() as u64;
                if (before > 0 || after > 0) && last_shown > 0 && first > last_shown + 1 {
                    written(writeln!(self.out, "--"))?;
                }
                for (n, text) in std::mem::take(&mut kept).iter().enumerate() {
                    self.line(shown, first + n as u64, text, '-')?;
                }
                self.line(shown, number, &text, ':')?;
                (still, last_shown) = (after, number);
            } else if still > 0 {
                still -= 1;
                last_shown = number;
                self.line(shown, number, &text, '-')?;
            } else if before > 0 {
                kept.push_back(text);
                if kept.len() as u64 > before {
                    kept.pop_front();
                }
            }
        }
        if flags.has('l') && count > 0 || flags.has('L') && count == 0 {
            written(writeln!(self.out, "{shown}"))?;
        } else if flags.has('c') {
            let name = if self.names { format!("{shown}:") } else { String::new() };
            written(writeln!(self.out, "{name}{count}"))?;
        }
        Ok(())
    }

    fn line(&mut self, name: &str, number: u64, text: &str, mark: char) -> Result<(), String> {
        let name = if self.names { format!("{name}{mark}") } else { String::new() };
        let number = if self.flags.has('n') { format!("{number}{mark}") } else { String::new() };
        written(writeln!(self.out, "{name}{number}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        for (pattern, extended, text, wanted) in [
            ("a\\+b", false, "aab", true),
            ("a+b", false, "a+b", true),
            ("a+b", true, "aab", true),
            ("\\(ab\\)*c$", false, "ababc", true),
            ("^*a", false, "*a", true),
            ("[]x]", false, "]", true),
            ("[^]]", false, "]", false),
            ("a{2}", true, "aa", true),
            ("a\\{2\\}", false, "aa", true),
            ("x^y", false, "x^y", true),
            ("[[:digit:]]", false, "a1", true),
            ("a.b", false, "a\u{e9}b", true),
        ] {
            let regex = compile(&translate(pattern, extended), false).unwrap();
            assert_eq!(regex.is_match(text), wanted, "{pattern} on {text}: {}", translate(pattern, extended));
        }
    }
}
