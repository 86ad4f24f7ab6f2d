"""What looks at calls, as the settings want it: the tracer, the access log, and their metrics.

A part of the composition root: `app.py` builds one and gives its observer to the engine and the
data ports. With tracing and the access log off there is no observer, and nothing else is made.
"""

import asyncio
import logging
import sys
from typing import Final

import stoker
from stoker.open_telemetry import TracingOptions
from stoker.settings import Settings
from stoker.telemetry import log
from stoker.telemetry import metric_table as table
from stoker.telemetry.access_log import AccessLog
from stoker.telemetry.metrics import MetricsRegistry
from stoker.telemetry.observer import Observer
from stoker.telemetry.tracing import Tracer

logger: Final = logging.getLogger(__name__)

FLUSH_S: Final = 3.0
"""What the last spans and lines may take at the end. With LAST_ANSWERS it fits into the slack that
the manifests leave beside drain delay and timeout."""


class Observing:
    """See the module's docstring."""

    def __init__(self, settings: Settings, tracing: TracingOptions, descriptor: int | None) -> None:
        """Lines of the access log go to `descriptor`; None: to standard output. Raises ValueError
        where the variables of OpenTelemetry make no exporter."""
        self._tracer = _tracer(tracing) if tracing.is_on else None
        self._access_log: AccessLog | None = None
        self._shares_output = settings.access_log != "off" and descriptor is None
        if settings.access_log != "off":
            self._access_log = AccessLog(
                log.resolve(settings.log_format, sys.stdout),
                sys.stdout.fileno() if descriptor is None else descriptor,
                share=1.0 if settings.access_log == "all" else settings.access_log_share,
                slow_s=settings.slow_request_threshold_s,
            )
        self.observer: Observer | None = None
        if self._tracer is not None or self._access_log is not None:
            self.observer = Observer(self._tracer, self._access_log)

    def start(self) -> None:
        """Begins to export and to write."""
        if self._tracer is not None:
            self._tracer.start()
        if self._access_log is not None:
            self._access_log.start()

    def say(self, line: str) -> None:
        """Writes a line to standard output. The loop does not wait for a reader of the access log
        that stalls, nor does the line come amid one of those."""
        if self._access_log is not None and self._shares_output:
            self._access_log.say(line)
            return
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    async def close(self) -> None:
        """Sends what waits; takes FLUSH_S at most."""
        ends = []
        if self._tracer is not None:
            ends.append(asyncio.to_thread(self._tracer.close, FLUSH_S))
        if self._access_log is not None:
            ends.append(asyncio.to_thread(self._access_log.close, FLUSH_S))
        await asyncio.gather(*ends)

    def show(self, metrics: MetricsRegistry) -> None:
        """Puts on `/metrics` what became of spans and lines."""
        tracer, access_log = self._tracer, self._access_log
        if tracer is not None:
            counts = tracer.counts
            metrics.register_labelled(
                table.TRACE_SPANS,
                lambda: {
                    ("exported",): counts.exported,
                    ("failed",): counts.failed,
                    ("dropped",): counts.dropped,
                },
            )
        if access_log is not None:
            lines = access_log.lines
            metrics.register_labelled(
                table.ACCESS_LOG_LINES,
                lambda: {("written",): lines.written, ("dropped",): lines.dropped},
            )


def _tracer(options: TracingOptions) -> Tracer:
    # Here and not above: OpenTelemetry is an extra, and importing it takes a quarter of a second.
    from stoker.telemetry.otlp import open_tracer

    tracer = open_tracer(
        version=stoker.__version__,
        share=options.sampling.share,
        follows_parent=options.sampling.follows_parent,
        protocol=options.protocol,
        target=options.target,
        exports=options.exports,
        max_queued_spans=options.max_queued_spans,
        max_export_spans=options.max_export_spans,
        interval_s=options.export_interval_s,
    )
    log.event(
        logger,
        "tracing",
        f"spans go to {options.target}" if options.exports else "spans are made and dropped",
        target=options.target,
        share=options.sampling.share,
        follows_parent=options.sampling.follows_parent,
    )
    return tracer
