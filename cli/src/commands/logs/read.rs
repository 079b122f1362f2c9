//! Reading a log that may still grow, from its end or its beginning.

use sampan_runtime::sandbox::log::{self, Line};
use sampan_runtime::tail::{self, BLOCK, Tail};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Reads a log, each time from where it was.
pub struct Reader(Tail);

impl Reader {
    /// Reads the log at `path`, which need not be there yet, with what was rotated away of it, from its last lines on.
    pub fn new(path: PathBuf, tail: Option<usize>) -> io::Result<Self> {
        // The newest first: what is rotated meanwhile is then found twice, not missed.
        let mut files: Vec<File> = Vec::new();
        for path in std::iter::once(path.clone()).chain(log::rotated(&path)) {
            if let Some(file) = tail::open(&path)?
                && !tail::is_among(&file, &files)?
            {
                files.push(file);
            }
        }
        files.reverse();
        let Some(mut wanted) = tail else { return Ok(Self(Tail::new(path, files))) };
        // From the newest backwards, until there are enough lines.
        let mut chosen = Vec::new();
        for mut file in files.into_iter().rev() {
            let (start, seen) = start_of_last(&file, wanted)?;
            file.seek(SeekFrom::Start(start))?;
            chosen.push(file);
            wanted -= seen;
            if wanted == 0 {
                break;
            }
        }
        chosen.reverse();
        Ok(Self(Tail::new(path, chosen)))
    }

    /// Gives out every line that has become whole since the last time, until `take` has had enough.
    pub fn read_on(
        &mut self,
        mut take: impl FnMut(&Line<'_>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<ControlFlow<()>> {
        self.0.read_on(|bytes| parse(bytes).map_or(Ok(ControlFlow::Continue(())), |line| take(&line)))
    }
}

/// A line of the log. One that was cut by a crash is lost, though not what the next run has written behind it.
fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    /// What a line begins with; within a line its quotes would be escaped.
    const BEGIN: &[u8] = br#"{"log":""#;
    log::parse(bytes).or_else(|| {
        let begin = bytes.windows(BEGIN.len()).rposition(|window| window == BEGIN)?;
        log::parse(bytes.get(begin..)?)
    })
}

/// Where the last lines begin, and how many there are, found from the end backwards. What follows the last newline is
/// no line yet.
fn start_of_last(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let mut block = vec![0; BLOCK];
    let mut at = file.metadata()?.len();
    let mut seen = 0;
    while at > 0 {
        let size = usize::try_from(at).map_or(BLOCK, |at| at.min(BLOCK));
        let block = block.get_mut(..size).unwrap_or_default();
        at = at.saturating_sub(size as u64);
        file.read_exact_at(block, at)?;
        let newlines = block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        for (place, _) in newlines {
            if seen == lines {
                return Ok((at + place as u64 + 1, seen));
            }
            seen += 1;
        }
    }
    Ok((0, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sampan-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }

        fn write(&self, bytes: &[u8]) {
            let mut file = File::options().create(true).append(true).open(&self.0).unwrap();
            file.write_all(bytes).unwrap();
        }

        fn read(&self, reader: &mut Reader) -> Vec<String> {
            let mut all = Vec::new();
            let _ = reader
                .read_on(|line| {
                    all.push(line.log.trim_end().to_owned());
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            all
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn json(text: &str) -> Vec<u8> {
        let line = Line { log: format!("{text}\n").into(), stream: "stdout".into(), time: jiff::Timestamp::UNIX_EPOCH };
        [serde_json::to_vec(&line).unwrap(), b"\n".to_vec()].concat()
    }

    #[test]
    fn a_log_may_come_late_and_in_pieces() {
        let log = Log::new("pieces");
        let mut reader = Reader::new(log.0.clone(), Some(0)).unwrap();
        assert!(log.read(&mut reader).is_empty());
        let line = json("one");
        let (begin, end) = line.split_at(10);
        log.write(begin);
        assert!(log.read(&mut reader).is_empty());
        log.write(end);
        log.write(&json("two"));
        assert_eq!(log.read(&mut reader), ["one", "two"]);
        assert!(log.read(&mut reader).is_empty());
    }

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let log = Log::new("tail");
        let long = "x".repeat(BLOCK / 3);
        for n in 0..20 {
            log.write(&json(&format!("{n} {long}")));
        }
        log.write(b"{\"log\":\"cut");
        for lines in [0, 1, 2, 7, 20, 30] {
            let mut reader = Reader::new(log.0.clone(), Some(lines)).unwrap();
            let read = log.read(&mut reader);
            let first = 20usize.saturating_sub(lines);
            let numbers: Vec<_> = read.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
            assert_eq!(numbers, (first..20).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_that_was_cut_takes_no_other_along() {
        let log = Log::new("cut");
        log.write(&json("one"));
        log.write(b"{\"log\":\"lost {\\\"log\\\":\\\"");
        log.write(&json("two {\"log\":\" x"));
        log.write(b"no json\n");
        log.write(&json("three"));
        let mut reader = Reader::new(log.0.clone(), None).unwrap();
        assert_eq!(log.read(&mut reader), ["one", "two {\"log\":\" x", "three"]);
    }

    #[test]
    fn enough_is_enough() {
        let log = Log::new("enough");
        log.write(&json("one"));
        log.write(&json("two"));
        let mut count = 0;
        let flow = Reader::new(log.0.clone(), None).unwrap().read_on(|_| {
            count += 1;
            Ok(ControlFlow::Break(()))
        });
        assert!(flow.unwrap().is_break() && count == 1);
    }
}
