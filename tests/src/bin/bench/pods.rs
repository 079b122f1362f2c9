//! Pods through CRI, beside containerd with runc where this machine has them.

use super::{Bench, median, pss_kib, which};
use anyhow::{Context, Result, ensure};
use sampan_shim::cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, CreateContainerResponse, ImageSpec,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListContainersRequest, ListContainersResponse,
    ListPodSandboxRequest, ListPodSandboxResponse, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, RemovePodSandboxRequest, RemovePodSandboxResponse, RunPodSandboxRequest, RunPodSandboxResponse,
    StartContainerRequest, StartContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse,
};
use sampan_tests::cri::Cri;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const OURS: &str = "sampan";

/// A container runtime, and what it is to run.
struct Runtime {
    name: &'static str,
    cri: Cri,
    image: String,
    server: Child,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The table.
pub fn pods(bench: &Bench, rounds: usize) -> Result<()> {
    println!(
        "\n## Pods through CRI: RunPodSandbox, CreateContainer and StartContainer of hello, medians of {rounds}\n"
    );
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/lib/cni/bridge").exists() {
        println!("(left out: it needs root, and CNI's plugins)");
        return Ok(());
    }
    let dir = bench.root.path().join("pods");
    std::fs::create_dir_all(dir.join("cni"))?;
    let conflist = r#"{ "cniVersion": "1.0.0", "name": "bench", "plugins": [
        { "type": "bridge", "bridge": "sampan-bench", "isGateway": true,
          "ipam": { "type": "host-local", "subnet": "10.212.0.0/16", "dataDir": "DIR/ipam" } } ] }"#;
    std::fs::write(dir.join("cni/10-bench.conflist"), conflist.replace("DIR", &dir.to_string_lossy()))?;
    let mut all = vec![ours(bench, &dir)?];
    match containerd(&dir) {
        Ok(other) => all.push(other),
        Err(why) => println!("(containerd with runc is left out: {why:#})\n"),
    }
    println!("| what | ms | containerd's time × |\n| --- | --- | --- |");
    for (what, network) in
        [("on the node's network", NamespaceMode::Node), ("with a network by CNI", NamespaceMode::Pod)]
    {
        let mut times: Vec<Vec<Duration>> = all.iter().map(|_| vec![]).collect();
        let mut parts: Vec<[Duration; 3]> = vec![];
        for round in 0..rounds {
            for (runtime, times) in all.iter().zip(&mut times) {
                let config = pod(&format!("bench-{round}"), network);
                let begun = Instant::now();
                let (pods, each) = runtime.start(&[config], &[])?;
                times.push(begun.elapsed());
                if runtime.name == OURS {
                    parts.push(each);
                }
                runtime.remove(&pods)?;
            }
        }
        let medians: Vec<Duration> = times.into_iter().map(median).collect();
        let last = medians.last().copied().unwrap_or_default();
        for (runtime, time) in all.iter().zip(&medians) {
            let ratio = time.as_secs_f64() / last.as_secs_f64();
            println!("| {}, {what} | {:.1} | {ratio:.2} |", runtime.name, time.as_secs_f64() * 1e3);
        }
        let part = |take: fn(&[Duration; 3]) -> Duration| median(parts.iter().map(take).collect()).as_secs_f64() * 1e3;
        let (run, create, start) = (part(|[run, ..]| *run), part(|[_, create, _]| *create), part(|[.., start]| *start));
        println!("| of ours, RunPodSandbox, CreateContainer, StartContainer | {run:.1}, {create:.1}, {start:.1} | |");
    }
    println!("| CNI's plugin itself: ADD | {:.1} | |", plugin(&dir, rounds)?.as_secs_f64() * 1e3);
    let ours = all.first().context("there is a runtime")?;
    let many = |from: usize, to: usize| -> Vec<_> {
        (from..to).map(|n| pod(&format!("many-{n}"), NamespaceMode::Node)).collect()
    };
    let begun = Instant::now();
    let (mut pods, _) = ours.start(&many(0, 100), &["sleep", "1000"])?;
    println!("| sampan, 100 pods at once, each | {:.1} | |", begun.elapsed().as_secs_f64() * 10.0);
    pods.extend(ours.start(&many(100, 200), &["sleep", "1000"])?.0);
    let mut times = vec![];
    for _ in 0..rounds {
        let begun = Instant::now();
        let listed: ListPodSandboxResponse = ours.cri.call("ListPodSandbox", &ListPodSandboxRequest::default())?;
        times.push(begun.elapsed());
        ensure!(listed.items.len() == 200, "{} pods of 200 are listed", listed.items.len());
    }
    println!("| sampan, ListPodSandbox of 200 | {:.1} | |", median(times).as_secs_f64() * 1e3);
    let mut times = vec![];
    for _ in 0..rounds {
        let begun = Instant::now();
        let listed: ListContainersResponse = ours.cri.call("ListContainers", &ListContainersRequest::default())?;
        times.push(begun.elapsed());
        ensure!(listed.containers.len() == 200, "{} containers of 200 are listed", listed.containers.len());
    }
    println!("| sampan, ListContainers of 200 | {:.1} | |", median(times).as_secs_f64() * 1e3);
    let memory = f64::from(pss_kib(&ours.server.id().to_string())?) / 1024.0;
    println!("\nMemory of `sampan serve` with 200 pods: {memory:.1} MiB PSS");
    ours.remove(&pods)?;
    drop(all);
    let _ = Command::new("ip").args(["link", "delete", "sampan-bench"]).stderr(Stdio::null()).status();
    Ok(())
}

