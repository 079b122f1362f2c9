"""Where WASI is not the Unix that the standard library was written for."""

import asyncio
import os
import socket
import socketserver
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


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """Reads "no host" as "every address" for one who will listen; the C library reads it as the loopback."""
    if host is None and flags & socket.AI_PASSIVE:
        host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    return resolve(host, port, family, type, proto, flags)


def _exit(status):
    """Keeps the exit code; the C library would pass it to an adapter that knows success and failure alone."""
    exit_with_code(status & 0xFF)


resolve = socket.getaddrinfo
socket.getaddrinfo = getaddrinfo
os._exit = _exit
ThreadPoolExecutor.submit = submit
asyncio.BaseEventLoop.run_in_executor = run_in_executor
# A server that wants a thread for each request answers one request after the other.
socketserver.ThreadingMixIn.process_request = socketserver.BaseServer.process_request
