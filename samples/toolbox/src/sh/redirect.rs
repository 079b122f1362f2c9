//! Where the streams of commands go (POSIX.1-2024, Shell Command Language, 2.7).

use super::ast::{Redirect, RedirectKind};
use super::{Run, Shell};
use crate::sys;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::FromRawFd;
use std::rc::Rc;

/// The bytes that a command substitution collects.
pub type Memory = Rc<RefCell<Vec<u8>>>;

pub fn memory() -> Memory {
    Rc::default()
}

/// What a descriptor stands for.
#[derive(Debug, Clone)]
pub enum Handle {
    /// `/dev/null`, which a container need not have.
    Null,
    File(Rc<File>),
    Memory(Memory),
    /// Closed by `>&-`.
    Closed,
}

impl Handle {
    pub fn of(file: File) -> Self {
        Self::File(Rc::new(file))
    }

    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::File(file) => (&**file).write_all(bytes),
            Self::Memory(memory) => {
                memory.borrow_mut().extend_from_slice(bytes);
                Ok(())
            }
            Self::Closed => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    /// Reads a line with its newline, and not a byte more: true if one came. Ctrl-C interrupts it at a terminal, whose
    /// lines come whole (termios(3), canonical mode), so that none is lost half way.
    pub fn read_line(&self, line: &mut Vec<u8>) -> io::Result<bool> {
        let Self::File(file) = self else { return Ok(false) };
        let mut file = &**file;
        // Of a file more can be read at once, since what was too much can be given back.
        if let Ok(start) = file.stream_position()
            && file.metadata().is_ok_and(|meta| meta.is_file())
        {
            let mut buffer = [0; 4096];
            loop {
                let count = file.read(&mut buffer)?;
                let read = buffer.get(..count).unwrap_or_default();
                let end = read.iter().position(|b| *b == b'\n').map_or(count, |n| n + 1);
                line.extend_from_slice(&read[..end]);
                if count == 0 || line.ends_with(b"\n") {
                    file.seek(SeekFrom::Start(start + line.len() as u64))?;
                    return Ok(!line.is_empty());
                }
            }
        }
        let terminal = file.is_terminal();
        let mut bytes = vec![0; if terminal { 4096 } else { 1 }];
        loop {
            match file.read(&mut bytes) {
                Ok(0) => return Ok(!line.is_empty()),
                Ok(count) => line.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted && !terminal => {}
                Err(error) => return Err(error),
            }
            if line.ends_with(b"\n") {
                return Ok(true);
            }
        }
    }
}

/// The descriptors of a shell, which are not those of its process.
#[derive(Debug, Clone)]
pub struct Fds(BTreeMap<u32, Handle>);

impl Fds {
    pub fn standard() -> Self {
        let standard = |n: i32| {
            // SAFETY: the three are open from the start, and one clone is never dropped, so they are not closed.
            let handle = Handle::of(unsafe { File::from_raw_fd(n) });
            std::mem::forget(handle.clone());
            handle
        };
        Self((0..3).zip((0..3).map(standard)).collect())
    }

    pub fn get(&self, fd: u32) -> Handle {
        self.0.get(&fd).cloned().unwrap_or(Handle::Closed)
    }

    pub fn set(&mut self, fd: u32, handle: Handle) {
        self.0.insert(fd, handle);
    }
}

impl Shell {
    /// Makes redirections, for as long as the shell keeps these descriptors. False when one is not possible, which has
    /// been said.
    pub(super) fn redirect(&mut self, redirects: &[Redirect]) -> Run<bool> {
        for redirect in redirects {
            let made = match redirect.kind {
                RedirectKind::Here { expand } => {
                    let text = if expand { self.expand_document(&redirect.target)? } else { redirect.target.clone() };
                    document(text.as_bytes()).map_err(|e| sys::words(&e))
                }
                RedirectKind::Duplicate => {
                    let target = self.expand_single(&redirect.target)?;
                    match target.parse::<u32>() {
                        Ok(fd) => match self.fds.get(fd) {
                            Handle::Closed => Err(format!("{fd}: Bad file descriptor")),
                            handle => Ok(handle),
                        },
                        Err(_) if target == "-" => Ok(Handle::Closed),
                        Err(_) => return Err(self.fatal("syntax error: bad fd number")),
                    }
                }
                kind => {
                    let path = self.expand_single(&redirect.target)?;
                    let created = !matches!(kind, RedirectKind::Read);
                    self.open(&path, kind).map_err(|error| {
                        let verb = if created { "create" } else { "open" };
                        let why = match error.kind() {
                            ErrorKind::NotFound if created => "nonexistent directory".to_owned(),
                            ErrorKind::NotFound => "no such file".to_owned(),
                            _ => sys::words(&error),
                        };
                        format!("can't {verb} {path}: {why}")
                    })
                }
            };
            match made {
                Ok(handle) => self.fds.set(redirect.fd, handle),
                Err(words) => {
                    self.complain(&words);
                    self.state.status = 1;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn open(&self, path: &str, kind: RedirectKind) -> io::Result<Handle> {
        match path {
            "/dev/null" => return Ok(Handle::Null),
            "/dev/stdin" | "/dev/fd/0" => return Ok(self.fds.get(0)),
            "/dev/stdout" | "/dev/fd/1" => return Ok(self.fds.get(1)),
            "/dev/stderr" | "/dev/fd/2" => return Ok(self.fds.get(2)),
            _ => {}
        }
        let mut options = File::options();
        match kind {
            RedirectKind::Append => options.append(true).create(true),
            RedirectKind::ReadWrite => options.read(true).write(true).create(true),
            RedirectKind::Write if self.options.noclobber => options.write(true).create_new(true),
            RedirectKind::Write | RedirectKind::Clobber => options.write(true).create(true).truncate(true),
            _ => options.read(true),
        };
        let file = options.open(path)?;
        if matches!(kind, RedirectKind::Read) && file.metadata()?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        Ok(Handle::of(file))
    }
}

/// As much as a pipe takes before somebody reads.
const PIPE: usize = 64 << 10;

/// The input that a here-document is: a pipe that holds it, or a file that has no name any more.
fn document(text: &[u8]) -> io::Result<Handle> {
    if text.len() <= PIPE
        && let Ok((reader, mut writer)) = sys::pipe()
    {
        writer.write_all(text)?;
        return Ok(Handle::of(reader));
    }
    let path = format!("/tmp/.sh-{}", sys::id());
    let _ = std::fs::create_dir_all("/tmp");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(text)?;
    file.rewind()?;
    Ok(Handle::of(file))
}