fn pod(name: &str, network: NamespaceMode) -> PodSandboxConfig {
    let options = NamespaceOption { network: network.into(), ..NamespaceOption::default() };
    let context = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "bench".into(),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() }),
        ..PodSandboxConfig::default()
    }
}

impl Runtime {
    /// Makes and starts pods of one container each, all at once, and returns their ids, and what each call took.
    fn start(&self, configs: &[PodSandboxConfig], args: &[&str]) -> Result<(Vec<String>, [Duration; 3])> {
        let begun = Instant::now();
        let request =
            |config: &PodSandboxConfig| RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let made: Vec<RunPodSandboxResponse> =
            self.cri.call_all("RunPodSandbox", &configs.iter().map(request).collect::<Vec<_>>())?;
        let run = begun.elapsed();
        let pods: Vec<String> = made.into_iter().map(|made| made.pod_sandbox_id).collect();
        let image = if args.is_empty() { self.image.clone() } else { "probe".into() };
        let create = |(pod, config): (&String, &PodSandboxConfig)| CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
                image: Some(ImageSpec { image: image.clone(), ..ImageSpec::default() }),
                args: args.iter().map(ToString::to_string).collect(),
                ..ContainerConfig::default()
            }),
            sandbox_config: Some(config.clone()),
        };
        let requests: Vec<_> = pods.iter().zip(configs).map(create).collect();
        let made: Vec<CreateContainerResponse> = self.cri.call_all("CreateContainer", &requests)?;
        let created = begun.elapsed();
        let start = |made: CreateContainerResponse| StartContainerRequest { container_id: made.container_id };
        let requests: Vec<_> = made.into_iter().map(start).collect();
        let _: Vec<StartContainerResponse> = self.cri.call_all("StartContainer", &requests)?;
        Ok((pods, [run, created - run, begun.elapsed() - created]))
    }

    fn remove(&self, pods: &[String]) -> Result<()> {
        for pod in pods {
            let id = pod.clone();
            let _: StopPodSandboxResponse =
                self.cri.call("StopPodSandbox", &StopPodSandboxRequest { pod_sandbox_id: id.clone() })?;
            let _: RemovePodSandboxResponse =
                self.cri.call("RemovePodSandbox", &RemovePodSandboxRequest { pod_sandbox_id: id })?;
        }
        Ok(())
    }
}

fn ours(bench: &Bench, dir: &Path) -> Result<Runtime> {
    let socket = dir.join("sampan.sock");
    let mut serve = Command::new(&bench.sampan);
    serve.args(["serve", "--cri", &format!("unix://{}", socket.display())]).arg("--cni-conf-dir").arg(dir.join("cni"));
    serve.env("SAMPAN_ROOT", bench.root.path()).stdout(Stdio::null());
    let runtime = connected(OURS, &socket, "hello".into(), serve.spawn()?)?;
    for image in ["hello", "probe"] {
        let archive = dir.join(format!("{image}.tar"));
        let archive = archive.to_string_lossy();
        bench.sampan(&["save", "-o", &archive, image])?;
        bench.sampan(&["--namespace", "k8s.io", "load", "-q", "-i", &archive])?;
    }
    Ok(runtime)
}

