//! Commands killed at each system call that changes something, one after the other: what luck with moments would find
//! once in a thousand rounds is found here each time.

use super::killed::{all_works, nothing_is_left, prepared};
use sampan_tests::needs::{Need, lacks};
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};

/// What changes files, locks or processes.
const CALLS: &str = "mkdir mkdirat rename renameat2 symlink unlink unlinkat rmdir write fsync fcntl fchmod utimensat clone \
    sendmsg move_mount pidfd_send_signal";

/// Runs a command again and again, each time killed at the next of its calls, until it gets by unharmed. strace kills
/// whichever process of it comes to that call: the command, its keeper or its host.
fn at_each_call(store: &Store, command: &str, mut before: impl FnMut(), mut after: impl FnMut()) {
    for call in CALLS.split_whitespace() {
        let mut unharmed = 0;
        for n in 1..60 {
            before();
            // -D: strace is no parent of the command, and does not keep its caller waiting when a keeper stays.
            let script = format!(
                "exec strace -D -f -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={n} \
                 sampan {command} </dev/null >/dev/null 2>&1"
            );
            let code = store.shell(&script).run().code;
            all_works(store);
            after();
            // A keeper may be killed when its command has ended well already, so one good end says little.
            unharmed = if code == 0 { unharmed + 1 } else { 0 };
            if unharmed == 3 {
                break;
            }
        }
    }
}

#[test]
#[ignore = "long: one run for each system call"]
fn run_is_killed_at_every_call() {
    if lacks(&[Need::Tool("strace")]) {
        return;
    }
    let (store, before) = prepared();
    let clean = || {
        store.sampan("rm -f -v box").ok();
        store.sampan("run --name box -v data:/data probe args").ok();
        store.sampan("rm -v box").ok();
    };
    at_each_call(&store, "run -d --name box -v data:/data -v /more probe forever", || {}, clean);
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: one run for each system call"]
fn a_run_with_rm_is_killed_at_every_call() {
    if lacks(&[Need::Tool("strace")]) {
        return;
    }
    let (store, before) = prepared();
    let clean = || drop(store.sampan("rm -f -v box").ok());
    at_each_call(&store, "run --rm --name box -v /more hello", || {}, clean);
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: one build for each system call"]
fn build_is_killed_at_every_call() {
    if lacks(&[Need::Tool("strace")]) {
        return;
    }
    let (store, before) = prepared();
    let context = Dir::context("FROM hello\nCOPY p.wasm /p.wasm\nENTRYPOINT [\"/p.wasm\"]\n");
    let context = context.copy("p.wasm", &sample_file("probe"));
    let build = format!("build -q -t made '{context}'");
    let check = || {
        if store.sampan("images -q made").ok().line().is_empty() {
            store.sampan(&build).ok();
        }
        store.sampan("run --rm made args whole").ok().stdout_is("whole\n");
        store.sampan("rmi made").ok();
    };
    at_each_call(&store, &build, || {}, check);
    for image in store.sampan("images -q --no-trunc --filter dangling=true").ok().lines() {
        store.sampan(format!("rmi {image}")).ok();
    }
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: one removal for each system call"]
fn rm_and_stop_are_killed_at_every_call() {
    if lacks(&[Need::Tool("strace")]) {
        return;
    }
    let (store, before) = prepared();
    let make = || drop(store.sampan("run -d --name box -v /more probe forever").ok());
    let clean = || drop(store.sampan("rm -f -v box").ok());
    at_each_call(&store, "rm -f -v box", make, clean);
    at_each_call(&store, "stop box", make, clean);
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: one removal for each system call"]
fn rmi_is_killed_at_every_call() {
    if lacks(&[Need::Tool("strace")]) {
        return;
    }
    let (store, before) = prepared();
    let context = Dir::context("FROM hello\nCOPY f /f\n").file("f", "x");
    let make = || drop(store.build_from("made", &context));
    let clean = || drop(store.sampan("rmi -f made").ok());
    at_each_call(&store, "rmi made", make, clean);
    for image in store.sampan("images -q --no-trunc --filter dangling=true").ok().lines() {
        store.sampan(format!("rmi {image}")).ok();
    }
    nothing_is_left(&store, &before);
}
