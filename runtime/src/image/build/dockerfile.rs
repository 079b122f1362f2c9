//! A Dockerfile's text → the instructions, each with its place and a line that shows it.

use super::{BuildError, Location, Problem};
use parse_dockerfile::{Command, Dockerfile, Instruction, JsonOrStringArray, Source, UnescapedString};
use std::path::Path;

/// One instruction of a parsed Dockerfile (`'p`), which borrows from its text (`'t`).
pub(super) struct Step<'p, 't> {
    pub instruction: &'p Instruction<'t>,
    /// The instruction's name, in capitals.
    pub keyword: &'static str,
    /// The instruction on one line, for the history and for whoever watches.
    pub text: String,
    at: Location,
}

impl Step<'_, '_> {
    /// Says where the problem is.
    pub fn failed(&self, problem: Problem) -> BuildError {
        BuildError::At { at: self.at.clone(), problem }
    }
}

/// Reads a Dockerfile.
pub(super) fn read(path: &Path) -> Result<String, BuildError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| BuildError::Dockerfile { path: path.to_owned(), source })?;
    // The parser skips the mark and then counts from behind it.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

pub(super) fn parse<'a>(text: &'a str, shown: &Path) -> Result<Dockerfile<'a>, BuildError> {
    parse_dockerfile::parse(text).map_err(|error| {
        // The parser's columns are wrong below the first line (0.1.9). Nearly all of its errors are about a whole
        // instruction, so the start of the line serves better.
        let line = error.line().max(1);
        let indent = text.lines().nth(line - 1).map_or(0, |l| l.chars().take_while(|c| c.is_whitespace()).count());
        let message = format!("{error:#}");
        let problem = match message.strip_prefix("unknown instruction '").and_then(|m| m.strip_suffix('\'')) {
            Some(word) => Problem::UnknownInstruction(word.to_owned()),
            None => Problem::Syntax(message),
        };
        BuildError::At { at: Location { file: shown.to_owned(), line, column: indent + 1 }, problem }
    })
}

pub(super) fn escape(dockerfile: &Dockerfile<'_>) -> char {
    dockerfile.parser_directives.escape.as_ref().map_or('\\', |directive| directive.value.value)
}

/// The instructions in their order.
pub(super) fn steps<'p, 't>(dockerfile: &'p Dockerfile<'t>, text: &str, shown: &Path) -> Vec<Step<'p, 't>> {
    let escape = escape(dockerfile);
    let step = |instruction| {
        let (keyword, start, arguments) = describe(instruction, escape);
        let before = text.get(..start).unwrap_or_default();
        let at = Location {
            file: shown.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1,
        };
        Step { instruction, keyword, text: format!("{keyword} {arguments}").trim_end().to_owned(), at }
    };
    dockerfile.instructions.iter().map(step).collect()
}

/// An instruction's name, where it begins, and its arguments on one line. Of those that are not supported yet, only the
/// place matters.
fn describe(instruction: &Instruction<'_>, escape: char) -> (&'static str, usize, String) {
    use Instruction as I;
    match instruction {
        I::From(i) => {
            let stage = i.as_.as_ref().map(|(_, name)| format!(" AS {}", name.value)).unwrap_or_default();
            ("FROM", i.from.span.start, format!("{}{stage}", i.image.value))
        }
        I::Copy(i) => {
            let path = |source: &Source<'_>| match source {
                Source::Path(path) => path.value.clone().into_owned(),
                _ => "<<".to_owned(),
            };
            let words: Vec<String> = i.src.iter().map(path).chain([i.dest.value.clone().into_owned()]).collect();
            ("COPY", i.copy.span.start, words.join(" "))
        }
        I::Env(i) => ("ENV", i.env.span.start, i.arguments.value.clone().into_owned()),
        I::Workdir(i) => ("WORKDIR", i.workdir.span.start, i.arguments.value.clone().into_owned()),
        I::Expose(i) => ("EXPOSE", i.expose.span.start, spaced(&i.arguments)),
        I::Label(i) => ("LABEL", i.label.span.start, i.arguments.value.clone().into_owned()),
        I::Volume(i) => {
            let words = match &i.arguments {
                JsonOrStringArray::Json(words) => json(&words.value),
                JsonOrStringArray::String(words) => spaced(words),
            };
            ("VOLUME", i.volume.span.start, words)
        }
        I::Entrypoint(i) => ("ENTRYPOINT", i.entrypoint.span.start, command_text(&i.arguments, escape)),
        I::Cmd(i) => ("CMD", i.cmd.span.start, command_text(&i.arguments, escape)),
        I::Add(i) => ("ADD", i.add.span.start, String::new()),
        I::Arg(i) => ("ARG", i.arg.span.start, String::new()),
        I::Healthcheck(i) => ("HEALTHCHECK", i.healthcheck.span.start, String::new()),
        I::Maintainer(i) => ("MAINTAINER", i.maintainer.span.start, String::new()),
        I::Onbuild(i) => ("ONBUILD", i.onbuild.span.start, String::new()),
        I::Run(i) => ("RUN", i.run.span.start, String::new()),
        I::Shell(i) => ("SHELL", i.shell.span.start, String::new()),
        I::Stopsignal(i) => ("STOPSIGNAL", i.stopsignal.span.start, String::new()),
        I::User(i) => ("USER", i.user.span.start, String::new()),
        _ => ("this instruction", 0, String::new()),
    }
}

