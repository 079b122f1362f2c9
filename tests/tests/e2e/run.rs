//! Running a program: what it is given, and what comes back from it.

use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};

#[test]
fn a_guest_gets_its_arguments_as_they_are() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        let run = store.sampan(format!("run --rm {image} args a 'b  c' --flag -e '' ü")).ok();
        run.stdout_is("a\nb  c\n--flag\n-e\n\nü\n").stderr_is("");
    }
}

#[test]
fn an_image_without_arguments_takes_its_command() {
    let store = Store::shared(&["probe"]);
    let context = Dir::context("FROM probe\nCMD [\"args\", \"from\", \"CMD\"]\n");
    store.build_from("run-cmd", &context);
    store.sampan("run --rm run-cmd").ok().stdout_is("from\nCMD\n");
    store.sampan("run --rm run-cmd args mine").ok().stdout_is("mine\n");
}

#[test]
fn variables_come_from_image_file_and_flags_the_later_one_winning() {
    let store = Store::shared(&["probe"]);
    let context = Dir::context("FROM probe\nENV ONE=image TWO=image THREE=\"image with blanks\"\n");
    store.build_from("run-env", &context);
    let file = Dir::new().file("env", "# a comment\n\nTWO=file\nFOUR=file\nFROM_HERE\n");
    let output = store
        .sampan(format!(
            "run --rm --env-file '{file}/env' -e FOUR=flag -e ALSO_HERE -e UNSET_HERE -e EMPTY= run-env env"
        ))
        .env("FROM_HERE", "here")
        .env("ALSO_HERE", "here too")
        .env("NOT_TOLD", "secret")
        .ok();
    for line in [
        "ONE=image",
        "TWO=file",
        "THREE=image with blanks",
        "FOUR=flag",
        "FROM_HERE=here",
        "ALSO_HERE=here too",
        "EMPTY=",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ] {
        assert!(output.lines().contains(&line), "{line} is not in\n{output}");
    }
    output.stdout_lacks("UNSET_HERE").stdout_lacks("NOT_TOLD").stdout_lacks("SAMPAN");
}

#[test]
fn the_host_name_is_the_short_id_unless_it_is_said() {
    let store = Store::shared(&["probe"]);
    let container = store.container("host");
    let name = store.sampan(format!("run --name {container} probe env HOSTNAME")).ok().line();
    assert_eq!(name, container.id()[..12]);
    store.sampan("run --rm -e HOSTNAME=mine probe env HOSTNAME").ok().stdout_is("mine\n");
}

#[test]
fn the_working_directory_is_the_images_or_what_is_said() {
    let store = Store::shared(&["probe"]);
    store.build_from("run-workdir", &Dir::context("FROM probe\nWORKDIR /from/image\n"));
    store.sampan("run --rm run-workdir env PWD").ok().stdout_is("/from/image\n");
    store.sampan("run --rm -w /from run-workdir env PWD").ok().stdout_is("/from\n");
    store.sampan("run --rm --workdir /a/../from/./image run-workdir env PWD").ok().stdout_is("/from/image\n");
    store.sampan("run --rm run-workdir ls /from").ok().stdout_is("image/\n");
}

#[test]
fn a_component_knows_its_working_directory() {
    let store = Store::shared(&["python"]);
    let code = "import os; print(os.getcwd())";
    store.sampan("run --rm -w /usr/local/bin python python -c").arg(code).ok().stdout_is("/usr/local/bin\n");
}

#[test]
fn standard_input_reaches_the_guest_with_i_and_only_then() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        store.sampan(format!("run --rm -i {image} stdin")).stdin("one\ntwo").ok().stdout_is("one\ntwo");
        store.sampan(format!("run --rm {image} stdin")).stdin("one\ntwo").ok().stdout_is("");
    }
}

