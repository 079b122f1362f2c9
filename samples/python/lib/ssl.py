"""TLS, as far as the host does it: for the HTTP requests that go out through `wasi_http`.

There is no OpenSSL in here. This module has the names that programs ask of `ssl`, so that `http.client`, urllib3 and
those who build on them work as they are. A context can wrap what `wasi_http` connects, and nothing else: what should be
done to a real socket, or cannot be passed on to the host, is refused. The host verifies every certificate by its own
roots, whatever a context says; so verification can be neither turned off nor given other roots.
"""

import base64
import collections
import enum
import os
import socket
import textwrap
from socket import AF_INET, SO_TYPE, SOCK_STREAM, SOL_SOCKET, create_connection

# urllib3 wants to see OpenSSL, and not an old one.
OPENSSL_VERSION = "OpenSSL 3.0.0 (not here: the host does TLS)"
OPENSSL_VERSION_INFO = (3, 0, 0, 0, 0)
OPENSSL_VERSION_NUMBER = 0x30000000
HAS_SNI = HAS_ALPN = HAS_TLSv1_2 = HAS_TLSv1_3 = HAS_NEVER_CHECK_COMMON_NAME = True
HAS_SSLv2 = HAS_SSLv3 = HAS_TLSv1 = HAS_TLSv1_1 = HAS_ECDH = HAS_NPN = HAS_PSK = HAS_PHA = False
CHANNEL_BINDING_TYPES = []
PEM_HEADER = "-----BEGIN CERTIFICATE-----"
PEM_FOOTER = "-----END CERTIFICATE-----"


class _SSLMethod(enum.IntEnum):
    PROTOCOL_TLS = PROTOCOL_SSLv23 = 2
    PROTOCOL_TLSv1 = 3
    PROTOCOL_TLSv1_1 = 4
    PROTOCOL_TLSv1_2 = 5
    PROTOCOL_TLS_CLIENT = 16
    PROTOCOL_TLS_SERVER = 17


class TLSVersion(enum.IntEnum):
    MINIMUM_SUPPORTED = -2
    SSLv3 = 768
    TLSv1 = 769
    TLSv1_1 = 770
    TLSv1_2 = 771
    TLSv1_3 = 772
    MAXIMUM_SUPPORTED = -1


class VerifyMode(enum.IntEnum):
    CERT_NONE = 0
    CERT_OPTIONAL = 1
    CERT_REQUIRED = 2


class VerifyFlags(enum.IntFlag):
    VERIFY_DEFAULT = 0
    VERIFY_CRL_CHECK_LEAF = 4
    VERIFY_CRL_CHECK_CHAIN = 12
    VERIFY_X509_STRICT = 32
    VERIFY_X509_TRUSTED_FIRST = 32768
    VERIFY_X509_PARTIAL_CHAIN = 524288


class Options(enum.IntFlag):
    OP_ALL = 0x80000050
    OP_NO_SSLv2 = 0
    OP_NO_SSLv3 = 0x2000000
    OP_NO_TLSv1 = 0x4000000
    OP_NO_TLSv1_1 = 0x10000000
    OP_NO_TLSv1_2 = 0x8000000
    OP_NO_TLSv1_3 = 0x20000000
    OP_CIPHER_SERVER_PREFERENCE = 0x400000
    OP_NO_COMPRESSION = 0x20000
    OP_NO_TICKET = 0x4000
    OP_NO_RENEGOTIATION = 0x40000000
    OP_IGNORE_UNEXPECTED_EOF = 0x80
    OP_ENABLE_MIDDLEBOX_COMPAT = 0x100000
    OP_LEGACY_SERVER_CONNECT = 4


class SSLErrorNumber(enum.IntEnum):
    SSL_ERROR_SSL = 1
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_WANT_X509_LOOKUP = 4
    SSL_ERROR_SYSCALL = 5
    SSL_ERROR_ZERO_RETURN = 6
    SSL_ERROR_WANT_CONNECT = 7
    SSL_ERROR_EOF = 8


class AlertDescription(enum.IntEnum):
    ALERT_DESCRIPTION_CLOSE_NOTIFY = 0
    ALERT_DESCRIPTION_HANDSHAKE_FAILURE = 40
    ALERT_DESCRIPTION_INTERNAL_ERROR = 80


for _group in _SSLMethod, VerifyMode, VerifyFlags, Options, SSLErrorNumber, AlertDescription:
    globals().update(_group.__members__)


class Purpose(enum.Enum):
    SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
    CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"


class SSLError(OSError):
    library = reason = None


class SSLZeroReturnError(SSLError):
    pass


class SSLWantReadError(SSLError):
    pass


class SSLWantWriteError(SSLError):
    pass


class SSLSyscallError(SSLError):
    pass


class SSLEOFError(SSLError):
    pass


class SSLCertVerificationError(SSLError, ValueError):
    verify_code = 0
    verify_message = ""


