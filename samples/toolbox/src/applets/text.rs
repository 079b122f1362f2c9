//! Commands on text.

use super::{Flags, chomp, each, lines, number, of, open, or_stdin, output, written};
use crate::sh::pattern;
use std::fs::File;
use std::io::{self, Read, Write};

pub fn cat(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "nuev", &[])?;
    let numbers = flags.has('n');
    let mut count = 0u64;
    let mut out = io::stdout().lock();
    each("cat", &or_stdin(flags.rest), |path| {
        if numbers {
            let (mut all, mut line) = (lines(path)?, Vec::new());
            while all.next(&mut line)? {
                count += 1;
                written(write!(out, "{count:6}\t").and_then(|()| out.write_all(&line)))?;
            }
            return Ok(());
        }
        copy(
            &mut *open(path)
                .map_err(|words| format!("can't open '{path}': {}", words.trim_start_matches(&format!("{path}: "))))?,
            &mut out,
        )
    })
}

/// Copies everything, in pieces of a pipe's size.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<(), String> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return written(to.flush()),
            Ok(count) => written(to.write_all(&buffer[..count]))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("read error: {}", crate::sys::words(&error))),
        }
    }
}

/// `-N` as `-n N`, which head and tail take.
fn with_number(args: &[String]) -> Vec<String> {
    let digits =
        |arg: &String| arg.strip_prefix('-').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    args.iter().map(|arg| if digits(arg) { format!("-n{}", &arg[1..]) } else { arg.clone() }).collect()
}

pub fn head(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(&with_number(args), "n:c:qv", &[("lines", 'n'), ("bytes", 'c')])?;
    let paths = or_stdin(flags.rest.clone());
    let names = (paths.len() > 1 && !flags.has('q')) || flags.has('v');
    let mut out = output();
    let code = each("head", &paths, |path| {
        if names {
            written(writeln!(out, "==> {path} <=="))?;
        }
        if let Some(bytes) = flags.value('c') {
            return copy(&mut open(path)?.take(number(bytes)?), &mut out);
        }
        let count = flags.value('n').unwrap_or("10");
        let (mut all, mut line) = (lines(path)?, Vec::new());
        if let Some(but) = count.strip_prefix('-') {
            let mut kept = std::collections::VecDeque::new();
            let but = number(but)?;
            while all.next(&mut line)? {
                kept.push_back(std::mem::take(&mut line));
                if kept.len() as u64 > but {
                    written(out.write_all(&kept.pop_front().unwrap_or_default()))?;
                }
            }
            return Ok(());
        }
        let mut left = number(count)?;
        while left > 0 && all.next(&mut line)? {
            written(out.write_all(&line))?;
            left -= 1;
        }
        Ok(())
    })?;
    written(out.flush())?;
    Ok(code)
}

pub fn tail(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(&with_number(args), "n:c:qvf", &[("lines", 'n'), ("bytes", 'c')])?;
    if flags.has('f') {
        return Err("-f: following a file is not supported".to_owned());
    }
    let paths = or_stdin(flags.rest.clone());
    let names = (paths.len() > 1 && !flags.has('q')) || flags.has('v');
    let mut out = output();
    let code = each("tail", &paths, |path| {
        if names {
            written(writeln!(out, "==> {path} <=="))?;
        }
        let (count, by_bytes) = match (flags.value('c'), flags.value('n')) {
            (Some(count), _) => (count, true),
            (None, count) => (count.unwrap_or("10"), false),
        };
        let from_start = count.strip_prefix('+');
        let wanted = number(from_start.unwrap_or(count).trim_start_matches('-'))?;
        let mut kept: std::collections::VecDeque<Vec<u8>> = std::collections::VecDeque::new();
        if by_bytes {
            let mut all = Vec::new();
            open(path)?.read_to_end(&mut all).map_err(of(path))?;
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let start = if from_start.is_some() { wanted.saturating_sub(1) } else { all.len().saturating_sub(wanted) };
            return written(out.write_all(all.get(start..).unwrap_or_default()));
        }
        let (mut all, mut line, mut seen) = (lines(path)?, Vec::new(), 0u64);
        while all.next(&mut line)? {
            seen += 1;
            if from_start.is_some() {
                if seen >= wanted {
                    written(out.write_all(&line))?;
                }
                continue;
            }
            kept.push_back(std::mem::take(&mut line));
            if kept.len() as u64 > wanted {
                kept.pop_front();
            }
        }
        kept.iter().try_for_each(|line| written(out.write_all(line)))
    })?;
    written(out.flush())?;
    Ok(code)
}

