//! `serve --cri`, where crictl has no words for it: streams over WebSocket, and cgroups.

use crate::cri::{FOREVER, NEEDS, Node};
use sampan_shim::cri::v1::{ExecRequest, ExecResponse};
use sampan_tests::cri::Cri;
use sampan_tests::needs::lacks;
use sampan_tests::{eventually, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

/// The messages of a WebSocket's server (RFC 6455, section 5.2), joined by the channel that they begin with.
fn channels(mut frames: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut all = BTreeMap::<u8, Vec<u8>>::new();
    while let [kind, length, rest @ ..] = frames {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        if let (0x82, [channel, bytes @ ..]) = (kind, &rest[..length]) {
            all.entry(*channel).or_default().extend(bytes);
        }
        frames = &rest[length..];
    }
    all
}

#[test]
fn a_program_is_run_for_a_client_that_speaks_websocket() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let pod = node.pod("sockets");
    let container_id = pod.start("sh", "toolbox", FOREVER, Value::Null);
    let cri = Cri::connect(&node.socket()).unwrap();
    let run = |protocol: &str| {
        let cmd = ["sh", "-c", "echo out; echo err >&2; exit 3"].map(str::to_owned).to_vec();
        let (stdout, stderr) = (true, true);
        let request = ExecRequest { container_id: container_id.clone(), cmd, stdout, stderr, ..ExecRequest::default() };
        let url = cri.call::<ExecResponse>("Exec", &request).unwrap().url;
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let mut buffer = [0; 4096];
        // A refusal leaves the connection open, as HTTP does.
        loop {
            let count = stream.read(&mut buffer).unwrap();
            answer.extend_from_slice(&buffer[..count]);
            if count == 0 || answer.starts_with(b"HTTP/1.1 403") {
                break;
            }
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
    };
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let (head, frames) = run(protocol);
        assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.contains(protocol), "{head}");
        let channels = channels(&frames);
        assert_eq!((&*channels[&1], &*channels[&2]), (&b"out\n"[..], &b"err\n"[..]));
        let verdict: Value = serde_json::from_slice(&channels[&3]).unwrap();
        assert_eq!(verdict["details"]["causes"][0]["message"], "3", "{verdict}");
    }
    let (head, _) = run("v1.example");
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
}

/// Where the hierarchy of memory is, and what its limit is called there: of version 1, or of version 2.
fn memory() -> Option<(PathBuf, &'static str)> {
    let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    let is_there = |place: &str, limit: &str| {
        let try_out = Path::new(place).join(format!("sampan-try-{}", std::process::id()));
        let made = std::fs::create_dir(&try_out).is_ok() && try_out.join(limit).exists();
        let _ = std::fs::remove_dir(try_out);
        made
    };
    places.into_iter().find(|(place, limit)| is_there(place, limit)).map(|(place, limit)| (place.into(), limit))
}

#[test]
fn a_pod_is_in_the_cgroup_that_kubelet_wants() {
    if lacks(&NEEDS) {
        return;
    }
    // A machine without cgroups has nothing to show.
    let Some((hierarchy, limit)) = memory() else { return };
    let node = Node::new(&["toolbox"]);
    let parent = format!("/sampan-test-{}/pod", std::process::id());
    let of_parent = hierarchy.join(&parent[1..]);
    let pod_in = |name: &str| {
        let mut config = node.pod_config(name);
        config["linux"]["cgroup_parent"] = json!(parent);
        node.pod_of(config)
    };
    let pod = pod_in("grouped");
    let id = pod.start("sh", "toolbox", FOREVER, Value::Null);
    let own = of_parent.join(format!("sampan-{}", &pod.id[..12]));
    let members = || std::fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default().lines().count();
    assert_eq!(members(), 2, "the sandbox's two processes are in {}", own.display());
    node.crictl(format!("exec {id} true")).ok();
    node.crictl(format!("stopp {}", pod.id)).ok();
    // The last of its processes may be ending at this moment; who asks again clears up.
    eventually("the cgroup is gone", || {
        node.crictl(format!("stopp {}", pod.id)).ok();
        !own.exists()
    });
    // What the kernel ends for want of memory is told as what it is.
    let pod = pod_in("full");
    std::fs::write(of_parent.join(limit), (24 << 20).to_string()).unwrap();
    let id = pod.create("hog", "toolbox", "x=0123456789abcdef; while true; do x=$x$x; done", Value::Null).ok().line();
    node.crictl(format!("start {id}")).ok();
    let status = until("it has ended", || {
        let status = node.inspect(&id);
        (status["state"] == "CONTAINER_EXITED").then_some(status)
    });
    assert_eq!((&status["reason"], &status["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{status}");
    eventually("nothing is left", || {
        node.crictl("rmp -fa").ok();
        for place in [of_parent.as_path(), of_parent.parent().unwrap()] {
            let _ = std::fs::remove_dir(place);
        }
        !of_parent.exists()
    });
}
