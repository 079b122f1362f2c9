//! critest: what the Kubernetes project expects of a container runtime, with stand-ins for the images that it pulls, whose
//! programs are the toolbox's and the sample nginx.

use sampan_tests::needs::{Need, lacks};
use sampan_tests::registry::Registry;
use sampan_tests::{Dir, Run, Store};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What is about a Linux kernel, whose system calls, capabilities and processes no Wasm program has; and benchmarks.
const ABOUT_LINUX: &str = "benchmark|AppArmor|NRI|Mount Propagation|sysctls|SeccompProfilePath|HostPID|HostIpc is true|\
                           allow privilege escalation when false|Privileged is true|adding capability|adding ALL capabilities";

/// Those of the rest that fail, and why.
const FAIL: [(&str, &str); 1] = [(
    "public image with digest should be pulled and removed [Conformance]",
    "it names the digest of a native image, which no stand-in can have",
)];

/// As many run, with those that fail: so nothing passes by being skipped.
const RUN: usize = 82;

/// A stand-in, by its name without the registry: what is in it.
fn images() -> Vec<(String, String)> {
    let tests = "e2e-test-images";
    let staging = "k8s-staging-cri-tools";
    let mut all = vec![
        (format!("{tests}/busybox:1.29-2"), String::new()),
        ("pause:3.9".to_owned(), "LABEL name=pause".to_owned()),
        // The original is a set-uid program that says the same.
        (format!("{tests}/nonewprivs:1.3"), r#"CMD ["sh", "-c", "echo Effective uid: $(id -u)"]"#.to_owned()),
        (
            // nginx calls its process so while it runs. A Wasm program keeps the name that it was started by.
            format!("{tests}/nginx:1.14-2"),
            "COPY --from=nginx /usr /usr\n\
             COPY --from=nginx [\"/usr/sbin/nginx\", \"/usr/sbin/nginx: master process nginx\"]\n\
             EXPOSE 80\nSTOPSIGNAL SIGQUIT\nCMD [\"nginx: master process nginx\", \"-g\", \"daemon off;\"]"
                .to_owned(),
        ),
        (
            format!("{tests}/httpd:2.4.39-4"),
            "COPY --from=nginx /usr /usr\nEXPOSE 80\n\
             CMD [\"sh\", \"-c\", \"echo AH00094: Command line: httpd >&2; nginx\"]"
                .to_owned(),
        ),
        (
            format!("{staging}/hostnet-nginx-amd64:latest"),
            "COPY --from=nginx /usr /usr\nENV NGINX_PORT=12003\nEXPOSE 12003\nCMD [\"nginx\", \"-g\", \"daemon off;\"]"
                .to_owned(),
        ),
    ];
    let labelled = ["test-image-1", "test-image-2", "test-image-3", "test-image-latest", "test-image-digest"];
    all.extend(labelled.map(|name| (format!("{staging}/{name}:latest"), format!("LABEL name={name}"))));
    // One image by three names, and two by two.
    all.extend([1, 2, 3].map(|n| (format!("{staging}/test-image-tags:{n}"), "LABEL name=tags".to_owned())));
    all.extend(["test", "all"].map(|tag| (format!("{staging}/test-image-tag:{tag}"), format!("LABEL name=tag-{tag}"))));
    let users = [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:users"),
        ("user-username-group", "www-data:100"),
        ("predefined-group", "1000"),
    ];
    all.extend(users.map(|(name, user)| (format!("{staging}/test-image-{name}:latest"), format!("USER {user}"))));
    all
}

/// A registry with the stand-ins, and the directory of mirrors that leads every name to it.
fn registry(store: &Store, dir: &Dir) -> Registry {
    let registry = Registry::start();
    let place = format!("http://127.0.0.1:{}", registry.port());
    // Nobody else is asked.
    let mirror = format!("server = \"{place}\"\n[host.\"{place}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    std::fs::create_dir_all(dir.join("certs/_default")).unwrap();
    std::fs::write(dir.join("certs/_default/hosts.toml"), mirror).unwrap();
    for (name, content) in images() {
        let name = registry.name(&name);
        store.build_from(&name, &Dir::context(&format!("FROM toolbox\n{content}\n")));
        store.sampan(format!("push -q {name}")).ok();
    }
    registry
}

/// A bridge, which goes away with its value.
struct Bridge(String);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Run::new(["ip", "link", "delete", &self.0]).run();
    }
}

/// A bridge of this test's own, and ports of the node that lead to its pods.
fn network(dir: &Dir) -> Bridge {
    let number = std::process::id() % 200 + 20;
    let bridge = format!("sampanc{number}");
    let conflist = json!({ "cniVersion": "1.0.0", "name": bridge, "plugins": [
        {
            "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "subnet": format!("10.214.{number}.0/24"), "dataDir": dir.join("ipam"),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ] });
    std::fs::create_dir(dir.join("cni")).unwrap();
    std::fs::write(dir.join("cni/10-test.conflist"), conflist.to_string()).unwrap();
    Bridge(bridge)
}

/// The names of the specs that ended so.
fn names<'a>(specs: &'a [Value], state: &str) -> BTreeSet<&'a str> {
    specs.iter().filter(|spec| spec["State"] == state).filter_map(|spec| spec["LeafNodeText"].as_str()).collect()
}

#[test]
fn all_pass_but_what_no_wasm_program_can() {
    let needs = [Need::Root, Need::Tool("critest"), Need::Tool("docker-registry"), Need::CniPlugins];
    if lacks(&needs) {
        return;
    }
    let (store, dir) = (Store::fresh(&["toolbox", "nginx"]), Dir::new());
    let registry = registry(&store, &dir);
    let _bridge = network(&dir);
    let endpoint = format!("unix://{}", dir.join("cri.sock").display());
    let server = store
        .sampan(format!("serve --cri {endpoint} --cni-conf-dir '{}'", dir.join("cni").display()))
        .env("SAMPAN_CERTS_D", dir.join("certs"))
        .start();
    server.says("cri: unix://");
    let report = dir.join("report.json");
    let run = Run::new(["critest", "-runtime-endpoint", &endpoint, "-ginkgo.no-color", "-ginkgo.timeout", "20m"])
        .arg("-ginkgo.skip")
        .arg(ABOUT_LINUX)
        .arg("-ginkgo.json-report")
        .arg(&report)
        .run();
    let text = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {}\n{}", run.stdout, run.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    let specs: Vec<Value> = report[0]["SpecReports"].as_array().unwrap().clone();
    let passed = specs.iter().filter(|spec| spec["State"] == "passed" && spec["LeafNodeType"] == "It").count();
    let failed = names(&specs, "failed");
    let expected: BTreeSet<&str> = FAIL.iter().map(|(name, _)| *name).collect();
    let words = |name: &&str| {
        let spec = specs.iter().find(|spec| spec["LeafNodeText"] == *name);
        format!("{name}: {}\n", spec.map(|spec| spec["Failure"]["Message"].to_string()).unwrap_or_default())
    };
    let unexpected: String = failed.difference(&expected).map(words).collect();
    assert!(failed == expected, "{unexpected}and these pass now: {:?}", expected.difference(&failed));
    assert_eq!(passed, RUN - FAIL.len(), "timed out or skipped: {}", run.stdout);
    drop((server, registry));
}
