//! `printf`, with the verbs, flags and complaints of Go's package `fmt`.

use serde_json::Value;
use std::iter::Peekable;
use std::str::Chars;

use super::functions::{Outcome, misuse};
use super::value::{Numeric, nested_text, sorted};
use crate::format::{float, text};

/// More width or precision than this is a mistake, and would take all memory.
const MOST: usize = 10_000;

/// Formats the arguments behind the first as the first wants them.
pub fn printf(args: &[&Value]) -> Outcome {
    let [Value::String(format), values @ ..] = args else {
        return misuse("printf format value...", args);
    };
    let mut values = values.iter().copied();
    let mut printed = String::new();
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            printed.push(character);
            continue;
        }
        let spec = Spec::parse(&mut rest, &mut values);
        match rest.next() {
            None => printed.push_str("%!(NOVERB)"),
            Some('%') => printed.push('%'),
            Some(verb) => match values.next() {
                Some(value) => printed.push_str(&spec.apply(verb, value)),
                None => printed.push_str(&format!("%!{verb}(MISSING)")),
            },
        }
    }
    let extra: Vec<_> = values.map(typed).collect();
    if !extra.is_empty() {
        printed.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(printed.into())
}

/// What stands between `%` and the verb.
#[derive(Debug, Default, Clone)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    fn parse<'v>(rest: &mut Peekable<Chars<'_>>, values: &mut impl Iterator<Item = &'v Value>) -> Self {
        let mut spec = Self::default();
        while let Some(flag) = rest.next_if(|c| "-+# 0".contains(*c)) {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
        }
        let (width, to_the_left) = count(rest, values);
        spec.width = width;
        spec.minus |= to_the_left;
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(count(rest, values).0.unwrap_or_default());
        }
        spec
    }

    fn apply(&self, verb: char, value: &Value) -> String {
        match value {
            // A verb goes for each item of a list or map; brackets and names stay outside of it.
            Value::Array(items) if verb != 'T' => {
                format!("[{}]", items.iter().map(|item| self.item(verb, item)).collect::<Vec<_>>().join(" "))
            }
            Value::Object(map) if verb != 'T' => {
                let key = |key: &String| self.apply(verb, &Value::from(key.as_str()));
                let entries = sorted(map).into_iter().map(|(name, item)| key(name) + ":" + &self.item(verb, item));
                format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
            }
            _ => match (verb, self.scalar(verb, value)) {
                ('T', _) => self.pad(go_type(value).to_owned(), false),
                (_, Some(text)) => text,
                (_, None) => format!("%!{verb}({})", typed(value)),
            },
        }
    }

    /// What is in a list or map: nothing is `<nil>` there for all verbs.
    fn item(&self, verb: char, item: &Value) -> String {
        if item.is_null() { "<nil>".to_owned() } else { self.apply(verb, item) }
    }

    /// None for a verb that does not go with the value.
    fn scalar(&self, verb: char, value: &Value) -> Option<String> {
        match (value, verb) {
            (Value::Null, 'v') => Some(self.pad("<nil>".to_owned(), false)),
            (Value::Bool(truth), 'v' | 't') => Some(self.pad(truth.to_string(), false)),
            (Value::Number(number), _) => match Numeric::of(number) {
                Numeric::Integer(integer) => self.integer(verb, integer),
                Numeric::Float(value) => self.float(verb, value),
            },
            (Value::String(text), _) => self.string(verb, text),
            _ => None,
        }
    }

    fn string(&self, verb: char, text: &str) -> Option<String> {
        let cut = |text: &str| match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let shown = match verb {
            'v' | 's' => cut(text),
            'q' if self.sharp && !text.contains('`') => format!("`{}`", cut(text)),
            'q' => text::quote(&cut(text)),

            'x' | 'X' => {
                let bytes: Vec<_> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
                let shown = bytes.join(if self.space { " " } else { "" });
                if verb == 'X' { shown.to_uppercase() } else { shown }
            }
            _ => return None,
        };
        Some(self.pad(shown, self.zero))
    }

    fn integer(&self, verb: char, integer: i128) -> Option<String> {
        let magnitude = integer.unsigned_abs();
        let (prefix, digits) = match verb {
            'v' | 'd' => ("", magnitude.to_string()),
            'b' => ("0b", format!("{magnitude:b}")),
            'o' => ("0", format!("{magnitude:o}")),
            'x' => ("0x", format!("{magnitude:x}")),
            'X' => ("0X", format!("{magnitude:X}")),
            'c' | 'q' | 'U' => {
                let code = u32::try_from(integer).ok();
                let character = code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                let shown = match verb {
                    'c' => character.to_string(),
                    'q' => format!("'{character}'"),
                    _ => format!("U+{magnitude:04X}"),
                };
                return Some(self.pad(shown, false));
            }
            _ => return None,
        };
        let least = self.precision.unwrap_or_default();
        let prefix = if self.sharp { prefix } else { "" };
        let digits = format!("{prefix}{digits:0>least$}");
        // With a precision the zeros are those of the precision.
        Some(self.number(integer < 0, digits, self.precision.is_none()))
    }

    fn float(&self, verb: char, value: f64) -> Option<String> {
        let magnitude = value.abs();
        let shown = match verb {
            'v' | 'g' => float::general(magnitude, self.precision),
            'G' => float::general(magnitude, self.precision).to_uppercase(),
            'e' => float::scientific(magnitude, self.precision.unwrap_or(6)),
            'E' => float::scientific(magnitude, self.precision.unwrap_or(6)).to_uppercase(),
            'f' | 'F' => float::fixed(magnitude, self.precision.unwrap_or(6)),
            _ => return None,
        };
        Some(self.number(value.is_sign_negative(), shown, true))
    }

    /// Puts the sign before the digits, and zeros between them if they are wanted.
    fn number(&self, negative: bool, digits: String, zeros: bool) -> String {
        let sign = match () {
            () if negative => "-",
            () if self.plus => "+",
            () if self.space => " ",
            () => "",
        };
        if self.zero && zeros && !self.minus {
            let least = self.width.unwrap_or_default().saturating_sub(sign.len());
            return format!("{sign}{digits:0>least$}");
        }
        self.pad(format!("{sign}{digits}"), false)
    }

    fn pad(&self, text: String, zeros: bool) -> String {
        let width = self.width.unwrap_or_default();
        match () {
            () if self.minus => format!("{text:<width$}"),
            () if zeros => format!("{text:0>width$}"),
            () => format!("{text:>width$}"),
        }
    }
}

