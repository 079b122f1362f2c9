//! `serve --cri`, as crictl drives it.

use sampan_tests::command::words;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::{Dir, Run, Started, Store, eventually, net};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A node: a store, its server and a directory for what kubelet would have.
pub struct Node {
    pub store: Store,
    server: Option<Started>,
    pub dir: Dir,
}

impl Node {
    /// A node with these samples' images.
    pub fn new(samples: &[&str]) -> Self {
        let (store, dir) = (Store::fresh(samples), Dir::new());
        let mut node = Self { store, server: None, dir };
        node.serve();
        for sample in samples {
            let archive = node.dir.join(format!("{sample}.tar"));
            node.store.sampan(format!("save -o '{}' {sample}", archive.display())).ok();
            node.store.sampan(format!("--namespace k8s.io load -i '{}'", archive.display())).ok();
        }
        node
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("cri.sock")
    }

    /// A network for its pods: a bridge of this test's own.
    pub fn network(&self) -> Bridge {
        // Others of this run, and of other runs, have theirs at the same time.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let taken = |number: &u32| std::path::Path::new(&format!("/sys/class/net/sampan{number}")).exists();
        let draw = || (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 230 + 20;
        let number = std::iter::repeat_with(draw).take(230).find(|number| !taken(number)).unwrap();
        let cni = self.dir.join("cni");
        std::fs::create_dir(&cni).unwrap();
        let conflist = json!({ "cniVersion": "1.0.0", "name": format!("sampan{number}"), "plugins": [
            { "type": "bridge", "bridge": format!("sampan{number}"), "isGateway": true, "ipam": {
                "type": "host-local", "subnet": format!("10.213.{number}.0/24"), "dataDir": self.dir.join("ipam") } },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ] });
        std::fs::write(cni.join("10-test.conflist"), conflist.to_string()).unwrap();
        Bridge(number)
    }

    fn serve(&mut self) {
        let line = format!(
            "serve --cri unix://{} --cni-conf-dir '{}'",
            self.socket().display(),
            self.dir.join("cni").display()
        );
        let mut serve = self.store.sampan(line);
        let config = self.dir.join("config.toml");
        if config.exists() {
            serve = serve.env("SAMPAN_CONFIG", &config);
        }
        let server = serve.start();
        server.says("cri: unix://");
        self.server = Some(server);
    }

    fn kill_server(&mut self) {
        let server = self.server.take().unwrap();
        server.signal(rustix::process::Signal::KILL);
        let _ = server.finish();
    }

    pub fn crictl(&self, line: impl AsRef<str>) -> Run {
        let socket = format!("unix://{}", self.socket().display());
        let command =
            ["crictl".to_owned(), "--timeout".into(), "30s".into(), "-r".into(), socket.clone(), "-i".into(), socket];
        words(line.as_ref()).into_iter().fold(Run::new(command), |run, word| run.arg(word))
    }

    /// Writes a request down, as crictl wants it.
    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.to_string_lossy().into_owned()
    }

    pub fn pod_config(&self, name: &str) -> Value {
        json!({
            "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"), "attempt": 0 },
            "hostname": name,
            "labels": { "app": name },
            "log_directory": self.dir.join("logs").join(name),
            "dns_config": { "servers": ["192.0.2.53"], "searches": ["default.svc.cluster.local"], "options": ["ndots:5"] },
            "linux": { "security_context": { "namespace_options": { "network": 2 } } },
        })
    }

    /// A pod on the node's own network.
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_of(self.pod_config(name))
    }

    pub fn pod_of(&self, config: Value) -> Pod<'_> {
        let name = config["metadata"]["name"].as_str().unwrap().to_owned();
        let file = self.file(&format!("{name}.json"), &config);
        let id = self.crictl(format!("runp {file}")).ok().line();
        Pod { node: self, id, file, name }
    }

    pub fn inspect(&self, id: &str) -> Value {
        self.crictl(format!("inspect {id}")).ok().json()["status"].clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _ = self.crictl("rmp -fa").run();
        }
    }
}

/// A bridge that goes with its value.
pub struct Bridge(u32);

impl Bridge {
    /// How the addresses on it begin.
    pub fn prefix(&self) -> String {
        format!("10.213.{}.", self.0)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Run::new(["ip", "link", "delete", &format!("sampan{}", self.0)]).run();
    }
}

pub struct Pod<'a> {
    node: &'a Node,
    pub id: String,
    file: String,
    name: String,
}