#[test]
fn megabytes_go_through_standard_input_and_output_unharmed() {
    let store = Store::shared(&["probe"]);
    let text = (0..400_000).map(|n| format!("{n}\n")).collect::<String>();
    let output = store.sampan("run --rm -i probe stdin").stdin(&text).ok();
    assert!(output.stdout == text, "{} of {} bytes came back", output.stdout.len(), text.len());
}

#[test]
fn what_a_person_types_arrives_at_once() {
    let store = Store::shared(&["probe"]);
    let mut run = store.sampan("run --rm -i probe stdin").start();
    run.write("first\n");
    run.says("first");
    run.write("second\n");
    run.says("second");
    assert!(run.is_running());
    run.finish().ok().stdout_is("first\nsecond\n");
}

#[test]
fn standard_output_and_error_stay_apart() {
    let store = Store::shared(&["probe"]);
    store.sampan("run --rm probe both 4").ok().stdout_is("1\n3\n").stderr_is("2\n4\n");
}

#[test]
fn a_reader_that_has_seen_enough_does_not_harm_the_container() {
    let store = Store::shared(&["probe"]);
    let container = store.container("head");
    let script = format!("sampan run --name {container} probe lines 20000 | head -n 1");
    store.shell(&script).ok().stdout_is("line 1\n");
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    assert_eq!(container.logs().lines().len(), 20_000);
}

#[test]
fn the_exit_code_is_the_guests() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        for code in [0, 1, 7, 125, 126, 200, 255] {
            store.sampan(format!("run --rm {image} exit {code}")).fails(code).stderr_is("");
        }
    }
}

/// A module that ends with any code: the C library of `probe` cuts it to a byte before we could.
fn exit_with(code: i32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

#[test]
fn of_a_larger_exit_code_the_low_byte_counts() {
    let store = Store::shared(&[]);
    for (given, seen) in [(300, 44), (256, 0), (-1, 255)] {
        let file = Dir::new().file("exit.wat", exit_with(given));
        store.sampan(format!("run --rm '{file}/exit.wat'")).fails(seen).stderr_is("");
    }
}

#[test]
fn a_trap_is_134_with_a_backtrace_on_standard_error_and_in_the_log() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        let container = store.container("trap");
        let run = store.sampan(format!("run --name {container} {image} trap")).fails(134);
        let places: Vec<_> = ["unreachable", "innermost", "middle", "outer"].map(|name| run.stderr.find(name)).into();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "the frames, from the inside out: {run}");
        assert_eq!(container.logs().stderr, run.stderr);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "134");
        assert!(container.inspect("{{.State.Error}}").contains("unreachable"));
    }
}

#[test]
fn a_panic_is_134_with_its_own_words() {
    let store = Store::shared(&["probe"]);
    store.sampan("run --rm probe panic").fails(134).stderr_has("as asked").stderr_has("probe/src/main.rs");
}

#[test]
fn a_stack_that_overflows_is_a_trap_of_the_guest_alone() {
    let store = Store::shared(&[]);
    let wat = r#"(module (memory (export "memory") 1) (func $deeper (call $deeper)) (func (export "_start") (call $deeper)))"#;
    let file = Dir::new().file("deep.wat", wat);
    store.sampan(format!("run --rm '{file}/deep.wat'")).fails(134).stderr_has("call stack exhausted");
}

#[test]
fn a_guest_can_have_hundreds_of_megabytes() {
    let store = Store::shared(&["probe"]);
    store.sampan("run --rm probe alloc 300000000").ok().stdout_is("allocated 300000000 bytes\n");
}

#[test]
fn randomness_differs_from_run_to_run_and_the_clock_is_right() {
    let store = Store::shared(&["probe"]);
    let draw = || store.sampan("run --rm probe random").ok().line();
    assert_ne!(draw(), draw());
    let clock = store.sampan("run --rm probe clock").ok().line();
    let seconds: u64 = clock.split('.').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(seconds) < 60, "{clock}, and it is {now}");
}

