"""The other end of a connection, as logs and spans name it."""

import asyncio
from typing import NamedTuple

from stoker.address import joined


class Peer(NamedTuple):
    """Who is connected, perhaps a proxy."""

    address: str = ""
    """`127.0.0.1:4711` or `[::1]:4711`; empty where the socket does not say."""
    scheme: str = "http"
    """`https` over TLS."""


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection. Asks the kernel: once a connection, not once a request."""
    name = transport.get_extra_info("peername")
    scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"
    if not isinstance(name, tuple) or len(name) < 2:
        return Peer(scheme=scheme)
    host, port = str(name[0]), name[1]
    return Peer(joined(host, port), scheme)