impl Pod<'_> {
    /// Makes a container that runs a line of shell, or what its image says, and starts it.
    pub fn start(&self, name: &str, image: &str, script: &str, more: Value) -> String {
        let id = self.create(name, image, script, more).ok().line();
        self.node.crictl(format!("start {id}")).ok();
        id
    }

    pub fn create(&self, name: &str, image: &str, script: &str, more: Value) -> Run {
        let mut config = json!({
            "metadata": { "name": name },
            "image": { "image": image },
            "log_path": format!("{name}/0.log"),
        });
        if !script.is_empty() {
            config["command"] = json!(["sh", "-c", script]);
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let file = self.node.file(&format!("{}-{name}.json", self.name), &config);
        self.node.crictl(format!("create {} {file} {}", self.id, self.file))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.node.dir.join("logs").join(&self.name).join(name).join("0.log")
    }
}

pub const NEEDS: [Need; 2] = [Need::Root, Need::Tool("crictl")];
pub const FOREVER: &str = "while true; do sleep 1; done";

#[test]
fn a_pod_lives_from_its_making_to_its_removal() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    node.crictl("version").ok().stdout_has("RuntimeName:  sampan");
    let images = node.crictl("images -o json").ok().json();
    assert_eq!(images["images"][0]["repoTags"][0], "docker.io/library/toolbox:latest");
    let pod = node.pod("life");
    // Its twin is refused, and the pod is as it was.
    node.crictl(format!("runp {}", pod.file)).fails(1).stderr_has("AlreadyExists");
    let script = "echo out; echo err >&2; hostname; cat /etc/resolv.conf; printf end; sleep 1000";
    let id = pod.start("sh", "toolbox", script, json!({ "envs": [{ "key": "A", "value": "b" }] }));
    eventually("it has said everything", || std::fs::read_to_string(pod.log("sh")).unwrap().contains("ndots"));
    let log = std::fs::read_to_string(pod.log("sh")).unwrap();
    for line in [" stdout F out", " stderr F err", " stdout F life", " stdout F nameserver 192.0.2.53"] {
        assert!(log.contains(line), "{line} in {log}");
    }
    let status = node.inspect(&id);
    assert_eq!(status["state"], "CONTAINER_RUNNING");
    assert_eq!(status["logPath"], pod.log("sh").to_str().unwrap());
    node.crictl(format!("exec -s {id} sh -c 'echo $A; pwd'")).ok().stdout_has("b\n/\n");
    node.crictl(format!("exec -s {id} sh -c 'exit 3'")).fails(1).stderr_has("exited with 3");
    node.crictl(format!("exec -s --timeout 1 {id} sleep 1000")).fails(1).stderr_has("timed out");
    node.crictl(format!("exec -s {id} nothing")).fails(1).stderr_has("no such file in the container");
    let stats = node.crictl(format!("stats -o json --id {id}")).ok().json();
    assert!(
        stats["stats"][0]["memory"]["workingSetBytes"]["value"].as_str().unwrap().parse::<u64>().unwrap() > 100_000
    );
    // Somebody's own containers are not among the node's, nor the other way round.
    node.store.sampan("ps -aq").ok().stdout_is("");
    node.store.sampan("--namespace k8s.io ps --format '{{.Names}}'").ok().stdout_is("k8s_sh_life_default_uid-life_0\n");
    node.crictl(format!("stop -t 5 {id}")).ok();
    let status = node.inspect(&id);
    assert_eq!((&status["state"], &status["reason"]), (&json!("CONTAINER_EXITED"), &json!("Error")));
    assert!(std::fs::read_to_string(pod.log("sh")).unwrap().contains(" stdout P end"));
    // Once more for who did not hear the answer.
    node.crictl(format!("rm {id}")).ok();
    node.crictl(format!("stopp {}", pod.id)).ok();
    assert_eq!(node.crictl("pods -o json").ok().json()["items"][0]["state"], "SANDBOX_NOTREADY");
    node.crictl(format!("rmp {}", pod.id)).ok();
    node.crictl(format!("inspectp {}", pod.id)).fails(1).stderr_has("there is no pod");
    assert_eq!(node.crictl("pods -q").ok().stdout, "");
}

#[test]
fn a_server_that_is_killed_finds_everything_again() {
    if lacks(&NEEDS) {
        return;
    }
    let mut node = Node::new(&["toolbox"]);
    let (lives, ends) = {
        let pod = node.pod("kept");
        let lives = pod.start("lives", "toolbox", FOREVER, Value::Null);
        (lives, pod.start("ends", "toolbox", "read line; exit 4", json!({ "stdin": true })))
    };
    node.kill_server();
    node.store.sampan(format!("--namespace k8s.io kill {ends}")).ok();
    node.serve();
    assert_eq!(node.inspect(&lives)["state"], "CONTAINER_RUNNING");
    assert_eq!(node.inspect(&ends)["exitCode"], 137);
    node.crictl(format!("exec -s {lives} true")).ok();
    node.crictl("rmp -fa").ok();
    assert_eq!(node.crictl("ps -aq").ok().stdout, "");
}