#[test]
fn a_wasm_file_runs_without_an_image() {
    let store = Store::shared(&[]);
    let dir = Dir::new().copy("mine.wasm", &sample_file("probe"));
    store.sampan("run --rm ./mine.wasm args x").dir(dir.path()).ok().stdout_is("x\n");
    store.sampan("run --rm mine.wasm args x").dir(dir.path()).ok().stdout_is("x\n");
    store.sampan(format!("run --rm {dir}/mine.wasm args x")).ok().stdout_is("x\n");
    // It is a program in a tree of its own, like any other.
    store.sampan("run --rm ./mine.wasm ls /").dir(dir.path()).ok().stdout_is("mine.wasm\n");
    store.sampan("run --rm -e A=b -w / ./mine.wasm env A").dir(dir.path()).ok().stdout_is("b\n");
}

#[test]
fn a_wat_file_runs_too() {
    let store = Store::shared(&[]);
    let dir = Dir::new().file("exit.wat", exit_with(5));
    store.sampan("run --rm ./exit.wat").dir(dir.path()).fails(5);
}

#[test]
fn a_changed_wasm_file_is_compiled_anew() {
    let store = Store::shared(&[]);
    let mut dir = Dir::new();
    for code in [5, 6] {
        dir = dir.file("exit.wat", exit_with(code));
        store.sampan("run --rm ./exit.wat").dir(dir.path()).fails(code);
    }
}

#[test]
fn another_entrypoint_takes_the_images_place_and_its_command_away() {
    let store = Store::shared(&["probe", "hello"]);
    let context = Dir::context("FROM probe\nCOPY hello.wasm /bin/hello\nENV PATH=/bin\n");
    let context = context.copy("hello.wasm", &sample_file("hello"));
    store.build_from("run-entrypoint", &context);
    for entrypoint in ["/bin/hello", "hello", "bin/hello"] {
        let run = store.sampan(format!("run --rm --entrypoint {entrypoint} run-entrypoint")).ok();
        run.stdout_is("Hello from Sampan!\n");
    }
    store.sampan("run --rm --entrypoint '' run-entrypoint /probe.wasm args x").ok().stdout_is("x\n");
    store.sampan("run --rm --entrypoint /probe.wasm run-entrypoint args x").ok().stdout_is("x\n");
}

#[test]
fn labels_of_the_image_and_of_the_command_line_are_kept() {
    let store = Store::shared(&["hello"]);
    store.build_from("run-label", &Dir::context("FROM hello\nLABEL from=image both=image\n"));
    let container = store.container("label");
    store.sampan(format!("run --name {container} -l both=flag --label bare run-label")).ok();
    assert_eq!(container.inspect("{{json .Config.Labels}}"), r#"{"bare":"","both":"flag","from":"image"}"#);
}

#[test]
fn a_container_can_be_made_first_and_started_later() {
    let store = Store::shared(&["probe"]);
    let container = store.container("create");
    let id = store.sampan(format!("create --name {container} -i probe stdin")).ok().line();
    assert_eq!(id, container.id());
    assert_eq!(container.status(), "created");
    store.sampan(format!("start -ai {container}")).stdin("typed").ok().stdout_is("typed");
    assert_eq!(container.status(), "exited");
    store.sampan(format!("start -a {container}")).stdin("").ok();
}

#[test]
fn start_attached_returns_the_guests_exit_code() {
    let store = Store::shared(&["probe"]);
    let container = store.container("attach");
    store.sampan(format!("create --name {container} probe exit 9")).ok();
    store.sampan(format!("start -a {container}")).fails(9);
    store.sampan(format!("start {container}")).ok().stdout_is(&format!("{container}\n"));
    assert_eq!(container.wait(), 9);
}

#[test]
fn the_store_can_be_named_by_a_flag() {
    let (store, other) = (Store::shared(&["hello"]), Dir::new());
    store.sampan(format!("--root '{other}/s' images -q")).ok().stdout_is("");
    store.sampan(format!("images -q --root '{other}/s'")).ok().stdout_is("");
    assert!(other.join("s/version").exists());
}
