//! Reading a file that grows line by line, and is renamed when it has grown enough.

use crate::sandbox::log::rotated;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// So much is read at once, in bytes.
pub const BLOCK: usize = 64 << 10;

/// Reads a file, each time from where it was, and goes on with the one that takes its place.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// What is read at the moment, and before the file itself.
    file: Option<File>,
    first: VecDeque<File>,
    /// The beginning of a line that is not whole yet.
    pending: Vec<u8>,
}

impl Tail {
    /// Reads the file at `path`, which need not be there yet, after `first`, of which the last may be that file already.
    #[must_use]
    pub fn new(path: PathBuf, first: impl IntoIterator<Item = File>) -> Self {
        let mut first: VecDeque<File> = first.into_iter().collect();
        Self { path, file: first.pop_front(), first, pending: Vec::new() }
    }

    /// Gives out every line that has become whole since the last time, with its newline, until `take` has had enough.
    ///
    /// # Errors
    /// When a file cannot be read, or what `take` says.
    pub fn read_on(
        &mut self,
        mut take: impl FnMut(&[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<ControlFlow<()>> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?;
            }
            let Some(file) = &mut self.file else { return Ok(ControlFlow::Continue(())) };
            let flow = read_lines(file, &mut self.pending, &mut take)?;
            if flow.is_break() {
                return Ok(flow);
            }
            if let Some(next) = self.first.pop_front() {
                self.file = Some(next);
                continue;
            }
            let Some(later) = later(&self.path, file)? else { return Ok(ControlFlow::Continue(())) };
            // Once more: until it was seen to be put aside it was written to.
            let flow = read_lines(file, &mut self.pending, &mut take)?;
            if flow.is_break() {
                return Ok(flow);
            }
            self.first = later.into();
            self.file = self.first.pop_front();
        }
    }
}

/// The files that have come after one of a log's, in their order; `None` when it is still the newest. Of one that is
/// gone altogether, all that are there have come after it.
fn later(path: &Path, file: &File) -> io::Result<Option<Vec<File>>> {
    // The newest first: what is put aside meanwhile is then found twice, not missed.
    let mut later: Vec<File> = Vec::new();
    for path in std::iter::once(path.to_owned()).chain(rotated(path)) {
        match open(&path)? {
            Some(known) if is_same(file, &known)? => break,
            Some(new) if !is_among(&new, &later)? => later.push(new),
            _ => {}
        }
    }
    later.reverse();
    Ok((!later.is_empty()).then_some(later))
}

/// Opens a file, if it is there.
///
/// # Errors
/// When it is, and cannot be opened.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a file is one of these.
///
/// # Errors
/// When one of them cannot be looked at.
pub fn is_among(file: &File, others: &[File]) -> io::Result<bool> {
    for other in others {
        if is_same(file, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn read_lines(
    file: &mut File,
    pending: &mut Vec<u8>,
    take: &mut impl FnMut(&[u8]) -> io::Result<ControlFlow<()>>,
) -> io::Result<ControlFlow<()>> {
    let mut block = vec![0; BLOCK];
    loop {
        let read = match file.read(&mut block) {
            Ok(0) => return Ok(ControlFlow::Continue(())),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for piece in block.get(..read).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            if !piece.ends_with(b"\n") || !pending.is_empty() {
                pending.extend_from_slice(piece);
            }
            let whole: &[u8] = if pending.is_empty() { piece } else { pending.as_slice() };
            if whole.ends_with(b"\n") {
                let flow = take(whole)?;
                pending.clear();
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_is_replaced_is_read_to_its_end_first() {
        let path = std::env::temp_dir().join(format!("sampan-tail-{}", std::process::id()));
        let write = |text: &str| {
            File::options().create(true).append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        let read = |tail: &mut Tail| {
            let mut all = String::new();
            let _ = tail
                .read_on(|line| {
                    all.push_str(std::str::from_utf8(line).unwrap());
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            all
        };
        let _ = std::fs::remove_file(&path);
        let mut tail = Tail::new(path.clone(), []);
        assert_eq!(read(&mut tail), "");
        write("one\ntw");
        assert_eq!(read(&mut tail), "one\n");
        write("o\nthree\n");
        let older = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
        // Twice before it is read again.
        std::fs::rename(&path, older(1)).unwrap();
        write("four\n");
        std::fs::rename(older(1), older(2)).unwrap();
        std::fs::rename(&path, older(1)).unwrap();
        write("five\n");
        assert_eq!(read(&mut tail), "two\nthree\nfour\nfive\n");
        let mut both = Tail::new(path.clone(), [File::open(older(2)).unwrap(), File::open(older(1)).unwrap()]);
        assert_eq!(read(&mut both), "one\ntwo\nthree\nfour\nfive\n");
        assert_eq!(read(&mut both), "");
        // In the middle of moving up.
        let mut tail = Tail::new(path.clone(), [File::open(older(2)).unwrap()]);
        std::fs::rename(older(2), older(3)).unwrap();
        std::fs::rename(older(1), older(2)).unwrap();
        assert_eq!(read(&mut tail), "one\ntwo\nthree\nfour\nfive\n");
        for file in [path.clone(), older(2), older(3)] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