/// Waits for a server to answer.
fn connected(name: &'static str, socket: &Path, image: String, mut server: Child) -> Result<Runtime> {
    let begun = Instant::now();
    loop {
        match Cri::connect(socket) {
            Ok(cri) => return Ok(Runtime { name, cri, image, server }),
            Err(error) if begun.elapsed() > Duration::from_secs(20) => {
                let _ = server.kill();
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A containerd of this run's own, with an image of a native program that says hello and one that waits for ever.
fn containerd(dir: &Path) -> Result<Runtime> {
    for tool in ["containerd", "ctr", "runc", "buildah", "cc"] {
        which(tool).with_context(|| format!("{tool} is missing"))?;
    }
    let context = dir.join("native");
    std::fs::create_dir_all(&context)?;
    for (name, body) in [("hello", "puts(\"hello\");"), ("pause", "for (;;) pause();")] {
        let source = format!("#include <stdio.h>\n#include <unistd.h>\nint main(void) {{ {body} return 0; }}\n");
        std::fs::write(context.join("main.c"), source)?;
        done(Command::new("cc").args(["-static", "-O2", "-o"]).arg(context.join(name)).arg(context.join("main.c")))?;
        let dockerfile = context.join("Dockerfile");
        std::fs::write(&dockerfile, format!("FROM scratch\nCOPY {name} /{name}\nENTRYPOINT [\"/{name}\"]\n"))?;
        let image = format!("localhost/bench-{name}:1");
        done(Command::new("buildah").args(["build", "-q", "-t", &image]).arg(&context))?;
        let archive = format!("docker-archive:{}:{image}", dir.join(format!("native-{name}.tar")).display());
        done(Command::new("buildah").args(["push", "-q", &image, &archive]))?;
    }
    let (socket, config) = (dir.join("containerd.sock"), dir.join("containerd.toml"));
    let text = format!(
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"localhost/bench-pause:1\"\n  \
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n  conf_dir = \"{}\"\n",
        dir.join("cni").display()
    );
    std::fs::write(&config, text)?;
    let mut serve = Command::new("containerd");
    serve.arg("-c").arg(&config).arg("--root").arg(dir.join("containerd")).arg("--state").arg(dir.join("state"));
    serve
        .arg("--address")
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("containerd.log"))?);
    let runtime = connected("containerd with runc", &socket, "localhost/bench-hello:1".into(), serve.spawn()?)?;
    for name in ["hello", "pause"] {
        let mut import = Command::new("ctr");
        import.arg("--address").arg(&socket).args(["-n", "k8s.io", "images", "import"]);
        done(import.arg(dir.join(format!("native-{name}.tar"))))?;
    }
    Ok(runtime)
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// What the plugin takes by itself.
fn plugin(dir: &Path, rounds: usize) -> Result<Duration> {
    let namespace = PathBuf::from("/run/netns/sampan-bench");
    let config = format!(
        r#"{{ "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "sampan-bench", "isGateway": true,
            "ipam": {{ "type": "host-local", "subnet": "10.212.0.0/16", "dataDir": "{}/ipam" }} }}"#,
        dir.display()
    );
    let config_file = dir.join("plugin.json");
    std::fs::write(&config_file, config)?;
    let call = |what: &str| -> Result<()> {
        let mut command = Command::new("/usr/lib/cni/bridge");
        command.env("CNI_COMMAND", what).env("CNI_CONTAINERID", "bench").env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", &namespace).env("CNI_PATH", "/usr/lib/cni");
        done(command.stdin(std::fs::File::open(&config_file)?))
    };
    let mut times = vec![];
    for _ in 0..rounds {
        done(Command::new("ip").args(["netns", "add", "sampan-bench"]))?;
        let begun = Instant::now();
        call("ADD")?;
        times.push(begun.elapsed());
        call("DEL")?;
        done(Command::new("ip").args(["netns", "delete", "sampan-bench"]))?;
    }
    Ok(median(times))
}
