//! `printf`, for the shell and as a program.

/// `printf FORMAT [ARGUMENT…]`; the format is used again while there are arguments.
pub fn printf(args: &[String], out: &mut Vec<u8>) -> Result<i32, String> {
    let Some(format) = args.get(1) else { return Err("usage: printf FORMAT [ARGUMENT]...".to_owned()) };
    let mut rest = args.get(2..).unwrap_or_default().iter();
    let mut status = 0;
    loop {
        let before = rest.len();
        match once(format, &mut rest, out) {
            Ok(true) => {}
            Ok(false) => break,
            Err(words) => {
                eprintln!("printf: {words}");
                status = 1;
            }
        }
        if rest.len() == 0 || rest.len() == before {
            break;
        }
    }
    Ok(status)
}

/// Whether to go on: `\c` ends everything.
fn once(format: &str, args: &mut std::slice::Iter<'_, String>, out: &mut Vec<u8>) -> Result<bool, String> {
    let chars: Vec<char> = format.chars().collect();
    let mut at = 0;
    let mut problem = None;
    while let Some(c) = chars.get(at).copied() {
        at += 1;
        match c {
            '\\' => {
                if escape(&chars, &mut at, out, false) {
                    return Ok(false);
                }
            }
            '%' if chars.get(at) == Some(&'%') => {
                at += 1;
                out.push(b'%');
            }
            '%' => {
                let mut flags = String::new();
                while let Some(flag) = chars.get(at).filter(|c| "-+ #0".contains(**c)) {
                    flags.push(*flag);
                    at += 1;
                }
                let number = |at: &mut usize, args: &mut std::slice::Iter<'_, String>| {
                    if chars.get(*at) == Some(&'*') {
                        *at += 1;
                        return args.next().and_then(|n| n.parse::<i64>().ok());
                    }
                    let mut digits = String::new();
                    while let Some(digit) = chars.get(*at).filter(|c| c.is_ascii_digit()) {
                        digits.push(*digit);
                        *at += 1;
                    }
                    digits.parse().ok()
                };
                let mut width = number(&mut at, args).unwrap_or(0);
                if width < 0 {
                    flags.push('-');
                    width = -width;
                }
                let precision = if chars.get(at) == Some(&'.') {
                    at += 1;
                    Some(number(&mut at, args).unwrap_or(0))
                } else {
                    None
                };
                while chars.get(at).is_some_and(|c| matches!(c, 'l' | 'h' | 'q' | 'j' | 'z')) {
                    at += 1;
                }
                let Some(kind) = chars.get(at).copied() else { return Err(format!("{format}: invalid format")) };
                at += 1;
                let spec = Spec { flags, width: size(width), precision: precision.map(size) };
                let arg = args.next().map_or("", String::as_str);
                match kind {
                    's' => out.extend(spec.pad(spec.cut(arg), false)),
                    'c' => out.extend(spec.pad(arg.chars().take(1).collect(), false)),
                    'b' => {
                        let mut bytes = Vec::new();
                        let stop = escaped(arg, &mut bytes);
                        out.extend(spec.pad(String::from_utf8_lossy(&bytes).into_owned(), false));
                        if stop {
                            return Ok(false);
                        }
                    }
                    'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
                        let value = integer(arg).unwrap_or_else(|| {
                            problem = Some(format!("invalid number '{arg}'"));
                            0
                        });
                        out.extend(spec.integer(value, kind));
                    }
                    'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
                        let value = if arg.is_empty() { Some(0.0) } else { arg.trim().parse::<f64>().ok() };
                        let value = value.unwrap_or_else(|| {
                            problem = Some(format!("invalid number '{arg}'"));
                            0.0
                        });
                        out.extend(spec.real(value, kind));
                    }
                    other => return Err(format!("%{other}: invalid format")),
                }
            }
            c => out.extend(c.to_string().bytes()),
        }
    }
    problem.map_or(Ok(true), Err)
}

fn size(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0).min(1 << 16)
}