pub fn wc(args: &[String]) -> Result<i32, String> {
    let mut flags = Flags::parse(args, "clwmL", &[("lines", 'l'), ("words", 'w'), ("bytes", 'c')])?;
    let named = !flags.rest.is_empty();
    let paths = or_stdin(std::mem::take(&mut flags.rest));
    let wanted: Vec<char> = if "lwmcL".chars().any(|c| flags.has(c)) {
        "lwmcL".chars().filter(|c| flags.has(*c)).collect()
    } else {
        vec!['l', 'w', 'c']
    };
    let mut total = [0u64; 5];
    let alone = paths.len() == 1;
    let show = |counts: &[u64; 5], name: &str| {
        let numbers: Vec<String> = wanted
            .iter()
            .map(|c| counts["lwmcL".find(*c).unwrap_or(0)])
            .map(|n| if wanted.len() == 1 && alone { n.to_string() } else { format!("{n:9}") })
            .collect();
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        written(writeln!(io::stdout(), "{}{name}", numbers.join("")))
    };
    let code = each("wc", &paths, |path| {
        let mut counts = [0u64; 5];
        let mut reader = open(path)?;
        let mut buffer = vec![0; 64 << 10];
        let (mut in_word, mut column) = (false, 0u64);
        loop {
            let count = reader.read(&mut buffer).map_err(of(path))?;
            if count == 0 {
                break;
            }
            counts[3] += count as u64;
            for byte in &buffer[..count] {
                let blank = byte.is_ascii_whitespace();
                counts[1] += u64::from(in_word && blank);
                in_word = !blank;
                // Not the following bytes of a character.
                let begins = byte & 0xc0 != 0x80;
                counts[2] += u64::from(begins);
                if *byte == b'\n' {
                    counts[0] += 1;
                    counts[4] = counts[4].max(column);
                    column = 0;
                } else {
                    column += u64::from(begins);
                }
            }
        }
        counts[1] += u64::from(in_word);
        counts[4] = counts[4].max(column);
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
        show(&counts, if named { path } else { "" })
    })?;
    if !alone {
        show(&total, "total")?;
    }
    Ok(code)
}

/// The part of a line that a sort key means.
fn key<'l>(line: &'l str, spec: Option<(usize, Option<usize>)>, separator: Option<char>) -> &'l str {
    let Some((from, to)) = spec else { return line };
    let mut starts = vec![0];
    match separator {
        Some(c) => starts.extend(line.match_indices(c).map(|(n, _)| n + c.len_utf8())),
        None => {
            let bytes = line.as_bytes();
            starts.extend((1..bytes.len()).filter(|n| bytes[*n] == b' ' && bytes[n - 1] != b' '));
        }
    }
    let start = starts.get(from.saturating_sub(1)).copied().unwrap_or(line.len());
    let end = to.and_then(|to| starts.get(to)).map_or(line.len(), |end| match separator {
        Some(c) => end - c.len_utf8(),
        None => *end,
    });
    line.get(start..end.max(start)).unwrap_or_default()
}

pub fn sort(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "nrufbdisk:t:o:c", &[("numeric-sort", 'n'), ("reverse", 'r'), ("unique", 'u')])?;
    let mut all = Vec::new();
    for path in or_stdin(flags.rest.clone()) {
        let (mut reader, mut line) = (lines(&path)?, Vec::new());
        while reader.next(&mut line)? {
            all.push(String::from_utf8_lossy(chomp(&line)).into_owned());
        }
    }
    let separator = flags.value('t').and_then(|t| t.chars().next());
    let mut specs = Vec::new();
    for text in flags.values('k') {
        let letters: String = text.chars().filter(char::is_ascii_alphabetic).collect();
        let mut fields = text.split(',').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().map_err(|_| format!("invalid key '{text}'"))
        });
        let from = fields.next().unwrap_or(Ok(1))?;
        specs.push((Some((from, fields.next().transpose()?)), letters));
    }
    if specs.is_empty() {
        specs.push((None, String::new()));
    }
    let value = |text: &str| {
        let text = text.trim_start();
        let end = text.char_indices().find(|(n, c)| !c.is_ascii_digit() && *c != '.' && !(*n == 0 && *c == '-'));
        text[..end.map_or(text.len(), |(n, _)| n)].parse::<f64>().unwrap_or(0.0)
    };
    let compare = |a: &String, b: &String| {
        for (spec, letters) in &specs {
            let on = |letter: char| if letters.is_empty() { flags.has(letter) } else { letters.contains(letter) };
            let (x, y) = (key(a, *spec, separator), key(b, *spec, separator));
            let (x, y) = if on('b') { (x.trim_start(), y.trim_start()) } else { (x, y) };
            let order = if on('n') {
                value(x).total_cmp(&value(y))
            } else if on('f') {
                x.to_uppercase().cmp(&y.to_uppercase())
            } else {
                x.cmp(y)
            };
            let order = if on('r') { order.reverse() } else { order };
            if order.is_ne() {
                return order;
            }
        }
        std::cmp::Ordering::Equal
    };
    if flags.has('c') {
        return Ok(i32::from(!all.is_sorted_by(|a, b| compare(a, b).is_le())));
    }
    let whole = |a: &String, b: &String| {
        let order = a.cmp(b);
        if flags.has('r') { order.reverse() } else { order }
    };
    all.sort_by(|a, b| {
        compare(a, b)
            .then_with(|| if flags.has('s') || flags.has('u') { std::cmp::Ordering::Equal } else { whole(a, b) })
    });
    if flags.has('u') {
        all.dedup_by(|b, a| compare(a, b).is_eq());
    }
    let mut text = all.join("\n");
    if !all.is_empty() {
        text.push('\n');
    }
    match flags.value('o') {
        Some(path) => std::fs::write(path, text).map_err(of(path))?,
        None => written(io::stdout().write_all(text.as_bytes()))?,
    }
    Ok(0)
}

