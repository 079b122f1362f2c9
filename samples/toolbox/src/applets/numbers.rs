//! Commands on numbers and times.

use super::{Flags, written};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn seq(args: &[String]) -> Result<i32, String> {
    let mut rest = args[1..].to_vec();
    let (mut separator, mut wide) = ("\n".to_owned(), false);
    loop {
        match rest.first().map(String::as_str) {
            Some("-w") => {
                wide = true;
                rest.remove(0);
            }
            Some("-s") if rest.len() > 1 => {
                separator = rest.remove(1);
                rest.remove(0);
            }
            _ => break,
        }
    }
    let decimals = |text: &str| text.split_once('.').map_or(0, |(_, digits)| digits.len());
    let value = |text: &String| text.parse::<f64>().map_err(|_| format!("invalid number '{text}'"));
    let (first, step, last) = match rest.as_slice() {
        [last] => (1.0, 1.0, value(last)?),
        [first, last] => (value(first)?, 1.0, value(last)?),
        [first, step, last] => (value(first)?, value(step)?, value(last)?),
        _ => return Err("missing operand".to_owned()),
    };
    if step == 0.0 {
        return Err("increment is zero".to_owned());
    }
    let places = rest.iter().rev().skip(1).map(|t| decimals(t)).max().unwrap_or(0);
    let width =
        if wide { [first, last].map(|n| format!("{n:.places$}").len()).into_iter().max().unwrap_or(0) } else { 0 };
    let mut out = super::output();
    let mut n = 0u64;
    loop {
        let now = step.mul_add(n as f64, first);
        if step > 0.0 && now > last + step.abs() * 1e-9 || step < 0.0 && now < last - step.abs() * 1e-9 {
            break;
        }
        let before = if n == 0 { "" } else { separator.as_str() };
        written(write!(out, "{before}{now:0width$.places$}"))?;
        n += 1;
    }
    if n > 0 {
        written(writeln!(out))?;
    }
    written(out.flush())?;
    Ok(0)
}

pub fn sleep(args: &[String]) -> Result<i32, String> {
    if args.len() < 2 {
        return Err("missing operand".to_owned());
    }
    let mut total = Duration::ZERO;
    for arg in &args[1..] {
        let (digits, unit) = match arg.char_indices().last() {
            Some((at, 's')) => (&arg[..at], 1.0),
            Some((at, 'm')) => (&arg[..at], 60.0),
            Some((at, 'h')) => (&arg[..at], 3600.0),
            Some((at, 'd')) => (&arg[..at], 86_400.0),
            _ => (arg.as_str(), 1.0),
        };
        let seconds: f64 = if matches!(digits, "inf" | "infinity") {
            1e9
        } else {
            digits.parse().map_err(|_| format!("invalid number '{arg}'"))?
        };
        total += Duration::try_from_secs_f64(seconds * unit).map_err(|_| format!("invalid number '{arg}'"))?;
    }
    std::thread::sleep(total);
    Ok(0)
}

/// A moment in the calendar, in UTC.
pub struct Civil {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
    pub weekday: usize,
    pub day_of_year: i64,
}

/// Days since 1970 of a date (H. Hinnant's algorithm on 400-year eras).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

pub fn civil(seconds: u64) -> Civil {
    let (number, rest) = (i64::try_from(seconds / 86_400).unwrap_or(0), seconds % 86_400);
    let shifted = number + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil {
        year,
        month: u32::try_from(month).unwrap_or(1),
        day: u32::try_from(day).unwrap_or(1),
        hour: rest / 3600,
        minute: rest / 60 % 60,
        second: rest % 60,
        weekday: usize::try_from((number + 4).rem_euclid(7)).unwrap_or(0),
        day_of_year: number - days(year, 1, 1) + 1,
    }
}

pub fn format_date(seconds: u64, format: &str) -> String {
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let c = civil(seconds);
    let (day, month) = (DAYS[c.weekday], MONTHS[c.month as usize - 1]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(letter) = chars.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let part = match chars.next().unwrap_or('%') {
            'Y' => c.year.to_string(),
            'y' => format!("{:02}", c.year % 100),
            'm' => format!("{:02}", c.month),
            'd' => format!("{:02}", c.day),
            'e' => format!("{:2}", c.day),
            'H' => format!("{:02}", c.hour),
            'I' => format!("{:02}", (c.hour + 11) % 12 + 1),
            'M' => format!("{:02}", c.minute),
            'S' => format!("{:02}", c.second),
            'p' => if c.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'j' => format!("{:03}", c.day_of_year),
            'u' => ((c.weekday + 6) % 7 + 1).to_string(),
            'w' => c.weekday.to_string(),
            'a' => day[..3].to_owned(),
            'A' => day.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'B' => month.to_owned(),
            's' => seconds.to_string(),
            'F' => format!("{}-{:02}-{:02}", c.year, c.month, c.day),
            'T' => format!("{:02}:{:02}:{:02}", c.hour, c.minute, c.second),
            'R' => format!("{:02}:{:02}", c.hour, c.minute),
            'D' => format!("{:02}/{:02}/{:02}", c.month, c.day, c.year % 100),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'N' => "000000000".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        };
        out.push_str(&part);
    }
    out
}

/// Seconds since 1970 of `@N`, or of a date with or without a time: `2026-03-01`, `2026-03-01T12:30:00Z`.
pub fn parse_date(text: &str) -> Option<u64> {
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().ok();
    }
    let text = text.trim().trim_end_matches('Z').trim_end_matches(" UTC");
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = date.split('-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut clock = time.split(':').map(|n| n.split('.').next().unwrap_or(n).parse::<i64>().ok());
    let (hour, minute) = (clock.next()??, clock.next().unwrap_or(Some(0))?);
    let second = clock.next().unwrap_or(Some(0))?;
    u64::try_from(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second).ok()
}

