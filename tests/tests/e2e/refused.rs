//! What cannot be done: the exit code of `docker run`, words that say what to do, and nothing left behind.

use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const LIBRARY: &str = "(module (func (export \"add\")))";
const FOREIGN: &str = "(module (import \"env\" \"f\" (func)) (func (export \"_start\")))";
const UNKNOWN_WORLD: &str = "(component (instance $i) (export \"acme:x/y\" (instance $i)))";
/// A world that we know, with an interface that nobody has.
const UNKNOWN_IMPORT: &str = r#"(component
    (import "acme:teapot/brew@1.0.0" (instance $i (export "brew" (func))))
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $c (instantiate $m))
    (func $run (result (result)) (canon lift (core func $c "run")))
    (instance $r (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $r)))"#;

/// Files that are no guests, beside one that is.
fn files() -> Dir {
    let good = std::fs::read(sample_file("hello")).unwrap();
    let native = std::fs::read("/proc/self/exe").unwrap();
    let half = &good[..good.len() / 2];
    Dir::new()
        .file("native.wasm", &native[..64 << 10])
        .file("half.wasm", half)
        .file("empty.wasm", "")
        .file("script.wasm", "#!/bin/sh\necho hi\n")
        .file("text.wasm", "hello")
        .file("library.wat", LIBRARY)
        .file("foreign.wat", FOREIGN)
        .file("world.wat", UNKNOWN_WORLD)
        .file("import.wat", UNKNOWN_IMPORT)
        .file("broken.wat", "(module (func")
        .file("plain", "")
}

/// A command, its exit code and what its user must be told.
type Case = (&'static str, i32, &'static str);

/// What cannot be understood or found: 125.
const NOT_UNDERSTOOD: &[Case] = &[
    ("run --nope hello", 125, "--nope"),
    ("run", 125, "IMAGE"),
    ("run nothere", 125, "cannot reach the registry 127.0.0.1:9"),
    ("run --pull never nothere", 125, "no such image: nothere"),
    ("run UPPER", 125, "UPPER"),
    ("run hello:none", 125, "Unable to find image 'hello:none' locally"),
    ("run ''", 125, ""),
    ("run --name a/b hello", 125, "a/b"),
    ("run --name -x hello", 125, "-x"),
    ("run --name x hello", 125, "\"x\""),
    ("run -p nonsense hello", 125, "nonsense"),
    ("run -p 0 hello", 125, "port"),
    ("run -p 70000 hello", 125, "70000"),
    ("run -p 1-3:1-2 hello", 125, "1-3:1-2"),
    ("run -p 80/icmp hello", 125, "icmp"),
    ("run -p 1.2.3:80:80 hello", 125, "IP address"),
    ("run --expose x hello", 125, "x"),
    ("run -v relative:x hello", 125, "absolute"),
    ("run -v /a:/b:ro:x hello", 125, "colons"),
    ("run -v /tmp:/b:shiny hello", 125, "shiny"),
    ("run -v b@d:/x hello", 125, "b@d"),
    ("run -v /tmp:/ hello", 125, "root"),
    ("run -v /tmp:/x -v /tmp:/x hello", 125, "/x"),
    ("run --mount type=tmpfs,target=/x hello", 125, "tmpfs"),
    ("run --mount type=bind,source=/none/such,target=/x hello", 125, "/none/such"),
    ("run --mount target=x hello", 125, "target"),
    ("run -w relative hello", 125, "relative"),
    ("run --env-file /none/such hello", 125, "/none/such"),
    ("run --network wifi hello", 125, "wifi"),
    ("run --stop-timeout soon hello", 125, "soon"),
    ("run ./none.wasm", 125, "none.wasm"),
    ("run ./nodir/", 125, "nodir"),
    ("create nothere", 125, "Unable to find image"),
];

/// What is there and can be no guest: 126.
const NO_GUEST: &[Case] = &[
    ("run ./native.wasm", 126, "native Linux program (ELF)"),
    ("run ./half.wasm", 126, "not valid"),
    ("run ./empty.wasm", 126, "empty file"),
    ("run ./script.wasm", 126, "it is a script"),
    ("run ./text.wasm", 126, "no Wasm file"),
    ("run ./library.wat", 126, "_start"),
    ("run ./foreign.wat", 126, "env.f"),
    ("run ./world.wat", 126, "acme:x/y"),
    ("run ./import.wat", 126, "acme:teapot/brew"),
    ("run ./broken.wat", 126, "WAT"),
    ("run -v ./native.wasm:/native hello-base /native", 126, "native Linux program"),
];

