//! `tar`, `gzip` and `gunzip`.

use super::{Flags, each, of, open, or_stdin, written};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

pub fn gzip(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "cdfk123456789n", &[("stdout", 'c'), ("decompress", 'd')])?;
    if flags.has('d') {
        return gunzip(args);
    }
    let level = flags.last_of("123456789").and_then(|c| c.to_digit(10)).unwrap_or(6);
    each("gzip", &or_stdin(flags.rest.clone()), |path| {
        let mut reader = open(path)?;
        if path == "-" || flags.has('c') {
            let mut encoder = GzEncoder::new(io::stdout(), Compression::new(level));
            super::text::copy(&mut reader, &mut encoder)?;
            return written(encoder.finish().map(drop));
        }
        let target = format!("{path}.gz");
        let mut encoder = GzEncoder::new(File::create(&target).map_err(of(&target))?, Compression::new(level));
        super::text::copy(&mut reader, &mut encoder)?;
        encoder.finish().map_err(of(&target))?;
        if flags.has('k') { Ok(()) } else { fs::remove_file(path).map_err(of(path)) }
    })
}

pub fn gunzip(args: &[String]) -> Result<i32, String> {
    let name = args.first().and_then(|n| n.rsplit('/').next()).unwrap_or("gunzip");
    let flags = Flags::parse(args, "cdfkt", &[("stdout", 'c'), ("decompress", 'd')])?;
    each(name, &or_stdin(flags.rest.clone()), |path| {
        let mut reader = MultiGzDecoder::new(open(path)?);
        if flags.has('t') {
            return io::copy(&mut reader, &mut io::sink()).map(drop).map_err(of(path));
        }
        if path == "-" || flags.has('c') || name == "zcat" {
            return super::text::copy(&mut reader, &mut io::stdout());
        }
        let target = path
            .strip_suffix(".gz")
            .map(str::to_owned)
            .or_else(|| path.strip_suffix(".tgz").map(|s| format!("{s}.tar")));
        let target = target.ok_or_else(|| format!("{path}: unknown suffix - ignored"))?;
        let mut file = File::create(&target).map_err(of(&target))?;
        if let Err(words) = super::text::copy(&mut reader, &mut file) {
            let _ = fs::remove_file(&target);
            return Err(format!("{path}: {words}"));
        }
        if flags.has('k') { Ok(()) } else { fs::remove_file(path).map_err(of(path)) }
    })
}

pub fn tar(args: &[String]) -> Result<i32, String> {
    // The first word may be letters without a dash.
    let mut args = args.to_vec();
    if let Some(first) = args.get_mut(1).filter(|first| !first.starts_with('-')) {
        first.insert(0, '-');
    }
    let long = [("create", 'c'), ("extract", 'x'), ("list", 't'), ("file", 'f'), ("directory", 'C'), ("gzip", 'z')];
    let flags = Flags::parse(
        &args,
        "cxtf:C:zvOpmoT:X:!:#:",
        &[&long[..], &[("exclude", '!'), ("strip-components", '#')]].concat(),
    )?;
    let file = flags.value('f').unwrap_or("-").to_owned();
    let base = flags.value('C').map_or_else(PathBuf::new, PathBuf::from);
    match flags.last_of("cxt") {
        Some('c') => {
            let out: Box<dyn Write> =
                if file == "-" { Box::new(io::stdout()) } else { Box::new(File::create(&file).map_err(of(&file))?) };
            if flags.has('z') {
                let encoder = create(GzEncoder::new(out, Compression::default()), &base, &flags)?;
                written(encoder.finish().and_then(|mut out| out.flush()))?;
            } else {
                written(create(out, &base, &flags)?.flush())?;
            }
            Ok(0)
        }
        Some(mode) => {
            let mut head = [0; 2];
            let mut reader = open(&file)?;
            let mut filled = 0;
            while filled < 2 {
                match reader.read(&mut head[filled..]).map_err(of(&file))? {
                    0 => break,
                    n => filled += n,
                }
            }
            let whole = io::Cursor::new(head[..filled].to_vec()).chain(reader);
            // Compressed or not is seen, whatever was said.
            if head == [0x1f, 0x8b] {
                extract(MultiGzDecoder::new(whole), mode == 't', &base, &flags)
            } else {
                extract(whole, mode == 't', &base, &flags)
            }
        }
        None => Err("must specify one of -c, -t or -x".to_owned()),
    }
}

fn create<W: Write>(out: W, base: &Path, flags: &Flags) -> Result<W, String> {
    if flags.rest.is_empty() {
        return Err("empty archive".to_owned());
    }
    let mut builder = Builder::new(out);
    for path in &flags.rest {
        add(&mut builder, base, Path::new(path), flags)?;
    }
    written(builder.into_inner())
}

