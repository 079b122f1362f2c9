"""HTTP servers without threads: `http.server` and what stands on it, such as wsgiref and Werkzeug.

They answer one request after the other. So that no client holds up the others by its mere presence, a connection has
its turn when there is something to read from it (browsers open some that they may never use), and it ends with its
answer. A server that waits wakes up for nothing.

What would start such a server anew when a file changes cannot do so: the server runs without.

`sampan stop` closes the sockets that listen: then a server's loop ends, as if the program had asked for it.
"""

import asyncio.selector_events
import errno
import http.server
import selectors
import socket
import socketserver
import sys
import threading

import patches

PIECE = 64 << 10


def serve_forever(self, poll_interval=0.5):
    """In place of `socketserver.BaseServer`'s, whose life it shares."""
    # By its name, since `python -m http.server` makes the class anew. In other protocols the server may speak first.
    if not any(base.__name__ == "HTTPServer" for base in type(self).__mro__):
        serve_others(self, poll_interval)
        return
    if type(self).service_actions is socketserver.BaseServer.service_actions:
        # Nothing but a handler could ask it to end.
        poll_interval = None
    self._BaseServer__is_shut_down.clear()
    waiting = set()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while not self._BaseServer__shutdown_request:
                for key, _ in selector.select(poll_interval):
                    if key.fileobj is self:
                        accept(self, selector, waiting)
                    elif key.fileobj.has_begun():
                        selector.unregister(key.fileobj)
                        waiting.discard(key.fileobj)
                        answer(self, key.fileobj, key.data)
                    if self._BaseServer__shutdown_request:
                        break
                self.service_actions()
    finally:
        for request in waiting:
            self.shutdown_request(request)
        self._BaseServer__shutdown_request = False
        self._BaseServer__is_shut_down.set()


def accept(self, selector, waiting):
    try:
        request, address = self.get_request()
    except OSError:
        return
    request = Connection(request)
    waiting.add(request)
    selector.register(request, selectors.EVENT_READ, address)


class Connection(socket.socket):
    """One that can be read from to see whether there is something: the system may call it ready too soon."""

    def __init__(self, plain):
        timeout = plain.gettimeout()
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.settimeout(timeout)
        self.begin = b""

    def has_begun(self):
        timeout = self.gettimeout()
        self.setblocking(False)
        try:
            self.begin = super().recv(PIECE)
        except BlockingIOError:
            return False
        except OSError:
            pass  # Who reads on will meet it again.
        finally:
            self.settimeout(timeout)
        return True

    def recv_into(self, buffer, nbytes=0, flags=0):
        if not self.begin:
            return super().recv_into(buffer, nbytes, flags)
        view = memoryview(buffer).cast("B")[: nbytes or None]
        part, self.begin = self.begin[: len(view)], self.begin[len(view) :]
        view[: len(part)] = part
        return len(part)

    def recv(self, bufsize, flags=0):
        if not self.begin:
            return super().recv(bufsize, flags)
        part, self.begin = self.begin[:bufsize], self.begin[bufsize:]
        return part


def answer(self, request, address):
    """As `BaseServer._handle_request_noblock` goes on."""
    if not self.verify_request(request, address):
        self.shutdown_request(request)
        return
    try:
        self.process_request(request, address)
    except Exception:
        self.handle_error(request, address)
        self.shutdown_request(request)
    except BaseException:
        self.shutdown_request(request)
        raise


def get_request(self):
    """As `TCPServer`'s. A socket that still listens is never called invalid."""
    try:
        return self.socket.accept()
    except OSError as error:
        if error.errno == errno.EINVAL:
            self._BaseServer__shutdown_request = True
        raise


def accept_connection(self, protocol_factory, sock, *args, **kwargs):
    """asyncio's, which would try again for ever. The code is that of a program that SIGTERM has ended."""
    try:
        accept_by_library(self, protocol_factory, sock, *args, **kwargs)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        self._remove_reader(sock.fileno())
        raise SystemExit(143) from None


def patch_reloader(module):
    """Werkzeug's, which `app.run(debug=True)` asks for, and Django's."""

    def run_with_reloader(main_func, *args, **kwargs):
        print("No reloading when a file changes: WASI has no threads.", file=sys.stderr)
        # Django's further arguments are those of the function, Werkzeug's are of the reloader.
        return main_func(*args, **kwargs) if module.__name__.startswith("django") else main_func()

    module.run_with_reloader = run_with_reloader


def patch_debugger(module):
    """Werkzeug's, which shares a count with other processes."""

    class Value:
        def __init__(self, kind, value=0):
            self.value, self.lock = value, threading.RLock()

        def get_lock(self):
            return self.lock

    module.Value = Value


def end_headers(self):
    lines = getattr(self, "_headers_buffer", [])
    if not self.close_connection and not (lines and b" 100 " in lines[0]):
        self.send_header("Connection", "close")
    end_headers_of_library(self)


end_headers_of_library = http.server.BaseHTTPRequestHandler.end_headers
http.server.BaseHTTPRequestHandler.end_headers = end_headers
accept_by_library = asyncio.selector_events.BaseSelectorEventLoop._accept_connection
asyncio.selector_events.BaseSelectorEventLoop._accept_connection = accept_connection
socketserver.TCPServer.get_request = get_request
serve_others = socketserver.BaseServer.serve_forever
socketserver.BaseServer.serve_forever = serve_forever
# A server that wants a thread for each request answers one request after the other.
socketserver.ThreadingMixIn.process_request = socketserver.BaseServer.process_request
patches.on_import("werkzeug._reloader", patch_reloader)
patches.on_import("werkzeug.debug", patch_debugger)
patches.on_import("django.utils.autoreload", patch_reloader)
