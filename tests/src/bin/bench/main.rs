//! The speed tables of `SPECIFICATION.md`: whole commands, interleaved in one run, so that a drifting machine drifts for
//! all of them; what counts is the ratio. Peers stand beside ours when the machine has them.
//!
//! `make bench`, or `bench [ROUNDS]`, `bench http [SECONDS]`, `bench echo`, `bench neighbours [SECONDS]`, `bench density
//! [SHARED] [ALONE]`, `bench pull [ROUNDS]`, `bench containerd [ROUNDS]`,
//! `bench pods [ROUNDS]`.

mod builds;
mod containerd;
mod density;
mod echo;
mod http;
mod native;
mod neighbours;
mod pods;

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, usual| args.get(n).map_or(Ok(usual), |n| n.parse()).context("a number was wanted");
    match args.first().map(String::as_str) {
        Some("native") => return native::serve(args.get(1).context("an address was wanted")?.parse()?),
        Some("native-echo") => return echo::native(args.get(1).context("an address was wanted")?.parse()?),
        Some("echo") => return echo::echo(&Bench::new()?),
        Some("neighbours") => return neighbours::neighbours(&Bench::new()?, u32::try_from(number(1, 3)?)?),
        Some("density") => return density::density(&Bench::new()?, number(1, 1000)?, number(2, 200)?),
        Some("containerd") => return containerd::containerd(&Bench::new()?, number(1, 20)?),
        Some("pods") => return pods::pods(&Bench::new()?, number(1, 12)?),
        Some("pull") => return Bench::new()?.pull(number(1, 7)?),
        Some("http") => return http::http(&Bench::new()?, u32::try_from(number(1, 5)?)?),
        _ => {}
    }
    let rounds = number(0, 40)?;
    let bench = Bench::new()?;
    let begun = Instant::now();
    bench.starts("Start, in an empty store", rounds)?;
    bench.memory()?;
    bench.stop()?;
    density::density(&bench, 1000, 200)?;
    http::http(&bench, 5)?;
    echo::echo(&bench)?;
    neighbours::neighbours(&bench, 3)?;
    builds::builds(&bench, rounds.min(10))?;
    bench.pull(7)?;
    containerd::containerd(&bench, rounds.min(20))?;
    pods::pods(&bench, rounds.min(12))?;
    bench.fill(1000, 100)?;
    bench.starts("Start, beside 1,000 other containers and 100 images", rounds)?;
    println!("\n({:.0} s in all; medians of {rounds} interleaved rounds)", begun.elapsed().as_secs_f64());
    Ok(())
}

struct Bench {
    sampan: PathBuf,
    samples: PathBuf,
    root: tempdir::Dir,
}

/// One command that is timed.
struct Contestant {
    name: String,
    command: Vec<String>,
    /// What must be done after each run, outside of the time.
    after: Option<Vec<String>>,
}

