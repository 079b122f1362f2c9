//! The conditions and the range of a request (RFC 9110, 13 and 14).

use http::{HeaderMap, HeaderName, header};
use std::time::{Duration, SystemTime};

/// A version of a file: what tells it from an earlier or a later one.
pub struct Version {
    /// Its entity tag, with its quotation marks.
    pub tag: String,
    /// When it was written, in whole seconds.
    pub modified: SystemTime,
}

impl Version {
    /// As nginx makes the tag: the time and the length, in hexadecimal digits.
    pub fn new(modified: SystemTime, length: u64) -> Self {
        let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Self { tag: format!("\"{seconds:x}-{length:x}\""), modified }
    }
}

/// How the conditions came out.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file is wanted.
    Send,
    /// 304: it is known.
    NotModified,
    /// 412: another was wanted.
    Failed,
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

fn lists(value: &str, tag: &str, weak: bool) -> bool {
    let same = |given: &str| given == tag || weak && given.strip_prefix("W/") == Some(tag);
    value.trim() == "*" || value.split(',').any(|given| same(given.trim()))
}

/// Looks at the conditions in the order that is asked for.
pub fn verdict(headers: &HeaderMap, version: &Version) -> Verdict {
    match text(headers, &header::IF_MATCH) {
        Some(tags) if !lists(tags, &version.tag, false) => return Verdict::Failed,
        Some(_) => {}
        None => {
            if date(headers, &header::IF_UNMODIFIED_SINCE).is_some_and(|since| version.modified > since) {
                return Verdict::Failed;
            }
        }
    }
    let known = match text(headers, &header::IF_NONE_MATCH) {
        Some(tags) => lists(tags, &version.tag, true),
        None => date(headers, &header::IF_MODIFIED_SINCE).is_some_and(|since| version.modified <= since),
    };
    if known { Verdict::NotModified } else { Verdict::Send }
}

/// Which bytes are wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// From the first to the last, which are there.
    Bytes(u64, u64),
    /// Some that are not there.
    Nowhere,
}

/// The range of a request. Several at once, or what is no range of bytes, is answered with all of them.
pub fn part(headers: &HeaderMap, version: &Version, length: u64) -> Part {
    let Some(range) = text(headers, &header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    if let Some(same) = text(headers, &header::IF_RANGE) {
        let date = httpdate::parse_http_date(same).ok();
        if same != version.tag && date != Some(version.modified) {
            return Part::Whole;
        }
    }
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else { return Part::Whole };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last),
        (Some(first), None) if last.trim().is_empty() => (first, u64::MAX),
        (None, Some(count)) if first.trim().is_empty() && count > 0 => (length.saturating_sub(count), u64::MAX),
        (None, Some(0)) => return Part::Nowhere,
        _ => return Part::Whole,
    };
    if first < length { Part::Bytes(first, last.min(length - 1)) } else { Part::Nowhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version::new(SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_900), 10)
    }

    fn with(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_file_that_is_known_is_not_sent() {
        use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
        let (then, before) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT");
        let ask = |pairs: &[(HeaderName, &str)]| verdict(&with(pairs), &version());
        assert_eq!(ask(&[]), Verdict::Send);
        assert_eq!(ask(&[(IF_NONE_MATCH, "\"a\", W/\"2ebc98a1-a\"")]), Verdict::NotModified);
        assert_eq!(ask(&[(IF_NONE_MATCH, "\"a\""), (IF_MODIFIED_SINCE, then)]), Verdict::Send);
        assert_eq!(ask(&[(IF_MODIFIED_SINCE, then)]), Verdict::NotModified);
        assert_eq!(ask(&[(IF_MODIFIED_SINCE, before)]), Verdict::Send);
        assert_eq!(ask(&[(IF_MODIFIED_SINCE, "yesterday")]), Verdict::Send);
        assert_eq!(ask(&[(IF_MATCH, "\"2ebc98a1-a\"")]), Verdict::Send);
        assert_eq!(ask(&[(IF_MATCH, "W/\"2ebc98a1-a\"")]), Verdict::Failed);
        assert_eq!(ask(&[(IF_UNMODIFIED_SINCE, before)]), Verdict::Failed);
    }

    #[test]
    fn a_range_is_what_is_there_of_it() {
        let ask = |range: &str| part(&with(&[(header::RANGE, range)]), &version(), 10);
        assert_eq!(ask("bytes=0-3"), Part::Bytes(0, 3));
        assert_eq!(ask("bytes=7-"), Part::Bytes(7, 9));
        assert_eq!(ask("bytes=7-70"), Part::Bytes(7, 9));
        assert_eq!(ask("bytes=-3"), Part::Bytes(7, 9));
        assert_eq!(ask("bytes=-30"), Part::Bytes(0, 9));
        assert_eq!(ask("bytes=10-"), Part::Nowhere);
        assert_eq!(ask("bytes=-0"), Part::Nowhere);
        for odd in ["bytes=3-1", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=--1", "bytes=-"] {
            assert_eq!(ask(odd), Part::Whole, "{odd}");
        }
        let pairs = |same| with(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, same)]);
        assert_eq!(part(&pairs("\"2ebc98a1-a\""), &version(), 10), Part::Bytes(0, 0));
        assert_eq!(part(&pairs("\"2ebc98a1-b\""), &version(), 10), Part::Whole);
    }
}
