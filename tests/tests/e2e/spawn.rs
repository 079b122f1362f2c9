//! Programs that start programs: the interface `sampan:process/spawn` through the toolbox's shell.

use sampan_tests::command::Run;
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store, eventually};
use std::os::unix::fs::PermissionsExt;

/// `sh -c SCRIPT` in a container that may start programs.
fn sh(store: &Store, script: &str) -> Run {
    store.sampan("run --rm --allow-spawn toolbox sh -c").arg(script)
}

#[test]
fn a_shell_runs_programs_and_says_how_they_ended() {
    let store = Store::shared(&["toolbox"]);
    sh(store, "ls /bin/sh; /bin/false; echo $?; cat /none; echo $?; nothing; echo $?; exit 7")
        .fails(7)
        .stdout_is("/bin/sh\n1\n1\n127\n")
        .stderr_is("cat: can't open '/none': No such file or directory\nsh: nothing: not found\n");
}

#[test]
fn scripts_come_from_files_and_from_standard_input() {
    let store = Store::shared(&["toolbox"]);
    let dir = Dir::context("FROM toolbox\nCOPY run.sh /run.sh\nCMD [\"/bin/sh\", \"/run.sh\", \"x y\"]\n")
        .file("run.sh", "#!/bin/sh -e\nfor i in 1 2; do /bin/echo \"$i $1\"; done | tr a-z A-Z\nfalse\necho never\n");
    store.build_from("spawn-script", &dir);
    store.sampan("run --rm --allow-spawn spawn-script").ok().stdout_is("1 X Y\n2 X Y\nnever\n");
    store.sampan("run --rm --allow-spawn spawn-script sh -c").arg("/run.sh b").fails(1).stdout_is("1 B\n2 B\n");
    let script = "echo from $0\nread line\nthis line\ncat <<END\n$line\nEND\nls /bin/cat\nexit 4\n";
    let run = store.sampan("run --rm -i --allow-spawn toolbox").stdin(script);
    run.fails(4).stdout_is("from /bin/sh\nthis line\n/bin/cat\n").stderr_is("");
}

#[test]
fn streams_go_where_they_are_told() {
    let store = Store::shared(&["toolbox"]);
    for (script, wanted) in [
        ("/bin/echo one > /f; /bin/echo two >> /f; cat < /f; wc -l < /f", "one\ntwo\n2\n"),
        ("ls /none 2>/err; cat /err", "ls: /none: No such file or directory\n"),
        ("{ /bin/echo out; ls /none; } 2>&1 | wc -l", "2\n"),
        ("{ /bin/echo a; echo b; /bin/echo c; } > /f; cat /f", "a\nb\nc\n"),
        ("exec 3>/f; /bin/echo three >&3; echo four >&3; cat /f", "three\nfour\n"),
        ("ls /none > /dev/null 2>&1; echo $?", "1\n"),
        ("printf '3\\n1\\n2\\n' | sort | head -n 2 | tr '\\n' ,", "1,2,"),
        ("x=$(ls /bin | grep -c .); [ $x -gt 60 ] && echo many", "many\n"),
        ("echo a | cat | cat | cat | cat", "a\n"),
        ("seq 5 | while read n; do /bin/echo \"<$n>\"; done | tail -n 1", "<5>\n"),
        ("f() { while read x; do /bin/echo \"f $x\"; done; }; /bin/echo a | f | f", "f f a\n"),
        ("cd /usr/bin; /bin/pwd; ls env; (cd /etc; /bin/pwd); pwd", "/usr/bin\nenv\n/etc\n/usr/bin\n"),
        ("A=1 /bin/env | grep ^A=; export B=2; printenv B; echo \"[$A]\"", "A=1\n2\n[]\n"),
    ] {
        sh(store, script).ok().stdout_is(wanted).stderr_is("");
    }
}

