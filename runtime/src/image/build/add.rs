//! What ADD can do and COPY cannot: remote files, and archives that are unpacked. And whom files belong to.

use super::Problem;
use super::copy::Tree;
use super::stage::Stage;
use crate::digest;
use crate::image::packed;
use crate::image::unpack::limits::{Gauge, Limits};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Where the mark of every tar since 1988 is; before it there were no numbers to tell a tar by.
const TAR: std::ops::Range<usize> = 257..262;

/// Whether a source of ADD is not of this machine.
pub(super) fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|scheme| source.starts_with(scheme))
}

/// Brings a remote file: its name, and where it lies in the scratch directory.
pub(super) fn fetch(stage: &Stage<'_>, url: &str, checksum: Option<&str>) -> Result<(String, PathBuf), Problem> {
    let failed = |reason: String| Problem::Remote { url: url.to_owned(), reason };
    let path = url.split(['?', '#']).next().unwrap_or_default();
    if !url.starts_with("http") || path.ends_with(".git") {
        return Err(failed("a Git repository cannot be added; clone it into the context".to_owned()));
    }
    let name = path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| failed("it has no file name at its end".to_owned()))?;
    let wanted = checksum.map(|checksum| stage.expand(checksum)).transpose()?;
    if let Some(wanted) = wanted.as_ref().filter(|wanted| digest::hex(wanted).is_none()) {
        return Err(failed(format!("the checksum {wanted} must be sha256: and 64 hex digits")));
    }
    let Some(fetch) = stage.build.options.fetch else {
        return Err(failed("this version cannot fetch files; fetch it into the context and COPY it".to_owned()));
    };
    let host = stage.build.scratch("remote");
    fetch(url, &host).map_err(|error| failed(error.to_string()))?;
    if let Some(wanted) = wanted {
        let found = File::open(&host).and_then(digest::of_all).map_err(Problem::read(&host))?;
        if found != wanted {
            return Err(failed(format!("its checksum is {found}, and {wanted} was asked for")));
        }
    }
    // Docker's mode for what comes from elsewhere.
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&host, closed).map_err(Problem::read(&host))?;
    Ok((name.to_owned(), host))
}

/// Whether a file is an archive that ADD unpacks: by what it begins with, not by its name.
pub(super) fn is_archive(host: &Path) -> Result<bool, Problem> {
    let mut start = Vec::new();
    let file = File::open(host).map_err(Problem::read(host))?;
    let read = packed::unpacked(file).map_err(Problem::read(host))?.take(512).read_to_end(&mut start);
    // What begins like something compressed and is not is no archive.
    Ok(read.is_ok() && start.get(TAR) == Some(b"ustar"))
}

