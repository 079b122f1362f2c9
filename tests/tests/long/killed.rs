//! Commands killed at every moment of their lives: what they were making is whole or gone, and the next one works.

use rustix::process::Signal;
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store, eventually};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 50;

/// When the last leftover must be gone: what is half made is left alone for ten seconds.
const SWEPT: Duration = Duration::from_secs(20);

/// Starts a command and kills it, with its children, `round` fiftieths of the way through the time that it takes.
fn kill_in(round: u32, whole: Duration, command: sampan_tests::Run) {
    let moment = Instant::now() + whole * round / ROUNDS;
    let started = command.in_a_group().start();
    // The moment is what is tested, to the tenth of a millisecond: there is nothing to watch for.
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
    started.signal_group(Signal::KILL);
    let _ = started.finish();
}

/// How long a command takes, and a little more, so that the last rounds kill nothing any more.
fn time(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed() * 6 / 5
}

/// What must hold after each round, whatever was killed.
pub fn all_works(store: &Store) {
    for container in store.sampan("ps -a --no-trunc --format").arg("{{.Names}} {{.ID}}").ok().lines() {
        let (name, id) = container.split_once(' ').unwrap();
        // Whole, and found by its name: a second one of that name could be told from the first by nobody.
        store.sampan(format!("inspect -f {{{{.Id}}}} {name}")).ok().stdout_is(&format!("{id}\n"));
    }
    store.sampan("images").ok();
    store.sampan("volume ls").ok();
    store.sampan("run --rm hello").ok().stdout_is("Hello from Sampan!\n");
}

/// What is left over is swept, some of it only when it is a while old.
pub fn nothing_is_left(store: &Store, before: &BTreeSet<String>) {
    eventually("all processes are gone", || store.processes().is_empty());
    let begun = Instant::now();
    eventually("what was left over is swept", || {
        // A build and a removal sweep blobs, a listing containers.
        let context = Dir::context("FROM hello\nLABEL sweep=yes\n");
        store.build_from("sweep", &context);
        store.sampan("rmi sweep").ok();
        store.sampan("ps -a").ok();
        left(store, before).is_empty() || begun.elapsed() > SWEPT
    });
    assert_eq!(left(store, before), Vec::<String>::new());
}

/// What there is that was not there before, or the other way round.
fn left(store: &Store, before: &BTreeSet<String>) -> Vec<String> {
    store.tree().symmetric_difference(before).cloned().collect()
}

