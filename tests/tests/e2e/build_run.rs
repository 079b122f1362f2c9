//! RUN: programs of the image that is being made, in the sandbox of any container.

use sampan_tests::{Dir, Store, sample_file};

fn build(store: &Store, tag: &str, dockerfile: &str) -> sampan_tests::Output {
    let context = Dir::context(dockerfile);
    store.sampan(format!("build -t {tag} '{context}'")).ok()
}

#[test]
fn what_a_step_changes_becomes_a_layer() {
    let store = Store::shared(&["toolbox"]);
    // The store is kept, and with it what it knows of earlier runs of this test.
    let name = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos().to_string();
    let dockerfile = format!(
        "FROM toolbox\nENV NAME={name}\nWORKDIR /work/$NAME\n\
         RUN echo \"hello $NAME\" >greeting && mkdir -p a/b && touch a/b/c\n\
         RUN [\"/bin/cp\", \"greeting\", \"/copied\"]\n\
         RUN rm -r a && cat /copied | wc -l >lines\n"
    );
    let built = build(store, "run-changes", &dockerfile);
    assert!(!built.stdout.contains("CACHED"), "{built}");
    let said = store.sampan("run --rm --allow-spawn run-changes sh -c 'cat /copied; cat lines; ls'").ok();
    assert_eq!(said.stdout.split_whitespace().collect::<Vec<_>>(), ["hello", &name, "1", "greeting", "lines"]);
    // The same steps again are known, also where only the last one is another.
    let again = build(store, "run-changes", &dockerfile);
    assert_eq!(again.stdout.matches(" => CACHED").count(), 4, "{again}");
    let other = build(store, "run-changes", &dockerfile.replace("rm -r a", "rm -r a/b"));
    assert_eq!(other.stdout.matches(" => CACHED").count(), 3, "{other}");
}

#[test]
fn a_step_that_fails_ends_the_build_and_is_told_in_its_own_words() {
    let store = Store::fresh(&["toolbox"]);
    let context = Dir::context("FROM toolbox\nRUN true\nRUN echo out; echo why >&2; exit 3\n");
    for flags in ["", "-q"] {
        let failed = store.sampan(format!("build {flags} -t never '{context}'")).fails(1);
        let failed = failed.stderr_has("Dockerfile:3:1: RUN failed:").stderr_has("the exit code 3").stderr_has("why");
        // Standard output is for the steps, or for the id alone.
        assert!(!failed.stdout.contains("\nout"), "{failed}");
    }
    store.sampan("images -q never").ok().stdout_is("");
    let trap_context = Dir::context("FROM scratch\nCOPY probe.wasm /p\nRUN [\"/p\", \"trap\"]\n")
        .copy("probe.wasm", &sample_file("probe"));
    store
        .sampan(format!("build '{trap_context}'"))
        .fails(1)
        .stderr_has("exit code 134")
        .stderr_has("the program trapped");
}

#[test]
fn a_here_document_is_lines_for_the_shell_or_a_program_of_its_own() {
    let store = Store::shared(&["toolbox"]);
    build(
        store,
        "run-here",
        "FROM toolbox\nRUN <<EOF\nset -e\necho one >/one\nfor n in 1 2 3; do echo $n; done >/many\nEOF\n\
         RUN <<EOF\n#!/bin/sh -e\necho \"$0\" >/own\nEOF\n",
    );
    let said = store.sampan("run --rm --allow-spawn run-here sh -c 'cat /one /many /own; ls -A /dev'").run();
    assert_eq!(said.stdout.split_whitespace().collect::<Vec<_>>(), ["one", "1", "2", "3", "/dev/pipes/EOF"], "{said}");
}

#[test]
fn arguments_and_another_shell_reach_the_program() {
    let store = Store::shared(&["toolbox"]);
    build(
        store,
        "run-args",
        "FROM toolbox\nARG VERSION=7\nRUN echo $VERSION >/version\nSHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN if false; then :; fi; echo reached >/reached\n",
    );
    let said = store.sampan("run --rm --allow-spawn run-args sh -c 'cat /version /reached'").ok();
    said.stdout_is("7\nreached\n");
}

#[test]
fn a_stage_is_for_its_files_and_nothing_of_a_step_is_left_behind() {
    let store = Store::fresh(&["toolbox"]);
    let before = store.processes();
    let dockerfile = "FROM toolbox AS made\nRUN seq 100 | sort -n | tail -1 >/last\nFROM scratch\n\
         COPY --from=made /last /last\nCOPY --from=toolbox /bin/toolbox /bin/cat\nENTRYPOINT [\"/bin/cat\"]\n";
    build(&store, "staged", dockerfile);
    store.sampan("run --rm staged /last").ok().stdout_is("100\n");
    assert_eq!(store.processes(), before);
    let left = std::fs::read_dir(store.root().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "scratch directories");
}

#[test]
fn a_script_is_run_by_the_program_that_its_first_line_names() {
    let store = Store::shared(&["toolbox"]);
    let context = Dir::context("FROM toolbox\nCOPY bin /usr/bin\nWORKDIR /w\nENTRYPOINT [\"outer\"]\nCMD [\"a b\"]\n")
        .file("bin/outer", "#!/usr/bin/inner\n")
        .file("bin/inner", "#!/bin/sh -e\necho \"$0\"; echo \"$@\"; false; echo never\n")
        .file("bin/round", "#!/usr/bin/round\n");
    store.build_from("scripts", &context);
    // The inner script is named by its path, and gets the outer one's.
    let said = store.sampan("run --rm --allow-spawn scripts").run();
    assert_eq!((said.stdout.as_str(), said.code), ("/usr/bin/inner\n/usr/bin/outer a b\n", 1), "{said}");
    store.sampan("run --rm --entrypoint round scripts").fails(126).stderr_has("too many scripts");
    store.sampan("run --rm --entrypoint ./none scripts").fails(127);
}
