//! Files → an archive. The first entry is the file or directory itself, under its own last name.

use super::place::Source;
use super::{CopyError, trimmed};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Packs what is at `path`; `said` is what its user calls it. A link at its end is followed when `follow` says so, or
/// when a `/` behind it does.
pub(super) fn pack(path: &Path, said: &str, follow: bool, out: impl Write) -> Result<Source, CopyError> {
    let contents = said.ends_with("/.") || said == ".";
    let mut path = match path.as_os_str().len() {
        0 => PathBuf::from("."),
        _ => trimmed(&path.to_string_lossy()),
    };
    let look = |path: &Path| path.symlink_metadata().map_err(|e| CopyError::io("copy", path, &e));
    let mut meta = look(&path)?;
    let name = last_name(&path)?;
    if meta.is_symlink() && (follow || contents || said.ends_with('/')) {
        path = path.canonicalize().map_err(|e| CopyError::io("follow", &path, &e))?;
        meta = look(&path)?;
    }
    if !meta.is_dir() && (contents || said.ends_with('/')) {
        return Err(CopyError(format!("{said} is no directory")));
    }
    let source = Source { name, is_dir: meta.is_dir(), contents };
    let mut archive = Builder::new(out);
    add(&mut archive, &path, Path::new(&source.name), &meta)?;
    let finish = |e: std::io::Error| CopyError(format!("cannot write the archive: {e}"));
    archive.into_inner().and_then(|mut out| out.flush()).map_err(finish)?;
    Ok(source)
}

/// The last name of a path; that of `.` and of the root are what they are.
fn last_name(path: &Path) -> Result<OsString, CopyError> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let whole = path.canonicalize().map_err(|e| CopyError::io("copy", path, &e))?;
    Ok(whole.file_name().map_or_else(|| "root".into(), OsString::from))
}

fn add(archive: &mut Builder<impl Write>, host: &Path, name: &Path, meta: &Metadata) -> Result<(), CopyError> {
    let failed = |e: &std::io::Error| CopyError::io("copy", host, e);
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, name, std::io::empty()).map_err(|e| failed(&e))?;
        let mut names = std::fs::read_dir(host)
            .and_then(|dir| dir.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>())
            .map_err(|e| failed(&e))?;
        names.sort();
        for entry in names {
            let below = host.join(&entry);
            match below.symlink_metadata() {
                Ok(meta) => add(archive, &below, &name.join(&entry), &meta)?,
                // Removed meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(CopyError::io("copy", &below, &e)),
            }
        }
    } else if meta.is_symlink() {
        let target = std::fs::read_link(host).map_err(|e| failed(&e))?;
        header.set_entry_type(EntryType::Symlink);
        archive.append_link(&mut header, name, target).map_err(|e| failed(&e))?;
    } else if meta.is_file() {
        // What is no file by now is not waited for.
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(host).map_err(|e| failed(&e))?;
        let size = file.metadata().map_err(|e| failed(&e))?.len();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // Of a file that is being written it is as much as there was when it was opened.
        let content = file.take(size).chain(std::io::repeat(0)).take(size);
        archive.append_data(&mut header, name, content).map_err(|e| failed(&e))?;
    } else if name.components().count() == 1 {
        return Err(CopyError(format!("{} is neither a file nor a directory nor a link", host.display())));
    }
    Ok(())
}
