//! `exec`: programs inside running containers.

use containerd_shim_protos::api::{
    CloseIORequest, DeleteRequest, ExecProcessRequest, KillRequest, StartRequest, StateRequest, Status, WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;
use sampan_tests::{Container, Dir, Store, eventually, sample_file};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use ttrpc::asynchronous::Client;

/// A container with a shell that goes on until it is stopped.
fn toolbox(store: &Store) -> Container<'_> {
    store.detached("toolbox sleep 1000")
}

#[test]
fn a_program_has_the_containers_files_and_environment_and_streams_of_its_own() {
    let store = Store::shared(&["toolbox"]);
    let container = store.detached("-e A=1 -e B=2 -w /tmp toolbox sleep 1000");
    let exec = |flags: &str, script: &str| store.sampan(format!("exec {flags} {container} sh -c")).arg(script);
    exec("", "echo out; echo err >&2; exit 7").fails(7).stdout_is("out\n").stderr_is("err\n");
    exec("-e B=3 -e C=4", "echo $A$B$C; pwd").ok().stdout_is("134\n/tmp\n");
    exec("-w /bin", "pwd; ls sh").ok().stdout_is("/bin\nsh\n");
    exec("", "echo kept > /kept; cat").ok().stdout_is("");
    exec("-i", "cat /kept - | tr a-z A-Z").stdin("typed\n").ok().stdout_is("KEPT\nTYPED\n");
    exec("-u root", "id -u").ok().stdout_is("0\n");
    let file = Dir::new().file("env", "# c\nFROM=file\n");
    store.sampan(format!("exec --env-file {file}/env {container} printenv FROM")).ok().stdout_is("file\n");
    // What they say is not the container's.
    container.logs().stdout_is("");
    assert_eq!(container.status(), "running");
}

#[test]
fn what_cannot_be_run_is_told_as_docker_tells_it() {
    let store = Store::shared(&["toolbox", "hello"]);
    let container = toolbox(store);
    let exec = |line: &str| store.sampan(format!("exec {line}"));
    exec(&format!("{container} nothing")).fails(127).stderr_has("no such file").stderr_has("PATH=");
    exec(&format!("{container} /none/x")).fails(127);
    exec(&format!("{container} /etc")).fails(126).stderr_has("permission denied");
    exec(&format!("{container} /etc/passwd")).fails(126).stderr_has("neither Wasm nor a script");
    exec(&format!("-w /none {container} ls")).fails(126).stderr_has("/none");
    exec(&format!("-w none {container} ls")).fails(1).stderr_has("absolute");
    exec(&format!("-u nobody {container} ls")).fails(1).stderr_has("one user");
    exec(&format!("{container}")).fails(1).stderr_has("name a program");
    exec("no-such-container ls").fails(1).stderr_has("no such container");
    exec(&format!("-it {container} sh")).fails(1).stderr_has("not a TTY");
    let stopped = store.container("stopped");
    store.sampan(format!("create --name {stopped} toolbox")).ok();
    exec(&format!("{stopped} ls")).fails(1).stderr_has("not running");
    exec(&format!("--module {} {container}", sample_file("web").display())).fails(126).stderr_has("HTTP service");
}

#[test]
fn a_module_of_our_own_runs_in_the_container() {
    let store = Store::shared(&["toolbox", "hello"]);
    let container = toolbox(store);
    let hello = sample_file("hello");
    store.sampan(format!("exec --module {} {container}", hello.display())).ok().stdout_is("Hello from Sampan!\n");
    let probe = sample_file("probe-component");
    let run = |args: &str| store.sampan(format!("exec -i --module {} {container} {args}", probe.display()));
    run("exit 9").fails(9);
    run("stdin").stdin("to a component\n").ok().stdout_is("to a component\n");
    run("trap").fails(134).stderr_has("the program trapped");
    run("cat /etc/group").ok().stdout_has("root:x:0:\n");
}

