//! Reads the numbers, strings and characters of templates.

use serde_json::Value;

use super::lexer::is_word;

/// The number at the start of `rest`: its length, and its value if it has one.
pub fn number(rest: &str) -> (usize, Option<Value>) {
    let sign = usize::from(rest.starts_with(['+', '-']));
    let mut before = ' ';
    let digits = rest.chars().skip(sign).take_while(|&c| {
        let exponent_sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
        before = c;
        c.is_ascii() && is_word(c) || c == '.' || exponent_sign
    });
    let length = sign + digits.count();
    (length, rest.get(..length).and_then(parse_number))
}

/// The string or character behind its first quote: its length with both quotes, and its value if it is well formed.
/// None if it does not end.
pub fn quoted(behind: &str, quote: char) -> Option<(usize, Option<Value>)> {
    let inner = behind.get(..closing(behind, quote)?)?;
    let text = if quote == '`' { Some(inner.to_owned()) } else { unescape(inner, quote) };
    let value = match text {
        // A character is its number, as in Go.
        Some(text) if quote == '\'' => only(text.chars()).map(|character| Value::from(u32::from(character))),
        text => text.map(Value::from),
    };
    Some((inner.len() + 2, value))
}

/// The item of an iterator that has just one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}

/// Where the quote stands that ends a literal.
fn closing(behind: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in behind.char_indices() {
        match character {
            '\n' if quote != '`' => return None,
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            _ if character == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// Decimal, hexadecimal, octal and binary integers, and decimal fractions.
fn parse_number(text: &str) -> Option<Value> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefixed = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let radix = match prefixed.as_str() {
        "0x" => 16,
        "0o" => 8,
        "0b" => 2,
        _ => {
            // What does not start with a digit here is a word that Rust would take for a number: `+inf`.
            digits.starts_with(|c: char| c == '.' || c.is_ascii_digit()).then_some(())?;
            let integer = text.parse::<i64>().map(Value::from);
            return integer.or_else(|_| text.parse::<f64>().map(Value::from)).ok();
        }
    };
    let magnitude = i64::from_str_radix(digits.get(2..)?, radix).ok()?;
    Some(Value::from(sign * magnitude))
}

/// Undoes Go's backslash escapes; none if one is malformed.
fn unescape(text: &str, quote: char) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                'x' => code(&mut characters, 2)?,
                'u' => code(&mut characters, 4)?,
                'U' => code(&mut characters, 8)?,
                escaped if escaped == '\\' || escaped == quote => escaped,
                _ => return None,
            },
            _ => character,
        });
    }
    Some(plain)
}

/// The character whose number the next hexadecimal digits are.
fn code(characters: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let digits = characters.by_ref().take(digits).collect::<String>();
    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers() {
        for (source, length, value) in [
            ("12)", 2, Value::from(12)),
            ("-3 4", 2, (-3).into()),
            ("0x1F", 4, 31.into()),
            ("0b11", 4, 3.into()),
            ("1_000", 5, 1000.into()),
            ("-1.5e-3|", 7, (-0.0015).into()),
            (".5", 2, 0.5.into()),
        ] {
            assert_eq!(number(source), (length, Some(value)), "{source}");
        }
        for source in ["1x", "-", "+inf", "1.2.3", "0x"] {
            assert_eq!(number(source), (source.len(), None), "{source}");
        }
    }

    #[test]
    fn reads_strings() {
        for (source, value) in [
            (r#""a\t\"\u00e9\x21""#, Value::from("a\t\"é!")),
            (r"`a\t`", r"a\t".into()),
            ("'a'", 97.into()),
            (r"'\''", 39.into()),
        ] {
            let quote = source.chars().next().unwrap();
            assert_eq!(quoted(&source[1..], quote), Some((source.len(), Some(value))), "{source}");
        }
        assert_eq!(quoted("ab'", '\''), Some((4, None)));
        assert_eq!(quoted(r#"\z""#, '"'), Some((4, None)));
        assert_eq!(quoted("a", '"'), None);
        assert_eq!(quoted("a\n\"", '"'), None);
    }
}
