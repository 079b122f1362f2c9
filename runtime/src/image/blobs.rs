//! Content by digest: where it lies, and a writer that hashes what it writes.

use crate::store::{Result, Store, StoreError};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::PathBuf;

const ALGORITHM: &str = "sha256:";

/// The digest of some bytes, as OCI writes it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    written(Sha256::new_with_prefix(bytes))
}

/// A document as JSON, the same bytes each time: labels, ports and volumes are maps that have no order of their own, and
/// an image's id must not depend on how they happen to lie.
pub(crate) fn document(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value).map_err(|e| StoreError::Damaged {
        path: "a document".into(),
        reason: format!("it cannot be written as JSON: {e}"),
    })?;
    value.sort_all_objects();
    Ok(value.to_string().into_bytes())
}

/// The 64 hex digits of a well-formed sha256 digest. Digests come from files that others may have made and become file
/// names, so nothing else is let through.
pub(crate) fn hex(digest: &str) -> Option<&str> {
    digest.strip_prefix(ALGORITHM).filter(|hex| is_hex(hex, 64..=64))
}

/// Whether `text` is lowercase hex digits, as many as `length` says.
pub(crate) fn is_hex(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Where the blob of this digest lies.
pub(crate) fn path(store: &Store, digest: &str) -> Result<PathBuf> {
    named(store, digest, store.content().join("blobs/sha256"))
}

/// Where the layer of this chain id is unpacked.
pub(crate) fn layer_dir(store: &Store, chain_id: &str) -> Result<PathBuf> {
    named(store, chain_id, store.layers())
}

fn named(store: &Store, digest: &str, dir: PathBuf) -> Result<PathBuf> {
    hex(digest).map(|hex| dir.join(hex)).ok_or_else(|| StoreError::Damaged {
        path: store.content(),
        reason: format!("{digest:?} is named in it, which is not a sha256 digest"),
    })
}

/// A hash as OCI writes it.
pub(crate) fn written(hash: Sha256) -> String {
    let mut text = String::with_capacity(ALGORITHM.len() + 64);
    text.push_str(ALGORITHM);
    for byte in hash.finalize() {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or_default());
        }
    }
    text
}

/// Passes bytes on and keeps their hash and their number.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// What was wrapped, the digest of what passed, and its size.
    pub(crate) fn finish(self) -> (T, String, u64) {
        (self.inner, written(self.hash), self.size)
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
        let good = digest_of(b"");
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
        assert_eq!((bytes.as_slice(), digest, size), (b"hello".as_slice(), digest_of(b"hello"), 5));
        let mut reader = Hashing::new(b"hello".as_slice());
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert_eq!(reader.finish().1, digest_of(b"hello"));
    }
}
