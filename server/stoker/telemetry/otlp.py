"""Where spans go: OTLP over gRPC or HTTP, as the standard variables say. The SDK reads them itself.

The only module, with `spans.py`, that imports OpenTelemetry; it is imported when tracing is on. The
packages come with the extra `otel`.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from stoker.telemetry.sampler import Sampler
from stoker.telemetry.spans import SpanMaker
from stoker.telemetry.tracing import Tracer

SERVICE: Final = "stoker"
"""`service.name` where neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES says another."""


_SDK_LOGGER: Final = logging.getLogger("opentelemetry")
_READS_HEADERS: Final = "opentelemetry.util.re"
"""The logger that quotes headers, which may be secrets."""


class OtlpReceiver:
    """Implements `SpanReceiver` by an exporter of the SDK."""

    def __init__(self, exporter: SpanExporter, target: str) -> None:
        self._exporter = exporter
        self.target = target

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Sends them; tries again where the receiver asks for it, within its timeout."""
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Ends an export that waits to try again."""
        self._exporter.shutdown()


class NoReceiver:
    """Implements `SpanReceiver` for OTEL_TRACES_EXPORTER=none."""

    target = "nowhere"

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """They are made, and that is all."""
        return True

    def close(self) -> None:
        """Nothing is open."""


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
        maker = SpanMaker(resource(version), version, sampler)
        receiver = _receiver(protocol, target) if exports else NoReceiver()
    # Its exporters tell of every attempt; `Tracer` tells when it begins to fail.
    _SDK_LOGGER.setLevel(logging.CRITICAL)
    return Tracer(
        sampler,
        receiver,
        maker.spans_of,
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


def _receiver(protocol: Literal["grpc", "http/protobuf"], target: str) -> OtlpReceiver:
    exporter: SpanExporter
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter as HttpExporter,
            )

            exporter = HttpExporter()
    except Exception as error:  # each variable that is wrong has an exception of its own
        raise ValueError(
            f"expected OTEL_EXPORTER_OTLP_* variables that make an exporter over {protocol}, "
            f"got: {error}"
        ) from error
    return OtlpReceiver(exporter, target)
