//! From a path that a program names to the file that is to run: opened beneath the container's root, as the container
//! sees it, so that no link leads out of it.

use crate::guest::script::{self, LINE};
use crate::rootfs::{Preopen, normalize};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// A program that was found.
#[derive(Debug)]
pub struct Found {
    /// The Wasm file, open.
    pub file: File,
    /// The arguments: the caller's, behind those of the interpreter where the path named a script.
    pub args: Vec<String>,
}

/// Finds the Wasm file that `path` means for a program in the directory `cwd`: itself, or the interpreter that its
/// first line names (`#!`).
///
/// # Errors
/// ENOENT when it is not there, EACCES when it is no file that could run or may not be read, ENOEXEC when it is
/// neither Wasm nor a script, ELOOP when scripts run scripts without end.
pub fn find(preopens: &[Preopen], cwd: &str, path: &str, args: Vec<String>) -> Result<Found, Errno> {
    let (mut path, mut args) = (path.to_owned(), args);
    for _ in 0..script::MOST_SCRIPTS {
        let file = open(preopens, cwd, &path)?;
        let mut head = [0; LINE];
        let count = file.read_at(&mut head, 0).map_err(|_| Errno::IO)?;
        let head = head.get(..count).unwrap_or_default();
        if head.starts_with(b"\0asm") {
            return Ok(Found { file, args });
        }
        let named = script::interpreter(head).ok_or(Errno::NOEXEC)?;
        let script = std::mem::replace(&mut path, named.0.clone());
        args = script::words(named, script, &args);
    }
    Err(Errno::LOOP)
}

/// Whether there is anything at the absolute path.
pub fn exists(preopens: &[Preopen], path: &str) -> bool {
    open_at(preopens, "/", path, OFlags::PATH).is_ok()
}

/// Whether there is a directory at the absolute path.
pub fn is_directory(preopens: &[Preopen], path: &str) -> bool {
    open_at(preopens, "/", path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Whether a directory of the container is mounted read-only.
pub fn is_read_only(preopens: &[Preopen], path: &str) -> bool {
    let path = if path.is_empty() { "/" } else { path };
    let opened = open_at(preopens, "/", path, OFlags::PATH | OFlags::DIRECTORY);
    // Of a mount, not of its file system (statfs(2), ST_RDONLY).
    opened.and_then(rustix::fs::fstatvfs).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn open(preopens: &[Preopen], cwd: &str, path: &str) -> Result<File, Errno> {
    // What is masked need not be a file, and to open a FIFO would be to wait.
    let file = open_at(preopens, cwd, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let meta = file.metadata().map_err(|_| Errno::IO)?;
    let is_file = FileType::from_raw_mode(meta.mode()) == FileType::RegularFile;
    // WASI has no way to set the bit that says "may be executed", so it is not asked for. A file that nobody may even
    // read is no program, though root could open it.
    if is_file && meta.mode() & 0o555 != 0 { Ok(file) } else { Err(Errno::ACCESS) }
}

fn open_at(preopens: &[Preopen], cwd: &str, path: &str, flags: OFlags) -> Result<File, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let whole = Path::new("/").join(cwd).join(path);
    // Where the tree is one mount, links and `..` are the kernel's to resolve. Without a namespace it is several
    // directories, and which of them is meant is told from the words alone.
    let plain = if preopens.len() > 1 { normalize(&whole.to_string_lossy()) } else { whole };
    let preopen = preopens
        .iter()
        .filter(|preopen| plain.starts_with(&preopen.guest))
        .max_by_key(|preopen| preopen.guest.len())
        .ok_or(Errno::NOENT)?;
    let beneath = plain.strip_prefix(&preopen.guest).unwrap_or(&plain);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Not open(2), which the fences do not know.
    let root = rustix::fs::openat(CWD, &preopen.host, directory, Mode::empty())?;
    let beneath = if beneath.as_os_str().is_empty() { Path::new(".") } else { beneath };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(File::from(rustix::fs::openat2(&root, beneath, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn programs_scripts_and_what_is_neither() {
        let dir = crate::store::files::tests::temp_dir();
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        let write = |path: &str, bytes: &[u8]| std::fs::write(root.join(path), bytes).unwrap();
        write("bin/sh", b"\0asm\x01\0\0\0");
        write("bin/script", b"#! /bin/sh -e x \necho\n");
        write("bin/again", b"#!/bin/script\n");
        write("bin/loop", b"#!/bin/loop\n");
        write("bin/text", b"echo\n");
        write("bin/closed", b"\0asm\x01\0\0\0");
        std::fs::set_permissions(root.join("bin/closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
        std::fs::write(dir.join("outside"), b"\0asm").unwrap();
        symlink("../../../../outside", root.join("bin/out")).unwrap();
        symlink("/bin/sh", root.join("bin/link")).unwrap();
        let preopens = [Preopen { host: root, guest: "/".into(), writable: true }];
        let args = |path: &str| {
            let args = vec!["zero".to_owned(), "one".to_owned()];
            find(&preopens, "/bin", path, args).map(|found| found.args)
        };
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(args("/bin/sh"), Ok(words("zero,one")));
        assert_eq!(args("sh"), Ok(words("zero,one")));
        assert_eq!(args("../bin/link"), Ok(words("zero,one")));
        assert_eq!(args("/bin/script"), Ok(words("/bin/sh,-e x,/bin/script,one")));
        assert_eq!(args("again"), Ok(words("/bin/sh,-e x,/bin/script,again,one")));
        assert_eq!(args("loop"), Err(Errno::LOOP));
        assert_eq!(args("text"), Err(Errno::NOEXEC));
        assert_eq!(args("none"), Err(Errno::NOENT));
        assert_eq!(args("out"), Err(Errno::NOENT));
        assert_eq!(args("/bin"), Err(Errno::ACCESS));
        assert_eq!(args("closed"), Err(Errno::ACCESS));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
