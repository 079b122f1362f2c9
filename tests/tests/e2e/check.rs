//! `system check`: what is whole is not accused, what is broken is named, and what can be made anew is.

use sampan_tests::registry::digest;
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Output, Store, eventually, tree};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CHECK: &str = "system check";
const REPAIR: &str = "system check --repair";

fn fine(store: &Store) {
    store.sampan(CHECK).ok().stdout_has(": nothing is wrong\n").stderr_is("");
    store.sampan("system check -q").ok().stdout_is("");
    store.sampan("system check --format json").ok().stdout_is("");
}

/// What a check finds, which `--repair` then repairs.
fn found_and_repaired(store: &Store, words: &[&str]) {
    let found = store.sampan(CHECK).fails(1);
    let repaired = store.sampan(REPAIR).ok();
    for word in words {
        assert!(found.stdout.contains(word), "{word} is not in {found}");
    }
    repaired.stdout_has("): repaired\n");
    fine(store);
}

/// The only thing in a directory of the store.
fn only(store: &Store, dir: &str, end: &str) -> PathBuf {
    let dir = store.root().join(dir);
    let all: Vec<String> = tree(&dir, &[]).into_iter().filter(|path| path.ends_with(end)).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    dir.join(&all[0])
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn kinds(output: &Output) -> Vec<String> {
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["Severity"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_store_that_is_whole_is_told_in_one_line() {
    let store = Store::fresh(&["hello", "probe"]);
    fine(&store);
    store.sampan("network create net").ok();
    store.sampan("create --name one -v vol:/v --network net hello").ok();
    store.sampan("run --name two hello").ok();
    store.sampan("run -d --name three probe forever").ok();
    fine(&store);
    let line = store.sampan(CHECK).ok().stdout;
    let counts = "Checked 2 images, 2 layers, 2 programs, 3 containers, 1 volume, 1 network: nothing is wrong\n";
    assert_eq!(line, counts);
    store.sampan(REPAIR).ok().stdout_is(counts);
    store.sampan("ps --format {{.Names}}").ok().stdout_is("three\n");
}

#[test]
fn a_flipped_bit_of_compiled_code_is_found_and_the_code_made_anew() {
    let store = Store::fresh(&["hello"]);
    flip(&only(&store, "code", ".cwasm"));
    found_and_repaired(&store, &["compiled code ", "not what was compiled", REPAIR]);
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
    fine(&store);
    std::fs::write(only(&store, "code", ".json"), "{").unwrap();
    found_and_repaired(&store, &["its record cannot be read"]);
}

#[test]
fn a_link_to_the_code_of_another_program_is_found() {
    let store = Store::fresh(&["hello"]);
    let links = store.root().join(only(&store, "code", "/files/"));
    let link = std::fs::read_dir(links).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&link).unwrap();
    symlink(digest(b"another"), &link).unwrap();
    found_and_repaired(&store, &["it is recorded with the digest"]);
    store.sampan("run --rm hello").ok();
}

#[test]
fn an_unpacked_layer_is_compared_with_its_archive_and_unpacked_anew() {
    let store = Store::fresh(&[]);
    let context = Dir::context("FROM scratch\nCOPY . /\nENTRYPOINT [\"/hello.wasm\"]\n");
    let context = context.copy("hello.wasm", &sample_file("hello")).file("d/f", "text").link("link", "d/f");
    store.build_from("made", &context);
    fine(&store);
    let layer = only(&store, "layers", "/d/f").parent().unwrap().parent().unwrap().to_owned();
    let file = layer.join("d/f");
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let all: [Damage; 5] = [
        ("/hello.wasm has another content", &|| flip(&layer.join("hello.wasm"))),
        ("/d/f is lost", &|| std::fs::remove_file(&file).unwrap()),
        ("/d/more should not be there", &|| std::fs::write(layer.join("d/more"), "").unwrap()),
        ("/link leads elsewhere", &|| {
            std::fs::remove_file(layer.join("link")).unwrap();
            symlink("d/g", layer.join("link")).unwrap();
        }),
        ("/d/f has another mode", &|| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }),
    ];
    for (words, damage) in all {
        damage();
        found_and_repaired(&store, &["image made:latest: its layer is not as it was unpacked: ", words]);
        store.sampan("run --rm made").ok().stdout_is("Hello from Sampan!\n");
    }
}

#[test]
fn a_layer_that_a_container_runs_on_stays_until_that_has_stopped() {
    let store = Store::fresh(&["probe"]);
    store.sampan("run -d --name box probe forever").ok();
    let layer = only(&store, "layers", "/probe.wasm");
    std::fs::write(layer.with_file_name("more"), "").unwrap();
    store.sampan(REPAIR).fails(1).stdout_has("stop the container box");
    store.sampan("stop box").ok();
    found_and_repaired(&store, &["/more should not be there"]);
    store.sampan("start box").ok();
}

#[test]
fn a_lost_layer_of_a_container_is_unpacked_again() {
    let store = Store::fresh(&["hello"]);
    store.sampan("create --name box hello").ok();
    let layer = only(&store, "layers", "/hello.wasm");
    std::fs::remove_dir_all(layer.parent().unwrap()).unwrap();
    found_and_repaired(&store, &["container box: an unpacked layer of its image is lost"]);
    store.sampan("start -a box").ok().stdout_is("Hello from Sampan!\n");
}

#[test]
fn a_damaged_blob_names_its_image_and_comes_again() {
    let store = Store::fresh(&["hello", "probe"]);
    let dir = Dir::new();
    store.sampan(format!("save -o '{dir}/hello.tar' hello")).ok();
    let layer = store.sampan("image inspect -f").arg("{{.Id}} {{index .RootFS.Layers 0}}").arg("hello").ok().line();
    let (config, _) = layer.split_once(' ').unwrap();
    let blobs = store.root().join("content/blobs/sha256");
    let config = blobs.join(config.trim_start_matches("sha256:"));
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.root().join("content/index.json")).unwrap()).unwrap();
    let of_hello = |entry: &&serde_json::Value| entry.to_string().contains("library/hello");
    let manifest = index["manifests"].as_array().unwrap().iter().find(of_hello).unwrap()["digest"].as_str().unwrap();
    let manifest = blobs.join(manifest.trim_start_matches("sha256:"));
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let layer = blobs.join(text["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    for (blob, kind) in [(layer, "its layer"), (config, "its config"), (manifest, "its manifest")] {
        flip(&blob);
        store.sampan(CHECK).fails(1).stdout_has("image hello:latest: ").stdout_has(kind).stdout_has("is damaged");
        store.sampan(REPAIR).fails(1).stdout_has("its bytes were removed").stdout_has("load");
        store.sampan(CHECK).fails(1).stdout_has(kind).stdout_has("is lost");
        // The others are listed and run all the same.
        store.sampan("run --rm probe args x").ok();
        store.sampan("images").run().stdout_has("probe");
        store.sampan(format!("load -q -i '{dir}/hello.tar'")).ok();
        fine(&store);
        store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
    }
}

