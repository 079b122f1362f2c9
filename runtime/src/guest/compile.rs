//! Compiling untrusted Wasm, in a child process that can reach nothing.
//!
//! The child is this program under another name, so that it starts from nothing of its parent's: standard input is the
//! Wasm file, standard output takes a line of JSON (the [`Description`]) and the compiled code, standard error says
//! what is wrong.

use super::engine::{Purpose, Target, engine};
use super::kind::{self, Description};
use crate::sandbox::fence;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// The name under which this program is the compiling child.
const NAME: &str = "sampan-compile";

/// Memory that compiling may take: a fixed part, and so many bytes for each byte of Wasm (measured: 40 at most).
const MEMORY: (u64, u64) = (3 << 30, 128);
/// Processor time that compiling may take, in seconds: a fixed part, and so many for each MiB of Wasm.
const SECONDS: (u64, u64) = (60, 20);

/// A Wasm file that did not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The child could not be run.
    #[error("cannot run the compiler: {0}")]
    Spawn(#[from] std::io::Error),
    /// The file is no guest of ours; the child's own words.
    #[error("{0}")]
    Refused(String),
    /// The child was stopped by a limit, or broke.
    #[error("compiling was stopped ({status}): the file needs more than {memory_mib} MiB of memory or {seconds} s")]
    Limit {
        /// How the child ended.
        status: String,
        /// The memory limit.
        memory_mib: u64,
        /// The time limit.
        seconds: u64,
    },
    /// The child's answer makes no sense.
    #[error("the compiler's answer cannot be read: {0}")]
    Answer(String),
}

/// Compiles the Wasm in `wasm` (binary or text) and returns what it is and the code for the engine.
///
/// # Errors
/// When it is no guest of ours, or breaks a limit.
pub fn compile(wasm: File, size: u64) -> Result<(Description, Vec<u8>), CompileError> {
    let memory = MEMORY.0 + MEMORY.1 * size;
    let seconds = SECONDS.0 + SECONDS.1 * (size >> 20);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(memory.to_string()).arg(seconds.to_string()).env_clear();
    command.stdin(Stdio::from(wasm)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn()?.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(match output.status.code() {
            Some(1) if !words.is_empty() => CompileError::Refused(words),
            _ => CompileError::Limit { status: output.status.to_string(), memory_mib: memory >> 20, seconds },
        });
    }
    let mut code = output.stdout;
    let line = code.iter().position(|b| *b == b'\n').ok_or_else(|| CompileError::Answer("no first line".into()))?;
    let rest = code.split_off(line + 1);
    let description = serde_json::from_slice(&code).map_err(|e| CompileError::Answer(e.to_string()))?;
    Ok((description, rest))
}

/// Runs the compiling child, if that is what this process was started as. To be called first thing in `main`.
#[must_use]
pub fn run_if_child() -> Option<ExitCode> {
    let mut args = std::env::args();
    if args.next().as_deref() != Some(NAME) {
        return None;
    }
    let mut limit = || args.next().and_then(|n| n.parse().ok());
    let (memory, seconds) = (limit().unwrap_or(MEMORY.0), limit().unwrap_or(SECONDS.0));
    Some(match child(memory, seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            let _ = writeln!(std::io::stderr(), "{words}");
            ExitCode::FAILURE
        }
    })
}

fn child(memory: u64, seconds: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, limit(memory)).map_err(|e| format!("cannot limit memory: {e}"))?;
    setrlimit(Resource::Cpu, limit(seconds)).map_err(|e| format!("cannot limit time: {e}"))?;
    fence::compiler();
    let mut wasm = Vec::new();
    std::io::stdin().lock().read_to_end(&mut wasm).map_err(|e| format!("cannot read the Wasm file: {e}"))?;
    let (description, code) = translate(&wasm)?;
    let mut out = std::io::stdout().lock();
    let mut first = serde_json::to_vec(&description).map_err(|e| e.to_string())?;
    first.push(b'\n');
    out.write_all(&first).and_then(|()| out.write_all(&code)).and_then(|()| out.flush()).map_err(|e| e.to_string())
}

fn translate(bytes: &[u8]) -> Result<(Description, Vec<u8>), String> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| looks_like_wat(text));
    let parsed;
    let wasm = match text {
        Some(_) => {
            parsed = wat::parse_bytes(bytes).map_err(|e| format!("the text is not valid WAT: {e}"))?;
            parsed.as_ref()
        }
        None => {
            kind::check_magic(bytes).map_err(|e| e.to_string())?;
            bytes
        }
    };
    let target = if is_component(wasm) { kind::target_of(wasm) } else { Target::General };
    let engine = engine(Purpose::Compile(target)).map_err(|e| format!("cannot set up the compiler: {e:#}"))?;
    let invalid = |e: wasmtime::Error| format!("the Wasm is not valid: {e:#}");
    if is_component(wasm) {
        let component = Component::new(&engine, wasm).map_err(invalid)?;
        let description = kind::of_component(&engine, &component).map_err(|e| e.to_string())?;
        serialized(description, component.serialize())
    } else {
        let module = module(&engine, wasm).map_err(invalid)?;
        let mut description = kind::of_module(&module).map_err(|e| e.to_string())?;
        description.languages = kind::languages(wasm);
        serialized(description, module.serialize())
    }
}

fn module(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Module> {
    Module::new(engine, wasm)
}

fn serialized(description: Description, code: wasmtime::Result<Vec<u8>>) -> Result<(Description, Vec<u8>), String> {
    Ok((description, code.map_err(|e| format!("cannot write the compiled code: {e:#}"))?))
}

/// The layer field of the binary format's header: 1 for a component (Component Model, Binary.md).
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(6..8) == Some(&[1, 0])
}

fn looks_like_wat(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('(') || text.starts_with(";;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_and_textual_wasm() {
        assert_eq!(translate(b"(module (func (export \"_start\")))").unwrap().0.kind, kind::Kind::Module);
        assert!(translate(b"\0asm\x01\0\0\0\x05").unwrap_err().contains("not valid"));
        assert!(translate(b"(module (func").unwrap_err().contains("WAT"));
        assert!(translate(b"\x7fELF").unwrap_err().contains("native"));
    }
}
