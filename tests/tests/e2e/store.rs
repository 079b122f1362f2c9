//! The store itself: full, closed, foreign or damaged.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::registry::Registry;
use sampan_tests::store::{NOBODY, sample_file};
use sampan_tests::{Dir, Output, Store, tree};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

const MOUNTS: &[Need] = &[Need::Root, Need::Tool("unshare")];

/// The compiled code of a store's only program.
fn code(store: &Store) -> PathBuf {
    let all = tree(&store.root().join("code"), &[]);
    let code: Vec<_> = all.iter().filter(|path| path.ends_with(".cwasm")).collect();
    assert_eq!(code.len(), 1, "{all:?}");
    store.root().join("code").join(code[0])
}

/// Shell functions for a store on a small disk: `full COMMAND…` must fail for want of space with words that say so,
/// and leave the scratch directory empty.
const FULL: &str = r#"
    full() {
        if "$@" >/tmp/out.$$ 2>&1; then echo "$* has succeeded on a full disk"; exit 1; fi
        grep -q 'No space left on device' /tmp/out.$$ || { echo "$*:"; cat /tmp/out.$$; exit 1; }
        grep -q 'free some space' /tmp/out.$$ || { echo "no way out in:"; cat /tmp/out.$$; exit 1; }
        [ -z "$(ls -A "$SAMPAN_ROOT/tmp")" ] || { ls -lR "$SAMPAN_ROOT/tmp"; exit 1; }
    }
    mkdir -p "$SAMPAN_ROOT"
    mount -t tmpfs -o size=$SIZE tmpfs "$SAMPAN_ROOT"
    trap 'rm -f /tmp/out.$$' EXIT
    fill() { dd if=/dev/zero of="$SAMPAN_ROOT/ballast" bs=4k 2>/dev/null || true; }
    free() { rm "$SAMPAN_ROOT/ballast"; }
"#;

