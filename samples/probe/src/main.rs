//! A guest that does one thing at a time, so that the end-to-end tests can see what a container is given and what
//! becomes of it: `probe SUBCOMMAND ARGS…`. The table of subcommands is `run` below.
//!
//! It is built twice: as a WASI 0.1 module, and with the feature `component` as a component.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Err(error) = run(&args) {
        // As much of the command line as says which thing failed: `probe: cat /etc/none: No such file …`
        let what = &args[..args.len().min(2)];
        eprintln!("probe: {}: {error}", what.join(" "));
        exit(1);
    }
}

fn run(args: &[&str]) -> io::Result<()> {
    match *args {
        ["args", ref rest @ ..] => rest.iter().for_each(|arg| println!("{arg}")),
        ["env"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["env", name] => println!("{}", std::env::var(name).map_err(Error::other)?),
        ["cwd"] => println!("{}", cwd()?),

        ["cat", path] => drop(io::copy(&mut File::open(path)?, &mut io::stdout())?),
        ["write", path, text] => fs::write(path, text)?,
        ["append", path, text] => append(path, text)?,
        ["ls"] => ls(Path::new("."))?,
        ["ls", path] => ls(Path::new(path))?,
        ["mkdir", path] => fs::create_dir(path)?,
        ["rm", path] => rm(path)?,
        ["rename", from, to] => fs::rename(from, to)?,
        // Deprecated for what it does elsewhere; on WASI it is the only stable name for a symbolic link.
        #[allow(deprecated)]
        ["symlink", target, link] => fs::soft_link(target, link)?,
        ["readlink", path] => println!("{}", fs::read_link(path)?.display()),
        ["stat", path] => stat(path)?,
        ["fill", path, bytes] => fill(path, number(bytes)?)?,

        ["stdin"] => drop(io::copy(&mut io::stdin().lock(), &mut io::stdout())?),
        ["lines", count] => lines(number(count)?)?,
        ["both"] => both(10),
        ["both", count] => both(number(count)?),

        ["exit", code] => exit(number(code)?),
        ["trap"] => outer(),
        ["panic"] => panic!("as asked"),

        ["spin"] => spin(),
        ["sleep", seconds] => sleep(Duration::from_secs_f64(number(seconds)?)),
        ["forever"] => forever(),
        ["alloc", bytes] => alloc(number(bytes)?)?,

        // What a guest can do to its machine, if that lets it.
        ["attack", "memory"] => eat(),
        ["attack", "stack"] => println!("{}", deeper(0)),
        ["attack", "poll"] => polls(),
        ["attack", "files", path] => files(path)?,
        ["attack", "log", bytes] => log(number(bytes)?)?,
        ["attack", "sparse", path, bytes] => sparse(path, number(bytes)?)?,

        ["random"] => println!("{:016x}", RandomState::new().build_hasher().finish()),
        ["clock"] => clock()?,

        _ => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "no such subcommand, or wrong arguments",
            ));
        }
    }
    Ok(())
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("not a usable number: {text}")))
}

fn cwd() -> io::Result<String> {
    // WASI 0.1 knows no working directory, and the C library that stands in for it does not ask WASI 0.2 for its own.
    Ok(std::env::current_dir()?.display().to_string())
}

fn append(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// One name a line, sorted; a directory's ends in a slash.
fn ls(path: &Path) -> io::Result<()> {
    let mut names = fs::read_dir(path)?
        .map(|entry| {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            Ok(format!("{}{slash}", entry.file_name().display()))
        })
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

fn rm(path: &str) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir(path),
        false => fs::remove_file(path),
    }
}

fn stat(path: &str) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "symlink",
        kind if kind.is_file() => "file",
        _ => "other",
    };
    let modified = meta
        .modified()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(Error::other)?;
    println!("{kind} {} bytes, modified {}", meta.len(), modified.as_secs());
    Ok(())
}

fn fill(path: &str, bytes: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = [0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        left -= file.write(&block[..left.min(block.len())])?;
    }
    Ok(())
}

/// Writes through a buffer: the tests ask for millions.
fn lines(count: u64) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    (1..=count).try_for_each(|n| writeln!(out, "line {n}"))?;
    out.flush()
}

fn both(count: u64) {
    for n in 1..=count {
        match n % 2 {
            1 => println!("{n}"),
            _ => eprintln!("{n}"),
        }
    }
}

fn exit(code: u8) -> ! {
    // The adapter would turn every failure into 1. WASI 0.2 has a call of its own that keeps the number.
    #[cfg(feature = "component")]
    wasip2::cli::exit::exit_with_code(code);
    std::process::exit(code.into())
}

#[inline(never)]
fn outer() {
    middle();
}

#[inline(never)]
fn middle() {
    innermost();
}

/// Three frames deep, so that a test can look for their names in the backtrace.
#[inline(never)]
fn innermost() {
    core::arch::wasm32::unreachable()
}

/// No call leaves the guest in this loop: only an engine that interrupts it can end it.
fn spin() -> ! {
    println!("spinning");
    loop {
        std::hint::spin_loop();
    }
}

fn forever() -> ! {
    println!("ready");
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Touches every page, since memory that nobody wrote to may cost nothing.
fn alloc(bytes: usize) -> io::Result<()> {
    let mut memory = Vec::<u8>::new();
    memory
        .try_reserve_exact(bytes)
        .map_err(|error| Error::new(ErrorKind::OutOfMemory, error))?;
    memory.resize(bytes, 1);
    println!("allocated {} bytes", std::hint::black_box(memory).len());
    Ok(())
}

fn eat() -> ! {
    println!("eating");
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

#[inline(never)]
fn deeper(depth: u64) -> u64 {
    match depth {
        u64::MAX => 0,
        _ => std::hint::black_box(deeper(depth + 1)) + 1,
    }
}

/// Asks the host to wait, again and again, for no time at all.
fn polls() -> ! {
    println!("polling");
    loop {
        sleep(Duration::from_nanos(1));
    }
}

/// Opens a file again and again until it may have no more, and says how often it could.
fn files(path: &str) -> io::Result<()> {
    let mut all = Vec::new();
    let error = loop {
        match File::open(path) {
            Ok(file) => all.push(file),
            Err(error) => break error,
        }
    };
    println!("{} files: {error}", all.len());
    // With one of them closed there is room for another.
    all.pop();
    File::open(path).map(drop)
}

/// So many bytes without an end of line.
fn log(bytes: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let block = [b'x'; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        left -= out.write(&block[..left.min(block.len())])?;
    }
    out.flush()
}

/// A file with nothing in it but its last byte.
fn sparse(path: &str, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(1)))?;
    file.write_all(b"x")?;
    println!("{} bytes", file.metadata()?.len());
    Ok(())
}

fn clock() -> io::Result<()> {
    let start = Instant::now();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(Error::other)?;
    sleep(Duration::from_millis(1));
    println!(
        "{}.{:09} seconds since 1970, asleep for {:?}",
        now.as_secs(),
        now.subsec_nanos(),
        start.elapsed()
    );
    Ok(())
}
