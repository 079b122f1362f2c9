//! The flags that limit what a container uses → the runtime's limits.

use crate::format::humanize::bytes_size;
use crate::format::time::parse_length;
use clap::Args;
use sampan_runtime::grants::{Limits, Resources};
use std::time::Duration;

// Memory and processors, as Docker names them: what can be changed while the container runs.
#[derive(Debug, Default, Args)]
pub struct ResourceFlags {
    /// Memory that the container may have: bytes, or with b, k, m or g
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Processors that the container may use: 0.5, 2
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    cpus: Option<u64>,
    /// Microseconds of processor time in each period, which is another way to say --cpus
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus", value_parser = clap::value_parser!(u64).range(1000..))]
    cpu_quota: Option<u64>,
    /// The period of --cpu-quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS", requires = "cpu_quota", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    cpu_period: Option<u64>,
    /// The container's share of a busy machine, where others have 1024
    #[arg(short, long, value_name = "SHARES")]
    cpu_shares: Option<u64>,
}

impl ResourceFlags {
    /// What the flags say; 0 is the default.
    pub fn resources(&self) -> Resources {
        let quota =
            self.cpu_quota.map(|quota| quota.saturating_mul(1_000_000_000) / self.cpu_period.unwrap_or(100_000));
        Resources { memory: self.memory, nano_cpus: self.cpus.or(quota), cpu_shares: self.cpu_shares }
    }
}

/// What a container may use, as Docker names it.
#[derive(Debug, Default, Args)]
pub struct LimitFlags {
    #[command(flatten)]
    resources: ResourceFlags,
    /// How long the container may run: 30s, 10m. It is then stopped as by `stop`, and ends with 124
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Limit what the container opens: nofile=N files and sockets in one program
    #[arg(long, value_name = "NAME=N", value_parser = ulimit)]
    ulimit: Vec<u64>,
    /// Limit what the container has in its own layer: size=SIZE
    #[arg(long, value_name = "NAME=VALUE", value_parser = storage)]
    storage_opt: Vec<u64>,
}

impl LimitFlags {
    /// The limits that the flags say. Nothing, or 0, is the default.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits {
            timeout: self.timeout,
            grace: None,
            open_files: self.ulimit.last().copied(),
            storage: self.storage_opt.last().copied(),
            ..Limits::default()
        };
        self.resources.resources().apply(&mut limits);
        limits
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

/// Billionths of a processor.
fn cpus(text: &str) -> Result<u64, String> {
    let number: f64 =
        text.parse().map_err(|_| format!("{text:?} is no number of processors: it is written like 0.5 or 2"))?;
    #[allow(clippy::cast_precision_loss, reason = "there are not so many processors")]
    let most = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    if !(0.0..=most).contains(&number) || (number > 0.0 && number < 0.01) {
        return Err(format!("there is from 0.01 to {most} to give, the processors of this machine"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a few")]
    let nano = (number * 1e9).round() as u64;
    Ok(nano)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_length(text)?;
    if duration.is_zero() { Err(format!("{text:?} is no time to run in")) } else { Ok(duration) }
}

/// `nofile=SOFT[:HARD]`: a guest cannot raise its own limit, so that the lower one holds.
fn ulimit(text: &str) -> Result<u64, String> {
    let (name, limits) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is no limit: it is written nofile=1024"))?;
    if name != "nofile" {
        return Err(format!("{name}: a Wasm program has no such limit; nofile is the one there is"));
    }
    let soft = limits.split(':').next().unwrap_or_default();
    match soft.parse() {
        Ok(most) if most >= Limits::LEAST_FILES => Ok(most),
        Ok(few) => {
            Err(format!("{few} files are too few: its streams, its root and one file are {}", Limits::LEAST_FILES))
        }
        Err(_) => Err(format!("{soft:?} is no number of files")),
    }
}

/// `size=1g`.
fn storage(text: &str) -> Result<u64, String> {
    match text.split_once('=') {
        Some(("size", bytes)) => size(bytes),
        _ => Err(format!("{text:?} is no option of storage: size=1g is the one there is")),
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
        assert_eq!((cpus("0.5"), ulimit("nofile=64:128")), (Ok(500_000_000), Ok(64)));
        for bad in ["nproc=3", "nofile", "nofile=x", "nofile=2"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        assert!(cpus("0.001").is_err() && cpus("-1").is_err() && cpus("99999").is_err() && timeout("0").is_err());
        assert_eq!(storage("size=1g"), Ok(1 << 30));
        assert!(storage("dm.basesize=3").is_err());
        assert!(memory("1k").unwrap_err().contains("64KiB"));
    }
}
