//! A kubelet on its own, without a cluster, whose container runtime is `serve --cri`.

use crate::cri::Node;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::free_port;
use sampan_tests::wait::until;
use sampan_tests::{Run, Started, eventually};
use serde_json::Value;
use std::path::PathBuf;

struct Kubelet<'a> {
    node: &'a Node,
    port: u16,
    process: Option<Started>,
}

impl<'a> Kubelet<'a> {
    fn start(node: &'a Node) -> Self {
        let (dir, port) = (node.dir.path().display(), free_port());
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\n\
             kind: KubeletConfiguration\n\
             address: 127.0.0.1\n\
             port: {port}\n\
             readOnlyPort: 0\n\
             healthzPort: 0\n\
             authentication: {{ anonymous: {{ enabled: true }}, webhook: {{ enabled: false }} }}\n\
             authorization: {{ mode: AlwaysAllow }}\n\
             cgroupDriver: cgroupfs\n\
             cgroupsPerQOS: false\n\
             enforceNodeAllocatable: []\n\
             failSwapOn: false\n\
             failCgroupV1: false\n\
             makeIPTablesUtilChains: false\n\
             registerNode: false\n\
             containerRuntimeEndpoint: unix://{}\n\
             staticPodPath: {dir}/manifests\n\
             podLogsDir: {dir}/logs\n\
             fileCheckFrequency: 1s\n\
             syncFrequency: 1s\n\
             evictionHard: {{ memory.available: 0%, nodefs.available: 0%, imagefs.available: 0% }}\n",
            node.socket().display()
        );
        std::fs::create_dir_all(node.dir.join("manifests")).unwrap();
        std::fs::write(node.dir.join("kubelet.yaml"), config).unwrap();
        let mut kubelet = Self { node, port, process: None };
        kubelet.serve();
        kubelet
    }

    fn serve(&mut self) {
        let dir = self.node.dir.path().display();
        let line = format!(
            "kubelet --config {dir}/kubelet.yaml --root-dir {dir}/kubelet --cert-dir {dir}/pki --hostname-override node"
        );
        self.process = Some(Run::new(line.split(' ')).start());
        until("kubelet answers", || self.get("healthz").filter(|text| text == "ok"));
    }

    fn kill(&mut self) {
        let process = self.process.take().unwrap();
        process.signal(rustix::process::Signal::KILL);
        let _ = process.finish();
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("https://127.0.0.1:{}/{path}", self.port);
        let answer = Run::new(["curl", "-sSkf", "-m", "10", &url]).run();
        (answer.code == 0).then_some(answer.stdout)
    }

    fn manifest(&self, pod: &str) -> PathBuf {
        self.node.dir.join("manifests").join(format!("{pod}.yaml"))
    }

    /// Has a pod made.
    fn add(&self, pod: &str, spec: &str) {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: {pod}, namespace: default }}\nspec:\n{spec}");
        // kubelet must not read half of it.
        let beside = self.node.dir.join("manifest");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.manifest(pod)).unwrap();
    }

    fn pods(&self) -> Vec<Value> {
        let pods: Option<Value> = self.get("pods").and_then(|text| serde_json::from_str(&text).ok());
        pods.and_then(|pods| pods["items"].as_array().cloned()).unwrap_or_default()
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.pods().into_iter().find(|pod| pod["metadata"]["name"] == format!("{name}-node"))
    }

    /// The status of a container.
    fn container(&self, pod: &str, name: &str) -> Option<Value> {
        let pod = self.pod(pod)?;
        let statuses = pod["status"]["containerStatuses"].as_array()?.iter();
        statuses.clone().find(|status| status["name"] == name).cloned()
    }

    /// Waits until nothing is left of any pod but what kubelet clears away each minute.
    fn is_gone(&self) {
        eventually("nothing runs", || {
            self.node.crictl("ps -q").ok().stdout.is_empty()
                && self.node.crictl("pods -q -s Ready").ok().stdout.is_empty()
        });
        eventually("kubelet knows", || self.pods().is_empty());
    }

    fn log(&self, pod: &str, container: &str) -> String {
        self.get(&format!("containerLogs/default/{pod}-node/{container}")).unwrap_or_default()
    }

    /// Runs a command inside a container.
    fn exec(&self, pod: &str, container: &str, command: &str) -> String {
        let url = format!("https://127.0.0.1:{}/run/default/{pod}-node/{container}?cmd={command}", self.port);
        Run::new(["curl", "-sSk", "-m", "10", "-X", "POST", &url]).ok().stdout
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(rustix::process::Signal::KILL);
            let _ = process.finish();
        }
        // It mounts its own directory, and does not take that back.
        let _ = Run::new(["umount", "-R", &self.node.dir.join("kubelet").to_string_lossy()]).run();
    }
}

const NEEDS: [Need; 5] =
    [Need::Root, Need::Tool("crictl"), Need::Tool("kubelet"), Need::CniPlugins, Need::Tool("curl")];

