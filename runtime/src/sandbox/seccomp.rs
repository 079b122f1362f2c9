//! The system calls that a host process needs, and no others: every other one answers EPERM.
//!
//! The filter is put together here rather than by seccompiler, which brings the types and the call: that compares a
//! call's number with each allowed one in turn, and the kernel walks the whole program for each of its calls when it
//! takes a filter (0.3 ms of every start). This one searches: ranges of numbers, halved at each step.

use seccompiler::{BpfProgram, sock_filter};

/// Who is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// A host process: files, threads, and sockets of the internet families.
    Host,
    /// The same with connections of TCP as its only new sockets: those that it listens with it has been handed.
    Connecting,
    /// The same without any new socket.
    Listening,
    /// The compiling child: memory, threads and the files that it has.
    Compiler,
}

/// Puts the filter on this process, for good.
///
/// # Errors
/// When the kernel has no seccomp, in its own words.
pub fn apply(allow: Allow) -> Result<(), String> {
    seccompiler::apply_filter(&filter(allow)).map_err(|e| e.to_string())
}

/// What a system call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// It may be made.
    Yes,
    /// It may be made when each of these holds.
    When(Vec<Condition>),
    /// There is no such call, it is told.
    Absent,
}

/// The low half of an argument, masked, is one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    argument: u32,
    mask: u32,
    values: Vec<u32>,
}

fn rules(allow: Allow) -> Vec<(u32, Rule)> {
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    let masked = |argument, mask, values: &[libc::c_int]| Condition {
        argument,
        mask,
        values: values.iter().map(|v| v.cast_unsigned()).collect(),
    };
    let when = |argument, values: &[libc::c_int]| Rule::When(vec![masked(argument, u32::MAX, values)]);
    let mut rules: Vec<(u32, Rule)> = MEMORY_AND_THREADS.iter().map(|call| (number(*call), Rule::Yes)).collect();
    if allow != Allow::Compiler {
        rules.extend(FILES.iter().chain(SOCKETS).map(|call| (number(*call), Rule::Yes)));
        let family = masked(0, u32::MAX, &[libc::AF_INET, libc::AF_INET6]);
        match allow {
            Allow::Host => {
                rules.push((number(libc::SYS_socket), Rule::When(vec![family])));
                rules.extend([libc::SYS_bind, libc::SYS_connect].map(|call| (number(call), Rule::Yes)));
            }
            Allow::Connecting => {
                // Beside the kind there are flags (SOCK_CLOEXEC, SOCK_NONBLOCK).
                let kind = masked(1, 0xf, &[libc::SOCK_STREAM]);
                rules.push((number(libc::SYS_socket), Rule::When(vec![family, kind])));
                rules.push((number(libc::SYS_connect), Rule::Yes));
            }
            Allow::Listening | Allow::Compiler => {}
        }
        let requests = [libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ, PAGEMAP_SCAN];
        let values = requests.iter().map(|r| u32::try_from(*r).unwrap_or_default()).collect();
        rules.push((number(libc::SYS_ioctl), Rule::When(vec![Condition { argument: 1, mask: u32::MAX, values }])));
    }
    // A thread, never a process or a namespace. clone3(2) hides its flags from a filter; told that there is none, the C
    // library takes clone(2).
    let thread = libc::CLONE_THREAD;
    rules.push((number(libc::SYS_clone), Rule::When(vec![masked(0, thread.cast_unsigned(), &[thread])])));
    rules.push((number(libc::SYS_clone3), Rule::Absent));
    rules.push((number(libc::SYS_prctl), when(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA])));
    // Limits may be read, not set: the new limit is no pointer.
    rules.push((number(libc::SYS_prlimit64), when(2, &[0])));
    // Its own threads' share of a busy machine: one process among others it cannot name. (The kernel lets it give way, not more.)
    rules.push((number(libc::SYS_setpriority), when(1, &[0])));
    rules.sort_by_key(|(call, _)| *call);
    rules
}

