"""Header blocks of gRPC calls, encoded before the clock starts: plain ones, and fresh ones.

Not a benchmark itself. Real clients send a new `grpc-timeout` and, where traces are on, a new
`traceparent` with every call. Encoders differ in what they do with them:

- *plain*: the constant headers only, what h2load sends. After the first call each is an index.
- *indexed*: every header enters the encoder's table, Huffman-coded, as grpc-go does it. The table
  of 4 KiB is full after some 25 calls: from then on each call also evicts, and the constant
  headers come again and again.
- *literal*: the fresh headers are literals that enter no table, the constant ones are indexes.
"""

import random
from collections.abc import Callable, Iterator
from enum import Enum

import hpack

from benchmarks.bodies import GRPC_HEADERS, INFER
from benchmarks.raw_http2 import Call, Http2Client


class Encoding(Enum):
    """What a client sends along with each call."""

    PLAIN = "plain"
    INDEXED = "indexed"
    LITERAL = "literal"


Field = tuple[str, str]


def grpc_fields(port: int) -> list[Field]:
    """The headers of a ModelInfer call that are the same each time."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", INFER),
        (":authority", f"127.0.0.1:{port}"),
        *GRPC_HEADERS.items(),
        ("user-agent", "stoker-benchmark"),
    ]


def rest_fields(port: int, path: str, headers: dict[str, str]) -> list[Field]:
    """The headers of a POST over HTTP/2."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", f"127.0.0.1:{port}"),
        *((name.lower(), value) for name, value in headers.items()),
    ]


def fresh(numbers: random.Random, timeout_us: Callable[[], int]) -> list[Field]:
    """The headers of a call that differ each time, as gRPC and W3C Trace Context write them."""
    trace, span = numbers.getrandbits(128), numbers.getrandbits(64)
    return [
        ("grpc-timeout", f"{timeout_us()}u"),
        ("traceparent", f"00-{trace:032x}-{span:016x}-01"),
    ]


def literal(fields: list[Field]) -> bytes:
    """Literals without indexing, with new names and without Huffman (RFC 7541, 6.2.2)."""
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields
    )


def repeated(client: Http2Client, fields: list[Field], body: bytes) -> Iterator[Call]:
    """The same call again and again, for one connection."""
    for block in blocks(Encoding.PLAIN, fields, table_bytes=client.table_bytes):
        yield Call(block, body)


def blocks(
    encoding: Encoding, fields: list[Field], *, table_bytes: int, seed: int = 0
) -> Iterator[bytes]:
    """The blocks of one connection's calls, in the order in which they must be sent.

    `fields` are the constant ones; `table_bytes` is the header table that the server allows.
    """
    numbers = random.Random(seed)
    encoder = hpack.Encoder()
    if table_bytes != encoder.header_table_size:
        encoder.header_table_size = table_bytes

    def timeout_us() -> int:
        return numbers.randrange(10_000_000, 60_000_000)

    if encoding is not Encoding.INDEXED:  # once they are in the table, the same each time
        yield encoder.encode(fields)
        indexes = encoder.encode(fields)
    while True:
        if encoding is Encoding.INDEXED:
            yield encoder.encode([*fields, *fresh(numbers, timeout_us)])
        elif encoding is Encoding.LITERAL:
            yield indexes + literal(fresh(numbers, timeout_us))
        else:
            yield indexes
