//! Guests of every language and every WASI.

use sampan_tests::{Dir, Store};

#[test]
fn a_component_of_wasi_0_3_has_arguments_variables_and_clocks() {
    let store = Store::shared(&["p3"]);
    let run = store.sampan("run --rm -e MINE=1 p3 a b").ok();
    assert_eq!(run.lines()[..2], ["a", "b"]);
    run.stdout_has("GREETING=hello from the image\n").stdout_has("MINE=1\n").stdout_has("waited twice 20 ms in ");
}

#[test]
fn a_component_of_wasi_0_3_that_fails_is_1() {
    let store = Store::shared(&["p3"]);
    store.sampan("run --rm p3 tcp nonsense").fails(1).stderr_has("not a port: nonsense");
}

#[test]
fn c_counts_words_of_its_input_and_of_a_volume() {
    let store = Store::shared(&["c"]);
    store.sampan("run --rm -i c").stdin("one two\nthree\n").ok().stdout_is("2 3 14\n");
    let data = Dir::new().file("f", "a b\n");
    store.sampan(format!("run --rm -v '{data}:/data' c /data/f")).ok().stdout_is("1 2 4 /data/f\n");
    store.sampan("run --rm c /none").fails(1).stderr_has("wc: /none: No such file or directory");
}

#[test]
fn go_has_its_goroutines_and_its_files() {
    let store = Store::shared(&["go"]);
    let data = Dir::new().file("f", "from a file\n");
    let run = store.sampan(format!("run --rm -v '{data}:/data' go /data/f")).ok();
    run.stdout_has("Hello from Go, go1.").stdout_has("squares: [0 1 4 9 16]\nfrom a file\n");
    store.sampan("run --rm go /none").fails(1).stderr_has("No such file");
}

#[test]
fn javascript_runs_code_and_files() {
    let store = Store::shared(&["quickjs"]);
    store.sampan("run --rm quickjs qjs -e 'console.log([1, 2, 3].map(n => n * n).join())'").ok().stdout_is("1,4,9\n");
    let data = Dir::new().file("app.js", "console.log(`hello ${scriptArgs[1]}`);\n");
    store.sampan(format!("run --rm -v '{data}:/app:ro' quickjs qjs /app/app.js you")).ok().stdout_is("hello you\n");
    store.sampan("run --rm quickjs qjs -e 'throw new Error(\"as asked\")'").fails(1).stderr_has("as asked");
}

#[test]
fn python_runs_code_and_tells_its_exit_code() {
    let store = Store::shared(&["python"]);
    let code = "import sys, json; print(json.dumps(sys.argv)); print(\"bad\", file=sys.stderr); sys.exit(3)";
    let run = store.sampan("run --rm python python -c").arg(code).arg("a b").fails(3);
    run.stdout_is("[\"-c\", \"a b\"]\n").stderr_is("bad\n");
    store.sampan("run --rm python python3 -V").ok().stdout_has("Python 3.");
    store.sampan("run --rm python python -c 'raise ValueError(6)'").fails(1).stderr_has("ValueError: 6");
}

#[test]
fn python_runs_a_script_of_the_host_that_reads_and_writes_there() {
    let store = Store::shared(&["python"]);
    let script = "import os, pathlib\n\
        text = pathlib.Path('in.txt').read_text()\n\
        pathlib.Path('out.txt').write_text(text.upper() + os.environ['MORE'])\n\
        os.mkdir('sub')\n\
        print(sorted(os.listdir('.')))\n";
    let data = Dir::new().file("app.py", script).file("in.txt", "some text, ");
    let run = store.sampan(format!("run --rm -v '{data}:/app' -w /app -e MORE=more python python app.py")).ok();
    run.stdout_is("['app.py', 'in.txt', 'out.txt', 'sub']\n");
    assert_eq!(data.read("out.txt"), "SOME TEXT, more");
}

#[test]
fn python_reads_its_program_from_standard_input() {
    let store = Store::shared(&["python"]);
    store.sampan("run --rm -i python python -").stdin("print(6 * 7)").ok().stdout_is("42\n");
}

#[test]
fn an_image_of_an_application_stands_on_the_interpreters() {
    let store = Store::shared(&["python"]);
    let dockerfile = "FROM python\nWORKDIR /app\nCOPY app.py .\nCMD [\"python\", \"app.py\"]\n";
    let context = Dir::context(dockerfile).file("app.py", "import sqlite3\nprint('it works')\n");
    store.build_from("languages-app", &context);
    store.sampan("run --rm languages-app").ok().stdout_is("it works\n");
}