#[test]
fn a_container_ends_as_kubelet_tells_it() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox", "probe"]);
    let pod = node.pod("ends");
    for (name, image, script, more, code, reason) in [
        ("done", "toolbox", "exit 0", Value::Null, 0, "Completed"),
        ("failed", "toolbox", "exit 5", Value::Null, 5, "Error"),
        (
            "grown",
            "probe",
            "",
            json!({ "args": ["alloc", "64000000"], "linux": { "resources": { "memory_limit_in_bytes": 33_554_432 } } }),
            137,
            "OOMKilled",
        ),
    ] {
        let id = pod.start(name, image, script, more);
        eventually("it ends", || node.inspect(&id)["state"] == "CONTAINER_EXITED");
        let status = node.inspect(&id);
        assert_eq!((&status["exitCode"], &status["reason"]), (&json!(code), &json!(reason)), "{status}");
    }
    // What never ran says why.
    let id = pod.create("absent", "toolbox", "", json!({ "command": ["/nothing"] })).ok().line();
    node.crictl(format!("start {id}")).fails(1).stderr_has("no such file");
}

#[test]
fn what_kubelet_mounts_is_seen_and_its_logs_are_reopened() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let files = Dir::new().file("first/key", "one").file("second/key", "two").file("message", "").link("data", "first");
    std::os::unix::fs::symlink("data/key", files.join("key")).unwrap();
    let mount = |from: &str, to: &str, readonly: bool| json!({ "host_path": files.join(from), "container_path": to, "readonly": readonly });
    let pod = node.pod("mounts");
    let mounts = json!({ "mounts": [mount("", "/config", true), mount("message", "/dev/termination-log", false)] });
    let id = pod.start("sh", "toolbox", "while true; do cat /config/key; echo; sleep 1; done", mounts);
    let shows =
        |text: &str| eventually(text, || std::fs::read_to_string(pod.log("sh")).is_ok_and(|log| log.contains(text)));
    shows("F one");
    // As kubelet changes a ConfigMap: all at once.
    std::os::unix::fs::symlink("second", files.join("new")).unwrap();
    std::fs::rename(files.join("new"), files.join("data")).unwrap();
    shows("F two");
    node.crictl(format!("exec -s {id} sh -c 'echo bye >/dev/termination-log'")).ok();
    assert_eq!(files.read("message"), "bye\n");
    node.crictl(format!("exec -s {id} touch /config/new"))
        .fails(1)
        .stderr_has("touch: /config/new: Read-only file system");
    let older = pod.log("sh").with_extension("old");
    std::fs::rename(pod.log("sh"), &older).unwrap();
    // As kubelet does it; crictl has no command for what comes next, and the writer makes the file anew by itself too.
    shows("F two");
    let length = std::fs::metadata(&older).unwrap().len();
    shows("F two");
    assert_eq!(std::fs::metadata(&older).unwrap().len(), length);
}

#[test]
fn clients_have_streams_of_their_own() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("streams");
    let echo = "while read line; do echo \"got $line\"; done; echo over";
    let id = pod.start("sh", "toolbox", echo, json!({ "stdin": true }));
    // Both streams, the input and the exit code.
    let run = node.crictl(format!("exec -i {id} sh -c 'cat; echo err >&2; exit 3'")).stdin("one\ntwo\n").fails(1);
    run.stdout_is("one\ntwo\n").stderr_has("err").stderr_has("exit code 3");
    let large = "x".repeat(300_000);
    let run = node.crictl(format!("exec -i {id} cat")).stdin(&large).ok();
    assert!(run.stdout == large, "{} bytes", run.stdout.len());
    node.crictl(format!("exec {id} nothing")).fails(1).stderr_has("no such file in the container");
    let mut at = node.crictl(format!("exec -it {id} sh")).at_terminal();
    at.shows("/ # ");
    at.types("test -t 0 && echo terminal $HOSTNAME\n");
    at.shows("terminal streams\n");
    at.types("exit 0\n");
    assert_eq!(at.ends(), 0);
    // What is typed to the container's own program, whose end is the client's.
    let mut attached = node.crictl(format!("attach -i {id}")).stdin("hello\n").start();
    attached.says("got hello");
    assert!(attached.is_running());
    node.crictl(format!("stop {id}")).ok();
    attached.finish().ok();
    // As `kubectl run -i` has it: the end of what is typed is the end of the container's input.
    let id = pod.start("once", "toolbox", echo, json!({ "stdin": true, "stdin_once": true }));
    node.crictl(format!("attach -i {id}")).stdin("last\n").ok().stdout_has("got last").stdout_has("over");
    // A client that goes takes its program with it.
    let id = pod.start("other", "toolbox", FOREVER, Value::Null);
    let client = node.crictl(format!("exec {id} sh -c 'echo begun; sleep 1000'")).start();
    client.says("begun");
    client.signal(rustix::process::Signal::KILL);
    let _ = client.finish();
    node.crictl(format!("exec -s {id} true")).ok();
}

