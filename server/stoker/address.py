"""`host:port`, as URLs and listeners have it: an IPv6 address stands in brackets.

For whoever names an endpoint: the log and the ready line, transports, clients.  Source: RFC 3986,
section 3.2.2.
"""

from typing import Final

_ANY_IPV6: Final = "::"
_LOOPBACK_IPV6: Final = "::1"


def joined(host: str, port: int) -> str:
    """`127.0.0.1:8000`, `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str, port: int) -> str:
    """Where a listener on `host` answers on this machine. `0.0.0.0` stays: it takes connections as
    an address, while `::` without brackets is no part of a URL, and with them not everywhere one
    that can be connected to."""
    return joined(_LOOPBACK_IPV6 if host == _ANY_IPV6 else host, port)
