//! Commands on single files.

use super::{Flags, each, number, of, open, real_path, soft_link, written};
use crate::sys;
use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// WASI has neither modes nor owners that could be changed. What would change nothing for whoever is root and alone is
/// done without a word: to make something executable, or what is already so.
pub fn chmod(args: &[String]) -> Result<i32, String> {
    let rest: Vec<&String> = args[1..].iter().filter(|a| !matches!(a.as_str(), "-R" | "-f" | "-v" | "-c")).collect();
    let [mode, paths @ ..] = rest.as_slice() else { return Err("missing operand".to_owned()) };
    let executable = mode.trim_start_matches(['u', 'g', 'o', 'a']) == "+x";
    let usual =
        mode.parse::<u32>().is_ok() && matches!(mode.trim_start_matches('0'), "644" | "755" | "775" | "777" | "666");
    let paths: Vec<String> = paths.iter().map(|p| (*p).clone()).collect();
    if paths.is_empty() {
        return Err("missing operand".to_owned());
    }
    each("chmod", &paths, |path| {
        fs::metadata(path).map_err(of(path))?;
        if executable || usual {
            return Ok(());
        }
        Err(format!("{path}: WASI cannot change the mode of a file to {mode}"))
    })
}

pub fn chown(args: &[String]) -> Result<i32, String> {
    let rest: Vec<&String> = args[1..].iter().filter(|a| !matches!(a.as_str(), "-R" | "-f" | "-v" | "-h")).collect();
    let [owner, paths @ ..] = rest.as_slice() else { return Err("missing operand".to_owned()) };
    let root = matches!(owner.as_str(), "0" | "root" | "0:0" | "root:root");
    let paths: Vec<String> = paths.iter().map(|p| (*p).clone()).collect();
    each("chown", &paths, |path| {
        fs::symlink_metadata(path).map_err(of(path))?;
        if root { Ok(()) } else { Err(format!("{path}: WASI has no owners, so it cannot be given to {owner}")) }
    })
}

pub fn mkdir(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "pm:v", &[("parents", 'p')])?;
    if flags.rest.is_empty() {
        return Err("missing operand".to_owned());
    }
    each("mkdir", &flags.rest, |path| {
        if !flags.has('p') {
            return fs::create_dir(path)
                .map_err(|e| format!("can't create directory '{path}': {}", sys::words(&e)));
        }
        let mut place = std::path::PathBuf::new();
        for part in Path::new(path).components() {
            place.push(part);
            match fs::create_dir(&place) {
                Err(_) if place.is_dir() => {}
                result => result.map_err(|e| format!("can't create directory '{path}': {}", sys::words(&e)))?,
            }
        }
        Ok(())
    })
}

pub fn rmdir(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "p", &[("parents", 'p')])?;
    each("rmdir", &flags.rest, |path| {
        let gone = |path: &str| fs::remove_dir(path).map_err(|e| format!("'{path}': {}", sys::words(&e)));
        gone(path)?;
        let mut parent = Path::new(path).parent();
        while let Some(directory) =
            parent.filter(|p| flags.has('p') && !p.as_os_str().is_empty() && *p != Path::new("/"))
        {
            gone(&directory.to_string_lossy())?;
            parent = directory.parent();
        }
        Ok(())
    })
}

pub fn ln(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "sfnTv", &[("symbolic", 's'), ("force", 'f')])?;
    let (sources, target) = match flags.rest.as_slice() {
        [] => return Err("missing operand".to_owned()),
        [only] => (vec![only.clone()], ".".to_owned()),
        [sources @ .., target] => (sources.to_vec(), target.clone()),
    };
    let into = Path::new(&target).is_dir() && !(flags.has('n') && Path::new(&target).is_symlink()) && !flags.has('T');
    each("ln", &sources, |source| {
        let name = Path::new(source).file_name().unwrap_or_default();
        let link = if into { Path::new(&target).join(name) } else { Path::new(&target).to_owned() };
        if flags.has('f') {
            let _ = fs::remove_file(&link);
        }
        let made =
            if flags.has('s') { soft_link(Path::new(source), &link) } else { sys::hard_link(Path::new(source), &link) };
        made.map_err(of(&link.to_string_lossy()))
    })
}

