//! The shell beside dash: the same scripts, with the same output and exit codes. Programs are those of this machine.

use std::io::Write;
use std::process::{Command, Stdio};

/// What a script says and how it ends.
fn run(program: &str, name: &str, script: &str, input: Option<&str>) -> (String, i32) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.arg0(name).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    match input {
        None => command.args(["-c", script, "sh", "one", "two words", "three"]),
        Some(_) => &mut command,
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.unwrap_or_default().to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

fn ours(script: &str) -> (String, i32) {
    run(env!("CARGO_BIN_EXE_toolbox"), "sh", script, None)
}

#[test]
fn the_same_as_dash() {
    if !std::path::Path::new("/usr/bin/dash").exists() {
        assert!(std::env::var_os("CI").is_none(), "dash is not installed");
        return;
    }
    let mut differences = Vec::new();
    for script in SCRIPTS.split("\n---\n").map(str::trim).filter(|s| !s.is_empty()) {
        let (wanted, found) = (run("/usr/bin/dash", "sh", script, None), ours(script));
        if wanted != found {
            differences.push(format!("{script}\n  dash: {wanted:?}\n  ours: {found:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

const SCRIPTS: &str = include_str!("scripts.txt");

#[test]
fn what_commands_leave_of_standard_input_is_for_the_shell() {
    let script = "echo first\nread line\nof the script\necho \"got $line\"\nif true\nthen\n  echo inner\nfi\ncat <<END\ntext\nEND\nexit 3\necho never\n";
    let (out, code) = run(env!("CARGO_BIN_EXE_toolbox"), "sh", "", Some(script));
    assert_eq!((out.as_str(), code), ("first\ngot of the script\ninner\ntext\n", 3));
}

#[test]
fn what_dash_does_otherwise() {
    for (script, out, code) in [
        ("echo 'a\\nb'", "a\\nb\n", 0),
        ("echo -e 'a\\nb'", "a\nb\n", 0),
        ("x=banana; echo ${x/an/AN} ${x//a/o} ${x:1:3}", "bANana bonono ana\n", 0),
        ("none-such-command", "", 127),
        ("cat /etc/passwd > /dev/null; echo $?", "0\n", 0),
        ("seq 100000 | while read n; do :; done; echo done", "done\n", 0),
        ("x=$(for i in $(seq 30000); do echo $i; done | cat); echo ${#x}", "168893\n", 0),
        ("while :; do echo y; done | head -n 2", "y\ny\n", 0),
        ("f() { while read x; do echo \"<$x>\"; done; }; echo a | f | f", "<<a>>\n", 0),
    ] {
        assert_eq!(ours(script), (out.to_owned(), code), "{script}");
    }
}
