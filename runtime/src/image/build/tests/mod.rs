//! Dockerfiles, built.

mod cached;
mod instructions;
mod stages;
mod text;

use super::*;
use crate::image::tests::Fixture;
use crate::image::{ImageError, find_in_layers};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

const CORE: &str = "\0asm\x01\0\0\0";
const COMPONENT: &str = "\0asm\x0d\0\x01\0";

impl Fixture {
    fn try_build(&self, dockerfile: &str, tags: &[&str]) -> Result<Image, BuildError> {
        self.file("Dockerfile", dockerfile);
        build(&self.store, &self.options(tags), &mut ())
    }

    fn build(&self, dockerfile: &str) -> Image {
        self.try_build(dockerfile, &[]).unwrap_or_else(|e| panic!("{e}\n{dockerfile}"))
    }

    /// The error of a build, which must have changed no image and left nothing half made.
    fn failure(&self, dockerfile: &str) -> String {
        let state = || (self.contents()[2], std::fs::read(self.store.content().join("index.json")).ok());
        let before = state();
        let error = self.try_build(dockerfile, &["never"]).expect_err(dockerfile).to_string();
        assert_eq!(state(), before);
        error
    }

    /// The content of a file of an image.
    fn read(&self, image: &Image, path: &str) -> Option<String> {
        let dirs = self.images().layer_dirs(image).unwrap();
        find_in_layers(&dirs, path).unwrap().map(|file| std::fs::read_to_string(file).unwrap())
    }

    /// Of these paths, those that are files of the image.
    fn there<'p>(&self, image: &Image, paths: &[&'p str]) -> Vec<&'p str> {
        paths.iter().copied().filter(|path| self.read(image, path).is_some()).collect()
    }
}

fn settings_of(image: &Image) -> settings::Settings {
    let config = serde_json::to_value(image.config.config()).unwrap();
    settings::Settings::of(config.as_object().unwrap())
}