#[test]
fn links_are_made_read_and_removed() {
    let store = Store::shared(&["toolbox"]);
    for (script, wanted) in [
        (
            "ln -s f sym; ln -s /t/d/g abs; ln -s none off; readlink sym; cat sym abs; readlink -f abs",
            "f\none\ntwo\n/t/d/g\n",
        ),
        ("ln -s / root; ls root/t; cd d; ln -s /t/f up; cat up; cat /t/root/t/d/up", "d\nf\nroot\none\none\n"),
        ("ln f hard; echo more >> hard; cat f; rm f; cat hard; stat -c %h hard", "one\nmore\none\nmore\n1\n"),
        (
            "ln -s f s; [ -L s ] && [ -h s ] && [ ! -L f ] && [ -f s ] && echo link; ls -F; stat -c '%F %N' s",
            "link\nd/\nf\ns@\nsymbolic link 's' -> 'f'\n",
        ),
        ("ln -s none off; [ -e off ] || [ -L off ] && ls off; cat off; rm off; ls", "off\nd\nf\n"),
        ("ln -s d s; ls s; rm s; ls d; ln -s d s; unlink s; ls", "g\ng\nd\nf\n"),
        (
            "ln -s f s; cp -P s p; cp s c; cp -a s a; find . -type l | sort; readlink p a; cat c",
            "./a\n./p\n./s\nf\nf\none\n",
        ),
        ("ln -s ../f d/up; cp -a d e; cp -r d r; readlink e/up r/up; mv e/up m; readlink m", "../f\n../f\n../f\n"),
        (
            "ln -s f s; ls -l s | sed 's/.* //'; ls -l | grep -c ^l; ln -sf d s; readlink s; ln -sfn f s; readlink s",
            "f\n1\nd\nf\n",
        ),
        (
            "ln -s d s; ln -s x s/y; ls d; rm -r s; ls d; tar -cf a.tar d; rm -r d; tar -xf a.tar; readlink d/y",
            "g\ny\ng\ny\nx\n",
        ),
        ("readlink -f d/new; realpath d/../f; readlink -e none; readlink f; echo $?", "/t/d/new\n/t/f\n1\n"),
    ] {
        let script = format!("mkdir -p /t/d; cd /t; echo one > f; echo two > d/g; {script}");
        let run = sh(store, &script).ok();
        assert_eq!(run.stdout, wanted, "{script}\n{}", run.stderr);
    }
    sh(store, "cd /tmp; echo a > f; ln f f; ln none x; ln -s f f")
        .fails(1)
        .stderr_is("ln: f: File exists\nln: x: No such file or directory\nln: f: File exists\n");
}

#[test]
fn a_reader_that_has_enough_ends_its_writer() {
    let store = Store::shared(&["toolbox"]);
    sh(store, "yes | head -n 1").ok().stdout_is("y\n").stderr_is("");
    sh(store, "while :; do echo y; done | head -n 1").ok().stdout_is("y\n").stderr_is("");
}

#[test]
fn a_hundred_megabytes_go_through_pipes_unharmed() {
    let store = Store::shared(&["toolbox"]);
    let script = "head -c 100000000 /dev/zero | cat | cat | wc -c; yes abcdefg | head -c 20000000 | md5sum";
    sh(store, script).ok().stdout_is("100000000\n23f927d15b277f8fbdfa76c9192e186e  -\n");
}

#[test]
fn what_runs_in_the_background_is_waited_for_and_killed() {
    let store = Store::shared(&["toolbox"]);
    sh(store, "sleep 1000 & kill $!; wait $!; echo $?").ok().stdout_is("143\n");
    sh(store, "yes > /dev/null & kill -9 $!; wait $!; echo $?").ok().stdout_is("137\n");
    sh(store, "(exit 3) & wait $!; echo $?; { sleep 0; echo done; } & wait").ok().stdout_is("3\ndone\n");
    sh(store, "kill 1; echo $?; kill 999; echo $?").ok().stdout_is("1\n1\n");
}

#[test]
fn the_end_of_the_first_program_is_the_end_of_all() {
    let store = Store::shared(&["toolbox"]);
    sh(store, "sleep 1000 & yes >/dev/null & echo over").ok().stdout_is("over\n");
}

#[test]
fn a_stopped_container_takes_its_children_with_it() {
    let store = Store::shared(&["toolbox"]);
    for (how, code) in [("stop", 143), ("kill", 137)] {
        for script in ["yes > /dev/null", "sleep 1000", "sleep 1000 | cat", "yes >/dev/null & wait"] {
            let container = store.detached(format!("--allow-spawn toolbox sh -c 'echo up; {script}'"));
            container.says("up");
            let host = container.host();
            store.sampan(format!("{how} {container}")).ok();
            assert_eq!(container.wait(), code, "{how} {script}");
            eventually("its host is gone", || !std::path::Path::new(&format!("/proc/{host}")).exists());
        }
    }
}

