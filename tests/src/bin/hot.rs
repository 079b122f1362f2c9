//! Finds out which functions a start runs, and writes their names in the order of their first call to `cli/hot.order`,
//! by which the linker lays out the program: `make hot`. A start then touches a few neighbouring pages instead of two
//! hundred scattered ones.
//!
//! Each command is run step by step (ptrace(2)), with every process that it makes, which takes minutes. What the list
//! says of functions that are no more is passed over by the linker.

use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() -> Result<()> {
    let order = Path::new("cli/hot.order");
    ensure!(order.exists(), "run this in the project's root, by `make hot`");
    let map = std::env::temp_dir().join(format!("sampan-{}.map", std::process::id()));
    let sampan = link(&map)?;
    let functions = functions(&std::fs::read_to_string(&map).context("the linker wrote no map")?);
    let _ = std::fs::remove_file(map);
    let store = std::env::temp_dir().join(format!("sampan-hot-{}", std::process::id()));
    let run = |args: &[&str]| {
        let mut command = Command::new(&sampan);
        command.args(args).env("SAMPAN_ROOT", &store).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    for sample in ["hello", "hello-http"] {
        ensure!(
            run(&["build", "-q", "-t", sample, &format!("samples/{sample}")]).status()?.success(),
            "cannot build {sample}"
        );
    }
    ensure!(run(&["run", "-d", "--name", "idle", "hello-http"]).status()?.success(), "cannot start a service");
    let mut names = Vec::new();
    let mut known = HashSet::new();
    for args in [&["run", "--rm", "hello"][..], &["ps"], &["stop", "idle"], &["run", "-d", "--rm", "hello-http"]] {
        eprintln!("sampan {} …", args.join(" "));
        for address in steps(run(args))? {
            let Some((start, (size, name))) = functions.range(..=address).next_back() else { continue };
            if address < start + size && known.insert(name.clone()) {
                names.push(name.clone());
            }
        }
    }
    let _ = run(&["rm", "-f", "idle"]).status();
    std::fs::remove_dir_all(&store)?;
    let text = names.iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name}");
        text
    });
    std::fs::write(order, text)?;
    eprintln!("{} functions of {} in {}", names.len(), functions.len(), order.display());
    Ok(())
}

/// Links the program once more, with a map of where everything lies.
fn link(map: &Path) -> Result<PathBuf> {
    let map = format!("link-arg=-Wl,-Map={}", map.display());
    let cargo = ["rustc", "--release", "--locked", "-p", "sampan", "--bin", "sampan", "--"];
    let flags = ["-C", &map, "-C", "link-arg=-Wl,--no-demangle"];
    let mut command = Command::new("cargo");
    // What `cargo run` tells us of this package would have build scripts run again for others.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_HOME" && name != "CARGO_INCREMENTAL" {
            command.env_remove(name);
        }
    }
    ensure!(command.args(cargo).args(flags).status()?.success(), "cannot link the program");
    std::env::var_os("SAMPAN_BIN").map(PathBuf::from).context("SAMPAN_BIN does not say where the program is")
}

/// The functions of LLD's map: `VMA LMA Size Align`, then the section, the file or the symbol, each further to the right.
fn functions(map: &str) -> BTreeMap<u64, (u64, String)> {
    let (mut all, mut in_text) = (BTreeMap::new(), false);
    for line in map.lines() {
        let mut words = line.split_whitespace();
        let numbers: Vec<u64> = words.by_ref().take(3).filter_map(|word| u64::from_str_radix(word, 16).ok()).collect();
        let ([address, _, size], Some(align), Some(name)) = (&numbers[..], words.next(), words.next()) else {
            continue;
        };
        let indent = line.find(name).unwrap_or(0) - line.find(align).map_or(0, |at| at + align.len());
        match indent {
            0..=2 => in_text = name == ".text",
            16.. if in_text && *size > 0 => {
                all.insert(*address, (*size, name.to_owned()));
            }
            _ => {}
        }
    }
    all
}

/// Every instruction of the program that a command and what it starts run, in the order in which each is first run.
/// What still runs at the command's end stands still, and is killed at ours.
#[allow(unsafe_code, reason = "there is no safe way to trace a process")]
fn steps(mut command: Command) -> Result<Vec<u64>> {
    // SAFETY: after the fork only system calls that ptrace(2) describes are made.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let first = i32::try_from(command.spawn()?.id())?;
    let (mut order, mut seen, mut followed) = (Vec::new(), HashSet::new(), false);
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one number, to `status`.
        let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if thread < 0 {
            return Ok(order);
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if thread == first {
                ensure!(libc::WEXITSTATUS(status) == 0, "the command has failed");
                break;
            }
            continue;
        }
        if !followed {
            let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK;
            // SAFETY: the thread is a tracee that has stopped; this asks for its children to be followed.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, thread, 0, options | libc::PTRACE_O_EXITKILL) };
            followed = true;
        }
        let signal = match libc::WSTOPSIG(status) {
            libc::SIGTRAP => {
                // SAFETY: the thread has stopped; this reads one of its registers.
                let at = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, thread, 8 * libc::RIP, 0) };
                let at = u64::from_ne_bytes(at.to_ne_bytes());
                if seen.insert(at) {
                    order.push(at);
                }
                0
            }
            // How a new thread or process begins under a tracer.
            libc::SIGSTOP => 0,
            signal => signal,
        };
        // SAFETY: the thread has stopped; this lets it go on by one instruction.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, thread, 0, signal) };
    }
    if order.is_empty() {
        bail!("nothing was seen of the command");
    }
    Ok(order)
}
