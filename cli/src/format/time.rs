//! The points in time of `--since` and `--until`, and durations in Go's notation.

use anyhow::{Context as _, Result, bail};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A point in time as `--since` takes it: a Go duration before `now` (`1h30m`), Unix seconds with or without a
/// fraction, or a date with as much of a time and a zone as the user cares to give (RFC 3339).
///
/// A date without a zone is in the zone of the machine.
pub fn parse_since(value: &str, now: Timestamp) -> Result<Timestamp> {
    if value != "0"
        && let Ok(duration) = parse_go_duration(value)
    {
        return now.checked_sub(duration).with_context(|| format!("{value} ago is too long ago"));
    }
    let parsed = if value.contains(['-', 'T']) { parse_date(value) } else { parse_unix(value) };
    parsed.with_context(|| format!("failed to parse value as time or duration: {value:?}"))
}

fn parse_unix(value: &str) -> Result<Timestamp> {
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!("a fraction has digits only");
    }
    let nanoseconds: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Ok(Timestamp::new(seconds.parse()?, nanoseconds.parse()?)?)
}

fn parse_date(value: &str) -> Result<Timestamp> {
    // The date itself has hyphens; a zone stands behind it.
    let (date, rest) = value.split_at_checked("2006-01-02".len()).context("a date is like 2006-01-02")?;
    let hyphens = date.bytes().enumerate().all(|(place, byte)| (byte == b'-') == matches!(place, 4 | 7));
    // The name of a zone in brackets would be passed over.
    if !hyphens || rest.contains('[') {
        bail!("a date is like 2006-01-02");
    }
    let (time, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len()));
    let local: DateTime = format!("{date}{time}").parse()?;
    if zone.is_empty() {
        return Ok(local.to_zoned(TimeZone::system())?.timestamp());
    }
    Ok(format!("{local}{zone}").parse()?)
}

/// A duration in Go's notation: numbers with units, such as `300ms`, `1.5h` and `1h30m`.
pub fn parse_go_duration(value: &str) -> Result<SignedDuration> {
    let unsigned = value.strip_prefix(['-', '+']).unwrap_or(value);
    let nanoseconds = match unsigned {
        "0" => Some(0),
        "" => None,
        _ => go_nanoseconds(unsigned),
    };
    let nanoseconds = nanoseconds.with_context(|| format!("invalid duration {value:?}: it is written like 1h30m"))?;
    Ok(SignedDuration::from_nanos(if value.starts_with('-') { -nanoseconds } else { nanoseconds }))
}

/// The same for a length of time, which is not negative; an error in words, as a flag's parser gives it.
pub fn parse_length(value: &str) -> Result<Duration, String> {
    let duration = parse_go_duration(value).map_err(|e| e.to_string())?;
    Duration::try_from(duration).map_err(|_| format!("{value:?} is negative"))
}

/// None for what is not in Go's notation, and for more than 292 years, which is Go's limit too.
fn go_nanoseconds(mut rest: &str) -> Option<i64> {
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let (number, unit_on) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, next) =
            unit_on.split_at(unit_on.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit_on.len()));
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = next;
    }
    Some(total)
}

/// A decimal number times `scale`, cut to an integer.
fn scaled(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digit by digit from the last, so that no floating point rounds `0.1h`; more than 18 digits tell nothing.
    let mut part: i128 = 0;
    let mut unit: i128 = 1;
    for digit in fraction.chars().take(18) {
        part = part * 10 + i128::from(digit.to_digit(10)?);
        unit *= 10;
    }
    let part = i64::try_from(part * i128::from(scale) / unit).ok()?;
    whole.checked_mul(scale)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_go_durations() {
        for (text, milliseconds) in [
            ("0", 0),
            ("300ms", 300),
            ("10s", 10_000),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("-1m", -60_000),
            ("+.5s", 500),
            ("1m0.5s", 60_500),
            ("2000us", 2),
            ("2000µs", 2),
            ("0.1h", 360_000),
        ] {
            assert_eq!(parse_go_duration(text).unwrap(), SignedDuration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "-", "10", "1x", "1h30", ".", ".s", "1..2s", "h", "1d", "1 h", "999999999h", "--1s"] {
            assert!(parse_go_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_points_in_time() {
        let now: Timestamp = "2024-05-06T07:08:09Z".parse().unwrap();
        for (text, expected) in [
            ("10m", "2024-05-06T06:58:09Z"),
            ("1h30m", "2024-05-06T05:38:09Z"),
            ("-1h", "2024-05-06T08:08:09Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1136073600", "2006-01-01T00:00:00Z"),
            ("1136073600.000000001", "2006-01-01T00:00:00.000000001Z"),
            ("1136073600.5", "2006-01-01T00:00:00.5Z"),
            ("2024-05-06T01:02:03Z", "2024-05-06T01:02:03Z"),
            ("2024-05-06T01:02:03.25Z", "2024-05-06T01:02:03.25Z"),
            ("2024-05-06T01:02:03.25+02:00", "2024-05-05T23:02:03.25Z"),
            ("2024-05-06T01:02-02:00", "2024-05-06T03:02:00Z"),
            ("2024-05-06T01Z", "2024-05-06T01:00:00Z"),
            ("2024-05-06Z", "2024-05-06T00:00:00Z"),
            ("2024-05-06+01:00", "2024-05-05T23:00:00Z"),
        ] {
            assert_eq!(parse_since(text, now).unwrap(), expected.parse().unwrap(), "{text}");
        }
        for text in ["2024-05-06", "2024-05-06T01", "2024-05-06T01:02", "2024-05-06T01:02:03.5"] {
            assert!(parse_since(text, now).is_ok(), "{text}");
        }
        for text in [
            "",
            "soon",
            "2024-13-01",
            "2024-05-06T",
            "2024-05-06T25:00Z",
            "1.x",
            "1.",
            "T",
            "20240506T01",
            "-1",
            "2024-05-06T01:02[UTC]",
        ] {
            let error = parse_since(text, now).unwrap_err();
            assert!(error.to_string().starts_with("failed to parse value as time or duration"), "{text}");
        }
    }
}
