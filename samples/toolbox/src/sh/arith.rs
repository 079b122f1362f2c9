//! Arithmetic (POSIX.1-2024, Shell Command Language, 2.6.4): C's operators on numbers of 64 bits.

use super::Shell;
use super::parser::is_name;

/// The value of an expression, or what is wrong with it.
pub fn evaluate(shell: &mut Shell, text: &str) -> Result<i64, String> {
    let mut parser = Parser { shell, text: text.as_bytes(), at: 0, depth: 0, dead: 0 };
    parser.blanks();
    if parser.at == parser.text.len() {
        return Ok(0);
    }
    let value = parser.comma()?;
    parser.blanks();
    if parser.at == parser.text.len() { Ok(value) } else { Err("arithmetic syntax error".to_owned()) }
}

struct Parser<'s, 't> {
    shell: &'s mut Shell,
    text: &'t [u8],
    at: usize,
    depth: usize,
    /// Above zero in a branch that is not taken: nothing is assigned or divided there.
    dead: usize,
}

type Value = Result<i64, String>;

/// Binary operators by how they bind, the weakest first.
const BINARY: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];
const ASSIGNING: [&str; 11] = ["=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "^=", "|="];

impl Parser<'_, '_> {
    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn accept(&mut self, operator: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(operator.as_bytes());
        if found {
            self.at += operator.len();
        }
        found
    }

    fn comma(&mut self) -> Value {
        let mut value = self.assignment()?;
        while self.accept(",") {
            value = self.assignment()?;
        }
        Ok(value)
    }

    fn name(&mut self) -> Option<String> {
        self.blanks();
        let end =
            self.rest().iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(self.rest().len());
        let name = String::from_utf8_lossy(self.rest().get(..end).unwrap_or_default()).into_owned();
        is_name(&name).then(|| {
            self.at += end;
            name
        })
    }

    fn assignment(&mut self) -> Value {
        self.depth += 1;
        if self.depth > 200 {
            return Err("expression recursion loop detected".to_owned());
        }
        let start = self.at;
        if let Some(name) = self.name() {
            self.blanks();
            // The longer ones first; `==` compares.
            let operator = ASSIGNING.iter().rev().find(|o| self.rest().starts_with(o.as_bytes())).copied();
            if let Some(operator) = operator.filter(|o| *o != "=" || !self.rest().starts_with(b"==")) {
                self.at += operator.len();
                let right = self.assignment()?;
                let value = match operator.strip_suffix('=') {
                    None | Some("") => right,
                    Some(binary) => {
                        let left = self.variable(&name)?;
                        self.apply(binary, left, right)?
                    }
                };
                self.store(&name, value)?;
                self.depth -= 1;
                return Ok(value);
            }
            self.at = start;
        }
        let value = self.conditional();
        self.depth -= 1;
        value
    }

    fn store(&mut self, name: &str, value: i64) -> Result<(), String> {
        if self.dead == 0 {
            self.shell.set(name, &value.to_string()).map_err(|_| "is read only".to_owned())?;
        }
        Ok(())
    }

    fn skipping<T>(&mut self, skip: bool, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.dead += usize::from(skip);
        let value = parse(self);
        self.dead -= usize::from(skip);
        value
    }

    fn conditional(&mut self) -> Value {
        let condition = self.binary(0)?;
        if !self.accept("?") {
            return Ok(condition);
        }
        let yes = self.skipping(condition == 0, Self::comma)?;
        if !self.accept(":") {
            return Err("arithmetic syntax error".to_owned());
        }
        let no = self.skipping(condition != 0, Self::assignment)?;
        Ok(if condition == 0 { no } else { yes })
    }

    fn operator(&mut self, level: usize) -> Option<&'static str> {
        self.blanks();
        let rest = self.rest();
        let found = BINARY.get(level)?.iter().find(|o| rest.starts_with(o.as_bytes())).copied()?;
        // `&` is not the half of `&&`, `<` not that of `<<`, and none of them an assignment.
        let next = rest.get(found.len()).copied();
        let longer = match found {
            "|" | "&" => next == found.bytes().next() || next == Some(b'='),
            "<" | ">" => next == found.bytes().next(),
            "==" | "!=" | "<=" | ">=" | "&&" | "||" => false,
            _ => next == Some(b'='),
        };
        (!longer).then_some(found)
    }

    fn binary(&mut self, level: usize) -> Value {
        if level == BINARY.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(level) {
            self.at += operator.len();
            left = match operator {
                "&&" => {
                    let right = self.skipping(left == 0, |p| p.binary(level + 1))?;
                    i64::from(left != 0 && right != 0)
                }
                "||" => {
                    let right = self.skipping(left != 0, |p| p.binary(level + 1))?;
                    i64::from(left != 0 || right != 0)
                }
                _ => {
                    let right = self.binary(level + 1)?;
                    self.apply(operator, left, right)?
                }
            };
        }
        Ok(left)
    }

    fn apply(&self, operator: &str, a: i64, b: i64) -> Value {
        let shift = u32::try_from(b & 63).unwrap_or(0);
        Ok(match operator {
            "+" => a.wrapping_add(b),
            "-" => a.wrapping_sub(b),
            "*" => a.wrapping_mul(b),
            "/" | "%" if b == 0 && self.dead > 0 => 0,
            "/" | "%" if b == 0 => return Err("divide by zero".to_owned()),
            "/" => a.wrapping_div(b),
            "%" => a.wrapping_rem(b),
            "<<" => a.wrapping_shl(shift),
            ">>" => a.wrapping_shr(shift),
            "&" => a & b,
            "^" => a ^ b,
            "|" => a | b,
            "==" => i64::from(a == b),
            "!=" => i64::from(a != b),
            "<" => i64::from(a < b),
            ">" => i64::from(a > b),
            "<=" => i64::from(a <= b),
            ">=" => i64::from(a >= b),
            _ => return Err("arithmetic syntax error".to_owned()),
        })
    }

    fn unary(&mut self) -> Value {
        for step in ["++", "--"] {
            let start = self.at;
            if self.accept(step) {
                if let Some(name) = self.name() {
                    let value = self.variable(&name)? + if step == "++" { 1 } else { -1 };
                    self.store(&name, value)?;
                    return Ok(value);
                }
                self.at = start;
            }
        }
        if self.accept("-") {
            return Ok(self.unary()?.wrapping_neg());
        }
        if self.accept("+") {
            return self.unary();
        }
        if self.accept("~") {
            return Ok(!self.unary()?);
        }
        if self.accept("!") {
            return Ok(i64::from(self.unary()? == 0));
        }
        if self.accept("(") {
            let value = self.comma()?;
            return if self.accept(")") { Ok(value) } else { Err("arithmetic syntax error".to_owned()) };
        }
        if let Some(name) = self.name() {
            let value = self.variable(&name)?;
            for (step, by) in [("++", 1), ("--", -1)] {
                if self.accept(step) {
                    self.store(&name, value + by)?;
                    break;
                }
            }
            return Ok(value);
        }
        self.number()
    }

    fn number(&mut self) -> Value {
        self.blanks();
        let end = self.rest().iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(self.rest().len());
        let digits = String::from_utf8_lossy(self.rest().get(..end).unwrap_or_default()).into_owned();
        self.at += end;
        parse(&digits).ok_or_else(|| "arithmetic syntax error".to_owned())
    }

    /// A variable's value, which may be an expression itself.
    fn variable(&mut self, name: &str) -> Value {
        let value = self.shell.parameter(name).unwrap_or_default();
        let value = value.trim();
        if value.is_empty() {
            if self.shell.options.nounset && self.shell.parameter(name).is_none() {
                return Err(format!("{name}: parameter not set"));
            }
            return Ok(0);
        }
        if let Some(number) = parse(value.strip_prefix('-').unwrap_or(value)) {
            return Ok(if value.starts_with('-') { number.wrapping_neg() } else { number });
        }
        self.depth += 1;
        if self.depth > 100 {
            return Err("expression recursion loop detected".to_owned());
        }
        let (depth, dead) = (self.depth, self.dead);
        let mut inner = Parser { shell: self.shell, text: value.as_bytes(), at: 0, depth, dead };
        let result = inner.comma()?;
        if inner.at < inner.text.len() {
            return Err("arithmetic syntax error".to_owned());
        }
        self.depth -= 1;
        Ok(result)
    }
}

/// A constant: decimal, octal with a leading 0, hexadecimal with 0x.
fn parse(digits: &str) -> Option<i64> {
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(u64::cast_signed);
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => i64::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    }
}
