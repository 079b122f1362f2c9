//! A Dockerfile's text → the stages and their instructions, each with its place and a line that shows it.

use super::instruction::{self, Instruction};
use super::lines::{self, Statement};
use super::{BuildError, Location, Problem};
use std::path::{Path, PathBuf};

/// A whole Dockerfile.
#[derive(Debug)]
pub(super) struct Dockerfile {
    /// The character that escapes.
    pub escape: char,
    /// The ARGs before the first stage.
    pub globals: Vec<Step>,
    /// Never none.
    pub stages: Vec<StageText>,
    file: PathBuf,
}

/// FROM and what follows up to the next one.
#[derive(Debug)]
pub(super) struct StageText {
    pub from: instruction::From,
    /// Where FROM stands, and its text.
    pub begin: Step,
    pub steps: Vec<Step>,
}

/// One instruction.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub instruction: Instruction,
    /// The instruction on one line, for the history and for whoever watches.
    pub text: String,
    pub at: Location,
}

impl Step {
    /// The instruction of a statement at this place of a file.
    pub fn of(statement: &Statement, escape: char, at: Location) -> Result<Self, BuildError> {
        let (instruction, keyword) =
            instruction::parse(statement, escape).map_err(|problem| BuildError::At { at: at.clone(), problem })?;
        let rest = lines::keyword(&statement.text).unwrap_or_default().1;
        Ok(Self { instruction, text: format!("{keyword} {rest}").trim_end().to_owned(), at })
    }

    /// Says where the problem is.
    pub fn failed(&self, problem: Problem) -> BuildError {
        BuildError::At { at: self.at.clone(), problem }
    }
}

/// Reads a Dockerfile.
pub(super) fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|source| BuildError::Dockerfile { path: path.to_owned(), source })
}

/// Understands a Dockerfile that is called `shown`.
pub(super) fn parse(text: &str, shown: &Path) -> Result<Dockerfile, BuildError> {
    let at = |line, column| Location { file: shown.to_owned(), line, column };
    // A mark that some editors put at the beginning.
    let text = lines::split(text.strip_prefix('\u{feff}').unwrap_or(text))
        .map_err(|(line, column, problem)| BuildError::At { at: at(line, column), problem })?;
    let mut found = Dockerfile { escape: text.escape, globals: vec![], stages: vec![], file: shown.to_owned() };
    for statement in &text.statements {
        let step = Step::of(statement, text.escape, at(statement.line, statement.column))?;
        if let Instruction::From(from) = &step.instruction {
            found.begin_stage(from.clone(), step)?;
        } else if let Some(stage) = found.stages.last_mut() {
            stage.steps.push(step);
        } else if matches!(step.instruction, Instruction::Arg(_)) {
            found.globals.push(step);
        } else {
            let first = step.text.split(' ').next().unwrap_or_default();
            return Err(step.failed(Problem::Syntax(format!("expected FROM (or ARG) before {first}"))));
        }
    }
    if found.stages.is_empty() {
        let problem = Problem::Syntax("expected at least one FROM: it says what the image begins with".to_owned());
        return Err(BuildError::At { at: at(text.lines.max(1), 1), problem });
    }
    Ok(found)
}

impl Dockerfile {
    fn begin_stage(&mut self, from: instruction::From, begin: Step) -> Result<(), BuildError> {
        let same = |stage: &&StageText| from.name.is_some() && stage.from.name == from.name;
        if let Some(other) = self.stages.iter().find(same) {
            let (name, line) = (from.name.unwrap_or_default(), other.begin.at.line);
            return Err(begin.failed(Problem::Syntax(format!("there is a stage {name} already, from line {line} on"))));
        }
        self.stages.push(StageText { from, begin, steps: vec![] });
        Ok(())
    }

