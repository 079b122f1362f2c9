//! SHA-256 digests as OCI writes them: `sha256:` and 64 lowercase hex digits (image-spec, `descriptor.md`).
//!
//! ring computes them: every byte of an image passes here twice, as it comes and as it is unpacked, and its code is
//! twice as fast as what the compiler makes of a portable one.

use ring::digest::{Context, SHA256};
use std::io::{Read, Write};

const ALGORITHM: &str = "sha256:";

/// The digest of some bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    let mut hash = Hash::new();
    hash.update(bytes);
    hash.digest()
}

/// The digest of all that a reader gives.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn of_all(mut reader: impl Read) -> std::io::Result<String> {
    let mut hash = Hash::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.digest()),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The 64 hex digits of a well-formed digest. Digests come from files that others may have made and become file names,
/// so nothing else is let through.
pub(crate) fn hex(digest: &str) -> Option<&str> {
    digest.strip_prefix(ALGORITHM).filter(|hex| is_hex(hex, 64..=64))
}

/// Whether `text` is lowercase hex digits, as many as `length` says.
pub(crate) fn is_hex(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes on their way to a digest.
#[derive(Clone)]
pub(crate) struct Hash(Context);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of what has come.
    pub(crate) fn digest(self) -> String {
        ALGORITHM.to_owned() + &crate::container::id::hex(self.0.finish().as_ref())
    }
}

/// Passes bytes on and keeps their hash and their number.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Hash,
    size: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Hash::new(), size: 0 }
    }

    /// What was wrapped, the digest of what passed, and its size.
    pub(crate) fn finish(self) -> (T, String, u64) {
        (self.inner, self.hash.digest(), self.size)
    }

    fn count(&mut self, bytes: Option<&[u8]>) {
        let bytes = bytes.unwrap_or_default();
        self.hash.update(bytes);
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.count(bytes.get(..n));
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count(buffer.get(..n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_become_paths() {
        let good = of(b"");
        assert_eq!(good, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(&good), good.strip_prefix("sha256:"));
        for bad in ["sha256:../../x", "sha256:AB", "", "sha512:00", &good.to_uppercase(), &good[..70]] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_passes_is_hashed_both_ways() {
        let mut writer = Hashing::new(Vec::new());
        writer.write_all(b"hello").unwrap();
        let (bytes, digest, size) = writer.finish();
        assert_eq!((bytes.as_slice(), digest, size), (b"hello".as_slice(), of(b"hello"), 5));
        let mut reader = Hashing::new(b"hello".as_slice());
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert_eq!(reader.finish().1, of(b"hello"));
    }
}
