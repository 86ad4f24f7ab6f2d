"""Spans over HTTP: the SDK's exporter with requests that are made already.

As `otlp_grpc.py`, whose docstring says why; here it is the exporter's client that takes bytes.
"""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.otlp.proto.http.version import __version__


class HttpSender:
    """Implements `otlp.Sender`."""

    def __init__(self) -> None:
        """Raises what the exporter raises where the standard variables are wrong."""
        self._exporter = OTLPSpanExporter()
        if not hasattr(getattr(self._exporter, "_client", None), "export"):
            raise ValueError(
                "expected opentelemetry-exporter-otlp-proto-http 1.45 or one that sends its "
                f"requests likewise, got {__version__}"
            )

    def send(self, request: bytes) -> str | None:
        """Sends a request; None: it was taken, else why not."""
        result = self._exporter._client.export(request)
        if result.success:
            return None
        said = result.reason or result.error or "no answer in time"
        return f"{said}" if result.status_code is None else f"HTTP {result.status_code}: {said}"

    def close(self) -> None:
        """Ends a `send` that waits to try again."""
        self._exporter._client.shutdown()
