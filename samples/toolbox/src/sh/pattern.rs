//! Patterns (POSIX.1-2024, Shell Command Language, 2.14). A backslash makes the next character mean itself.

/// Whether matching it could say more than comparing.
pub fn is_pattern(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// The text without its backslashes.
pub fn literal(pattern: &str) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

/// Whether the whole text matches.
pub fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    whole(&text, &pattern)
}

/// By going back to the last `*`, so that no pattern takes more than text times pattern.
fn whole(text: &[char], pattern: &[char]) -> bool {
    let (mut t, mut p) = (0, 0);
    let mut star = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        if let (Some(c), Some(next)) = (text.get(t), one(text.get(t), pattern, p)) {
            let _ = c;
            t += 1;
            p = next;
            continue;
        }
        match star {
            Some((after, from)) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on when this character matches what is at `p`.
fn one(c: Option<&char>, pattern: &[char], p: usize) -> Option<usize> {
    let c = *c?;
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '\\' => (pattern.get(p + 1) == Some(&c)).then_some(p + 2),
        '[' => match bracket(c, pattern, p) {
            Some((matched, next)) => matched.then_some(next),
            // Without an end it means itself.
            None => (c == '[').then_some(p + 1),
        },
        plain => (*plain == c).then_some(p + 1),
    }
}

/// A bracket expression: whether it has the character, and where it ends.
fn bracket(c: char, pattern: &[char], p: usize) -> Option<(bool, usize)> {
    let mut at = p + 1;
    let negated = matches!(pattern.get(at), Some('!' | '^'));
    at += usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let mut low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((found != negated, at + 1));
        }
        if low == '[' && pattern.get(at + 1) == Some(&':') {
            let end = (at + 2..pattern.len()).find(|n| pattern[*n] == ':' && pattern.get(n + 1) == Some(&']'))?;
            found |= class(c, &pattern[at + 2..end].iter().collect::<String>());
            at = end + 2;
            continue;
        }
        if low == '\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        let mut high = low;
        if pattern.get(at + 1) == Some(&'-') && pattern.get(at + 2).is_some_and(|c| *c != ']') {
            at += 2;
            high = *pattern.get(at)?;
            if high == '\\' {
                at += 1;
                high = *pattern.get(at)?;
            }
        }
        found |= (low..=high).contains(&c);
        at += 1;
    }
}

/// The character classes of the C locale.
pub fn class(c: char, name: &str) -> bool {
    match name {
        "alpha" => c.is_ascii_alphabetic(),
        "digit" => c.is_ascii_digit(),
        "alnum" => c.is_ascii_alphanumeric(),
        "upper" => c.is_ascii_uppercase(),
        "lower" => c.is_ascii_lowercase(),
        "space" => c.is_ascii_whitespace() || c == '\x0b',
        "blank" => matches!(c, ' ' | '\t'),
        "punct" => c.is_ascii_punctuation(),
        "print" => c.is_ascii_graphic() || c == ' ',
        "graph" => c.is_ascii_graphic(),
        "cntrl" => c.is_ascii_control(),
        "xdigit" => c.is_ascii_hexdigit(),
        _ => false,
    }
}

fn boundaries(text: &str) -> Vec<usize> {
    text.char_indices().map(|(n, _)| n).chain([text.len()]).collect()
}

pub fn without_prefix<'t>(text: &'t str, pattern: &str, longest: bool) -> &'t str {
    let mut ends = boundaries(text);
    if longest {
        ends.reverse();
    }
    ends.into_iter().find(|end| matches(&text[..*end], pattern)).map_or(text, |end| &text[end..])
}

pub fn without_suffix<'t>(text: &'t str, pattern: &str, longest: bool) -> &'t str {
    let mut starts = boundaries(text);
    if !longest {
        starts.reverse();
    }
    starts.into_iter().find(|start| matches(&text[*start..], pattern)).map_or(text, |start| &text[..start])
}

/// Replaces the first or every longest match.
pub fn replace(text: &str, pattern: &str, with: &str, all: bool) -> String {
    let places = boundaries(text);
    let mut out = String::new();
    let mut at = 0;
    while at < text.len() {
        let end = places.iter().rev().find(|end| **end > at && matches(&text[at..**end], pattern));
        match end {
            Some(end) => {
                out.push_str(with);
                at = *end;
                if !all {
                    break;
                }
            }
            None => {
                let c = text[at..].chars().next().unwrap_or_default();
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    out.push_str(&text[at.min(text.len())..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (text, pattern, wanted) in [
            ("abc", "a*c", true),
            ("abc", "a?c", true),
            ("abc", "a[b-d]c", true),
            ("abc", "a[!b]c", false),
            ("a*c", "a\\*c", true),
            ("abc", "a\\*c", false),
            ("x]", "x[]]", true),
            ("a1", "[[:alpha:]][[:digit:]]", true),
            ("", "*", true),
            ("aab", "*a*b", true),
            ("[", "[", true),
        ] {
            assert_eq!(matches(text, pattern), wanted, "{text} {pattern}");
        }
        assert_eq!(without_prefix("a/b/c", "*/", true), "c");
        assert_eq!(without_suffix("a.b.c", ".*", false), "a.b");
        assert_eq!(replace("banana", "an", "-", true), "b--a");
    }
}