fn excluded(path: &Path, flags: &Flags) -> bool {
    let name = path.to_string_lossy();
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    flags.values('!').any(|p| crate::sh::pattern::matches(&name, p) || crate::sh::pattern::matches(&last, p))
}

fn add<W: Write>(builder: &mut Builder<W>, base: &Path, path: &Path, flags: &Flags) -> Result<(), String> {
    if excluded(path, flags) {
        return Ok(());
    }
    let real = base.join(path);
    let shown = path.to_string_lossy().into_owned();
    let meta = fs::symlink_metadata(&real).map_err(of(&shown))?;
    let name: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::CurDir)).collect();
    let mut header = Header::new_gnu();
    let modified = meta.modified().ok().and_then(|m| m.duration_since(std::time::UNIX_EPOCH).ok());
    header.set_mtime(modified.map_or(0, |m| m.as_secs()));
    header.set_mode(if meta.is_dir() { 0o755 } else { 0o644 });
    if flags.has('v') {
        eprintln!("{shown}");
    }
    if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        let target = fs::read_link(&real).map_err(of(&shown))?;
        return written(builder.append_link(&mut header, &name, target));
    }
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        if name.components().next().is_some() {
            written(builder.append_data(&mut header, name.join(""), io::empty()))?;
        }
        let mut names: Vec<_> = fs::read_dir(&real).map_err(of(&shown))?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        return names.into_iter().try_for_each(|name| add(builder, base, &path.join(name), flags));
    }
    header.set_size(meta.len());
    let file = File::open(&real).map_err(of(&shown))?;
    written(builder.append_data(&mut header, &name, file.take(meta.len())))
}

fn extract(reader: impl Read, list: bool, base: &Path, flags: &Flags) -> Result<i32, String> {
    let mut archive = Archive::new(reader);
    let bad = |e: io::Error| format!("invalid tar archive: {e}");
    let strip = flags.value('#').map_or(Ok(0), super::number)?;
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let path = entry.path().map_err(bad)?.into_owned();
        let wanted = |given: &String| {
            let given = Path::new(given.trim_end_matches('/'));
            path.starts_with(given) || path.strip_prefix(".").is_ok_and(|p| p.starts_with(given))
        };
        if !flags.rest.is_empty() && !flags.rest.iter().any(wanted) || excluded(&path, flags) {
            continue;
        }
        let shown = path.to_string_lossy().into_owned();
        if list || flags.has('v') {
            written(writeln!(io::stdout(), "{shown}"))?;
        }
        if list {
            continue;
        }
        if flags.has('O') {
            super::text::copy(&mut entry, &mut io::stdout())?;
            continue;
        }
        // No name leads out of the directory.
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => return Err(format!("{shown}: name with '..' component")),
                _ => {}
            }
        }
        let clean: PathBuf = clean.components().skip(usize::try_from(strip).unwrap_or(usize::MAX)).collect();
        if clean.as_os_str().is_empty() {
            continue;
        }
        let target = base.join(&clean);
        if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            make_directories(parent)?;
        }
        let link = entry.link_name().map_err(bad)?.map(|l| l.into_owned());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.header().mtime().unwrap_or(0));
        match (entry.header().entry_type(), link) {
            (EntryType::Directory, _) => make_directories(&target)?,
            (EntryType::Symlink, Some(link)) => {
                let _ = fs::remove_file(&target);
                super::soft_link(&link, &target).map_err(of(&shown))?;
            }
            (EntryType::Link, Some(link)) => {
                let _ = fs::remove_file(&target);
                crate::sys::hard_link(&base.join(link), &target).map_err(of(&shown))?;
            }
            (kind, _) if kind.is_file() => {
                // Not through a link that an earlier entry made.
                let _ = fs::remove_file(&target);
                let mut file = File::create(&target).map_err(of(&shown))?;
                super::text::copy(&mut entry, &mut file)?;
                if !flags.has('m') {
                    let _ = file.set_times(fs::FileTimes::new().set_modified(time));
                }
            }
            (kind, _) => eprintln!("tar: {shown}: {kind:?} cannot be made here"),
        }
    }
    Ok(0)
}

/// Makes a directory and what leads to it; a link in the way is not followed.
fn make_directories(path: &Path) -> Result<(), String> {
    let mut place = PathBuf::new();
    for part in path.components() {
        place.push(part);
        if place.is_symlink() && matches!(part, Component::Normal(_)) && !place.is_dir() {
            return Err(format!("{}: is a link", place.display()));
        }
        match fs::create_dir(&place) {
            Err(_) if place.is_dir() => {}
            made => made.map_err(of(&place.to_string_lossy()))?,
        }
    }
    Ok(())
}
