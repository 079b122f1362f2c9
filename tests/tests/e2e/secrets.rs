//! Secrets: what a guest may know and nobody else.

use sampan_tests::{Dir, Store};

/// All that is written down of containers, and what `inspect` says.
fn written(dir: &std::path::Path, into: &mut Vec<u8>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            written(&entry.path(), into);
        } else if kind.is_file() {
            into.extend(std::fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn a_secret_is_seen_by_the_guest_and_written_nowhere() {
    let store = Store::fresh(&["toolbox"]);
    let files = Dir::new().file("key", "squeamish ossifrage\n").file("token", "xyzzy plugh\n");
    let flags = format!(
        "--secret id=key,src={files}/key --secret id=other,src={files}/key,target=/etc/app/key \
         --secret id=TOKEN,src={files}/token,type=env"
    );
    let script = "cat /run/secrets/key /etc/app/key; echo $TOKEN | tr a-z A-Z; echo x 2>&1 > /run/secrets/key || echo kept; \
                  cat /run/secrets/key; echo ready; sleep 600";
    let container = store.container("secrets");
    store.sampan(format!("run -d --allow-spawn --name {container} {flags} toolbox sh -c")).arg(script).ok();
    container.says("ready");
    let said = container.logs();
    let seen = "squeamish ossifrage\nsqueamish ossifrage\nXYZZY PLUGH\n";
    assert!(said.stdout.starts_with(seen) && said.stdout.ends_with("kept\nsqueamish ossifrage\nready\n"), "{said:?}");
    // Whoever works inside sees it too, after a change of the file the new one.
    store.sampan(format!("exec {container} sh -c 'echo $TOKEN'")).ok().stdout_is("xyzzy plugh\n");

    let inspected = store.sampan(format!("inspect {container}")).ok();
    let inspected = inspected.stdout_has("TOKEN=(secret)").stdout_has("\"Target\": \"/etc/app/key\"");
    inspected.stdout_lacks("xyzzy").stdout_lacks("squeamish");
    // What it says it has said; beside the log nothing has it.
    let mut all = Vec::new();
    let dir = store.root().join("containers").join(container.id());
    for entry in std::fs::read_dir(&dir).unwrap().flatten().filter(|e| !e.file_name().to_string_lossy().contains("log"))
    {
        if entry.file_type().unwrap().is_dir() {
            written(&entry.path(), &mut all);
        } else {
            all.extend(std::fs::read(entry.path()).unwrap());
        }
    }
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("dev.sampan.secrets") && !text.contains("xyzzy") && !text.contains("squeamish"), "{text}");
    store.sampan(format!("commit {container} copied")).ok();
    store.sampan("run --rm --allow-spawn copied sh -c").arg("cat /etc/app/key; echo [$TOKEN]").ok().stdout_is("[]\n");

    // A start reads the files anew.
    std::fs::write(files.join("key"), "new\n").unwrap();
    store.sampan(format!("restart -t 0 {container}")).ok();
    store.sampan(format!("exec {container} cat /etc/app/key")).ok().stdout_is("new\n");
    store.sampan(format!("kill {container}")).ok();
}

#[test]
fn secrets_that_are_none_are_refused() {
    let store = Store::shared(&["hello"]);
    let files = Dir::new().file("large", "x".repeat(500_001));
    for (flag, words) in [
        ("id=key,src=/none".to_owned(), "there is no file /none"),
        ("id=key".to_owned(), "src=FILE"),
        (format!("id=../key,src={files}/large"), "id=NAME"),
        (format!("id=key,src={files}/large,mode=0400"), "mode=0400"),
        (format!("id=key,src={files}/large"), "more than 500000 bytes"),
        (format!("id=key,src={files}/large --secret id=key,src={files}/large"), "another"),
    ] {
        store.sampan(format!("run --rm --secret {flag} hello")).fails(125).stderr_has(words);
    }
}
