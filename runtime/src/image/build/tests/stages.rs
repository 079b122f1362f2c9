//! Builds in several stages.

use super::*;
use crate::image::Images;

/// Which steps a build told of.
#[derive(Default)]
struct Told(Vec<String>);

impl Progress for Told {
    fn step(&mut self, step: &StepInfo<'_>) {
        let stage = step.stage.map(|stage| format!("{stage} ")).unwrap_or_default();
        self.0.push(format!("{stage}{}/{} {}", step.index, step.total, step.instruction));
    }
}

#[test]
fn only_what_is_needed_is_built() {
    let fixture = Fixture::new();
    fixture.file("f", "f");
    fixture.file(
        "Dockerfile",
        "FROM nowhere AS unused\nRUN --mount=type=cache,target=/x make\nFROM scratch AS one\nCOPY f /a\nENV E=one\n\
         FROM one AS Two\nCOPY f /b\nLABEL e=$E\nFROM scratch AS three\nCOPY --from=ONE /a /x/\nCOPY --from=2 / /two/\n",
    );
    let with = |target: Option<&str>| {
        let mut told = Told::default();
        let options = BuildOptions { target: target.map(str::to_owned), ..fixture.options(&[]) };
        let image = build(&fixture.store, &options, &mut told).map_err(|e| e.to_string())?;
        Ok::<_, String>((image, told.0))
    };
    let (image, steps) = with(None).unwrap();
    assert_eq!(
        steps,
        [
            "one 1/3 FROM scratch AS one",
            "one 2/3 COPY f /a",
            "one 3/3 ENV E=one",
            "two 1/3 FROM one AS Two",
            "two 2/3 COPY f /b",
            "two 3/3 LABEL e=$E",
            "three 1/3 FROM scratch AS three",
            "three 2/3 COPY --from=ONE /a /x/",
            "three 3/3 COPY --from=2 / /two/",
        ]
    );
    assert_eq!(fixture.there(&image, &["/x/a", "/two/a", "/two/b", "/a"]), ["/x/a", "/two/a", "/two/b"]);
    let (image, steps) = with(Some("one")).unwrap();
    assert_eq!(steps, ["1/3 FROM scratch AS one", "2/3 COPY f /a", "3/3 ENV E=one"]);
    assert_eq!(settings_of(&image).env.len(), 1);
    let (image, _) = with(Some("two")).unwrap();
    assert_eq!(settings_of(&image).labels.get("e").map(String::as_str), Some("one"));
    assert_eq!((image.layers.len(), image.config.history().iter().flatten().count()), (2, 4));
    assert_eq!(
        with(Some("four")).unwrap_err(),
        "Dockerfile:1:1: there is no stage \"four\"; this Dockerfile has unused, one, two, three"
    );
    assert!(with(Some("unused")).unwrap_err().starts_with("Dockerfile:2:1: RUN --mount is not supported"));
}

#[test]
fn circles_and_strangers_are_told_with_their_place() {
    let fixture = Fixture::new();
    for (dockerfile, error) in [
        ("FROM b AS a\nFROM a AS b\n", "Dockerfile:1:1: circular dependency: stage a needs b needs a;"),
        ("FROM a AS a\n", "Dockerfile:1:1: circular dependency: stage a needs a;"),
        (
            "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\n  COPY --from=c /x /\nFROM a AS c\n",
            "Dockerfile:4:3: circular dependency: stage c needs a needs b needs c;",
        ),
        ("FROM scratch AS a\nCOPY --from=a /x /\n", "Dockerfile:2:1: circular dependency: stage a needs a;"),
        (
            "FROM b AS a\nFROM scratch AS b\nFROM a\n",
            "Dockerfile:1:1: FROM b: the stage b begins later, at line 2; put it first",
        ),
        ("FROM scratch\n COPY --from=7 /x /\n", "Dockerfile:2:2: there is no stage \"7\"; this Dockerfile has stage-0"),
        (
            "FROM scratch AS a\nCOPY --from=aa /x /\n",
            "Dockerfile:2:1: there is no image aa here, and this version cannot pull one; build it first; the stages of this \
             Dockerfile are a",
        ),
        ("FROM scratch AS a\nCOPY --from=$X /x /\n", "Dockerfile:2:1: COPY --from=$X: there are no variables here"),
        (
            "FROM scratch AS a\nFROM scratch\nCOPY --from=a /none /\n",
            "Dockerfile:3:1: COPY failed: \"/none\" is not in the stage a",
        ),
    ] {
        let found = fixture.failure(dockerfile);
        assert!(found.starts_with(error), "{found}");
    }
}

