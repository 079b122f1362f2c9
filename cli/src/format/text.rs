//! Strings as Docker shows them: quoted like Go's, and cut to a width.

/// The text in double quotes with Go's escapes, as `strconv.Quote` and `%q` write it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(character))),
            ' ' => quoted.push(' '),
            _ if character.is_control() || character.is_whitespace() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Cuts the text so that it takes at most `width` places of a terminal, the last of them an ellipsis if it was cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if self::width(text) <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let kept: String = text
        .chars()
        .take_while(|character| {
            used += char_width(*character);
            used < width
        })
        .collect();
    if width > 1 { kept + "…" } else { kept }
}

/// How many places of a terminal the text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Two places for East Asian wide characters and emoji, none for combining marks: the common blocks, not all of
/// Unicode's tables.
fn char_width(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quote("a \"b\" \\ \n\t\x01 é…\u{85}"), r#""a \"b\" \\ \n\t\x01 é…\u0085""#);
    }

    #[test]
    fn cuts_to_a_width() {
        assert_eq!(ellipsis("short", 5), "short");
        assert_eq!(ellipsis("shorter", 5), "shor…");
        assert_eq!(ellipsis("日本語", 6), "日本語");
        assert_eq!(ellipsis("日本語", 5), "日本…");
        assert_eq!(ellipsis("日本語", 4), "日…");
        assert_eq!(ellipsis("abc", 0), "");
    }
}
