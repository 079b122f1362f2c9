//! Sums of files, and files in numbers.

use super::{Flags, each, number, of, open, or_stdin, output, written};
use std::io::{Read, Write};

fn read(path: &str, mut take: impl FnMut(&[u8])) -> Result<(), String> {
    let mut reader = open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer).map_err(of(path))? {
            0 => return Ok(()),
            count => take(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sums(name: &str, args: &[String], sum: fn(&str) -> Result<String, String>) -> Result<i32, String> {
    let flags = Flags::parse(args, "csbt", &[("check", 'c'), ("status", 's')])?;
    let mut out = output();
    let code = each(name, &or_stdin(flags.rest.clone()), |path| {
        if !flags.has('c') {
            return written(writeln!(out, "{}  {path}", sum(path)?));
        }
        let mut bad = 0;
        let mut text = String::new();
        open(path)?.read_to_string(&mut text).map_err(of(path))?;
        for line in text.lines() {
            let (wanted, file) = line.split_once(' ').ok_or("no checksum lines found")?;
            let file = file.trim_start_matches([' ', '*']);
            let good = sum(file).is_ok_and(|found| found == wanted);
            bad += usize::from(!good);
            if !flags.has('s') {
                written(writeln!(out, "{file}: {}", if good { "OK" } else { "FAILED" }))?;
            }
        }
        written(out.flush())?;
        if bad == 0 {
            Ok(())
        } else {
            Err(format!("WARNING: {bad} of {} computed checksums did NOT match", text.lines().count()))
        }
    })?;
    written(out.flush())?;
    Ok(code)
}

pub fn md5sum(args: &[String]) -> Result<i32, String> {
    use md5::{Digest, Md5};
    sums("md5sum", args, |path| {
        let mut hasher = Md5::new();
        read(path, |bytes| hasher.update(bytes))?;
        Ok(hex(&hasher.finalize()))
    })
}

pub fn sha256sum(args: &[String]) -> Result<i32, String> {
    use sha2::{Digest, Sha256};
    sums("sha256sum", args, |path| {
        let mut hasher = Sha256::new();
        read(path, |bytes| hasher.update(bytes))?;
        Ok(hex(&hasher.finalize()))
    })
}

fn whole(flags: &Flags) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for path in or_stdin(flags.rest.clone()) {
        read(&path, |bytes| all.extend_from_slice(bytes))?;
    }
    let skip = flags.value('s').or(flags.value('j')).map_or(Ok(0), number)?;
    let mut all = all.split_off(all.len().min(usize::try_from(skip).unwrap_or(usize::MAX)));
    if let Some(count) = flags.value('n').or(flags.value('N')) {
        all.truncate(usize::try_from(number(count)?).unwrap_or(usize::MAX));
    }
    Ok(all)
}

pub fn hexdump(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "Cvn:s:", &[])?;
    let bytes = whole(&flags)?;
    let mut out = output();
    for (n, line) in bytes.chunks(16).enumerate() {
        if flags.has('C') {
            let columns: Vec<String> =
                line.chunks(8).map(|half| half.iter().map(|b| format!("{b:02x} ")).collect()).collect();
            let text: String =
                line.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }).collect();
            written(writeln!(out, "{:08x}  {:<49} |{text}|", n * 16, columns.join(" ")))?;
        } else {
            let words: String = line
                .chunks(2)
                .map(|pair| format!(" {:04x}", u16::from(pair[0]) | pair.get(1).map_or(0, |b| u16::from(*b) << 8)))
                .collect();
            written(writeln!(out, "{:07x}{words}", n * 16))?;
        }
    }
    let width = if flags.has('C') { 8 } else { 7 };
    written(writeln!(out, "{:0width$x}", bytes.len()))?;
    written(out.flush())?;
    Ok(0)
}

pub fn od(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "cbxdvA:t:N:j:w:", &[])?;
    let bytes = whole(&flags)?;
    let kind = match flags.value('t') {
        Some(text) => text.to_owned(),
        None => match flags.last_of("cbxd") {
            Some('c') => "c",
            Some('b') => "o1",
            Some('x') => "x2",
            Some('d') => "u2",
            _ => "o2",
        }
        .to_owned(),
    };
    let (letter, size) = kind.split_at(1);
    let size: usize = if letter == "c" || letter == "a" {
        1
    } else {
        size.trim_end_matches('z').parse().unwrap_or(match size {
            "C" => 1,
            "S" => 2,
            "L" => 8,
            _ => 4,
        })
    };
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(format!("invalid type string '{kind}'"));
    }
    let address = |n: usize| match flags.value('A') {
        Some("n") => String::new(),
        Some("x") => format!("{n:06x}"),
        Some("d") => format!("{n:07}"),
        _ => format!("{n:07o}"),
    };
    let mut out = output();
    for (n, line) in bytes.chunks(16).enumerate() {
        let shown: Result<String, String> = line
            .chunks(size)
            .map(|part| {
                let value = part.iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
                let shift = 64 - 8 * u32::try_from(size).unwrap_or(8);
                let signed = (value << shift).cast_signed() >> shift;
                Ok(match letter {
                    "x" => format!(" {value:0width$x}", width = size * 2),
                    "o" => format!(" {value:0width$o}", width = (size * 8).div_ceil(3)),
                    "u" => format!(" {value:width$}", width = [0, 3, 5, 0, 10, 0, 0, 0, 20][size]),
                    "d" => format!(" {signed:width$}", width = [0, 4, 6, 0, 11, 0, 0, 0, 20][size]),
                    "c" | "a" => match part[0] {
                        0 => "  \\0".to_owned(),
                        7 => "  \\a".to_owned(),
                        8 => "  \\b".to_owned(),
                        9 => "  \\t".to_owned(),
                        10 => "  \\n".to_owned(),
                        11 => "  \\v".to_owned(),
                        12 => "  \\f".to_owned(),
                        13 => "  \\r".to_owned(),
                        b if b.is_ascii_graphic() || b == b' ' => format!("   {}", char::from(b)),
                        b => format!(" {b:03o}"),
                    },
                    _ => return Err(format!("invalid type string '{kind}'")),
                })
            })
            .collect();
        written(writeln!(out, "{}{}", address(n * 16), shown?))?;
    }
    let end = address(bytes.len());
    if !end.is_empty() {
        written(writeln!(out, "{end}"))?;
    }
    written(out.flush())?;
    Ok(0)
}
