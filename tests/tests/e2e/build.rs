//! Building: a Dockerfile and a directory → an OCI image, and taking images away.

use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};
use serde_json::Value;
use std::path::Path;

/// A file of the store as JSON.
fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A store's blob by its digest.
fn blob(store: &Store, digest: &Value) -> std::path::PathBuf {
    let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    store.root().join("content/blobs/sha256").join(digest)
}

/// All that is in a store but for what the build cache keeps.
fn images_of(store: &Store) -> Vec<String> {
    let cached = ["cache", "layers/", "content/blobs/sha256/", "content/index.lock"];
    store.tree().into_iter().filter(|path| !cached.iter().any(|begin| path.starts_with(begin))).collect()
}

#[test]
fn every_mistake_in_a_dockerfile_is_told_with_its_line_and_column() {
    let store = Store::fresh(&[]);
    store.sampan("images").ok();
    let before = images_of(&store);
    let context = |dockerfile: &str| {
        Dir::context(dockerfile).file("f", "x").file("d/f", "x").file(".dockerignore", "hidden\n").file("hidden", "")
    };
    for (dockerfile, place, words) in [
        ("", "", "expected at least one FROM"),
        ("COPY f /\n", "Dockerfile:1:1", "FROM"),
        ("FROM nowhere\n", "Dockerfile:1:1", "there is no image nowhere here, and it could not be pulled"),
        ("FROM $BASE\n", "Dockerfile:1:1", "names no image"),
        ("FROM scratch\nFOO x\n", "Dockerfile:2:1", "FOO"),
        ("FROM scratch\n\n# why\n  RUN make\n", "Dockerfile:4:3", "needs a shell"),
        ("FROM scratch\nRUN --mount=type=cache,target=/x y\n", "Dockerfile:2:1", "RUN --mount is not supported yet"),
        ("FROM scratch\nADD http://h/f /\n", "Dockerfile:2:1", "ADD http://h/f failed"),
        ("FROM scratch\nCOPY --from=x f /\n", "Dockerfile:2:1", "no image x here"),
        ("FROM scratch\nCOPY --from=3 f /\n", "Dockerfile:2:1", "no stage \"3\""),
        ("FROM scratch\nCOPY --chown=me f /\n", "Dockerfile:2:1", "--chown=me"),
        ("FROM scratch\nCOPY --what f /\n", "Dockerfile:2:1", "COPY has no flag --what"),
        ("FROM b AS a\nFROM a AS b\n", "Dockerfile:1:1", "circular dependency: stage a needs b needs a"),
        ("FROM scratch AS a\nFROM scratch AS a\n", "Dockerfile:2:1", "a stage a already"),
        ("FROM scratch\nCOPY <<EOF /\n", "Dockerfile:2:1", "<<EOF has no end"),
        ("FROM scratch\nHEALTHCHECK --interval=x CMD y\n", "Dockerfile:2:1", "a time such as 30s"),
        ("FROM scratch\nSTOPSIGNAL no\n", "Dockerfile:2:1", "no such signal"),
        ("FROM scratch\nONBUILD FROM x\n", "Dockerfile:2:1", "trigger"),
        ("# escape=x\nFROM scratch\n", "Dockerfile:1:1", "escape"),
        ("FROM scratch\nCOPY f\n", "Dockerfile:2:", ""),
        ("FROM scratch\nCOPY none /\n", "Dockerfile:2:1", "\"none\" is not in the build context"),
        ("FROM scratch\nCOPY *.none /\n", "Dockerfile:2:1", "\"*.none\" is not in the build context"),
        ("FROM scratch\nCOPY ../f /\n", "Dockerfile:2:1", "\"../f\" leads out of the build context"),
        ("FROM scratch\nCOPY d/../../f /\n", "Dockerfile:2:1", "leads out of the build context"),
        ("FROM scratch\nCOPY hidden /\n", "Dockerfile:2:1", ".dockerignore leaves it out"),
        ("FROM scratch\nCOPY f d /x\n", "Dockerfile:2:1", "end the destination with a slash"),
        ("FROM scratch\nCOPY f /x\nCOPY d /x\n", "Dockerfile:3:1", "\"/x\""),
        ("FROM scratch\nENV A\n", "Dockerfile:2:1", "\"A\" has no value"),
        ("FROM scratch\nENV A=\"x\n", "Dockerfile:2:", ""),
        ("FROM scratch\nEXPOSE http\n", "Dockerfile:2:1", "EXPOSE http"),
        ("FROM scratch\nEXPOSE 0\n", "Dockerfile:2:1", "EXPOSE 0"),
        ("FROM scratch\nEXPOSE 70000\n", "Dockerfile:2:1", "EXPOSE 70000"),
        ("FROM scratch\nWORKDIR $NO\n", "Dockerfile:2:1", "WORKDIR"),
        ("FROM scratch\nVOLUME \"\"\n", "Dockerfile:2:1", "VOLUME"),
        ("FROM scratch\nENV A=1 \\\n  B\n", "Dockerfile:2:1", ""),
    ] {
        let context = context(dockerfile);
        let failed = store.sampan(format!("build -t never '{context}'")).fails(1);
        let failed = failed.stderr_has(place).stderr_has(words);
        // A pull that was tried has its own word before it.
        assert!(failed.stderr.lines().any(|line| line.starts_with(&format!("sampan: {place}"))), "{failed}");
        assert_eq!(images_of(&store), before, "what was left by {dockerfile:?}");
    }
    store.sampan("images -q").ok().stdout_is("");
}