/// Neighbours with one answer, as one range of numbers.
fn ranges(rules: Vec<(u32, Rule)>) -> Vec<(u32, u32, Rule)> {
    let mut ranges: Vec<(u32, u32, Rule)> = Vec::new();
    for (call, rule) in rules {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == call && rule == Rule::Yes && *same == Rule::Yes => *last = call,
            _ => ranges.push((call, call, rule)),
        }
    }
    ranges
}

// Classic BPF (Linux: include/uapi/linux/bpf_common.h) and seccomp's return values (seccomp(2)).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ALLOWED: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const DENIED: u32 = ERRNO | libc::EPERM.cast_unsigned();
const ABSENT: u32 = ERRNO | libc::ENOSYS.cast_unsigned();
const KILLED: u32 = 0x8000_0000;

// Where struct seccomp_data has the number, the architecture and the low half of an argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(n: u32) -> u32 {
    16 + 8 * n + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// AUDIT_ARCH_… (include/uapi/linux/audit.h): calls of another architecture have other numbers.
#[cfg(target_arch = "x86_64")]
const OUR_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OUR_ARCH: u32 = 0xc000_00b7;

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k }
}

fn filter(allow: Allow) -> BpfProgram {
    let mut program =
        vec![plain(LOAD, ARCH), jump(JUMP_EQUAL, OUR_ARCH, 1, 0), plain(RETURN, KILLED), plain(LOAD, NUMBER)];
    program.extend(search(&ranges(rules(allow))));
    program
}

/// The program that finds the loaded number among `ranges`; every way through it ends in an answer.
fn search(ranges: &[(u32, u32, Rule)]) -> BpfProgram {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    match (ranges, right.first()) {
        ([], _) => vec![plain(RETURN, DENIED)],
        ([(first, last, rule)], _) => {
            let mut program = answer(rule);
            let skip = u8::try_from(program.len()).unwrap_or(u8::MAX);
            // Outside of the range: past the answer.
            program.splice(0..0, [jump(JUMP_AT_LEAST, *first, 0, skip + 1), jump(JUMP_GREATER, *last, skip, 0)]);
            program.push(plain(RETURN, DENIED));
            program
        }
        (_, Some((middle, _, _))) => {
            let (left, right) = (search(left), search(right));
            let mut program = vec![jump(JUMP_AT_LEAST, *middle, u8::try_from(left.len()).unwrap_or(u8::MAX), 0)];
            program.extend(left);
            program.extend(right);
            program
        }
        (_, None) => vec![plain(RETURN, DENIED)],
    }
}

fn answer(rule: &Rule) -> BpfProgram {
    match rule {
        Rule::Yes => vec![plain(RETURN, ALLOWED)],
        Rule::Absent => vec![plain(RETURN, ABSENT)],
        Rule::When(conditions) => {
            let mut program = vec![];
            for Condition { argument: n, mask, values } in conditions {
                program.extend([plain(LOAD, argument(*n)), plain(AND, *mask)]);
                // One that matches goes past the rest of them and the denial.
                let past = (1..=values.len()).rev().map(|past| u8::try_from(past).unwrap_or(u8::MAX));
                program.extend(values.iter().zip(past).map(|(value, past)| jump(JUMP_EQUAL, *value, past, 0)));
                program.push(plain(RETURN, DENIED));
            }
            program.push(plain(RETURN, ALLOWED));
            program
        }
    }
}

/// ioctl(2) of `/proc/self/pagemap`, by which the engine finds the pages that an instance has written (Linux 6.7).
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const PR_SET_VMA: libc::c_int = 0x5356_4d41;

const MEMORY_AND_THREADS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