#[test]
fn an_image_that_cannot_be_read_can_be_removed() {
    for which in ["config", "manifest"] {
        let store = Store::fresh(&["hello", "probe"]);
        let blobs = store.root().join("content/blobs/sha256");
        let id = store.sampan("image inspect -f {{.Id}} hello").ok().line();
        let index = std::fs::read_to_string(store.root().join("content/index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let of_hello = |entry: &&serde_json::Value| entry.to_string().contains("library/hello");
        let entry = index["manifests"].as_array().unwrap().iter().find(of_hello).unwrap().clone();
        let digest = if which == "config" { id } else { entry["digest"].as_str().unwrap().to_owned() };
        std::fs::remove_file(blobs.join(digest.trim_start_matches("sha256:"))).unwrap();
        store.sampan(CHECK).fails(1).stdout_has("sampan rmi hello:latest");
        store.sampan("rmi hello:latest").ok();
        store.sampan(REPAIR).ok();
        fine(&store);
        store.sampan("images --format {{.Repository}}").ok().stdout_is("probe\n");
    }
}

#[test]
fn what_a_container_has_lost_is_told_and_its_name_given_back() {
    let store = Store::fresh(&["hello"]);
    let id = store.sampan("create --name box -v vol:/v hello").ok().line();
    let dir = store.root().join("containers").join(&id);
    let link = store.root().join("names/box");
    std::fs::remove_file(&link).unwrap();
    found_and_repaired(&store, &["container box: its name does not lead to it"]);
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), Some(id.as_str()));
    store.sampan("start -a box").ok();
    std::fs::write(dir.join("ended.json"), "{").unwrap();
    store.sampan("ps -a --format {{.Status}}").ok().stdout_has("Exited (137)");
    found_and_repaired(&store, &["how it ended is not known"]);
    std::fs::remove_dir_all(store.root().join("volumes/vol")).unwrap();
    store.sampan(REPAIR).fails(1).stdout_has("its volume vol is lost").stdout_has("sampan volume create vol");
    store.sampan("volume create vol").ok();
    fine(&store);
    let config = std::fs::read(dir.join("config.json")).unwrap();
    std::fs::write(dir.join("config.json"), "{").unwrap();
    store.sampan(REPAIR).fails(1).stdout_has("config.json is damaged").stdout_has("sampan rm box");
    std::fs::write(dir.join("config.json"), config).unwrap();
    std::fs::write(dir.join("record.json"), "{").unwrap();
    store.sampan(REPAIR).fails(1).stdout_has(&format!("container {}", &id[..12])).stdout_has("record.json is damaged");
}