#[test]
fn what_is_no_build_at_all_is_told() {
    let store = Store::shared(&[]);
    let empty = Dir::new().file("f", "");
    let good = Dir::context("FROM scratch\n");
    for (args, words) in [
        (format!("'{empty}'"), "Dockerfile"),
        (format!("-f '{empty}/none' '{empty}'"), "none"),
        ("/none/such".to_owned(), "/none/such"),
        (format!("'{empty}/f'"), "/f"),
        (format!("-t UPPER '{good}'"), "UPPER"),
        (format!("-t a@sha256:{} '{good}'", "0".repeat(64)), "sha256"),
    ] {
        store.sampan(format!("build {args}")).fails(1).stderr_has(words);
    }
    store.sampan("build").fails(125).stderr_has("DIR");
}

#[test]
fn a_build_shows_its_steps_and_what_it_made() {
    let store = Store::shared(&[]);
    let context = Dir::context("FROM scratch\nCOPY hello.wasm /hello.wasm\nENTRYPOINT [\"/hello.wasm\"]\n");
    let context = context.copy("hello.wasm", &sample_file("hello"));
    let built = store.sampan(format!("build -t build-steps:1 -t build-steps:2 '{context}'")).ok();
    for line in [
        "[1/3] FROM scratch\n",
        "[2/3] COPY hello.wasm /hello.wasm\n",
        "Tagged build-steps:1\n",
        "Tagged build-steps:2\n",
    ] {
        assert!(built.stdout.contains(line), "{line} {built}");
    }
    built.stdout_has("Built ").stdout_has(", 1 layer) in ").stdout_has("Compiled hello.wasm (WASI 0.1 command, ");
    let id = store.sampan(format!("build -q '{context}'")).ok().line();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
}