#[test]
fn a_build_on_a_full_disk_says_so_and_works_once_there_is_space() {
    if lacks(MOUNTS) {
        return;
    }
    let store = Store::fresh(&[]);
    let context =
        Dir::context("FROM scratch\nCOPY hello.wasm /hello.wasm\nCOPY more /more\nENTRYPOINT [\"/hello.wasm\"]\n");
    let context = context.copy("hello.wasm", &sample_file("hello"));
    std::fs::write(
        context.join("more"),
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<u8>>(),
    )
    .unwrap();
    let script = format!(
        "{FULL}
        full sampan build -q -t hello '{context}'
        [ -z \"$(sampan images -q)\" ]
        mount -o remount,size=16m \"$SAMPAN_ROOT\"
        sampan build -q -t hello '{context}' >/dev/null
        sampan run --rm hello"
    );
    store.shell(&script).env("SIZE", "1m").under("unshare --mount").ok().stdout_is("Hello from Sampan!\n");
}

/// Runs a script on a disk of four mebibytes whose store has the probe's image.
fn on_a_small_disk(script: &str) -> Output {
    let store = Store::fresh(&[]);
    let sample = sample_file("probe");
    let samples = sample.parent().unwrap().display();
    let script = format!("{FULL}\nsampan build -q -t probe '{samples}' >/dev/null\n{script}");
    store.shell(&script).env("SIZE", "4m").under("unshare --mount").ok()
}

#[test]
fn create_and_run_on_a_full_disk_say_so_and_the_rest_works_on() {
    if lacks(MOUNTS) {
        return;
    }
    let run = on_a_small_disk(
        "sampan create --name before probe args x >/dev/null
        fill
        full sampan create --name after probe
        full sampan run --rm probe sleep 1
        full sampan run -d --name after probe
        full sampan volume create vol
        sampan ps -a --format '{{.Names}}'
        sampan images --format '{{.Repository}}'
        sampan rm before
        free
        sampan run --rm --name after probe args works",
    );
    run.stdout_is("before\nprobe\nbefore\nworks\n");
}

#[test]
fn a_guest_that_fills_the_disk_gets_an_error_and_its_end_is_told() {
    if lacks(MOUNTS) {
        return;
    }
    let run = on_a_small_disk(
        "code=0; sampan run --name box probe fill /f 100000000 2>/dev/null || code=$?
        sampan inspect -f '{{.State.Status}} {{.State.ExitCode}}' box
        sampan ps -aq --filter status=exited | wc -l
        sampan rm box
        sampan run --rm probe args \"$code\"",
    );
    run.stdout_is("exited 1\n1\nbox\n1\n");
}

/// Whatever a command comes to with so little space, it says so or it works, and leaves nothing half made; and when there
/// is space it works.
#[test]
fn every_command_on_a_disk_that_is_nearly_full_says_so_or_works() {
    if lacks(MOUNTS) || lacks(&[Need::Tool("docker-registry")]) {
        return;
    }
    let noise: Vec<u8> = (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let context = Dir::context("FROM probe\nCOPY noise /noise\n").file("noise", &noise);
    let (registry, store) = (Registry::start(), Store::fresh(&["probe"]));
    let name = registry.name("noise");
    store.build_from(&name, &context);
    store.sampan(format!("push {name}")).ok();
    store.sampan(format!("save -o '{context}/noise.tar' {name}")).ok();
    let script = format!(
        r#"
        try() {{
            if ! "$@" >/tmp/out.$$ 2>&1; then
                grep -q 'No space left on device' /tmp/out.$$ || {{ echo "$kib KiB: $*:"; cat /tmp/out.$$; exit 1; }}
            fi
            sampan system check -q 2>/tmp/out.$$ || {{ echo "$kib KiB: after $*"; cat /tmp/out.$$; exit 1; }}
            [ -z "$(ls -A "$SAMPAN_ROOT/tmp")" ] || {{ echo "$kib KiB: after $*"; ls -lR "$SAMPAN_ROOT/tmp"; exit 1; }}
            rm "$SAMPAN_ROOT/ballast"
            shift
            sampan "$@" >/tmp/out.$$ 2>&1 || case "$*" in *box*|*net) ;; *) echo "with space: $*"; cat /tmp/out.$$; exit 1;; esac
            sampan rm -f -v box >/dev/null 2>&1 || true
            sampan rmi -f {name} made >/dev/null 2>&1 || true
            sampan builder prune -a -f >/dev/null
            sampan system check -q
        }}
        for kib in 0 4 8 16 48 96 160 240 400; do
            leave() {{
                fill
                size=$(stat -c %s "$SAMPAN_ROOT/ballast")
                truncate -s $((size - kib * 1024)) "$SAMPAN_ROOT/ballast"
            }}
            leave; try sampan build -q -t made '{context}'
            leave; try sampan pull -q {name}
            leave; try sampan load -q -i '{context}/noise.tar'
            leave; try sampan create --name box -v /v probe
            leave; try sampan run -d --name box -v vol:/v probe forever
            leave; try sampan run --rm --name box probe sleep 0.1
            sampan create --name box probe >/dev/null; leave; try sampan cp -q '{context}/noise' box:/noise
            sampan run -d --name box probe forever >/dev/null; leave; try sampan cp -q '{context}/noise' box:/noise
            sampan create --name box probe >/dev/null; sampan cp -q '{context}/noise' box:/noise
            leave; try sampan commit box made
            sampan create --name box probe >/dev/null; leave; try sampan start box
            sampan run -d --name box probe forever >/dev/null; leave; try sampan stop box
            sampan create --name box probe >/dev/null; leave; try sampan rm box
            leave; try sampan volume create vol
            leave; try sampan network create net
            sampan volume prune -a -f >/dev/null; sampan network prune -f >/dev/null
        done
        sampan system check"#
    );
    on_a_small_disk(&script).stdout_has(": nothing is wrong\n");
}

