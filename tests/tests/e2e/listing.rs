//! Listings: `ps`, `images`, `volume ls`, their filters and formats.

use sampan_tests::files::unique;
use sampan_tests::{Dir, Store, net};

#[test]
fn ps_shows_what_runs_and_with_a_everything() {
    let store = Store::fresh(&["probe"]);
    store.sampan("ps").ok().stdout_is("CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n");
    store.sampan("create --name made probe").ok();
    store.sampan("run --name over probe exit 3").fails(3);
    let id = store.sampan("run -d --name runs probe forever").ok().line();
    let ps = store.sampan("ps").ok().stdout_has("runs").stdout_lacks("over").stdout_lacks("made");
    assert_eq!(ps.lines().len(), 2);
    assert!(ps.lines()[1].starts_with(&id[..12]), "{ps}");
    let all = store.sampan("ps -a").ok().stdout_has("\"/probe.wasm forever\"");
    let names: Vec<&str> = all.lines()[1..].iter().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["runs", "over", "made"], "the newest first");
    all.stdout_has("Exited (3) ").stdout_has("Created").stdout_has("Up ");
    store.sampan("ps -q").ok().stdout_is(&format!("{}\n", &id[..12]));
    store.sampan("ps -q --no-trunc").ok().stdout_is(&format!("{id}\n"));
    assert_eq!(store.sampan("ps -aq").ok().lines().len(), 3);
    store.sampan("ps -l --format {{.Names}}").ok().stdout_is("runs\n");
    store.sampan("ps -n 2 --format {{.Names}}").ok().stdout_is("runs\nover\n");
}

#[test]
fn ps_filters_by_what_docker_filters_by() {
    let store = Store::fresh(&["probe", "hello"]);
    let one = store.sampan("create --name web-one -l tier=front -v data:/data probe").ok().line();
    store.sampan("run --name web-two -l tier=back -l x probe exit 3").fails(3);
    store.sampan("run -d --name db probe forever").ok();
    store.sampan("run --name hi --network none hello").ok();
    for (filters, wanted) in [
        ("name=web", "web-two web-one"),
        ("name=^web-one$", "web-one"),
        ("name=web --filter name=hi", "hi web-two web-one"),
        ("label=tier", "web-two web-one"),
        ("label=tier=back --filter label=x", "web-two"),
        ("label=tier=front --filter label=x", ""),
        ("status=running", "db"),
        ("status=exited", "hi web-two"),
        ("status=created --filter status=running", "db web-one"),
        ("exited=3", "web-two"),
        ("exited=0", "hi"),
        ("ancestor=hello", "hi"),
        ("ancestor=probe --filter status=exited", "web-two"),
        ("ancestor=nothing", ""),
        ("network=none", "hi"),
        ("volume=data", "web-one"),
        ("volume=/data", "web-one"),
        ("before=db", "web-two web-one"),
        ("since=web-two", "hi db"),
        (&format!("id={}", &one[..8]), "web-one"),
    ] {
        let found = store.sampan(format!("ps -a --format {{{{.Names}}}} --filter {filters}")).ok();
        assert_eq!(found.lines().join(" "), wanted, "{filters}");
    }
    store.sampan("ps --filter colour=red").fails(1).stderr_has("colour=red").stderr_has("ancestor");
    store.sampan("ps --filter status=alive").fails(1).stderr_has("running");
    store.sampan("ps --filter name").fails(1).stderr_has("name=VALUE");
    store.sampan("ps --filter before=nobody").fails(1).stderr_has("nobody");
}

#[test]
fn ps_prints_through_templates_as_a_table_and_as_json() {
    let store = Store::shared(&["web"]);
    let label = format!("test={}", unique());
    let web = store.detached(format!("-p 127.0.0.1::8000 --expose 9000 -l {label} web"));
    let port = web.port("8000");
    let ps = format!("ps --filter label={label}");
    let ports = format!("9000/tcp, 127.0.0.1:{port}->8000/tcp");
    for (format, wanted) in [
        ("{{.Names}}: {{.Image}} {{.State}}", format!("{web}: web running\n")),
        ("{{.Ports}}", format!("{ports}\n")),
        (
            "table {{.Names}}\t{{.Command}}",
            format!("{:<len$}COMMAND\n{web}   \"/web.wasm\"\n", "NAMES", len = web.name().len() + 3),
        ),
        ("{{json .Names}}", format!("\"{web}\"\n")),
        ("{{upper .Image}}", "WEB\n".to_owned()),
        ("{{.Label \"test\"}}", format!("{}\n", &label[5..])),
    ] {
        store.sampan(&ps).arg("--format").arg(format).ok().stdout_is(&wanted);
    }
    let json = store.sampan(format!("{ps} --format json")).ok().json();
    assert_eq!((&json["Names"], &json["Ports"]), (&web.name().into(), &ports.as_str().into()));
    store.sampan(format!("{ps} --format")).arg("{{.Nope}}").fails(1).stderr_has("Nope");
    store.sampan(format!("{ps} --format")).arg("{{").fails(1);
    net::get(port, "/").expect(200);
}