/// A number of C's, or `'c` for a character's.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    if text.is_empty() {
        return Some(0);
    }
    if let Some(c) = text.strip_prefix(['\'', '"']) {
        return Some(c.chars().next().map_or(0, |c| i64::from(u32::from(c))));
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?.cast_signed()
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

struct Spec {
    flags: String,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }

    fn pad(&self, text: String, zeros: bool) -> Vec<u8> {
        let missing = self.width.saturating_sub(text.chars().count());
        if self.has('-') {
            format!("{text}{}", " ".repeat(missing)).into_bytes()
        } else if zeros {
            let sign = text.len() - text.trim_start_matches(['-', '+', ' ']).len();
            format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]).into_bytes()
        } else {
            format!("{}{text}", " ".repeat(missing)).into_bytes()
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.has('+'), self.has(' ')) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, value: i64, kind: char) -> Vec<u8> {
        let bits = value.cast_unsigned();
        let (sign, digits) = match kind {
            'd' | 'i' => (self.sign(value < 0), value.unsigned_abs().to_string()),
            'u' => ("", bits.to_string()),
            'o' => (if self.has('#') { "0" } else { "" }, format!("{bits:o}")),
            'x' => (if self.has('#') && bits > 0 { "0x" } else { "" }, format!("{bits:x}")),
            _ => (if self.has('#') && bits > 0 { "0X" } else { "" }, format!("{bits:X}")),
        };
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        self.pad(format!("{sign}{}{digits}", "0".repeat(zeros)), self.has('0') && self.precision.is_none())
    }

    fn real(&self, value: f64, kind: char) -> Vec<u8> {
        let precision = self.precision.unwrap_or(6);
        let magnitude = value.abs();
        let text = match kind.to_ascii_lowercase() {
            'f' => format!("{magnitude:.precision$}"),
            'e' => exponent(magnitude, precision),
            _ => {
                let significant = precision.max(1);
                let power = if magnitude == 0.0 { 0 } else { magnitude.log10().floor() as i64 };
                let trim = |text: String| {
                    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
                };
                if power < -4 || power >= i64::try_from(significant).unwrap_or(i64::MAX) {
                    let text = exponent(magnitude, significant - 1);
                    match text.split_once('e') {
                        Some((mantissa, power)) => format!("{}e{power}", trim(mantissa.to_owned())),
                        None => text,
                    }
                } else {
                    let decimals = i64::try_from(significant).unwrap_or(0) - 1 - power;
                    trim(format!("{magnitude:.*}", usize::try_from(decimals).unwrap_or(0)))
                }
            }
        };
        let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
        self.pad(format!("{}{text}", self.sign(value.is_sign_negative())), self.has('0'))
    }
}

fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// Writes text in which backslashes mean something, as `echo -e` and `%b` have it; true when `\c` ended it.
pub fn escaped(text: &str, out: &mut Vec<u8>) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(c) = chars.get(at).copied() {
        at += 1;
        if c != '\\' {
            out.extend(c.to_string().bytes());
        } else if escape(&chars, &mut at, out, true) {
            return true;
        }
    }
    false
}

/// One escape, behind its backslash; true for `\c`.
fn escape(chars: &[char], at: &mut usize, out: &mut Vec<u8>, zero_first: bool) -> bool {
    let Some(c) = chars.get(*at).copied() else {
        out.push(b'\\');
        return false;
    };
    *at += 1;
    let digits = |at: &mut usize, most: usize, radix: u32| {
        let mut value = 0u32;
        let mut count = 0;
        while let Some(digit) = chars.get(*at).and_then(|c| c.to_digit(radix)).filter(|_| count < most) {
            value = value * radix + digit;
            *at += 1;
            count += 1;
        }
        (value.to_le_bytes()[0], count)
    };
    match c {
        'a' => out.push(7),
        'b' => out.push(8),
        'c' => return true,
        'e' => out.push(27),
        'f' => out.push(12),
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        'v' => out.push(11),
        '\\' => out.push(b'\\'),
        '"' if !zero_first => out.push(b'"'),
        'x' => match digits(at, 2, 16) {
            (_, 0) => out.extend(b"\\x"),
            (byte, _) => out.push(byte),
        },
        '0' => out.push(digits(at, 3, 8).0),
        '1'..='7' => {
            *at -= 1;
            out.push(digits(at, 3, 8).0);
        }
        other => out.extend(format!("\\{other}").bytes()),
    }
    false
}
