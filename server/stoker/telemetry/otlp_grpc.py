"""Spans over gRPC: the SDK's exporter with requests that are made already.

The exporter has connection, headers, certificates, compression and further attempts from the
standard variables, and a method that makes the request, which is another here. That method is its
own and no promise to others: where a later one lacks it, the server says so at start.
"""

import logging
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.otlp.proto.grpc.version import __version__
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult

_LOGGER: Final = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")


class GrpcSender:
    """Implements `otlp.Sender`."""

    def __init__(self) -> None:
        """Raises what the exporter raises where the standard variables are wrong."""
        if not hasattr(OTLPSpanExporter, "_translate_data"):
            raise ValueError(
                "expected opentelemetry-exporter-otlp-proto-grpc 1.45 or one that makes its "
                f"requests likewise, got {__version__}"
            )
        self._exporter = _Exporter()

    def send(self, request: bytes) -> str | None:
        """Sends a request; None: it was taken, else why not."""
        heard = _Heard()
        # Before the exporter's own filter, which drops what it has said a little while ago.
        _LOGGER.filters.insert(0, heard)
        try:
            sent = self._exporter.send(ExportTraceServiceRequest.FromString(request))
        finally:
            _LOGGER.removeFilter(heard)
        return None if sent is SpanExportResult.SUCCESS else heard.message

    def close(self) -> None:
        """Ends a `send` that waits to try again."""
        self._exporter.shutdown()


class _Exporter(OTLPSpanExporter):
    def send(self, request: ExportTraceServiceRequest) -> SpanExportResult:
        return self._export(request)  # type: ignore[arg-type]  # what it makes of spans

    def _translate_data(self, data: object) -> ExportTraceServiceRequest:
        assert isinstance(data, ExportTraceServiceRequest)
        return data

    def _count_data(self, data: object) -> int:
        assert isinstance(data, ExportTraceServiceRequest)
        return sum(len(scope.spans) for each in data.resource_spans for scope in each.scope_spans)


class _Heard(logging.Filter):
    """Keeps the last thing that the exporter says, which with a failure is why, and passes on
    none."""

    def __init__(self) -> None:
        super().__init__()
        self.message = "the exporter does not say why"

    def filter(self, record: logging.LogRecord) -> bool:
        self.message = record.getMessage()
        return False
