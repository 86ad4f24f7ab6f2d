"""What clients of the data ports may speak beneath HTTP: a TLS context from a certificate.

The wire takes any `ssl.SSLContext` (`wire/handshake.py`); this makes one that keeps the rules of
HTTP/2. It knows nothing of connections.  Source: RFC 9113, section 9.2; RFC 7301.
"""

import ssl
from pathlib import Path
from typing import Final

ALPN_HTTP2: Final = "h2"
ALPN_HTTP1: Final = "http/1.1"

_AEAD_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all of this kind. Every other one of 1.2 is in the list that HTTP/2
prohibits (RFC 9113, appendix A), or is not ephemeral."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for the data ports: TLS 1.2 or newer, ephemeral keys, AEAD ciphers, neither
    compression nor renegotiation, and `h2` before `http/1.1` by ALPN.

    Both files are PEM; the certificate's may hold its chain. Raises OSError for a file that cannot
    be read, and ssl.SSLError for one that is not what it should be or does not fit the other.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_AEAD_CIPHERS)
    context.set_alpn_protocols([ALPN_HTTP2, ALPN_HTTP1])
    context.load_cert_chain(certificate, key)
    return context
