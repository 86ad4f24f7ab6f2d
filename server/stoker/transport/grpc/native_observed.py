"""Unary calls of the native gRPC transport where somebody looks at calls.

Whether anybody wants to know of a call is asked when its stream opens, by the `traceparent` of its
head. Of most calls nobody does: those are opened by the plain opening, and nothing else of their
way is another than without an observer.  Hot path.
"""

from typing import Final

from stoker.transport.grpc.call import UnaryHandler
from stoker.transport.grpc.native_call import CallHead, CallHost
from stoker.transport.grpc.native_head import CallMetadata
from stoker.transport.grpc.native_unary import UnaryCall, UnaryOpening, VariedOpening
from stoker.transport.grpc.observed import CallObserver, ObservedContext
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream

_PARENT: Final = "traceparent"
_STATE: Final = "tracestate"


class ObservedUnaryOpening(UnaryOpening):
    """A unary call by its head. Implements `Opening`."""

    __slots__ = ("observer", "parent", "plain", "state")

    def __init__(
        self,
        host: CallHost,
        head: CallHead,
        handle: UnaryHandler,
        plain: UnaryHandler,
        observer: CallObserver,
    ) -> None:
        """`handle` is the handler of calls that somebody wants to know of, `plain` of others."""
        super().__init__(host, head, handle)
        self.plain = UnaryOpening(host, head, plain)
        self.observer = observer
        self.parent = str(head.metadata.get(_PARENT, ""))
        self.state = str(head.metadata.get(_STATE, ""))

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        observer = self.observer
        span = observer.sample(self.parent, self.state)
        if span is None and not observer.looks_at_all:
            return UnaryCall(session, number, self.plain)
        head, now = self.head, observer.clock()
        context = ObservedContext(
            head.metadata, now + head.timeout, head.is_retry, head.path, now, session.peer, span
        )
        return UnaryCall(session, number, self, context)

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        plain = self.plain.varied(fresh)
        return ObservedVariedOpening(self, plain) if isinstance(plain, VariedOpening) else plain


class ObservedVariedOpening:
    """A unary call that differs from others in fresh fields only. Implements `Opening`."""

    __slots__ = ("common", "plain")

    def __init__(self, common: ObservedUnaryOpening, plain: VariedOpening) -> None:
        self.common = common
        self.plain = plain

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        common, plain = self.common, self.plain
        parent, state = common.parent, common.state
        for name, value in plain.fresh:
            if name == _PARENT:
                parent = value
            elif name == _STATE:
                state = value
        observer = common.observer
        span = observer.sample(parent, state)
        if span is None and not observer.looks_at_all:
            return plain.open(session, number)
        head, now = common.head, observer.clock()
        metadata = CallMetadata(head.metadata, plain.fresh)
        context = ObservedContext(
            metadata, now + plain.timeout, plain.is_retry, head.path, now, session.peer, span
        )
        return UnaryCall(session, number, common, context)

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        return self.common.varied(self.plain.fresh + fresh)
