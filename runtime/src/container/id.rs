//! Ids and names.

use rustix::rand::{GetRandomFlags, getrandom};

/// A new container id: 64 hex digits, as Docker has them.
///
/// # Errors
/// When the kernel has no randomness to give.
pub fn new_id() -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(hex(&bytes))
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first twelve digits, which people use.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether a container or volume may have this name: Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() > 1
        && name.len() <= 200
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A name for a container that was given none, drawn from its id so that the same id draws the same name.
/// `attempt` counts the tries after a name was taken.
#[must_use]
pub fn draw_name(id: &str, attempt: u32) -> String {
    let number = |from: usize| id.get(from..from + 4).and_then(|d| usize::from_str_radix(d, 16).ok()).unwrap_or(0);
    let pick = |list: &[&'static str], n: usize| list.get(n % list.len()).copied().unwrap_or_default();
    let name = format!("{}_{}", pick(&MOODS, number(0)), pick(&BOATS, number(4)));
    if attempt == 0 { name } else { format!("{name}{}", number(8 + (attempt as usize % 12) * 4)) }
}

const MOODS: [&str; 48] = [
    "able", "agile", "airy", "amber", "bold", "brave", "breezy", "bright", "brisk", "calm", "clear", "clever", "cosy",
    "daring", "deft", "eager", "early", "easy", "fair", "fleet", "fresh", "gentle", "glad", "golden", "handy", "hardy",
    "keen", "kind", "light", "lively", "lucky", "merry", "neat", "nimble", "placid", "proud", "quick", "quiet",
    "ready", "serene", "sharp", "steady", "sunny", "swift", "tidy", "trusty", "vivid", "warm",
];

const BOATS: [&str; 48] = [
    "barge", "bark", "brig", "canoe", "caravel", "catboat", "clipper", "cog", "coracle", "corvette", "cutter", "dhow",
    "dinghy", "dory", "ferry", "felucca", "frigate", "galleon", "galley", "gig", "gondola", "hooker", "hoy", "jolly",
    "junk", "kayak", "ketch", "knarr", "launch", "lugger", "packet", "pinnace", "pirogue", "pram", "proa", "punt",
    "raft", "sampan", "schooner", "scow", "shallop", "skiff", "sloop", "tartane", "tender", "trawler", "wherry",
    "yawl",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_names_are_names() {
        let id = new_id().unwrap();
        assert_eq!((id.len(), short(&id).len()), (64, 12));
        assert!(is_name(&draw_name(&id, 0)) && is_name(&draw_name(&id, 3)));
        assert_ne!(draw_name(&id, 0), draw_name(&id, 1));
    }

    #[test]
    fn the_rule_of_names() {
        for good in ["web", "a1", "my_app.v2-x"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a", "-web", "we b", "we/b", "../x", "ä1"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
