//! The patterns of COPY and of `.dockerignore`.

/// Whether a name fits a pattern of one component: `*` is any characters, `?` is one, `[a-z]` and `[^a-z]` are one of
/// a set, and `\` takes the next as it is (Go's `filepath.Match`, which Docker uses).
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    matches_from(&pattern, &name)
}

fn matches_from(pattern: &[char], name: &[char]) -> bool {
    let Some((&first, pattern)) = pattern.split_first() else { return name.is_empty() };
    if first == '*' {
        return (0..=name.len()).any(|n| name.get(n..).is_some_and(|rest| matches_from(pattern, rest)));
    }
    let Some((&c, rest)) = name.split_first() else { return false };
    match first {
        '?' => matches_from(pattern, rest),
        '[' => set(pattern, c).is_some_and(|(fits, pattern)| fits && matches_from(pattern, rest)),
        '\\' => pattern.split_first().is_some_and(|(&escaped, pattern)| escaped == c && matches_from(pattern, rest)),
        _ => first == c && matches_from(pattern, rest),
    }
}

/// Whether a character is in a set, and what follows the set in the pattern. `None` if the set has no end.
fn set(pattern: &[char], c: char) -> Option<(bool, &[char])> {
    let (negated, mut rest) = match pattern.split_first() {
        Some(('^', rest)) => (true, rest),
        _ => (false, pattern),
    };
    let mut fits = false;
    let mut empty = true;
    loop {
        let (&low, after) = rest.split_first()?;
        if low == ']' && !empty {
            return Some((fits != negated, after));
        }
        empty = false;
        match after {
            ['-', high, after @ ..] if *high != ']' => {
                fits |= (low..=*high).contains(&c);
                rest = after;
            }
            _ => {
                fits |= low == c;
                rest = after;
            }
        }
    }
}

/// Whether a component of a path is a pattern at all.
pub(super) fn is_pattern(component: &str) -> bool {
    component.contains(['*', '?', '[', '\\'])
}

/// Whether a path fits a pattern, both as components. The component `**` is any number of them.
pub(super) fn matches_path(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", pattern)) => {
            (0..=path.len()).any(|n| path.get(n..).is_some_and(|rest| matches_path(pattern, rest)))
        }
        Some((first, pattern)) => {
            path.split_first().is_some_and(|(name, rest)| matches(first, name) && matches_path(pattern, rest))
        }
    }
}

/// The lines of a `.dockerignore`.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: Vec<String>,
    /// It began with `!`: what fits is not ignored after all.
    keeps: bool,
}

impl Ignore {
    pub fn parse(text: &str) -> Self {
        let rule = |line: &str| {
            let line = line.trim();
            let (keeps, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            let pattern: Vec<String> = components(pattern).into_iter().map(str::to_owned).collect();
            (!line.starts_with('#') && !pattern.is_empty()).then_some(Rule { pattern, keeps })
        };
        Self { rules: text.lines().filter_map(rule).collect() }
    }

    /// Whether a path of the context is ignored: the last rule that fits it, or a directory above it, says.
    pub fn ignores(&self, path: &str) -> bool {
        let path = components(path);
        let fits = |rule: &&Rule| {
            let pattern: Vec<&str> = rule.pattern.iter().map(String::as_str).collect();
            (1..=path.len()).any(|n| path.get(..n).is_some_and(|upper| matches_path(&pattern, upper)))
        };
        self.rules.iter().rev().find(fits).is_some_and(|rule| !rule.keeps)
    }

    /// Whether something in an ignored directory may be kept.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.keeps)
    }
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns() {
        for (pattern, name) in [
            ("*", ""),
            ("*", ".hidden"),
            ("*.wasm", "a.wasm"),
            ("a*b*c", "axbxbc"),
            ("?.txt", "é.txt"),
            ("[a-c]x", "bx"),
            ("[^a-c]x", "dx"),
            ("[]-]", "-"),
            ("[]-]", "]"),
            (r"\*", "*"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.wasm", "a.wat"), ("?", ""), ("[a", "a"), ("[^a]", "a"), (r"\*", "x"), ("a", "ab")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn dockerignore_says_what_is_left_out() {
        let ignore =
            Ignore::parse("# note\n\n/target\n*.log\n**/secret*\nsrc/**/*.o\nnode_modules\n!keep.log\n !target/x \n");
        for path in
            ["target", "target/y/z", "a.log", "secret", "a/b/secret.txt", "src/o.o", "src/a/b/o.o", "node_modules/x"]
        {
            assert!(ignore.ignores(path), "{path}");
        }
        for path in ["keep.log", "target/x", "target/x/y", "a/target", "a/b.log", "src/a.c", "# note"] {
            assert!(!ignore.ignores(path), "{path}");
        }
        assert!(ignore.has_exceptions());
        assert!(!Ignore::parse("x").has_exceptions());
    }
}
