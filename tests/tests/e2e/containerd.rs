//! containerd, with us as one of its shims: Debian's, and one of version 2 where it could be built.

use rustix::process::Signal;
use sampan_tests::command::{kill, words};
use sampan_tests::needs::{Need, lacks};
use sampan_tests::{Dir, Pty, Run, Started, Store, eventually, until};
use serde_json::json;
use std::path::PathBuf;

/// Which containerd: its program and its client's.
#[derive(Clone, Copy)]
struct Version {
    daemon: &'static str,
    client: &'static str,
    /// How an image is imported and unpacked, by the client itself.
    import: &'static str,
    config: &'static str,
    needs: [Need; 3],
}

const DEBIANS: Version = Version {
    daemon: "containerd",
    client: "ctr",
    import: "image import",
    config: r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/hello:latest"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.sampan]
    runtime_type = "io.containerd.sampan.v1"
    pod_annotations = ["dev.sampan.*"]
"#,
    needs: [Need::Root, Need::Tool("containerd"), Need::Tool("ctr")],
};

const SECOND: Version = Version {
    daemon: "containerd-2",
    client: "ctr-2",
    import: "image import --local",
    config: r#"
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/library/hello:latest"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.sampan]
    runtime_type = "io.containerd.sampan.v1"
    pod_annotations = ["dev.sampan.*"]
"#,
    needs: [Need::Root, Need::Tool("containerd-2"), Need::Tool("ctr-2")],
};

/// A containerd of a test's own.
struct Containerd {
    version: Version,
    store: Store,
    dir: Dir,
    daemon: Option<Started>,
}

impl Containerd {
    /// One that has these samples' images, in the namespaces of people and of Kubernetes.
    fn new(version: Version, samples: &[&str]) -> Self {
        let dir = Dir::new().file("config.toml", version.config);
        std::fs::create_dir(dir.join("bin")).unwrap();
        let shim = dir.join("bin/containerd-shim-sampan-v1");
        std::os::unix::fs::symlink(sampan_tests::store::binary(), shim).unwrap();
        let mut containerd = Self { version, store: Store::fresh(samples), dir, daemon: None };
        containerd.start();
        for sample in samples {
            let archive = containerd.dir.join(format!("{sample}.tar"));
            containerd.store.sampan(format!("save -o '{}' {sample}", archive.display())).ok();
            for namespace in ["default", "k8s.io"] {
                let import = containerd.version.import;
                let line = format!("-n {namespace} {import} --all-platforms '{}'", archive.display());
                containerd.ctr(line).ok();
            }
        }
        containerd
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    fn start(&mut self) {
        let place = |name: &str| self.dir.join(name).into_os_string();
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap());
        let daemon = Run::new([self.version.daemon])
            .arg("--root")
            .arg(place("root"))
            .arg("--state")
            .arg(place("state"))
            .arg("--address")
            .arg(place("c.sock"))
            .arg("--config")
            .arg(place("config.toml"))
            .env("SAMPAN_ROOT", self.store.root())
            .env("SAMPAN_CONFIG", "/dev/null")
            .env("PATH", path)
            .start();
        self.daemon = Some(daemon);
        until("containerd answers", || (self.ctr("version").run().code == 0).then_some(()));
    }

    /// Kills it, as a crash would.
    fn crash(&mut self) {
        let daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::KILL);
        let _ = daemon.finish();
    }

    fn ctr(&self, line: impl AsRef<str>) -> Run {
        let address = Run::new([self.version.client, "-a"]).arg(self.socket());
        words(line.as_ref()).into_iter().fold(address, |run, word| run.arg(word))
    }

    fn run(&self, flags: &str, image: &str, rest: &str) -> Run {
        self.ctr(format!("run {flags} --runtime io.containerd.sampan.v1 docker.io/library/{image}:latest {rest}"))
    }

    /// What is said of a task: its process and its status.
    fn task(&self, id: &str) -> Option<(u32, String)> {
        let tasks = self.ctr("task ls").ok();
        let of_it = tasks.lines().into_iter().map(str::split_whitespace).map(Iterator::collect::<Vec<_>>);
        let mut found = of_it.filter(|words| words.first() == Some(&id));
        found.next().map(|words| (words[1].parse().unwrap(), words[2].to_owned()))
    }

    fn becomes(&self, id: &str, status: &str) {
        eventually(&format!("{id} is {status}"), || self.task(id).is_some_and(|(_, now)| now == status));
    }

    fn crictl(&self, line: impl AsRef<str>) -> Run {
        let socket = format!("unix://{}", self.socket().display());
        let run = Run::new(["crictl", "--timeout", "30s", "-r", &socket, "-i", &socket]);
        words(line.as_ref()).into_iter().fold(run, |run, word| run.arg(word))
    }

    /// Sandboxes that are there.
    fn sandboxes(&self) -> usize {
        std::fs::read_dir(self.store.run_dir().join("containerd")).map_or(0, Iterator::count)
    }

    /// The keepers' processes: the parents of those that tasks are said to be.
    fn keeper(&self, id: &str) -> u32 {
        let host = self.task(id).unwrap().0;
        let status = std::fs::read_to_string(format!("/proc/{host}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            return;
        }
        for namespace in ["default", "k8s.io"] {
            let tasks = self.ctr(format!("-n {namespace} task ls -q")).run();
            for id in tasks.lines() {
                let _ = self.ctr(format!("-n {namespace} task rm -f {id}")).run();
            }
        }
        self.crash();
    }
}

