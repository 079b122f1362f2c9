//! Terminals of containers (`run -t`), and `attach`.

use rustix::process::Signal;
use sampan_tests::{Store, eventually};

#[test]
fn a_container_has_a_terminal_of_its_own() {
    let store = Store::shared(&["toolbox"]);
    let container = store.container("tty");
    let mut at = store.sampan(format!("run -it --name {container} --allow-spawn -e A=1 toolbox")).at_terminal();
    at.shows("/ # ");
    at.types("test -t 0 && test -t 1 && test -t 2 && echo a $A $TERM\n");
    at.shows("a 1 xterm\n");
    assert!(at.is_raw());
    at.types("echo 'two\nlines'\n");
    at.shows("> ");
    at.shows("two\nlines\n");
    // An error ends the line and not the shell, and so does Ctrl-C at its prompt, in the middle of a quote, or while a
    // built-in command waits. What is typed right after it is not lost.
    at.types("echo ${A?x} ${B?unset}\n");
    at.shows("B: unset\n/ # ");
    at.types("never\x03echo first $?\n");
    at.shows("first 130\n/ # ");
    at.types("echo 'never\n");
    at.shows("'never\n> ");
    at.types("\x03echo second $?\n");
    at.shows("second 130\n/ # ");
    at.types("echo read; read x; echo not this\n");
    at.shows("\nread\n");
    at.types("\x03echo third $?\n");
    at.shows("third 130\n/ # ");
    at.types("sh -c 'echo go; sleep 1000'\n");
    at.shows("\ngo\n");
    at.types("\x03echo ended $?\n");
    at.shows("ended 130\n/ # ");
    at.types("exit 7\n");
    assert_eq!(at.ends(), 7);
    assert!(!at.is_raw());
    assert!(!at.screen().contains("never: not found") && !at.screen().contains("\nnot this"));
    container.logs().stdout_has("a 1 xterm");
    assert_eq!(container.inspect("{{.Config.Tty}}"), "true");
    // Its end is the shell's, by Ctrl-D too.
    let mut at = store.sampan(format!("start -ai {container}")).at_terminal();
    at.shows("/ # ");
    at.types("\x04");
    assert_eq!(at.ends(), 0);
}

#[test]
fn the_keys_that_end_a_program_end_the_container() {
    let store = Store::shared(&["toolbox"]);
    for (key, code) in [("\x03", 130), ("\x1c", 131)] {
        let mut at = store.sampan("run -it --rm toolbox sleep 1000").at_terminal();
        eventually("the keys are ours", || at.is_raw());
        eventually("the key ends it", || {
            at.types(key);
            at.screen().contains('^')
        });
        assert_eq!(at.ends(), code);
    }
    store.sampan("run -it --rm toolbox true").fails(125).stderr_has("not a TTY");
    store.sampan("run -t --rm toolbox sh -c 'test -t 1 && echo yes'").ok().stdout_is("yes\r\n");
    let mut at = store.sampan("run -it --rm toolbox sh -c 'exit 3'").at_terminal();
    assert_eq!(at.ends(), 3);
    store.sampan("run -t --rm toolbox nothing").fails(127);
}

#[test]
fn it_is_left_behind_and_found_again() {
    let store = Store::shared(&["toolbox"]);
    let container = store.container("left");
    let mut at = store.sampan(format!("run -it --name {container} toolbox")).at_terminal();
    at.shows("/ # ");
    at.types("x=kept\n\x10\x11");
    at.shows("read escape sequence");
    assert_eq!(at.ends(), 0);
    assert!(!at.is_raw());
    assert_eq!(container.status(), "running");
    let attach = |flags: &str| store.sampan(format!("attach {flags} {container}")).at_terminal();
    let mut one = attach("--detach-keys a,ctrl-b");
    let mut two = attach("");
    eventually("both are there", || {
        one.types("echo x is $x\n");
        one.screen().contains("x is kept\n") && two.screen().contains("x is kept\n")
    });
    one.types("a\x02");
    assert_eq!(one.ends(), 0);
    two.types("exit 9\n");
    assert_eq!(two.ends(), 9);
    assert_eq!(container.wait(), 9);
}

#[test]
fn those_who_attach_see_both_streams_and_write_its_input() {
    let store = Store::shared(&["toolbox"]);
    let script = "while read line; do echo \"out $line\"; echo \"err $line\" >&2; [ \"$line\" != end ] || exit 6; done";
    let container = store.detached(format!("-i toolbox sh -c '{script}'"));
    let mut one = store.sampan(format!("attach {container}")).start();
    let two = store.sampan(format!("attach --no-stdin {container}")).start();
    eventually("both are there", || {
        one.write("hello\n");
        one.stdout().contains("out hello") && two.stdout().contains("out hello")
    });
    one.write("end\n");
    let one = one.finish().fails(6);
    one.stdout_has("out end\n").stderr_has("err end\n");
    two.finish().fails(6).stdout_has("out end\n").stderr_has("err end\n");
    store.sampan(format!("attach {container}")).fails(1).stderr_has("stopped container");
}

#[test]
fn signals_go_to_the_container_unless_they_shall_not() {
    let store = Store::shared(&["toolbox"]);
    let container = store.detached("toolbox sh -c 'while :; do echo up; done'");
    let attached = store.sampan(format!("attach --sig-proxy=false {container}")).start();
    attached.says("up");
    attached.signal(Signal::INT);
    attached.finish().ok();
    assert_eq!(container.status(), "running");
    let attached = store.sampan(format!("attach {container}")).start();
    attached.says("up");
    attached.signal(Signal::TERM);
    attached.finish().fails(143);
    assert_eq!(container.status(), "exited");
}

#[test]
fn a_client_that_dies_takes_nothing_with_it() {
    let store = Store::shared(&["toolbox"]);
    let container = store.container("orphan");
    let at = store.sampan(format!("run -it --name {container} toolbox")).at_terminal();
    at.shows("/ # ");
    sampan_tests::command::kill(at.pid(), Signal::KILL);
    drop(at);
    assert_eq!(container.status(), "running");
    let mut at = store.sampan(format!("attach {container}")).at_terminal();
    eventually("it answers", || {
        at.types("echo still $((40+2))\n");
        at.screen().contains("still 42\n")
    });
    at.types("exit\n");
    assert_eq!(at.ends(), 0);
}