#[test]
fn a_pod_of_several_containers_lives_as_its_spec_says() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox", "web", "nginx"]);
    let bridge = node.network();
    let kubelet = Kubelet::start(&node);
    let host = free_port();
    std::fs::create_dir(node.dir.join("config")).unwrap();
    std::fs::write(node.dir.join("config/key"), "one\n").unwrap();
    kubelet.add(
        "whole",
        &format!(
            "  terminationGracePeriodSeconds: 3
  initContainers:
  - {{ name: first, image: toolbox, imagePullPolicy: Never, command: [sh, -c, 'echo made by the first > /work/index.html'],
      volumeMounts: [{{ name: work, mountPath: /work }}] }}
  containers:
  - name: web
    image: web
    imagePullPolicy: Never
    ports: [{{ containerPort: 8000, hostPort: {host} }}]
    livenessProbe: {{ httpGet: {{ path: /, port: 8000 }}, periodSeconds: 1 }}
    readinessProbe: {{ httpGet: {{ path: /, port: 8000 }}, periodSeconds: 1 }}
  - {{ name: files, image: nginx, imagePullPolicy: Never,
      volumeMounts: [{{ name: work, mountPath: /usr/share/nginx/html, readOnly: true }}] }}
  - name: side
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c, 'cat /work/index.html /config/key; while true; do sleep 1; done']
    readinessProbe: {{ exec: {{ command: [test, -f, /tmp/ready] }}, periodSeconds: 1 }}
    volumeMounts: [{{ name: work, mountPath: /work }}, {{ name: config, mountPath: /config, readOnly: true }}]
  volumes: [{{ name: work, emptyDir: {{}} }}, {{ name: config, hostPath: {{ path: {} }} }}]
",
            node.dir.join("config").display()
        ),
    );
    let is_ready = |name: &str| kubelet.container("whole", name).is_some_and(|status| status["ready"] == true);
    eventually("the service is ready", || is_ready("web"));
    eventually("it sees what the first has made", || kubelet.log("whole", "side") == "made by the first\none\n");
    assert!(!is_ready("side"), "nothing made it ready");
    kubelet.exec("whole", "side", "touch%20/tmp/ready");
    eventually("its probe has seen that", || is_ready("side"));
    let ip = kubelet.pod("whole").unwrap()["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with(&bridge.prefix()), "{ip}");
    let of_host = format!("http://{ip}:8000/");
    Run::new(["curl", "-sSf", "-m", "10", &of_host]).ok().stdout_has("<title>Sampan");
    // One container of the pod asks another, over localhost.
    let between = format!("http://{ip}:8000/fetch?url=http://localhost:80/");
    eventually("they talk", || {
        Run::new(["curl", "-sS", "-m", "10", &between]).run().stdout.contains("made by the first")
    });
    // The machine's own address, since the loopback's packets are not for other namespaces.
    let gateway = format!("http://{}1:{host}/", bridge.prefix());
    Run::new(["curl", "-sSf", "-m", "10", &gateway]).ok().stdout_has("<title>Sampan");
    assert_eq!(kubelet.exec("whole", "side", "cat%20/config/key"), "one\n");
    let used = || {
        let summary: Value = serde_json::from_str(&kubelet.get("stats/summary")?).ok()?;
        let containers = summary["pods"][0]["containers"].as_array()?.clone();
        let of = |name: &str| containers.iter().find(|status| status["name"] == name).cloned();
        Some((of("web")?["memory"]["workingSetBytes"].as_u64()?, of("side")?["cpu"]["usageCoreNanoSeconds"].as_u64()?))
    };
    let (memory, cpu) = until("kubelet knows what is used", used);
    assert!(memory > 100 << 10 && cpu > 1_000_000, "{memory} bytes, {cpu} ns");
    std::fs::remove_file(kubelet.manifest("whole")).unwrap();
    kubelet.is_gone();
    Run::new(["curl", "-sS", "-m", "1", &of_host]).run().stdout_lacks("Sampan");
}

#[test]
fn what_fails_is_started_again_with_a_pause_and_tells_why() {
    if lacks(&NEEDS) {
        return;
    }
    let node = Node::new(&["toolbox"]);
    let _bridge = node.network();
    let mut kubelet = Kubelet::start(&node);
    kubelet.add(
        "fails",
        "  terminationGracePeriodSeconds: 1
  containers:
  - { name: fails, image: toolbox, imagePullPolicy: Never, command: [sh, -c, 'echo why > /dev/termination-log; exit 3'] }
  - name: hog
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c, 'x=0123456789abcdef; while true; do x=$x$x; done']
    resources: { limits: { memory: 32Mi } }
  - { name: stays, image: toolbox, imagePullPolicy: Never, command: [sh, -c, 'while true; do sleep 1; done'] }
  - { name: native, image: nowhere.invalid/none, imagePullPolicy: Never }
",
    );
    let of = |kubelet: &Kubelet<'_>, name: &str| kubelet.container("fails", name).unwrap_or_default();
    eventually("it waits before it is tried again", || {
        of(&kubelet, "fails")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let last = of(&kubelet, "fails")["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"], &last["message"]), (&3.into(), &"Error".into(), &"why\n".into()));
    let ended = || of(&kubelet, "hog")["lastState"]["terminated"].clone();
    eventually("it wants too much", || ended()["reason"] == "OOMKilled");
    assert_eq!(ended()["exitCode"], 137);
    assert_eq!(of(&kubelet, "native")["state"]["waiting"]["reason"], "ErrImageNeverPull");
    let before = of(&kubelet, "stays");
    assert!(before["state"]["running"].is_object(), "{before}");
    // Neither a kubelet that is killed nor a runtime is a reason to disturb what runs.
    kubelet.kill();
    kubelet.serve();
    let again = || of(&kubelet, "stays");
    eventually("it is found again", || again()["containerID"] == before["containerID"]);
    assert_eq!((&again()["restartCount"], &again()["state"]), (&before["restartCount"], &before["state"]));
    eventually("it is tried again", || of(&kubelet, "fails")["restartCount"].as_u64() >= Some(2));
    std::fs::remove_file(kubelet.manifest("fails")).unwrap();
    kubelet.is_gone();
}