/// What to execute: the words of the exec form, or the shell form's line given to a shell as Docker does.
pub(super) fn command(command: &Command<'_>, escape: char) -> Vec<String> {
    match command {
        Command::Exec(words) => words.value.iter().map(|word| word.value.clone().into_owned()).collect(),
        Command::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), joined(line.value, escape)],
        _ => Vec::new(),
    }
}

fn command_text(command: &Command<'_>, escape: char) -> String {
    match command {
        Command::Exec(words) => json(&words.value),
        Command::Shell(line) => joined(line.value, escape),
        _ => String::new(),
    }
}

fn spaced(words: &[UnescapedString<'_>]) -> String {
    words.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>().join(" ")
}

fn json(words: &[UnescapedString<'_>]) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.value.as_ref()).collect();
    serde_json::to_string(&words).unwrap_or_default()
}

/// A shell form's lines as one: the escape at a line's end joins it with the next, and comment lines and empty lines
/// between them do not count. (The parser leaves this one to us.)
fn joined(raw: &str, escape: char) -> String {
    let mut line = String::new();
    for (i, part) in raw.lines().enumerate() {
        if i > 0 && (part.trim().is_empty() || part.trim_start().starts_with('#')) {
            continue;
        }
        line.push_str(part.trim_end().strip_suffix(escape).unwrap_or(part));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(String, usize, usize)> {
        let parsed = parse(text, Path::new("D")).unwrap();
        steps(&parsed, text, Path::new("D")).into_iter().map(|s| (s.text, s.at.line, s.at.column)).collect()
    }

    #[test]
    fn steps_know_their_place_and_text() {
        let text = "# note\nfrom scratch\n\n  copy [\"a\", \"b c\"]\nENTRYPOINT [ \"/x\" ,\"y\"]\n\
                    CMD echo \\\n  # between\n  hi";
        let expected = [
            ("FROM scratch", 2, 1),
            ("COPY a b c", 4, 3),
            ("ENTRYPOINT [\"/x\",\"y\"]", 5, 1),
            ("CMD echo   hi", 6, 1),
        ];
        assert_eq!(places(text), expected.map(|(t, l, c)| (t.to_owned(), l, c)));
    }

    #[test]
    fn errors_of_the_parser_get_a_true_place() {
        let failure = |text| parse(text, Path::new("D")).unwrap_err().to_string();
        assert!(failure("FROM a\nENV A=1\n  FOO x\n").starts_with("D:3:3: unknown instruction \"FOO\"; this version"));
        assert_eq!(failure("\n\nCOPY a b\n"), "D:3:1: expected FROM");
        assert_eq!(failure("# nothing"), "D:1:1: expected at least one FROM instruction");
    }

    #[test]
    fn the_shell_form_is_given_to_a_shell() {
        let text = "# escape=`\nFROM x\nCMD a `\n\n b\\\n";
        let parsed = parse(text, Path::new("D")).unwrap();
        let Instruction::Cmd(cmd) = &parsed.instructions[1] else { panic!() };
        assert_eq!(command(&cmd.arguments, escape(&parsed)), ["/bin/sh", "-c", "a  b\\"]);
    }
}
