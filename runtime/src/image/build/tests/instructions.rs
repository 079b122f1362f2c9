//! Each instruction, and what it refuses.

use super::*;
use crate::digest;
use serde_json::{Value, json};

/// An image's config as it stands in the store.
fn config(fixture: &Fixture, image: &Image) -> Value {
    let path = crate::image::blobs::path(&fixture.store, &image.id).unwrap();
    crate::store::files::read_json(&path).unwrap()
}

fn history(image: &Image) -> Vec<String> {
    image.config.history().iter().flatten().map(|line| line.created_by().clone().unwrap_or_default()).collect()
}

#[test]
fn what_docker_knows_and_the_specification_does_not_goes_through_from() {
    let fixture = Fixture::new();
    let base = "FROM scratch\nMAINTAINER me <me@example.org>\nUSER 7:8\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/x\", \"-e\"]\n\
                HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2s --start-interval=1s --retries=3 CMD curl -f\n\
                ONBUILD ENV A=1\nONBUILD COPY f /f\nCMD a b\n";
    let base = fixture.try_build(base, &["base"]).unwrap();
    let whole = config(&fixture, &base);
    assert_eq!(whole["author"], "me <me@example.org>");
    assert_eq!(whole["config"]["OnBuild"], json!(["ENV A=1", "COPY f /f"]));
    assert_eq!(
        whole["config"]["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "curl -f"], "Interval": 90_000_000_000_u64, "Timeout": 500_000_000,
               "StartPeriod": 2_000_000_000, "StartInterval": 1_000_000_000, "Retries": 3})
    );
    assert_eq!(whole["config"]["Cmd"], json!(["/bin/x", "-e", "a b"]));
    assert_eq!((&whole["config"]["User"], &whole["config"]["StopSignal"]), (&json!("7:8"), &json!("SIGINT")));

    fixture.file("f", "f");
    let top = fixture.try_build("FROM base\nENTRYPOINT run\nHEALTHCHECK NONE\n", &["top"]).unwrap();
    let whole = config(&fixture, &top);
    assert_eq!(whole["author"], "me <me@example.org>");
    assert_eq!(whole["config"]["Entrypoint"], json!(["/bin/x", "-e", "run"]), "the shell of the image below");
    assert_eq!(whole["config"]["Healthcheck"], json!({"Test": ["NONE"]}));
    assert_eq!(whole["config"]["Shell"], json!(["/bin/x", "-e"]));
    assert_eq!(whole["config"]["OnBuild"], Value::Null, "triggers work once");
    assert_eq!(whole["config"]["Env"], json!(["A=1"]));
    assert_eq!(fixture.read(&top, "/f").as_deref(), Some("f"));
    assert_eq!(history(&top)[8..], ["ENV A=1", "COPY f /f", "ENTRYPOINT run", "HEALTHCHECK NONE"]);
    let third = fixture.build("FROM top\nHEALTHCHECK CMD [\"/check\", \"it\"]\n");
    assert_eq!(config(&fixture, &third)["config"]["Healthcheck"]["Test"], json!(["CMD", "/check", "it"]));
    // What is wrong with a trigger is told where it works.
    fixture.try_build("FROM scratch\nONBUILD COPY none /\n", &["bad"]).unwrap();
    assert!(fixture.failure("\nFROM bad\n").starts_with("Dockerfile:2:1: COPY failed: \"none\""));
}

