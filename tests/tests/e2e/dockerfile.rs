//! What a Dockerfile can say, from its text to the container that runs.

use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};
use serde_json::json;

#[test]
fn several_stages_make_one_image_that_runs() {
    let store = Store::shared(&[]);
    let context = Dir::context(
        "# syntax=docker/dockerfile:1\nARG FROM_BASE=scratch\nFROM $FROM_BASE AS programs\nCOPY probe.wasm /bin/probe.wasm\n\
         FROM nowhere AS unused\nRUN make\nFROM programs AS data\nARG WHAT=nothing\nCOPY <<EOF /data/what\n$WHAT\nEOF\n\
         FROM scratch\nCOPY --from=programs /bin/probe.wasm /p\nCOPY --from=data /data /data\nENV A=1\nENTRYPOINT [\"/p\"]\n",
    )
    .copy("probe.wasm", &sample_file("probe"));
    let built = store.sampan(format!("build -t stages --build-arg WHAT=something --build-arg NO=1 '{context}'")).ok();
    for line in ["[programs 1/2] FROM $FROM_BASE AS programs\n", "[data 2/3] ARG", "[stage-3 1/5] FROM scratch\n"] {
        assert!(built.stdout.contains(line), "{line} {built}");
    }
    built.stderr_has("warning: the build argument NO is used by no ARG");
    store.sampan("run --rm stages cat /data/what").ok().stdout_is("something\n");
    let target = format!("build -q -t stages:data --target data '{context}'");
    store.sampan(target).ok();
    store.sampan("run --rm --entrypoint /bin/probe.wasm stages:data cat /data/what").ok().stdout_is("nothing\n");
    store
        .sampan(format!("build --target none '{context}'"))
        .fails(1)
        .stderr_has("no stage \"none\"")
        .stderr_has("programs");
}

#[test]
fn what_native_tools_make_comes_as_a_build_context() {
    let store = Store::shared(&[]);
    let context = Dir::context(
        "FROM golang:1.23 AS build\nRUN go build -o /out/app.wasm\nFROM scratch\nCOPY --from=build /app.wasm /app.wasm\n\
         ENTRYPOINT [\"/app.wasm\"]\n",
    );
    let failed = store.sampan(format!("build '{context}'")).fails(1);
    failed.stderr_has("Dockerfile:1:1: there is no image golang:1.23 here").stderr_has("--build-context build=DIR");
    let out = Dir::new().copy("app.wasm", &sample_file("hello"));
    store.sampan(format!("build -q -t from-outside --build-context build={out} '{context}'")).ok();
    store.sampan("run --rm from-outside").ok().stdout_is("Hello from Sampan!\n");
    store.sampan(format!("build --build-context build '{context}'")).fails(1).stderr_has("NAME=DIR");
    store
        .sampan(format!("build --build-context a=oci-layout://x '{context}'"))
        .fails(1)
        .stderr_has("docker-image://IMAGE");
}

#[test]
fn what_docker_keeps_in_a_config_is_kept() {
    let store = Store::shared(&["hello"]);
    let base = Dir::context(
        "FROM hello\nHEALTHCHECK --interval=5s CMD [\"/check\"]\nSHELL [\"/sh\", \"-c\"]\nUSER 1000\nSTOPSIGNAL SIGINT\n\
         MAINTAINER me\nONBUILD LABEL built=on\n",
    );
    store.build_from("config-base", &base);
    let top = store.build_from("config-top", &Dir::context("FROM config-base\nLABEL a=b\n"));
    let file = store.root().join("content/blobs/sha256").join(top.trim_start_matches("sha256:"));
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(config["author"], "me");
    let config = &config["config"];
    assert_eq!(config["Healthcheck"], json!({"Test": ["CMD", "/check"], "Interval": 5_000_000_000_u64}));
    assert_eq!(config["Shell"], json!(["/sh", "-c"]));
    assert_eq!((&config["User"], &config["StopSignal"]), (&json!("1000"), &json!("SIGINT")));
    assert_eq!(config["Labels"], json!({"a": "b", "built": "on"}));
    assert!(config["OnBuild"].is_null());
}