#[test]
fn times_to_come_and_long_gone_break_nothing() {
    let store = Store::fresh(&["probe"]);
    for (name, time) in [("ahead", "2099-01-01T00:00:00Z"), ("long-ago", "1970-01-01T00:00:01Z")] {
        let id = store.sampan(format!("create --name {name} -v {name}:/v probe args said")).ok().line();
        store.sampan(format!("start -a {name}")).ok();
        // As if the clock had stood elsewhere then.
        let dir = store.root().join("containers").join(id);
        for (file, keys) in [("record.json", &["created"][..]), ("ended.json", &["started", "finished"])] {
            let path = dir.join(file);
            let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            keys.iter().for_each(|key| record[*key] = time.into());
            std::fs::write(&path, record.to_string()).unwrap();
        }
        let log = dir.join("json.log");
        let text = std::fs::read_to_string(&log).unwrap();
        let at = text.find("\"time\":\"").unwrap() + 8;
        let end = at + text[at..].find('"').unwrap();
        std::fs::write(&log, format!("{}{time}{}", &text[..at], &text[end..])).unwrap();
    }
    store.sampan("system check -q").ok();
    store.sampan("ps -a --format").arg("{{.Names}} {{.Status}} {{.RunningFor}}").ok().stdout_has("ahead Exited (0)");
    store.sampan("ps -a --filter before=ahead --format {{.Names}}").ok().stdout_is("long-ago\n");
    for command in ["images", "system df -v", "info", "stats --no-stream -a", "volume ls", "inspect ahead long-ago"] {
        store.sampan(command).ok().stderr_is("");
    }
    store.sampan("logs -t ahead").ok().stdout_is("2099-01-01T00:00:00.000000000Z said\n");
    store.sampan("logs --since 1h ahead").ok().stdout_is("said\n");
    store.sampan("logs --until 1h ahead").ok().stdout_is("");
    store.sampan("logs --since 1h long-ago").ok().stdout_is("");
    store.sampan("logs --since 1h -f long-ago").ok().stdout_is("");
    for name in ["ahead", "long-ago"] {
        store.sampan(format!("start -a {name}")).ok().stdout_is("said\n");
    }
    store.sampan("container prune -f --filter until=1h").ok();
    store.sampan("ps -a --format {{.Names}}").ok().stdout_is("ahead\n");
    store.sampan("container prune -f").ok();
    store.sampan("ps -aq").ok().stdout_is("");
    // What a killed command left, made in a time to come.
    let left = store.root().join("containers").join("a".repeat(64));
    std::fs::create_dir(&left).unwrap();
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(1_000_000);
    std::fs::File::open(&left).unwrap().set_modified(ahead).unwrap();
    store.sampan("ps -a").ok();
    assert!(!left.exists());
}

#[test]
fn a_store_that_cannot_be_written_says_so_and_can_be_read() {
    if lacks(MOUNTS) {
        return;
    }
    let store = Store::fresh(&["hello"]);
    store.sampan("create --name box hello").ok();
    let script = r#"
        mount --bind "$SAMPAN_ROOT" "$SAMPAN_ROOT"
        mount -o remount,bind,ro "$SAMPAN_ROOT"
        sampan images --format '{{.Repository}}'
        sampan ps -a --format '{{.Names}}'
        sampan inspect -f '{{.State.Status}}' box
        sampan system check -q 2>/dev/null
        for command in 'run --rm hello' 'create hello' 'start box' 'rm box' 'rmi -f hello' 'volume create vol'; do
            if sampan $command 2>err; then echo "$command has succeeded"; exit 1; fi
            grep -q 'Read-only file system' err || { echo "$command:"; cat err; exit 1; }
            grep -q -e '--root' err || { echo "no way out of $command:"; cat err; exit 1; }
        done
    "#;
    let dir = Dir::new();
    let run = store.shell(script).dir(dir.path()).under("unshare --mount").ok();
    run.stdout_is("hello\nbox\ncreated\n");
    store.sampan("start -a box").ok();
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let store = Store::fresh(&["hello"]);
    let version = store.root().join("version");
    let usual = std::fs::read(&version).unwrap();
    std::fs::write(&version, "99\n").unwrap();
    let before = store.tree();
    for command in ["images", "ps", "info", "volume ls"] {
        store.sampan(command).fails(1).stderr_has("format 99").stderr_has("newer sampan");
    }
    store.sampan("run --rm hello").fails(125).stderr_has("format 99");
    assert_eq!(store.tree(), before);
    std::fs::write(&version, "hello").unwrap();
    store.sampan("images").fails(1).stderr_has("is this a sampan store?");
    std::fs::write(&version, "0\n").unwrap();
    for command in ["images", "ps", "system check", "system check --repair"] {
        store.sampan(command).fails(1).stderr_has("format 0").stderr_has("reads format 1");
    }
    assert_eq!(store.tree(), before);
    std::fs::remove_file(&version).unwrap();
    store.sampan("ps").fails(1).stderr_has("no version file").stderr_has("echo 1 >");
    assert!(!version.exists());
    std::fs::write(&version, usual).unwrap();
    store.sampan("run --rm hello").ok();
}

#[test]
fn a_root_that_cannot_be_is_told() {
    let dir = Dir::new().file("f", "");
    let store = Store::shared(&[]);
    let error = store.sampan(format!("images --root '{dir}/f'")).fails(1);
    error.stderr_has("/f");
    store.sampan(format!("run --root '{dir}/f/x' hello")).fails(125).stderr_has("/f/x");
}