    /// The stage of this name, in capitals or not, or of this number, counted from 0.
    pub fn find(&self, wanted: &str) -> Option<usize> {
        let named = |stage: &StageText| stage.from.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(wanted));
        let number = || wanted.parse().ok().filter(|n| *n < self.stages.len());
        self.stages.iter().position(named).or_else(number)
    }

    /// What a stage is called in messages.
    pub fn stage_name(&self, index: usize) -> String {
        let name = self.stages.get(index).and_then(|stage| stage.from.name.clone());
        name.unwrap_or_else(|| format!("stage-{index}"))
    }

    /// The names that stages have, for whoever asks for one that is not there.
    pub fn names(&self) -> String {
        (0..self.stages.len()).map(|i| self.stage_name(i)).collect::<Vec<_>>().join(", ")
    }

    /// A problem that concerns no line of the file.
    pub fn failed(&self, problem: Problem) -> BuildError {
        BuildError::At { at: Location { file: self.file.clone(), line: 1, column: 1 }, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_know_their_place_and_text() {
        let text =
            "\u{feff}ARG A=1\nfrom scratch AS One\n\n  copy [\"a\", \"b c\"]\nFROM one\nCMD echo \\\n  # between\n  hi";
        let parsed = parse(text, Path::new("D")).unwrap();
        assert_eq!((parsed.globals.len(), parsed.stages.len()), (1, 2));
        let stage = &parsed.stages[0];
        assert_eq!((stage.from.image.as_str(), stage.from.name.as_deref()), ("scratch", Some("one")));
        assert_eq!(stage.begin.text, "FROM scratch AS One");
        let step = &stage.steps[0];
        assert_eq!((step.text.as_str(), step.at.to_string().as_str()), ("COPY [\"a\", \"b c\"]", "D:4:3"));
        assert_eq!(parsed.stages[1].steps[0].text, "CMD echo   hi");
        assert_eq!(
            [parsed.find("ONE"), parsed.find("1"), parsed.find("2"), parsed.find("x")],
            [Some(0), Some(1), None, None]
        );
        assert_eq!(parsed.names(), "one, stage-1");
    }

    #[test]
    fn errors_have_their_place() {
        let failure = |text| parse(text, Path::new("D")).unwrap_err().to_string();
        assert!(
            failure("FROM a\nENV A=1\n  FOO x\n").starts_with("D:3:3: unknown instruction \"FOO\"; there are ADD, ")
        );
        assert_eq!(failure("\n\nCOPY a b\n"), "D:3:1: expected FROM (or ARG) before COPY");
        assert!(failure("# nothing").starts_with("D:1:1: expected at least one FROM"));
        assert_eq!(failure("FROM a AS x\nFROM b AS X\n"), "D:2:1: there is a stage x already, from line 1 on");
        for (line, words) in [
            ("FROM a b", "FROM IMAGE AS NAME"),
            ("FROM a AS 1", "no name for a stage"),
            ("FROM a AS scratch", "cannot be called scratch"),
            ("FROM a\nRUN", "RUN needs arguments"),
            ("FROM a\nRUN []", "names no program"),
            ("FROM a\nCOPY x", "at least two arguments"),
            ("FROM a\nCOPY --x y z", "COPY has no flag --x; it has --chown"),
            ("FROM a\nCOPY a <<E\nE\n", "no place to copy to"),
            ("FROM a\nADD --from=x y z", "ADD has no flag --from"),
            ("FROM a\nSHELL sh -c", "form with brackets"),
            ("FROM a\nCMD [1]", "must be a string"),
            ("FROM a\nARG =x", "has no name"),
            ("FROM a\nHEALTHCHECK x", "write CMD and a command, or NONE"),
            ("FROM a\nHEALTHCHECK NONE x", "takes no arguments"),
            ("FROM a\nHEALTHCHECK --interval=1 CMD x", "a time such as 30s"),
            ("FROM a\nHEALTHCHECK --timeout=1us CMD x", "less than 1ms"),
            ("FROM a\nHEALTHCHECK --retries=x CMD x", "a number from 1"),
            ("FROM a\nONBUILD ONBUILD RUN x", "a trigger works once"),
            ("FROM a\nONBUILD FROM x", "cannot be a trigger"),
            ("FROM a\nONBUILD FOO x", "unknown instruction"),
        ] {
            assert!(failure(line).contains(words), "{line}: {}", failure(line));
        }
    }
}
