//! Whatever is written in a Dockerfile, the parser says what it makes of it, and ends.

use super::super::{dockerfile, expand, glob, lines, pattern, words};
use proptest::prelude::*;
use std::path::Path;

/// Lines that look like a Dockerfile's, and others.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "from",
        "ARG",
        "ENV",
        "RUN",
        "COPY",
        "ADD",
        "LABEL",
        "CMD",
        "ENTRYPOINT",
        "EXPOSE",
        "VOLUME",
        "USER",
        "WORKDIR",
        "SHELL",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ONBUILD",
        "MAINTAINER",
        "#",
        "# escape=`",
        "FOO",
        "",
    ]);
    let word = prop_oneof![
        Just("<<EOF".to_owned()),
        Just("<<-'E F'".to_owned()),
        Just("EOF".to_owned()),
        Just("--from=a".to_owned()),
        Just("AS".to_owned()),
        Just("[\"a\",".to_owned()),
        Just("\"b\"]".to_owned()),
        Just("\\".to_owned()),
        Just("`".to_owned()),
        Just("\n".to_owned()),
        "[a-z]{1,3}=[\"'$]?[a-z{}:]{0,4}",
        "\\PC{0,6}",
    ];
    let line = (keyword, prop::collection::vec(word, 0..6)).prop_map(|(k, words)| format!("{k} {}", words.join(" ")));
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_text_is_understood_or_refused_with_a_place_in_it(text in dockerfile_like()) {
        let lines = text.lines().count().max(1);
        match dockerfile::parse(&text, Path::new("D")) {
            Ok(parsed) => {
                let steps = parsed.stages.iter().flat_map(|stage| stage.steps.iter().chain([&stage.begin]));
                for step in steps {
                    let line = text.lines().nth(step.at.line - 1).unwrap();
                    let at: String = line.chars().skip(step.at.column - 1).collect();
                    let word = step.text.split(' ').next().unwrap();
                    // A word can be split by an escape at the line's end.
                    prop_assert!(at.get(..1).unwrap().eq_ignore_ascii_case(&word[..1]), "{line:?} {step:?}");
                }
            }
            Err(crate::image::build::BuildError::At { at, .. }) => {
                prop_assert!((1..=lines).contains(&at.line) && at.column >= 1, "{at} of {lines}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn any_text_at_all_ends(text in any::<String>()) {
        let _ = dockerfile::parse(&text, Path::new("D"));
        let _ = lines::one(&text);
        let _ = words::flags(&text);
        let _ = expand::pairs(&text, '\\');
        let _ = expand::text(&text, '`', &|name| Some(name.to_owned()));
    }

    #[test]
    fn words_without_signs_stay_as_they_are(text in "[^$\\\\'\"`]{0,40}") {
        prop_assert_eq!(expand::word(&text, '\\', &|_| None).unwrap(), text);
    }

    #[test]
    fn what_is_quoted_is_not_touched(text in "[^']{0,40}") {
        prop_assert_eq!(expand::word(&format!("'{text}'"), '\\', &|_| None).unwrap(), text);
    }

    #[test]
    fn any_expansion_ends(text in "[$\\{\\}:#%/a-c*?\\\\'\" -]{0,40}") {
        let _ = expand::word(&text, '\\', &|name| (name != "b").then(|| "a/b*c".to_owned()));
    }

    #[test]
    fn a_part_that_is_cut_off_was_at_that_end(text in "[ab*]{0,12}", pattern in "[ab*?]{0,6}", longest: bool) {
        prop_assert!(text.ends_with(&pattern::trim_start(&text, &pattern, longest)));
        prop_assert!(text.starts_with(&pattern::trim_end(&text, &pattern, longest)));
        let shorter = pattern::trim_start(&text, &pattern, true).len() <= pattern::trim_start(&text, &pattern, false).len();
        prop_assert!(shorter);
    }

    #[test]
    fn a_name_fits_itself_when_every_sign_is_escaped(name in "\\PC{0,12}") {
        let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert!(glob::matches(&escaped, &name));
        prop_assert!(glob::matches("*", &name));
    }
}
