//! A sandbox as containerd and others meet it: the Task API on its control socket, spoken by containerd's own client.

use containerd_shim_protos::api::{CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, StateRequest, Status};
use containerd_shim_protos::api::{ShutdownRequest, StatsRequest, WaitRequest};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim_async::TaskClient;
use sampan_tests::{Container, Dir, Store, sample_file};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use ttrpc::asynchronous::Client;
use ttrpc::context::Context;

/// An OCI bundle: `config.json` and a `rootfs` that somebody else has put together.
fn bundle(store: &Store, name: &str, sample: &str, args: &[&str]) -> Dir {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("rootfs")).unwrap();
    std::fs::copy(sample_file(sample), dir.join("rootfs/program.wasm")).unwrap();
    let args: Vec<&str> = ["/program.wasm"].iter().chain(args).copied().collect();
    let config = json!({
        "ociVersion": "1.2.0",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "env": [format!("NAME={name}")], "cwd": "/" },
        "root": { "path": "rootfs" },
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    assert!(store.root().exists());
    dir
}

/// The same with limits, where the specification has them.
fn limited(bundle: Dir, resources: &serde_json::Value) -> Dir {
    let mut config: serde_json::Value = serde_json::from_str(&bundle.read("config.json")).unwrap();
    config["linux"] = json!({ "resources": resources });
    bundle.file("config.json", config.to_string())
}

struct Sandbox(TaskClient);

/// Containers of a sandbox are called as tests like them; ours never waits as long as this.
fn patience() -> Context {
    ttrpc::context::with_timeout(60_000_000_000)
}

impl Sandbox {
    async fn of(store: &Store, container: &Container<'_>) -> Self {
        let id = container.id();
        let socket = store.run_dir().join(&id[..12]).join("sock");
        Self(TaskClient::new(Client::connect(&format!("unix://{}", socket.display())).await.unwrap()))
    }

    async fn create(&self, id: &str, bundle: &Path) -> ttrpc::Result<()> {
        let bundle = bundle.to_string_lossy().into_owned();
        let request = CreateTaskRequest { id: id.into(), bundle, ..CreateTaskRequest::default() };
        self.0.create(patience(), &request).await.map(drop)
    }

    async fn start(&self, id: &str) -> ttrpc::Result<()> {
        self.0.start(patience(), &StartRequest { id: id.into(), ..StartRequest::default() }).await.map(drop)
    }

    async fn status(&self, id: &str) -> Status {
        let request = StateRequest { id: id.into(), ..StateRequest::default() };
        self.0.state(patience(), &request).await.unwrap().status.enum_value().unwrap()
    }

    async fn metrics(&self, id: &str) -> Metrics {
        let request = StatsRequest { id: id.into(), ..StatsRequest::default() };
        let any = self.0.stats(patience(), &request).await.unwrap().stats.unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        Metrics::parse_from_bytes(&any.value).unwrap()
    }

    async fn wait(&self, id: &str) -> u32 {
        let request = WaitRequest { id: id.into(), ..WaitRequest::default() };
        self.0.wait(patience(), &request).await.unwrap().exit_status
    }

    async fn kill(&self, id: &str, signal: u32) {
        let request = KillRequest { id: id.into(), signal, ..KillRequest::default() };
        self.0.kill(patience(), &request).await.unwrap();
    }

    async fn delete(&self, id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: id.into(), ..DeleteRequest::default() };
        self.0.delete(patience(), &request).await.map(|answer| answer.exit_status)
    }
}

/// Runs a test's conversation.
fn talk(conversation: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(conversation);
}

fn log(bundle: &Dir) -> String {
    std::fs::read_to_string(bundle.join("json.log")).unwrap_or_default()
}

#[test]
fn containers_join_a_sandbox_and_each_has_its_own_end() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let (hello, failing) = (bundle(store, "a", "hello", &[]), bundle(store, "b", "probe", &["exit", "3"]));
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        for (id, bundle) in [("hello", &hello), ("failing", &failing)] {
            sandbox.create(id, bundle.path()).await.unwrap();
            assert_eq!(sandbox.status(id).await, Status::CREATED);
        }
        for (id, bundle, code) in [("hello", &hello, 0), ("failing", &failing, 3)] {
            sandbox.start(id).await.unwrap();
            assert_eq!(sandbox.wait(id).await, code);
            assert_eq!(sandbox.status(id).await, Status::STOPPED);
            assert_eq!(sandbox.delete(id).await.unwrap(), code);
            assert_eq!(log(bundle).contains("Hello from Sampan!"), id == "hello");
        }
    });
    assert_eq!(first.status(), "running");
}

