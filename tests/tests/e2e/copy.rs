//! `cp` and `diff`: a container's files from outside.

use sampan_tests::{Container, Dir, Store};
use std::os::unix::fs::{PermissionsExt, symlink};

fn running(store: &Store) -> Container<'_> {
    store.detached("-v /volume toolbox sleep 1000")
}

fn stopped(store: &Store) -> Container<'_> {
    let container = store.container("stopped");
    store.sampan(format!("create --name {container} -v /volume toolbox sleep 1000")).ok();
    container
}

/// What a file of the container has in it.
fn read(store: &Store, container: &Container<'_>, path: &str) -> String {
    let there = Dir::new();
    store.sampan(format!("cp -q {container}:{path} {there}/file")).ok().stderr_is("");
    std::fs::read_to_string(there.join("file")).unwrap()
}

#[test]
fn files_and_directories_go_in_and_out_by_dockers_rules() {
    let store = Store::shared(&["toolbox"]);
    for container in [running(store), stopped(store)] {
        let dir = Dir::new().file("f", "one").file("d/a", "a").file("d/sub/b", "b");
        symlink("a", dir.join("d/link")).unwrap();
        std::fs::set_permissions(dir.join("d/a"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let cp = |from: &str, to: &str| store.sampan(format!("cp {from} {to}"));
        let into = |from: &str, to: &str| cp(&format!("{dir}/{from}"), &format!("{container}:{to}"));
        into("f", "/tmp/new").ok().stderr_has("Successfully copied");
        assert_eq!(read(store, &container, "/tmp/new"), "one");
        into("f", "tmp").ok();
        assert_eq!(read(store, &container, "/tmp/f"), "one");
        into("f", "/tmp/none/").fails(1).stderr_has("not there");
        into("f", "/none/f").fails(1).stderr_has("not there");
        into("none", "/tmp").fails(1).stderr_has("No such file");
        into("d", "/tmp/f").fails(1).stderr_has("directory");
        into("d", "/tmp/made").ok();
        assert_eq!(read(store, &container, "/tmp/made/sub/b"), "b");
        into("d", "/tmp/made").ok();
        assert_eq!(read(store, &container, "/tmp/made/d/a"), "a");
        into("d/.", "/volume").ok();
        assert_eq!(read(store, &container, "/volume/sub/b"), "b");
        let out = Dir::new();
        cp(&format!("{container}:/volume/."), &format!("{out}/new")).ok();
        assert_eq!(std::fs::read_link(out.join("new/link")).unwrap().to_str(), Some("a"));
        assert_eq!(std::fs::metadata(out.join("new/a")).unwrap().permissions().mode() & 0o777, 0o640);
        cp(&format!("{container}:/volume"), &out.to_string()).ok();
        assert_eq!(std::fs::read_to_string(out.join("volume/sub/b")).unwrap(), "b");
        // A link is copied as one, unless it shall be followed.
        cp(&format!("{container}:/volume/link"), &format!("{out}/link")).ok();
        assert!(out.join("link").is_symlink());
        cp(&format!("-L {container}:/volume/link"), &format!("{out}/followed")).ok();
        assert_eq!(std::fs::read_to_string(out.join("followed")).unwrap(), "a");
        cp(&format!("{container}:/none"), &out.to_string()).fails(1).stderr_has("No such file");
        cp(&format!("{container}:/etc/passwd"), &format!("{out}/passwd")).ok();
        assert!(out.join("passwd").is_file());
    }
    store.sampan("cp /etc/passwd /tmp/x").fails(1).stderr_has("CONTAINER:PATH");
    store.sampan("cp a:/x b:/x").fails(1).stderr_has("between two containers");
    store.sampan("cp no-such-container:/x /tmp/x").fails(1).stderr_has("no such container");
}

#[test]
fn what_was_copied_is_what_the_container_sees() {
    let store = Store::shared(&["toolbox"]);
    let container = stopped(store);
    let dir = Dir::new().file("f", "from outside\n");
    store.sampan(format!("cp -q {dir}/f {container}:/bin/new")).ok();
    store.sampan(format!("cp -q {dir}/f {container}:/volume")).ok();
    store.sampan(format!("start {container}")).ok();
    store.sampan(format!("exec {container} cat /bin/new /volume/f")).ok().stdout_is("from outside\nfrom outside\n");
    store.sampan(format!("exec {container} ls /bin/ls")).ok();
    store.sampan(format!("cp -q {dir}/f {container}:/etc/passwd")).ok();
    store
        .sampan(format!("exec {container} sh -c 'cat /etc/passwd; ls -ln /etc/passwd'"))
        .ok()
        .stdout_has("from outside");
}

#[test]
fn no_link_leads_out_of_a_container() {
    let store = Store::shared(&["toolbox"]);
    let container = running(store);
    let outside = Dir::new().file("secret", "secret").file("kept", "kept");
    // A guest can make no absolute links, but they can be copied.
    let dir = Dir::new().file("f", "new");
    symlink(format!("{outside}/secret"), dir.join("link")).unwrap();
    symlink(outside.path(), dir.join("dir")).unwrap();
    store.sampan(format!("cp -q {dir}/. {container}:/")).ok();
    let out = Dir::new();
    store.sampan(format!("cp -L {container}:/link {out}/stolen")).fails(1);
    store.sampan(format!("cp {container}:/dir/secret {out}/stolen")).fails(1);
    store.sampan(format!("cp {dir}/f {container}:/dir/kept")).fails(1);
    assert!(!out.join("stolen").exists());
    assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
}

#[test]
fn archives_go_through_pipes() {
    let store = Store::shared(&["toolbox"]);
    let container = running(store);
    let name = container.name();
    let dir = Dir::new().file("t/a", "a").file("t/b/c", "c");
    store.shell(&format!("tar -C {dir} -cf - t | sampan cp - {name}:/tmp")).ok();
    assert_eq!(read(store, &container, "/tmp/t/b/c"), "c");
    store.shell(&format!("sampan cp {name}:/tmp/t - | tar -tf - | sort")).ok().stdout_is("t\nt/a\nt/b\nt/b/c\n");
    store.shell(&format!("tar -C {dir} -cf - t | sampan cp - {name}:/tmp/none")).fails(1).stderr_has("no directory");
    // What is no archive, or half of one, leaves nothing.
    store.shell(&format!("echo no archive | sampan cp - {name}:/volume")).fails(1).stderr_has("no tar archive");
    let half = format!(
        "head -c 300000 /dev/zero > {dir}/t/z; tar -C {dir} -cf - t | head -c 100000 | sampan cp - {name}:/volume"
    );
    store.shell(&half).fails(1).stderr_has("no tar archive");
    store.sampan(format!("exec {container} ls -A /volume")).ok().stdout_is("");
}

#[test]
fn a_read_only_container_stays_as_it_is() {
    let store = Store::shared(&["toolbox"]);
    let container = store.detached("--read-only -v /volume toolbox sleep 1000");
    let dir = Dir::new().file("f", "x");
    store.sampan(format!("cp {dir}/f {container}:/tmp/f")).fails(1).stderr_has("Read-only file system");
    store.sampan(format!("cp {dir}/f {container}:/volume/f")).ok();
    store.sampan(format!("diff {container}")).ok().stdout_lacks("/tmp");
}

#[test]
fn without_root_it_is_the_same() {
    let store = Store::rootless(&["probe"]);
    let container = store.detached("-v /volume probe forever");
    // A file that the other user can read and a place where he may write.
    let out = store.root().parent().unwrap().to_owned();
    for at in ["", "volume/"] {
        store.sampan(format!("cp -q {container}:/probe.wasm {}/program", out.display())).ok();
        store.sampan(format!("cp -q {}/program {container}:/{at}copy.wasm", out.display())).ok();
        store.sampan(format!("exec {container} /{at}copy.wasm exit 4")).fails(4);
    }
    store.sampan(format!("stop {container}")).ok();
    store.sampan(format!("cp -q {}/program {container}:/again.wasm", out.display())).ok();
    store.sampan(format!("cp -q {container}:/again.wasm {}/back", out.display())).ok();
    assert_eq!(std::fs::read(out.join("back")).unwrap(), std::fs::read(out.join("program")).unwrap());
}

#[test]
fn what_a_container_has_changed_is_listed() {
    let store = Store::shared(&["toolbox"]);
    let container = store.detached("toolbox sleep 1000");
    store.sampan(format!("diff {container}")).ok().stdout_is("");
    let script = "echo x > /etc/passwd; echo x > /etc/new; rm /bin/ls; mkdir /data; echo x > /data/f";
    store.sampan(format!("exec {container} sh -c")).arg(script).ok();
    let wanted = "C /bin\nD /bin/ls\nA /data\nA /data/f\nC /etc\nA /etc/new\nC /etc/passwd\n";
    store.sampan(format!("diff {container}")).ok().stdout_is(wanted);
    store.sampan(format!("stop {container}")).ok();
    store.sampan(format!("container diff {container}")).ok().stdout_is(wanted);
    store.sampan("diff no-such-container").fails(1).stderr_has("no such container");
}
