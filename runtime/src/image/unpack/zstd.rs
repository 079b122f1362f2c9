//! Zstandard (RFC 8878): an archive may be several frames, and have frames in between that are to be skipped (as
//! zstd:chunked layers have).

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{BufRead, Read};

/// As much as the `zstd` tool takes without being asked to: what a frame wants, we hold in memory.
const LARGEST_WINDOW: u64 = 128 << 20;
/// How much is decoded before it is handed on.
const PIECE: usize = 256 << 10;

/// Reads what is compressed in `source`.
pub(in crate::image) struct Decoder<R> {
    source: R,
    frame: FrameDecoder,
    /// Whether a frame is being read.
    within: bool,
}

impl<R: BufRead> Decoder<R> {
    pub fn new(source: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(LARGEST_WINDOW);
        Self { source, frame, within: false }
    }

    /// Begins the next frame that has content; false at the end.
    fn begin(&mut self) -> std::io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.source) {
                Ok(()) => {
                    self.within = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = std::io::copy(&mut (&mut self.source).take(length.into()), &mut std::io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(std::io::Error::other(format!("it is no zstd frame: {e}"))),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let piece = BlockDecodingStrategy::UptoBytes(PIECE);
                self.frame.decode_blocks(&mut self.source, piece).map_err(std::io::Error::other)?;
            }
            if self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            self.check()?;
            self.within = false;
        }
    }
}

impl<R> Decoder<R> {
    /// The checksum of a frame that has one. (A layer's own digest is checked anyway; this tells where it went wrong.)
    fn check(&self) -> std::io::Result<()> {
        match (self.frame.get_checksum_from_data(), self.frame.get_calculated_checksum()) {
            (Some(said), Some(found)) if said != found => {
                Err(std::io::Error::other("the checksum of a frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn decode(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Decoder::new(bytes).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn frames_follow_each_other_and_notes_are_skipped() {
        let one = compress_to_vec(&b"one "[..], CompressionLevel::Fastest);
        let large = vec![7; 3 << 20];
        let two = compress_to_vec(&large[..], CompressionLevel::Fastest);
        let note = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"note"].concat();
        let expected = [&b"one "[..], &large].concat();
        assert_eq!(decode(&[&one[..], &note, &two, &note].concat()).unwrap(), expected);
        assert_eq!(decode(b"").unwrap(), b"");
        assert!(decode(&two[..two.len() - 9]).is_err());
        assert!(decode(&note[..9]).is_err());
        assert!(decode(b"hello, this is no frame").is_err());
    }
}