#[test]
fn where_the_image_has_no_such_program_the_toolbox_lends_its_own() {
    let store = Store::shared(&["toolbox", "web"]);
    let container = store.detached("web");
    let run =
        store.sampan(format!("exec {container} sh -c")).arg("ls /; ls / | wc -l; (cd /; /bin/pwd); none; echo $?");
    let run = run.ok().stdout_is("web.wasm\n1\n/\n127\n");
    run.stderr_has("sh is not in the container: that of the image \"toolbox\" is run").stderr_has("none: not found");
    store.sampan(format!("exec {container} nothing")).fails(127).stderr_has("nor in the image \"toolbox\"");
    // Its files are not the container's.
    store.sampan(format!("exec {container} cat /bin/sh")).fails(1).stderr_has("No such file");
    let bare = Store::fresh(&["probe"]);
    let container = bare.detached("probe forever");
    bare.sampan(format!("exec {container} ls")).fails(127).stderr_has("there is no image \"toolbox\" here");
}

#[test]
fn the_client_ends_it_and_so_does_the_containers_end() {
    let store = Store::shared(&["toolbox"]);
    let container = toolbox(store);
    let start = |script: &str| {
        let started = store.sampan(format!("exec {container} sh -c")).arg(format!("echo up; {script}")).start();
        started.says("up");
        started
    };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for script in ["sleep 1000", "yes > /dev/null", "while :; do :; done"] {
            let started = start(script);
            started.signal(signal);
            started.finish().fails(code);
        }
    }
    let killed = start("while :; do :; done");
    killed.signal(Signal::KILL);
    killed.finish().fails(-9);
    let tasks = format!("/proc/{}/task", container.host());
    eventually("its program has ended too", || {
        let names = std::fs::read_dir(&tasks).unwrap().flatten().map(|task| task.path().join("comm"));
        !names.filter_map(|comm| std::fs::read_to_string(comm).ok()).any(|name| name.trim() == "exec")
    });
    let left = start("sleep 1000");
    store.sampan(format!("stop {container}")).ok();
    left.finish().fails(137);
    assert_eq!(container.wait(), 143);
}

#[test]
fn in_the_background_it_goes_on_alone() {
    let store = Store::shared(&["toolbox"]);
    let container = toolbox(store);
    store.sampan(format!("exec -d {container} sh -c 'cat; echo done > /tmp/done'")).ok().stdout_is("");
    eventually("it has done its work", || store.sampan(format!("exec {container} cat /tmp/done")).run().code == 0);
    store.sampan(format!("exec -d {container} nothing")).fails(127);
}

#[test]
fn much_output_comes_through_and_a_reader_that_leaves_ends_it() {
    let store = Store::shared(&["toolbox"]);
    let container = toolbox(store);
    let name = container.name();
    store.shell(&format!("sampan exec {name} head -c 50000000 /dev/zero | wc -c")).ok().stdout_is("50000000\n");
    store.shell(&format!("sampan exec {name} yes | head -n 1")).ok().stdout_is("y\n");
}

#[test]
fn a_terminal_is_one_and_is_given_back() {
    let store = Store::shared(&["toolbox"]);
    let container = toolbox(store);
    let mut at = store.sampan(format!("exec -it {container} sh")).at_terminal();
    at.types("echo $TERM $((6*7))\n");
    at.shows("xterm 42\n");
    assert!(at.is_raw());
    at.types("sh -c 'echo go; sleep 1000'\n");
    at.shows("\ngo\n");
    at.types("\x03");
    at.types("echo ended $?\n");
    at.shows("ended 130\n");
    at.types("exit 5\n");
    assert_eq!(at.ends(), 5);
    assert!(!at.is_raw());
    let mut at = store.sampan(format!("exec -it {container} sh -c 'echo up; sleep 1000'")).at_terminal();
    at.shows("up");
    at.types("\x10\x11");
    at.shows("read escape sequence");
    assert_eq!(at.ends(), 0);
    assert!(!at.is_raw());
}

/// FIFOs, as containerd makes them for a shim.
fn fifos(dir: &Dir) -> [String; 3] {
    ["in", "out", "err"].map(|name| {
        let path = dir.join(name);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        path.to_string_lossy().into_owned()
    })
}

