//! What a guest that has escaped into its host process can reach: system calls are made there as if by it.

use super::fences::all_stand;
use sampan_tests::escaped::Escaped;
use sampan_tests::{Store, eventually, net};

const TCP: [u64; 2] = [libc::AF_INET as u64, libc::SOCK_STREAM as u64];
const UDP: [u64; 2] = [libc::AF_INET as u64, libc::SOCK_DGRAM as u64];
/// What landlock answers, and what seccomp does.
const ACCESS: i32 = libc::EACCES;
const PERMITTED: i32 = libc::EPERM;

/// An address of the loopback interface as the kernel takes it (ip(7)).
fn loopback(port: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&u16::try_from(libc::AF_INET).unwrap().to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
    bytes
}

#[test]
fn it_finds_no_file_beyond_its_tree() {
    let store = Store::shared(&["probe", "web"]);
    for image in ["probe forever", "web"] {
        let container = store.detached(image);
        eventually("it runs", || container.inspect("{{.State.Status}}") == "running");
        let record = store.root().join("containers").join(container.id()).join("record.json");
        let mut escaped = Escaped::from(&container);
        for path in ["/", "/etc/passwd", "/proc/self/environ", "/proc/1/status", "/dev/null", "/run", "/bin/true"] {
            assert_eq!(escaped.open(path), -i64::from(ACCESS), "{path}");
        }
        assert_eq!(escaped.open(record.to_str().unwrap()), -i64::from(ACCESS));
        let target = escaped.text("/tmp/escaped");
        let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
        assert_eq!(escaped.refused(libc::SYS_openat, &[libc::AT_FDCWD as u64, target, create, 0o600]), ACCESS);
        assert_eq!(escaped.refused(libc::SYS_mkdirat, &[libc::AT_FDCWD as u64, target, 0o700]), ACCESS);
        let passwd = escaped.text("/etc/passwd");
        assert_eq!(escaped.refused(libc::SYS_unlinkat, &[libc::AT_FDCWD as u64, passwd, 0]), ACCESS);
        let link = [libc::AT_FDCWD as u64, passwd, libc::AT_FDCWD as u64, target, 0];
        assert!([ACCESS, libc::EXDEV].contains(&escaped.refused(libc::SYS_linkat, &link)));
    }
}

#[test]
fn it_runs_no_program_and_reaches_no_process() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    eventually("it runs", || container.inspect("{{.State.Status}}") == "running");
    let keeper = u64::from(container.keeper());
    let mut escaped = Escaped::from(&container);
    let program = escaped.text("/bin/true");
    let end = escaped.bytes(&[0; 8]);
    let empty = escaped.text("");
    for (what, call, args) in [
        ("execve", libc::SYS_execve, vec![program, end, end]),
        ("execveat", libc::SYS_execveat, vec![0, empty, end, end, libc::AT_EMPTY_PATH as u64]),
        ("fork", libc::SYS_fork, vec![]),
        ("vfork", libc::SYS_vfork, vec![]),
        ("clone", libc::SYS_clone, vec![libc::SIGCHLD as u64]),
        ("kill", libc::SYS_kill, vec![keeper, 0]),
        ("tgkill", libc::SYS_tgkill, vec![keeper, keeper, libc::SIGKILL as u64]),
        ("ptrace", libc::SYS_ptrace, vec![libc::PTRACE_ATTACH as u64, keeper]),
        ("process_vm_readv", libc::SYS_process_vm_readv, vec![keeper, end, 0, end, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, vec![keeper]),
        ("unshare", libc::SYS_unshare, vec![libc::CLONE_NEWUSER as u64]),
        ("setns", libc::SYS_setns, vec![0, 0]),
        ("mount", libc::SYS_mount, vec![empty, program, empty]),
        ("chroot", libc::SYS_chroot, vec![program]),
        ("bpf", libc::SYS_bpf, vec![]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![8, end]),
        ("keyctl", libc::SYS_keyctl, vec![]),
        ("perf_event_open", libc::SYS_perf_event_open, vec![]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, vec![]),
        ("setuid", libc::SYS_setuid, vec![0]),
        ("capset", libc::SYS_capset, vec![end, end]),
        ("prctl", libc::SYS_prctl, vec![libc::PR_SET_DUMPABLE as u64, 1]),
        ("prlimit", libc::SYS_prlimit64, vec![0, 7, end, 0]),
        ("ioctl", libc::SYS_ioctl, vec![0, libc::TIOCSTI, end]),
        ("socket of the unix family", libc::SYS_socket, vec![libc::AF_UNIX as u64, libc::SOCK_STREAM as u64]),
        ("socket of the netlink family", libc::SYS_socket, vec![libc::AF_NETLINK as u64, libc::SOCK_RAW as u64]),
    ] {
        let error = escaped.refused(call, &args);
        assert!([PERMITTED, ACCESS, libc::ENOSYS].contains(&error), "{what}: error {error}");
    }
}

#[test]
fn without_egress_it_opens_no_socket_and_its_listeners_go_on() {
    let store = Store::shared(&["probe", "web", "serve"]);
    let (probe, web) = (store.detached("probe forever"), store.detached("-p 8000 web"));
    // A server of WASI 0.1, which is handed its sockets, one of them for a port that is not published.
    let server = store.detached("-p 7000 --expose 7001 serve");
    let port = server.port("7000");
    eventually("it listens", || net::is_open(port));
    for container in [&probe, &web, &server] {
        all_stand(container);
        assert!(container.inspect("{{json .Sampan.Fences.sockets}}").contains("none can be opened"));
        let mut escaped = Escaped::from(container);
        for kind in [TCP, UDP] {
            assert_eq!(escaped.refused(libc::SYS_socket, &kind), PERMITTED);
        }
        let address = escaped.bytes(&loopback(1));
        assert_eq!(escaped.refused(libc::SYS_connect, &[0, address, 16]), PERMITTED);
        assert_eq!(escaped.refused(libc::SYS_bind, &[0, address, 16]), PERMITTED);
    }
    net::get(web.port("8000"), "/").expect(200);
    assert_eq!(net::exchange(port, b"abc"), b"abc");
}

#[test]
fn with_egress_it_reaches_the_granted_ports_and_no_other() {
    let store = Store::shared(&["web", "tcp"]);
    let granted = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let web = store.detached(format!("-p 8000 --allow-net 127.0.0.1:{} web", port(&granted)));
    let shown = web.inspect("{{json .Sampan.Fences.sockets}}");
    assert!(shown.contains(&format!("TCP to ports {}", port(&granted))), "{shown}");
    let mut escaped = Escaped::from(&web);
    let socket = escaped.call(libc::SYS_socket, &TCP);
    assert!(socket >= 0, "{socket}");
    let (here, there) = (escaped.bytes(&loopback(port(&granted))), escaped.bytes(&loopback(port(&other))));
    let socket = socket.cast_unsigned();
    assert_eq!(escaped.refused(libc::SYS_connect, &[socket, there, 16]), ACCESS);
    assert_eq!(escaped.refused(libc::SYS_bind, &[socket, there, 16]), PERMITTED);
    assert_eq!(escaped.refused(libc::SYS_socket, &UDP), PERMITTED);
    assert_eq!(escaped.call(libc::SYS_connect, &[socket, here, 16]), 0);
    drop(escaped);
    // What cannot be fenced is said.
    let tcp = store.detached("-p 7000 tcp");
    let shown = tcp.inspect("{{json .Sampan.Fences.sockets}}");
    assert!(shown.contains("\"Stands\":false") && shown.contains("wasi:sockets"), "{shown}");
}
