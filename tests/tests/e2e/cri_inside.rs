//! What a pod's programs see of their tree, of themselves and of each other.

use super::cri::{FOREVER, NEEDS, Node};
use sampan_tests::needs::lacks;
use sampan_tests::{Dir, Run, eventually};
use serde_json::{Value, json};
use std::path::PathBuf;

#[test]
fn paths_are_masked_or_read_only() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("paths");
    let files = Dir::new().file("secret", "value").file("open", "").file("dir/below", "");
    let security = json!({ "security_context": {
        "masked_paths": ["/bin/ls", "/etc/group", "/srv/dir", "/srv/secret", "/nowhere", "/proc/kcore", "/bin/ls/deeper"],
        "readonly_paths": ["/tmp", "/srv/open", "/proc/sys"],
    } });
    let mounts = json!([{ "host_path": files.path(), "container_path": "/srv" }]);
    let id = pod.start("sh", "toolbox", FOREVER, json!({ "linux": security, "mounts": mounts }));
    let exec = |script: &str| node.crictl(format!("exec -s {id} /bin/sh -c '{script}'"));
    // That name alone, of all that the file has.
    exec("ls").fails(1).stderr_has("/bin/sh: ls: Permission denied");
    exec("cat /etc/group").fails(1).stderr_has("cat: can't open '/etc/group': Permission denied");
    exec("cat /srv/secret").fails(1).stderr_has("Permission denied");
    exec("rm /srv/secret").fails(1);
    exec("touch /srv/dir/x").fails(1).stderr_has("Read-only file system");
    assert_eq!(exec("find /srv/dir").ok().line(), "/srv/dir");
    exec("touch /tmp/x").fails(1).stderr_has("touch: /tmp/x: Read-only file system");
    exec("echo >/srv/open").fails(1);
    exec("cat /srv/open; touch /root/x /srv/new").ok();
    // Nor is it what a container is started with.
    let more = json!({ "command": ["ls"], "linux": { "security_context": { "masked_paths": ["/bin/ls"] } } });
    let masked = pod.create("masked", "toolbox", "", more).ok().line();
    node.crictl(format!("start {masked}")).fails(1).stderr_has("ls");
    // Only here, and for nobody else.
    assert_eq!(files.read("secret"), "value");
    assert!(files.join("dir/below").exists() && files.join("new").exists());
    let id = pod.start("other", "toolbox", FOREVER, json!({ "mounts": mounts }));
    node.crictl(format!("exec -s {id} sh -c 'ls /srv; cat /srv/secret'")).ok().stdout_has("value");
}

#[test]
fn a_read_only_mount_leaves_those_below_it_unless_it_is_so_with_all() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("below");
    let files = Dir::new().file("top", "").file("below/file", "");
    let below = files.join("below");
    let _mounted = Mounted::memory(&below);
    for (name, recursive) in [("shallow", false), ("deep", true)] {
        let mount = json!({ "host_path": files.path(), "container_path": "/m", "readonly": true, "recursive_read_only": recursive });
        let id = pod.start(name, "toolbox", FOREVER, json!({ "mounts": [mount] }));
        node.crictl(format!("exec -s {id} touch /m/x")).fails(1).stderr_has("touch: /m/x: Read-only file system");
        let run = node.crictl(format!("exec -s {id} touch /m/below/{name}"));
        if recursive {
            run.fails(1).stderr_has("Read-only file system")
        } else {
            run.ok()
        };
        assert_eq!(below.join(name).exists(), !recursive);
    }
}

/// Memory that is mounted on a directory of this machine, for as long as the value lives.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(place: &std::path::Path) -> Self {
        Run::new(["mount", "-t", "tmpfs", "none"]).arg(place).ok();
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Run::new(["umount", "-l"]).arg(&self.0).run();
    }
}

#[test]
fn a_program_is_told_who_it_is() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("who");
    let as_user = |name: &str, security: Value| {
        let more = json!({ "linux": { "security_context": security } });
        let id = pod.start(name, "toolbox", FOREVER, more);
        node.crictl(format!("exec -s {id} sh -c 'id; whoami'")).ok()
    };
    as_user("root", json!({})).stdout_has("uid=0(root) gid=0(root) groups=0(root)\nroot\n");
    let numbers =
        json!({ "run_as_user": { "value": 1001 }, "run_as_group": { "value": 33 }, "supplemental_groups": [7] });
    as_user("numbers", numbers).stdout_has("uid=1001(1001) gid=33(www-data) groups=33(www-data),7(7)\n1001\n");
    as_user("name", json!({ "run_as_username": "nobody" })).stdout_has("uid=65534(nobody) gid=65534(nogroup)");
    let unknown = json!({ "linux": { "security_context": { "run_as_username": "somebody" } } });
    pod.create("unknown", "toolbox", "true", unknown).fails(1).stderr_has("no user");
    let alone = json!({ "linux": { "security_context": { "run_as_group": { "value": 3 } } } });
    pod.create("alone", "toolbox", "true", alone).fails(1).stderr_has("runAsGroup");
}

