//! Our own terminal: raw while a guest has it, and the keys by which it is left.

use anyhow::{Result, bail};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::os::fd::AsFd;

/// A terminal whose keys go through as they are, until the value is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal at standard input raw; `None` when there is none.
    pub fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// How large our window is: columns and rows.
pub fn window() -> Option<(u16, u16)> {
    let of = |fd: &dyn AsFd| tcgetwinsize(fd.as_fd()).ok().filter(|size| size.ws_col > 0);
    let size = of(&std::io::stdout()).or_else(|| of(&std::io::stdin()))?;
    Some((size.ws_col, size.ws_row))
}

/// The keys that leave a guest behind, and how many of them were pressed just now.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    keys: Vec<u8>,
    pressed: usize,
}

impl DetachKeys {
    /// Docker's own.
    pub const USUAL: &str = "ctrl-p,ctrl-q";

    /// Reads `ctrl-p,ctrl-q`: single characters, and `ctrl-` with a letter or one of `@ [ \ ] ^ _`.
    pub fn parse(given: &str) -> Result<Self> {
        let key = |word: &str| -> Option<u8> {
            let mut bytes = match word.strip_prefix("ctrl-") {
                Some(rest) => {
                    let &[byte] = rest.as_bytes() else { return None };
                    let control = byte.to_ascii_uppercase();
                    return (b'@'..=b'_').contains(&control).then_some(control - b'@');
                }
                None => word.bytes(),
            };
            bytes.next().filter(|byte| byte.is_ascii() && bytes.next().is_none())
        };
        let keys: Option<Vec<u8>> = given.split(',').filter(|_| !given.is_empty()).map(key).collect();
        match keys {
            Some(keys) => Ok(Self { keys, pressed: 0 }),
            None => bail!(
                "invalid detach keys {given:?}: wanted single characters or ctrl- with a letter or one of @ [ \\ ] ^ _, \
                 with commas between, such as {:?}",
                Self::USUAL
            ),
        }
    }

    /// What of these keys goes to the guest, and whether they leave it behind. What may be the beginning of the sequence
    /// is kept back.
    pub fn press(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.pressed) == Some(byte) {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(self.keys.get(..self.pressed).unwrap_or_default());
            self.pressed = 0;
            if self.keys.first() == Some(byte) {
                self.pressed = 1;
                if self.keys.len() == 1 {
                    return (through, true);
                }
            } else {
                through.push(*byte);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_wherever_it_is_cut() {
        let mut keys = DetachKeys::parse(DetachKeys::USUAL).unwrap();
        assert_eq!(keys.press(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.press(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.press(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.press(b"d\x10\x11e"), (b"d".to_vec(), true));
    }

    #[test]
    fn sequences_are_read_as_docker_reads_them() {
        assert_eq!(DetachKeys::parse("a,ctrl-[").unwrap().keys, [b'a', 27]);
        assert_eq!(DetachKeys::parse("ctrl-@").unwrap().keys, [0]);
        assert!(DetachKeys::parse("").unwrap().keys.is_empty());
        assert_eq!(DetachKeys::parse("").unwrap().press(b"x\x10\x11"), (b"x\x10\x11".to_vec(), false));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-pp"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