pub fn date(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "ud:r:I", &[("date", 'd'), ("utc", 'u'), ("reference", 'r')])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = match (flags.value('d'), flags.value('r')) {
        (Some(text), _) => parse_date(text).ok_or_else(|| format!("invalid date '{text}'"))?,
        (None, Some(path)) => {
            let modified = std::fs::metadata(path).and_then(|m| m.modified()).map_err(super::of(path))?;
            modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
        }
        (None, None) => now,
    };
    let format = match flags.rest.first() {
        Some(text) => text.strip_prefix('+').ok_or_else(|| "can't set date: Operation not permitted".to_owned())?,
        None if flags.has('I') => "%F",
        None => "%a %b %e %H:%M:%S UTC %Y",
    };
    written(writeln!(io::stdout(), "{}", format_date(seconds, format)))?;
    Ok(0)
}

/// `expr`: its words are tokens, the operators as POSIX binds them.
pub fn expr(args: &[String]) -> Result<i32, String> {
    let words: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    let mut parser = Expr { words: &words, at: 0 };
    let value = parser.level(0)?;
    if parser.at < words.len() || words.is_empty() {
        return Err("syntax error".to_owned());
    }
    written(writeln!(io::stdout(), "{value}"))?;
    Ok(i32::from(value.is_empty() || value == "0"))
}

struct Expr<'a> {
    words: &'a [&'a str],
    at: usize,
}

const LEVELS: [&[&str]; 6] =
    [&["|"], &["&"], &["=", "==", "!=", "<", ">", "<=", ">="], &["+", "-"], &["*", "/", "%"], &[":"]];

impl Expr<'_> {
    fn level(&mut self, level: usize) -> Result<String, String> {
        let Some(operators) = LEVELS.get(level) else { return self.primary() };
        let mut left = self.level(level + 1)?;
        while let Some(operator) = self.words.get(self.at).filter(|word| operators.contains(word)).copied() {
            self.at += 1;
            let right = self.level(level + 1)?;
            left = apply(&left, operator, &right)?;
        }
        Ok(left)
    }

    fn primary(&mut self) -> Result<String, String> {
        let mut next = || {
            let word = self.words.get(self.at).copied().ok_or("syntax error");
            self.at += 1;
            word
        };
        match next()? {
            "(" => {
                let value = self.level(0)?;
                if self.words.get(self.at) != Some(&")") {
                    return Err("syntax error".to_owned());
                }
                self.at += 1;
                Ok(value)
            }
            "length" if self.at < self.words.len() => Ok(self.primary()?.chars().count().to_string()),
            "match" if self.at + 1 < self.words.len() => {
                let (text, pattern) = (self.primary()?, self.primary()?);
                apply(&text, ":", &pattern)
            }
            "substr" if self.at + 2 < self.words.len() => {
                let (text, from, count) = (self.primary()?, self.primary()?, self.primary()?);
                let number = |text: &str| text.parse::<usize>().unwrap_or(0);
                let from = number(&from);
                Ok(if from == 0 { String::new() } else { text.chars().skip(from - 1).take(number(&count)).collect() })
            }
            "index" if self.at + 1 < self.words.len() => {
                let (text, set) = (self.primary()?, self.primary()?);
                Ok(text.chars().position(|c| set.contains(c)).map_or(0, |n| n + 1).to_string())
            }
            word => Ok(word.to_owned()),
        }
    }
}

fn apply(left: &str, operator: &str, right: &str) -> Result<String, String> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| "non-numeric argument".to_owned());
    let truth = |value: bool| i64::from(value).to_string();
    let empty = |text: &str| text.is_empty() || text == "0";
    Ok(match operator {
        "|" => if empty(left) { right } else { left }.to_owned(),
        "&" => if empty(left) || empty(right) { "0" } else { left }.to_owned(),
        ":" => {
            let regex = super::grep::compile(&format!("^(?:{})", super::grep::translate(right, false)), false)?;
            match regex.captures(left) {
                Some(found) if found.len() > 1 => found.get(1).map_or("", |m| m.as_str()).to_owned(),
                Some(found) => found.get(0).map_or(0, |m| m.as_str().chars().count()).to_string(),
                None if regex.captures_len() > 1 => String::new(),
                None => "0".to_owned(),
            }
        }
        "+" => number(left)?.wrapping_add(number(right)?).to_string(),
        "-" => number(left)?.wrapping_sub(number(right)?).to_string(),
        "*" => number(left)?.wrapping_mul(number(right)?).to_string(),
        "/" => number(left)?.checked_div(number(right)?).ok_or("division by zero")?.to_string(),
        "%" => number(left)?.checked_rem(number(right)?).ok_or("division by zero")?.to_string(),
        comparison => {
            let order = match (number(left), number(right)) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => left.cmp(right),
            };
            truth(match comparison {
                "=" | "==" => order.is_eq(),
                "!=" => order.is_ne(),
                "<" => order.is_lt(),
                ">" => order.is_gt(),
                "<=" => order.is_le(),
                _ => order.is_ge(),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar() {
        assert_eq!(format_date(0, "%F %T %a %j"), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(format_date(1_772_368_201, "%F %T %a"), "2026-03-01 12:30:01 Sun");
        assert_eq!(parse_date("2026-03-01T12:30:01Z"), Some(1_772_368_201));
        assert_eq!(parse_date("@7"), Some(7));
        assert_eq!(parse_date("tomorrow"), None);
    }
}
