//! The flags that limit what a container uses → the runtime's limits.

use crate::format::humanize::bytes_size;
use clap::Args;
use sampan_runtime::grants::Limits;

/// What a container may use, as Docker names it.
#[derive(Debug, Default, Args)]
pub struct LimitFlags {
    /// Memory that the container may have: bytes, or with b, k, m or g
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
}

impl LimitFlags {
    /// The limits that the flags say. Nothing, or 0, is the default.
    pub fn limits(&self) -> Limits {
        Limits { memory: self.memory.filter(|bytes| *bytes > 0) }
    }
}

fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Ok(0),
        bytes if bytes < Limits::LEAST_MEMORY => {
            Err(format!("less than {}, which the smallest memory has", bytes_size(Limits::LEAST_MEMORY)))
        }
        bytes => Ok(bytes),
    }
}

/// A size as Docker takes it: a number, with a fraction if need be, and a unit in powers of 1024: `512m`, `1.5GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: it is written like 512m or 2g");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let scale = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    #[allow(clippy::cast_precision_loss, reason = "a fraction says no more digits than that")]
    let bytes = number * scale as f64;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
    if (0.0..u64::MAX as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_dockers_notation() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64k", 65536),
            ("1.5m", 1_572_864),
            ("2 GiB", 2 << 30),
            ("7b", 7),
            ("1tb", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1..2m", "99999999999g", "ib"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(memory("1k").unwrap_err().contains("64KiB"));
    }
}
