//! Images and containers as archives, with the tools of others: skopeo, podman, buildah and tar.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Output, Run, Store};
use serde_json::Value;

/// The digest of a manifest, as skopeo finds it.
fn digest(reference: &str) -> String {
    let raw = Run::new(["skopeo", "inspect", "--raw", reference]).ok();
    // By way of a file, since that is how the tool that counts takes it.
    let dir = Dir::new().file("manifest", raw.stdout);
    let sum = Run::new(["sha256sum"]).arg(dir.join("manifest")).ok();
    format!("sha256:{}", sum.stdout.split(' ').next().unwrap())
}

fn skopeo(dir: &Dir, from: &str, to: &str) -> Output {
    Run::new(["skopeo", "copy", "-q", "--insecure-policy", from, to]).dir(dir.path()).ok()
}

#[test]
fn skopeo_copies_an_image_out_and_in_and_the_digests_agree() {
    if lacks(&[Need::Tool("skopeo")]) {
        return;
    }
    let store = Store::fresh(&["hello"]);
    let dir = Dir::new();
    let ours = store.sampan("images --digests --format {{.Digest}} hello").ok().line();
    let id = store.sampan("images -q --no-trunc hello").ok().line();

    // Whole archives, and one kind alone.
    store.sampan(format!("save -o '{dir}/both.tar' hello")).ok();
    store.sampan(format!("save --format oci-archive -o '{dir}/oci.tar' hello")).ok();
    store.sampan(format!("save --format docker-archive -o '{dir}/docker.tar' hello")).ok();
    for archive in ["both", "oci"] {
        assert_eq!(digest(&format!("oci-archive:{dir}/{archive}.tar")), ours);
    }
    for archive in ["both", "docker"] {
        let inspect = format!("docker-archive:{dir}/{archive}.tar");
        let config = Run::new(["skopeo", "inspect", "--config", "--raw", &inspect]).ok().stdout;
        let sum = Run::new(["sha256sum"]).stdin(config).ok().line();
        assert_eq!(format!("sha256:{}", sum.split(' ').next().unwrap()), id, "{archive}");
    }

    // Through skopeo's hands and back.
    for (from, to) in [
        ("oci-archive:both.tar", "oci-archive:back1.tar:back:1"),
        ("docker-archive:both.tar", "oci-archive:back2.tar:back:2"),
        ("oci-archive:oci.tar", "docker-archive:back3.tar:back:3"),
        ("docker-archive:docker.tar", "docker-archive:back4.tar:docker.io/library/back:4"),
    ] {
        skopeo(&dir, from, to);
    }
    let fresh = Store::fresh(&[]);
    for n in 1..=4 {
        let loaded = fresh.sampan(format!("load -q -i '{dir}/back{n}.tar'")).ok();
        loaded.stdout_is(&format!("Loaded image: back:{n}\n"));
        fresh.sampan(format!("run --rm back:{n}")).ok().stdout_is("Hello from Sampan!\n");
    }
    // (From a Docker archive to an OCI archive skopeo writes the config anew.)
    let digests = fresh.sampan("image inspect -f {{.Id}} back:1 back:3 back:4").ok();
    assert!(digests.lines().iter().all(|other| *other == id), "{digests}");
    // What no tool has repacked is the same manifest.
    let same = Store::fresh(&[]);
    same.sampan(format!("load -q -i '{dir}/back1.tar'")).ok();
    same.sampan("images --digests --format {{.Digest}}").ok().stdout_is(&format!("{ours}\n"));
}

#[test]
fn podman_loads_what_save_writes() {
    if lacks(&[Need::Root, Need::Tool("podman")]) {
        return;
    }
    let store = Store::shared(&["hello"]);
    let dir = Dir::new();
    let id = store.sampan("images -q --no-trunc hello").ok().line();
    let podman = |args: &str| {
        let place = format!("--root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp --storage-driver vfs");
        Run::new(format!("podman {place} {args}").split(' '))
    };
    for (flag, name) in [
        ("", "docker.io/library/hello:latest"),
        ("--format oci-archive", "docker.io/library/hello:latest"),
        ("--format docker-archive", "localhost/hello:latest"),
    ] {
        store.sampan(format!("save {flag} -o '{dir}/a.tar' hello")).ok();
        podman(&format!("load -i {dir}/a.tar")).ok().stdout_has(name);
        let known = podman(&format!("image inspect --format {{{{.Id}}}} {name}")).ok().line();
        assert_eq!(format!("sha256:{known}"), id, "{flag}");
        podman(&format!("rmi {name}")).ok();
    }
    // And the way back.
    podman(&format!("load -q -i {dir}/a.tar")).ok();
    for format in ["oci-archive", "docker-archive"] {
        podman(&format!("save --format {format} -o {dir}/{format}.tar localhost/hello:latest")).ok();
        let fresh = Store::fresh(&[]);
        fresh.sampan(format!("load -i '{dir}/{format}.tar'")).ok().stdout_has("Loaded image: localhost/hello:latest");
        fresh.sampan("run --rm localhost/hello").ok().stdout_is("Hello from Sampan!\n");
    }
}