#[test]
fn the_dockerfile_and_the_context_come_from_standard_input() {
    let store = Store::shared(&["hello"]);
    let context = Dir::new().file("f", "from the context");
    let text = "FROM hello\nCOPY f /f\nLABEL from=input\n";
    store.sampan(format!("build -q -t stdin:1 -f - '{context}'")).stdin(text).ok();
    store.sampan("inspect --type image -f {{.Config.Labels.from}} stdin:1").ok().stdout_is("input\n");
    let failed = store.sampan(format!("build -f - '{context}'")).stdin("FROM hello\nFOO\n").fails(1);
    failed.stderr_has("-:2:1: unknown instruction");
    // A Dockerfile alone has an empty context.
    store.sampan("build -q -t stdin:2 -").stdin("FROM hello\nCOPY . /all\n").ok();
    store.sampan("build -").stdin("FROM hello\nCOPY f /f\n").fails(1).stderr_has("-:2:1: COPY failed");
    // An archive is a whole context.
    for compress in ["", "z"] {
        let whole = Dir::context(text).file("f", "x").file("other/Dockerfile", "FROM hello\nLABEL from=other\n");
        let sampan = "sampan build -q -t stdin:3";
        store.shell(&format!("tar -C '{whole}' -c{compress} . | {sampan} -")).ok();
        store.sampan("inspect --type image -f {{.Config.Labels.from}} stdin:3").ok().stdout_is("input\n");
        store.shell(&format!("tar -C '{whole}' -c{compress} . | {sampan} -f other/Dockerfile -")).ok();
        store.sampan("inspect --type image -f {{.Config.Labels.from}} stdin:3").ok().stdout_is("other\n");
    }
    store.sampan("build -").stdin(b"\xff\xfe no text").fails(1).stderr_has("neither a tar archive");
    store.sampan("build -f - -").stdin("").fails(1).stderr_has("cannot be both");
    store.sampan("build https://example.org/repository.git").fails(1).stderr_has("must be a directory");
}

#[test]
fn flags_say_what_to_build_and_how_to_tell() {
    let store = Store::shared(&[]);
    let context = Dir::context("FROM scratch\nCOPY hello.wasm /h\nARG A B\nLABEL a=$A b=$B\nENTRYPOINT [\"/h\"]\n");
    let context = context.copy("hello.wasm", &sample_file("hello"));
    let build = format!("build --progress=plain --iidfile '{context}/id' --platform wasip1/wasm -t flags '{context}'");
    store.sampan(format!("{build} --build-arg A=1 --build-arg B")).env("B", "from here").ok();
    let id = store.sampan("inspect --type image -f {{.Id}} flags").ok().line();
    assert_eq!(context.read("id"), id);
    let labels = store.sampan("inspect --type image -f").arg("{{json .Config.Labels}}").arg("flags").ok();
    labels.stdout_is("{\"a\":\"1\",\"b\":\"from here\"}\n");
    store.sampan(format!("build --progress=quiet '{context}'")).ok().stdout_has("sha256:");
    store.sampan(format!("build --progress=rawjson '{context}'")).fails(125).stderr_has("rawjson");
    store.sampan(format!("build --platform linux/amd64 '{context}'")).fails(1).stderr_has("wasip1/wasm");
    store.sampan(format!("build --platform wasip2 '{context}'")).fails(1).stderr_has("its program is for wasip1/wasm");
    // There is nothing to pull for scratch; what is at no registry cannot be pulled anew.
    store.sampan(format!("build --pull '{context}'")).ok();
    let on_flags = Dir::context("FROM flags\n");
    store.sampan(format!("build --pull '{on_flags}'")).fails(1).stderr_has("could not be pulled");
    for (kind, format, index) in [("oci", "oci-archive", "index.json"), ("docker", "docker-archive", "manifest.json")] {
        let archive = format!("{context}/{kind}.tar");
        store.sampan(format!("build -q -t flags -o type={kind},dest={archive} --build-arg A=1 '{context}'")).ok();
        store.sampan(format!("save --format {format} -o {archive}.saved flags")).ok();
        let same = format!("cmp '{archive}' '{archive}.saved'");
        store.shell(&same).ok();
        // A build that gives no name has none in its archive, whatever the same image is called here.
        store.sampan(format!("build -q -o type={kind},dest={archive}.bare --build-arg A=1 '{context}'")).ok();
        store.shell(&format!("tar -xf '{archive}.bare' -O {index}")).ok().stdout_lacks("flags");
    }
}

