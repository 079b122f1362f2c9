//! Many commands at once on the same names for a minute, and many starts and stops of the same containers.

use sampan_tests::crash::Chance;
use sampan_tests::{Dir, Store, eventually};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long, in seconds, unless `SAMPAN_TOGETHER_SECONDS` says otherwise.
const SECONDS: u64 = 60;

const COMMANDS: [&str; 34] = [
    "create --name one -v vol:/v probe forever",
    "create --name two --network net -v /v made forever",
    "run -d --name one probe forever",
    "run -d --name one --restart always probe forever",
    "run -d --name two -v vol:/v probe forever",
    "run -d --rm --name three --network net -p 7000 probe forever",
    "run --rm --name three -v vol:/v made args x",
    "start one",
    "start two",
    "stop one two",
    "kill two",
    "restart one",
    "pause one",
    "unpause one",
    "update --restart no one",
    "update --restart on-failure:2 two",
    "exec one /probe.wasm args inside",
    "cp one:/probe.wasm -",
    "commit one made",
    "commit two other",
    "rm -f -v one",
    "rm -f -v two",
    "rm three",
    "rmi made",
    "rmi -f other",
    "tag probe made",
    "build -q -t made '{context}'",
    "volume create vol",
    "volume rm vol",
    "network create net",
    "network rm net",
    "logs two",
    "system prune -f",
    "system check -q",
];

/// What may be said to somebody who comes too late or too early.
const TOLD: [&str; 27] = [
    "no such container",
    "no such image",
    "no such volume",
    "there is no network",
    "there is a network",
    "already in use",
    "is already",
    "is running",
    "is not running",
    "is not paused",
    "is paused",
    "is in use by container",
    "is used by",
    "is used by container",
    "starts or ends at this moment",
    "has ended",
    "was removed while",
    "ended before",
    "is being removed",
    "cannot be paused",
    "is removed when it ends",
    "conflict:",
    "nothing to start again",
    "the sandbox is gone",
    "is stopped, so it cannot be entered",
    "is in use by a container that is made right now",
    // A layer of a step was pruned while the next step ran.
    "cannot mount the layers",
];

#[test]
#[ignore = "long: eight commands at once for a minute"]
fn eight_commands_at_once_on_the_same_names_for_a_minute() {
    let store = Store::fresh(&["hello", "probe"]);
    store.sampan("run --rm hello").ok();
    let before = store.tree();
    let context =
        Dir::context("FROM probe\nCOPY f /f\nRUN [\"/probe.wasm\", \"write\", \"/w\", \"x\"]\n").file("f", "x");
    let seconds = std::env::var("SAMPAN_TOGETHER_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SECONDS);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (done, odd, tags) = (Mutex::new(0), Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    let seed = Chance::of_environment();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let mut chance = seed.clone();
            (0..worker * 7).for_each(|_| _ = chance.below(2));
            let (store, context, done, odd, tags) = (&store, &context, &done, &odd, &tags);
            scope.spawn(move || {
                for n in 0.. {
                    if Instant::now() > until {
                        return;
                    }
                    let command =
                        chance.one(&COMMANDS).unwrap().replace("{context}", &context.path().display().to_string());
                    let output = store.sampan(&command).run();
                    let strange =
                        |line: &&str| !TOLD.iter().any(|words| line.contains(words)) && !line.trim().is_empty();
                    // A name that means nothing is looked for at the registry, which is none here.
                    if output.code != 0 && !output.stderr.contains("Unable to find image") {
                        let line = output.stderr.lines().find(strange).map(str::to_owned);
                        odd.lock().unwrap().extend(line.map(|line| format!("{command}: {} {line}", output.code)));
                    }
                    *done.lock().unwrap() += 1;
                    // A name of its own, which nobody takes away: none of these may be lost.
                    if n % 10 == 0 {
                        let tag = format!("kept{worker}-{n}:latest");
                        store.sampan(format!("tag hello {tag}")).ok();
                        tags.lock().unwrap().insert(tag);
                    }
                }
            });
        }
    });
    let (done, odd, tags) = (done.into_inner().unwrap(), odd.into_inner().unwrap(), tags.into_inner().unwrap());
    eprintln!("{done} commands, {} names", tags.len());
    assert_eq!(odd, BTreeSet::new());
    store.sampan("system check -q").ok().stdout_is("");
    let images = store.sampan("images --format {{.Repository}}:{{.Tag}}").ok();
    let there: BTreeSet<String> = images.lines().iter().map(|name| (*name).to_owned()).collect();
    let lost: Vec<_> = tags.difference(&there).collect();
    assert_eq!(lost, Vec::<&String>::new());
    for name in ["one", "two", "three"] {
        let _ = store.sampan(format!("rm -f -v {name}")).run();
    }
    let all: Vec<String> = tags.iter().cloned().collect();
    store.sampan(format!("rmi {}", all.join(" "))).ok();
    for name in ["made", "other"] {
        let _ = store.sampan(format!("rmi -f {name}")).run();
    }
    store.sampan("system prune -f").ok();
    store.sampan("volume prune -a -f").ok();
    let _ = store.sampan("network rm net").run();
    store.sampan("builder prune -a -f").ok();
    let same = || {
        let skip = |path: &&String| {
            !["cache/", "networks", "run: networks", "run: trees", "run: build", "run: events"]
                .iter()
                .any(|dir| path.starts_with(dir))
        };
        let now = store.tree();
        now.symmetric_difference(&before).filter(skip).cloned().collect::<Vec<_>>()
    };
    eventually("nothing runs", || store.processes().is_empty());
    eventually("nothing is left", || {
        store.sampan("system check -q --repair").ok();
        same().is_empty()
    });
}

