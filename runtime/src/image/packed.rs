//! Archives that are compressed as a whole: with what, told by their first bytes, and how they are read. What Docker takes
//! for `load`, for a context on standard input and for `ADD`.

use super::unpack::zstd;
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::io::{BufRead, BufReader, Read};

/// As many first bytes tell what something is compressed with.
pub(super) const HEAD: usize = 6;
/// What a decoder of xz may hold in memory, in KiB: that of `xz -9` takes 65 MiB, and a header can ask for 4 GiB.
const XZ_MEMORY: u32 = 128 << 10;
/// As much is read from the archive at once.
const PIECE: usize = 128 << 10;

/// What something is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packed {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Packed {
    /// Tells by the first bytes; none if it is not compressed, or nobody here knows how.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A frame that is to be skipped (RFC 8878, section 3.1.2), which parallel compressors put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Reads what is in `packed`, uncompressed whatever it is compressed with.
///
/// # Errors
/// When its beginning cannot be read.
pub(super) fn unpacked<'r>(packed: impl Read + 'r) -> std::io::Result<Box<dyn Read + 'r>> {
    let mut packed = BufReader::with_capacity(PIECE, packed);
    // A pipe may give its first bytes one by one.
    let mut head = Vec::with_capacity(HEAD);
    (&mut packed).take(HEAD as u64).read_to_end(&mut head)?;
    let what = Packed::of(&head);
    Ok(decoder(what, std::io::Cursor::new(head).chain(packed)))
}

fn decoder<'r>(what: Option<Packed>, packed: impl BufRead + 'r) -> Box<dyn Read + 'r> {
    match what {
        None => Box::new(packed),
        Some(Packed::Gzip) => Box::new(MultiGzDecoder::new(packed)),
        Some(Packed::Bzip2) => Box::new(MultiBzDecoder::new(packed)),
        Some(Packed::Xz) => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY)),
        Some(Packed::Zstd) => Box::new(zstd::Decoder::new(packed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "hello\n" as `gzip`, `bzip2`, `xz` and `zstd` write it.
    const HELLO: [&[u8]; 4] = [
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\xe7\x02\0 0:6\x06\0\0\0",
        b"BZh91AY&SY\xc1\xc0\x80\xe2\0\0\x01A\0\0\x10\x02D\xa0\x000\xcd\0\xc3F)\x97\x17rE8P\x90\xc1\xc0\x80\xe2",
        b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F\x02\0!\x01\x16\0\0\0t/\xe5\xa3\x01\0\x05hello\n\0\0\0\xa5`\x97\xf1\x94\xf6\xfd\xe0\0\x01\x1e\x06\xc1/\xa4\x1d\x1f\xb6\xf3}\x01\0\0\0\0\x04YZ",
        b"(\xb5/\xfd\x04X1\0\0hello\nS\x88\xbd\x91",
    ];

    #[test]
    fn what_something_is_packed_with_is_told_by_its_head() {
        let all = HELLO.map(Packed::of);
        assert_eq!(all, [Packed::Gzip, Packed::Bzip2, Packed::Xz, Packed::Zstd].map(Some));
        assert_eq!(Packed::of(b"\x5f\x2a\x4d\x18\0"), Some(Packed::Zstd));
        for other in [&b"manifest.json\0"[..], b"BZhx", b"\xfd7zXY", b"\x1f", b""] {
            assert_eq!(Packed::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn all_of_it_is_read_however_often_it_was_packed() {
        let read = |bytes: &[u8]| {
            let mut text = String::new();
            unpacked(bytes).and_then(|mut plain| plain.read_to_string(&mut text)).map(|_| text)
        };
        for packed in HELLO {
            assert_eq!(read(packed).unwrap(), "hello\n");
            // What parallel compressors write.
            assert_eq!(read(&[packed, packed].concat()).unwrap(), "hello\nhello\n");
            assert!(read(&packed[..packed.len() - 3]).is_err(), "{packed:?}");
        }
        assert_eq!(read(b"hello").unwrap(), "hello");
        assert_eq!(read(b"").unwrap(), "");
    }

    #[test]
    fn a_header_cannot_ask_for_all_memory() {
        // The same in xz, with a dictionary of 4 GiB (xz file format, section 5.3.1) and the header's checksum made anew.
        let mut greedy = HELLO[2].to_vec();
        greedy[16] = 40;
        let sum = crc32(&greedy[12..20]);
        greedy[20..24].copy_from_slice(&sum.to_le_bytes());
        let error = unpacked(&greedy[..]).unwrap().read(&mut [0; 10]).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