#[test]
fn changed_code_is_not_run_but_compiled_anew() {
    let store = Store::fresh(&["hello"]);
    let code = code(&store);
    let good = std::fs::read(&code).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&code, &bad).unwrap();
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n").stderr_is("");
    assert!(std::fs::read(&code).unwrap() != bad, "what was changed is still there");
    // Half of it, none of it, and a link to what is good.
    for broken in [&good[..good.len() / 2], b""] {
        std::fs::write(&code, broken).unwrap();
        store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
    }
    let elsewhere = Dir::new().file("code", &good);
    std::fs::remove_file(&code).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("code"), &code).unwrap();
    store.sampan("run --rm hello").ok();
    assert!(code.symlink_metadata().unwrap().is_file());
}

#[test]
fn code_that_others_may_write_is_not_run() {
    let store = Store::fresh(&["hello"]);
    let code = code(&store);
    let first = code.metadata().unwrap().ino();
    std::fs::set_permissions(&code, PermissionsExt::from_mode(0o666)).unwrap();
    store.sampan("run --rm hello").ok();
    let meta = code.metadata().unwrap();
    assert!(meta.ino() != first && meta.mode() & 0o022 == 0, "{meta:?}");
}

#[test]
fn compiled_code_can_be_deleted_at_any_time() {
    let store = Store::fresh(&["hello"]);
    store.sampan("create --name box hello").ok();
    std::fs::remove_dir_all(store.root().join("code")).unwrap();
    store.sampan("start -a box").ok().stdout_is("Hello from Sampan!\n");
    store.sampan("run --rm hello").ok();
}

#[test]
fn unpacked_layers_that_are_lost_are_unpacked_again() {
    let store = Store::fresh(&["hello"]);
    for layer in std::fs::read_dir(store.root().join("layers")).unwrap().flatten() {
        std::fs::remove_dir_all(layer.path()).unwrap();
    }
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
}

#[test]
fn a_damaged_index_is_named() {
    let store = Store::fresh(&["hello"]);
    let index = store.root().join("content/index.json");
    std::fs::write(&index, "{\"manifests\": 3").unwrap();
    store.sampan("images").fails(1).stderr_has("index.json").stderr_has("damaged");
    store.sampan("run --rm hello").fails(125).stderr_has("index.json");
}

#[test]
fn a_store_and_its_sockets_are_closed_to_others() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    for dir in [store.root(), store.run_dir(), store.run_dir().parent().unwrap()] {
        let mode = dir.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", dir.display());
    }
    assert!(store.run_dir().join(&container.id()[..12]).join("sock").exists());
    if lacks(&[Need::Root, Need::Tool("setpriv")]) {
        return;
    }
    let other = store.as_user(NOBODY);
    for command in ["ps", "images", "inspect x"] {
        other.sampan(command).fails(1).stderr_has("ermission denied");
    }
    other.sampan(format!("kill {container}")).fails(1);
    other.sampan("run --rm probe").fails(125).stderr_has("ermission denied");
    assert_eq!(container.status(), "running");
}

#[test]
fn a_stranger_who_can_reach_a_control_socket_is_turned_away() {
    if lacks(&[Need::Root, Need::Tool("setpriv"), Need::UserNamespaces]) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    let container = store.detached("probe forever");
    // Every door is opened by its owner's mistake; what is left is the socket's own look at who comes.
    let dir = store.root().parent().unwrap().display();
    store.shell(&format!("chmod -R a+rwX '{dir}/store' '{dir}/run'")).ok();
    let stranger = store.as_user(65533);
    stranger.sampan("ps --format {{.Names}}").ok().stdout_is(&format!("{container}\n"));
    for command in ["stop", "kill", "rm -f"] {
        stranger.sampan(format!("{command} {container}")).fails(1);
        assert_eq!(container.status(), "running");
    }
    store.sampan(format!("kill {container}")).ok();
}

#[test]
fn a_run_directory_of_somebody_else_is_refused() {
    if lacks(&[Need::Root, Need::Tool("setpriv"), Need::UserNamespaces]) {
        return;
    }
    let store = Store::rootless(&["probe"]);
    // As if somebody had been there first, in a directory where everybody may write.
    let _ = std::fs::remove_dir_all(store.run_dir());
    std::fs::create_dir_all(store.run_dir()).unwrap();
    std::fs::set_permissions(store.run_dir(), PermissionsExt::from_mode(0o777)).unwrap();
    store.sampan("run --rm probe args").fails(125).stderr_has("belongs to user 0");
}
