//! What follows the image of `run` and `create`, and the container of `exec`, is the program's own, whatever it looks
//! like: as with Docker, `sampan run python -c 'print(1)'` is no flag of ours. clap takes flags wherever they stand, so
//! a command line of which it took any behind the image is read once more, with `--` behind the image.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error};
use std::ffi::OsString;

/// Reads a command line that begins with the program's own name.
///
/// # Errors
/// What clap has to say of it.
pub fn read(command: impl Fn() -> Command, words: Vec<OsString>) -> Result<ArgMatches, Error> {
    match command().try_get_matches_from(&words) {
        Ok(matches) if !is_mixed(&matches) => Ok(matches),
        first => match set_apart(command(), &words) {
            Some(apart) => command().try_get_matches_from(apart),
            None => first,
        },
    }
}

/// Whether a flag was found behind the image or the container.
fn is_mixed(mut matches: &ArgMatches) -> bool {
    while let Some((_, sub)) = matches.subcommand() {
        matches = sub;
    }
    let place = |id: &str| matches.try_contains_id(id).is_ok().then(|| matches.index_of(id)).flatten();
    let Some(place) = place("image").or_else(|| place("container")) else { return false };
    let own = matches.try_contains_id(OWN).is_ok();
    own && matches.ids().map(|id| id.as_str()).filter(|id| *id != OWN).any(|id| {
        // Groups have no place of their own.
        matches.try_get_raw(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches.indices_of(id).is_some_and(|mut all| all.any(|index| index > place))
    })
}

/// The positional argument that takes what is the program's own.
const OWN: &str = "command";

/// The words with `--` behind the first that is neither a flag nor a flag's value, for a command whose further words are
/// a program's own. None for any other, or where there is nothing to set apart.
fn set_apart(mut command: Command, words: &[OsString]) -> Option<Vec<OsString>> {
    // What is described of a command is what was built of it.
    command.build();
    let mut at = &command;
    let mut rest = (1..).zip(words.get(1..)?);
    while let Some((place, word)) = rest.next() {
        let word = word.to_str().unwrap_or_default();
        if word == "--" {
            return None;
        }
        if word.len() > 1 && word.starts_with('-') {
            if wants_next(at, word) {
                rest.next();
            }
            continue;
        }
        if let Some(sub) = at.find_subcommand(word) {
            at = sub;
            continue;
        }
        at.get_positionals().find(|own| own.get_id() == OWN)?;
        let mut apart = words.to_vec();
        apart.insert(place + 1, "--".into());
        return Some(apart);
    }
    None
}

/// Whether the value of a flag is the next word.
fn wants_next(command: &Command, word: &str) -> bool {
    let takes = |arg: &Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    let mut all = command.get_arguments();
    if let Some(long) = word.strip_prefix("--") {
        let is_it = |arg: &&Arg| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long));
        return all.find(is_it).is_some_and(takes);
    }
    // Flags may be joined, and the first that takes a value takes what is joined to it.
    for (place, short) in word.char_indices().skip(1) {
        let is_it = |arg: &&Arg| arg.get_short_and_visible_aliases().is_some_and(|names| names.contains(&short));
        if command.get_arguments().find(is_it).is_some_and(takes) {
            return place + short.len_utf8() == word.len();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(line: &str) -> Option<(String, Vec<String>)> {
        let words = line.split(' ').map(OsString::from).collect();
        let matches = read(crate::command_line, words).ok()?;
        let mut matches = &matches;
        while let Some((_, sub)) = matches.subcommand() {
            matches = sub;
        }
        let named = |id| matches.try_get_one::<String>(id).ok().flatten().cloned();
        let command = matches.get_many::<String>(OWN).into_iter().flatten().cloned().collect();
        Some((named("image").or_else(|| named("container"))?, command))
    }

    #[test]
    fn what_follows_the_image_is_the_programs_own() {
        for (line, image, rest) in [
            ("sampan run i", "i", &[][..]),
            ("sampan run --rm i -c x", "i", &["-c", "x"]),
            ("sampan run -it --name n i --rm --name", "i", &["--rm", "--name"]),
            ("sampan --root /r run --name=n -ec=d i -d", "i", &["-d"]),
            ("sampan container run -dp 80:80 i sh -d", "i", &["sh", "-d"]),
            ("sampan create i -- -d", "i", &["-d"]),
            ("sampan run i sh -- -d", "i", &["sh", "--", "-d"]),
            ("sampan exec -u 0 c -u", "c", &["-u"]),
            ("sampan run --pull never i --pull never", "i", &["--pull", "never"]),
        ] {
            let rest = rest.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(own(line), Some((image.to_owned(), rest)), "{line}");
        }
        // A flag before the image is ours, known or not.
        assert_eq!(own("sampan run --no-such-flag i"), None);
        assert_eq!(own("sampan run --name i"), None);
        assert_eq!(own("sampan run"), None);
    }
}