/// The same test of each version.
fn each(samples: &[&str], test: fn(&mut Containerd)) {
    for version in [DEBIANS, SECOND] {
        if !lacks(&version.needs) {
            test(&mut Containerd::new(version, samples));
        }
    }
}

#[test]
fn a_container_runs_and_nothing_is_left_of_it() {
    each(&["hello", "probe", "toolbox"], |containerd| {
        containerd.run("--rm", "hello", "a").ok().stdout_is("Hello from Sampan!\n");
        containerd.run("--rm", "probe", "b /probe.wasm exit 7").fails(7);
        let script = "'echo out; echo err >&2; pwd; echo $NAME'";
        let both = containerd.run("--rm --env NAME=value --cwd /tmp", "toolbox", &format!("c sh -c {script}")).ok();
        both.stdout_is("out\n/tmp\nvalue\n").stderr_has("err\n");
        eventually("the sandboxes are gone", || containerd.sandboxes() == 0);
        // The code that was compiled is ours, and the containers are containerd's.
        assert!(containerd.store.sampan("ps -aq").ok().lines().is_empty());
    });
}

#[test]
fn what_cannot_run_is_refused_in_words() {
    each(&["hello"], |containerd| {
        containerd
            .run("--rm", "hello", "a /nothing")
            .fails(1)
            .stderr_has("exec: \"/nothing\": no such file in the image");
        let mount = "--rm --mount type=bind,src=/bin/true,dst=/true,options=rbind:ro";
        containerd.run(mount, "hello", "b /true").fails(1).stderr_has("/true: it is a native Linux program (ELF)");
        containerd.run("--rm --device /dev/null", "hello", "c").fails(1).stderr_has("cannot have the device /dev/null");
        eventually("the sandboxes are gone", || containerd.sandboxes() == 0);
    });
}

#[test]
fn standard_input_is_read_to_its_end() {
    each(&["toolbox"], |containerd| {
        let mut cat = containerd.run("--rm", "toolbox", "a cat").start();
        cat.write("one\n");
        cat.says("one");
        cat.write("two\n");
        cat.says("two");
        cat.finish().ok();
    });
}

#[test]
fn a_terminal_is_one() {
    each(&["toolbox"], |containerd| {
        let mut shell: Pty = containerd.run("--rm -t", "toolbox", "a sh").at_terminal();
        shell.shows("/ # ");
        shell.types("echo $((6 * 7))\r");
        shell.shows("42");
        shell.types("exit 6\r");
        assert_eq!(shell.ends(), 6);
    });
}

