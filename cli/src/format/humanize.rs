//! Durations, ages, sizes, ids, commands and statuses, worded as Docker words them.

use jiff::{SignedDuration, Timestamp};

use super::float;
use super::text::{ellipsis, quote};

/// How many significant digits Docker shows of an image's or a container's size.
pub const SIZE_DIGITS: usize = 3;

/// A duration in one rounded unit: `12 seconds`, `About a minute`, `3 days`.
pub fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded to the nearest, all else is cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago something was: `12 minutes ago`.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human_duration(now.duration_since(then)))
}

/// A point in time as the listings' `CreatedAt` writes it: `2026-03-01 12:30:00 +0000 UTC`.
pub fn created_at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// A size in powers of 1000: `1.23kB`, `18.6MB`. Docker shows [`SIZE_DIGITS`] in listings and 4 elsewhere.
pub fn human_size(bytes: u64, digits: usize) -> String {
    scaled(bytes, 1000.0, digits, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A size in powers of 1024, with 4 significant digits: `1.5MiB`.
pub fn bytes_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, 4, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(bytes: u64, base: f64, digits: usize, units: &[&str]) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a few digits of it are shown")]
    let mut size = bytes as f64;
    let mut shown = String::new();
    for unit in units {
        let number = float::general(size, Some(digits));
        shown = format!("{number}{unit}");
        // Docker writes 999999 bytes with three digits as `1e+03kB`; here it goes on to `1MB`.
        if size < base && !number.contains('e') {
            break;
        }
        size /= base;
    }
    shown
}

/// The first 12 digits of an id, without the name of its algorithm (`sha256:`).
pub fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

/// A container's command as the listing shows it: in quotes, and cut to 20 characters unless it is wanted `whole`.
pub fn command<S: AsRef<str>>(argv: &[S], whole: bool) -> String {
    let words: Vec<_> = argv
        .iter()
        .map(AsRef::as_ref)
        .enumerate()
        // Docker quotes the arguments with spaces, though not the program.
        .map(|(place, word)| if place > 0 && word.contains(' ') { format!("'{word}'") } else { word.to_owned() })
        .collect();
    let line = words.join(" ");
    quote(&if whole { line } else { ellipsis(&line, 20) })
}

/// What the status column tells of a container.
#[allow(dead_code, reason = "Docker's whole list")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// It has never run.
    Created,
    /// It runs.
    Up {
        /// When it was started.
        since: Timestamp,
        /// What stands in brackets: `Paused`, or the state of health.
        note: Option<&'a str>,
    },
    /// It has ended and is about to be started again.
    Restarting {
        /// How it ended.
        code: i64,
        /// When it ended.
        at: Timestamp,
    },
    /// It has ended.
    Exited {
        /// How it ended.
        code: i64,
        /// When it ended.
        at: Timestamp,
    },
    /// It is being removed.
    Removing,
    /// It could not be removed.
    Dead,
}

impl Status<'_> {
    /// The text of the status column at the time `now`: `Up 3 minutes`, `Exited (137) 2 seconds ago`.
    pub fn text(&self, now: Timestamp) -> String {
        match *self {
            Self::Created => "Created".to_owned(),
            Self::Up { since, note } => {
                let up = human_duration(now.duration_since(since));
                note.map_or_else(|| format!("Up {up}"), |note| format!("Up {up} ({note})"))
            }
            Self::Restarting { code, at } => format!("Restarting ({code}) {}", age(at, now)),
            Self::Exited { code, at } => format!("Exited ({code}) {}", age(at, now)),
            Self::Removing => "Removal In Progress".to_owned(),
            Self::Dead => "Dead".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_durations() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (12, "12 seconds"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (3 * MINUTE + 59, "3 minutes"),
            (59 * MINUTE + 59, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 29 * MINUTE, "About an hour"),
            (HOUR + 30 * MINUTE, "2 hours"),
            (5 * HOUR, "5 hours"),
            (47 * HOUR + 29 * MINUTE, "47 hours"),
            (47 * HOUR + 30 * MINUTE, "2 days"),
            (3 * DAY, "3 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn words_sizes() {
        for (bytes, digits, expected) in [
            (0, 3, "0B"),
            (999, 3, "999B"),
            (1000, 3, "1kB"),
            (1230, 3, "1.23kB"),
            (85_249, 3, "85.2kB"),
            (18_640_000, 3, "18.6MB"),
            (18_640_000, 4, "18.64MB"),
            (999_999, 3, "1MB"),
            (999_999, 4, "1000kB"),
            (u64::MAX, 3, "18.4EB"),
        ] {
            assert_eq!(human_size(bytes, digits), expected);
        }
        for (bytes, expected) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (1_572_864, "1.5MiB"), (u64::MAX, "16EiB")]
        {
            assert_eq!(bytes_size(bytes), expected);
        }
    }

    #[test]
    fn shortens_ids_and_commands() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("012"), "012");
        assert_eq!(command(&["/hello.wasm", "one", "two", "three"], false), "\"/hello.wasm one two…\"");
        assert_eq!(command(&["/hello.wasm", "one two"], true), "\"/hello.wasm 'one two'\"");
        assert_eq!(command::<&str>(&[], false), "\"\"");
    }

    #[test]
    fn words_statuses() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        for (status, expected) in [
            (Status::Created, "Created"),
            (Status::Up { since: ago(180), note: None }, "Up 3 minutes"),
            (Status::Up { since: ago(180), note: Some("Paused") }, "Up 3 minutes (Paused)"),
            (Status::Exited { code: 137, at: ago(2) }, "Exited (137) 2 seconds ago"),
            (Status::Restarting { code: 1, at: ago(0) }, "Restarting (1) Less than a second ago"),
        ] {
            assert_eq!(status.text(now), expected);
        }
        assert_eq!(age(ago(720), now), "12 minutes ago");
        assert_eq!(created_at(now), "1970-01-12 13:46:40 +0000 UTC");
    }
}
