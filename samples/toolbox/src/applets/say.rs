//! `echo`, `yes` and others that only say something.

use std::io::Write;

/// `echo [-neE] …`, as BusyBox has it: a backslash means something after `-e` only.
pub fn echo(args: &[String], out: &mut Vec<u8>) -> Result<i32, String> {
    let (mut newline, mut escapes) = (true, false);
    let mut rest = args.get(1..).unwrap_or_default();
    while let [flag, more @ ..] = rest {
        let letters = flag.strip_prefix('-').unwrap_or_default();
        if letters.is_empty() || !letters.chars().all(|c| "neE".contains(c)) {
            break;
        }
        for letter in letters.chars() {
            match letter {
                'n' => newline = false,
                letter => escapes = letter == 'e',
            }
        }
        rest = more;
    }
    let text = rest.join(" ");
    if escapes {
        if super::printf::escaped(&text, out) {
            return Ok(0);
        }
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    if newline {
        out.push(b'\n');
    }
    Ok(0)
}

/// `yes [WORDS]`.
pub fn yes(args: &[String]) -> Result<i32, String> {
    let words = if args.len() > 1 { args[1..].join(" ") } else { "y".to_owned() };
    let line = format!("{words}\n");
    let block = line.repeat((8192 / line.len()).max(1));
    let mut out = super::output();
    loop {
        super::written(out.write_all(block.as_bytes()))?;
    }
}