#[test]
fn args_are_there_while_building() {
    let fixture = Fixture::new();
    fixture.image("one", &["base-1"]);
    fixture.file(
        "Dockerfile",
        "ARG VERSION=0\nARG BASE=base-$VERSION\nFROM $BASE\nARG VERSION\nARG OWN=x$VERSION OTHER\nENV FROM_ENV=e\nARG FROM_ENV=a\n\
         LABEL v=$VERSION o=$OWN n=${OTHER:-none} e=$FROM_ENV b=${BASE:-no} p=${TARGETOS:-no}\nARG TARGETOS TARGETPLATFORM\n\
         LABEL t=$TARGETOS/$TARGETPLATFORM\nFROM scratch\n",
    );
    struct Warned(Vec<String>);
    impl Progress for Warned {
        fn step(&mut self, _step: &StepInfo<'_>) {}
        fn warn(&mut self, warning: &str) {
            self.0.push(warning.to_owned());
        }
    }
    let mut options = fixture.options(&[]);
    options.target = Some("0".to_owned());
    options.args = [("VERSION", "1"), ("NOBODY", "x")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    let mut warned = Warned(vec![]);
    let image = build(&fixture.store, &options, &mut warned).unwrap();
    let labels = settings_of(&image).labels;
    let expected =
        [("b", "no"), ("e", "e"), ("n", "none"), ("o", "x1"), ("p", "no"), ("t", "wasip1/wasip1/wasm"), ("v", "1")];
    assert_eq!(labels, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(settings_of(&image).env, [("FROM_ENV".to_owned(), "e".to_owned())], "no ARG is in the image");
    assert_eq!(warned.0, ["the build argument NOBODY is used by no ARG of the stages that were built"]);
}

#[test]
fn here_documents_become_files() {
    let fixture = Fixture::new();
    let image = fixture.build(
        "FROM scratch\nENV A=a\nCOPY <<EOF /one\n$A \"q\" \\$A\nEOF\nCOPY <<'EOF' /two\n$A\nEOF\n\
         ADD <<-x <<y /dir/\n\ttab\n\tx\ny y\ny\nCOPY --chmod=640 <<EOF /mode\nEOF\n",
    );
    for (path, content) in
        [("/one", "a \"q\" $A\n"), ("/two", "$A\n"), ("/dir/x", "tab\n"), ("/dir/y", "y y\n"), ("/mode", "")]
    {
        assert_eq!(fixture.read(&image, path).as_deref(), Some(content), "{path}");
    }
    let dirs = fixture.images().layer_dirs(&image).unwrap();
    assert_eq!(dirs[0].join("mode").metadata().unwrap().mode() & 0o777, 0o640);
    assert!(fixture.failure("FROM scratch\nCOPY <<EOF /x\n").starts_with("Dockerfile:2:1: the here-document <<EOF"));
}

#[test]
fn copy_has_flags() {
    let fixture = Fixture::new();
    for path in ["d/a.txt", "d/b.md", "d/sub/c.md", "d/sub/d.txt"] {
        fixture.file(path, path);
    }
    let all = ["/x/a.txt", "/x/b.md", "/x/sub/c.md", "/x/sub/d.txt"];
    let there = |line: &str| fixture.there(&fixture.build(&format!("FROM scratch\n{line}\n")), &all);
    assert_eq!(there("COPY --exclude=*.md d /x"), ["/x/a.txt", "/x/sub/c.md", "/x/sub/d.txt"]);
    assert_eq!(there("COPY --exclude=**/*.md --exclude=a* d /x"), ["/x/sub/d.txt"]);
    assert_eq!(there("COPY --exclude=*.md d/a.txt d/b.md /x/"), ["/x/a.txt"]);
    assert_eq!(there("COPY --link d /x"), all);
    assert_eq!(there("COPY --parents d/./sub/c.md d/./a.txt /x"), ["/x/a.txt", "/x/sub/c.md"]);
    let parents = fixture.build("FROM scratch\nCOPY --parents ./d/**/*.txt /y\n");
    assert_eq!(
        fixture.there(&parents, &["/y/d/a.txt", "/y/d/sub/d.txt", "/y/d/b.md"]),
        ["/y/d/a.txt", "/y/d/sub/d.txt"]
    );

    fixture.file("etc/passwd", "root:x:0:0::/:\napp:x:1000:50::/:\n");
    fixture.file("etc/group", "staff:x:60:\n");
    let owners = |flag: &str| {
        let image = fixture.build(&format!("FROM scratch\nCOPY etc /etc\nCOPY --chown={flag} d/a.txt /o\n"));
        let blob = crate::image::blobs::path(&fixture.store, &image.layers[1].digest).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(blob).unwrap()));
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.header().uid().unwrap(), entry.header().gid().unwrap())
    };
    assert_eq!(owners("12:34"), (12, 34));
    assert_eq!(owners("12"), (12, 12));
    assert_eq!(owners("app"), (1000, 50));
    assert_eq!(owners("app:staff"), (1000, 60));
    for (line, words) in [
        ("COPY --chown=nobody d /x", "there is no /etc/passwd in this stage that names \"nobody\""),
        ("COPY --chmod=u+x d /x", "octal digits"),
        ("COPY --chmod=99999 d /x", "octal digits"),
        ("COPY --link=maybe d /x", "true or false"),
        ("ADD --checksum=sha256:00 d /x", "for remote files alone"),
        ("ADD https://example.org/f /x", "cannot fetch files"),
        ("ADD https://example.org/r.git /x", "cannot fetch"),
    ] {
        let error = fixture.failure(&format!("FROM scratch\n{line}\n"));
        assert!(error.starts_with("Dockerfile:2:1: ") && error.contains(words), "{line}: {error}");
    }
}