#[test]
fn an_image_is_an_oci_image_whose_digests_are_right() {
    let store = Store::fresh(&[]);
    let context = Dir::context("FROM scratch\nCOPY one /one\nENV A=b\nWORKDIR /w\nCOPY two /two\n")
        .file("one", "1")
        .file("two", "2");
    let id = store.build_from("digests", &context);
    let content = store.root().join("content");
    assert_eq!(json(&content.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&content.join("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    let manifest = json(&blob(&store, &index["manifests"][0]["digest"]));
    assert_eq!(manifest["config"]["digest"], id.as_str());
    let config = json(&blob(&store, &manifest["config"]["digest"]));
    assert_eq!(config["config"]["Env"][0], "A=b");
    let (layers, diff_ids) = (manifest["layers"].as_array().unwrap(), config["rootfs"]["diff_ids"].as_array().unwrap());
    assert_eq!((layers.len(), diff_ids.len()), (3, 3));
    // Everything that is named by a digest has it, and each layer's archive has its diff id.
    let sum = |command: &str| {
        let sum = store.shell(&format!("{command} | sha256sum")).ok().line();
        format!("sha256:{}", sum.split(' ').next().unwrap())
    };
    let mut descriptors = vec![&index["manifests"][0], &manifest["config"]];
    descriptors.extend(layers);
    for descriptor in descriptors {
        let path = blob(&store, &descriptor["digest"]);
        assert_eq!(descriptor["digest"], sum(&format!("cat '{}'", path.display())));
        assert_eq!(descriptor["size"], path.metadata().unwrap().len());
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        assert_eq!(*diff_id, sum(&format!("gzip -dc '{}'", blob(&store, &layer["digest"]).display())));
    }
    let tar = store.shell(&format!("tar -tzf '{}'", blob(&store, &layers[0]["digest"]).display())).ok();
    tar.stdout_is("one\n");
}

#[test]
fn the_same_sources_give_the_same_image_in_any_store() {
    let context = || {
        let copy = Dir::context("FROM scratch\nCOPY . /all\nENV A=1\nENTRYPOINT [\"/all/hello.wasm\"]\n");
        (0..20).fold(copy.copy("hello.wasm", &sample_file("hello")), |dir, n| dir.file(&format!("d/{n}"), "x"))
    };
    let build = |store: &Store| {
        let context = context();
        store.sampan(format!("build -q -t same '{context}'")).env("SOURCE_DATE_EPOCH", "1700000000").ok().line()
    };
    let (one, other) = (Store::fresh(&[]), Store::fresh(&[]));
    let id = build(&one);
    assert_eq!(build(&other), id);
    assert_eq!(build(&one), id);
    one.sampan("images -aq --no-trunc").ok().stdout_is(&format!("{id}\n"));
}

#[test]
fn to_build_the_same_again_gives_the_same_layers() {
    let store = Store::fresh(&[]);
    let context = Dir::context("FROM scratch\nCOPY f /f\n").file("f", "x");
    let layers = || store.sampan("inspect -f '{{json .RootFS.Layers}}' again").ok().line();
    store.build_from("again", &context);
    let first = layers();
    store.build_from("again", &context);
    assert_eq!(layers(), first);
}

#[test]
fn an_image_on_another_has_its_layers_and_settings_and_its_own_on_top() {
    let store = Store::fresh(&["probe"]);
    let base = Dir::context("FROM probe\nCOPY f /f\nENV A=1\nLABEL l=base\nEXPOSE 1\n").file("f", "base");
    store.build_from("base:1", &base);
    let top = Dir::context("FROM base:1\nCOPY f /f\nCOPY f /g\nENV B=$A$A\n").file("f", "top");
    store.build_from("top", &top);
    let layers = |name: &str| {
        let image = store.sampan(format!("inspect --type image {name}")).ok().json();
        image[0]["RootFS"]["Layers"].as_array().unwrap().clone()
    };
    assert_eq!(layers("top")[..layers("base:1").len()], layers("base:1")[..]);
    assert_eq!(layers("top").len(), layers("base:1").len() + 2);
    store.sampan("run --rm top cat /f").ok().stdout_is("top");
    store.sampan("run --rm base:1 cat /f").ok().stdout_is("base");
    store.sampan("run --rm top env B").ok().stdout_is("11\n");
    let config = store.sampan("inspect --type image top").ok().json();
    assert_eq!(config[0]["Config"]["Labels"]["l"], "base");
    // Its layers stay when the base goes.
    store.sampan("rmi base:1").ok();
    store.sampan("rmi probe").ok();
    store.sampan("run --rm top cat /g").ok().stdout_is("top");
}

#[test]
fn a_name_moves_to_the_image_that_was_built_last() {
    let store = Store::fresh(&[]);
    let context = |text: &str| Dir::context("FROM scratch\nCOPY f /f\n").file("f", text);
    let one = store.build_from("moving", &context("1"));
    let two = store.build_from("moving", &context("2"));
    assert_ne!(one, two);
    store.sampan("images -q --no-trunc moving").ok().stdout_is(&format!("{two}\n"));
    store.sampan("images -q --no-trunc --filter dangling=true").ok().stdout_is(&format!("{one}\n"));
    store.sampan(format!("rmi {one}")).ok().stdout_has(&format!("Deleted: {one}\n"));
}

#[test]
fn a_build_whose_program_is_no_guest_takes_no_name_and_leaves_no_image() {
    let store = Store::fresh(&["hello"]);
    let before = (images_of(&store), store.sampan("images -q").ok().line());
    for (file, words) in [("\x7fELF", "native Linux program"), ("(module)", "_start")] {
        let context = Dir::context("FROM scratch\nCOPY f /f\nENTRYPOINT [\"/f\"]\n").file("f", file);
        store.sampan(format!("build -t hello '{context}'")).fails(1).stderr_has(words);
    }
    let missing = Dir::context("FROM scratch\nENTRYPOINT [\"/f\"]\n");
    store.sampan(format!("build -t hello '{missing}'")).fails(1).stderr_has("no such file");
    assert_eq!((images_of(&store), store.sampan("images -q").ok().line()), before);
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
}

#[test]
fn labels_and_another_dockerfile_come_from_flags() {
    let store = Store::shared(&["hello"]);
    let context = Dir::new().file("sub/Other", "FROM hello\nLABEL a=file b=file\nCOPY f /f\n").file("f", "");
    store.sampan(format!("build -q -t build-flags --label b=flag -f '{context}/sub/Other' '{context}'")).ok();
    let image = store.sampan("inspect --type image build-flags -f").arg("{{json .Config.Labels}}").ok();
    image.stdout_is("{\"a\":\"file\",\"b\":\"flag\"}\n");
}

#[test]
fn rmi_takes_a_name_and_with_the_last_one_the_image() {
    let store = Store::fresh(&["hello"]);
    let context = Dir::context("FROM hello\nCOPY f /f\n").file("f", "x");
    let id = store.sampan(format!("build -q -t one -t two -t three '{context}'")).ok().line();
    store.sampan("rmi one").ok().stdout_is("Untagged: one:latest\n");
    store.sampan(format!("rmi {id}")).fails(1).stderr_has("several names").stderr_has("two");
    store.sampan(format!("rmi {}", &id[7..19])).fails(1).stderr_has("several names");
    store
        .sampan("rmi two three:latest")
        .ok()
        .stdout_has("Untagged: two:latest\n")
        .stdout_has(&format!("Deleted: {id}\n"));
    store.sampan("run --pull never one").fails(125).stderr_has("no such image: one");
    store.sampan("rmi one").fails(1).stderr_has("no such image: one");
    store.sampan("rmi -f one").ok();
    // What the other image needs is still there, and nothing else.
    store.sampan("run --rm hello").ok();
    let blobs = std::fs::read_dir(store.root().join("content/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 3, "a manifest, a config and a layer");
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 1);
}

#[test]
fn an_image_that_a_container_needs_stays() {
    let store = Store::fresh(&["hello"]);
    let id = store.sampan("create --name box hello").ok().line();
    store.sampan("rmi hello").fails(1).stderr_has("is used by container").stderr_has(&id[..12]);
    // By force it loses its name, and stays all the same.
    store.sampan("rmi -f hello").ok().stdout_is("Untagged: hello:latest\n");
    store.sampan("start -a box").ok().stdout_is("Hello from Sampan!\n");
    let image = store.sampan("inspect -f {{.Image}} box").ok().line();
    store.sampan(format!("rmi -f {image}")).fails(1);
    store.sampan("rm box").ok();
    store.sampan(format!("rmi {image}")).ok().stdout_has("Deleted: ");
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
}

#[test]
fn an_image_is_found_by_name_tag_digest_and_id() {
    let store = Store::shared(&["hello"]);
    let context = Dir::context("FROM hello\nLABEL found=by\n");
    let id = store.build_from("build-found:v1", &context);
    let digest = store.sampan("images --digests --format {{.Digest}} build-found").ok().line();
    let (short, bare) = (&id[7..19], &id[7..]);
    let names = ["build-found:v1", "docker.io/library/build-found:v1", &id, short, bare];
    let by_digest = format!("build-found@{digest}");
    for name in names.iter().copied().chain([by_digest.as_str()]) {
        store.sampan(format!("run --rm {name}")).ok().stdout_is("Hello from Sampan!\n");
    }
    store.sampan("run --rm build-found").fails(125);
}

#[test]
fn several_builds_at_once_all_succeed() {
    let store = Store::fresh(&["hello"]);
    let contexts: Vec<Dir> = (0..6)
        .map(|n| {
            Dir::context("FROM hello\nCOPY f /f\n")
                .file("f", if n % 2 == 0 { "same".to_owned() } else { n.to_string() })
        })
        .collect();
    let all: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(n, context)| store.sampan(format!("build -q -t at-once:{n} -t moving '{context}'")).start())
        .collect();
    for build in all {
        build.finish().ok();
    }
    for n in 0..6 {
        store.sampan(format!("run --rm at-once:{n}")).ok();
    }
    store.sampan("run --rm moving").ok();
    assert!(sampan_tests::tree(&store.root().join("tmp"), &[]).is_empty());
}

#[test]
fn images_are_removed_while_containers_of_them_are_made() {
    let store = Store::fresh(&["hello"]);
    let context = Dir::context("FROM hello\nCOPY f /f\n").file("f", "x");
    for _ in 0..5 {
        store.build_from("contested", &context);
        let runs: Vec<_> = (0..3).map(|_| store.sampan("run --rm contested").start()).collect();
        let rmi = store.sampan("rmi -f contested").start();
        rmi.finish().ok();
        for run in runs {
            let output = run.finish();
            // It has come in time or it has not; it never finds half an image.
            match output.code {
                0 => drop(output.stdout_is("Hello from Sampan!\n")),
                _ => {
                    let failed = output.fails(125);
                    let told =
                        ["no such image", "Unable to find image"].iter().any(|words| failed.stderr.contains(words));
                    assert!(told, "{failed}");
                }
            }
        }
    }
}