pub fn touch(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "camr:d:t:", &[("no-create", 'c'), ("reference", 'r'), ("date", 'd')])?;
    if flags.rest.is_empty() {
        return Err("missing operand".to_owned());
    }
    let time = match (flags.value('r'), flags.value('d')) {
        (Some(path), _) => fs::metadata(path).and_then(|meta| meta.modified()).map_err(of(path))?,
        (None, Some(text)) => {
            let seconds = super::numbers::parse_date(text).ok_or_else(|| format!("invalid date '{text}'"))?;
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        }
        (None, None) if flags.has('t') => return Err("-t is not supported: use -d".to_owned()),
        (None, None) => SystemTime::now(),
    };
    let mut times = FileTimes::new();
    let (a, m) = (flags.has('a'), flags.has('m'));
    if a || !m {
        times = times.set_accessed(time);
    }
    if m || !a {
        times = times.set_modified(time);
    }
    each("touch", &flags.rest, |path| {
        let file = match File::options().write(true).create(!flags.has('c')).open(path) {
            // A directory cannot be opened to write, and has times too.
            Err(error) if error.kind() == ErrorKind::IsADirectory => File::open(path),
            Err(error) if error.kind() == ErrorKind::NotFound && flags.has('c') => return Ok(()),
            opened => opened,
        };
        file.and_then(|file| file.set_times(times)).map_err(of(path))
    })
}

/// Where a path leads. The last name of it may be missing.
fn place(path: &str) -> io::Result<PathBuf> {
    let path = Path::new(path);
    match real_path(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => {
            let name = path.file_name().ok_or(error)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(real_path(parent.unwrap_or(Path::new(".")))?.join(name))
        }
        found => found,
    }
}

pub fn unlink(args: &[String]) -> Result<i32, String> {
    match args {
        [_, path] => fs::remove_file(path).map(|()| 0).map_err(of(path)),
        _ => Err("wanted: one file".to_owned()),
    }
}

pub fn readlink(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "fnev", &[])?;
    let mut code = 0;
    for path in &flags.rest {
        let found = match (flags.has('e'), flags.has('f')) {
            (true, _) => real_path(Path::new(path)),
            (_, true) => place(path),
            _ => fs::read_link(path),
        };
        match found {
            Ok(target) => written(writeln!(io::stdout(), "{}", target.display()))?,
            Err(_) => code = 1,
        }
    }
    Ok(code)
}

pub fn realpath(args: &[String]) -> Result<i32, String> {
    each("realpath", &args[1..].to_vec(), |path| {
        let real = place(path).map_err(of(path))?;
        written(writeln!(io::stdout(), "{}", real.display()))
    })
}

pub fn mktemp(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "dp:qtu", &[("directory", 'd'), ("tmpdir", 'p')])?;
    let directory = flags.value('p').map(str::to_owned).or_else(|| std::env::var("TMPDIR").ok());
    let directory = directory.unwrap_or_else(|| "/tmp".to_owned());
    let template = flags.rest.first().cloned();
    let inside = template.is_none() || flags.has('p') || flags.has('t');
    let template = template.unwrap_or_else(|| "tmp.XXXXXX".to_owned());
    let stem = template.trim_end_matches('X');
    let count = template.len() - stem.len();
    if count < 6 {
        return Err(format!("{template}: Invalid argument"));
    }
    if inside && directory == "/tmp" {
        let _ = fs::create_dir_all("/tmp");
    }
    use std::hash::{BuildHasher, Hasher, RandomState};
    for _ in 0..100 {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let mut random = RandomState::new().build_hasher().finish();
        let mut name = stem.to_owned();
        for _ in 0..count {
            name.push(char::from(letters[usize::try_from(random % letters.len() as u64).unwrap_or(0)]));
            random /= letters.len() as u64;
        }
        let path = if inside { format!("{directory}/{name}") } else { name };
        let made = if flags.has('d') {
            fs::create_dir(&path)
        } else {
            File::options().write(true).create_new(true).open(&path).map(drop)
        };
        match made {
            Ok(()) => {
                written(writeln!(io::stdout(), "{path}"))?;
                return Ok(0);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(of(&path)(error)),
        }
    }
    Err(format!("{template}: File exists"))
}

