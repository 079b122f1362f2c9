//! What holds for every name and every Dockerfile, and not only for those that somebody has thought of.

use super::Reference;
use super::build::build;
use super::tests::Fixture;
use proptest::collection::vec;
use proptest::prelude::*;

/// Names as people write them, and names that are almost right.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{1,8}([._-]{1,2}[a-z0-9]{1,4}){0,2}(:[A-Za-z0-9_.-]{1,10})?",
        "[a-zA-Z0-9.-]{1,12}(:[0-9]{1,5})?(/[a-z0-9._-]{1,8}){1,3}(:[A-Za-z0-9_.-]{1,10})?(@sha256:[a-f0-9]{60,65})?",
        "[\\[\\]a-f0-9:./@-]{0,40}",
        any::<String>(),
    ]
}

/// Lines of a Dockerfile: words that mean something, put together by somebody who does not know what.
fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("FROM scratch".to_owned()),
        prop::sample::select(
            [
                "FROM",
                "COPY",
                "ADD",
                "RUN",
                "ENV",
                "ARG",
                "LABEL",
                "WORKDIR",
                "EXPOSE",
                "VOLUME",
                "ENTRYPOINT",
                "CMD",
                "USER",
                "SHELL",
                "ONBUILD",
                "HEALTHCHECK",
                "STOPSIGNAL",
                "MAINTAINER",
                "AS",
                "f",
                "/",
                "--from=x",
                "--chown=1",
                "<<EOF",
                "EOF",
                "$A",
                "${A:-",
                "${A}",
                "\"",
                "'",
                "\\",
                "`",
                "[",
                "]",
                "[\"f\"]",
                "A=1",
                "80/tcp",
                "..",
                "#",
                "# syntax=x",
                "# escape=`",
                "\t",
                "é",
                "\u{0}",
            ]
            .map(str::to_owned)
            .to_vec()
        ),
        "[ -~]{0,6}",
    ];
    vec(word, 0..6).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is a name stays the same name, however it is written.
    #[test]
    fn a_name_means_itself(text in name()) {
        let Ok(name) = text.parse::<Reference>() else { return Ok(()) };
        for written in [name.to_string(), name.familiar()] {
            let again = written.parse::<Reference>();
            prop_assert_eq!(again.as_ref(), Ok(&name), "{}", written);
        }
        prop_assert!(name.tag().is_some() || name.digest().is_some());
        prop_assert!(name.domain().len() + name.path().len() < 256);
        prop_assert!(!name.to_string().contains(|c: char| c.is_whitespace() || c.is_control()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A Dockerfile is built or refused, and what is refused leaves nothing.
    #[test]
    fn a_dockerfile_is_built_or_refused(lines in vec(line(), 0..6), scratch in any::<bool>()) {
        let fixture = Fixture::new();
        fixture.file("f", "x");
        let first = if scratch { "FROM scratch\n" } else { "" };
        fixture.file("Dockerfile", &format!("{first}{}", lines.join("\n")));
        let options = fixture.options(&["x"]);
        let made = build(&fixture.store, &options, &mut ());
        let [blobs, layers, scratch] = fixture.contents();
        prop_assert_eq!(scratch, 0);
        match made {
            Ok(image) => prop_assert_eq!(image.layers.len(), layers),
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!((blobs, layers), (0, 0));
            }
        }
    }
}
