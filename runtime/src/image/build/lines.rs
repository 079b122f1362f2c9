//! A Dockerfile's text → statements: one instruction each, on one line, with its here-documents and its place.
//!
//! The rules are those of BuildKit (`frontend/dockerfile/parser`): an escape character at a line's end goes on in the next
//! one, comment lines and empty lines between are skipped, and what follows a line with `<<NAME` of COPY, ADD or RUN is a
//! document up to a line that says NAME.

use super::Problem;
use super::expand;

/// One instruction as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// The instruction on one line, without space around it.
    pub text: String,
    /// What follows it, in the order of its `<<`.
    pub here_docs: Vec<HereDoc>,
    /// Where it begins, counted from one, the column in characters.
    pub line: usize,
    pub column: usize,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HereDoc {
    /// What ends it, and what a file of it is called.
    pub name: String,
    /// Whether variables in it are replaced: its name was not quoted.
    pub expand: bool,
    /// Its lines; with `<<-` the tabs at their beginning are gone.
    pub content: String,
    strips_tabs: bool,
}

/// What the text says, and what it says of itself.
#[derive(Debug)]
pub(super) struct Text {
    pub statements: Vec<Statement>,
    /// The directive `escape`, or else a backslash.
    pub escape: char,
    /// How many lines there are.
    pub lines: usize,
}

/// Why a text has no statements: where, and what is wrong.
pub(super) type Misplaced = (usize, usize, Problem);

/// Splits a text into statements.
pub(super) fn split(text: &str) -> Result<Text, Misplaced> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Text { statements: Vec::new(), escape: directives(&lines)?, lines: lines.len() };
    let mut rest = lines.iter().enumerate();
    while let Some((i, first)) = rest.next() {
        let begin = first.trim_start();
        if begin.is_empty() || begin.starts_with('#') {
            continue;
        }
        let column_of = |line: &str, begin: &str| line.chars().count() - begin.chars().count() + 1;
        let (mut line, mut column) = (i + 1, column_of(first, begin));
        let mut text = String::new();
        let mut goes_on = push(&mut text, begin, found.escape);
        while goes_on {
            let Some((i, next)) = rest.next() else { break };
            let bare = next.trim_start();
            if bare.is_empty() || bare.starts_with('#') {
                continue;
            }
            // It begins here if there was nothing but the escape so far.
            if text.trim().is_empty() {
                (line, column) = (i + 1, column_of(next, bare));
            }
            goes_on = push(&mut text, next, found.escape);
        }
        let text = text.trim().to_owned();
        // A lone escape character that led to nothing.
        if text.is_empty() {
            continue;
        }
        let mut here_docs = here_docs(&text);
        for doc in &mut here_docs {
            if !fill(doc, &mut rest) {
                let what =
                    format!("the here-document <<{} has no end: a line that says {0} and nothing else", doc.name);
                return Err((line, column, Problem::Syntax(what)));
            }
        }
        found.statements.push(Statement { text, here_docs, line, column });
    }
    Ok(found)
}

/// The one statement that a trigger of ONBUILD is.
pub(super) fn one(text: &str) -> Result<Statement, Problem> {
    let mut found = split(text).map_err(|(_, _, problem)| problem)?.statements;
    match (found.pop(), found.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(Problem::Syntax(format!("{text:?} is not one instruction"))),
    }
}

/// The comments at the very beginning that speak to the parser: only `escape` changes what we do. `syntax` names the
/// image of another parser and `check` sets up a linter; Docker's own meaning of the text is that of this parser.
fn directives(lines: &[&str]) -> Result<char, Misplaced> {
    let mut seen: Vec<String> = Vec::new();
    let mut escape = '\\';
    for (i, line) in lines.iter().enumerate() {
        let words = line.strip_prefix('#').and_then(|comment| comment.split_once('='));
        let Some((name, value)) = words.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim())) else {
            break;
        };
        if value.is_empty() || name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            break;
        }
        if !matches!(name.as_str(), "syntax" | "escape" | "check") {
            continue;
        }
        let wrong = |what: String| Err((i + 1, 1, Problem::Syntax(what)));
        if seen.contains(&name) {
            return wrong(format!("there can be only one directive # {name}="));
        }
        if name == "escape" {
            escape = match value {
                "\\" => '\\',
                "`" => '`',
                other => return wrong(format!("the directive # escape={other} must name \\ or `")),
            };
        }
        seen.push(name);
    }
    Ok(escape)
}

/// Adds a line without the escape character at its end, and says whether it had one. Two of them are none.
fn push(text: &mut String, line: &str, escape: char) -> bool {
    let bare = line.trim_end_matches([' ', '\t', '\r']).strip_suffix(escape);
    match bare.filter(|bare| !bare.ends_with(escape)) {
        Some(bare) => {
            text.push_str(bare);
            true
        }
        None => {
            text.push_str(line);
            false
        }
    }
}