/// A number of bytes with a unit: `4k`, `1M`.
pub fn amount(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[end..] {
        "" | "c" => 1,
        "w" => 2,
        "b" => 512,
        "k" | "K" => 1 << 10,
        "kB" | "KB" => 1000,
        "M" => 1 << 20,
        "MB" => 1_000_000,
        "G" => 1 << 30,
        "GB" => 1_000_000_000,
        _ => return Err(format!("invalid number '{text}'")),
    };
    Ok(number(&text[..end])?.saturating_mul(unit))
}

pub fn dd(args: &[String]) -> Result<i32, String> {
    let (mut input, mut output) = (None, None);
    let (mut block, mut count, mut skip, mut seek) = (512u64, None, 0u64, 0u64);
    let (mut truncate, mut quiet) = (true, false);
    for arg in &args[1..] {
        let (name, value) = arg.split_once('=').ok_or_else(|| format!("unrecognized operand '{arg}'"))?;
        match name {
            "if" => input = Some(value),
            "of" => output = Some(value),
            "bs" | "ibs" | "obs" => block = amount(value)?.clamp(1, 64 << 20),
            "count" => count = Some(amount(value)?),
            "skip" => skip = amount(value)?,
            "seek" => seek = amount(value)?,
            "status" => quiet = value == "none",
            "conv" => {
                for word in value.split(',') {
                    match word {
                        "notrunc" => truncate = false,
                        "fsync" | "sync" | "noerror" => {}
                        other => return Err(format!("conv={other} is not supported")),
                    }
                }
            }
            _ => return Err(format!("unrecognized operand '{arg}'")),
        }
    }
    let mut reader = open(input.unwrap_or("-"))?;
    let mut writer: Box<dyn Write> = match output {
        None => Box::new(io::stdout()),
        Some("/dev/null") => Box::new(io::sink()),
        Some(path) => {
            let options = File::options().write(true).create(true).truncate(truncate && seek == 0).open(path);
            let mut file = options.map_err(|e| format!("can't open '{path}': {}", sys::words(&e)))?;
            if seek > 0 {
                if truncate {
                    file.set_len(seek * block).map_err(of(path))?;
                }
                file.seek(SeekFrom::Start(seek * block)).map_err(of(path))?;
            }
            Box::new(file)
        }
    };
    let mut buffer = vec![0; usize::try_from(block).unwrap_or(512)];
    // Takes a whole block if the other side has one, however many pieces it comes in.
    let mut next = |buffer: &mut [u8]| {
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => return Err(of(input.unwrap_or("stdin"))(error)),
            }
        }
        Ok(filled)
    };
    for _ in 0..skip {
        if next(&mut buffer)? == 0 {
            break;
        }
    }
    let (mut whole, mut partial, mut bytes) = (0u64, 0u64, 0u64);
    while count.is_none_or(|count| whole + partial < count) {
        let filled = next(&mut buffer)?;
        if filled == 0 {
            break;
        }
        written(writer.write_all(&buffer[..filled]))?;
        bytes += filled as u64;
        if filled == buffer.len() {
            whole += 1;
        } else {
            partial += 1;
        }
    }
    written(writer.flush())?;
    if !quiet {
        eprintln!("{whole}+{partial} records in\n{whole}+{partial} records out\n{bytes} bytes copied");
    }
    Ok(0)
}
