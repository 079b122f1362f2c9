//! What nobody needs: found, shown and removed.

use sampan_tests::{Dir, Store};
use std::path::PathBuf;

/// The compiled code of a store.
fn code(store: &Store) -> Vec<PathBuf> {
    let all = sampan_tests::tree(&store.root().join("code"), &[]);
    all.iter().filter(|path| path.ends_with(".cwasm")).map(|path| store.root().join("code").join(path)).collect()
}

fn dangling(store: &Store, content: &str) -> String {
    let context = Dir::context(&format!("FROM scratch\nLABEL n={content}\nCOPY f /\n")).file("f", content);
    store.build_from("moving", &context)
}

#[test]
fn images_without_a_name_go_and_others_stay() {
    let store = Store::fresh(&["hello", "probe"]);
    let first = dangling(&store, "first");
    let second = dangling(&store, "second");
    store.sampan("create --name box probe").ok();
    store.sampan("images -q --no-trunc --filter dangling=true").ok().stdout_is(&format!("{first}\n"));
    let asked = store.sampan("image prune").stdin("n\n").ok();
    asked.stdout_has("WARNING! This will remove all dangling images.").stdout_has("[y/N]").stdout_lacks("Total");
    store.sampan("image prune -f --filter label=n=other").ok().stdout_is("Total reclaimed space: 0B\n");
    store.sampan("image prune -f --filter until=24h").ok().stdout_is("Total reclaimed space: 0B\n");
    let pruned = store.sampan("image prune").stdin("y\n").ok();
    pruned.stdout_has(&format!("deleted: {first}\n")).stdout_lacks(&second);
    assert_eq!(code(&store).len(), 2);

    // With -a everything that no container is made of.
    let pruned = store.sampan("image prune -a -f").ok();
    pruned.stdout_has("untagged: hello:latest").stdout_has("untagged: moving:latest").stdout_lacks("probe");
    store.sampan("images --format {{.Repository}}").ok().stdout_is("probe\n");
    assert_eq!(code(&store).len(), 1, "code that no image needs is gone, and the container's is there");
    store.sampan("start box").ok();
    for (filter, words) in [("name=x", "until, label, label!"), ("until=soon", "soon"), ("label", "written like")] {
        store.sampan(format!("image prune -f --filter {filter}")).fails(1).stderr_has(words);
    }
}

#[test]
fn everything_goes_when_everything_may() {
    let store = Store::fresh(&["hello"]);
    store.sampan("rmi hello").ok();
    let tree = || store.tree().into_iter().filter(|path| !path.starts_with("run: ")).collect::<Vec<_>>();
    let before = tree();
    let context = Dir::context("FROM scratch\nCOPY hello.wasm /\nVOLUME /v\nENTRYPOINT [\"/hello.wasm\"]\n")
        .copy("hello.wasm", &sampan_tests::store::sample_file("hello"));
    store.build_from("hello", &context);
    store.sampan("run --name box hello").ok();
    store.sampan("volume create named").ok();
    // What a killed process has left.
    std::fs::write(store.root().join("content/blobs/sha256").join("0".repeat(64)), "x").unwrap();
    std::fs::create_dir(store.root().join("tmp/4194305.1.0")).unwrap();
    std::fs::create_dir_all(store.root().join("code/of-another-version")).unwrap();

    let usual = store.sampan("system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'").ok();
    usual.stdout_is("Images 1 1\nContainers 1 0\nLocal Volumes 2 1\nCompiled Code 1 1\n");
    store.sampan("system df").ok().stdout_has("TYPE            TOTAL     ACTIVE    SIZE");
    let verbose = store.sampan("system df -v").ok();
    verbose.stdout_has("Images space usage:").stdout_has("UNIQUE SIZE").stdout_has("VOLUME NAME").stdout_has("named");
    let object = store.sampan("system df -v --format json").ok().json();
    assert_eq!(object["Images"][0]["Containers"], "1");
    let row = store.sampan("system df --format json").ok();
    assert!(row.lines()[0].contains("\"Type\":\"Images\""), "{row}");

    store.sampan("system prune").stdin("\n").ok().stdout_has("- all stopped containers\n").stdout_lacks("Deleted");
    let pruned = store.sampan("system prune -f").ok();
    pruned.stdout_has("Deleted Containers:\n").stdout_lacks("Deleted Images").stdout_lacks("Deleted Volumes");
    assert!(!store.root().join("code/of-another-version").exists());
    let pruned = store.sampan("system prune -a -f --volumes").ok();
    pruned.stdout_has("untagged: hello:latest").stdout_has("Deleted Volumes").stdout_lacks("named");
    store.sampan("volume rm named").ok();
    assert_eq!(tree(), before);
    assert!(code(&store).is_empty());
    store.sampan("system df --format '{{.Size}} {{.Reclaimable}}'").ok().stdout_is("0B 0B\n0B 0B\n0B 0B\n0B 0B\n");
    store.sampan("system prune -f --volumes --filter until=1h").fails(1).stderr_has("--volumes");
}

