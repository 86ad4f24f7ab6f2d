"""Where spans go: OTLP over gRPC or HTTP, as the standard variables say. The SDK reads them itself.

The only module, with `otlp_grpc.py` and `otlp_http.py`, that imports OpenTelemetry; it is imported
when tracing is on. The packages come with the extra `otel`.
"""

import contextlib
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Literal, Protocol

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from stoker.telemetry import otlp_form
from stoker.telemetry.sampler import Sampler
from stoker.telemetry.spans import SpanMaker
from stoker.telemetry.tracing import SpanReceiver, Tracer

SERVICE: Final = "stoker"
"""`service.name` where neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES says another."""

MOST_REASON_CHARACTERS: Final = 512
"""Of what a receiver or the network says of a failure."""

_SECRETS: Final = re.compile(r"[^\s/]*@|(?<=\S)\?\S*")
"""Of addresses in it: the name and the password, and the query."""

_SDK_LOGGER: Final = logging.getLogger("opentelemetry")
_READS_HEADERS: Final = "opentelemetry.util.re"
"""The logger that quotes headers, which may be secrets."""


class Sender(Protocol):
    """What sends requests of OTLP; tries again where the receiver asks for it, within its
    timeout."""

    def send(self, request: bytes) -> str | None:
        """Sends one; None: it was taken, else why not."""

    def close(self) -> None:
        """Ends a `send` that waits to try again."""


class OtlpReceiver:
    """Implements `SpanReceiver`."""

    def __init__(self, sender: Sender, target: str, resource: bytes, scope: bytes) -> None:
        """`resource` and `scope` are these messages of OTLP, of all spans."""
        self._sender = sender
        self.target = target
        self._resource = resource
        self._scope = scope

    def export(self, spans: Sequence[bytes]) -> str | None:
        """See `SpanReceiver`."""
        why = self._sender.send(otlp_form.request(self._resource, self._scope, spans))
        return None if why is None else without_secrets(why)

    def close(self) -> None:
        """See `SpanReceiver`."""
        self._sender.close()


class NoReceiver:
    """Implements `SpanReceiver` for OTEL_TRACES_EXPORTER=none."""

    target = "nowhere"

    def export(self, spans: Sequence[bytes]) -> str | None:
        """They are made, and that is all."""
        return None

    def close(self) -> None:
        """Nothing is open."""


def without_secrets(why: str) -> str:
    """What is said of a failure as the log may have it."""
    return _SECRETS.sub("", why)[:MOST_REASON_CHARACTERS]


def open_tracer(
    *,
    version: str,
    share: float,
    follows_parent: bool,
    protocol: Literal["grpc", "http/protobuf"],
    target: str,
    exports: bool,
    max_queued_spans: int,
    max_export_spans: int,
    interval_s: float,
) -> Tracer:
    """A tracer that is to be started. `version` is the server's; `target` says where spans go, for
    the log.

    Raises ValueError with a sentence where the standard variables do not make an exporter.
    """
    sampler = Sampler(share, follows_parent=follows_parent)
    with _nothing_ignored():
        parts = _parts(resource(version), version)
        receiver: SpanReceiver = NoReceiver()
        if exports:
            receiver = OtlpReceiver(_sender(protocol), target, *parts)
    # Its exporters tell of every attempt; `Tracer` tells when it begins to fail, and why.
    _SDK_LOGGER.setLevel(logging.ERROR)
    _SDK_LOGGER.propagate = False
    _SDK_LOGGER.addHandler(logging.NullHandler())
    return Tracer(
        sampler,
        receiver,
        SpanMaker(sampler.span_id).spans_of,
        max_queued_spans=max_queued_spans,
        max_export_spans=max_export_spans,
        interval_s=interval_s,
    )


def resource(version: str) -> Resource:
    """What all spans say of this process; the variables win over what it knows itself."""
    own = Resource(
        {
            "service.name": SERVICE,
            "service.version": version,
            "service.instance.id": socket.gethostname(),
        }
    )
    return Resource.create({}).merge(own).merge(OTELResourceDetector().detect())


@contextlib.contextmanager
def _nothing_ignored() -> Iterator[None]:
    """Raises ValueError for what the SDK would log and go on without: a certificate that is not
    there, a header or an attribute that is none."""
    heard = _Heard()
    level, propagates = _SDK_LOGGER.level, _SDK_LOGGER.propagate
    _SDK_LOGGER.addHandler(heard)
    _SDK_LOGGER.setLevel(logging.WARNING)
    _SDK_LOGGER.propagate = False
    try:
        yield
    finally:
        _SDK_LOGGER.removeHandler(heard)
        _SDK_LOGGER.setLevel(level)
        _SDK_LOGGER.propagate = propagates
    if heard.messages:
        got = "; ".join(heard.messages)
        raise ValueError(f"expected OTEL_* variables that OpenTelemetry can use, got: {got}")


class _Heard(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        is_secret = record.name == _READS_HEADERS
        self.messages.append(
            "a header in OTEL_EXPORTER_OTLP_*HEADERS that is not key=value"
            if is_secret
            else record.getMessage()
        )


def _parts(of: Resource, version: str) -> tuple[bytes, bytes]:
    """Resource and scope as messages of OTLP, as the SDK makes them of a span."""
    scope = InstrumentationScope("stoker", version)
    any_span = ReadableSpan("any", INVALID_SPAN_CONTEXT, resource=of, instrumentation_scope=scope)
    (encoded,) = encode_spans([any_span]).resource_spans
    return (
        encoded.resource.SerializeToString(),
        encoded.scope_spans[0].scope.SerializeToString(),
    )


def _sender(protocol: Literal["grpc", "http/protobuf"]) -> Sender:
    try:
        if protocol == "grpc":
            from stoker.telemetry.otlp_grpc import GrpcSender

            return GrpcSender()
        from stoker.telemetry.otlp_http import HttpSender

        return HttpSender()
    except Exception as error:  # each variable that is wrong has an exception of its own
        raise ValueError(
            f"expected OTEL_EXPORTER_OTLP_* variables that make an exporter over {protocol}, "
            f"got: {error}"
        ) from error
