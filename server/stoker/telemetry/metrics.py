"""What `/metrics` serves: all series of all models and of the server, as text.

The engine adds a model version when it is loaded, `app.py` registers what only it can reach, and
the management transport calls `render`. Counters are plain numbers written on the loop; a scrape
reads them there. So that a scrape of a thousand models delays no request, its text is written in
shares of a few models per turn of the loop, and a model whose numbers stand still is not written
again. Each model's lines are of one moment.

prometheus-client keeps the names, the types and the registry: `MetricsRegistry.library` is a
registry of the same numbers, and a test holds our text equal to the library's.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from stoker.telemetry import metric_table as table
from stoker.telemetry.exposition import (
    END,
    Format,
    family,
    header,
    histogram_keys,
    histogram_values,
    negotiate,
)
from stoker.telemetry.machine import Machine
from stoker.telemetry.metric import Metric
from stoker.telemetry.metric_table import TABLE
from stoker.telemetry.model_series import (
    MODEL_METRICS,
    Facts,
    Gauge,
    ModelSeries,
    total_in_flight,
    total_pending,
)
from stoker.telemetry.queue_delay import QueueDelay
from stoker.telemetry.server_series import Labelled, LabelledSeries, ServerSeries
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.telemetry.statistics import Histogram, ModelStatistics
from stoker.telemetry.text_pieces import TextPieces

LINES_PER_TURN: Final = 200
"""Work of one turn of the loop: a line takes some 0.5 us to write, so a turn some 0.15 ms
(benchmarks/results/0010-scraped-models.md)."""
_LINES_PER_CHECK: Final = 20
"""What it costs, in lines, to see that a model did not change."""
_WALKS_MODELS: Final = frozenset((table.READY, table.IN_FLIGHT, table.WAITING, table.QUEUE_DELAY))
"""Metrics of the server whose value takes a walk over all models."""
_MODELS_PER_WALKED_LINE: Final = 3
"""Models that such a walk passes in the time of one line."""
_MODELS_PER_ROW: Final = 50
"""Models whose text of one metric becomes one piece: 80 KB of a histogram."""
_LINES_PER_PIECE: Final = 4
"""What such a piece costs, in lines, beside its bytes."""
_BYTES_PER_LINE: Final = 768
"""Text that is copied in the time of one line."""
_MACHINE_S: Final = 1.0
"""Figures of the kernel are read once in this time, however many scrapers there are."""

_SERVER_METRICS: Final = tuple(metric for metric in TABLE if not metric.per_model)
_MODEL_PART: Final = {metric: index for index, metric in enumerate(MODEL_METRICS)}


class MetricsRegistry:
    """All metrics of one server. Every method runs on the loop."""

    def __init__(
        self,
        *,
        server: ServerStatistics | None = None,
        machine: Machine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.library = CollectorRegistry(auto_describe=False)
        """The same numbers for prometheus-client; it refuses two metrics of one name."""
        self._clock = clock
        self._models: dict[tuple[str, int], ModelSeries] = {}
        self._readers: dict[Metric, ServerSeries] = {}
        self._headers = {
            form: {metric: header(metric, form) for metric in TABLE} for form in Format
        }
        self._server = server or ServerStatistics()
        self._machine = machine or Machine()
        self._machine_lock = asyncio.Lock()
        self._machine_figures: Mapping[Metric, float] = {}
        self._machine_read = -_MACHINE_S
        self._queue_delay = QueueDelay(clock())
        self._gone_waited_ns = 0
        self._gone_answered = 0
        started = time.time()
        self.register(table.START_TIME, lambda: started)
        self.register(table.IN_FLIGHT, lambda: total_in_flight(self._models.values()))
        self.register(table.WAITING, lambda: total_pending(self._models.values()))
        self.register(table.QUEUE_DELAY, self._mean_queue_delay)
        self.register_labelled(
            table.UNROUTED,
            lambda: {(reason.value,): count for reason, count in self._server.unrouted.items()},
        )
        self.library.register(_Everything(self))

    def add_model(
        self,
        statistics: ModelStatistics,
        gauges: Mapping[Metric, Gauge] | None = None,
        *,
        facts: Mapping[Metric, Facts] | None = None,
        bring_up_to_date: Callable[[], None] | None = None,
    ) -> None:
        """Shows a version's statistics from here on.

        `gauges` gives what is not counted: any of `model_series.MODEL_GAUGES`; `facts` what never
        changes: any of MODEL_FACTS. A version that is
        loaded again takes the place of the one before it. `bring_up_to_date` is called before the
        statistics are read.
        """
        key = (statistics.model, statistics.version)
        before = self._models.get(key)
        if before is not None:
            self.remove_model(before.statistics)
        self._models[key] = ModelSeries(
            statistics, gauges or {}, facts or {}, bring_up_to_date=bring_up_to_date
        )

    def remove_model(self, statistics: ModelStatistics) -> None:
        """Takes a version's series away; harmless when another took its place."""
        key = (statistics.model, statistics.version)
        shown = self._models.get(key)
        if shown is not None and shown.statistics is statistics:
            del self._models[key]
            self._gone_waited_ns += statistics.queue_ns
            self._gone_answered += statistics.success_count

    def register(self, metric: Metric, read: Gauge) -> None:
        """Shows `read()` under a server metric without labels; no series while it gives None."""

        def samples() -> Sequence[Sample]:
            value = read()
            return () if value is None else (Sample(metric.name, {}, value),)

        self._register(metric, ServerSeries(samples), labels=())

    def register_labelled(self, metric: Metric, read: Labelled) -> None:
        """Shows one series for each key of `read()`: the values of the metric's labels, in order.

        The keys must be a closed set: never a text that a client sent.
        """
        self._register(metric, LabelledSeries(metric, read), labels=metric.labels)

    def register_histogram(self, metric: Metric, histogram: Histogram, *, divisor: float) -> None:
        """Shows a histogram; `divisor` turns its unit into the metric's (1e9 for nanoseconds)."""
        keys = histogram_keys(metric.name, {}, [bound / divisor for bound in histogram.bounds])

        def samples() -> Sequence[Sample]:
            values = histogram_values(histogram, divisor)
            return [
                Sample(name, labels, value)
                for (name, labels), value in zip(keys, values, strict=True)
            ]

        self._register(metric, ServerSeries(samples), labels=())

    def register_info(self, metric: Metric, labels: Mapping[str, str]) -> None:
        """Shows fixed facts: a series of value 1 whose labels are the facts."""
        sample = Sample(metric.name, dict(labels), 1)
        self._register(metric, ServerSeries(lambda: (sample,)), labels=tuple(labels))

    async def render(self, accept: str) -> tuple[str, tuple[bytes, ...]]:
        """Content type and text, in pieces, for a scraper that sent this Accept header."""
        form = negotiate(accept)
        await self._read_machine()
        text = TextPieces()
        for _ in self.write(form, text):
            await asyncio.sleep(0)  # one turn of the loop
        return form.value, tuple(text.pieces)

    def write(self, form: Format, text: TextPieces) -> Iterator[int]:
        """Writes everything to `text`, pausing after each turn's share; gives the work of each
        share, in lines. The figures of the kernel are those of the last `render`."""
        columns: list[list[bytes]] = [[] for _ in MODEL_METRICS]
        yield from self._write_models(form, columns)
        work = 0
        for metric in TABLE:
            text.add(self._headers[form][metric])
            index = _MODEL_PART.get(metric)
            if index is not None:
                for piece in columns[index]:
                    work += 1 + text.add(piece) // _BYTES_PER_LINE
                    if work >= LINES_PER_TURN:
                        yield work
                        work = 0
                columns[index] = []
            elif metric in _WALKS_MODELS:
                walk = len(self._models) // _MODELS_PER_WALKED_LINE
                if work + walk >= LINES_PER_TURN:
                    yield work
                    work = 0
                work += walk
            for lines, written in self._server_series(metric).shares(LINES_PER_TURN):
                work += lines + text.add(written) // _BYTES_PER_LINE
                if work >= LINES_PER_TURN:
                    yield work
                    work = 0
            if work >= LINES_PER_TURN:
                yield work
                work = 0
        if form is Format.OPENMETRICS:
            text.add(END)
        text.end()
        yield work

    def _write_models(self, form: Format, columns: list[list[bytes]]) -> Iterator[int]:
        """Appends the text of all models to `columns`, one for each of MODEL_METRICS, a row of some
        models at a time; pauses as `write` does."""
        work = 0
        row: list[bytes] = []
        models = list(self._models.values())
        for place, model in enumerate(models, 1):
            work += model.refresh() + _LINES_PER_CHECK
            row += model.texts(form)
            if work >= LINES_PER_TURN:
                yield work
                work = 0
            if place % _MODELS_PER_ROW and place < len(models):
                continue
            for index, column in enumerate(columns):
                piece = b"".join(row[index :: len(columns)])
                column.append(piece)
                work += _LINES_PER_PIECE + len(piece) // _BYTES_PER_LINE
                if work >= LINES_PER_TURN:
                    yield work
                    work = 0
            row.clear()
        if work:
            yield work

    def collect(self) -> Iterator[Family]:
        """The same families, as the library's objects."""
        for metric in TABLE:
            collected = family(metric)
            if metric.per_model:
                for model in self._models.values():
                    collected.samples.extend(model.samples(metric))
            else:
                collected.samples.extend(self._server_series(metric).samples())
            yield collected

    def _register(
        self,
        metric: Metric,
        series: ServerSeries,
        *,
        labels: tuple[str, ...],
    ) -> None:
        if metric not in _SERVER_METRICS:
            raise ValueError(f"expected a server's metric of the table, got '{metric.name}'")
        if metric in self._readers:
            raise ValueError(f"expected '{metric.name}' to be registered once, got it twice")
        if sorted(labels) != sorted(metric.labels):
            raise ValueError(
                f"expected labels {list(metric.labels)} for '{metric.name}', got {list(labels)}"
            )
        self._readers[metric] = series

    def _server_series(self, metric: Metric) -> ServerSeries:
        known = self._readers.get(metric)
        if known is not None:
            return known
        figure = self._machine_figures.get(metric)
        samples = () if figure is None else (Sample(metric.name, {}, figure),)
        return ServerSeries(lambda: samples)

    def _mean_queue_delay(self) -> float:
        shown = [model.statistics for model in self._models.values()]
        return self._queue_delay.mean(
            waited_ns=self._gone_waited_ns + sum([one.queue_ns for one in shown]),
            answered=self._gone_answered + sum([one.success_count for one in shown]),
            now=self._clock(),
        )

    async def _read_machine(self) -> None:
        async with self._machine_lock:
            if self._clock() - self._machine_read >= _MACHINE_S:
                self._machine_figures = await asyncio.to_thread(self._machine.read)
                self._machine_read = self._clock()


class _Everything(Collector):
    """What prometheus-client's registry asks."""

    def __init__(self, metrics: MetricsRegistry) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Family]:
        return self._metrics.collect()

    def describe(self) -> Iterable[Family]:
        return [family(metric) for metric in TABLE]