#[test]
fn stopped_containers_go_and_running_ones_stay() {
    let store = Store::fresh(&["probe"]);
    store.sampan("run --name over probe args x").ok();
    store.sampan("create --name never -l keep probe").ok();
    let running = store.detached("probe forever");
    store.sampan("container prune").stdin("no\n").ok().stdout_has("This will remove all stopped containers.");
    let over = store.sampan("inspect -f {{.Id}} over").ok().line();
    let pruned = store.sampan("container prune -f --filter label!=keep").ok();
    pruned.stdout_has(&format!("Deleted Containers:\n{over}\n\nTotal reclaimed space: "));
    store.sampan("container prune -f").ok();
    store.sampan("ps -a --format {{.Names}}").ok().stdout_is(&format!("{running}\n"));
    store.sampan("image prune -a -f").ok().stdout_lacks("probe");
    assert_eq!(running.status(), "running");
}

#[test]
fn a_prune_takes_nothing_from_a_build() {
    let store = Store::fresh(&["hello"]);
    let context = Dir::context("FROM scratch\nCOPY f /\n");
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8; do
             echo $n > '{context}/f'
             sampan build -q -t build:$n '{context}' >/dev/null &
             sampan save hello | sampan load -q >/dev/null &
             sampan system prune -f >/dev/null
             wait
         done
         wait"
    );
    store.shell(&script).ok();
    let all = store.sampan("images --format '{{.Repository}}:{{.Tag}}'").ok();
    for n in 1..=8 {
        assert!(all.stdout.contains(&format!("build:{n}\n")), "{all}");
    }
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
}

#[test]
fn the_groups_have_the_same_commands() {
    let store = Store::shared(&["hello"]);
    let container = store.container("group");
    store.sampan(format!("container create --name {container} hello")).ok();
    store.sampan("container ls -a --format {{.Names}}").ok().stdout_has(container.name());
    store.sampan("container list -aq").ok();
    store.sampan(format!("container inspect -f {{{{.Name}}}} {container}")).ok().stdout_has(container.name());
    store.sampan("container inspect hello").fails(1).stderr_has("no such container: hello");
    store.sampan(format!("container rm {container}")).ok();
    store.sampan("container run --rm --pull never none").fails(125).stderr_has("no such image");
    store.sampan("image ls --format {{.Repository}}").ok().stdout_has("hello");
    store.sampan("image inspect -f {{.Os}} hello").ok().stdout_is("wasip1\n");
    store.sampan("image inspect nothing").fails(1).stderr_has("no such image: nothing");
    store.sampan("image nonsense").fails(125);
    store.sampan("image").fails(125).stderr_has("prune");
    store.sampan("image --help").ok().stdout_has("prune").stdout_has("[alias: list]");
    store.sampan("system info").ok().stdout_has("Fences");
}

#[test]
fn an_images_capabilities_are_told_in_words() {
    let store = Store::shared(&["probe", "web", "tcp"]);
    let module = store.sampan("image inspect --capabilities probe").ok();
    let module = module.stdout_has("probe:latest: /probe.wasm (WASI 0.1 command)");
    module.stdout_has("IMPORTS").stdout_has("wasi_snapshot_preview1 path_*").stdout_has("--read-only");
    let web = store.sampan("image inspect --capabilities web").ok();
    web.stdout_has("wasi:http/types@0.2").stdout_has("answers HTTP requests").stdout_has("EXPORTS");
    let tcp = store.sampan("image inspect --capabilities tcp").ok();
    tcp.stdout_has("wasi:sockets/tcp@0.2").stdout_has("-p, --expose and EXPOSE");
    let json = store.sampan("image inspect --capabilities -f json probe").ok().json();
    assert_eq!(json[0]["Kind"], "WASI 0.1 command");
    store.sampan("image inspect --capabilities nothing").fails(1).stderr_has("no such image");
}
