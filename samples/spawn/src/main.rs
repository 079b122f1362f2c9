//! A component that starts other programs of its container (`sampan:process/spawn`), each way that there is:
//!
//! - `spawn run PROGRAM [ARGS…]` – with its own streams, and says how it ended
//! - `spawn capture PROGRAM [ARGS…]` – counts the bytes of its output and of what it says on standard error
//! - `spawn feed TEXT PROGRAM [ARGS…]` – writes the text to its input
//! - `spawn join PROGRAM PROGRAM` – pipes the output of the one into the other
//! - `spawn into FILE PROGRAM [ARGS…]` – its output goes to a new file, behind a line of ours; its errors to the end of it
//! - `spawn among DIRECTORY NAME=VALUE PROGRAM [ARGS…]` – in this directory, with this variable and no other
//! - `spawn kill SIGNAL PROGRAM [ARGS…]`, `spawn leave PROGRAM [ARGS…]`, `spawn many PROGRAM [ARGS…]`
//! - `spawn odd` – what is refused

wit_bindgen::generate!({
    path: "../process/wit",
    inline: "package sample:spawn;
        world program {
            include sampan:process/imports@0.1.0;
            import wasi:filesystem/preopens@0.2.0;
        }",
    generate_all,
});

use std::process::ExitCode;

use sampan::process::spawn::{self, ErrorCode, Handle, Process, Program, Standard};
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasi::io::poll::poll;
use wasi::io::streams::{InputStream, OutputStream, StreamError};

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["run", ref program @ ..] => run(program),
        ["capture", ref program @ ..] => capture(program),
        ["feed", text, ref program @ ..] => feed(text, program),
        ["join", first, second] => join(first, second),
        ["into", file, ref program @ ..] => into(file, program),
        ["among", directory, variable, ref program @ ..] => among(directory, variable, program),
        ["kill", signal, ref program @ ..] => kill(signal, program),
        ["leave", ref program @ ..] => start(program, [None, None, None]).map(drop),
        ["many", ref program @ ..] => many(program),
        ["odd"] => odd(),
        _ => Err("see the head of samples/spawn/src/main.rs".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("spawn: {words}");
            ExitCode::FAILURE
        }
    }
}

fn said(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn program<'a>(words: &[&str], [stdin, stdout, stderr]: [Option<&'a Handle>; 3]) -> Program<'a> {
    let args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let path = args.first().cloned().unwrap_or_default();
    Program { path, args, env: std::env::vars().collect(), cwd: None, stdin, stdout, stderr }
}

fn start(words: &[&str], stdio: [Option<&Handle>; 3]) -> Result<Process> {
    spawn::spawn(&program(words, stdio)).map_err(said)
}

fn own(which: Standard) -> Result<Handle> {
    spawn::inherit(which).map_err(said)
}

fn ended(process: &Process) -> Result<()> {
    println!("ended with {}", process.wait().map_err(said)?);
    Ok(())
}

fn run(words: &[&str]) -> Result<()> {
    let (input, output, error) = (own(Standard::Input)?, own(Standard::Output)?, own(Standard::Error)?);
    let process = start(words, [Some(&input), Some(&output), Some(&error)])?;
    println!("process {} of {}", process.id(), spawn::id());
    // It can be waited for as for anything else, and asked more than once.
    poll(&[&process.subscribe()]);
    ended(&process)?;
    ended(&process)
}

/// What there is to read, once it is; `None` at the end.
fn read(stream: &InputStream) -> Result<Option<Vec<u8>>> {
    match stream.read(1 << 16) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StreamError::Closed) => Ok(None),
        Err(StreamError::LastOperationFailed(error)) => Err(error.to_debug_string()),
    }
}

fn capture(words: &[&str]) -> Result<()> {
    let (reader, writer) = spawn::pipe().map_err(said)?;
    let (error_reader, error_writer) = spawn::pipe().map_err(said)?;
    let process = start(words, [None, Some(&writer), Some(&error_writer)])?;
    // Ours are closed, so that the end of the program's is the end.
    drop((writer, error_writer));
    let streams = [reader.read().map_err(said)?, error_reader.read().map_err(said)?];
    let mut counts = [Some(0), Some(0)];
    let mut totals = [0, 0];
    while counts.iter().any(Option::is_some) {
        let open: Vec<usize> = (0..2).filter(|n| counts[*n].is_some()).collect();
        let pollables: Vec<_> = open.iter().map(|n| streams[*n].subscribe()).collect();
        for ready in poll(&pollables.iter().collect::<Vec<_>>()) {
            let n = open[ready as usize];
            counts[n] = read(&streams[n])?.map(|bytes| bytes.len());
            totals[n] += counts[n].unwrap_or(0);
        }
    }
    println!("{} bytes out, {} bytes of errors", totals[0], totals[1]);
    ended(&process)
}

