//! The system calls that a host process needs, and no others: every other one answers EPERM.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Who is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// A host process: files, threads, and sockets of the internet families.
    Host,
    /// The compiling child: memory, threads and the files that it has.
    Compiler,
}

/// Puts the filter on this process, for good.
///
/// # Errors
/// When the kernel has no seccomp, in its own words.
pub fn apply(allow: Allow) -> Result<(), String> {
    // The main filter is the last: it lets no further one be added. The stricter answer of the two counts.
    let programs = [no_clone3(), main_filter(allow)];
    for program in programs {
        let program = program.map_err(|e| e.to_string())?;
        seccompiler::apply_filter(&program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

type Built = Result<BpfProgram, seccompiler::BackendError>;

fn main_filter(allow: Allow) -> Built {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = MEMORY_AND_THREADS.iter().map(|call| (*call, vec![])).collect();
    if allow == Allow::Host {
        rules.extend(FILES.iter().chain(SOCKETS).map(|call| (*call, vec![])));
        let family = |f: libc::c_int| only(0, Len::Dword, f.unsigned_abs().into());
        rules.insert(libc::SYS_socket, vec![family(libc::AF_INET)?, family(libc::AF_INET6)?]);
        let request = |r: u64| only(1, Len::Dword, r);
        rules.insert(
            libc::SYS_ioctl,
            [libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ, PAGEMAP_SCAN]
                .into_iter()
                .map(request)
                .collect::<Result<_, _>>()?,
        );
    }
    // A thread, never a process or a namespace.
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![Condition::new(0, Len::Qword, Op::MaskedEq(thread), thread)?])?],
    );
    let option = |o: libc::c_int| only(0, Len::Dword, o.unsigned_abs().into());
    rules.insert(libc::SYS_prctl, vec![option(libc::PR_SET_NAME)?, option(libc::PR_GET_NAME)?, option(PR_SET_VMA)?]);
    // Limits may be read, not set.
    rules.insert(libc::SYS_prlimit64, vec![only(2, Len::Qword, 0)?]);
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch()?)?.try_into()
}

/// clone3(2) hides its flags from a filter; told that there is none, the C library takes clone(2).
fn no_clone3() -> Built {
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let none = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, none, arch()?)?.try_into()
}

fn arch() -> Result<seccompiler::TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

fn only(argument: u8, length: Len, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![Condition::new(argument, length, Op::Eq, value)?])
}

/// ioctl(2) of `/proc/self/pagemap`, by which the engine finds the pages that an instance has written (Linux 6.7).
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const PR_SET_VMA: libc::c_int = 0x5356_4d41;

const MEMORY_AND_THREADS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
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
    libc::SYS_bind,
    libc::SYS_connect,
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

    #[test]
    fn the_filters_can_be_built() {
        assert!(!main_filter(Allow::Host).unwrap().is_empty());
        assert!(main_filter(Allow::Compiler).unwrap().len() < main_filter(Allow::Host).unwrap().len());
        assert!(!no_clone3().unwrap().is_empty());
    }
}
