//! A whole Kubernetes of one node, by `tests/kubernetes/up`: what an introduction to Kubernetes has its reader type.

use sampan_tests::command::words;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::net::free_port;
use sampan_tests::{Dir, Run, Started, Store, eventually, until};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long what waits for kubelet, for a controller or for a figure may take.
const SLOW: Duration = Duration::from_secs(240);

struct Cluster {
    up: Option<Started>,
    dir: Dir,
}

impl Cluster {
    fn start() -> Self {
        let dir = Dir::new();
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kubernetes/up");
        let mut cluster = Self { up: None, dir };
        cluster.up = Some(Run::new([script.as_os_str(), cluster.dir.path().as_os_str()]).start());
        cluster.patiently("Kubernetes is up", |cluster| {
            let up = cluster.up.as_mut()?;
            assert!(up.is_running(), "it has ended: {}", cluster.up.take()?.finish());
            up.stdout().contains("Kubernetes is up").then_some(())
        });
        cluster
    }

    fn kubectl(&self, line: impl AsRef<str>) -> Run {
        let run = Run::new(["kubectl"]).env("KUBECONFIG", self.dir.join("admin.conf"));
        words(line.as_ref()).into_iter().fold(run, |run, word| run.arg(word))
    }

    fn apply(&self, yaml: &str) {
        self.kubectl("apply -f -").stdin(yaml).ok();
    }

    fn get(&self, what: &str) -> Value {
        self.kubectl(format!("get {what} -o json")).ok().json()
    }

