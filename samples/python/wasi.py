"""Where WASI is not the Unix that the standard library was written for."""

import asyncio
import errno
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from wit_world.imports.exit import exit_with_code


def submit(self, function, /, *args, **kwargs):
    """Does at once what a thread would do in time: there are no threads."""
    future = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:
        future.set_exception(error)
    return future


def run_in_executor(self, executor, function, *args):
    """asyncio's way to such a thread, which it takes to look up a name."""
    return asyncio.wrap_future(submit(executor, function, *args), loop=self)


def start_thread(*args, **kwargs):
    raise RuntimeError("can't start new thread: WASI has none")


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """Reads "no host" as "every address" for one who will listen; the C library reads it as the loopback."""
    if host is None and flags & socket.AI_PASSIVE:
        host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    return resolve(host, port, family, type, proto, flags)


def bind(self, address):
    """The same where the host is the empty one, as in `bind(("", 8000))`."""
    if isinstance(address, tuple) and address[:1] == ("",):
        address = ("::" if self.family == socket.AF_INET6 else "0.0.0.0", *address[1:])
    return bind_to(self, address)


def gethostname():
    """The machine's name as it is told to programs; there is no call for it."""
    try:
        with open("/etc/hostname") as file:
            return file.readline().strip()
    except OSError:
        return os.environ.get("HOSTNAME", "localhost")


def _exit(status):
    """Keeps the exit code; the C library would pass it to an adapter that knows success and failure alone."""
    exit_with_code(status & 0xFF)


def chmod(path, mode, *, dir_fd=None, follow_symlinks=True):
    """Files have no modes here. To set one is no error, as on a file system that keeps none."""
    os.fstat(path) if isinstance(path, int) else os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def chown(path, uid, gid, *, dir_fd=None, follow_symlinks=True):
    """Nor have they owners: all belong to root."""
    chmod(path, 0, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    if uid not in (0, -1) or gid not in (0, -1):
        raise PermissionError(errno.EPERM, "files cannot be given to another user: WASI has no owners", path)


def umask(mask):
    """What nobody applies, but some ask for."""
    global mask_now
    before, mask_now = mask_now, mask & 0o777
    return before


def nobody_else():
    return 0


mask_now = 0o022
resolve = socket.getaddrinfo
socket.getaddrinfo = getaddrinfo
bind_to = socket.socket.bind
socket.socket.bind = bind
socket.gethostname = gethostname
os._exit = _exit
os.chmod, os.umask, os.chown = chmod, umask, chown
os.lchown = lambda path, uid, gid: chown(path, uid, gid, follow_symlinks=False)
os.fchmod = lambda fd, mode: chmod(fd, mode)
os.fchown = lambda fd, uid, gid: chown(fd, uid, gid)
for name in "getuid", "geteuid", "getgid", "getegid":
    setattr(os, name, nobody_else)
os.getgroups = list
threading._start_joinable_thread = start_thread
ThreadPoolExecutor.submit = submit
asyncio.BaseEventLoop.run_in_executor = run_in_executor