const FILES: &[i64] = &[
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readlinkat,
    libc::SYS_renameat2,
    libc::SYS_renameat,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

const SOCKETS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, by the rules of classic BPF.
    fn run(program: &[sock_filter], arch: u32, number: i64, args: [u64; 3]) -> u32 {
        let load = |k: u32| match k {
            NUMBER => u32::try_from(number).unwrap(),
            ARCH => arch,
            k => (args[(k as usize - 16) / 8] & 0xffff_ffff) as u32,
        };
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            let test = match i.code {
                LOAD => {
                    a = load(i.k);
                    continue;
                }
                AND => {
                    a &= i.k;
                    continue;
                }
                RETURN => return i.k,
                JUMP_EQUAL => a == i.k,
                JUMP_GREATER => a > i.k,
                JUMP_AT_LEAST => a >= i.k,
                other => panic!("{other:#x}"),
            };
            at += usize::from(if test { i.jt } else { i.jf });
        }
    }

    #[test]
    fn every_number_gets_its_answer() {
        for allow in [Allow::Host, Allow::Connecting, Allow::Listening, Allow::Compiler] {
            let (program, rules) = (filter(allow), rules(allow));
            assert!(program.len() < 400, "{}", program.len());
            for number in 0..1000u32 {
                let wanted = match rules.iter().find(|(n, _)| *n == number).map(|(_, rule)| rule) {
                    Some(Rule::Yes) => ALLOWED,
                    Some(Rule::Absent) => ABSENT,
                    // With arguments that none of them takes.
                    Some(Rule::When(_)) | None => DENIED,
                };
                assert_eq!(run(&program, OUR_ARCH, number.into(), [0xdead, 0xdead, 0xdead]), wanted, "call {number}");
            }
            assert_eq!(run(&program, OUR_ARCH ^ 1, libc::SYS_read, [0; 3]), KILLED);
        }
    }

    #[test]
    fn arguments_decide_where_they_should() {
        let program = filter(Allow::Host);
        let ask = |number, args| run(&program, OUR_ARCH, number, args);
        assert_eq!(ask(libc::SYS_socket, [libc::AF_INET as u64, 1, 0]), ALLOWED);
        assert_eq!(ask(libc::SYS_socket, [libc::AF_UNIX as u64, 1, 0]), DENIED);
        assert_eq!(ask(libc::SYS_clone, [libc::CLONE_THREAD as u64 | libc::CLONE_VM as u64, 0, 0]), ALLOWED);
        assert_eq!(ask(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0]), DENIED);
        assert_eq!(ask(libc::SYS_clone3, [0; 3]), ABSENT);
        assert_eq!(ask(libc::SYS_prlimit64, [0, 3, 0]), ALLOWED);
        assert_eq!(ask(libc::SYS_prlimit64, [0, 3, 0x1000]), DENIED);
        assert_eq!(ask(libc::SYS_setpriority, [0, 0, 5]), ALLOWED);
        assert_eq!(ask(libc::SYS_setpriority, [0, 1, 5]), DENIED);
        for call in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_unshare, libc::SYS_bpf] {
            assert_eq!(ask(call, [0; 3]), DENIED);
        }
        assert_eq!(run(&filter(Allow::Compiler), OUR_ARCH, libc::SYS_openat, [0; 3]), DENIED);
        let tcp = [libc::AF_INET6 as u64, (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64, 0];
        let udp = [libc::AF_INET as u64, libc::SOCK_DGRAM as u64, 0];
        let ask = |allow, call, args| run(&filter(allow), OUR_ARCH, call, args);
        assert_eq!(ask(Allow::Connecting, libc::SYS_socket, tcp), ALLOWED);
        for (allow, call, args) in [
            (Allow::Connecting, libc::SYS_socket, udp),
            (Allow::Connecting, libc::SYS_bind, tcp),
            (Allow::Listening, libc::SYS_socket, tcp),
            (Allow::Listening, libc::SYS_connect, tcp),
            (Allow::Listening, libc::SYS_bind, tcp),
        ] {
            assert_eq!(ask(allow, call, args), DENIED, "{allow:?} {call}");
        }
    }
}