#[test]
fn a_volume_and_a_network_without_their_records_are_told() {
    let store = Store::fresh(&[]);
    store.sampan("volume create vol").ok();
    store.sampan("network create net").ok();
    fine(&store);
    std::fs::remove_file(store.root().join("volumes/vol/volume.json")).unwrap();
    std::fs::write(store.root().join("networks/net/network.json"), "{").unwrap();
    store.sampan(CHECK).fails(1).stdout_has("volume vol: ").stdout_has("network net: ").stdout_has(": 2 problems\n");
}

#[test]
fn what_killed_commands_left_is_counted_and_swept() {
    let store = Store::fresh(&["hello"]);
    let root = store.root();
    std::fs::create_dir(root.join("tmp/4194305.1.0")).unwrap();
    std::fs::write(root.join("content/.index.json.4194305.0"), "{").unwrap();
    std::fs::write(root.join(format!("content/blobs/sha256/{}", "a".repeat(64))), "x").unwrap();
    std::fs::create_dir(root.join(format!("layers/{}", "b".repeat(64)))).unwrap();
    symlink("c".repeat(64), root.join("names/gone")).unwrap();
    std::fs::create_dir_all(store.run_dir().join("dddddddddddd")).unwrap();
    let words = ": 6 leftovers of killed commands, which --repair removes\n";
    let line = store.sampan(CHECK).ok().stdout_has(words);
    assert_eq!(line.lines().len(), 1);
    // The scratch has been swept by now: the check itself has made some to compare layers in.
    let all = store.sampan("system check --format json").ok();
    assert_eq!(kinds(&all), ["left"; 5]);
    assert_eq!(store.sampan("system check -v").ok().lines().len(), 6);
    store.sampan(REPAIR).ok().stdout_has(": 5 leftovers of killed commands removed\n");
    fine(&store);
    store.sampan("run --rm hello").ok();
}

#[test]
fn a_run_that_was_killed_with_everything_is_known_when_the_machine_is_up_again() {
    let store = Store::fresh(&["probe"]);
    for (name, policy) in
        [("never", "no"), ("always", "always"), ("stopped", "unless-stopped"), ("ran", "unless-stopped")]
    {
        store.sampan(format!("run -d --name {name} --restart {policy} probe forever")).ok();
    }
    store.sampan("stop stopped").ok();
    // As if the power had been cut: of the run directory nothing is left.
    for pid in store.processes() {
        sampan_tests::command::kill(pid, rustix::process::Signal::KILL);
    }
    eventually("all are gone", || store.processes().is_empty());
    std::fs::remove_dir_all(store.run_dir()).unwrap();
    let states = store.sampan("ps -a --format").arg("{{.Names}} {{.State}}").ok();
    for line in ["never exited", "always exited", "stopped exited", "ran exited"] {
        assert!(states.stdout.contains(line), "{line} in {states}");
    }
    fine(&store);
    let restored = store.sampan("system restore").ok();
    let mut names = restored.lines();
    names.sort_unstable();
    assert_eq!(names, ["always", "ran"]);
}

#[test]
fn what_is_made_and_removed_beside_a_check_is_neither_accused_nor_harmed() {
    let store = Store::fresh(&["hello", "probe"]);
    let until = Instant::now() + Duration::from_secs(6);
    let all = [
        "run --rm hello",
        "run --rm -v /more --name box hello",
        "create --name made -v vol:/v probe args; sampan rm -v made",
        "run -d --name forever probe forever; sampan stop forever; sampan rm forever",
        "network create net; sampan run --rm --network net hello; sampan network rm net",
        "volume create own; sampan volume rm own",
        "tag hello other; sampan rmi other",
    ];
    let context = Dir::context("FROM hello\nCOPY f /f\nLABEL beside=check\n").file("f", "x");
    let build = format!("build -q -t built '{context}'; sampan run --rm built; sampan rmi built");
    std::thread::scope(|scope| {
        for line in all.into_iter().chain([build.as_str()]) {
            let store = &store;
            scope.spawn(move || {
                while Instant::now() < until {
                    store.shell(&format!("sampan {line}")).ok();
                }
            });
        }
        let mut checks = 0;
        while Instant::now() < until {
            let words = if checks % 2 == 0 { "system check -q" } else { "system check -q --repair" };
            store.sampan(words).ok().stdout_is("").stderr_is("");
            checks += 1;
        }
        assert!(checks > 2, "{checks}");
    });
    fine(&store);
}