#[test]
fn containerds_client_runs_a_program_by_the_task_api() {
    let store = Store::shared(&["toolbox"]);
    let container = toolbox(store);
    let (id, dir) = (container.id(), Dir::new());
    let socket = store.run_dir().join(&id[..12]).join("sock");
    let [stdin, stdout, stderr] = fifos(&dir);
    let read = |path: &str| {
        let path = path.to_owned();
        std::thread::spawn(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        })
    };
    let patience = || ttrpc::context::with_timeout(60_000_000_000);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let task = TaskClient::new(Client::connect(&format!("unix://{}", socket.display())).await.unwrap());
        let exec = async |exec: &str, args: &[&str], streams: [&str; 3]| {
            let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/", "env": ["WHO=shim"] });
            let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
            let [stdin, stdout, stderr] = streams.map(str::to_owned);
            let (id, exec_id, spec) = (id.clone(), exec.to_owned(), Some(spec).into());
            let request =
                ExecProcessRequest { id, exec_id, stdin, stdout, stderr, spec, ..ExecProcessRequest::default() };
            task.exec(patience(), &request).await.map(drop)
        };
        let start = async |exec: &str| {
            let request = StartRequest { id: id.clone(), exec_id: exec.into(), ..StartRequest::default() };
            task.start(patience(), &request).await.map(drop)
        };
        let status = async |exec: &str| {
            let request = StateRequest { id: id.clone(), exec_id: exec.into(), ..StateRequest::default() };
            task.state(patience(), &request).await.map(|state| state.status.enum_value().unwrap())
        };
        let wait = async |exec: &str| {
            let request = WaitRequest { id: id.clone(), exec_id: exec.into(), ..WaitRequest::default() };
            task.wait(patience(), &request).await.unwrap().exit_status
        };
        let delete = async |exec: &str| {
            let request = DeleteRequest { id: id.clone(), exec_id: exec.into(), ..DeleteRequest::default() };
            task.delete(patience(), &request).await.map(|answer| answer.exit_status)
        };
        let script = "read line; echo \"$WHO: $line\"; cat >&2; exit 3";
        exec("one", &["sh", "-c", script], [&stdin, &stdout, &stderr]).await.unwrap();
        assert_eq!(status("one").await.unwrap(), Status::CREATED);
        assert!(exec("one", &["true"], ["", "", ""]).await.is_err());
        let (output, errors) = (read(&stdout), read(&stderr));
        start("one").await.unwrap();
        assert_eq!(status("one").await.unwrap(), Status::RUNNING);
        assert!(delete("one").await.is_err());
        // A writer that comes and goes is not the end.
        File::options().write(true).open(Path::new(&stdin)).unwrap().write_all(b"first\n").unwrap();
        File::options().write(true).open(Path::new(&stdin)).unwrap().write_all(b"second\n").unwrap();
        let request =
            CloseIORequest { id: id.clone(), exec_id: "one".into(), stdin: true, ..CloseIORequest::default() };
        task.close_io(patience(), &request).await.unwrap();
        assert_eq!(wait("one").await, 3);
        assert_eq!(output.join().unwrap(), "shim: first\n");
        assert_eq!(errors.join().unwrap(), "second\n");
        assert_eq!(status("one").await.unwrap(), Status::STOPPED);
        assert_eq!(delete("one").await.unwrap(), 3);
        assert!(status("one").await.is_err());
        exec("two", &["sleep", "1000"], ["", "", ""]).await.unwrap();
        start("two").await.unwrap();
        let request = KillRequest { id: id.clone(), exec_id: "two".into(), signal: 9, ..KillRequest::default() };
        task.kill(patience(), &request).await.unwrap();
        assert_eq!(wait("two").await, 137);
        // Never under CRI: the toolbox stands in only where it was asked for.
        exec("three", &["nothing"], ["", "", ""]).await.unwrap();
        assert!(start("three").await.unwrap_err().to_string().contains("no such file"));
        assert_eq!(delete("three").await.unwrap(), 0);
    });
}

#[test]
fn without_root_it_is_the_same() {
    let store = Store::rootless(&["probe"]);
    let container = store.detached("probe forever");
    store.sampan(format!("exec {container} /probe.wasm exit 4")).fails(4);
    store.sampan(format!("exec -i {container} /probe.wasm stdin")).stdin("one\n").ok().stdout_is("one\n");
}
