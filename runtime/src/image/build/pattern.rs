//! The patterns of `${x#…}`, `${x%…}` and `${x/…}`: `*` is any characters, `?` is one, `\` takes the next as it is.

/// One character of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

fn parts(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        let part = match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(rest.next().unwrap_or('\\')),
            c => Part::Char(c),
        };
        // Two stars are one.
        if part != Part::Any || parts.last() != Some(&Part::Any) {
            parts.push(part);
        }
    }
    parts
}

/// Whether all of a text fits: on a mismatch the last star takes one character more.
fn fits(parts: &[Part], text: &[char]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(c) = text.get(t) {
        match parts.get(p) {
            Some(Part::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(Part::One) => (p, t) = (p + 1, t + 1),
            Some(Part::Char(wanted)) if wanted == c => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    parts.get(p..).unwrap_or_default().iter().all(|part| *part == Part::Any)
}

/// The text without the shortest, or longest, beginning that fits.
pub(super) fn trim_start(text: &str, pattern: &str, longest: bool) -> String {
    let (parts, chars) = (parts(pattern), text.chars().collect::<Vec<_>>());
    let fits = |n: &usize| chars.get(..*n).is_some_and(|part| fits(&parts, part));
    let found = if longest { (0..=chars.len()).rev().find(fits) } else { (0..=chars.len()).find(fits) };
    chars.get(found.unwrap_or(0)..).unwrap_or_default().iter().collect()
}

/// The text without the shortest, or longest, end that fits.
pub(super) fn trim_end(text: &str, pattern: &str, longest: bool) -> String {
    let (parts, chars) = (parts(pattern), text.chars().collect::<Vec<_>>());
    let fits = |n: &usize| chars.get(*n..).is_some_and(|part| fits(&parts, part));
    let found = if longest { (0..=chars.len()).find(fits) } else { (0..=chars.len()).rev().find(fits) };
    chars.get(..found.unwrap_or(chars.len())).unwrap_or_default().iter().collect()
}

/// The text with the first part that fits, or all of them, replaced; the leftmost comes first, and the longest there.
pub(super) fn replace(text: &str, pattern: &str, by: &str, all: bool) -> String {
    let (parts, chars) = (parts(pattern), text.chars().collect::<Vec<_>>());
    let (mut out, mut at, mut done) = (String::new(), 0, false);
    while let Some(c) = chars.get(at) {
        let fits = |end: &usize| chars.get(at..*end).is_some_and(|part| fits(&parts, part));
        match (at + 1..=chars.len()).rev().find(|end| !done && fits(end)) {
            Some(end) => {
                out.push_str(by);
                at = end;
                done = !all;
            }
            None => {
                out.push(*c);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_off_and_replaced() {
        assert_eq!(trim_start("foobarbaz", "f*b", false), "arbaz");
        assert_eq!(trim_start("foobarbaz", "f*b", true), "az");
        assert_eq!(trim_start("abc", "x*", true), "abc");
        assert_eq!(trim_end("foobarbaz", "b*", false), "foobar");
        assert_eq!(trim_end("foobarbaz", "b*", true), "foo");
        assert_eq!(trim_end("a.tar.gz", ".?z", false), "a.tar");
        assert_eq!(trim_end("a*", "\\*", false), "a");
        assert_eq!(replace("foobarbaz", "ba?", "X", false), "fooXbaz");
        assert_eq!(replace("foobarbaz", "ba?", "X", true), "fooXX");
        assert_eq!(replace("aaa", "a*", "x", true), "x");
        assert_eq!(replace("abc", "", "x", true), "abc");
        assert_eq!(replace("äöü", "ö", "", false), "äü");
    }
}
