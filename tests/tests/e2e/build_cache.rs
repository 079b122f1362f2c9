//! To build again what did not change: nothing is done, and it is said.

use rustix::process::Signal;
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};

fn context() -> Dir {
    let context = Dir::context("FROM scratch\nCOPY hello.wasm /h\nCOPY d /d\nENV A=1\nENTRYPOINT [\"/h\"]\n");
    context.copy("hello.wasm", &sample_file("hello")).file("d/one", "1").file("d/two", "2")
}

/// The steps that a build found done.
fn cached(stdout: &str) -> Vec<&str> {
    let lines: Vec<&str> = stdout.lines().collect();
    lines.windows(2).filter(|pair| pair[1] == " => CACHED").map(|pair| pair[0]).collect()
}

fn layers(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("layers")).unwrap().count()
}

#[test]
fn the_second_build_finds_everything_done() {
    let store = Store::fresh(&[]);
    let context = context();
    let build = || store.sampan(format!("build -t it '{context}'")).ok();
    assert_eq!(cached(&build().stdout), [""; 0]);
    let id = || store.sampan("images -q --no-trunc it").ok().line();
    // What it remembers of the files it has read is only as much as their times allow.
    let tree = || store.tree().into_iter().filter(|path| !path.starts_with("cache/contexts")).collect::<Vec<_>>();
    let (first, before) = (id(), tree());
    assert_eq!(cached(&build().stdout), ["[2/5] COPY hello.wasm /h", "[3/5] COPY d /d"]);
    assert_eq!((id(), tree()), (first.clone(), before));
    store.sampan("images -aq").ok().stdout_is(&format!("{}\n", &first[7..19]));
    // One file changed, and what lies below it did not.
    std::fs::write(context.join("d/two"), "changed").unwrap();
    assert_eq!(cached(&build().stdout), ["[2/5] COPY hello.wasm /h"]);
    store.sampan("run --rm it").ok();
    let anew = store.sampan(format!("build --no-cache -t it '{context}'")).ok();
    assert_eq!(cached(&anew.stdout), [""; 0]);
}

#[test]
fn what_builds_remember_goes_with_the_image_or_when_it_is_pruned() {
    let store = Store::fresh(&[]);
    let context = context();
    store.build_from("one", &context);
    std::fs::write(
        context.join("Dockerfile"),
        "FROM one AS stage\nCOPY d/one /x\nFROM scratch\nCOPY --from=stage /x /x\n",
    )
    .unwrap();
    store.build_from("two", &context);
    assert_eq!(layers(&store), 4, "two of the first image, one of a stage, one of the second image");
    store.sampan("builder prune").stdin("n\n").ok().stdout_has("Are you sure").stdout_has("no image has");
    assert_eq!(layers(&store), 4);
    store.sampan("builder prune -f --filter until=1h").ok().stdout_is("Total:\t0B\n");
    let pruned = store.sampan("builder prune -f").ok();
    assert!(pruned.stdout.starts_with("ID\t") && pruned.stdout.lines().count() == 3, "{pruned}");
    assert_eq!(layers(&store), 3);
    store.sampan("builder prune -f").ok().stdout_is("Total:\t0B\n");
    store.sampan("rmi one").ok();
    assert_eq!(layers(&store), 1);
    store.sampan("builder prune -af").ok().stdout_has("false").stdout_has("Total:\t0B\n");
    assert_eq!(layers(&store), 1);
    store.sampan("builder prune --filter x=y").fails(1).stderr_has("until");
}

#[test]
fn a_build_that_failed_goes_on_where_it_stopped() {
    let store = Store::fresh(&[]);
    let context = Dir::context("FROM scratch\nCOPY f /f\nCOPY none /n\n").file("f", "x");
    store.sampan(format!("build -t it '{context}'")).fails(1);
    store.sampan("images -aq").ok().stdout_is("");
    let context = context.file("none", "some");
    let built = store.sampan(format!("build -t it '{context}'")).ok();
    assert_eq!(cached(&built.stdout), ["[2/3] COPY f /f"]);
}

#[test]
fn a_killed_build_leaves_nothing_half_made() {
    let store = Store::fresh(&[]);
    let context = (0..300).fold(context(), |context, n| context.file(&format!("d/{n}"), n.to_string()));
    for round in 0..6 {
        std::fs::write(context.join("d/one"), round.to_string()).unwrap();
        let mut build = store.sampan(format!("build -q -t it '{context}'")).start();
        sampan_tests::until("the build to begin", || {
            let begun = std::fs::read_dir(store.root().join("tmp")).is_ok_and(|mut dir| dir.next().is_some());
            (begun || !build.is_running()).then_some(())
        });
        build.signal(Signal::KILL);
        let _ = build.finish();
        store.build_from("it", &context);
        store.sampan("run --rm it").ok().stdout_is("Hello from Sampan!\n");
        assert!(sampan_tests::tree(&store.root().join("tmp"), &[]).is_empty());
    }
}