#[test]
fn an_image_made_with_buildah_from_a_wasm_file_runs() {
    if lacks(&[Need::Root, Need::Tool("buildah")]) {
        return;
    }
    let dir = Dir::new().copy("probe.wasm", &sample_file("probe"));
    let script = r#"
        buildah() { command buildah --root "$PWD/root" --runroot "$PWD/run" --storage-driver vfs "$@"; }
        made=$(buildah from scratch)
        buildah copy -q "$made" probe.wasm /app/probe.wasm >&2
        buildah config --entrypoint '["/app/probe.wasm"]' --cmd 'args from buildah' --env A=b \
            --label made=elsewhere --annotation module.wasm.image/variant=compat "$made"
        buildah commit -q "$made" made-elsewhere >&2
        buildah push -q made-elsewhere oci-archive:made.tar:made:1 >&2
        buildah push -q made-elsewhere docker-archive:docker.tar:made:2 >&2
    "#;
    Run::new(["sh", "-euc", script]).dir(dir.path()).ok();
    let store = Store::fresh(&[]);
    store.sampan(format!("load -i '{dir}/made.tar'")).ok().stdout_has("Loaded image: made:1");
    store.sampan("run --rm made:1").ok().stdout_is("from\nbuildah\n");
    store.shell(&format!("gzip -c '{dir}/docker.tar' | sampan load -q")).ok().stdout_has("Loaded image: made:2\n");
    store.sampan("run --rm made:2 env A").ok().stdout_is("b\n");
    store.sampan("images -q --filter label=made=elsewhere").ok().stdout_has("\n");
}

/// The real compressors, which CI installs.
const COMPRESSORS: [(&str, &str); 4] = [("gzip", "-c"), ("bzip2", "-c"), ("xz", "-9ec"), ("zstd", "-19qc")];

#[test]
fn an_archive_can_be_compressed_with_whatever_docker_takes() {
    let from = Store::fresh(&["hello"]);
    let dir = Dir::new();
    from.sampan(format!("save -o '{dir}/hello.tar' hello")).ok();
    // A file in an archive that is no image, for `ADD` and as a context.
    from.shell(&format!(
        "cd '{dir}'; printf 'FROM scratch\\nADD inner.tar* /\\n' > Dockerfile; echo text > file; tar -cf inner.tar file"
    ))
    .ok();
    for (compressor, flags) in COMPRESSORS {
        if lacks(&[Need::Tool(compressor)]) {
            continue;
        }
        let store = Store::fresh(&[]);
        let packed = format!("{dir}/hello.{compressor}");
        store.shell(&format!("{compressor} {flags} '{dir}/hello.tar' > '{packed}'")).ok();
        store.sampan(format!("load -q -i '{packed}'")).ok().stdout_is("Loaded image: hello:latest\n");
        store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
        store.sampan("rmi hello").ok();
        store.shell(&format!("sampan load -q < '{packed}'")).ok().stdout_is("Loaded image: hello:latest\n");
        let script = format!(
            "mkdir '{dir}/{compressor}'; cd '{dir}/{compressor}'; cp ../Dockerfile .
             {compressor} {flags} ../inner.tar > inner.tar.{compressor}
             tar -cf - Dockerfile inner.tar.* | {compressor} {flags} | sampan build -q -t added -
             sampan create --name added added none; sampan export added | tar -tf -"
        );
        store.shell(&script).ok().stdout_has("file\n");
    }
}