pub fn uniq(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "cduif:s:", &[])?;
    let skip = |letter| flags.value(letter).map_or(Ok(0), number).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (fields, chars) = (skip('f')?, skip('s')?);
    let path = flags.rest.first().map_or("-", String::as_str);
    let mut out: Box<dyn Write> = match flags.rest.get(1) {
        Some(path) => Box::new(File::create(path).map_err(of(path))?),
        None => Box::new(output()),
    };
    let meaning = |line: &str| {
        let mut rest = line;
        for _ in 0..fields {
            rest = rest.trim_start();
            rest = rest.find(' ').map_or("", |end| &rest[end..]);
        }
        let rest: String = rest.chars().skip(chars).collect();
        if flags.has('i') { rest.to_lowercase() } else { rest }
    };
    let mut last: Option<(String, u64)> = None;
    let mut say = |last: &Option<(String, u64)>| match last {
        Some((_, 1)) if flags.has('d') => Ok(()),
        Some((_, 2..)) if flags.has('u') => Ok(()),
        Some((line, count)) if flags.has('c') => written(writeln!(out, "{count:7} {line}")),
        Some((line, _)) => written(writeln!(out, "{line}")),
        None => Ok(()),
    };
    let (mut reader, mut line) = (lines(path)?, Vec::new());
    while reader.next(&mut line)? {
        let text = String::from_utf8_lossy(chomp(&line)).into_owned();
        match &mut last {
            Some((before, count)) if meaning(before) == meaning(&text) => *count += 1,
            _ => {
                say(&last)?;
                last = Some((text, 1));
            }
        }
    }
    say(&last)?;
    written(out.flush())?;
    Ok(0)
}

/// The characters that a set of `tr` means.
fn set(text: &str) -> Vec<char> {
    let mut bytes = Vec::new();
    super::printf::escaped(text, &mut bytes);
    let chars: Vec<char> = String::from_utf8_lossy(&bytes).chars().collect();
    let mut all = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if chars[at] == '['
            && chars.get(at + 1) == Some(&':')
            && let Some(end) = (at + 2..chars.len()).find(|n| chars[*n] == ':' && chars.get(n + 1) == Some(&']'))
        {
            let name: String = chars[at + 2..end].iter().collect();
            all.extend((0..128u8).map(char::from).filter(|c| pattern::class(*c, &name)));
            at = end + 2;
        } else if chars.get(at + 1) == Some(&'-') && at + 2 < chars.len() {
            all.extend(chars[at]..=chars[at + 2]);
            at += 3;
        } else {
            all.push(chars[at]);
            at += 1;
        }
    }
    all
}

