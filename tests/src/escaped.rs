//! A guest that has escaped, as far as the kernel can tell: system calls made inside a container's host process, behind all
//! of its fences, by way of ptrace(2) from outside.

use crate::{Container, OrFail as _, fail};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The thread of a host process that takes its keeper's orders, under our hands until the value is dropped.
#[derive(Debug)]
pub struct Escaped {
    thread: libc::pid_t,
    registers: libc::user_regs_struct,
    memory: File,
    /// Where the next bytes go that a call is to read.
    free: u64,
}

impl Escaped {
    /// Takes over the host process of a container that runs.
    #[track_caller]
    #[must_use]
    pub fn from(container: &Container<'_>) -> Self {
        let thread = libc::pid_t::try_from(container.host()).or_fail("no such process");
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the call takes numbers.
        if unsafe { libc::ptrace(libc::PTRACE_ATTACH, thread, nothing, nothing) } != 0 {
            fail(format!("cannot trace {thread}: {}", std::io::Error::last_os_error()));
        }
        stopped(thread);
        let registers = registers(thread);
        let memory = File::options().read(true).write(true).open(format!("/proc/{thread}/mem"));
        // Far below what its stack has in use.
        let free = registers.rsp - 0x4000;
        Self { thread, registers, memory: memory.or_fail("cannot write its memory"), free }
    }

    /// Puts bytes into its memory; where.
    #[track_caller]
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.free;
        self.memory.write_all_at(bytes, at).or_fail("cannot write its memory");
        self.free += (bytes.len() as u64).next_multiple_of(16);
        at
    }

    /// Puts a string into its memory.
    #[track_caller]
    pub fn text(&mut self, text: &str) -> u64 {
        self.bytes(&[text.as_bytes(), &[0]].concat())
    }

    /// Makes a system call, and returns what the kernel answers: below zero is an error's number.
    #[track_caller]
    pub fn call(&mut self, number: libc::c_long, args: &[u64]) -> i64 {
        let arg = |n: usize| args.get(n).copied().unwrap_or(0);
        let registers = libc::user_regs_struct {
            rax: number.cast_unsigned(),
            orig_rax: u64::MAX,
            rdi: arg(0),
            rsi: arg(1),
            rdx: arg(2),
            r10: arg(3),
            r8: arg(4),
            r9: arg(5),
            // It waits in a system call, so the instruction before this one makes one.
            rip: self.registers.rip - 2,
            ..self.registers
        };
        set(self.thread, &registers);
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the call takes numbers.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.thread, nothing, nothing) };
        stopped(self.thread);
        self::registers(self.thread).rax.cast_signed()
    }

    /// The error of a call that was refused; a call that was not fails the test.
    #[track_caller]
    pub fn refused(&mut self, number: libc::c_long, args: &[u64]) -> i32 {
        match i32::try_from(self.call(number, args)) {
            Ok(error) if error < 0 => -error,
            answer => fail(format!("system call {number} was answered {answer:?}")),
        }
    }

    /// Opens a file for reading.
    #[track_caller]
    pub fn open(&mut self, path: &str) -> i64 {
        let path = self.text(path);
        self.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, libc::O_RDONLY as u64])
    }
}

impl Drop for Escaped {
    fn drop(&mut self) {
        set(self.thread, &self.registers);
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the call takes numbers.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, nothing, nothing) };
    }
}

#[track_caller]
fn stopped(thread: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status has a place to go.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    if waited != thread || !libc::WIFSTOPPED(status) {
        fail(format!("{thread} does not stop: {waited}, {status:x}"));
    }
}

fn registers(thread: libc::pid_t) -> libc::user_regs_struct {
    // SAFETY: registers are numbers, for which 0 is a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the registers have a place to go.
    unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers) };
    registers
}

fn set(thread: libc::pid_t, registers: &libc::user_regs_struct) {
    // SAFETY: the registers are only read.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, 0, std::ptr::from_ref(registers)) };
}