#[test]
fn sixty_four_processes_are_the_most() {
    let store = Store::shared(&["toolbox"]);
    let script = "i=0; while [ $i -lt 80 ]; do sleep 1000 & i=$((i+1)); done 2>/err; n=0; while read line; do n=$((n+1)); done < /err; echo $n; ls";
    // The shell is one of them, so 63 sleep; and then there is no place for `ls` either.
    sh(store, script).fails(126).stdout_is("17\n").stderr_is("sh: ls: Resource temporarily unavailable\n");
    let script = "i=0; while [ $i -lt 300 ]; do /bin/true & i=$((i+1)); done; wait; echo all";
    sh(store, script).ok().stdout_is("all\n").stderr_is("");
}

#[test]
fn without_the_grant_nothing_starts_and_a_line_says_why() {
    let store = Store::shared(&["toolbox"]);
    let run = store.sampan("run --rm toolbox sh -c").arg("echo built in; ls; echo $?").ok();
    let run = run.stdout_is("built in\n126\n");
    run.stderr_has("denied: let the container start programs of its own with --allow-spawn").stderr_has("sh: ls:");
    let container = store.container("grant");
    store.sampan(format!("create --name {container} --allow-spawn toolbox")).ok();
    assert_eq!(container.inspect("{{.Sampan.Grants.Spawn}}"), "true");
}

#[test]
fn what_is_no_program_is_told_apart() {
    let store = Store::shared(&["toolbox", "hello"]);
    let dir = Dir::context("FROM toolbox\nCOPY bad /bad\nCOPY text /text\nCOPY hello.wasm /hello\n")
        .file("bad", b"\0asm\x01\0\0\0\x05")
        .file("text", "echo a script without a first line\n")
        .copy("hello.wasm", &sample_file("hello"));
    store.build_from("spawn-kinds", &dir);
    let output = store
        .sampan("run --rm --allow-spawn spawn-kinds sh -c")
        .arg("/hello; /text; /bad; echo $?; /etc; echo $?; /bin/ls/x; echo $?")
        .ok();
    output.stdout_is("Hello from Sampan!\na script without a first line\n126\n126\n127\n");
}