pub fn tr(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "cCds", &[])?;
    let from = set(flags.rest.first().ok_or("missing operand")?);
    let to = flags.rest.get(1).map(|text| set(text));
    if to.is_none() && !flags.has('d') && !flags.has('s') {
        return Err("missing operand".to_owned());
    }
    let complement = flags.has('c') || flags.has('C');
    let selected = |c: char| from.contains(&c) != complement;
    let squeezed = match (&to, flags.has('d')) {
        (Some(to), _) => to.clone(),
        (None, _) => from.clone(),
    };
    let mut text = Vec::new();
    let mut out = output();
    let mut last = None;
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = input.read(&mut buffer).map_err(of("stdin"))?;
        text.extend_from_slice(&buffer[..count]);
        // A character that is not all there yet waits for its rest.
        let whole = match std::str::from_utf8(&text) {
            Err(error) if count > 0 && error.error_len().is_none() => error.valid_up_to(),
            _ => text.len(),
        };
        let mut result = String::with_capacity(whole);
        for c in String::from_utf8_lossy(&text[..whole]).chars() {
            let mut new = c;
            if selected(c) {
                if flags.has('d') {
                    continue;
                }
                if let Some(to) = &to {
                    let place = if complement { usize::MAX } else { from.iter().rposition(|f| *f == c).unwrap_or(0) };
                    new = to.get(place).or(to.last()).copied().unwrap_or(c);
                }
            }
            let squeeze = flags.has('s') && if to.is_none() { selected(c) } else { squeezed.contains(&new) };
            if !(squeeze && last == Some(new)) {
                result.push(new);
            }
            last = Some(new);
        }
        written(out.write_all(result.as_bytes()))?;
        text.drain(..whole);
        if count == 0 {
            break;
        }
    }
    written(out.flush())?;
    Ok(0)
}

pub fn cut(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "d:f:c:b:s", &[("delimiter", 'd'), ("fields", 'f')])?;
    let list = ['f', 'c', 'b']
        .into_iter()
        .find_map(|l| flags.value(l))
        .ok_or("expected a list of bytes, characters, or fields")?;
    let mut ranges = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let end = |text: &str, open| if text.is_empty() { Ok(open) } else { number(text) };
        ranges.push((end(from, 1)?, end(to, u64::MAX)?));
    }
    let wanted = |n: usize| ranges.iter().any(|(from, to)| (*from..=*to).contains(&(n as u64 + 1)));
    let delimiter = flags.value('d').unwrap_or("\t");
    let mut out = output();
    let code = each("cut", &or_stdin(flags.rest.clone()), |path| {
        let (mut all, mut line) = (lines(path)?, Vec::new());
        while all.next(&mut line)? {
            let text = String::from_utf8_lossy(chomp(&line)).into_owned();
            let result = if flags.value('f').is_some() {
                if !text.contains(delimiter) {
                    if flags.has('s') {
                        continue;
                    }
                    text
                } else {
                    let fields = text.split(delimiter).enumerate().filter(|(n, _)| wanted(*n)).map(|(_, field)| field);
                    fields.collect::<Vec<_>>().join(delimiter)
                }
            } else {
                text.chars().enumerate().filter(|(n, _)| wanted(*n)).map(|(_, c)| c).collect()
            };
            written(writeln!(out, "{result}"))?;
        }
        Ok(())
    })?;
    written(out.flush())?;
    Ok(code)
}

pub fn tee(args: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(args, "ai", &[("append", 'a')])?;
    let mut files = Vec::new();
    let code = each("tee", &flags.rest, |path| {
        let file = File::options().create(true).write(true).append(flags.has('a')).truncate(!flags.has('a')).open(path);
        files.push(file.map_err(of(path))?);
        Ok(())
    })?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = io::stdin().read(&mut buffer).map_err(of("stdin"))?;
        if count == 0 {
            return Ok(code);
        }
        for file in &mut files {
            written(file.write_all(&buffer[..count]))?;
        }
        let mut out = io::stdout();
        written(out.write_all(&buffer[..count]).and_then(|()| out.flush()))?;
    }
}

pub fn basename(args: &[String]) -> Result<i32, String> {
    let path = args.get(1).ok_or("missing operand")?;
    let trimmed = path.trim_end_matches('/');
    let name = trimmed.rsplit('/').next().unwrap_or_default();
    let name = if name.is_empty() && path.starts_with('/') { "/" } else { name };
    let name =
        args.get(2).and_then(|suffix| name.strip_suffix(suffix.as_str())).filter(|n| !n.is_empty()).unwrap_or(name);
    written(writeln!(io::stdout(), "{name}"))?;
    Ok(0)
}

pub fn dirname(args: &[String]) -> Result<i32, String> {
    let path = args.get(1).ok_or("missing operand")?;
    let trimmed = path.trim_end_matches('/');
    let directory = match trimmed.rfind('/') {
        None if trimmed.is_empty() && path.starts_with('/') => "/",
        None => ".",
        Some(end) => match trimmed[..end].trim_end_matches('/') {
            "" => "/",
            directory => directory,
        },
    };
    written(writeln!(io::stdout(), "{directory}"))?;
    Ok(0)
}