#[test]
fn a_whole_dockerfile() {
    let fixture = Fixture::new();
    fixture.file("app.wasm", CORE);
    let image = fixture.build(
        "FROM scratch AS only\nENV A=1 B=\"two words\"\nENV OLD form of it\nWORKDIR /srv/$A\nWORKDIR data\n\
         COPY app.wasm .\nEXPOSE 80 53/udp\nLABEL a=$A \"b c\"='$A'\nVOLUME [\"/v1\", \"/$A\"]\nVOLUME /v2 /v3\n\
         ENTRYPOINT [\"app.wasm\", \"$A\"]\nCMD one \\\n  two\n",
    );
    let config = settings_of(&image);
    let env: Vec<String> = config.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=1", "B=two words", "OLD=form of it"]);
    assert_eq!(config.workdir.as_deref(), Some("/srv/1/data"));
    assert_eq!(config.ports.iter().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    assert_eq!(config.volumes.iter().collect::<Vec<_>>(), ["/1", "/v1", "/v2", "/v3"]);
    assert_eq!(format!("{:?}", config.labels), r#"{"a": "1", "b c": "$A"}"#);
    assert_eq!(config.entrypoint.unwrap(), ["app.wasm", "$A"]);
    assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "one   two"]);
    assert_eq!(fixture.read(&image, "/srv/1/data/app.wasm").as_deref(), Some(CORE));
    assert_eq!(
        (image.config.os().to_string(), image.config.architecture().to_string()),
        ("wasip1".into(), "wasm".into())
    );
    assert_eq!(image.created().unwrap().to_string(), "2023-11-14T22:13:20Z");

    let history = image.config.history().as_ref().unwrap();
    let lines: Vec<(&str, bool)> =
        history.iter().map(|line| (line.created_by().as_deref().unwrap(), line.empty_layer() != Some(true))).collect();
    assert_eq!(lines.len(), 11);
    assert_eq!(lines[..5].iter().map(|l| l.1).collect::<Vec<_>>(), [false, false, true, true, true]);
    assert_eq!(lines[4].0, "COPY app.wasm .");
    assert_eq!(lines[9].0, r#"ENTRYPOINT ["app.wasm", "$A"]"#);
    assert_eq!(image.layers.len(), 3);
}

#[test]
fn the_same_sources_give_the_same_image() {
    let build_in = |fixture: &Fixture| {
        for n in 0..20 {
            fixture.file(&format!("d/{n}"), "x");
        }
        let mut options = fixture.options(&[]);
        options.labels = (0..9).map(|n| (format!("k{n}"), "v".to_owned())).collect();
        fixture.file("Dockerfile", "FROM scratch\nCOPY d /d\nEXPOSE 1-9\nVOLUME /a /b /c /d\n");
        build(&fixture.store, &options, &mut ()).unwrap()
    };
    let (one, other) = (Fixture::new(), Fixture::new());
    let first = build_in(&one);
    // Other times on the files, the same umask.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = build_in(&other);
    assert_eq!((&first.id, &first.manifest), (&second.id, &second.manifest));
    assert_eq!(build_in(&one).id, first.id);
    assert_eq!(one.images().list().unwrap().len(), 1);
}

#[test]
fn the_entrypoint_tells_the_platform() {
    let fixture = Fixture::new();
    fixture.file("core", CORE);
    fixture.file("component", COMPONENT);
    let os = |rest: &str| fixture.build(&format!("FROM scratch\nCOPY . /bin/\n{rest}\n")).config.os().to_string();
    assert_eq!(os("ENTRYPOINT [\"/bin/component\"]"), "wasip2");
    assert_eq!(os("WORKDIR /bin\nENTRYPOINT [\"component\"]\nCMD [\"/bin/core\"]"), "wasip2");
    assert_eq!(os("CMD [\"/bin/component\"]"), "wasip2");
    assert_eq!(os("ENTRYPOINT [\"/bin/core\"]\nCMD [\"/bin/component\"]"), "wasip1");
    assert_eq!(os("ENTRYPOINT component"), "wasip1");
    assert_eq!(os(""), "wasip1");
}

#[test]
fn an_image_goes_on_from_another() {
    let fixture = Fixture::new();
    fixture.file("f", "one");
    let base =
        "FROM scratch\nENV A=1\nWORKDIR /w\nCOPY f .\nENTRYPOINT [\"/w/f\"]\nCMD [\"x\"]\nLABEL l=base\nEXPOSE 1\n";
    let base = fixture.try_build(base, &["base"]).unwrap();
    fixture.file("f", "two");
    let top = fixture.build("FROM base\nENV A=$A$A B=2\nCOPY f g\nCMD [\"y\"]\nENTRYPOINT [\"/w/g\"]\nEXPOSE 2\n");
    let config = settings_of(&top);
    assert_eq!(top.layers[..2], base.layers[..]);
    assert_eq!(
        (fixture.read(&top, "/w/f").as_deref(), fixture.read(&top, "/w/g").as_deref()),
        (Some("one"), Some("two"))
    );
    assert_eq!(config.env, [("A".into(), "11".into()), ("B".into(), "2".into())]);
    assert_eq!(config.cmd.unwrap(), ["y"], "given before ENTRYPOINT, but here");
    assert_eq!(config.ports.len(), 2);
    assert_eq!(top.config.history().as_ref().unwrap().len(), 7 + 5);
    let reset = fixture.build("FROM base\nENTRYPOINT [\"/w/f\"]\n");
    assert_eq!(settings_of(&reset).cmd, None, "an inherited CMD was meant for another entrypoint");
    assert!(fixture.failure("FROM nowhere\n").contains("Dockerfile:1:1: there is no image nowhere here"));
    assert!(fixture.failure("FROM $BASE\n").contains("names no image"));
}

#[test]
fn copy_puts_things_where_docker_does() {
    let fixture = Fixture::new();
    for path in ["a.txt", "b.txt", "c.dat", "d/e/f", "d/g", ".hidden"] {
        fixture.file(path, path);
    }
    let there = |lines: &str, paths: &[&str]| {
        let image = fixture.build(&format!("FROM scratch\n{lines}\n"));
        assert_eq!(fixture.there(&image, paths), paths, "{lines}");
    };
    there("COPY a.txt /x", &["/x"]);
    there("COPY a.txt /x/", &["/x/a.txt"]);
    there("COPY a.txt x/y", &["/x/y"]);
    there("COPY /a.txt ./d/../b.txt /x/", &["/x/a.txt", "/x/b.txt"]);
    there("COPY *.txt /x/", &["/x/a.txt", "/x/b.txt"]);
    there("COPY ?.dat /", &["/c.dat"]);
    there("COPY d/*/f /", &["/f"]);
    there("COPY d /x", &["/x/e/f", "/x/g"]);
    there("COPY d/ .", &["/e/f", "/g"]);
    there("COPY . /x", &["/x/a.txt", "/x/d/e/f", "/x/.hidden", "/x/Dockerfile"]);
    there("COPY d* /x/", &["/x/e/f", "/x/g"]);
    there("COPY [\"a.txt\", \"/with space\"]", &["/with space"]);
    there("COPY \"a.txt\" /x", &["/x"]);
    there("WORKDIR /w\nCOPY a.txt .", &["/w/a.txt"]);
    there("WORKDIR /w\nCOPY a.txt ../x", &["/x"]);
    there("WORKDIR /w\nCOPY a.txt b.txt ./", &["/w/a.txt", "/w/b.txt"]);
    // A directory that is there takes the file, slash or not.
    there("WORKDIR /w\nCOPY a.txt /w", &["/w/a.txt"]);
    there("COPY d/g /x\nCOPY a.txt /x", &["/x"]);
    there("ENV N=a D=/x\nCOPY ${N}.txt $D/", &["/x/a.txt"]);

    assert!(fixture.failure("FROM scratch\nCOPY a.txt b.txt /x\n").contains("needs a directory"));
    assert!(fixture.failure("FROM scratch\nCOPY *.txt /x\n").contains("end the destination with a slash: /x/"));
    assert!(
        fixture
            .failure("FROM scratch\nCOPY a.txt /x\nCOPY d /x\n")
            .contains("Dockerfile:3:1: cannot make the directory \"/x\"")
    );
    assert!(fixture.failure("FROM scratch\nCOPY a.txt /x\nCOPY b.txt /x/\n").contains("in the way"));
    assert!(fixture.failure("FROM scratch\nCOPY a.txt /x\nWORKDIR /x/y\n").contains("in the way"));
    assert!(fixture.failure("FROM scratch\nCOPY d/g /x/e\nCOPY d /x\n").contains("in the way"));
    assert!(fixture.failure("FROM scratch\nCOPY a.txt /x/g/\nCOPY d /x\n").contains("there is a directory"));
}

#[test]
fn copy_takes_nothing_from_outside() {
    let fixture = Fixture::new();
    std::fs::write(fixture.dir.join("secret"), "secret").unwrap();
    fixture.file("sub/in", "inside");
    symlink("../secret", fixture.context().join("out")).unwrap();
    symlink(fixture.dir.join("secret"), fixture.context().join("absolute")).unwrap();
    symlink("..", fixture.context().join("up")).unwrap();
    symlink("sub", fixture.context().join("ok")).unwrap();
    symlink("missing", fixture.context().join("dangling")).unwrap();
    symlink("loop", fixture.context().join("loop")).unwrap();
    let context = fixture.context().display().to_string();
    for source in ["../secret", "sub/../../secret", "out", "absolute", "up/secret", "up", "loop", "o*"] {
        let error = fixture.failure(&format!("FROM scratch\nCOPY {source} /x/\n"));
        assert!(error.contains(&format!("{source:?} leads out of the build context {context}")), "{error}");
    }
    for source in ["nothing", "*.none", "sub/in/x", "dangling", "nothing/*"] {
        let error = fixture.failure(&format!("FROM scratch\nCOPY {source} /x/\n"));
        assert_eq!(error, format!("Dockerfile:2:1: COPY failed: {source:?} is not in the build context {context}"));
    }
    // Within it links are followed when named, and copied as they are when they lie in a directory.
    let image = fixture.build("FROM scratch\nCOPY ok/in /x\nCOPY ok /y\nCOPY . /all/\n");
    assert_eq!(fixture.there(&image, &["/x", "/y/in", "/all/ok/in", "/all/out"]), ["/x", "/y/in", "/all/ok/in"]);
    let top = fixture.images().layer_dirs(&image).unwrap().remove(0);
    assert_eq!(std::fs::read_link(top.join("all/out")).unwrap(), Path::new("../secret"));
}

#[test]
fn copy_follows_links_of_the_image_and_keeps_modes() {
    let fixture = Fixture::new();
    fixture.file("f", "f");
    fixture.file("lib/g", "g");
    fixture.file("root/usr/lib/h", "h");
    symlink("usr/lib", fixture.context().join("root/lib")).unwrap();
    let set = |path: &str, mode| {
        std::fs::set_permissions(fixture.context().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("f", 0o4751);
    set("lib", 0o750);
    let image = fixture.build("FROM scratch\nCOPY root /\nCOPY f /lib/\nCOPY lib /lib\nCOPY . /c/\nCOPY lib /c/new\n");
    let dirs = fixture.images().layer_dirs(&image).unwrap();
    let host = |path: &str| find_in_layers(&dirs, path).unwrap().unwrap();
    for path in ["/usr/lib/f", "/usr/lib/g", "/lib/f", "/lib/h"] {
        host(path);
    }
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(&host("/lib/f")), 0o751, "no setuid on the host, the blob keeps it");
    assert_eq!(mode(host("/c/lib/g").parent().unwrap()), 0o750);
    assert_eq!(mode(host("/c/new/g").parent().unwrap()), 0o755);
    assert!(dirs.iter().all(|dir| !dir.join("lib/f").exists() || dir.join("lib").is_symlink()));
}

#[test]
fn dockerignore_is_heeded() {
    let fixture = Fixture::new();
    for path in ["a", "secret", "target/x", "target/keep", "node/y"] {
        fixture.file(path, path);
    }
    fixture.file(".dockerignore", "secret\ntarget\n!target/keep\nnode\n");
    let image = fixture.build("FROM scratch\nCOPY . /\n");
    let paths = ["/a", "/secret", "/target/x", "/target/keep", "/node/y"];
    assert_eq!(fixture.there(&image, &paths), ["/a", "/target/keep"]);
    assert!(!fixture.images().layer_dirs(&image).unwrap()[0].join("node").exists());
    let error = fixture.failure("FROM scratch\nCOPY secret /\n");
    assert!(error.ends_with("context: .dockerignore leaves it out"), "{error}");
    let image = fixture.build("FROM scratch\nCOPY target /t\n");
    assert_eq!(fixture.there(&image, &["/t/x", "/t/keep"]), ["/t/keep"]);
    // The Dockerfile's own comes first.
    fixture.file("Dockerfile.dockerignore", "a");
    assert_eq!(fixture.there(&fixture.build("FROM scratch\nCOPY . /\n"), &paths), &paths[1..]);
}

#[test]
fn what_is_not_supported_is_refused_before_anything_is_done() {
    let fixture = Fixture::new();
    for (line, what) in [
        ("RUN --mount=type=cache,target=/x true", "RUN --mount"),
        ("RUN --security=insecure true", "RUN --security other than sandbox"),
    ] {
        let mut steps = Vec::new();
        struct Told<'a>(&'a mut Vec<String>);
        impl Progress for Told<'_> {
            fn step(&mut self, step: &StepInfo<'_>) {
                self.0.push(format!("{}/{} {}", step.index, step.total, step.instruction));
            }
        }
        fixture.file("Dockerfile", &format!("FROM scratch\nENV A=1\n  {line}\n"));
        let error = build(&fixture.store, &fixture.options(&[]), &mut Told(&mut steps)).unwrap_err().to_string();
        assert_eq!(error, format!("Dockerfile:3:3: {what} is not supported yet by this version"));
        assert!(steps.is_empty());
        fixture.file("Dockerfile", "FROM scratch\nENV A=1\n");
        build(&fixture.store, &fixture.options(&[]), &mut Told(&mut steps)).unwrap();
        assert_eq!(steps, ["1/2 FROM scratch", "2/2 ENV A=1"]);
    }
    assert!(fixture.failure("FROM scratch\nFOO x\n").starts_with("Dockerfile:2:1: unknown instruction \"FOO\""));
    assert!(fixture.failure("FROM scratch\nENV A\n").contains("Dockerfile:2:1: \"A\" has no value"));
    assert!(fixture.failure("FROM scratch\nEXPOSE x\n").contains("EXPOSE x: write PORT"));
    assert!(fixture.failure("FROM scratch\nWORKDIR $NO\n").contains("this one is empty"));
    assert!(fixture.failure("").contains("expected at least one FROM"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let fixture = Fixture::new();
    let failure = |options: &BuildOptions| build(&fixture.store, options, &mut ()).unwrap_err().to_string();
    let mut options = fixture.options(&[]);
    assert!(failure(&options).ends_with("No such file or directory (os error 2); name another with -f"));
    options.dockerfile = Some(fixture.dir.join("elsewhere"));
    std::fs::write(fixture.dir.join("elsewhere"), "FROM scratch\nCOPY x /\n").unwrap();
    assert!(failure(&options).starts_with(&format!("{}:2:1: COPY failed", fixture.dir.join("elsewhere").display())));
    options.context = fixture.dir.join("elsewhere");
    assert!(failure(&options).contains("it must be a directory"));
    options.context = fixture.dir.join("nowhere");
    assert!(failure(&options).contains("cannot read the build context"));
}

#[test]
fn a_base_that_goes_away_meanwhile_is_noticed() {
    struct Removes<'a>(&'a Fixture);
    impl Progress for Removes<'_> {
        fn step(&mut self, step: &StepInfo<'_>) {
            if step.index == 2 {
                self.0.images().remove("base", false, &|_| None).unwrap();
            }
        }
    }
    let fixture = Fixture::new();
    fixture.image("one", &["base"]);
    fixture.file("Dockerfile", "FROM base\nENV A=1\n");
    let error = build(&fixture.store, &fixture.options(&["top"]), &mut Removes(&fixture)).unwrap_err();
    assert!(matches!(error, BuildError::Image(ImageError::BaseRemoved { .. })), "{error}");
    assert_eq!(fixture.contents(), [0, 0, 0]);
}
