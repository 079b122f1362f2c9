"""Outgoing HTTP and HTTPS through the host: `wasi:http/outgoing-handler`.

A program in a sandbox opens no socket to the world. It hands a request to the host, which connects, does TLS and
verifies the server, if it lets the request go at all. `Connection` makes that look like the socket that `http.client`
and urllib3 talk HTTP/1.1 to, so `urllib.request`, `requests`, pip and all that stands on them work as they are:

    urllib.request.urlopen("https://example.org/")

Bodies are streamed both ways. The loopback address is the container's own and is reached by a socket, as ever. Which
way a request takes is the host's matter: HTTP_PROXY and its kin are not looked at, and a proxy that a program names is
refused.
"""

import errno
import http
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import types
import urllib.error
import urllib.request
import weakref

from componentize_py_types import Err, Ok
from wit_world.imports import monotonic_clock, outgoing_handler, poll, streams
from wit_world.imports import wasi_http_types as wasi

# Not for a request to say: they belong to the connection, and that is the host's.
OF_THE_CONNECTION = {
    "connection", "host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "proxy-connection", "te", "transfer-encoding", "upgrade",
}  # fmt: skip
METHOD_NAMES = "Get Head Post Put Delete Options Trace Patch"
METHODS = {name.upper(): getattr(wasi, f"Method_{name}") for name in METHOD_NAMES.split()}
PIECE = 64 << 10


# What is open at the host. Its parts have an order to be given back in, which the garbage collector does not know: so
# it gets hold of none of them, and a connection gives back what is its own.
_open = set()


class Connection:
    """One request and its response, under the face of a connected socket."""

    _request = _response = None

    def __init__(self, host, port, timeout=None):
        self.host, self.port, self.scheme = host.strip("[]"), port, "http"
        self.settimeout(timeout)
        self._head = b""
        self._readers, self._closed = 0, False

    def with_tls_of_host(self, server_name):
        """What `ssl.SSLContext.wrap_socket` does to it."""
        if server_name and server_name.strip("[]").rstrip(".").lower() != self.host.rstrip(".").lower():
            raise ssl.SSLError(
                f"{self.host} cannot be verified as {server_name}: the host goes by the name it connects to"
            )
        self.scheme = "https"
        return self

    def sendall(self, data, flags=0):
        data = bytes(data)
        if self._request is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._request, self._head = Request(weakref.proxy(self), head), b""
            _open.add(self._request)
        self._request.write(data)

    def send(self, data, flags=0):
        self.sendall(data)
        return len(data)

    def makefile(self, mode="r", buffering=None, **_):
        if mode != "rb":
            raise ValueError("a connection of wasi_http is read as bytes")
        self._readers += 1
        return io.BufferedReader(Reader(self), PIECE)

    def recv(self, count, flags=0):
        part = bytearray(count)
        return bytes(part[: self.recv_into(part)])

    def recv_into(self, buffer, count=0, flags=0):
        if self._request is None:
            raise OSError(errno.ENOTCONN, "a response was read before the request was written")
        if self._response is None:
            self._response = self._request.response()
            _open.add(self._response)
        return self._response.readinto(memoryview(buffer)[: count or None])

    def settimeout(self, timeout):
        # Both libraries have objects of their own for "as the default is".
        is_said = timeout is None or isinstance(timeout, (int, float))
        self.timeout = timeout if is_said else socket.getdefaulttimeout()

    def gettimeout(self):
        return self.timeout

    def setsockopt(self, *_):
        pass

    def getpeername(self):
        return self.host, self.port

    def getpeercert(self, binary_form=False):
        return None if binary_form else {}

    def selected_alpn_protocol(self):
        return None

    def version(self):
        return None

    def cipher(self):
        return None

    def shutdown(self, how):
        self._finish()

    def close(self):
        """A socket's file outlives it, and `http.client` relies on that."""
        self._closed = True
        self._release()

    def reader_closed(self):
        self._readers -= 1
        self._release()

    def _release(self):
        if self._closed and not self._readers:
            self._finish()

    def _finish(self):
        for part in self._response, self._request:
            if part is not None:
                part.close()
                _open.discard(part)

    def __del__(self):
        self._finish()

    def wait(self, pollable, what):
        """Waits for the host, as long as the timeout is at this moment."""
        with pollable:
            if self.timeout is None:
                return pollable.block()
            with monotonic_clock.subscribe_duration(int(self.timeout * 1e9)) as timer:
                if 0 not in poll.poll([pollable, timer]):
                    raise TimeoutError(f"{self.host}:{self.port} {what} within {self.timeout} s")


class Reader(io.RawIOBase):
    def __init__(self, connection):
        self.connection = connection

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.connection.recv_into(buffer)

    def close(self):
        if not self.closed:
            super().close()
            self.connection.reader_closed()