/// A width or a precision: digits, or `*` for the next value. One below zero means that the text is to the left.
fn count<'v>(rest: &mut Peekable<Chars<'_>>, values: &mut impl Iterator<Item = &'v Value>) -> (Option<usize>, bool) {
    let number = if rest.next_if_eq(&'*').is_some() {
        values.next().and_then(Value::as_i64)
    } else {
        let digits: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
        digits.parse().ok()
    };
    let count = number.and_then(|number| usize::try_from(number.unsigned_abs()).ok()).filter(|count| *count <= MOST);
    (count, number.is_some_and(i64::is_negative))
}

/// The value with its type, as it stands in complaints.
fn typed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        value => format!("{}={}", go_type(value), nested_text(value)),
    }
}

/// What Go calls the type of the value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_as_go_does() {
        for (args, expected) in [
            (json!(["%s is %d%%", "a", 3]), "a is 3%"),
            (json!(["%-5s|%5s|%.2s|%05s", "a", "b", "cde", "f"]), "a    |    b|cd|0000f"),
            (
                json!(["%5d|%-5d|%05d|%+d|% d|%x|%#x|%o|%b|%c", 1, 2, -3, 4, 5, 255, 255, 8, 5, 65]),
                "    1|2    |-0003|+4| 5|ff|0xff|10|101|A",
            ),
            (
                json!(["%v %v %v %v %v", null, true, 1.5, [1, "a"], {"b": 1, "a": {}}]),
                "<nil> true 1.5 [1 a] map[a:map[] b:1]",
            ),
            (json!(["%q %q %x", "a\"b", ["c", "d"], "hi"]), "\"a\\\"b\" [\"c\" \"d\"] 6869"),
            (json!(["%.2f %6.1f %e %g %t", 1.005, 2.25, 1500.0, 1e-7, false]), "1.00    2.2 1.500000e+03 1e-07 false"),
            (json!(["%*d|%-*d|%.*f", 3, 1, 3, 2, 1, 0.25]), "  1|2  |0.2"),
            (json!(["%d %s %z", "a", 1, true]), "%!d(string=a) %!s(int=1) %!z(bool=true)"),
            (json!(["%s"]), "%!s(MISSING)"),
            (json!(["%"]), "%!(NOVERB)"),
            (json!(["a", 1, "b"]), "a%!(EXTRA int=1, string=b)"),
            (json!(["%T %T", 1, {}]), "int map[string]interface {}"),
        ] {
            let args: Vec<_> = args.as_array().unwrap().iter().collect();
            assert_eq!(printf(&args).unwrap(), expected);
        }
        assert!(printf(&[&json!(1)]).is_err());
    }
}