pub fn prepared() -> (Store, BTreeSet<String>) {
    let store = Store::fresh(&["hello", "probe"]);
    store.sampan("run --rm hello").ok();
    store.build_from("sweep", &Dir::context("FROM hello\nLABEL sweep=yes\n"));
    store.sampan("rmi sweep").ok();
    let before = store.tree();
    (store, before)
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn run_is_killed_at_every_moment() {
    let (store, before) = prepared();
    let run = || store.sampan("run -d --name box -v data:/data -v /more probe forever");
    let whole = time(|| drop(run().ok()));
    store.sampan("rm -f -v box").ok();
    for round in 0..ROUNDS {
        kill_in(round, whole, run());
        all_works(&store);
        // It is there as a whole, or its name is free.
        let there = store.sampan("inspect --type container box").run().code == 0;
        if there {
            store.sampan("stop --time 1 box").ok();
            store.sampan("start box").ok();
        }
        store.sampan("rm -f -v box").ok();
        run().ok();
        store.sampan("rm -f -v box").ok();
    }
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn a_run_with_rm_is_killed_at_every_moment() {
    let (store, before) = prepared();
    let run = || store.sampan("run --rm --name box -v /more probe lines 1000");
    let whole = time(|| drop(run().ok()));
    for round in 0..ROUNDS {
        kill_in(round, whole, run());
        all_works(&store);
        store.sampan("rm -f -v box").ok();
        run().ok();
    }
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn build_is_killed_at_every_moment() {
    let (store, before) = prepared();
    let context = Dir::context("FROM hello\nCOPY big /big\nCOPY p.wasm /p.wasm\nENTRYPOINT [\"/p.wasm\"]\n");
    let noise: Vec<u8> = (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let context = context.file("big", noise).copy("p.wasm", &sample_file("probe"));
    let build = || store.sampan(format!("build -q -t made '{context}'"));
    let whole = time(|| drop(build().ok()));
    store.sampan("rmi made").ok();
    for round in 0..ROUNDS {
        // Compiled each time, so that it can be killed at that too.
        std::fs::remove_dir_all(store.root().join("code")).unwrap();
        kill_in(round, whole, build());
        all_works(&store);
        // The name means a whole image, or none.
        if store.sampan("images -q made").ok().line().is_empty() {
            build().ok();
        }
        store.sampan("run --rm made args whole").ok().stdout_is("whole\n");
        store.sampan("rmi made").ok();
    }
    let dangling = store.sampan("images -q --no-trunc --filter dangling=true").ok();
    for image in dangling.lines() {
        store.sampan(format!("rmi {image}")).ok();
    }
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn rm_and_rmi_are_killed_at_every_moment() {
    let (store, before) = prepared();
    let context = Dir::context("FROM hello\nCOPY f /f\n").file("f", "x");
    let make = || {
        store.build_from("made", &context);
        store.sampan("create --name box -v /more made").ok();
        store.sampan("start -a box").ok();
    };
    make();
    let rm = time(|| drop(store.sampan("rm -v box").ok()));
    let rmi = time(|| drop(store.sampan("rmi made").ok()));
    for round in 0..ROUNDS {
        make();
        kill_in(round, rm, store.sampan("rm -v box"));
        all_works(&store);
        store.sampan("rm -f -v box").ok();
        kill_in(round, rmi, store.sampan("rmi made"));
        all_works(&store);
        store.sampan("rmi -f made").ok();
    }
    store.sampan("volume prune -a -f").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn sandboxes_are_killed_at_every_moment_of_their_stop() {
    let (store, before) = prepared();
    store.sampan("run -d --name box probe forever").ok();
    let whole = time(|| drop(store.sampan("stop box").ok()));
    for round in 0..ROUNDS {
        store.sampan("start box").ok();
        let host = store.sampan("inspect -f {{.State.Pid}} box").ok().line().parse().unwrap();
        let moment = Instant::now() + whole * round / ROUNDS;
        let stop = store.sampan("stop box").start();
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        sampan_tests::command::kill(host, Signal::KILL);
        // Stopped or killed, it is over, and everybody knows.
        stop.finish().ok();
        let code = store.sampan("wait box").ok().line();
        assert!(code == "143" || code == "137", "{code}");
        store.sampan("inspect -f {{.State.Status}} box").ok().stdout_is("exited\n");
    }
    store.sampan("rm box").ok();
    nothing_is_left(&store, &before);
}

#[test]
#[ignore = "long: fifty rounds of kill -9"]
fn load_commit_and_prune_are_killed_at_every_moment() {
    let (store, before) = prepared();
    let dir = Dir::new();
    let noise: Vec<u8> = (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let context = Dir::context("FROM hello\nCOPY big /big\n").file("big", &noise);
    store.build_from("made", &context);
    store.sampan(format!("save -o '{dir}/made.tar' made")).ok();
    store.sampan("rmi made").ok();
    let load = || store.sampan(format!("load -q -i '{dir}/made.tar'"));
    let commit = || store.sampan("commit box committed");
    let loading = time(|| drop(load().ok()));
    let running = store.sampan("run -d --name box probe forever").ok().line();
    std::fs::write(store.root().join("containers").join(running).join("upper/big"), &noise).unwrap();
    let committing = time(|| drop(commit().ok()));
    for round in 0..ROUNDS {
        kill_in(round, loading, load());
        all_works(&store);
        load().ok();
        store.sampan("run --rm made").ok().stdout_is("Hello from Sampan!\n");
        kill_in(round, committing, commit());
        all_works(&store);
        eventually("the container goes on", || {
            let host = store.sampan("inspect -f {{.State.Pid}} box").ok().line();
            let stat = std::fs::read_to_string(format!("/proc/{host}/stat")).unwrap();
            !stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
        });
        commit().ok();
        store.sampan("rmi made committed").ok();
    }
    store.sampan("rm -f box").ok();
    let rubbish = |n: u32| {
        for label in ["first", "second"] {
            store.build_from("made", &Dir::context(&format!("FROM hello\nLABEL {label}={n}\n")));
        }
        store.sampan("create --name over hello").ok();
    };
    rubbish(ROUNDS);
    let prune = || store.sampan("system prune -f");
    let pruning = time(|| drop(prune().ok()));
    for round in 0..ROUNDS {
        rubbish(round);
        kill_in(round, pruning, prune());
        all_works(&store);
        prune().ok();
        store.sampan("images -q --filter dangling=true").ok().stdout_is("");
        store.sampan("ps -aq").ok().stdout_is("");
        store.sampan("run --rm made").ok().stdout_is("Hello from Sampan!\n");
    }
    store.sampan("rmi made").ok();
    nothing_is_left(&store, &before);
}