#[test]
fn what_is_compressed_to_next_to_nothing_is_not_unpacked_without_end() {
    let store = Store::fresh(&["hello"]);
    store.sampan("rmi hello").ok();
    let before = store.tree();
    let dir = Dir::new();
    // 64 MiB of nothing, as the content of a file that an archive of images may have.
    store.shell(&format!("cd '{dir}'; head -c 67108864 /dev/zero > blob; tar -cf bomb.tar blob; rm blob")).ok();
    for (compressor, flags) in COMPRESSORS {
        if lacks(&[Need::Tool(compressor)]) {
            continue;
        }
        store.shell(&format!("{compressor} {flags} '{dir}/bomb.tar' > '{dir}/bomb'")).ok();
        let run = store.sampan(format!("load -i '{dir}/bomb'")).env("SAMPAN_MAX_UNPACKED", "16m").fails(1);
        run.stderr_has("unpacks to more than 16777216 bytes; SAMPAN_MAX_UNPACKED allows more");
        assert_eq!(store.tree(), before, "{compressor}");
    }
}

#[test]
fn what_cannot_be_loaded_leaves_nothing() {
    let store = Store::fresh(&["hello"]);
    store.sampan("rmi hello").ok();
    let before = store.tree();
    // An image whose program is native, among one that is good.
    let from = Store::fresh(&["hello"]);
    let context = Dir::context("FROM scratch\nCOPY sh /sh\n").copy("sh", "/bin/sh".as_ref());
    from.build_from("native", &context);
    from.sampan("create --name box --entrypoint /sh native").ok();
    from.sampan("commit -c 'ENTRYPOINT [\"/sh\"]' box bad").fails(1).stderr_has("native Linux program");
    let dir = Dir::new();
    from.sampan(format!("save -o '{dir}/good.tar' hello native")).ok();
    // The base image names no program, and is loaded; with one it is not.
    store
        .sampan(format!("load -q -i '{dir}/good.tar'"))
        .ok()
        .stdout_is("Loaded image: hello:latest\nLoaded image: native:latest\n");
    store.sampan("rmi hello native").ok();
    assert_eq!(store.tree(), before);

    let script = format!(
        "tar -xf '{dir}/good.tar' -O manifest.json > '{dir}/m'
         head -c 30000 '{dir}/good.tar' > '{dir}/cut.tar'
         printf 'no archive' > '{dir}/text.tar'
         tar -C '{dir}' -cf '{dir}/other.tar' m
         xz -c '{dir}/good.tar' | head -c 3000 > '{dir}/cut.xz'
         bzip2 -c '{dir}/m' > '{dir}/m.bz2'"
    );
    store.shell(&script).ok();
    for (file, words) in [
        ("cut.tar", "cut off"),
        ("text.tar", "no tar archive"),
        ("other.tar", "wanted index.json (an OCI archive) or manifest.json (a Docker archive), found m"),
        ("cut.xz", "cut off"),
        ("m.bz2", "no tar archive"),
        ("none.tar", "none.tar"),
    ] {
        store.sampan(format!("load -i '{dir}/{file}'")).fails(1).stderr_has(words);
        assert_eq!(store.tree(), before, "{file}");
    }
    store.sampan("load").fails(1).stderr_has("it is empty");
    store.sampan("save none").fails(1).stderr_has("no such image: none");
    from.sampan(format!("save -o '{dir}/x.tar' hello none")).fails(1);
    assert!(!dir.join("x.tar").exists());
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}

#[test]
fn an_export_is_the_containers_tree() {
    let store = Store::shared(&["probe"]);
    let context = Dir::context("FROM probe\nCOPY d /d\nCOPY links /links\n")
        .file("d/old", "old")
        .file("d/gone", "x")
        .file("links/f", "")
        .link("links/link", "/d/old");
    let image = store.build_from("exported", &context);
    assert!(image.starts_with("sha256:"));
    let container = store.container("export");
    store.sampan(format!("run --name {container} exported write /d/new hello")).ok();
    let other = store.container("export");
    store.sampan(format!("run --name {other} exported rm /d/gone")).ok();
    let dir = Dir::new();
    store.sampan(format!("export -o '{dir}/a.tar' {container}")).ok();
    store.shell(&format!("sampan export {other} > '{dir}/b.tar'")).ok();
    let list = |file: &str| Run::new(["tar", "-tvf"]).arg(dir.join(file)).ok();
    // The link says what it said in the image, though it is kept in another form.
    list("a.tar").stdout_has("link -> /d/old").stdout_has(" d/gone").stdout_has(" probe.wasm");
    Run::new(["tar", "-xOf"]).arg(dir.join("a.tar")).arg("d/new").ok().stdout_is("hello");
    list("b.tar").stdout_lacks("d/gone").stdout_lacks("d/new").stdout_has(" d/old");
    store.sampan("export nobody").fails(1).stderr_has("no such container");
}