#[test]
fn a_masked_program_is_denied() {
    let store = Store::shared(&["toolbox"]);
    let image = Dir::context("FROM toolbox\nCOPY other /bin/other\n").copy("other", &sample_file("toolbox"));
    store.build_from("spawn-masked", &image);
    // What masking puts over a program: a file that nobody may read, though root could.
    let mask = Dir::new().file("mask", "");
    std::fs::set_permissions(mask.join("mask"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let run = store.sampan(format!("run --rm --allow-spawn -v '{mask}/mask:/bin/other:ro' spawn-masked /bin/sh -c"));
    run.arg("other; echo $?").ok().stdout_is("126\n").stderr_is("/bin/sh: other: Permission denied\n");
}

#[test]
fn a_trap_of_a_child_is_told_and_is_not_the_shells() {
    let store = Store::shared(&["toolbox", "probe"]);
    let dir = Dir::context("FROM toolbox\nCOPY probe.wasm /bin/probe\n").copy("probe.wasm", &sample_file("probe"));
    store.build_from("spawn-probe", &dir);
    let run = |script: &str| store.sampan("run --rm --allow-spawn spawn-probe sh -c").arg(script);
    run("probe trap 2>/err; echo $?; grep -c 'the program trapped' /err").ok().stdout_is("134\n1\n");
    run("probe exit 200; echo $?").ok().stdout_is("200\n");
    run("echo text | probe stdin | probe stdin; probe cat /etc/passwd > /copy; cat /copy")
        .ok()
        .stdout_has("text\nroot:x:0:0:root:/root:/bin/sh\n");
}

/// The sample `spawn`, a component that starts programs, in a container that may.
fn component(store: &Store, line: &str) -> Run {
    store.sampan(format!("run --rm -i --allow-spawn spawn {line}"))
}

#[test]
fn a_component_starts_a_module_and_says_how_it_ended() {
    let store = Store::shared(&["toolbox", "spawn"]);
    let run = component(store, "run /bin/sh -c 'read line; echo \"got $line\"; echo oh >&2; exit 7'").stdin("text\n");
    run.ok().stdout_is("process 2 of 1\ngot text\nended with 7\nended with 7\n").stderr_is("oh\n");
    component(store, "capture /bin/sh -c 'seq 100000; ls /none'")
        .ok()
        .stdout_is("588895 bytes out, 37 bytes of errors\nended with 1\n");
    component(store, "feed 'some text' /bin/wc -c").ok().stdout_is("9\nended with 0\n");
    component(store, "join '/bin/seq 3' '/bin/tail -n 1'").ok().stdout_is("3\nended with 0\nended with 0\n");
    component(store, "join /bin/yes '/bin/head -n 1'").ok().stdout_is("y\nended with 0\nended with 141\n");
    component(store, "among /etc A=b /bin/sh -c 'pwd; /bin/ls passwd; echo $A; echo [$HOME]'")
        .ok()
        .stdout_is("/etc\npasswd\nb\n[]\nended with 0\n");
    component(store, "kill 15 /bin/sleep 1000").ok().stdout_is("ended with 143\n");
}

#[test]
fn what_a_component_hands_over_is_shared() {
    let store = Store::shared(&["toolbox", "spawn"]);
    let script = "spawn into /f /bin/sh -c 'echo one; ls /none; echo two >&2'; cat /f";
    let wanted = "ended with 0\nhere it is:\none\nls: /none: No such file or directory\ntwo\n";
    store.sampan("run --rm --allow-spawn --entrypoint /bin/sh spawn -c").arg(script).ok().stdout_is(wanted);
}

#[test]
fn modules_and_components_start_one_another() {
    let store = Store::shared(&["toolbox", "spawn"]);
    let script = "echo text | spawn run /bin/spawn run /bin/sh -c 'read x; echo \"<$x>\"; exit 3'; echo $?";
    let run = store.sampan("run --rm --allow-spawn --entrypoint /bin/sh spawn -c").arg(script).ok();
    // The lines of all of them are in the order in which they were said. (The shell starts others for its pipe.)
    let lines: Vec<&str> = run.stdout.lines().filter(|line| !line.starts_with("process ")).collect();
    assert_eq!(lines, ["<text>", "ended with 3", "ended with 3", "ended with 0", "ended with 0", "0"]);
    let container = store.detached("--allow-spawn spawn run /bin/sh -c 'echo up; /bin/spawn run /bin/sleep 1000'");
    container.says("up");
    let host = container.host();
    store.sampan(format!("stop {container}")).ok();
    assert_eq!(container.wait(), 143);
    eventually("its host is gone", || !std::path::Path::new(&format!("/proc/{host}")).exists());
    // `exec` may start programs, whatever the container may.
    let container = store.detached("--entrypoint /bin/sleep spawn 1000");
    let run = store.sampan(format!("exec {container} /bin/spawn run /bin/true")).ok();
    run.stdout_has("ended with 0");
}

#[test]
fn a_components_processes_are_counted_and_forgotten() {
    let store = Store::shared(&["toolbox", "spawn"]);
    component(store, "many /bin/sleep 1000").ok().stdout_is("63 and then limit\n63 and then limit\n");
    // What is let go of goes on, and the container's end is its end.
    component(store, "leave /bin/sleep 1000").ok().stdout_is("");
    component(store, "odd").ok().stdout_is(
        "no program: no-entry\na directory: access\ntext: not-executable\na relative directory: invalid\nthe first: \
         not-permitted\nno process: no-such-process\nno signal: invalid\nthe wrong end: invalid invalid\nnobody reads: \
         nobody reads it\n",
    );
}

#[test]
fn a_component_without_the_grant_is_told_so() {
    let store = Store::shared(&["toolbox", "spawn"]);
    let run = store.sampan("run --rm spawn run /bin/true").fails(1);
    run.stderr_has("spawn: not-permitted").stderr_has("let the container start programs of its own with --allow-spawn");
    let run = store.sampan("image inspect --capabilities spawn").ok();
    run.stdout_has("sampan:process/spawn@0.1.0").stdout_has("starts other programs").stdout_has("--allow-spawn");
    // RUN may, as with modules.
    let dir = Dir::context("FROM spawn\nRUN [\"/bin/spawn\", \"into\", \"/made\", \"/bin/echo\", \"text\"]\n");
    store.build_from("spawn-run", &dir);
    let run = store.sampan("run --rm --entrypoint /bin/cat spawn-run /made").ok();
    run.stdout_is("here it is:\ntext\n");
}