#[test]
fn images_are_listed_with_filters_and_formats() {
    let store = Store::fresh(&["hello"]);
    let id = store.sampan("images -q --no-trunc").ok().line();
    store.build_from("other:1.2", &Dir::context("FROM hello\nLABEL kind=other\n"));
    store.build_from("ghcr.io/me/app:v1", &Dir::context("FROM hello\nLABEL kind=app\n"));
    let table = store.sampan("images").ok();
    assert!(table.lines()[0].starts_with("REPOSITORY"), "{table}");
    assert_eq!(table.lines().len(), 4);
    table.stdout_has("ghcr.io/me/app").stdout_has("v1").stdout_has(&id["sha256:".len()..][..12]);
    for (args, wanted) in [
        ("other", "other:1.2"),
        ("other:1.2", "other:1.2"),
        ("'*/*/app'", "ghcr.io/me/app:v1"),
        ("nothing", ""),
        ("--filter label=kind=app", "ghcr.io/me/app:v1"),
        ("--filter reference=hello", "hello:latest"),
        ("--filter dangling=true", ""),
        ("--filter before=other:1.2", "hello:latest"),
        ("--filter since=other:1.2", "ghcr.io/me/app:v1"),
    ] {
        let found = store.sampan(format!("images --format {{{{.Repository}}}}:{{{{.Tag}}}} {args}")).ok();
        assert_eq!(found.lines().join(" "), wanted, "{args}");
    }
    let json = store.sampan("images hello --format json").ok().json();
    assert_eq!((&json["Repository"], &json["Tag"]), (&"hello".into(), &"latest".into()));
    assert!(store.sampan("images --digests --format {{.Digest}} hello").ok().line().starts_with("sha256:"));
}

#[test]
fn volumes_are_made_listed_and_pruned() {
    let store = Store::fresh(&["probe"]);
    store.sampan("volume create --label keep=no one").ok().stdout_is("one\n");
    store.sampan("volume create two").ok().stdout_is("two\n");
    store.sampan("volume create two").ok().stdout_is("two\n");
    store.sampan("create --name user -v two:/two probe").ok();
    store.sampan("volume ls -q").ok().stdout_is("one\ntwo\n");
    store.sampan("volume ls -q --filter dangling=true").ok().stdout_is("one\n");
    store.sampan("volume ls -q --filter name=tw").ok().stdout_is("two\n");
    store.sampan("volume ls -q --filter label=keep").ok().stdout_is("one\n");
    let volume = store.sampan("volume inspect two").ok().json();
    assert_eq!(volume[0]["Name"], "two");
    assert!(std::path::Path::new(volume[0]["Mountpoint"].as_str().unwrap()).is_dir());
    store.sampan("volume rm two").fails(1).stderr_has("in use");
    store.sampan("volume create ../x").fails(1).stderr_has("../x");
    store.sampan("volume prune -a -f").ok().stdout_has("one").stdout_lacks("two");
    store.sampan("volume ls -q").ok().stdout_is("two\n");
    store.sampan("rm user").ok();
    store.sampan("volume rm two").ok();
    store.sampan("volume rm two").fails(1).stderr_has("no such volume: two");
    store.sampan("volume rm -f two").ok();
}

#[test]
fn inspect_shows_a_container_as_docker_does() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new();
    let line = format!("-e A=b -l l=1 -w /srv -v '{data}:/data:ro' --stop-timeout 3 -i probe stdin");
    let container = store.detached(line);
    let all = store.sampan(format!("inspect {container}")).ok().json();
    let one = &all[0];
    assert_eq!(one["Name"], format!("/{container}"));
    assert_eq!(one["Path"], "/probe.wasm");
    assert_eq!(one["Args"][0], "stdin");
    assert_eq!(one["State"]["Status"], "running");
    assert_eq!(one["Config"]["Labels"]["l"], "1");
    assert_eq!(one["Config"]["WorkingDir"], "/srv");
    assert_eq!(one["Config"]["Image"], "probe");
    assert_eq!(one["Config"]["StopTimeout"], 3);
    assert_eq!(one["Config"]["OpenStdin"], true);
    assert_eq!(one["Mounts"][0]["Destination"], "/data");
    assert_eq!(one["Mounts"][0]["RW"], false);
    assert!(one["Image"].as_str().unwrap().starts_with("sha256:"));
    assert!(one["Config"]["Env"].as_array().unwrap().contains(&"A=b".into()));
    assert!(std::path::Path::new(one["LogPath"].as_str().unwrap()).is_absolute());
    // Both the container and what is not there.
    let failed = store.sampan(format!("inspect {container} nobody-here")).fails(1).stderr_has("nobody-here");
    assert_eq!(failed.json().as_array().unwrap().len(), 1);
}

#[test]
fn inspect_shows_an_image_and_what_it_can_ask_for() {
    let store = Store::shared(&["tcp"]);
    let all = store.sampan("inspect --type image tcp").ok().json();
    let one = &all[0];
    assert_eq!(one["RepoTags"][0], "tcp:latest");
    assert_eq!(one["Config"]["Entrypoint"][0], "/tcp.wasm");
    assert!(one["Config"]["ExposedPorts"].get("7000/tcp").is_some());
    let imports = one["Sampan"]["Imports"].as_array().unwrap();
    assert!(imports.iter().any(|import| import.as_str().unwrap().starts_with("wasi:sockets/tcp@")), "{imports:?}");
}

#[test]
fn what_a_container_has_written_is_its_size() {
    let store = Store::shared(&["probe"]);
    let container = store.container("size");
    store.sampan(format!("run --name {container} probe fill /f 123456")).ok();
    assert_eq!(store.sampan(format!("inspect -s -f {{{{.SizeRw}}}} {container}")).ok().line(), "123456");
    let ps = store.sampan(format!("ps -a -s --filter name={container} --format {{{{.Size}}}}")).ok();
    ps.stdout_has("123kB (virtual ");
}

#[test]
fn version_tells_the_engine() {
    let store = Store::shared(&[]);
    store.sampan("version").ok().stdout_has("Engine:").stdout_has("wasmtime");
    assert!(store.sampan("version -f json").ok().json()["Client"]["Version"].is_string());
}

#[test]
fn completion_is_printed_for_shells() {
    let store = Store::shared(&[]);
    store.sampan("completion bash").ok().stdout_has("sampan");
    store.sampan("completion").fails(125);
}