#[test]
fn a_commit_is_an_image_with_what_the_container_wrote() {
    let store = Store::fresh(&["probe"]);
    let context = Dir::context("FROM probe\nENV KEPT=1\nEXPOSE 80\nLABEL of=image\n").file("f", "");
    store.build_from("base", &context);
    let script = "
        sampan run --name box -e MORE=2 -l of=user base write /made 'by the box' >/dev/null
        sampan start box >/dev/null; sampan wait box >/dev/null
        sampan commit -q 2>/dev/null && exit 1
        sampan commit -a somebody -m 'a word' -c 'CMD [\"cat\", \"/made\"]' -c 'LABEL more=1' -c 'ENV X=y Z=1' \\
            -c 'EXPOSE 81/udp' -c 'USER 5' -c 'WORKDIR /w' -c 'VOLUME /v' box made:1
    ";
    store.shell(script).ok().stdout_has("sha256:");
    store.sampan("run --rm made:1").ok().stdout_is("by the box");
    let made = store.sampan("image inspect made:1").ok().json();
    let config = &made[0]["Config"];
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}, "81/udp": {}}));
    assert_eq!(config["Labels"], serde_json::json!({"of": "user", "more": "1"}));
    assert_eq!((&config["User"], &config["WorkingDir"]), (&Value::from("5"), &Value::from("/w")));
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(env, ["KEPT=1", "MORE=2", "X=y", "Z=1"]);
    assert_eq!(made[0]["Author"], "somebody");
    let history = store.sampan("history --no-trunc --format '{{.CreatedBy}}|{{.Comment}}' made:1").ok();
    assert!(history.lines().contains(&"/probe.wasm write /made by the box|a word"), "{history}");
    store.sampan("history -q made:1").ok().stdout_has("<missing>");
    store.sampan("history made:1").ok().stdout_has("IMAGE          CREATED").stdout_has("COMMENT");

    // What it deleted is deleted in the image; an image without a name can be made too.
    store.sampan("run --name gone made:1 rm /made").ok();
    let id = store.sampan("commit gone").ok().line();
    store.sampan(format!("run --rm {id} cat /made")).fails(1);
    for (change, words) in [
        ("RUN x", "RUN cannot be done"),
        ("COPY a /b", "COPY cannot be done"),
        ("nonsense", "unknown instruction"),
        ("EXPOSE http", "EXPOSE http"),
        ("ENTRYPOINT [\"/none\"]\nFROM x", "FROM cannot be done"),
    ] {
        let before = store.tree();
        store.sampan("commit box never -c").arg(change).fails(1).stderr_has(words);
        assert_eq!(store.tree(), before, "{change}");
    }
    // A bare Wasm file becomes an image.
    store.sampan("create --name bare").arg(sample_file("hello")).ok();
    store.sampan("commit bare bare").ok();
    store.sampan("run --rm bare").ok().stdout_is("Hello from Sampan!\n");
}

#[test]
fn a_running_container_stands_still_while_it_is_committed_and_goes_on() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    container.says("ready");
    let name = format!("snapshot:{}", container.name());
    for pause in ["", "--pause", "--pause=false", "-p=true"] {
        store.sampan(format!("commit {pause} {container} {name}")).ok();
        let state = std::fs::read_to_string(format!("/proc/{}/stat", container.host())).unwrap();
        let state = state.rsplit(") ").next().unwrap().chars().next();
        assert!(state != Some('T'), "the container was left standing still");
    }
    assert_eq!(container.status(), "running");
    store.sampan(format!("rmi {name}")).ok();
    store.sampan(format!("commit --pause=maybe {container} x")).fails(125);
    store.sampan(format!("stop -t 0 {container}")).ok();
}

#[test]
fn a_committed_containers_own_deletions_without_root() {
    if lacks(&[Need::Tool("setpriv"), Need::UserNamespaces]) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    store.sampan("run --name box probe mkdir /made").ok();
    store.sampan("commit box one").ok();
    store.sampan("run --name next one rename /probe.wasm /moved.wasm").ok();
    store.sampan("commit -c 'ENTRYPOINT [\"/moved.wasm\"]' next two").ok();
    store.sampan("run --rm two ls /").ok().stdout_is("made/\nmoved.wasm\n");
    // Files are root's in the archive, as they are for who is inside.
    let tree = store.shell("sampan export next | tar --numeric-owner -tvf -").ok();
    tree.stdout_has(" 0/0 ").stdout_has("made/").stdout_lacks("probe.wasm");
}