#[test]
fn a_port_of_a_pod_is_forwarded() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["web"]);
    let pod = node.pod("forward");
    pod.start("web", "web", "", Value::Null);
    let client = node.crictl(format!("port-forward {} 0:8000", pod.id)).start();
    client.says("Forwarding from 127.0.0.1:");
    let said = client.stdout();
    let port = said.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    for _ in 0..3 {
        assert!(net::get(port, "/").expect(200).text().contains("Sampan"));
    }
    assert!(net::get(port, "/big?bytes=1000000").expect(200).body.len() > 900_000);
    client.signal(rustix::process::Signal::INT);
    let _ = client.finish();
}

#[test]
fn streams_are_for_what_runs() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("places");
    let id = pod.start("sh", "toolbox", FOREVER, Value::Null);
    node.crictl(format!("exec {id} true")).ok();
    let ended = pod.start("ended", "toolbox", "exit 0", Value::Null);
    eventually("it ends", || node.inspect(&ended)["state"] == "CONTAINER_EXITED");
    node.crictl(format!("exec {ended} true")).fails(1).stderr_has("does not run");
}

#[test]
fn limits_change_while_a_container_runs() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("limits");
    let id = pod.start("sh", "toolbox", FOREVER, Value::Null);
    node.crictl(format!("update --memory 67108864 --cpu-quota 50000 --cpu-period 100000 {id}")).ok();
    let linux = node.inspect(&id)["resources"]["linux"].clone();
    assert_eq!((&linux["memoryLimitInBytes"], &linux["cpuQuota"]), (&json!("67108864"), &json!("50000")), "{linux}");
    node.store
        .sampan(format!("--namespace k8s.io stats --no-stream --format '{{{{.MemUsage}}}}' {id}"))
        .ok()
        .stdout_has("64MiB");
}

#[test]
fn what_would_mislead_is_refused() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let refused = |name: &str, change: &dyn Fn(&mut Value), says: &str| {
        let mut config = node.pod_config(name);
        change(&mut config);
        let file = node.file(&format!("{name}.json"), &config);
        node.crictl(format!("runp {file}")).fails(1).stderr_has(says);
    };
    refused("sysctls", &|c| c["linux"]["sysctls"] = json!({ "kernel.shm_rmid_forced": "1" }), "kernel.shm_rmid_forced");
    refused("network", &|c| c["linux"] = json!({}), "there is no CNI configuration");
    let file = node.file("handler.json", &node.pod_config("handler"));
    node.crictl(format!("runp -r kata {file}")).fails(1).stderr_has("no runtime handler");
    assert_eq!(node.crictl("pods -q").ok().stdout, "");
    let pod = node.pod("refuses");
    let device = json!({ "devices": [{ "container_path": "/dev/kvm", "host_path": "/dev/kvm", "permissions": "rw" }] });
    pod.create("device", "toolbox", "true", device).fails(1).stderr_has("/dev/kvm");
    let privileged = json!({ "linux": { "security_context": { "privileged": true } } });
    pod.create("root", "toolbox", "true", privileged).fails(1).stderr_has("cannot be privileged");
    pod.create("none", "nothing", "true", Value::Null).fails(1).stderr_has("nothing");
    assert_eq!(node.crictl("ps -aq").ok().stdout, "");
    node.store.sampan("--namespace nobody ps").fails(1).stderr_has("no namespace \"nobody\"");
}

/// A program that says which peers it may call: `A` where the call got as far as the network.
const CALLS: &str = r#"
import socket, sys, time
def may(port):
    try: socket.create_connection(("127.0.0.9" if port == 1 else "198.51.100.7", port), 0.2)
    except PermissionError: return "-"
    except OSError: pass
    return "A"
print("".join(may(port) for port in (1, 9, 10)), flush=True)
time.sleep(600)
"#;

