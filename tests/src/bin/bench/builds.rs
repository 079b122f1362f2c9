//! Builds: of a program, and of many small files, unchanged and with one file changed, beside the builders that this
//! machine has.

use super::{Bench, median, which};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: usize = 2000;

/// A builder, and how it is called before the context.
struct Builder {
    name: &'static str,
    command: Vec<String>,
}

impl Builder {
    fn build(&self, bench: &Bench, context: &Path) -> Result<Duration> {
        let (program, args) = self.command.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(args).arg(context).env("SAMPAN_ROOT", bench.root.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {program}"))?;
        let time = begun.elapsed();
        ensure!(status.success(), "{} cannot build: {status}", self.name);
        Ok(time)
    }
}

/// The table of builds.
pub fn builds(bench: &Bench, rounds: usize) -> Result<()> {
    let dir = bench.root.path().join("builds");
    let (web, files) = (dir.join("web"), dir.join("files"));
    std::fs::create_dir_all(&web)?;
    for name in ["Dockerfile", "web.wasm"] {
        std::fs::copy(bench.samples.join("web").join(name), web.join(name))?;
    }
    for n in 0..FILES {
        let sub = files.join(format!("d{}", n % 20));
        std::fs::create_dir_all(&sub)?;
        std::fs::write(sub.join(n.to_string()), format!("file {n}\n").repeat(20))?;
    }
    std::fs::write(files.join("Dockerfile"), "FROM scratch\nCOPY . /files\n")?;

    let mut builders = vec![Builder {
        name: "sampan build",
        command: [&bench.sampan.to_string_lossy(), "build", "-q", "-t", "bench"].map(str::to_owned).to_vec(),
    }];
    for name in ["buildah", "podman"] {
        let Some(program) = which(name) else { continue };
        let place = |part: &str| dir.join(format!("{name}-{part}")).to_string_lossy().into_owned();
        let words = [
            program.to_string_lossy().into_owned(),
            "--root".into(),
            place("root"),
            "--runroot".into(),
            place("run"),
            "build".into(),
            "--layers".into(),
            "-q".into(),
            "-t".into(),
            "bench".into(),
        ];
        let builder = Builder { name, command: words.to_vec() };
        match builder.build(bench, &web) {
            Ok(_) => builders.push(builder),
            Err(error) => println!("\n({error}: it is left out)"),
        }
    }
    println!("\n## Build, whole command, median ms of {rounds}\n");
    println!("| builder | web, unchanged | web, changed | {FILES} files, unchanged | {FILES} files, one changed |");
    println!("| --- | --- | --- | --- | --- |");
    let cases: [(&Path, Option<PathBuf>); 4] = [
        (&web, None),
        (&web, Some(web.join("Dockerfile"))),
        (&files, None),
        (&files, Some(files.join("d0").join("0"))),
    ];
    let mut table = vec![Vec::new(); builders.len()];
    for (case, (context, changes)) in cases.iter().enumerate() {
        let mut times = vec![Vec::with_capacity(rounds); builders.len()];
        for round in 0..rounds + 2 {
            if let Some(file) = changes {
                // Of the program's image a setting changes, of the others a file.
                let text = match case {
                    1 => format!(
                        "{}\nLABEL round={round}\n",
                        std::fs::read_to_string(bench.samples.join("web/Dockerfile"))?
                    ),
                    _ => format!("round {round}\n"),
                };
                std::fs::write(file, text)?;
            }
            for (builder, times) in builders.iter().zip(&mut times) {
                let time = builder.build(bench, context)?;
                if round >= 2 {
                    times.push(time);
                }
            }
        }
        for (row, times) in table.iter_mut().zip(times) {
            row.push(format!("{:.1}", median(times).as_secs_f64() * 1e3));
        }
    }
    for (builder, row) in builders.iter().zip(table) {
        println!("| {} | {} |", builder.name, row.join(" | "));
    }
    Ok(())
}
