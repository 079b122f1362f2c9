//! `test` and `[`, for the shell and as programs.

use std::fs::{File, Metadata};
use std::io::IsTerminal;
use std::path::Path;

pub fn test(args: &[String], _: &mut Vec<u8>) -> Result<i32, String> {
    let bracket = args.first().is_some_and(|name| name.rsplit('/').next() == Some("["));
    let mut words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    if bracket && words.pop() != Some("]") {
        return Err("missing ]".to_owned());
    }
    let mut parser = Parser { words: &words, at: 0 };
    let value = match parser.by_count(words.len())? {
        Some(value) => value,
        None => {
            let value = parser.or()?;
            if parser.at < words.len() {
                return Err(format!("{}: unexpected operator", words[parser.at]));
            }
            value
        }
    };
    Ok(i32::from(!value))
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

const BINARY: [&str; 15] =
    ["=", "==", "!=", "<", ">", "-eq", "-ne", "-gt", "-ge", "-lt", "-le", "-nt", "-ot", "-ef", "=~"];

impl Parser<'_> {
    /// What POSIX says by the number of words alone, which no operand can disturb.
    fn by_count(&self, count: usize) -> Result<Option<bool>, String> {
        Ok(match (count, self.words) {
            (0, _) => Some(false),
            (1, [word]) => Some(!word.is_empty()),
            (2, ["!", word]) => Some(word.is_empty()),
            (2, [operator, operand]) => Some(unary(operator, operand)?),
            (3, [a, operator, b]) if BINARY.contains(operator) => Some(binary(a, operator, b)?),
            (3, ["!", operator, operand]) => Some(!unary(operator, operand)?),
            (3, ["(", word, ")"]) => Some(!word.is_empty()),
            (4, ["!", a, operator, b]) if BINARY.contains(operator) => Some(!binary(a, operator, b)?),
            _ => None,
        })
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).copied()
    }

    fn or(&mut self) -> Result<bool, String> {
        let mut value = self.and()?;
        while self.peek() == Some("-o") {
            self.at += 1;
            let right = self.and()?;
            value |= right;
        }
        Ok(value)
    }

    fn and(&mut self) -> Result<bool, String> {
        let mut value = self.not()?;
        while self.peek() == Some("-a") {
            self.at += 1;
            let right = self.not()?;
            value &= right;
        }
        Ok(value)
    }

    fn not(&mut self) -> Result<bool, String> {
        if self.peek() == Some("!") && self.at + 1 < self.words.len() {
            self.at += 1;
            return Ok(!self.not()?);
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<bool, String> {
        let Some(word) = self.words.get(self.at).copied() else { return Err("argument expected".to_owned()) };
        if let (Some(operator), Some(right)) = (self.words.get(self.at + 1), self.words.get(self.at + 2))
            && BINARY.contains(operator)
        {
            self.at += 3;
            return binary(word, operator, right);
        }
        if word == "(" {
            self.at += 1;
            let value = self.or()?;
            if self.peek() != Some(")") {
                return Err("closing paren expected".to_owned());
            }
            self.at += 1;
            return Ok(value);
        }
        if word.len() == 2
            && word.starts_with('-')
            && let Some(operand) = self.words.get(self.at + 1)
        {
            self.at += 2;
            return unary(word, operand);
        }
        self.at += 1;
        Ok(!word.is_empty())
    }
}

fn unary(operator: &str, operand: &str) -> Result<bool, String> {
    let meta = || std::fs::metadata(operand).ok();
    let is = |check: fn(&Metadata) -> bool| meta().is_some_and(|meta| check(&meta));
    // What the system keeps for everybody is there though no file says so.
    let null = operand == "/dev/null";
    Ok(match operator {
        "-n" => !operand.is_empty(),
        "-z" => operand.is_empty(),
        "-e" | "-a" => null || meta().is_some(),
        "-f" => is(Metadata::is_file),
        "-d" => is(Metadata::is_dir),
        "-s" => is(|meta| meta.len() > 0),
        "-h" | "-L" => std::fs::symlink_metadata(operand).is_ok_and(|meta| meta.is_symlink()),
        "-r" => null || is(Metadata::is_dir) || File::open(operand).is_ok(),
        "-w" => null || is(Metadata::is_dir) || File::options().append(true).open(operand).is_ok(),
        // WASI does not tell what may be executed; whether it can is seen when it is.
        "-x" => meta().is_some(),
        "-c" => null,
        "-t" => match operand {
            "0" => std::io::stdin().is_terminal(),
            "1" => std::io::stdout().is_terminal(),
            "2" => std::io::stderr().is_terminal(),
            _ => false,
        },
        // These kinds do not exist.
        "-b" | "-p" | "-S" | "-g" | "-u" | "-k" => false,
        other => return Err(format!("{other}: unknown operand")),
    })
}

fn binary(a: &str, operator: &str, b: &str) -> Result<bool, String> {
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("{text}: bad number"));
    let modified = |path: &str| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    Ok(match operator {
        "=" | "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        ">" => a > b,
        "-eq" => number(a)? == number(b)?,
        "-ne" => number(a)? != number(b)?,
        "-gt" => number(a)? > number(b)?,
        "-ge" => number(a)? >= number(b)?,
        "-lt" => number(a)? < number(b)?,
        "-le" => number(a)? <= number(b)?,
        "-nt" => modified(a).is_some_and(|a| modified(b).is_none_or(|b| a > b)),
        "-ot" => modified(b).is_some_and(|b| modified(a).is_none_or(|a| a < b)),
        "-ef" => {
            let real = |path: &str| super::real_path(Path::new(path)).ok();
            real(a).is_some() && real(a) == real(b)
        }
        other => return Err(format!("{other}: unknown operand")),
    })
}