    fn patiently<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(begun.elapsed() < SLOW, "it did not come within {SLOW:?}: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A page of a service, by its address in the cluster.
    fn page(&self, service: &str) -> Option<String> {
        let service = self.get(&format!("service/{service}"));
        let (ip, port) = (service["spec"]["clusterIP"].as_str()?, service["spec"]["ports"][0]["port"].as_u64()?);
        let answer = Run::new(["curl", "-sSf", "-m", "5", &format!("http://{ip}:{port}/")]).run();
        (answer.code == 0).then_some(answer.stdout)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(up) = self.up.take() {
            up.signal(rustix::process::Signal::TERM);
            let _ = up.finish();
        }
    }
}

/// Says which version it is, and in which pod; it has a processor's work to do when it is asked for that.
const APP: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/work": sum(range(3_000_000))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"version {VERSION} in {os.environ['HOSTNAME']}\n".encode())
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"#;

/// As the introduction has it.
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: my-python-app
spec:
  replicas: 3
  selector:
    matchLabels:
      app: my-python-app
  template:
    metadata:
      labels:
        app: my-python-app
    spec:
      containers:
      - name: my-python-app
        image: my-python-app:latest
        ports:
        - containerPort: 8000
---
apiVersion: v1
kind: Service
metadata:
  name: my-python-app-service
spec:
  selector:
    app: my-python-app
  ports:
    - protocol: TCP
      port: 80
      targetPort: 8000
  type: LoadBalancer
";

const SETTINGS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { greeting: \"hello\\n\" }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { password: \"swordfish\\n\" }
---
apiVersion: v1
kind: Pod
metadata: { name: reader }
spec:
  terminationGracePeriodSeconds: 1
  runtimeClassName: sampan-strict
  containers:
  - name: sh
    image: toolbox
    command: [sh, -c, 'echo \"$GREETING\"; cat /config/greeting /keys/password; while true; do sleep 1; done']
    env: [{ name: GREETING, valueFrom: { configMapKeyRef: { name: settings, key: greeting } } }]
    volumeMounts: [{ name: config, mountPath: /config }, { name: keys, mountPath: /keys, readOnly: true }]
  volumes: [{ name: config, configMap: { name: settings } }, { name: keys, secret: { secretName: keys } }]
";

const NEEDS: [Need; 8] = [
    Need::Root,
    Need::Tool("etcd"),
    Need::Tool("kube-apiserver"),
    Need::Tool("kubectl"),
    Need::Tool("docker-registry"),
    Need::Tool("iptables"),
    Need::CniPlugins,
    Need::Tool("curl"),
];

#[test]
#[ignore = "long: a whole cluster"]
fn a_cluster_does_what_its_introduction_says() {
    if lacks(&NEEDS) {
        return;
    }
    let store = Store::fresh(&["python", "web", "toolbox"]);
    let mut cluster = Cluster::start();
    let push = |image: &str, name: &str| {
        store.sampan(format!("tag {image} localhost:5005/library/{name}")).ok();
        store.sampan(format!("push -q localhost:5005/library/{name}")).ok();
    };
    for version in ["latest", "v2"] {
        let dockerfile = "FROM python\nWORKDIR /app\nCOPY app.py .\nEXPOSE 8000\nCMD [\"python\", \"app.py\"]\n";
        let context = Dir::context(dockerfile).file("app.py", APP.replace("{VERSION}", version));
        store.build_from(&format!("app:{version}"), &context);
        push(&format!("app:{version}"), &format!("my-python-app:{version}"));
    }
    push("web", "web");
    push("toolbox", "toolbox");

    // Three replicas behind a service.
    cluster.apply(DEPLOYMENT);
    cluster.kubectl("rollout status deployment/my-python-app --timeout=120s").ok();
    let says = |cluster: &Cluster, text: &str| cluster.page("my-python-app-service").is_some_and(|p| p.contains(text));
    eventually("the service answers", || says(&cluster, "version latest in my-python-app-"));
    let mut answered = std::collections::BTreeSet::new();
    eventually("each replica answers", || {
        answered.extend(cluster.page("my-python-app-service"));
        answered.len() == 3
    });
    cluster.kubectl("scale deployment my-python-app --replicas=5").ok();
    cluster.kubectl("rollout status deployment/my-python-app --timeout=120s").ok();
    eventually("all are behind the service", || {
        let slices = cluster.get("endpointslices -l kubernetes.io/service-name=my-python-app-service");
        slices["items"][0]["endpoints"].as_array().is_some_and(|all| all.len() == 5)
    });
    cluster.kubectl("exec deploy/my-python-app -- python -c 'print(6*7)'").ok().stdout_is("42\n");
    cluster.kubectl("exec -i deploy/my-python-app -- python -").stdin("import sys; sys.exit(7)").fails(7);
    cluster.kubectl("describe deployment my-python-app").ok().stdout_has("5 available");

    // Another version comes without a gap, and goes again; one that is not there takes nothing away.
    cluster.kubectl("set image deployment/my-python-app my-python-app=my-python-app:v2").ok();
    cluster.kubectl("rollout status deployment/my-python-app --timeout=120s").ok();
    eventually("the new version answers", || says(&cluster, "version v2"));
    cluster.kubectl("set image deployment/my-python-app my-python-app=my-python-app:v3").ok();
    eventually("it is said that there is none", || {
        // One of them may go at this moment.
        let pods = cluster.kubectl("describe pods -l app=my-python-app").run().stdout;
        pods.contains("my-python-app:v3") && pods.contains("ErrImagePull")
    });
    assert!(says(&cluster, "version v2"));
    cluster.kubectl("rollout undo deployment/my-python-app").ok();
    cluster.kubectl("rollout status deployment/my-python-app --timeout=120s").ok();

    // Settings and secrets, and what is seen of a change.
    cluster.apply(SETTINGS);
    cluster.kubectl("wait --for=condition=Ready pod/reader --timeout=60s").ok();
    eventually("it has read", || cluster.kubectl("logs reader").ok().stdout.ends_with("hello\nswordfish\n"));
    cluster.apply(&SETTINGS.replace("hello\\n", "good-bye\\n"));
    cluster.patiently("the change is seen", |cluster| {
        let seen = cluster.kubectl("exec reader -- cat /config/greeting").ok();
        (seen.stdout == "good-bye\n").then_some(())
    });

    // One pod by hand.
    cluster.kubectl("run web --image=web --port=8000 --labels=app=web").ok();
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s").ok();
    cluster.kubectl("expose pod web --port=80 --target-port=8000").ok();
    eventually("it answers", || cluster.page("web").is_some_and(|page| page.contains("<title>Sampan")));
    let port = free_port();
    let forwarding = cluster.kubectl(format!("port-forward pod/web {port}:8000")).start();
    forwarding.says("Forwarding from");
    let forwarded = format!("http://127.0.0.1:{port}/");
    Run::new(["curl", "-sSf", "-m", "10", &forwarded]).ok().stdout_has("<title>Sampan");
    drop(forwarding);
    cluster.kubectl("delete pod web --grace-period=1").ok();
    cluster.kubectl("run native --image=registry.invalid/none").ok();
    eventually("it says why", || cluster.kubectl("describe pod native").ok().stdout.contains("registry.invalid"));
    cluster.kubectl("delete pod native reader --grace-period=1").ok();

    // As many replicas as the load wants.
    cluster.kubectl("scale deployment my-python-app --replicas=1").ok();
    cluster.kubectl("set resources deployment my-python-app --requests=cpu=100m").ok();
    cluster.kubectl("rollout status deployment/my-python-app --timeout=120s").ok();
    cluster.kubectl("autoscale deployment my-python-app --cpu=50% --min=1 --max=3").ok();
    cluster.patiently("kubectl top knows", |cluster| {
        let top = cluster.kubectl("top pods").run();
        (top.code == 0 && top.stdout.contains("my-python-app")).then_some(())
    });
    let service = cluster.get("service/my-python-app-service");
    let work = format!("http://{}/work", service["spec"]["clusterIP"].as_str().unwrap());
    let call = format!("while true; do curl -s -m 5 -o /dev/null {work}; done");
    let load = Run::new(["sh", "-c", &call]).in_a_group().start();
    cluster.patiently("there are more", |cluster| {
        let replicas = cluster.get("deployment/my-python-app")["status"]["readyReplicas"].as_u64();
        (replicas >= Some(2)).then_some(())
    });
    load.signal_group(rustix::process::Signal::KILL);
    let _ = load.finish();
    cluster.patiently("there is one again", |cluster| {
        let replicas = cluster.get("deployment/my-python-app")["status"]["replicas"].as_u64();
        (replicas == Some(1)).then_some(())
    });

    cluster.kubectl("delete deployment,service my-python-app my-python-app-service --ignore-not-found").ok();
    cluster.kubectl("delete hpa my-python-app").ok();
    until("nothing runs any more", || {
        let pods = cluster.get("pods");
        pods["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    drop(cluster);
    let left = Run::new(["ip", "-br", "link", "show", "type", "bridge"]).ok();
    left.stdout_lacks("sampan-k8s");
}
