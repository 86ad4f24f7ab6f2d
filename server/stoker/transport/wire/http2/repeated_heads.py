"""Heads that differ from an earlier one only in fields that change with every call.

A client with deadlines or traces sends the same request with a fresh `grpc-timeout` or
`traceparent` each time, so that no header block comes twice. What the other fields ask for is
worked out once all the same, and then varied: 45 us become 12
(benchmarks/results/0005-header-blocks.md).  Hot path.
"""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from stoker.transport.wire.http2.hpack import Block, Field

FRESH: Final = frozenset(
    (
        "grpc-timeout",
        "grpc-previous-rpc-attempts",
        "traceparent",
        "tracestate",
        "baggage",
        "grpc-trace-bin",
        "x-request-id",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
    )
)
"""Fields that are expected to change. Others may too: then the head is read as a whole."""

_REMEMBERED: Final = 64
"""Of one connection; at the limit all are forgotten."""


class Varied(Protocol):
    """What a head becomes."""

    def varied(self, fresh: list[Field]) -> "Varied":
        """The same with these fields added, none of which it has. Raises MalformedRequest."""


HeadT = TypeVar("HeadT", bound=Varied)


class RepeatedHeads(Generic[HeadT]):
    """The heads of one connection without their fresh fields."""

    def __init__(self, read: Callable[[Block], HeadT]) -> None:
        """`read` makes a head of a whole block; what it raises passes through."""
        self._read = read
        self._known: dict[tuple[Field, ...], HeadT] = {}

    def head(self, block: Block) -> HeadT:
        """The head of a block."""
        lasting: list[Field] = []
        fresh: list[Field] = []
        for field in block.fields:
            name = field[0]
            if name in FRESH:
                fresh.append(field)
            elif fresh and name[0] == ":":
                return self._read(block)  # which says what is wrong
            else:
                lasting.append(field)
        if not fresh or (len(fresh) > 1 and len({name for name, _ in fresh}) < len(fresh)):
            return self._read(block)
        key = tuple(lasting)
        known = self._known.get(key)
        if known is None:
            known = self._read(Block(lasting, block.size, False, False))
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known.varied(fresh)  # type: ignore[return-value]  # of the same kind of head
