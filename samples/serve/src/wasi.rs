//! All of it, since nothing of it is for another system.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::{Duration, Instant};

// What the C library has, and Rust's does not: poll(2) as wasi-libc makes it of `poll_oneoff`.
#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;
const POLLOUT: i16 = 2;
const POLLHUP: i16 = 0x2000;
const MSG_PEEK: c_int = 1;
const MSG_WAITALL: c_int = 2;

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: usize, timeout: c_int) -> c_int;
    fn recv(fd: c_int, buffer: *mut u8, length: usize, flags: c_int) -> isize;
    fn accept(fd: c_int, address: *mut u8, length: *mut u32) -> c_int;
}

fn poll_all(fds: &mut [PollFd], timeout: c_int) -> io::Result<usize> {
    // SAFETY: the array is as long as it is said to be.
    let ready = unsafe { poll(fds.as_mut_ptr(), fds.len(), timeout) };
    usize::try_from(ready).map_err(|_| io::Error::last_os_error())
}

pub fn main() -> io::Result<()> {
    let count: RawFd = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    // SAFETY: whoever sets the variable has handed over these descriptors, and nobody else has taken them.
    let mut listeners: Vec<_> = (3..3 + count).map(|fd| unsafe { TcpListener::from_raw_fd(fd) }).collect();
    println!("listening on {}", std::env::var("LISTEN_FDNAMES").unwrap_or_default());
    let arg = std::env::args().nth(1).unwrap_or_default();
    if arg == "look" {
        return look(&listeners);
    }
    let listener = listeners.drain(..).next().ok_or(io::Error::other("no socket was handed over"))?;
    let ended = match arg.as_str() {
        "" => echo(&listener),
        "many" => many(&listener),
        "fixed" => fixed(&listener),
        "hungry" => hungry(&listener),
        other => Err(io::Error::other(format!("unknown: {other}"))),
    };
    match ended {
        // The container is being stopped.
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            println!("stopped");
            Ok(())
        }
        other => other,
    }
}

fn echo(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut peer, _) = listener.accept()?;
        let mut buffer = vec![0; 64 << 10];
        // A peer that goes away without a word is its own affair.
        while let Ok(count @ 1..) = peer.read(&mut buffer) {
            if peer.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    }
}

struct Peer {
    stream: TcpStream,
    /// What is to go back.
    back: VecDeque<u8>,
    ended: bool,
}

fn many(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut fds = vec![PollFd { fd: listener.as_raw_fd(), events: POLLIN, revents: 0 }];
        fds.extend(peers.iter().map(|peer| {
            let reads = if peer.back.len() < 1 << 20 && !peer.ended { POLLIN } else { 0 };
            let writes = if peer.back.is_empty() { 0 } else { POLLOUT };
            PollFd { fd: peer.stream.as_raw_fd(), events: reads | writes, revents: 0 }
        }));
        poll_all(&mut fds, -1)?;
        for (peer, fd) in peers.iter_mut().zip(&fds[1..]) {
            if fd.revents & (POLLIN | POLLHUP) != 0 && !peer.ended {
                match peer.stream.read(&mut buffer) {
                    Ok(0) => peer.ended = true,
                    Ok(count) => peer.back.extend(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => (peer.ended, _) = (true, peer.back.clear()),
                }
            }
            while !peer.back.is_empty() {
                let (front, _) = peer.back.as_slices();
                match peer.stream.write(front) {
                    Ok(count) => drop(peer.back.drain(..count)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => (peer.ended, _) = (true, peer.back.clear()),
                }
            }
        }
        peers.retain(|peer| !peer.ended || !peer.back.is_empty());
        while fds[0].revents != 0 {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    peers.push(Peer { stream, back: VecDeque::new(), ended: false });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// As a C program does it: accept(2) and recv(2) with flags.
fn fixed(listener: &TcpListener) -> io::Result<()> {
    loop {
        // SAFETY: no address is asked for.
        let fd = unsafe { accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is nobody else's.
        let mut peer = unsafe { TcpStream::from_raw_fd(fd) };
        let receive = |length: usize, flags| {
            let mut buffer = vec![0; length];
            // SAFETY: the buffer is as long as it is said to be.
            let count = unsafe { recv(fd, buffer.as_mut_ptr(), length, flags) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            buffer.truncate(count);
            Ok::<_, io::Error>(String::from_utf8_lossy(&buffer).into_owned())
        };
        let peeked = receive(2, MSG_PEEK)?;
        let whole = receive(10, MSG_WAITALL)?;
        writeln!(peer, "{peeked} {whole}")?;
        // What was written arrives, and the other direction stays open.
        peer.shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        peer.read_to_string(&mut rest)?;
        println!("rest: {rest}");
    }
}

fn hungry(listener: &TcpListener) -> io::Result<()> {
    let mut kept = Vec::new();
    loop {
        match listener.accept() {
            Ok((peer, _)) => kept.push(peer),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                println!("{} connections, then {error}", kept.len());
                kept.clear();
            }
        }
    }
}

fn look(listeners: &[TcpListener]) -> io::Result<()> {
    println!("root {}", std::fs::read_dir("/")?.count() > 0);
    let Some(listener) = listeners.first() else { return Ok(()) };
    let fd = |events| PollFd { fd: listener.as_raw_fd(), events, revents: 0 };
    let begin = Instant::now();
    let ready = poll_all(&mut [fd(POLLIN)], 50)?;
    println!("poll {ready} in time {}", begin.elapsed() >= Duration::from_millis(50));
    listener.set_nonblocking(true)?;
    println!("accept {:?}", listener.accept().map(drop).map_err(|e| e.kind()));
    println!("read {:?}", std::fs::File::open("/serve.wasm")?.metadata()?.is_file());
    // Standard input ends at once; the listener waits.
    let mut both = [fd(POLLIN), PollFd { fd: 0, events: POLLIN, revents: 0 }];
    println!("both {} {}", poll_all(&mut both, 5000)?, both[1].revents & POLLIN != 0);
    Ok(())
}
