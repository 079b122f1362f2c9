//! `ctr run --rm` through our shim, beside runc with a native program that says the same.

use crate::{Bench, Contestant, which};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A containerd of our own, which ends with the value.
struct Containerd {
    daemon: Child,
    socket: PathBuf,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The table of `ctr run`.
pub fn containerd(bench: &Bench, rounds: usize) -> Result<()> {
    if !rustix::process::geteuid().is_root()
        || !["containerd", "ctr", "runc", "cc"].into_iter().all(|program| which(program).is_some())
    {
        println!("\nSKIPPED containerd: it needs root, containerd, ctr, runc and cc");
        return Ok(());
    }
    let dir = bench.root.path().join("containerd");
    std::fs::create_dir_all(dir.join("bin"))?;
    std::os::unix::fs::symlink(&bench.sampan, dir.join("bin/containerd-shim-sampan-v1"))?;
    std::fs::write(dir.join("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
    let containerd = Containerd::start(&dir, bench.root.path())?;
    // One image for both, with a program for each.
    let context = dir.join("image");
    std::fs::create_dir_all(&context)?;
    std::fs::copy(bench.samples.join("hello/hello.wasm"), context.join("hello.wasm"))?;
    std::fs::write(
        context.join("hello.c"),
        "#include <stdio.h>\nint main(void) { puts(\"Hello from Sampan!\"); return 0; }\n",
    )?;
    let mut compiler = Command::new("cc");
    let made = compiler.args(["-O2", "-static", "-o", "hello", "hello.c"]).current_dir(&context).status()?;
    ensure!(made.success(), "cc cannot compile a hello");
    let dockerfile = "FROM scratch\nCOPY hello.wasm hello /\nENTRYPOINT [\"/hello.wasm\"]\n";
    std::fs::write(context.join("Dockerfile"), dockerfile)?;
    bench.sampan(&["build", "-q", "-t", "both", &context.to_string_lossy()])?;
    let archive = dir.join("both.tar").to_string_lossy().into_owned();
    bench.sampan(&["save", "-o", &archive, "both"])?;
    containerd.ctr(&["image", "import", "--all-platforms", &archive])?;
    let all = [
        containerd.contestant("runc, native", &["--runtime", "io.containerd.runc.v2", IMAGE, "native", "/hello"]),
        containerd.contestant("our shim, Wasm", &["--runtime", "io.containerd.sampan.v1", IMAGE, "ours"]),
    ];
    let times = bench.interleave(&all, rounds)?;
    let floor = times.first().copied().unwrap_or_default().as_secs_f64();
    println!("\n## ctr run --rm of a hello, median of {rounds}\n\n| runtime | ms | × runc |\n| --- | --- | --- |");
    for (contestant, time) in all.iter().zip(&times) {
        let time = time.as_secs_f64();
        println!("| {} | {:.1} | {:.2} |", contestant.name, time * 1e3, time / floor);
    }
    Ok(())
}

const IMAGE: &str = "docker.io/library/both:latest";

impl Containerd {
    fn start(dir: &Path, store: &Path) -> Result<Self> {
        let socket = dir.join("c.sock");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(dir.join("bin")).chain(std::env::split_paths(&path)))?;
        let daemon = Command::new("containerd")
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--address")
            .arg(&socket)
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("PATH", path)
            .env("SAMPAN_ROOT", store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start containerd")?;
        let containerd = Self { daemon, socket };
        let begun = Instant::now();
        while containerd.ctr(&["version"]).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(containerd)
    }

    fn ctr(&self, args: &[&str]) -> Result<()> {
        let output = Command::new("ctr").arg("-a").arg(&self.socket).args(args).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "ctr {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn contestant(&self, name: &str, args: &[&str]) -> Contestant {
        let socket = self.socket.to_string_lossy();
        let words = ["ctr", "-a", &socket, "run", "--rm"].into_iter().chain(args.iter().copied());
        Contestant { name: name.to_owned(), command: words.map(str::to_owned).collect(), after: None }
    }
}