/// Puts an archive's entries into a directory of the image. Names lead nowhere but below it: the plan knows no links of the
/// host, and `..` is refused.
pub(super) fn unpack(stage: &Stage<'_>, archive: &Path, into: &Path, tree: &mut Tree<'_>) -> Result<(), Problem> {
    let file = File::open(archive).map_err(Problem::read(archive))?;
    let limits = Limits::of_environment().map_err(|e| Problem::Syntax(e.to_string()))?;
    let (gauge, phase) = Gauge::new(packed::unpacked(file).map_err(Problem::read(archive))?, limits);
    let too_much = |reason: String| Problem::read(archive)(Error::new(ErrorKind::InvalidData, reason));
    let mut reader = tar::Archive::new(gauge);
    let mut entries = reader.entries().map_err(Problem::read(archive))?;
    let (mut count, mut written) = (0_u64, 0_u64);
    loop {
        phase.headers();
        let Some(entry) = entries.next() else { break };
        phase.content();
        let mut entry = entry.map_err(Problem::read(archive))?;
        count += 1;
        if count > limits.entries {
            return Err(too_much(limits.too_many_entries()));
        }
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let path = place(archive, into, &name)?;
        if path == into {
            continue;
        }
        let path = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => tree.dir_at(parent.to_owned())?.join(name),
            _ => path,
        };
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o644);
        let mtime = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        match header.entry_type() {
            EntryType::Directory => {
                let path = tree.dir_at(path)?;
                tree.plan.own_dir(&path, mode, mtime)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                tree.plan.own_link(&path, Path::new(std::ffi::OsStr::from_bytes(&target)), mtime)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let first = place(archive, into, Path::new(std::ffi::OsStr::from_bytes(&target)))?;
                tree.plan.another_name(&path, &first)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let host = stage.build.scratch("added");
                let mut file = File::create_new(&host).map_err(Problem::read(&host))?;
                // A sparse file is short in the archive and long here.
                let left = limits.bytes.saturating_sub(written);
                let copied = std::io::copy(&mut (&mut entry).take(left.saturating_add(1)), &mut file);
                written = written.saturating_add(copied.map_err(Problem::read(archive))?);
                if written > limits.bytes {
                    return Err(too_much(limits.too_many_bytes()));
                }
                drop(file);
                let meta = host.symlink_metadata().map_err(Problem::read(&host))?;
                tree.plan.own_file(&path, &host, &meta, mode, mtime)?;
            }
            // Devices and pipes mean nothing to a guest, and the rest is notes of the archiver.
            _ => {}
        }
    }
    Ok(())
}

/// Where a name of an archive is in the image.
fn place(archive: &Path, into: &Path, name: &Path) -> Result<PathBuf, Problem> {
    let mut path = into.to_owned();
    for component in name.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                let name = name.display();
                return Err(Problem::Syntax(format!(
                    "ADD failed: {archive:?} has an entry {name} that leads out of it"
                )));
            }
            _ => {}
        }
    }
    Ok(path)
}

/// Numbers or names of `--chown=USER[:GROUP]`; a group that is not given has the user's number, or the group that
/// `/etc/passwd` says.
pub(super) fn owner(stage: &Stage<'_>, text: &str) -> Result<(u32, u32), Problem> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let look = |file: &'static str, name: &str| -> Result<Vec<String>, Problem> {
        let unknown = |what: &str| {
            Problem::Syntax(format!("--chown={text}: {what} {name:?}, and no number; write numbers such as 1000:1000"))
        };
        let host = stage.file(file)?.ok_or_else(|| unknown(&format!("there is no {file} in this stage that names")))?;
        let content = std::fs::read_to_string(&host).map_err(Problem::read(host))?;
        let mut lines = content.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        lines
            .find(|fields| fields.first().is_some_and(|n| n == name))
            .ok_or_else(|| unknown(&format!("{file} does not name")))
    };
    let number = |fields: &[String], at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    let (uid, its_group) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) => {
            let fields = look("/etc/passwd", user)?;
            (number(&fields, 2), number(&fields, 3))
        }
    };
    let gid = match group {
        "" => its_group,
        group => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => number(&look("/etc/group", group)?, 2),
        },
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_content() {
        let dir = crate::store::files::tests::temp_dir();
        let file = dir.join("f");
        let told = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            is_archive(&file).map_err(|e| e.to_string())
        };
        let mut tar = vec![0_u8; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(told(&tar), Ok(true));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gz, &tar).unwrap();
        assert_eq!(told(&gz.finish().unwrap()), Ok(true));
        assert_eq!(told(b"\x1f\x8bnot gzip"), Ok(false));
        assert_eq!(told(b"text"), Ok(false));
        assert_eq!(told(b""), Ok(false));
        // What only begins like something compressed.
        for bytes in [b"BZh91".as_slice(), b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"] {
            assert_eq!(told(bytes), Ok(false));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_name_of_an_archive_stays_below_its_place() {
        let at = |name: &str| place(Path::new("a"), Path::new("x"), Path::new(name)).map_err(|e| e.to_string());
        assert_eq!(at("/b/./c").unwrap(), Path::new("x/b/c"));
        assert!(at("b/../../c").unwrap_err().contains("leads out"));
    }
}