impl Bench {
    fn new() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let sampan = match std::env::var_os("SAMPAN_BIN") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()?.with_file_name("sampan"),
        };
        ensure!(sampan.is_file(), "there is no {}: run `make build` first", sampan.display());
        let root = tempdir::Dir::new()?;
        // As an installed program is: a copy lies in the page cache in larger pieces than what a linker has written.
        let installed = root.path().join("installed-sampan");
        std::fs::copy(&sampan, &installed)?;
        let bench = Self { sampan: installed, samples: repository.join("samples"), root };
        for name in ["hello", "probe", "web"] {
            bench.sampan(&["build", "-q", "-t", name, &bench.samples.join(name).to_string_lossy()])?;
        }
        Ok(bench)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.sampan);
        command.args(args).env("SAMPAN_ROOT", self.root.path());
        command
    }

    fn sampan(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sampan {}: {error}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn ours(&self, name: &str, args: &[&str]) -> Contestant {
        let command = std::iter::once(self.sampan.to_string_lossy().into_owned());
        Contestant {
            name: name.to_owned(),
            command: command.chain(args.iter().map(|a| (*a).to_owned())).collect(),
            after: None,
        }
    }

    /// The table of starts. The first line is the floor: what the system takes to run any program.
    fn starts(&self, title: &str, rounds: usize) -> Result<()> {
        let hello = self.samples.join("hello/hello.wasm");
        let mut all = vec![
            Contestant { name: "true (the floor)".into(), command: vec!["/bin/true".into()], after: None },
            self.ours("sampan run --rm hello", &["run", "--rm", "hello"]),
            self.ours("sampan ps", &["ps"]),
            self.ours("sampan ps -a", &["ps", "-a"]),
        ];
        if let Some(wasmtime) = which("wasmtime") {
            let compiled = self.root.path().join("hello.cwasm");
            let done = Command::new(&wasmtime).args(["compile", "-o"]).arg(&compiled).arg(&hello).status()?;
            ensure!(done.success(), "wasmtime compile failed");
            let path = |p: &Path| p.to_string_lossy().into_owned();
            all.insert(
                1,
                Contestant {
                    name: "wasmtime run, precompiled".into(),
                    command: vec![path(&wasmtime), "run".into(), "--allow-precompiled".into(), path(&compiled)],
                    after: None,
                },
            );
        }
        for (program, args) in [("podman", ["run", "--rm", "scratch-true"]), ("docker", ["run", "--rm", "hello-world"])]
        {
            if which(program).is_none() {
                continue;
            }
            let command: Vec<String> = std::iter::once(program).chain(args).map(str::to_owned).collect();
            // An image that is not there would be looked for elsewhere.
            let image = args.last().copied().unwrap_or_default();
            let here = Command::new(program).args(["image", "inspect", image]).output()?;
            if here.status.success() && Command::new(program).args(args).output()?.status.success() {
                all.push(Contestant { name: format!("{program} {}", args.join(" ")), command, after: None });
            } else {
                eprintln!("`{}` does not work here, so {program} stays out of the table", command.join(" "));
            }
        }
        println!("\n## {title}\n\n| command | median ms | × floor | × wasmtime |\n| --- | --- | --- | --- |");
        self.table(&all, rounds, 0)?;
        // Apart from the others: what it flushes to the disk is still being written when the next command comes.
        let detached = Contestant {
            after: Some(self.ours("", &["rm", "-f", "bench"]).command),
            ..self.ours("sampan run -d (until it returns)", &["run", "-d", "--name", "bench", "probe", "forever"])
        };
        let peers = all.into_iter().take_while(|contestant| !contestant.name.starts_with("sampan"));
        let apart: Vec<Contestant> = peers.chain([detached]).collect();
        self.table(&apart, rounds, apart.len() - 1)
    }

    /// Times commands in turn, and prints those from `shown` on. The first is the floor.
    fn table(&self, all: &[Contestant], rounds: usize, shown: usize) -> Result<()> {
        let times = self.interleave(all, rounds)?;
        let floor = times.first().copied().unwrap_or_default().as_secs_f64();
        let wasmtime = all.iter().position(|c| c.name.starts_with("wasmtime")).and_then(|n| times.get(n));
        for (contestant, time) in all.iter().zip(&times).skip(shown) {
            let time = time.as_secs_f64();
            let peer = wasmtime.map_or("–".into(), |peer| format!("{:.2}", time / peer.as_secs_f64()));
            println!("| {} | {:.2} | {:.1} | {peer} |", contestant.name, time * 1e3, time / floor);
        }
        Ok(())
    }

    fn interleave(&self, all: &[Contestant], rounds: usize) -> Result<Vec<Duration>> {
        let mut times = vec![Vec::with_capacity(rounds); all.len()];
        for round in 0..rounds + 2 {
            for (contestant, times) in all.iter().zip(&mut times) {
                let time = self.time(contestant)?;
                // The first two rounds warm caches.
                if round >= 2 {
                    times.push(time);
                }
            }
        }
        Ok(times.into_iter().map(median).collect())
    }

    fn time(&self, contestant: &Contestant) -> Result<Duration> {
        let run = |words: &[String]| -> Result<Duration> {
            let (program, args) = words.split_first().context("an empty command")?;
            let mut command = Command::new(program);
            command.args(args).env("SAMPAN_ROOT", self.root.path()).stdin(Stdio::null()).stdout(Stdio::null());
            let begun = Instant::now();
            let status = command.status().with_context(|| format!("cannot run {program}"))?;
            let time = begun.elapsed();
            ensure!(status.success(), "{} failed: {status}", words.join(" "));
            Ok(time)
        };
        let time = run(&contestant.command)?;
        if let Some(after) = &contestant.after {
            run(after)?;
        }
        Ok(time)
    }

    /// The proportional set size of idle containers, both processes of each.
    fn memory(&self) -> Result<()> {
        println!("\n## Memory of an idle container, keeper and host, PSS in MiB\n");
        println!("| what | alone | each of 20 |\n| --- | --- | --- |");
        let kinds: [(&str, &[&str]); 2] =
            [("a sleeping command", &["probe", "forever"]), ("an HTTP service", &["web"])];
        for (name, image) in kinds {
            let mut figures = Vec::new();
            for count in [1, 20] {
                let names: Vec<String> = (0..count).map(|n| format!("idle{n}")).collect();
                let mut total = 0;
                for name in &names {
                    let args: Vec<&str> = ["run", "-d", "--name", name].iter().chain(image).copied().collect();
                    self.sampan(&args)?;
                }
                // Idle means idle for a while: what starting took is given back after 0.1 s.
                std::thread::sleep(Duration::from_secs(1));
                for name in &names {
                    let pids = self.sampan(&["inspect", "-f", "{{.State.Pid}} {{.Sampan.Keeper}}", name])?;
                    for pid in pids.split_whitespace() {
                        total += pss_kib(pid)?;
                    }
                }
                let remove: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
                self.sampan(&remove)?;
                figures.push(f64::from(total) / 1024.0 / f64::from(count));
            }
            let figures: Vec<String> = figures.iter().map(|f| format!("{f:.2}")).collect();
            println!("| {name} | {} |", figures.join(" | "));
        }
        Ok(())
    }

    /// How long `stop` takes, as a whole command.
    fn stop(&self) -> Result<()> {
        println!("\n## Stop, whole command, median of 10\n\n| what | ms |\n| --- | --- |");
        let kinds: [(&str, &[&str]); 2] = [("an idle HTTP service", &["web"]), ("an endless loop", &["probe", "spin"])];
        for (name, image) in kinds {
            let mut times = Vec::new();
            for _ in 0..10 {
                let args: Vec<&str> = ["run", "-d", "--rm", "--name", "stop"].iter().chain(image).copied().collect();
                self.sampan(&args)?;
                let begun = Instant::now();
                self.sampan(&["stop", "stop"])?;
                times.push(begun.elapsed());
            }
            println!("| {name} | {:.2} |", median(times).as_secs_f64() * 1e3);
        }
        Ok(())
    }

    /// A large image from a registry of this machine, beside skopeo: into an OCI layout, where nothing is unpacked, and
    /// into containers-storage, which is what `podman pull` does.
    fn pull(&self, rounds: usize) -> Result<()> {
        const LAYERS: usize = 4;
        const SIZE: u64 = 50 << 20;
        println!(
            "\n## Pull of a 200 MB image in {LAYERS} layers from a registry of this machine, median of {rounds}\n"
        );
        let (Some(registry), Some(_)) = (which("docker-registry"), which("skopeo")) else {
            println!("(left out: this machine lacks docker-registry or skopeo)");
            return Ok(());
        };
        let dir = self.root.path().join("pull");
        std::fs::create_dir_all(&dir)?;
        let mut dockerfile = "FROM hello\n".to_owned();
        for n in 0..LAYERS {
            let mut noise = std::io::Read::take(std::fs::File::open("/dev/urandom")?, SIZE);
            std::io::copy(&mut noise, &mut std::fs::File::create(dir.join(format!("noise{n}")))?)?;
            dockerfile.push_str(&format!("COPY noise{n} /\n"));
        }
        std::fs::write(dir.join("Dockerfile"), dockerfile)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}/data\nhttp:\n  addr: \
             127.0.0.1:{port}\n",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config)?;
        let mut serving = Command::new(registry);
        serving.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut serving = serving.spawn()?;
        let measured = self.pull_from(&format!("localhost:{port}/large"), &dir, rounds);
        let _ = serving.kill();
        let _ = serving.wait();
        let measured = measured?;
        let ours = measured.first().map_or(0.0, |(_, time)| time.as_secs_f64());
        println!("| what | s | sampan's time × |\n| --- | --- | --- |");
        for (name, time) in measured {
            println!("| {name} | {:.2} | {:.2} |", time.as_secs_f64(), ours / time.as_secs_f64());
        }
        std::fs::remove_dir_all(dir)?;
        Ok(())
    }

    fn pull_from(&self, name: &str, dir: &Path, rounds: usize) -> Result<Vec<(&'static str, Duration)>> {
        self.sampan(&["build", "-q", "-t", name, &dir.to_string_lossy()])?;
        self.sampan(&["push", "-q", name])?;
        let place = dir.join("into");
        let into = place.display();
        let copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"].map(str::to_owned).to_vec();
        let skopeo = |to: String| [copy.clone(), vec![format!("docker://{name}"), to]].concat();
        let ours = ["pull", "-q", name].map(str::to_owned);
        let ours = std::iter::once(self.sampan.to_string_lossy().into_owned()).chain(ours).collect();
        let mut all = vec![
            ("sampan pull: verified, unpacked, compiled", ours, vec![]),
            ("skopeo copy to an OCI layout: verified", skopeo(format!("oci:{into}")), vec![]),
        ];
        // To unpack, it needs root.
        if std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) {
            let to = skopeo(format!("containers-storage:[overlay@{into}/root+{into}/run]{name}"));
            all.push(("skopeo copy to containers-storage: verified, unpacked", to, vec![]));
        }
        for _ in 0..rounds {
            for (_, command, times) in &mut all {
                let (program, args) = command.split_first().context("an empty command")?;
                let mut command = Command::new(program);
                command.args(args).env("SAMPAN_ROOT", &place).stdout(Stdio::null()).stderr(Stdio::null());
                let begun = Instant::now();
                ensure!(command.status()?.success(), "{program} {} failed", args.join(" "));
                times.push(begun.elapsed());
                // containers-storage leaves a mount behind.
                let overlay = place.join("root/overlay");
                let _ = Command::new("umount").arg(overlay).stderr(Stdio::null()).status();
                std::fs::remove_dir_all(&place)?;
            }
        }
        Ok(all.into_iter().map(|(name, _, times)| (name, median(times))).collect())
    }

    /// Puts containers and images into the store, for the table that shows that they cost nothing.
    fn fill(&self, containers: usize, images: usize) -> Result<()> {
        eprintln!("filling the store …");
        let context = self.root.path().join("context");
        std::fs::create_dir_all(&context)?;
        for n in 0..images {
            std::fs::write(context.join("Dockerfile"), format!("FROM hello\nLABEL n={n}\n"))?;
            self.sampan(&["build", "-q", "-t", &format!("image{n}"), &context.to_string_lossy()])?;
        }
        for n in 0..containers {
            self.sampan(&["create", "--name", &format!("container{n}"), "hello"])?;
        }
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn pss_kib(pid: &str) -> Result<u32> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A directory that goes with its value.
mod tempdir {
    use std::path::{Path, PathBuf};

    pub struct Dir(PathBuf);

    impl Dir {
        pub fn new() -> std::io::Result<Self> {
            let dir = std::env::temp_dir().join(format!("sampan-bench-{}", std::process::id()));
            std::fs::create_dir_all(&dir)?;
            Ok(Self(dir))
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