#[test]
fn a_task_is_looked_into_paused_measured_and_killed() {
    each(&["toolbox"], |containerd| {
        let events = containerd.ctr("events").start();
        let begun = || {
            let _ = containerd.ctr("namespace label default a=b").run();
            events.stdout().contains("/namespaces/update")
        };
        eventually("somebody listens", begun);
        containerd.run("-d --memory-limit 67108864", "toolbox", "a sh -c 'while true; do sleep 1; done'").ok();
        containerd.becomes("a", "RUNNING");
        let exec = |id: &str, rest: &str| containerd.ctr(format!("task exec --exec-id {id} a {rest}"));
        exec("one", "echo inside").ok().stdout_is("inside\n");
        exec("two", "sh -c 'echo err >&2; exit 4'").fails(4).stderr_has("err");
        exec("three", "/nothing").fails(1).stderr_has("no such file");
        let mut shell = containerd.ctr("task exec -t --exec-id five a sh").at_terminal();
        shell.shows("/ # ");
        shell.types("exit 5\r");
        assert_eq!(shell.ends(), 5);
        containerd.ctr("task metrics a").ok().stdout_has("memory.usage_limit    67108864").stdout_has("cpu.usage_usec");
        containerd.ctr("task ps a").ok().stdout_has(&containerd.task("a").unwrap().0.to_string());
        containerd.ctr("task pause a").ok();
        containerd.becomes("a", "PAUSED");
        exec("six", "true").fails(1).stderr_has("paused");
        containerd.ctr("task resume a").ok();
        containerd.becomes("a", "RUNNING");
        containerd.ctr("task rm a").fails(1);
        containerd.ctr("task kill -s SIGWINCH a").ok();
        containerd.ctr("task kill -s SIGUSR1 a").fails(1).stderr_has("no meaning for a Wasm program");
        containerd.ctr("task kill -s SIGKILL a").ok();
        containerd.becomes("a", "STOPPED");
        containerd.ctr("task kill -s SIGKILL a").run().stderr_has("already finished");
        containerd.ctr("task rm a").ok();
        containerd.ctr("container rm a").ok();
        let told = ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"];
        eventually("all has been told", || {
            told.iter().all(|what| events.stdout().contains(&format!("/tasks/{what} ")))
        });
        let exits = events.stdout();
        assert!(exits.contains(r#""id":"two""#) && exits.contains(r#""exit_status":4"#), "{exits}");
        eventually("the sandbox is gone", || containerd.sandboxes() == 0);
        events.signal(Signal::KILL);
    });
}

#[test]
fn whoever_dies_the_others_know() {
    each(&["probe"], |containerd| {
        // The shim: containerd clears up after it.
        containerd.run("-d", "probe", "shim /probe.wasm forever").ok();
        kill(containerd.keeper("shim"), Signal::KILL);
        eventually("the task is gone", || containerd.task("shim").is_none());
        eventually("the sandbox is gone", || containerd.sandboxes() == 0);
        containerd.ctr("container rm shim").ok();
        // The engine: its end is told.
        containerd.run("-d", "probe", "host /probe.wasm forever").ok();
        kill(containerd.task("host").unwrap().0, Signal::KILL);
        containerd.becomes("host", "STOPPED");
        containerd.ctr("task rm host").ok();
        // containerd: it finds what runs, and what has ended meanwhile.
        containerd.run("-d", "probe", "runs /probe.wasm forever").ok();
        containerd.run("-d", "probe", "ends /probe.wasm forever").ok();
        let host = containerd.task("ends").unwrap().0;
        containerd.crash();
        kill(host, Signal::KILL);
        containerd.start();
        containerd.becomes("runs", "RUNNING");
        containerd.becomes("ends", "STOPPED");
        containerd.ctr("task exec --exec-id one runs /probe.wasm exit 5").fails(5);
        containerd.ctr("task rm -f runs").ok();
        containerd.ctr("task rm ends").ok();
        eventually("the sandboxes are gone", || containerd.sandboxes() == 0);
    });
}

#[test]
fn a_pod_is_one_sandbox_and_its_own_image_is_never_run() {
    if lacks(&[Need::Tool("crictl")]) {
        return;
    }
    each(&["hello", "toolbox"], |containerd| {
        let file = |name: &str, content: serde_json::Value| {
            std::fs::write(containerd.dir.join(name), content.to_string()).unwrap();
            containerd.dir.join(name).display().to_string()
        };
        let logs = containerd.dir.join("logs");
        let pod = json!({
            "metadata": { "name": "pod", "namespace": "default", "uid": "1" },
            "log_directory": logs,
            "linux": { "security_context": { "namespace_options": { "network": 2 } } },
        });
        let pod_file = file("pod.json", pod);
        let pod = until("the pod is there", || {
            let made = containerd.crictl(format!("runp -r sampan {pod_file}")).run();
            (made.code == 0).then(|| made.line())
        });
        let start = |name: &str, script: &str| {
            let config = json!({
                "metadata": { "name": name }, "image": { "image": "docker.io/library/toolbox:latest" },
                "command": ["sh", "-c", script], "log_path": format!("{name}.log"), "linux": {},
            });
            let config = file(&format!("{name}.json"), config);
            let id = containerd.crictl(format!("create {pod} {config} {pod_file}")).ok().line();
            containerd.crictl(format!("start {id}")).ok();
            id
        };
        let first = start("first", "echo first; while true; do sleep 1; done");
        let second = start("second", "echo second; exit 3");
        assert_eq!(containerd.sandboxes(), 1);
        let log = |name: &str| std::fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default();
        eventually("both have spoken", || log("first").contains("F first") && log("second").contains("F second"));
        // The image of the pod says hello when it is run.
        assert!(!containerd.crictl(format!("inspectp {pod}")).ok().stdout.contains("Hello from Sampan"));
        containerd.crictl(format!("exec -s {first} echo inside")).ok().stdout_has("inside");
        let state = |id: &str| containerd.crictl(format!("inspect {id}")).ok().json()["status"].clone();
        eventually("the second has ended", || state(&second)["state"] == "CONTAINER_EXITED");
        assert_eq!(state(&second)["exitCode"], 3);
        assert_eq!(state(&first)["state"], "CONTAINER_RUNNING");
        containerd.crictl(format!("stopp {pod}")).ok();
        containerd.crictl(format!("rmp {pod}")).ok();
        eventually("the sandbox is gone", || containerd.sandboxes() == 0);
    });
}
