"""How many descriptors this process may have, and how many connections clients may make of
them.

Each connection is a descriptor, and a process without a free one accepts nobody, the kubelet's
probes included. `process.py` raises the limit at start, once.  Source: getrlimit(2), RLIMIT_NOFILE.
"""

import resource
from typing import Final

RESERVED: Final = 2_048
"""Descriptors that the data ports leave to the others: 25 of an idle server, connections of the
management port and of grpcio, lingering connections, models that are being read. Where the limit
is small they get half of it."""


def raise_limit() -> int:
    """Raises the soft limit to the hard one, which needs no privilege; gives the limit in force.
    (The soft one is 1,024 in many places, for the sake of programs that call select(2).)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS names a hard limit that it does not give
            pass
    return limit()


def limit() -> int:
    """Descriptors that the process may have at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def connections_within(wanted: int, descriptors: int) -> int:
    """Connections of the data ports: those wanted, or all that so many descriptors allow."""
    return min(wanted, max(descriptors - min(RESERVED, descriptors // 2), 1))
