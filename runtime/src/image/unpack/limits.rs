//! How much an archive may ask for. An image is made by somebody else, and a few kilobytes can unpack to more than any
//! disk holds; so each number has an end, and the ends that an honest image may reach can be moved.

use crate::image::ImageError;
use std::cell::Cell;
use std::io::{Error, ErrorKind, Read};
use std::rc::Rc;

/// The longest name of an entry, in bytes: as long as Linux lets a path be.
pub(crate) const PATH: usize = 4096;

/// What the headers of one entry may take, in bytes: its own, and the long names and attributes before it.
const HEADERS: u64 = 1 << 20;

/// What the names of one layer's directories may take together, in bytes: they are held in memory.
pub(super) const DIRECTORY_NAMES: usize = 256 << 20;

/// The limits that can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How many bytes one archive may unpack to.
    pub bytes: u64,
    /// How many files, directories and links one archive may hold.
    pub entries: u64,
}

/// The variable that moves [`Limits::bytes`].
pub(crate) const BYTES_VARIABLE: &str = "SAMPAN_MAX_UNPACKED";
/// The variable that moves [`Limits::entries`].
pub(crate) const ENTRIES_VARIABLE: &str = "SAMPAN_MAX_ENTRIES";

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 1_000_000 }
    }
}

impl Limits {
    /// The usual limits, as the environment moves them: `SAMPAN_MAX_UNPACKED` (bytes, or with `k`, `m`, `g` or `t` at
    /// the end in units of 1024) and `SAMPAN_MAX_ENTRIES`.
    ///
    /// # Errors
    /// When one of them is no number.
    pub fn of_environment() -> Result<Self, ImageError> {
        let usual = Self::default();
        let said = |variable: &'static str, otherwise: u64| match std::env::var(variable) {
            Err(_) => Ok(otherwise),
            Ok(value) => parse_size(&value).ok_or(ImageError::BadLimit { variable, value }),
        };
        Ok(Self { bytes: said(BYTES_VARIABLE, usual.bytes)?, entries: said(ENTRIES_VARIABLE, usual.entries)? })
    }

    pub fn too_many_bytes(self) -> String {
        format!("it unpacks to more than {} bytes; {BYTES_VARIABLE} allows more", self.bytes)
    }

    pub fn too_many_entries(self) -> String {
        format!("it has more than {} entries; {ENTRIES_VARIABLE} allows more", self.entries)
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match text.strip_prefix(digits)? {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Lets through as many bytes as are allowed, and then complains. The reader of the archive reads names and attributes
/// into memory whatever their size, so what it may take before an entry is there is limited too.
#[derive(Debug)]
pub(crate) struct Gauge<R> {
    inner: R,
    limits: Limits,
    left: u64,
    headers: Rc<Cell<Option<u64>>>,
}

/// The other end of a [`Gauge`]: says whether headers or content come next.
#[derive(Debug, Clone)]
pub(crate) struct Phase(Rc<Cell<Option<u64>>>);

impl Phase {
    /// The next entry's headers come.
    pub fn headers(&self) {
        self.0.set(Some(HEADERS));
    }

    /// An entry's content comes.
    pub fn content(&self) {
        self.0.set(None);
    }
}

impl<R: Read> Gauge<R> {
    pub fn new(inner: R, limits: Limits) -> (Self, Phase) {
        let headers = Rc::new(Cell::new(Some(HEADERS)));
        (Self { inner, limits, left: limits.bytes, headers: Rc::clone(&headers) }, Phase(headers))
    }

    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Gauge<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let read = u64::try_from(n).unwrap_or(u64::MAX);
        let refused = |why: String| Error::new(ErrorKind::InvalidData, why);
        self.left = self.left.checked_sub(read).ok_or_else(|| refused(self.limits.too_many_bytes()))?;
        if let Some(left) = self.headers.get() {
            let left = left.checked_sub(read);
            let left =
                left.ok_or_else(|| refused(format!("the headers of one entry take more than {HEADERS} bytes")))?;
            self.headers.set(Some(left));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, size) in [("0", 0), ("512", 512), ("3k", 3072), ("2M", 2 << 20), (" 1g ", 1 << 30), ("1t", 1 << 40)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "k", "1kk", "1x", "-1", "1.5g", "99999999999t"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_gauge_ends_what_is_too_much() {
        let (mut gauge, _) = Gauge::new(std::io::repeat(0).take(1000), Limits { bytes: 999, entries: 1 });
        assert!(std::io::copy(&mut gauge, &mut std::io::sink()).unwrap_err().to_string().contains("999 bytes"));
        let (mut gauge, phase) = Gauge::new(std::io::repeat(0), Limits::default());
        phase.content();
        std::io::copy(&mut gauge.by_ref().take(2 * HEADERS), &mut std::io::sink()).unwrap();
        phase.headers();
        assert!(std::io::copy(&mut gauge, &mut std::io::sink()).unwrap_err().to_string().contains("headers"));
    }
}