#[test]
fn a_handler_says_whom_a_pod_may_call_and_an_annotation_takes_away() {
    if lacks(&NEEDS) {
        return;
    }
    let mut node = Node::new(&["python"]);
    let handlers =
        "[kubernetes]\npinned-images = [\"python\"]\n[kubernetes.handlers.nine]\nallow-net = [\"198.51.100.7:9\"]\n";
    std::fs::write(node.dir.join("config.toml"), handlers).unwrap();
    node.kill_server();
    node.serve();
    let pod = |name: &str, handler: &str, annotations: Value| {
        let mut config = node.pod_config(name);
        config["annotations"] = annotations;
        let file = node.file(&format!("{name}.json"), &config);
        (file.clone(), node.crictl(format!("runp -r '{handler}' {file}")))
    };
    let says = |name: &str, handler: &str, annotations: Value, wanted: &str| {
        let (file, made) = pod(name, handler, annotations);
        let pod = Pod { node: &node, id: made.ok().line(), file, name: name.to_owned() };
        let program = json!({ "command": ["python", "-c", CALLS] });
        pod.start("calls", "python", "", program);
        let log = || std::fs::read_to_string(pod.log("calls")).unwrap_or_default();
        eventually("it has called", || log().contains("stdout F "));
        assert!(log().contains(&format!("stdout F {wanted}\n")), "{name}: {}", log());
    };
    says("usual", "", json!({}), "AAA");
    says("strict", "sampan-strict", json!({}), "A--");
    says("nine", "nine", json!({}), "AA-");
    says("narrowed", "sampan", json!({ "dev.sampan.allow-net": "198.51.100.0/24:10" }), "A-A");
    pod("wide", "nine", json!({ "dev.sampan.allow-net": "198.51.100.7" })).1.fails(1).stderr_has("only take away");
    pod("typo", "", json!({ "dev.sampan.alow-net": "" })).1.fails(1).stderr_has("it means nothing");
    let info = node.crictl("info").ok().json();
    let handlers: Vec<&str> =
        info["runtimeHandlers"].as_array().unwrap().iter().filter_map(|h| h["name"].as_str()).collect();
    assert_eq!(handlers, ["nine", "sampan", "sampan-strict"], "{info}");
    let images = node.crictl("images -o json").ok().json();
    assert_eq!(images["images"][0]["pinned"], true, "{images}");
}

#[test]
fn a_pod_has_an_address_by_cni_and_its_containers_talk_over_localhost() {
    if lacks(&[NEEDS[0], NEEDS[1], Need::CniPlugins, Need::Tool("curl")]) {
        return;
    }
    let node = Node::new(&["toolbox", "web", "serve"]);
    let bridge = node.network();
    let mut config = node.pod_config("net");
    config["linux"] = json!({});
    let pod = node.pod_of(config);
    let status = node.crictl(format!("inspectp {}", pod.id)).ok().json();
    let ip = status["status"]["network"]["ip"].as_str().unwrap().to_owned();
    assert!(ip.starts_with(&bridge.prefix()), "{status}");
    assert_eq!(status["network"]["check"], "as it was set up", "{status}");
    pod.start("web", "web", "", Value::Null);
    let get = |url: &str| Run::new(["curl", "-sS", "-m", "10", url]).run();
    eventually("it answers at the pod's address", || get(&format!("http://{ip}:8000/")).stdout.contains("Sampan"));
    // Its sockets are its own.
    let shell = pod.start("sh", "toolbox", FOREVER, Value::Null);
    let sockets = node.crictl(format!("exec -s {shell} netstat -ltn")).ok().stdout;
    let listening: Vec<&str> = sockets.lines().skip(2).filter(|line| !line.is_empty()).collect();
    assert!(listening.len() == 1 && listening[0].contains(":8000 "), "{sockets}");
    // Nobody else has its port.
    assert!(!net::is_open(8000) || !get("http://127.0.0.1:8000/").stdout.contains("<title>Sampan"));
    // A second pod has the same ports, and an address of its own.
    let mut config = node.pod_config("other");
    config["linux"] = json!({});
    let other = node.pod_of(config);
    other.start("web", "web", "", Value::Null);
    let status = node.crictl(format!("inspectp {}", other.id)).ok().json();
    let second = status["status"]["network"]["ip"].as_str().unwrap().to_owned();
    assert_ne!(ip, second);
    eventually("it answers too", || get(&format!("http://{second}:8000/")).stdout.contains("Sampan"));
    node.crictl("rmp -fa").ok();
    assert!(!get(&format!("http://{ip}:8000/")).stdout.contains("Sampan"));
}