/// The here-documents that a statement announces, still empty.
fn here_docs(text: &str) -> Vec<HereDoc> {
    let Some((mut keyword, mut rest)) = keyword(text) else { return Vec::new() };
    if keyword.eq_ignore_ascii_case("ONBUILD") {
        let Some(inner) = self::keyword(rest) else { return Vec::new() };
        (keyword, rest) = inner;
    }
    let can_have_some = ["ADD", "COPY", "RUN"].iter().any(|known| keyword.eq_ignore_ascii_case(known));
    let is_json = || serde_json::from_str::<Vec<String>>(super::words::flags(rest).1).is_ok();
    if !can_have_some || !rest.contains("<<") || is_json() {
        return Vec::new();
    }
    expand::split(rest, '\\').iter().filter_map(|word| here_doc(word)).collect()
}

/// The here-document that a word is: `<<NAME`, `<<-NAME`, `3<<"NAME"`.
pub(super) fn here_doc(word: &str) -> Option<HereDoc> {
    let (digits, rest) = word.split_once("<<")?;
    let (strips_tabs, quoted) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if quoted.is_empty() || quoted.contains('<') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let name = expand::word(quoted, '\\', &|_| None).ok().filter(|name| !name.is_empty())?;
    Some(HereDoc { expand: name == quoted, name, content: String::new(), strips_tabs })
}

/// Reads a document up to its end. Whether there was one.
fn fill<'t>(doc: &mut HereDoc, rest: &mut impl Iterator<Item = (usize, &'t &'t str)>) -> bool {
    for (_, line) in rest {
        let line = if doc.strips_tabs { line.trim_start_matches('\t') } else { line };
        if line == doc.name {
            return true;
        }
        doc.content.push_str(line);
        doc.content.push('\n');
    }
    false
}

/// A statement's first word and what follows it.
pub(super) fn keyword(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!word.is_empty()).then(|| (word, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(String, usize, usize)> {
        split(text).unwrap().statements.into_iter().map(|s| (s.text, s.line, s.column)).collect()
    }

    #[test]
    fn statements_know_their_place_and_are_on_one_line() {
        let text = "# note\nfrom scratch\n\n  copy [\"a\", \"b c\"]\r\nCMD echo \\\n  # between\n\n  hi\\\\\nX \\\n";
        let expected =
            [("from scratch", 2, 1), ("copy [\"a\", \"b c\"]", 4, 3), ("CMD echo   hi\\\\", 5, 1), ("X", 9, 1)];
        assert_eq!(places(text), expected.map(|(t, l, c)| (t.to_owned(), l, c)));
        assert_eq!(places("# escape=`\nRUN a `\n b \\\n"), [("RUN a  b \\".to_owned(), 2, 1)]);
        assert_eq!(places("# nothing\n"), []);
    }

    #[test]
    fn directives_stand_at_the_beginning() {
        let escape = |text: &str| split(text).map(|text| text.escape).map_err(|(l, c, p)| format!("{l}:{c}: {p}"));
        assert_eq!(escape("# syntax=docker/dockerfile:1\n#escape = `\nFROM a"), Ok('`'));
        assert_eq!(escape("# check=skip=all\n# Unknown=x\n# escape=`\n"), Ok('`'));
        assert_eq!(escape("# a comment\n# escape=`\n"), Ok('\\'));
        assert_eq!(escape("\n# escape=`\n"), Ok('\\'));
        assert!(escape("# escape=x\n").unwrap_err().starts_with("1:1: the directive # escape=x must name"));
        assert!(escape("# syntax=a\n# syntax=b\n").unwrap_err().starts_with("2:1: there can be only one"));
    }

    #[test]
    fn here_documents_follow_their_line() {
        let text = "RUN <<EOF cat <<-'X Y' 3<<Z\na\nEOF\n\t\tb\n\tX Y\n$c\nZ\nCOPY [\"<<EOF\", \"/x\"]\nENV A=<<EOF\n\
                    ONBUILD COPY <<f /x\nd\nf\nRUN a<<b <<<c << $((1<<2))\n";
        let all = split(text).unwrap().statements;
        let docs: Vec<Vec<(&str, bool, &str)>> = all
            .iter()
            .map(|s| s.here_docs.iter().map(|d| (d.name.as_str(), d.expand, d.content.as_str())).collect())
            .collect();
        assert_eq!(
            docs,
            [
                vec![("EOF", true, "a\n"), ("X Y", false, "b\n"), ("Z", true, "$c\n")],
                vec![],
                vec![],
                vec![("f", true, "d\n")],
                vec![]
            ]
        );
        let (line, column, problem) = split("FROM a\n  RUN <<EOF\nx\n").unwrap_err();
        assert_eq!((line, column), (2, 3));
        assert!(problem.to_string().contains("<<EOF has no end"), "{problem}");
    }
}
