"""For who asks whether there is TLS by looking for this module."""

from ssl import OPENSSL_VERSION, OPENSSL_VERSION_INFO, OPENSSL_VERSION_NUMBER
