//! Network namespaces that have a name: files that stand for them (ip-netns(8), network_namespaces(7)).

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Makes a network namespace whose loopback interface is up, and the file that stands for it.
///
/// # Errors
/// When the file is there, or the system refuses: it is for root.
pub fn make(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().write(true).create_new(true).open(path)?;
    let place = path.to_owned();
    let made = move || {
        // SAFETY: this thread alone enters the namespace, and does nothing afterwards.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        bring_loopback_up()?;
        Ok(mount_bind("/proc/thread-self/ns/net", &place)?)
    };
    let made = std::thread::Builder::new().name("netns".into()).spawn(made);
    let made = made.and_then(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread broke down"))));
    made.inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Moves this thread into a network namespace.
///
/// # Errors
/// When there is none, or the system refuses.
pub fn enter(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Moves this process, which has one thread, into a network namespace of its own, where there is nothing but a loopback
/// interface.
///
/// # Errors
/// When the system refuses: it is for root.
pub fn enter_new() -> io::Result<()> {
    // SAFETY: no other thread is left behind in the old namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    bring_loopback_up()
}

/// Whether this process is in a network namespace.
///
/// # Errors
/// When there is none.
pub fn is_in(path: &Path) -> io::Result<bool> {
    let (there, here) = (std::fs::metadata(path)?, std::fs::metadata("/proc/self/ns/net")?);
    Ok((there.dev(), there.ino()) == (here.dev(), here.ino()))
}

/// Takes the file away, and the namespace when nobody is in it any more. One that is not there has been removed.
///
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Connects to a port of the loopback interface of a namespace, or of this one's.
///
/// # Errors
/// When nobody listens there.
pub fn connect(path: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let connect = move || {
        let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
        TcpStream::connect(addresses.as_slice())
    };
    let Some(path) = path.map(Path::to_owned) else { return connect() };
    let there = move || {
        enter(&path)?;
        connect()
    };
    // A socket belongs to the namespace in which it was made, whoever has it then.
    let thread = std::thread::Builder::new().name("netns".into()).spawn(there)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread broke down")))
}

/// Sets the flag of the interface `lo` of this thread's namespace (netdevice(7)).
fn bring_loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: the structure is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo\0") {
        *to = from.cast_signed();
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(up).unwrap_or_default();
    // SAFETY: the structure lives through the call, which reads the name and the flags.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
