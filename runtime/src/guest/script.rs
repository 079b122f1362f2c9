//! Scripts: files whose first line names the program that runs them (`#!`, execve(2)).

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// As many scripts that run scripts as Linux goes through.
pub(crate) const MOST_SCRIPTS: usize = 5;
/// So much of a first line is looked at, as on Linux.
pub(crate) const LINE: usize = 256;

/// The interpreter that a file beginning so names, and its one argument, which may have blanks in it.
pub(crate) fn interpreter(start: &[u8]) -> Option<(String, Option<String>)> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = Some(argument.trim().to_owned()).filter(|argument| !argument.is_empty());
    Some((interpreter.to_owned(), argument)).filter(|_| !interpreter.is_empty())
}

/// The first bytes of a file, as many as are looked at.
pub(crate) fn start_of(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(LINE);
    File::open(file)?.take(LINE as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// The words that run a script: the interpreter, its argument, the script's own path in place of its name, and the
/// script's arguments.
pub(crate) fn words((interpreter, argument): (String, Option<String>), path: String, args: &[String]) -> Vec<String> {
    [interpreter].into_iter().chain(argument).chain([path]).chain(args.iter().skip(1).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_have_one_argument() {
        let named = |text: &str| interpreter(text.as_bytes());
        assert_eq!(named("#!/bin/sh\nx"), Some(("/bin/sh".into(), None)));
        let env = Some(("/usr/bin/env".into(), Some("-S python3 -u".into())));
        assert_eq!(named("#! /usr/bin/env  -S python3 -u \n"), env);
        assert_eq!(named("#!\n"), None);
        assert_eq!(named("\0asm"), None);
    }
}