fn write(stream: &OutputStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let (now, rest) = bytes.split_at(bytes.len().min(4096));
        stream.blocking_write_and_flush(now).map_err(|error| match error {
            StreamError::Closed => "nobody reads it".to_owned(),
            StreamError::LastOperationFailed(error) => error.to_debug_string(),
        })?;
        bytes = rest;
    }
    Ok(())
}

fn feed(text: &str, words: &[&str]) -> Result<()> {
    let (reader, writer) = spawn::pipe().map_err(said)?;
    let output = own(Standard::Output)?;
    let process = start(words, [Some(&reader), Some(&output), None])?;
    drop(reader);
    let written = writer.write().map_err(said).and_then(|stream| write(&stream, text.as_bytes()));
    drop(writer);
    ended(&process)?;
    written
}

fn join(first: &str, second: &str) -> Result<()> {
    let (reader, writer) = spawn::pipe().map_err(said)?;
    let output = own(Standard::Output)?;
    let first = start(&first.split(' ').collect::<Vec<_>>(), [None, Some(&writer), None])?;
    let second = start(&second.split(' ').collect::<Vec<_>>(), [Some(&reader), Some(&output), None])?;
    drop((reader, writer));
    ended(&second)?;
    ended(&first)
}

fn open(path: &str, how: OpenFlags) -> Result<Descriptor> {
    let (root, _) = get_directories().into_iter().next().ok_or("there is no directory")?;
    let path = path.trim_start_matches('/');
    root.open_at(PathFlags::SYMLINK_FOLLOW, path, how, DescriptorFlags::READ | DescriptorFlags::WRITE)
        .map_err(|code| code.name().to_owned())
}

fn into(path: &str, words: &[&str]) -> Result<()> {
    let file = open(path, OpenFlags::CREATE | OpenFlags::TRUNCATE)?;
    let (output, error) = (spawn::file(&file, 0).map_err(said)?, spawn::append(&file).map_err(said)?);
    // Whoever has the handle shares its position: the program goes on behind this.
    write(&output.write().map_err(said)?, b"here it is:\n")?;
    ended(&start(words, [None, Some(&output), Some(&error)])?)
}

fn among(directory: &str, variable: &str, words: &[&str]) -> Result<()> {
    let (output, error) = (own(Standard::Output)?, own(Standard::Error)?);
    let (name, value) = variable.split_once('=').ok_or("wanted: NAME=VALUE")?;
    let wanted = program(words, [None, Some(&output), Some(&error)]);
    let env = vec![(name.to_owned(), value.to_owned())];
    ended(&spawn::spawn(&Program { env, cwd: Some(directory.to_owned()), ..wanted }).map_err(said)?)
}

fn kill(signal: &str, words: &[&str]) -> Result<()> {
    let process = start(words, [None, None, None])?;
    if process.try_wait().map_err(said)?.is_some() {
        return Err("it has ended already".to_owned());
    }
    let signal = signal.parse().map_err(|_| "wanted: the number of a signal")?;
    spawn::kill(process.id(), signal).map_err(said)?;
    ended(&process)
}

/// Starts as many as it gets, lets go of them, and starts as many again.
fn many(words: &[&str]) -> Result<()> {
    for _ in 0..2 {
        let mut all = Vec::new();
        let refused = loop {
            match spawn::spawn(&program(words, [None, None, None])) {
                Ok(process) => all.push(process),
                Err(code) => break code,
            }
        };
        println!("{} and then {}", all.len(), refused.name());
        for process in &all {
            spawn::kill(process.id(), 9).map_err(said)?;
        }
        // Half of them are waited for, and half forgotten.
        for process in all.iter().step_by(2) {
            process.wait().map_err(said)?;
        }
        let forgotten: Vec<u32> = all.iter().map(Process::id).collect();
        drop(all);
        while forgotten.iter().any(|id| spawn::kill(*id, 0).is_ok()) {
            std::thread::yield_now();
        }
    }
    Ok(())
}

fn odd() -> Result<()> {
    let name = |result: std::result::Result<(), ErrorCode>| result.err().map_or("nothing is wrong", |code| code.name());
    let start = |path: &str, cwd: &str| {
        let wanted = program(&[path], [None, None, None]);
        name(spawn::spawn(&Program { cwd: Some(cwd.to_owned()), ..wanted }).map(drop))
    };
    println!("no program: {}", start("/none", "/"));
    println!("a directory: {}", start("/bin", "/"));
    println!("text: {}", start("/etc/passwd", "/"));
    println!("a relative directory: {}", start("/bin/true", "bin"));
    println!("the first: {}", name(spawn::kill(spawn::id(), 9)));
    println!("no process: {}", name(spawn::kill(9999, 9)));
    println!("no signal: {}", name(spawn::kill(spawn::id(), 77)));
    let (reader, writer) = spawn::pipe().map_err(said)?;
    println!("the wrong end: {} {}", name(reader.write().map(drop)), name(writer.read().map(drop)));
    let stream = writer.write().map_err(said)?;
    drop(reader);
    println!("nobody reads: {}", write(&stream, b"text").err().unwrap_or_default());
    Ok(())
}