#[test]
fn programs_see_their_container_or_their_pod_and_nobody_else() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("seen");
    let sees = |pid: u32, target: &str| {
        let options = json!({ "network": 2, "pid": pid, "target_id": target });
        json!({ "linux": { "security_context": { "namespace_options": options, "run_as_user": { "value": 33 } } } })
    };
    let exec = |id: &str, script: &str| node.crictl(format!("exec -s {id} sh -c '{script}'"));
    let all = |id: &str| exec(id, "cat /proc/[0-9]*/comm").ok().stdout;
    // Its own: the first is 1, and `sleep` is its child. (The others are of who asks.)
    let own = pod.start("own", "toolbox", "sleep 1000; true", sees(1, ""));
    eventually("it has started its program", || all(&own).contains("sleep"));
    let names = all(&own);
    assert_eq!(
        (names.matches("sh\n").count(), names.matches("sleep\n").count(), names.trim_end().lines().count()),
        (2, 1, 3)
    );
    exec(&own, "cat /proc/1/cmdline | tr \"\\000\" ,").ok().stdout_has("sh,-c,sleep 1000; true,");
    let sleep = exec(&own, "pgrep sleep").ok().line();
    exec(&own, &format!("grep PPid /proc/{sleep}/status")).ok().stdout_has("PPid:\t1\n");
    // Everybody's own directory is another.
    exec(&own, "cat /proc/self/cmdline").ok().stdout_has("cat\0/proc/self/cmdline\0");
    for line in ["Uid:\t33\t", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n"] {
        exec(&own, "cat /proc/self/status").ok().stdout_has(line);
    }
    exec(&own, "touch /proc/x").fails(1).stderr_has("Read-only file system");
    exec(&own, "ps").ok().stdout_has(&format!("{sleep:>5} www-data sleep 1000\n"));
    assert_eq!(exec(&own, "pidof sleep").ok().line(), sleep);
    exec(&own, "pgrep -f keeper$").fails(1);
    // What is ended is not seen any more when that is known.
    node.crictl(format!("exec -s --timeout 1 {own} sleep 4321")).fails(1).stderr_has("timed out");
    exec(&own, "pgrep -f ^sleep.4321").fails(1);
    // Those who see all of the pod see each other, and what is 1 is the sandbox.
    let first = pod.start("first", "toolbox", "sleep 2000; true", sees(0, ""));
    let second = pod.start("second", "toolbox", "sleep 3000; true", sees(0, ""));
    eventually("both are seen", || all(&first).matches("sleep").count() == 2);
    assert_eq!(all(&second).matches("sleep").count(), 2);
    exec(&second, "cat /proc/1/cmdline").ok().stdout_has("sampan\0");
    exec(&second, "pgrep -fa ^sleep.2000").ok().stdout_has("sleep 2000\n");
    assert!(!all(&own).contains("sampan"));
    // One that looks at another, as `kubectl debug --target` has it.
    let debug = pod.start("debug", "toolbox", FOREVER, sees(3, &own));
    exec(&debug, "pgrep -fa ^sleep.1000").ok().stdout_has(&format!("{sleep} sleep 1000\n"));
    exec(&own, "pgrep -f while").ok();
    node.crictl(format!("stop {own}")).ok();
    exec(&debug, "pgrep -f ^sleep.1000").fails(1);
    exec(&debug, "pgrep -f while").ok();
    pod.create("node", "toolbox", "true", sees(2, "")).fails(1).stderr_has("hostPID");
    let other = node.pod("other");
    other.create("debug", "toolbox", "true", sees(3, &debug)).fails(1).stderr_has("not of this pod");
}

#[test]
fn the_sockets_that_are_seen_are_those_of_the_pods_network() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pod = node.pod("sockets");
    let id = pod.start("sh", "toolbox", FOREVER, Value::Null);
    let run = node.crictl(format!("exec -s {id} netstat -ltn")).ok();
    assert!(run.stdout.contains(&format!(" 127.0.0.1:{port} ")), "{}", run.stdout);
    let tables = node.crictl(format!("exec -s {id} ls /proc/net")).ok().line();
    assert_eq!(tables, "tcp\ntcp6\nudp\nudp6");
}