#[test]
fn add_unpacks_archives_and_fetches_files() {
    let fixture = Fixture::new();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o640);
    header.set_mtime(7);
    archive.append_data(&mut header.clone(), "a/b", b"hi".as_slice()).unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut header.clone(), "link", "/abs").unwrap();
    header.set_entry_type(tar::EntryType::Link);
    archive.append_link(&mut header.clone(), "again", "a/b").unwrap();
    let archive = archive.into_inner().unwrap().finish().unwrap();
    std::fs::write(fixture.context().join("x.tgz"), &archive).unwrap();
    fixture.file("plain.tar", "no tar at all");
    let image = fixture.build("FROM scratch\nADD x.tgz plain.tar /d/\n");
    for (path, content) in [("/d/a/b", "hi"), ("/d/again", "hi"), ("/d/plain.tar", "no tar at all")] {
        assert_eq!(fixture.read(&image, path).as_deref(), Some(content), "{path}");
    }
    let dir = &fixture.images().layer_dirs(&image).unwrap()[0];
    assert_eq!(std::fs::read_link(dir.join("d/link")).unwrap(), Path::new("../abs"), "the image's /abs");
    assert_eq!(dir.join("d/a/b").metadata().unwrap().mode() & 0o777, 0o640);
    let kept = fixture.build("FROM scratch\nADD --unpack=false x.tgz /d/\n");
    assert!(fixture.images().layer_dirs(&kept).unwrap()[0].join("d/x.tgz").is_file());
    assert!(
        fixture.images().layer_dirs(&fixture.build("FROM scratch\nCOPY x.tgz /\n")).unwrap()[0].join("x.tgz").is_file()
    );

    fn fetch(url: &str, to: &Path) -> Result<(), Failure> {
        match url.ends_with("/no") {
            true => Err("it answers 404".into()),
            false => Ok(std::fs::write(to, url)?),
        }
    }
    let with = |line: &str| {
        fixture.file("Dockerfile", &format!("FROM scratch\n{line}\n"));
        let options = BuildOptions { fetch: Some(fetch), ..fixture.options(&[]) };
        build(&fixture.store, &options, &mut ()).map_err(|e| e.to_string())
    };
    let sum = digest::of(b"http://h/a/f.txt");
    let image = with(&format!("ADD --checksum={sum} http://h/a/f.txt /d/")).unwrap();
    assert_eq!(fixture.read(&image, "/d/f.txt").as_deref(), Some("http://h/a/f.txt"));
    assert!(with("ADD http://h/no /d/").unwrap_err().ends_with("ADD http://h/no failed: it answers 404"));
    let other = with(&format!("ADD --checksum={sum} http://h/other /d/")).unwrap_err();
    assert!(other.contains("its checksum is sha256:"), "{other}");
    assert!(with("ADD http://h/ /d/").unwrap_err().contains("no file name"));
}

#[test]
fn run_says_what_it_would_need() {
    let fixture = Fixture::new();
    fixture.file("native", "\x7fELF...");
    fixture.file("script", "#!/native -x\n");
    for (line, words) in [
        ("RUN make", "no program \"/bin/sh\" in this stage, and RUN with a line needs a shell"),
        ("RUN [\"make\"]", "no program \"make\" in this stage: COPY it first"),
        ("COPY native /usr/bin/make\nRUN [\"make\"]", "RUN would run make, which is a native program (ELF)"),
        (
            "COPY . /\nRUN [\"/script\"]",
            "RUN would run /native, which is a native program (ELF), and nothing native runs here",
        ),
        ("RUN <<EOF\n#!/bin/env x\nEOF", "no program \"/bin/env\""),
        ("RUN --network=host x", "RUN --network=host: there is default"),
    ] {
        let error = fixture.failure(&format!("FROM scratch AS one\n{line}\n"));
        assert!(error.contains(words), "{line}: {error}");
    }
    let native = fixture.failure("FROM scratch AS one\nCOPY native /n\nRUN [\"/n\"]\n");
    assert!(native.ends_with("--build-context one=DIR"), "{native}");
    let missing = fixture.failure("FROM golang:1 AS build\nRUN go build\n");
    assert!(
        missing.contains("there is no image golang:1 here") && missing.ends_with("--build-context build=DIR"),
        "{missing}"
    );
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let fixture = Fixture::new();
    for (line, words) in [
        ("STOPSIGNAL SIGNOTHING", "no such signal"),
        ("STOPSIGNAL 99", "no such signal"),
        ("USER \"\"", "USER needs a user"),
        ("VOLUME []", "VOLUME needs paths"),
        ("ENV \"\"=x", "ENV needs names"),
        ("COPY Dockerfile $NO", "needs a destination"),
    ] {
        let error = fixture.failure(&format!("FROM scratch\n{line}\n"));
        assert!(error.starts_with("Dockerfile:2:1: ") && error.contains(words), "{line}: {error}");
    }
    for signal in ["9", "SIGTERM", "kill", "SIGRTMIN+3"] {
        fixture.build(&format!("FROM scratch\nSTOPSIGNAL {signal}\n"));
    }
}

#[test]
fn the_platform_is_what_was_asked_for() {
    let fixture = Fixture::new();
    fixture.file("component", COMPONENT);
    fixture.file("Dockerfile", "FROM scratch\nCOPY component /c\nENTRYPOINT [\"/c\"]\n");
    let build_for = |platform: &str| {
        let options = BuildOptions { platform: Platform::parse(platform), ..fixture.options(&[]) };
        build(&fixture.store, &options, &mut ()).map(|image| image.config.os().to_string()).map_err(|e| e.to_string())
    };
    assert_eq!(build_for("wasi/wasm").as_deref(), Ok("wasi"));
    assert_eq!(build_for("wasip2/wasm").as_deref(), Ok("wasip2"));
    assert!(build_for("wasip1/wasm").unwrap_err().contains("for wasip1/wasm, and its program is for wasip2/wasm"));
    let error = fixture.failure("FROM --platform=$BUILDPLATFORM debian AS b\n");
    assert!(error.contains("asks for a native image"), "{error}");
    fixture.build("FROM --platform=$BUILDPLATFORM scratch\n");
}
