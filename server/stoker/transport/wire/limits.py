"""Every limit of the wire, by name and with its reason, and the server's memory budget.

Read by the parser, the connections and the server beside it; a test may pass smaller ones as
`HttpLimits`. Nothing here knows a request's meaning.
"""

from dataclasses import dataclass
from typing import Final

from stoker.errors import Overloaded

MAX_HEAD_BYTES: Final = 32 << 10
"""Request line and header fields. Four times what proxies pass on by default (8 KiB), so that long
tokens and trace baggage fit; small enough that 10,000 half-sent heads take 320 MB at worst."""

MAX_TARGET_BYTES: Final = 8 << 10
"""The request target. RFC 9110 asks for at least 8,000 bytes; no path of ours needs 1,000."""

MAX_HEADERS: Final = 100
"""Header fields of a request of HTTP/1.1, as Node and Apache: clients send about 10, proxies add
about 20. HTTP/2 counts 32 bytes of MAX_HEAD_BYTES for each field, and so 1,024 at most."""

MAX_CHUNK_LINE_BYTES: Final = 256
"""A chunk's size line with its extensions, which are ignored: 16 hex digits need 18 bytes."""

MAX_TRAILER_BYTES: Final = 8 << 10
"""Trailer fields after a chunked body. They are checked and dropped."""

MAX_EMPTY_RATIO: Final = 64
"""Chunked bodies: bytes of framing for one byte of body before it is an attack (one-byte chunks
take 6). 64 KiB of framing are always allowed."""

RECEIVE_BYTES: Final = 256 << 10
"""The receive buffer that connections share: one read of a fast peer fills 200 KiB."""

TURN_BYTES: Final = 64 << 10
"""Bytes of large bodies that one connection reads or writes in one turn of the loop: some 50 us of
the kernel's work, so that ten busy connections make a turn of half a millisecond. Without it one
read event takes up to 32 buffers, and one write all that the kernel's socket buffer holds
(benchmarks/results/0003-loop-lag.md)."""

WHOLE_BODY_BYTES: Final = 64 << 10
"""Bodies up to here are cut out of what was received; larger ones get their own memory, into which
the kernel writes. Below it the copy (4 us at 64 KiB) costs less than a second read."""

MAX_STREAMS: Final = 1024
"""Open streams of one HTTP/2 connection; a client waits with further ones. Admission bounds the
work, this bounds what one connection can take before admission sees it. grpcio's clients and
proxies put the calls of many users on one connection."""

STREAM_WINDOW: Final = 1 << 20
"""Bytes of a body that a client may send before anyone has looked at its size. A stream's window is
raised to the body's size when that is admitted; 1,024 streams that are not can hold 1 GiB only if
the connection's window lets them."""

CONNECTION_WINDOW: Final = 16 << 20
"""Bytes on their way over all streams of a connection: 1 GiB/s at a round trip of 15 ms."""

MAX_FRAME_BYTES: Final = 1 << 20
"""Payload of one frame. DATA is passed on as it comes, so that large frames cost no memory and save
the peer and us the work of many small ones."""

MAX_BLOCK_BYTES: Final = 64 << 10
"""A header block, compressed, with its CONTINUATION frames: it waits in memory to be whole. Twice
MAX_HEAD_BYTES, so that a head that is somewhat too long is answered and not cut off."""

MAX_CONTINUATIONS: Final = 8
"""CONTINUATION frames of one block: clients send frames of 16 KiB, which make 64 KiB in four. An
endless row of empty ones costs the peer nothing (CVE-2024-27316)."""

REMEMBERED_HEADS: Final = 64
"""Of one connection, of each kind: blocks that change no table, blocks until the table changes, and
heads without their fresh fields; at the limit all of a kind are forgotten. A client has a few: one
for each method that it calls and each of its deadlines."""

REMEMBERED_BYTES: Final = 2 << 10
"""Of a block and of the list that it stands for. Longer ones carry tokens and hardly come twice; a
short one may stand for many times its bytes by its indices. Some 512 KiB for a connection at most,
if all kinds are full."""

MAX_RESETS: Final = 500
"""Streams of a connection that end by a reset in a second, of the peer's (CVE-2023-44487) or of
ours that it provokes (CVE-2025-8671). A request that is opened and reset costs it nothing and us a
turn; a proxy of thousands of users sees some deadlines a second pass."""

MAX_SETTINGS_FRAMES: Final = 100
"""SETTINGS frames of a connection in a second. Each may change the windows of all its open streams,
0.3 ms of work; clients send one at the start, and some a few to tune their windows."""

MAX_SETTINGS: Final = 64
"""Settings of one frame: RFC 9113 has six, extensions a few more."""

MAX_IDLE_FRAMES: Final = 10_000
"""Frames of a connection in a second that move no request forward: PING, PRIORITY, empty DATA,
acknowledgements, frames of closed or unknown streams and types. Clients that measure the line send
a PING for each round trip; 9,000 cost 13 ms (benchmarks/results/0005-header-blocks.md)."""

MAX_CONTROL_BYTES: Final = 256 << 10
"""Of acknowledgements, resets and windows that a peer causes and does not read: 15,000 PINGs. Then
it is cut off (CVE-2019-9512)."""

MAX_PIPELINED: Final = 32
"""Requests of one connection that may be unanswered. Reading stops there. Pipelining clients are
load generators; 32 fill the largest useful batch of a small model."""