class Request:
    """What was written to the connection, on its way to the host."""

    def __init__(self, connection, head):
        self.connection = connection
        self.stream = self.body = self.future = None
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        if method == "CONNECT" or not (target.startswith("/") or target == "*"):
            raise OSError(
                errno.ENOTSUP, "a proxy cannot be used: the host decides the way of a request (see wasi_http)"
            )
        pairs = (line.partition(":") for line in lines)
        fields = [(name, value.strip(" \t")) for name, _, value in pairs]
        said = {name.lower(): value for name, value in fields}
        self.chunks = Chunks() if said.get("transfer-encoding", "").lower() == "chunked" else None
        self.left = int(said.get("content-length", 0))
        if "upgrade" in said:
            raise OSError(errno.ENOTSUP, f"a connection cannot be upgraded to {said['upgrade']}: it is the host's")
        self.check_host(said.get("host"))
        try:
            request = wasi.OutgoingRequest(
                wasi.Fields.from_list(
                    [(name, value.encode("latin-1")) for name, value in fields if name.lower() not in OF_THE_CONNECTION]
                )
            )
            request.set_method(METHODS[method]() if method in METHODS else wasi.Method_Other(method))
            request.set_scheme(wasi.Scheme_Https() if connection.scheme == "https" else wasi.Scheme_Http())
            request.set_authority(self.authority())
            request.set_path_with_query(target)
        except Err as error:
            why = type(error.value).__name__
            raise http.client.InvalidURL(f"the host takes no such request: {line!r} ({why})") from None
        options = wasi.RequestOptions()
        if connection.timeout is not None:
            options.set_connect_timeout(int(connection.timeout * 1e9))
        has_body = self.left or self.chunks
        if has_body:
            self.body = request.body()
            self.stream = self.body.write()
        try:
            self.future = outgoing_handler.handle(request, options)
        except Err as error:
            raise unanswered(error.value, connection) from None

    def authority(self):
        connection = self.connection
        host = f"[{connection.host}]" if ":" in connection.host else connection.host.encode("idna").decode()
        usual = connection.port == (443 if connection.scheme == "https" else 80)
        return host if usual else f"{host}:{connection.port}"

    def check_host(self, said):
        """The host writes this header itself, and by it finds the server."""
        name, port = self.connection.host, self.connection.port
        same = name, f"[{name}]", f"{name}:{port}", f"[{name}]:{port}", self.authority()
        if said is not None and said.lower() not in map(str.lower, same):
            raise OSError(errno.ENOTSUP, f"a request to {name}:{port} cannot have the header Host: {said}")

    def write(self, data):
        if self.body is None:
            return
        if self.chunks:
            data = self.chunks.decode(data)
        view = memoryview(data)
        try:
            while view:
                room = self.stream.check_write()
                if not room:
                    self.connection.wait(self.stream.subscribe(), "did not take the request")
                    continue
                piece = bytes(view[:room])
                self.stream.write(piece)
                view = view[room:]
                self.left -= len(piece)
            if self.chunks.ended if self.chunks else self.left <= 0:
                self.finish()
        except Err:
            # The server need not read it all before it answers; what it says, or why it cannot, is read next.
            self.drop_body()

    def finish(self):
        self.stream.flush()
        self.stream.__exit__(None, None, None)
        body, self.stream, self.body = self.body, None, None
        wasi.OutgoingBody.finish(body, None)

    def response(self):
        while True:
            match self.future.get():
                case None:
                    self.connection.wait(self.future.subscribe(), "did not answer")
                case Ok(Ok(response)):
                    return Response(self.connection, response)
                case Ok(Err(code)):
                    raise unanswered(code, self.connection)
                case _:
                    raise ConnectionResetError(errno.ECONNRESET, "the response was taken already")

    def drop_body(self):
        for part in self.stream, self.body:
            drop(part)
        self.stream = self.body = None

    def close(self):
        self.drop_body()
        drop(self.future)
        self.future = None


class Response:
    """The host's response, as the bytes that a server would have sent."""

    def __init__(self, connection, response):
        self.connection = connection
        status = response.status()
        try:
            reason = http.HTTPStatus(status).phrase
        except ValueError:
            reason = ""
        with response.headers() as fields:
            lines = [
                b"%s: %s\r\n" % (name.encode(), value)
                for name, value in fields.entries()
                if name.lower() not in OF_THE_CONNECTION or name.lower() == "proxy-authenticate"
            ]
        # Its length is said, or its end is the end of the connection.
        first = b"HTTP/1.1 %d %s\r\n" % (status, reason.encode())
        self.head = memoryview(b"".join([first, *lines, b"Connection: close\r\n\r\n"]))
        self.body = response.consume()
        self.stream = self.body.stream()
        drop(response)

    def readinto(self, buffer):
        part = self.head[: len(buffer)]
        if part:
            self.head = self.head[len(part) :]
        elif self.stream is None:
            return 0
        else:
            part = self.read(min(len(buffer), PIECE))
        buffer[: len(part)] = part
        return len(part)

    def read(self, count):
        try:
            while not (part := self.stream.read(count)):
                self.connection.wait(self.stream.subscribe(), "sent nothing more")
            return part
        except Err as error:
            if isinstance(error.value, streams.StreamError_Closed):
                return b""
            with error.value.value as reason:
                code = wasi.http_error_code(reason)
                what = reason.to_debug_string().partition("\n")[0]
            raise failure(code, self.connection) if code else ConnectionResetError(errno.ECONNRESET, what) from None

    def close(self):
        for part in self.stream, self.body:
            drop(part)
        self.stream = self.body = None


