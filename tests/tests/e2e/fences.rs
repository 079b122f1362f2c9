//! The fences around a sandbox, as the kernel sees them.

use sampan_tests::{Container, Store};

const FENCES: [&str; 5] = ["namespaces", "noNewPrivileges", "capabilities", "landlock", "seccomp"];

/// Fails the test unless `inspect` shows every fence standing.
pub fn all_stand(container: &Container<'_>) {
    for fence in FENCES {
        let shown = container.inspect(&format!("{{{{json .Sampan.Fences.{fence}}}}}"));
        assert!(shown.contains(r#""Stands":true"#), "{fence}: {shown}");
    }
}

/// A field of /proc/<pid>/status.
fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

#[test]
fn every_fence_stands_while_a_container_runs_and_is_told_when_it_has_ended() {
    let store = Store::shared(&["probe", "web"]);
    for image in ["probe forever", "web"] {
        let container = store.detached(image);
        all_stand(&container);
        store.sampan(format!("stop {container}")).ok();
        all_stand(&container);
    }
}

#[test]
fn the_kernel_says_the_same_of_the_host_process() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    let host = container.host();
    assert_eq!(status(host, "NoNewPrivs"), "1");
    assert_eq!(status(host, "Seccomp"), "2");
    // DAC_OVERRIDE and FOWNER: what root needs for the files of a guest's own tree.
    let kept = (1 << 1) | (1 << 3);
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        let has = u64::from_str_radix(&status(host, set), 16).unwrap();
        assert_eq!(has & !kept, 0, "{set} is {has:x}");
    }
}

#[test]
fn the_host_process_has_a_mount_namespace_of_its_own() {
    let store = Store::shared(&["probe"]);
    let (one, other) = (store.detached("probe forever"), store.detached("probe forever"));
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let all = [namespace("self"), namespace(&one.host().to_string()), namespace(&other.host().to_string())];
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
}

#[test]
fn the_host_process_has_no_descriptor_of_its_keepers_business() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    let files = std::fs::read_dir(format!("/proc/{}/fd", container.host())).unwrap();
    let open: Vec<String> =
        files.flatten().filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    for path in &open {
        let lock = path.ends_with("/lock") || path.ends_with(".log") || path.ends_with("/sock");
        assert!(!lock, "{path} among {open:?}");
        let of_the_host = path.starts_with("/etc") || path.starts_with("/home") || path == "/";
        assert!(!of_the_host, "{path} among {open:?}");
    }
}

#[test]
fn compiled_code_is_not_writable_and_the_stack_not_executable() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", container.host())).unwrap();
    let both: Vec<&str> =
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|m| m.starts_with("rwx"))).collect();
    assert!(both.is_empty(), "{both:?}");
    assert!(maps.contains(".cwasm"), "the code is mapped from its file: {maps}");
}

#[test]
fn info_tells_what_this_machine_can_do() {
    let store = Store::shared(&[]);
    let info = store.sampan("info -f json").ok().json();
    for fence in ["namespaces", "landlock", "seccomp", "overlay"] {
        assert_eq!(info["Fences"][fence]["Available"], true, "{info}");
    }
    store.sampan("info").ok().stdout_has("Fences:\n");
}