/// How many starts and stops, unless `SAMPAN_SOAK` says otherwise.
const STARTS: usize = 5000;
const CONTAINERS: usize = 200;

#[test]
#[ignore = "long: five thousand starts and stops"]
fn two_hundred_containers_started_and_stopped_leave_nothing_behind() {
    let starts: usize = std::env::var("SAMPAN_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(STARTS);
    let store = Store::fresh(&["probe", "web"]);
    store.sampan("network create net").ok();
    for n in 0..CONTAINERS {
        let what = match n % 4 {
            0 => "-p 8000 web",
            1 => "-v /data probe forever",
            2 => "--network net -p 7000 probe forever",
            _ => "--health-cmd '/probe.wasm args' probe forever",
        };
        store.sampan(format!("create --name box{n} {what}")).ok();
    }
    let cycle = |n: usize| {
        store.sampan(format!("start box{n}")).ok();
        store
            .sampan(match n % 3 {
                0 => format!("kill box{n}"),
                _ => format!("stop box{n}"),
            })
            .ok();
    };
    // The first time there is more to make: logs, and the records of ends.
    each(CONTAINERS, &cycle);
    eventually("all have ended", || store.processes().is_empty());
    // The events are told in two files at most, however many there are.
    let told = |path: &String| !path.starts_with("run: events/");
    let look = || (store.tree().into_iter().filter(told).collect::<BTreeSet<_>>(), mounts(), descriptors());
    let (tree, mounts_before, open) = look();
    each(starts, &|n| cycle(n % CONTAINERS));
    eventually("all have ended", || store.processes().is_empty());
    let (tree_after, mounts_after, open_after) = look();
    assert_eq!(tree.symmetric_difference(&tree_after).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(mounts_before, mounts_after);
    // Those of the whole machine: others come and go, but a leak of one for each start would be thousands.
    assert!(open_after < open + starts / 4 + 2000, "from {open} to {open_after} open files");
    store.sampan("system check").ok().stdout_has(": nothing is wrong");
}

/// Does something so many times, four at a time.
fn each(times: usize, what: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || (worker..times).step_by(4).for_each(what));
        }
    });
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

/// How many files, sockets and pipes the machine has open (proc(5), `/proc/sys/fs/file-nr`).
fn descriptors() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "long: five hundred programs inside one container"]
fn five_hundred_execs_leave_nothing_open() {
    let store = Store::fresh(&["probe"]);
    let container = store.detached("probe forever");
    let (host, keeper) = (container.host(), container.keeper());
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let exec = |_| drop(store.sampan(format!("exec {container} /probe.wasm args x")).ok().stdout_is("x\n"));
    (0..10).for_each(exec);
    let before = (open(host), open(keeper));
    let tree = store.tree();
    (0..500).for_each(exec);
    eventually("as many files are open as before", || (open(host), open(keeper)) == before);
    assert_eq!(store.tree().symmetric_difference(&tree).collect::<Vec<_>>(), Vec::<&String>::new());
}