class Chunks:
    """The chunked encoding, taken off again: the host puts its own on."""

    def __init__(self):
        self.ended, self.buffer, self.left = False, b"", 0

    def decode(self, data):
        self.buffer += data
        out = []
        while not self.ended:
            if self.left > 2:
                part = self.buffer[: self.left - 2]
                out.append(part)
                self.buffer = self.buffer[len(part) :]
                self.left -= len(part)
            if self.left > 2 or len(self.buffer) < self.left:
                break
            self.buffer, self.left = self.buffer[self.left :], 0
            size, end, rest = self.buffer.partition(b"\r\n")
            if not end:
                break
            size = int(size.partition(b";")[0], 16)
            # With the end of line that follows it.
            self.buffer, self.left, self.ended = rest, size + 2, size == 0
        return b"".join(out)


def drop(resource):
    if resource is not None:
        resource.__exit__(None, None, None)


def failure(code, connection):
    """The host's reason, as the exception that a socket would raise for it."""
    where = f"{connection.host}:{connection.port}"
    name = type(code).__name__.removeprefix("ErrorCode_")
    what = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    value = getattr(code, "value", None)
    if value is not None:
        said = value
        if not isinstance(value, (str, int)):
            said = ", ".join(str(x) for x in vars(value).values() if x is not None)
        what += f" ({said})" if said != "" else ""
    match name:
        case "HttpRequestDenied":
            return PermissionError(
                errno.EACCES, f"the sandbox does not allow HTTP to {where}; `--allow-net {where}` would grant it"
            )
        case "DestinationIpProhibited":
            return PermissionError(errno.EACCES, f"the sandbox does not allow the address of {where}: {what}")
        case "DnsError" | "DnsTimeout" | "DestinationNotFound":
            return socket.gaierror(socket.EAI_NONAME, f"the name {connection.host} was not found: {what}")
        case "ConnectionRefused":
            return ConnectionRefusedError(errno.ECONNREFUSED, f"{where}: {what}")
        case "ConnectionTimeout" | "ConnectionReadTimeout" | "ConnectionWriteTimeout" | "HttpResponseTimeout":
            return TimeoutError(errno.ETIMEDOUT, f"{where}: {what}")
        case "TlsCertificateError":
            return ssl.SSLCertVerificationError(1, f"{where}: {what}, by the roots of the host")
        case "TlsProtocolError" | "TlsAlertReceived":
            return ssl.SSLError(1, f"{where}: {what}")
        case "DestinationIpUnroutable" | "DestinationUnavailable":
            return OSError(errno.EHOSTUNREACH, f"{where}: {what}")
    return ConnectionResetError(errno.ECONNRESET, f"{where}: {what}")


def unanswered(code, connection):
    error = failure(code, connection)
    error.unanswered = True
    return error


def is_own(host):
    """Whether this names the container's own loopback."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def create_connection(address, timeout=None, source_address=None, *args, **kwargs):
    """In place of `socket.create_connection`, where what follows is HTTP."""
    if is_own(address[0]):
        return socket.create_connection(address, timeout, source_address)
    return Connection(*address, timeout)


def connect(self):
    self._create_connection = create_connection
    connect_by_socket(self)


def do_open(self, *args, **kwargs):
    """As urllib wraps what went wrong with the connection; it looks for that before a response is asked for."""
    try:
        return open_by_http_client(self, *args, **kwargs)
    except OSError as error:
        if getattr(error, "unanswered", False):
            raise urllib.error.URLError(error) from error
        raise


def patch_urllib3(module):
    by_socket = module.create_connection

    def create(address, *args, **kwargs):
        return (by_socket if is_own(address[0]) else create_connection)(address, *args, **kwargs)

    module.create_connection = create


def patch_httpcore(module):
    module.socket = types.SimpleNamespace(**{**vars(socket), "create_connection": create_connection})


def forget_bundles():
    """Takes away variables that name a bundle of roots which is not there: they come from a machine that has it.

    The host verifies by its own, but libraries stop at a file that is missing.
    """
    for name in "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR":
        if name in os.environ and not os.path.exists(os.environ[name]):
            del os.environ[name]


def install(on_import):
    """Puts this in the place of sockets, in the library and in what is imported later, pip's own copies too."""
    http.client.HTTPConnection.connect = connect
    urllib.request.AbstractHTTPHandler.do_open = do_open
    urllib.request.getproxies = dict
    on_import("urllib3.util.connection", patch_urllib3)
    on_import("httpcore._backends.sync", patch_httpcore)


connect_by_socket = http.client.HTTPConnection.connect
open_by_http_client = urllib.request.AbstractHTTPHandler.do_open