#[test]
fn copy_takes_from_images_and_contexts() {
    let fixture = Fixture::new();
    fixture.file("f", "base");
    fixture.file("d/g", "g");
    fixture.file("gone", "x");
    fixture.try_build("FROM scratch\nCOPY f /f\nCOPY . /all\n", &["base:1"]).unwrap();
    fixture.file("f", "top");
    let image = fixture.try_build("FROM base:1\nCOPY f /f\nCOPY f /all/d/h\n", &["top"]).unwrap();
    assert_eq!(fixture.read(&image, "/f").as_deref(), Some("top"));
    let image = fixture.build("FROM scratch\nCOPY --from=top /f /all/d /x/\nCOPY --from=top /all/d/* /y/\n");
    assert_eq!(fixture.read(&image, "/x/f").as_deref(), Some("top"));
    let paths = ["/x/g", "/x/h", "/y/g", "/y/h"];
    assert_eq!(fixture.there(&image, &paths), paths, "of both layers");

    let other = fixture.dir.join("other");
    std::fs::create_dir_all(other.join("bin")).unwrap();
    std::fs::write(other.join("bin/app"), "app").unwrap();
    std::fs::write(other.join("left"), "out").unwrap();
    std::fs::write(other.join(".dockerignore"), "left\n").unwrap();
    let with = |dockerfile: &str, contexts: &[(&str, NamedContext)]| {
        fixture.file("Dockerfile", dockerfile);
        let contexts = contexts.iter().map(|(name, context)| ((*name).to_owned(), context.clone())).collect();
        let options = BuildOptions { contexts, ..fixture.options(&[]) };
        build(&fixture.store, &options, &mut ()).map_err(|e| e.to_string())
    };
    let dir = NamedContext::Dir(other.clone());
    let base = NamedContext::Image("base:1".to_owned());
    let native = "FROM golang AS build\nRUN go build -o /bin/app\nFROM scratch\nCOPY --from=build /bin/app /app\n";
    let image = with(native, &[("build", dir.clone())]).unwrap();
    assert_eq!(fixture.read(&image, "/app").as_deref(), Some("app"));
    assert!(with(native, &[]).unwrap_err().contains("--build-context build=DIR"));
    let image = with("FROM scratch\nCOPY --from=lib . /\n", &[("lib", dir.clone())]).unwrap();
    assert_eq!(fixture.there(&image, &["/bin/app", "/left"]), ["/bin/app"]);
    assert!(
        with("FROM scratch\nCOPY --from=lib ../context/f /\n", &[("lib", dir.clone())])
            .unwrap_err()
            .contains("leads out")
    );
    let image = with("FROM debian\nCOPY f /g\n", &[("debian", base.clone())]).unwrap();
    assert_eq!(fixture.there(&image, &["/f", "/g"]), ["/f", "/g"]);
    let image = with("FROM debian\nCOPY f /g\n", &[("debian", dir.clone())]).unwrap();
    assert_eq!(fixture.there(&image, &["/bin/app", "/left", "/g"]), ["/bin/app", "/g"]);
    let image = with("FROM debian AS only\n", &[("only", dir)]).unwrap();
    assert_eq!(fixture.there(&image, &["/bin/app"]), ["/bin/app"]);
    let image = with("FROM debian AS a\nFROM a\nCOPY f /g\n", &[("a", base)]).unwrap();
    assert_eq!(fixture.there(&image, &["/f", "/g"]), ["/f", "/g"]);
    let missing = NamedContext::Dir(fixture.dir.join("none"));
    assert!(with("FROM scratch\nCOPY --from=x / /\n", &[("x", missing)]).unwrap_err().contains("none"));
}

#[test]
fn a_missing_base_is_brought_by_whoever_can() {
    fn pull(store: &Store, name: &str, platform: Option<&str>) -> Result<Image, Failure> {
        match name {
            "there" => Ok(Images::new(store).find("base")?),
            other => Err(format!("the registry has no {other} for {}", platform.unwrap_or("any")).into()),
        }
    }
    let fixture = Fixture::new();
    let base = fixture.image("one", &["base"]);
    let with = |dockerfile: &str, always_pull| {
        fixture.file("Dockerfile", dockerfile);
        let options = BuildOptions { pull: Some(pull), always_pull, ..fixture.options(&[]) };
        build(&fixture.store, &options, &mut ()).map_err(|e| e.to_string())
    };
    assert_eq!(with("FROM there\n", false).unwrap().layers, base.layers);
    let error = with("FROM --platform=wasi/wasm x\n", false).unwrap_err();
    assert_eq!(error, "Dockerfile:1:1: there is no image x here, the registry has no x for wasi/wasm");
    with("FROM base\n", false).unwrap();
    assert!(with("FROM base\n", true).unwrap_err().contains("the registry has no base for any"));
    let options = BuildOptions { always_pull: true, ..fixture.options(&[]) };
    assert!(matches!(build(&fixture.store, &options, &mut ()), Err(BuildError::CannotPull)));
}