COPIED_ROW_BYTES: Final = 16 << 10
"""Output pieces below this are copied into the answer (1 us), larger ones are written as views."""

HEADER_TIMEOUT_S: Final = 10.0
"""From a head's first byte to its last. A head is one packet; 10 s covers several lost ones."""

FIRST_BYTE_TIMEOUT_S: Final = 60.0
"""From opening to the first byte: pools open connections ahead, port scanners never send."""

IDLE_TIMEOUT_S: Final = 620.0
"""Between requests. Longer than any common proxy keeps idle connections (60 s to 600 s): a server
that closes first makes the proxy answer 502."""

BODY_GRACE_S: Final = 5.0
"""A body may be slow that long."""

MIN_BODY_RATE: Final = 16 << 10
"""Bytes a second that a body must keep on average after the grace: a slow phone line, not less."""

BODY_TIME_S: Final = 120.0
"""A large body's pace is its size in that time, where this is more: it holds its whole size of the
budget, and two bodies of 1 GiB at the least rate would hold all of it for 18 hours. 1 GiB then
needs 72 Mbit/s, which a line of 100 Mbit/s gives."""

WRITE_STALL_S: Final = 60.0
"""A peer that takes not one byte of its answer for so long is gone; its memory is wanted back."""

LINGER_S: Final = 10.0
"""After the last answer our side is shut and what still comes is dropped, so that the peer can read
that answer before a reset destroys it. It gets that long to close."""

SHORT_LINGER_S: Final = 1.0
"""The same for a connection that was refused, and for every one once the port is closed: some round
trips and a lost packet. A drain waits for it, and a crowd that is refused must not stay."""

MAX_LINGERING: Final = 256
"""Lingering connections, which do not count as open ones. At most this many and at most 16 more
than a quarter of the open ones, because each has a descriptor; beyond it they end at once."""

FIRST_REQUEST_S: Final = 0.5
"""Once the port is closed, how old a connection without a request must be to count as idle: its
first request is on its way, and one lost packet comes again within 0.2 s."""

HANDSHAKE_S: Final = 0.1
"""From the last handshake that may begin to the closing of the port. What is on its way ends within
a round trip; 0.1 s is one around half the world."""

MAX_CONNECTION_AGE_S: Final = 300.0
"""Then `Connection: close`: Services balance connections, and new pods must get some."""

AGE_JITTER: Final = 0.1
"""The share by which ages differ, so that connections made together do not end together."""

MAX_CONNECTIONS: Final = 16_384
"""Open at once. Above 10,000 idle clients; each costs a few KiB here and a descriptor."""

MANAGEMENT_CONNECTIONS: Final = 64
"""Open at once on the management port: a kubelet, some scrapers, some people."""

BACKLOG: Final = 4_096
"""Connections that the kernel may hold for us: the default of `net.core.somaxconn`."""

SWEEP_INTERVAL_S: Final = 1.0
"""How often all deadlines are looked at: 16,384 connections take under 1 ms, and one timer each
would cost every request two timer operations."""

LAST_SWEEP_INTERVAL_S: Final = 0.1
"""The same once the port is closed: the process waits for the last deadlines."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What an operator may set; the rest of this module is the defaults."""

    max_json_bytes: int = 64 << 20
    """Bodies that are JSON as a whole, before and after decompression."""
    max_message_bytes: int = 1 << 30
    """Any body."""
    max_connections: int = MAX_CONNECTIONS
    max_connection_age_s: float = MAX_CONNECTION_AGE_S
    first_byte_timeout_s: float = FIRST_BYTE_TIMEOUT_S
    header_timeout_s: float = HEADER_TIMEOUT_S
    idle_timeout_s: float = IDLE_TIMEOUT_S
    write_stall_s: float = WRITE_STALL_S
    linger_s: float = LINGER_S

    @property
    def max_lingering(self) -> int:
        """See MAX_LINGERING."""
        return min(MAX_LINGERING, 16 + self.max_connections // 4)


def body_rate(size: int) -> float:
    """Bytes a second that a body which holds `size` bytes of the budget must keep."""
    return max(MIN_BODY_RATE, size / BODY_TIME_S)


class OpenConnections:
    """How many connections are open: one object for all ports that share a limit. On the loop."""

    __slots__ = ("count", "is_full")

    def __init__(self) -> None:
        self.count = 0
        self.is_full = False
        """It stands in the log that no more are taken."""


class BufferBudget:
    """The bytes that the whole server may hold for requests and unsent answers at once.

    One object, shared by all transports. A request's bytes are reserved whole, before they are
    read, or refused; answers exist already and are charged without asking. Used on the loop only.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def free(self) -> int:
        """Bytes that could be reserved; 0 when answers have overdrawn the budget."""
        return max(self.limit - self.used, 0)

    def reserve(self, size: int) -> None:
        """Takes `size` bytes. Raises Overloaded, and takes none, when they do not fit."""
        if self.used + size > self.limit:
            raise Overloaded(
                f"expected at most {self.free} bytes, all that is free of the {self.limit} that "
                f"the server buffers, got a request of {size} bytes",
                retry_after=1.0,
            )
        self.used += size

    def charge(self, size: int) -> None:
        """Counts bytes that exist already."""
        self.used += size

    def release(self, size: int) -> None:
        """Gives bytes back."""
        self.used -= size
