"""Heads that differ from an earlier one only in fields that change with every call.

A client with deadlines or traces sends the same request with a fresh `grpc-timeout` or
`traceparent` each time, so that no header block comes twice. What the other fields ask for is
worked out once all the same, and then varied (benchmarks/results/0005-header-blocks.md).  Hot
path.
"""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from stoker.transport.wire.http2.hpack import Block, Field, list_bytes
from stoker.transport.wire.http2.request_fields import check_value
from stoker.transport.wire.limits import REMEMBERED_BYTES, REMEMBERED_HEADS

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


class Varied(Protocol):
    """What a head becomes."""

    def varied(self, fresh: list[Field]) -> "Varied":
        """The same with these fields added, none of which it has. They are sound."""


HeadT = TypeVar("HeadT", bound=Varied)


class RepeatedHeads(Generic[HeadT]):
    """The heads of one connection without their fresh fields."""

    def __init__(self, read: Callable[[Block], HeadT]) -> None:
        """`read` makes a head of a whole block; what it raises passes through."""
        self._read = read
        self._known: dict[tuple[Field, ...], HeadT] = {}

    def varied(self, block: Block) -> HeadT | None:
        """The head of a block with fresh fields; None for one that is to be read as a whole. Raises
        MalformedRequest."""
        lasting: list[Field] = []
        fresh: list[Field] = []
        for field in block.fields:
            if field[0] in FRESH:
                check_value(*field)
                fresh.append(field)
            elif fresh and field[0].startswith(":"):
                return None  # misplaced
            else:
                lasting.append(field)
        if not fresh or repeats(fresh):
            return None
        return self.lasting(lasting).varied(fresh)  # type: ignore[return-value]  # of one kind

    def behind(self, head: HeadT, fields: list[Field]) -> HeadT | None:
        """The head with these fields behind those that it was made of; None if it is to be read as
        a whole, as one without fresh fields is. Raises MalformedRequest."""
        last = ""
        for name, value in fields:
            if name not in FRESH or name == last:
                return None
            last = name
            if not (value.isprintable() and value.strip() == value):
                check_value(name, value)  # does the same; a call for each shows
        if not last or (len(fields) > 2 and repeats(fields)):
            return None
        return head.varied(fields)  # type: ignore[return-value]  # same

    def lasting(self, fields: list[Field]) -> HeadT:
        """The head that fields make which are not fresh; remembered if they are not too long."""
        key = tuple(fields)
        known = self._known.get(key)
        if known is None:
            known = self._read(Block(fields, 0, False, False, -1, 0))
            if list_bytes(fields) <= REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[key] = known
        return known


def are_fresh(fields: list[Field]) -> bool:
    """Whether all names are those of fresh fields."""
    return FRESH.issuperset([name for name, _ in fields])


def repeats(fields: list[Field]) -> bool:
    """Whether a name comes twice."""
    return len(fields) > 1 and len({name for name, _ in fields}) < len(fields)