#[test]
fn archives_are_unpacked_by_add() {
    let store = Store::shared(&["probe"]);
    let context = Dir::context("FROM probe\nADD files.tar.gz /a/\nCOPY files.tar.gz /b/\n");
    let made = Dir::new().file("x/y", "packed").link("x/l", "y");
    store.shell(&format!("tar -C '{made}' -czf '{context}/files.tar.gz' x")).ok();
    store.build_from("added", &context);
    store.sampan("run --rm added cat /a/x/y").ok().stdout_is("packed");
    store.sampan("run --rm added cat /a/x/l").ok().stdout_is("packed");
    store.sampan("run --rm added cat /b/x/y").fails(1);
}

#[test]
fn what_was_built_is_written_where_it_is_wanted() {
    let store = Store::fresh(&[]);
    let context = Dir::context("FROM scratch\nCOPY . /files\nCOPY hello.wasm /h\nENTRYPOINT [\"/h\"]\n");
    let context = context.copy("hello.wasm", &sample_file("hello")).file("d/f", "text").link("d/l", "f");
    let out = Dir::new();
    store.sampan(format!("build -o '{out}/dir' '{context}'")).ok().stdout_has(&format!("Wrote {out}/dir\n"));
    assert_eq!((out.read("dir/files/d/f"), out.read("dir/files/d/l")), ("text".to_owned(), "text".to_owned()));
    assert_eq!(std::fs::read(out.join("dir/h")).unwrap(), std::fs::read(sample_file("hello")).unwrap());
    store.sampan("images -aq").ok().stdout_is("");
    let tar = store.shell(&format!("sampan build -o - '{context}' | tar -tf - | grep -v hello")).ok();
    tar.stdout_is("files/\nfiles/Dockerfile\nfiles/d/\nfiles/d/f\nfiles/d/l\nh\n");
    store.sampan(format!("build -q -t named -o 'type=tar,dest={out}/a.tar' '{context}'")).ok();
    store.sampan("run --rm named").ok();
    store.sampan(format!("build -o type=image,dest=x '{context}'")).fails(1).stderr_has("none of local");
    store.sampan(format!("build -o type=tar,dest=/none/such '{context}'")).fails(1).stderr_has("/none/such");
}

#[test]
fn an_artifact_is_what_the_cncf_describes() {
    let store = Store::shared(&[]);
    let out = Dir::new();
    for (sample, os) in [("hello", "wasip1"), ("web", "wasip2")] {
        let context = Dir::context(&format!("FROM scratch\nCOPY {sample}.wasm /p\nENTRYPOINT [\"/p\"]\n"));
        let context = context.copy(&format!("{sample}.wasm"), &sample_file(sample));
        store
            .sampan(format!("build -q -t artifact:{sample} -o type=artifact,dest={out}/{sample}.tar '{context}'"))
            .ok();
        store.shell(&format!("mkdir '{out}/{sample}' && tar -C '{out}/{sample}' -xf '{out}/{sample}.tar'")).ok();
        let json =
            |path: &str| -> serde_json::Value { serde_json::from_str(&out.read(&format!("{sample}/{path}"))).unwrap() };
        let blob = |digest: &serde_json::Value| format!("blobs/sha256/{}", &digest.as_str().unwrap()[7..]);
        let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
        let config = json(&blob(&manifest["config"]["digest"]));
        assert_eq!((&config["os"], &config["architecture"]), (&json!(os), &json!("wasm")));
        assert_eq!(config["layerDigests"], json!([manifest["layers"][0]["digest"]]));
        let wasm = std::fs::read(out.join(sample).join(blob(&manifest["layers"][0]["digest"]))).unwrap();
        assert_eq!(wasm, std::fs::read(sample_file(sample)).unwrap());
        let exports = config["component"]["exports"].to_string();
        assert_eq!(exports.contains("wasi:http/incoming-handler@0.2"), sample == "web", "{exports}");
    }
}
