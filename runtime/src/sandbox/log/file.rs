//! The file of a log, which makes room for itself.

use super::{Config, Driver, Line};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A log that is written to. When its file has grown to the limit it becomes the first of the older ones, `json.log.1`,
/// and the oldest of them goes.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    config: Config,
    open: Option<(File, u64)>,
}

impl LogFile {
    pub fn new(path: PathBuf, config: Config) -> Self {
        Self { path, config, open: None }
    }

    /// Whether something has been written.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Writes whole lines. They may make the file larger than the limit, by as much as they are.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.config.driver == Driver::None {
            return Ok(());
        }
        // Whoever keeps the logs of a node renames the file, and wants another from then on (ReopenContainerLog).
        if self.config.driver == Driver::Cri && self.open.as_ref().is_some_and(|(file, _)| !is_at(file, &self.path)) {
            self.open = None;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => {
                // Not made anew where the container has been removed meanwhile.
                let file = File::options().create(true).append(true).open(&self.path)?;
                let size = file.metadata()?.len();
                self.open.insert((file, size))
            }
        };
        file.write_all(lines)?;
        *size = size.saturating_add(lines.len() as u64);
        if self.config.max_size.is_some_and(|most| *size >= most) {
            self.rotate()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let kept = self.config.max_files.max(1) - 1;
        if kept == 0 {
            return std::fs::remove_file(&self.path);
        }
        for number in (1..kept).rev() {
            let _ = std::fs::rename(older(&self.path, number), older(&self.path, number + 1));
        }
        std::fs::rename(&self.path, older(&self.path, 1))
    }
}

/// Whether a file is the one that lies at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let key = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let here = file.metadata().map(key).ok();
    here.is_some() && here == std::fs::metadata(path).map(key).ok()
}

fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// What was rotated away of the log at `path`, the newest first. One of them may be missing for a moment, while they move
/// up, the oldest first.
pub fn rotated(path: &Path) -> impl Iterator<Item = PathBuf> {
    let there = |number: &u32| older(path, *number).exists() || older(path, number + 1).exists();
    (1..).take_while(there).map(|number| older(path, number))
}

/// Adds a line, or a piece of one, in the driver's format.
pub(super) fn record(driver: Driver, bytes: &[u8], stream: &str, out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    let time = jiff::Timestamp::now();
    match driver {
        Driver::None => {}
        Driver::JsonFile => {
            let before = out.len();
            match serde_json::to_writer(&mut *out, &Line { log: text, stream: stream.into(), time }) {
                Ok(()) => out.push(b'\n'),
                Err(_) => out.truncate(before),
            }
        }
        Driver::Cri => {
            let (tag, text) = match text.strip_suffix('\n') {
                Some(whole) => ("F", whole),
                None => ("P", &*text),
            };
            let _ = writeln!(out, "{time:.9} {stream} {tag} {text}");
        }
    }
}

/// Reads a line of a log in either format, without its newline.
pub fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    match bytes.first() {
        Some(b'{') => serde_json::from_slice(bytes).ok(),
        _ => parse_cri(std::str::from_utf8(bytes).ok()?),
    }
}

/// `2016-10-06T00:17:09.669794202Z stdout F text`, where `P` says that more of the line follows (kubelet's
/// `kuberuntime/logs`).
fn parse_cri(line: &str) -> Option<Line<'_>> {
    let mut fields = line.strip_suffix('\n').unwrap_or(line).splitn(4, ' ');
    let time = fields.next()?.parse().ok()?;
    let stream = fields.next().filter(|stream| matches!(*stream, "stdout" | "stderr"))?;
    let tag = fields.next()?;
    let text = fields.next().unwrap_or_default();
    let log = if tag.starts_with('F') { format!("{text}\n").into() } else { text.into() };
    Some(Line { log, stream: stream.into(), time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_so_many_files() {
        let dir = crate::store::files::tests::temp_dir();
        let path = dir.join("json.log");
        for (max_files, kept) in [(1, 0), (3, 2)] {
            let config = Config { max_size: Some(100), max_files, ..Config::default() };
            let mut log = LogFile::new(path.clone(), config);
            for n in 0..10 {
                log.write(format!("{n}{}\n", "x".repeat(60)).as_bytes()).unwrap();
            }
            assert_eq!(rotated(&path).count(), kept);
            let sizes = rotated(&path).map(|path| std::fs::metadata(path).unwrap().len());
            assert!(sizes.into_iter().all(|size| size == 124));
        }
        let text = std::fs::read_to_string(rotated(&path).next().unwrap()).unwrap();
        assert!(text.starts_with('8'), "{text}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn both_formats_are_read_as_they_were_written() {
        for driver in [Driver::JsonFile, Driver::Cri] {
            for (text, stream) in
                [("one\n", "stdout"), ("a piece", "stderr"), (" two  words \n", "stdout"), ("\n", "stderr")]
            {
                let mut out = Vec::new();
                record(driver, text.as_bytes(), stream, &mut out);
                let line = parse(out.strip_suffix(b"\n").unwrap()).unwrap();
                assert_eq!((&*line.log, &*line.stream), (text, stream), "{driver}");
            }
        }
        for bad in ["", "{}", "2016-10-06T00:17:09Z stdin F x", "yesterday stdout F x", "{\"log\":"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