#[test]
fn without_namespaces_a_commit_has_what_changed() {
    // Whatever the machine can do: where it can do all, this is the overlay's way once more.
    let store = Store::fresh(&["probe"]);
    let context = Dir::context("FROM probe\nCOPY d /d\n").file("d/same", "x").file("d/gone", "x").file("d/old", "x");
    store.build_from("base", &context);
    store.sampan("create --name box base").ok();
    // What the fallback does at the first start: a copy of all layers, and a mark that says so.
    let id = store.sampan("inspect -f {{.Id}} box").ok().line();
    let script = format!(
        "cd \"$SAMPAN_ROOT/containers/{id}\"
         sampan export box | tar -xf - -C upper
         touch copied
         rm upper/d/gone; echo changed > upper/d/old; echo new > upper/new
         sampan export box | tar -tf -
         sampan commit -p box after >/dev/null"
    );
    store.shell(&script).ok().stdout_has("d/old\n").stdout_lacks("d/gone");
    store.sampan("run --rm after ls /d").ok().stdout_is("old\nsame\n");
    store.sampan("run --rm after cat /d/old").ok().stdout_is("changed\n");
    store.sampan("run --rm after cat /new").ok().stdout_is("new\n");
    let sizes = store.sampan("history --human=false --format {{.Size}} after").ok();
    let last: u64 = sizes.lines()[0].parse().unwrap();
    assert!(last < 1000, "the layer has more than what changed: {sizes}");
}

#[test]
fn a_load_that_is_killed_leaves_nothing_that_counts() {
    let store = Store::fresh(&["hello"]);
    let dir = Dir::new();
    let script = format!(
        "cd '{dir}'
         sampan save -o a.tar hello
         sampan rmi hello >/dev/null
         mkfifo pipe
         sampan load -i pipe &
         exec 3>pipe
         head -c 20000 a.tar >&3
         until ls \"$SAMPAN_ROOT\"/tmp/*/member-* >/dev/null 2>&1; do :; done
         kill -9 $!
         wait $! || true
         [ -z \"$(sampan images -q)\" ]
         sampan load -q -i a.tar
         ls -A \"$SAMPAN_ROOT/tmp\"
         sampan run --rm hello"
    );
    store.shell(&script).ok().stdout_is("Loaded image: hello:latest\nHello from Sampan!\n");
}

#[test]
fn limits_can_be_moved_and_say_so() {
    let store = Store::fresh(&["hello"]);
    let dir = Dir::new();
    store.sampan(format!("save -o '{dir}/a.tar' hello")).ok();
    store.sampan("rmi hello").ok();
    let load = || store.sampan(format!("load -q -i '{dir}/a.tar'"));
    load()
        .env("SAMPAN_MAX_UNPACKED", "10k")
        .fails(1)
        .stderr_has("more than 10240 bytes; SAMPAN_MAX_UNPACKED allows more");
    load().env("SAMPAN_MAX_ENTRIES", "0").fails(1).stderr_has("more than 0 entries; SAMPAN_MAX_ENTRIES allows more");
    load().env("SAMPAN_MAX_ENTRIES", "many").fails(1).stderr_has("SAMPAN_MAX_ENTRIES is \"many\"");
    load().env("SAMPAN_MAX_UNPACKED", "1g").ok();
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    if lacks(&[Need::Tool("script")]) {
        return;
    }
    let store = Store::shared(&["hello"]);
    let container = store.container("terminal");
    store.sampan(format!("create --name {container} hello")).ok();
    for command in ["sampan save hello".to_owned(), format!("sampan export {container}")] {
        let seen = store.shell(&format!("script -qec '{command}' /dev/null || true")).ok();
        seen.stdout_has("cowardly refusing to").stdout_has("use -o FILE").stdout_lacks("oci-layout");
    }
    // A pipe that somebody has made is written to, and not replaced.
    let dir = Dir::new();
    let script = format!("mkfifo '{dir}/pipe'; sampan save -o '{dir}/pipe' hello & tar -tf '{dir}/pipe'; wait");
    store.shell(&script).ok().stdout_has("oci-layout\n");
}