CertificateError = SSLCertVerificationError
socket_error = OSError
DefaultVerifyPaths = collections.namedtuple(
    "DefaultVerifyPaths", "cafile capath openssl_cafile_env openssl_cafile openssl_capath_env openssl_capath"
)


def _refuse(what):
    raise SSLError(f"{what} cannot be done in this Python: the host does TLS, and only for outgoing HTTP requests")


class SSLContext:
    """Takes what is set, and hands connections of `wasi_http` to the host's TLS."""

    sslsocket_class = sslobject_class = None
    verify_flags = VerifyFlags.VERIFY_DEFAULT
    options = Options.OP_ALL | Options.OP_NO_SSLv3
    minimum_version = TLSVersion.MINIMUM_SUPPORTED
    maximum_version = TLSVersion.MAXIMUM_SUPPORTED
    hostname_checks_common_name = False
    keylog_filename = post_handshake_auth = sni_callback = None

    def __init__(self, protocol=None):
        self.protocol = _SSLMethod.PROTOCOL_TLS if protocol is None else _SSLMethod(protocol)
        is_client = self.protocol is _SSLMethod.PROTOCOL_TLS_CLIENT
        self.check_hostname = is_client
        self.verify_mode = VerifyMode.CERT_REQUIRED if is_client else VerifyMode.CERT_NONE

    def wrap_socket(
        self,
        sock,
        server_side=False,
        do_handshake_on_connect=True,
        suppress_ragged_eofs=True,
        server_hostname=None,
        session=None,
    ):
        if server_side:
            _refuse("TLS of a server")
        secure = getattr(sock, "with_tls_of_host", None)
        return secure(server_hostname) if secure else _refuse("TLS on a socket")

    def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):
        _refuse("TLS on a stream of bytes")

    def load_cert_chain(self, certfile, keyfile=None, password=None):
        _refuse("showing a certificate of one's own")

    def set_ciphers(self, ciphers):
        _refuse("choosing ciphers")

    def load_verify_locations(self, cafile=None, capath=None, cadata=None):
        """Nearly every client calls this with a copy of the well-known roots, so it is no error; see above."""
        if cafile is capath is cadata is None:
            raise TypeError("cafile, capath and cadata cannot be all omitted")
        for path in filter(None, (cafile, capath)):
            os.stat(path)

    def load_default_certs(self, purpose=Purpose.SERVER_AUTH):
        pass

    def set_default_verify_paths(self):
        pass

    def set_alpn_protocols(self, protocols):
        pass

    def get_ca_certs(self, binary_form=False):
        return []

    def get_ciphers(self):
        return []

    def cert_store_stats(self):
        return {"crl": 0, "x509": 0, "x509_ca": 0}

    def session_stats(self):
        return {}


class SSLSocket(socket.socket):
    """Nobody makes one: for `isinstance` alone."""

    def __init__(self, *args, **kwargs):
        _refuse("TLS on a socket")


class SSLObject:
    def __init__(self, *args, **kwargs):
        _refuse("TLS on a stream of bytes")


class SSLSession:
    pass


class MemoryBIO:
    def __init__(self):
        _refuse("TLS on a stream of bytes")


def create_default_context(purpose=Purpose.SERVER_AUTH, *, cafile=None, capath=None, cadata=None):
    if not isinstance(purpose, Purpose):
        raise TypeError(purpose)
    context = SSLContext(PROTOCOL_TLS_CLIENT if purpose is Purpose.SERVER_AUTH else PROTOCOL_TLS_SERVER)
    if cafile or capath or cadata:
        context.load_verify_locations(cafile, capath, cadata)
    return context


def _create_unverified_context(protocol=None, **_):
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, CERT_NONE
    return context


_create_default_https_context = create_default_context
_create_stdlib_context = _create_unverified_context


def get_default_verify_paths():
    return DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/etc/ssl/cert.pem", "SSL_CERT_DIR", "/etc/ssl/certs")


def get_server_certificate(address, ssl_version=None, ca_certs=None, timeout=None):
    _refuse("seeing a server's certificate")


def RAND_bytes(count):
    return os.urandom(count)


def RAND_status():
    return True


def RAND_add(data, entropy):
    pass


def DER_cert_to_PEM_cert(der):
    return "\n".join([PEM_HEADER, *textwrap.wrap(base64.standard_b64encode(der).decode(), 64), PEM_FOOTER, ""])


def PEM_cert_to_DER_cert(pem):
    pem = pem.strip()
    if not (pem.startswith(PEM_HEADER) and pem.endswith(PEM_FOOTER)):
        raise ValueError(f"a certificate in PEM begins with {PEM_HEADER} and ends with {PEM_FOOTER}")
    return base64.decodebytes(pem[len(PEM_HEADER) : -len(PEM_FOOTER)].encode())


def get_protocol_name(protocol):
    return _SSLMethod(protocol).name