/// What is not there: 127.
const MISSING: &[Case] = &[
    ("run --entrypoint /nope hello", 127, "\"/nope\""),
    ("run --entrypoint nope hello", 127, "searched PATH=/usr/local/sbin"),
    ("run -e PATH=/only --entrypoint nope hello", 127, "searched PATH=/only"),
    ("run --entrypoint /hello.wasm/x hello", 127, "/hello.wasm/x"),
    ("run --entrypoint ../nope hello", 127, "nope"),
];

fn each_leaves_the_store_as_it_was(cases: &[Case], how: &str) {
    let store = Store::fresh(&["hello"]);
    store.build_from("hello-base", &Dir::context("FROM scratch\nCOPY Dockerfile /\n"));
    // What is made once and for all, such as the run directory, is there after one run.
    store.sampan("run --rm hello").ok();
    let (files, before) = (files(), store.tree());
    for (line, code, words) in cases {
        let line = line.replacen("run", &format!("run {how}"), 1);
        let failed = store.sampan(line).dir(files.path()).fails(*code).stdout_is("").stderr_has(words);
        assert!(!failed.stderr.contains("panicked"), "{failed}");
        assert_eq!(store.tree(), before, "what was left by\n{failed}");
    }
}

#[test]
fn what_cannot_be_understood_is_125_and_leaves_nothing() {
    each_leaves_the_store_as_it_was(NOT_UNDERSTOOD, "");
}

#[test]
fn what_is_no_guest_is_126_and_leaves_nothing() {
    each_leaves_the_store_as_it_was(NO_GUEST, "");
}

#[test]
fn what_is_no_guest_is_126_in_the_background_too() {
    each_leaves_the_store_as_it_was(NO_GUEST, "-d");
}

#[test]
fn what_is_missing_is_127_and_leaves_nothing() {
    each_leaves_the_store_as_it_was(MISSING, "");
    each_leaves_the_store_as_it_was(MISSING, "-d --rm");
}

#[test]
fn a_directory_is_no_program() {
    let store = Store::shared(&["hello"]);
    store.sampan("run --rm -v /tmp:/dir --entrypoint /dir hello").fails(126).stderr_has("directory");
}

#[test]
fn a_message_says_each_thing_once_and_names_the_users_own_file() {
    let (store, files) = (Store::shared(&[]), files());
    for (line, _, words) in NO_GUEST.iter().take(4) {
        let failed = store.sampan(line).dir(files.path()).fails(126);
        assert_eq!(failed.stderr.matches(words).count(), 1, "{failed}");
        assert!(!failed.stderr.contains("/containers/"), "a path of the store means nothing to its user: {failed}");
    }
}

#[test]
fn what_a_command_does_not_find_is_1_and_named() {
    let store = Store::shared(&["hello"]);
    let container = store.container("refused");
    store.sampan(format!("create --name {container} hello")).ok();
    for line in ["stop", "kill", "rm", "wait", "logs", "port", "inspect", "inspect --type image", "rmi", "volume rm"] {
        let failed = store.sampan(format!("{line} nobody-here")).fails(1).stderr_has("nobody-here");
        assert!(failed.stderr.starts_with("sampan: "), "{failed}");
    }
    store.sampan("start nobody-here").fails(125).stderr_has("nobody-here");
    store.sampan(format!("kill {container}")).fails(1).stderr_has("not running");
    store.sampan(format!("kill -s USR1 {container}")).fails(1).stderr_has("USR1");
    store.sampan("rm -f nobody-here").ok();
}

#[test]
fn a_command_line_without_sense_is_told_what_there_is() {
    let store = Store::shared(&[]);
    store.sampan("").fails(125).stderr_has("Usage: sampan");
    store.sampan("frobnicate").fails(125).stderr_has("frobnicate");
    store.sampan("--help").ok().stdout_has("Usage: sampan").stdout_has("Create a container");
    store.sampan("run --help").ok().stdout_has("--publish");
    store.sampan("--version").ok().stdout_has("sampan ");
    store.sampan("run --rm hello").arg(OsStr::from_bytes(b"\xff")).fails(125).stderr_has("UTF-8");
}