#[test]
fn one_of_several_is_stopped_or_killed_and_the_others_go_on() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let bundles = [bundle(store, "a", "probe", &["spin"]), bundle(store, "b", "probe", &["spin"])];
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        for (id, bundle) in ["killed", "stopped"].iter().zip(&bundles) {
            sandbox.create(id, bundle.path()).await.unwrap();
            sandbox.start(id).await.unwrap();
        }
        sandbox.kill("killed", 9).await;
        assert_eq!(sandbox.wait("killed").await, 137);
        assert_eq!(sandbox.status("stopped").await, Status::RUNNING);
        sandbox.kill("stopped", 15).await;
        assert_eq!(sandbox.wait("stopped").await, 143);
        // One that still runs is not deleted, one that is over is.
        sandbox.delete("killed").await.unwrap();
        assert!(sandbox.delete("killed").await.is_err());
        assert!(sandbox.delete(&first.id()).await.is_err());
        // Nor does the sandbox shut down around it.
        sandbox.0.shutdown(patience(), &ShutdownRequest::default()).await.unwrap();
    });
    assert_eq!(first.status(), "running");
}

#[test]
fn each_container_sees_its_own_files_and_environment() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let writer = bundle(store, "writer", "probe", &["write", "/mine", "text"]);
    let reader = bundle(store, "reader", "probe", &["cat", "/mine"]);
    let teller = bundle(store, "teller", "probe", &["env", "NAME"]);
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        for (id, bundle, code) in [("writer", &writer, 0), ("reader", &reader, 1), ("teller", &teller, 0)] {
            sandbox.create(id, bundle.path()).await.unwrap();
            sandbox.start(id).await.unwrap();
            assert_eq!(sandbox.wait(id).await, code, "{id}: {}", log(bundle));
        }
    });
    assert_eq!(std::fs::read_to_string(writer.join("rootfs/mine")).unwrap(), "text");
    assert!(log(&teller).contains(r#""log":"teller\n""#), "{}", log(&teller));
}

#[test]
fn what_cannot_join_is_refused_and_leaves_the_sandbox_as_it_was() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let good = bundle(store, "a", "hello", &[]);
    let broken = bundle(store, "b", "hello", &[]);
    std::fs::write(broken.join("rootfs/program.wasm"), "no Wasm").unwrap();
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        let missing = sandbox.create("x", Path::new("/nowhere")).await.unwrap_err().to_string();
        assert!(missing.contains("/nowhere/config.json"), "{missing}");
        let native = sandbox.create("x", broken.path()).await.unwrap_err().to_string();
        assert!(native.contains("program.wasm"), "{native}");
        assert!(sandbox.start("x").await.is_err());
        // The same id twice, and a start of what has started.
        sandbox.create("x", good.path()).await.unwrap();
        assert!(sandbox.create("x", good.path()).await.is_err());
        sandbox.start("x").await.unwrap();
        assert!(sandbox.start("x").await.is_err());
        assert_eq!(sandbox.wait("x").await, 0);
    });
    assert_eq!(first.status(), "running");
}

#[test]
fn the_limits_of_a_bundle_hold_for_its_container_alone() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let greedy = limited(bundle(store, "a", "probe", &["alloc", "64000000"]), &json!({"memory": {"limit": 32 << 20}}));
    let spin = |name| bundle(store, name, "probe", &["spin"]);
    let slow = limited(spin("b"), &json!({"cpu": {"quota": 20_000, "period": 100_000, "shares": 512}}));
    let tiny = limited(spin("c"), &json!({"memory": {"limit": 1000}}));
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        let refused = sandbox.create("tiny", tiny.path()).await.unwrap_err().to_string();
        assert!(refused.contains("linux.resources.memory.limit"), "{refused}");
        for (id, bundle) in [("greedy", &greedy), ("slow", &slow)] {
            sandbox.create(id, bundle.path()).await.unwrap();
            sandbox.start(id).await.unwrap();
        }
        assert_eq!(sandbox.wait("greedy").await, 137);
        // Several in one process, and each has its own account.
        let (begun, before) = (Instant::now(), sandbox.metrics("slow").await);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let after = sandbox.metrics("slow").await;
        let spent = Duration::from_micros(after.cpu.usage_usec - before.cpu.usage_usec);
        let share = spent.as_secs_f64() / begun.elapsed().as_secs_f64();
        assert!((0.17..=0.23).contains(&share), "{share}");
        assert!(after.cpu.nr_throttled > 0 && after.memory.usage > 0 && after.pids.current == 1, "{after:?}");
        let idle = sandbox.metrics(&first.id()).await;
        assert!(idle.cpu.usage_usec < 500_000, "{idle:?}");
        let gone = StatsRequest { id: "greedy".into(), ..StatsRequest::default() };
        assert!(sandbox.0.stats(patience(), &gone).await.is_err());
        sandbox.kill("slow", 9).await;
    });
}

#[test]
fn the_sandbox_ends_with_its_own_container_and_takes_the_others_along() {
    let store = Store::shared(&["probe"]);
    let first = store.detached("probe forever");
    let other = bundle(store, "a", "probe", &["forever"]);
    talk(async {
        let sandbox = Sandbox::of(store, &first).await;
        sandbox.create("other", other.path()).await.unwrap();
        sandbox.start("other").await.unwrap();
    });
    let (host, keeper) = (first.host(), first.keeper());
    store.sampan(format!("stop {first}")).ok();
    sampan_tests::until("the sandbox's processes are gone", || {
        [host, keeper].iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}
