"""The series of one model version: its numbers as text, kept until they change.

Label prefixes are built when the model is added; a scrape writes only numbers behind them, and
nothing at all for a model whose counters stand still. All series of a model are written in one
step on the loop, so a scrape never shows half of an update.

Knows no other model and no socket.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, TypeAlias

from prometheus_client.samples import Exemplar, Sample

from stoker.telemetry import metric_table as table
from stoker.telemetry.exposition import (
    Format,
    exemplar_text,
    histogram_keys,
    histogram_values,
    label_name,
    prefix,
)
from stoker.telemetry.metric import Metric, MetricType
from stoker.telemetry.model_lines import filled_lines, line_template
from stoker.telemetry.statistics import (
    LATENCY_BUCKETS_S,
    ROWS_BUCKETS,
    BatchEnd,
    FailureReason,
    Histogram,
    ModelStatistics,
    RefusalReason,
)

Gauge: TypeAlias = Callable[[], float | None]
"""Gives a value when a scrape asks; None: not measured, so no series."""

Facts: TypeAlias = Mapping[tuple[str, ...], float]
"""Values that never change, by those of the metric's labels that follow `model` and `version`."""

MODEL_METRICS: Final = tuple(metric for metric in table.TABLE if metric.per_model)
_TRACED: Final = MODEL_METRICS.index(table.REQUEST_SECONDS)
"""The one metric whose buckets have exemplars."""
MODEL_GAUGES: Final = (
    table.MODEL_DEMAND,
    table.MODEL_DEMAND_5S,
    table.MODEL_DEMAND_1S,
    table.MODEL_BATCH_LIMIT,
    table.MODEL_SUSTAINED_BATCH_LIMIT,
    table.MODEL_ROW_SECONDS,
)
"""Metrics of a model that do not come from its statistics: whoever adds the model gives them."""
MODEL_FACTS: Final = (
    table.MODEL_INFO, table.MODEL_NODES, table.MODEL_COPIES, table.MODEL_CPU_NODES,
    table.MODEL_MEMORY,
)  # fmt: skip
"""Likewise, for what is known once it is loaded."""

_NS_PER_S: Final = 1e9
_BOUNDS: Final[Mapping[Metric, Sequence[float]]] = {
    table.REQUEST_SECONDS: LATENCY_BUCKETS_S,
    table.QUEUE_SECONDS: LATENCY_BUCKETS_S,
    table.COMPUTE_SECONDS: LATENCY_BUCKETS_S,
    table.BATCH_ROWS: ROWS_BUCKETS,
}
_REASONS: Final[Mapping[Metric, type[FailureReason | BatchEnd | RefusalReason]]] = {
    table.REQUEST_FAILURE: FailureReason,
    table.BATCHES: BatchEnd,
    table.REFUSED: RefusalReason,
}


def _seconds(histogram: Histogram) -> list[float]:
    return histogram_values(histogram, _NS_PER_S)


_READERS: Final[Mapping[Metric, Callable[[ModelStatistics], list[float]]]] = {
    table.REQUEST_SUCCESS: lambda of: [of.success_count],
    table.REQUEST_FAILURE: lambda of: list(of.failures.values()),
    table.INFERENCE_COUNT: lambda of: [of.inference_count],
    table.EXEC_COUNT: lambda of: [of.execution_count],
    table.REQUEST_DURATION: lambda of: [of.success_ns // 1000],
    table.QUEUE_DURATION: lambda of: [of.queue_ns // 1000],
    table.INPUT_DURATION: lambda of: [of.input_ns // 1000],
    table.INFER_DURATION: lambda of: [of.infer_ns // 1000],
    table.OUTPUT_DURATION: lambda of: [of.output_ns // 1000],
    table.PENDING: lambda of: [of.pending],
    table.LOAD_DURATION: lambda of: [of.load_seconds],
    # A histogram exists from its first observation on: idle models cost no buckets.
    table.REQUEST_SECONDS: lambda of: _seconds(of.request_histogram) if of.success_count else [],
    table.QUEUE_SECONDS: lambda of: _seconds(of.queue_histogram) if of.success_count else [],
    table.COMPUTE_SECONDS: lambda of: _seconds(of.compute_histogram) if of.execution_count else [],
    table.BATCH_ROWS: lambda of: histogram_values(of.batch_rows, 1) if of.execution_count else [],
    table.BATCHES: lambda of: list(of.batch_ends.values()),
    table.BISECTIONS: lambda of: [of.bisections],
    table.OUT_OF_MEMORY: lambda of: [of.out_of_memory],
    table.DEVICE_RETRIES: lambda of: [of.device_retries],
    table.HUNG_RUNS: lambda of: [of.hung_runs],
    table.SLOW_LOOP_RUNS: lambda of: [of.slow_loop_runs],
    table.REFUSED: lambda of: list(of.refusals.values()),
    table.WRONGLY_REFUSED: lambda of: [of.wrong_refusals],
    table.MODEL_IN_FLIGHT: lambda of: [of.in_flight],
}

LINES_PER_READING: Final = 25
"""What it costs, in lines, to read all of a model's counters and to compare them."""

# Every other number of ModelStatistics changes only together with one of these.
_CHANGING: Final = (
    "success_count",
    "failure_count",
    "execution_count",
    "bisections",
    "out_of_memory",
    "device_retries",
    "hung_runs",
    "slow_loop_runs",
    "wrong_refusals",
    "pending",
    "in_flight",
    "load_seconds",
    "exemplar_count",
)
_changing: Final = attrgetter(*_CHANGING)
_COUNTED: Final = len(_CHANGING) + 1
"""Of what `ModelSeries` compares: these and the refusals come first, the gauges follow."""


def model_labels(statistics: ModelStatistics) -> dict[str, str]:
    """`model`, `version` and each metric tag as `_<key>`.

    Two tags whose keys become the same label keep the first: a doubled label would make Prometheus
    refuse the whole scrape.
    """
    labels = {"model": statistics.model, "version": str(statistics.version)}
    for key, value in statistics.tags.items():
        labels.setdefault(label_name("_" + key), value)
    return labels


def _keys(
    metric: Metric, labels: Mapping[str, str], facts: Facts
) -> list[tuple[str, dict[str, str]]]:
    """Name and labels of each sample that a model can have of a metric; `facts` are that metric's.

    A metric tag of the name of a fact's label gives way to it.
    """
    if metric in MODEL_FACTS:
        names = metric.labels[2:]
        return [(metric.name, {**labels, **dict(zip(names, key, strict=True))}) for key in facts]
    if metric.type is MetricType.HISTOGRAM:
        return histogram_keys(metric.name, labels, _BOUNDS[metric])
    if metric in _REASONS:
        return [(metric.name, {**labels, "reason": r.value}) for r in _REASONS[metric]]
    return [(metric.name, dict(labels))]


def _places() -> Iterator[tuple[int, Callable[[ModelStatistics], list[float]], slice]]:
    """Of each metric that comes from the statistics: which of MODEL_METRICS it is, its reader, and
    where its numbers stand among all of these."""
    start = 0
    for metric, read in _READERS.items():
        end = start + len(_keys(metric, {}, {}))
        yield MODEL_METRICS.index(metric), read, slice(start, end)
        start = end


_COUNTS: Final = tuple(_places())
_NUMBERS: Final = _COUNTS[-1][2].stop


class ModelSeries:
    """One model version.

    A scrape of many models keeps hardly any object that the garbage collector looks into: what is
    remembered is changed in place. (A tuple of texts for each model made its youngest generation
    take 1.5 to 3.5 ms, benchmarks/results/0010-scraped-models.md.)
    """

    __slots__ = (
        "_bring_up_to_date", "_facts", "_gauges", "_numbers", "_seen", "_templates", "_texts",
        "_traced", "statistics",
    )  # fmt: skip

    def __init__(
        self,
        statistics: ModelStatistics,
        gauges: Mapping[Metric, Gauge],
        facts: Mapping[Metric, Facts],
        *,
        bring_up_to_date: Callable[[], None] | None = None,
    ) -> None:
        """`bring_up_to_date` is called before the statistics are read."""
        for given, known in ((gauges, MODEL_GAUGES), (facts, MODEL_FACTS)):
            unknown = [metric.name for metric in given if metric not in known]
            if unknown:
                raise ValueError(
                    f"expected any of {[metric.name for metric in known]}, got {unknown}"
                )
        self.statistics = statistics
        self._bring_up_to_date = bring_up_to_date
        self._gauges = tuple(
            [(MODEL_METRICS.index(metric), read) for metric, read in gauges.items()]
        )
        self._facts = facts
        labels = model_labels(statistics)
        keys = [_keys(metric, labels, facts.get(metric, {})) for metric in MODEL_METRICS]
        self._templates = tuple(
            [line_template([prefix(*sample) for sample in samples]) for samples in keys]
        )
        self._texts = [b""] * len(MODEL_METRICS)
        for metric, values in facts.items():
            if values:
                index = MODEL_METRICS.index(metric)
                self._texts[index] = filled_lines(self._templates[index], [*values.values()])
        self._seen: list[float | None] = []
        self._numbers: list[float | None] = [None] * _NUMBERS
        self._traced = b""

    def refresh(self) -> int:
        """Writes anew what changed since the last call. Gives the work of it, in lines."""
        if self._bring_up_to_date is not None:
            self._bring_up_to_date()
        statistics = self.statistics
        gauges = [read() for _, read in self._gauges]
        seen = [*_changing(statistics), sum(statistics.refusals.values()), *gauges]
        before = self._seen or [None] * len(seen)
        if seen == before:
            return 0
        work = self._write_counted() if seen[:_COUNTED] != before[:_COUNTED] else 0
        for (index, _), value, known in zip(self._gauges, gauges, before[_COUNTED:], strict=True):
            if value != known:
                template = self._templates[index]
                self._texts[index] = b"" if value is None else filled_lines(template, [value])
                work += 1
        self._seen[:] = seen
        return work

    def _write_counted(self) -> int:
        """The part of `refresh` that comes from the statistics."""
        work = LINES_PER_READING
        statistics, numbers, texts = self.statistics, self._numbers, self._texts
        for index, read, place in _COUNTS:
            values = read(statistics)
            if values and numbers[place] != values:
                numbers[place] = values
                texts[index] = filled_lines(self._templates[index], values)
                work += len(values)
        if statistics.request_histogram.exemplars:
            self._traced = self._with_exemplars(texts[_TRACED])
            work += self._traced.count(b"\n")
        return work

    def texts(self, form: Format) -> list[bytes]:
        """What `refresh` wrote, one text for each of MODEL_METRICS, until it writes again. The
        classic format cannot carry exemplars."""
        if not self._traced or form is Format.CLASSIC:
            return self._texts
        texts = self._texts.copy()
        texts[_TRACED] = self._traced
        return texts

    def _with_exemplars(self, text: bytes) -> bytes:
        """The lines of the request durations, each bucket's with the newest trace in it."""
        lines = text.decode().splitlines()
        for place, exemplar in self.statistics.request_histogram.exemplars.items():
            lines[place] += exemplar_text(exemplar, _NS_PER_S)
        return "".join([f"{line}\n" for line in lines]).encode()

    def samples(self, metric: Metric) -> list[Sample]:
        """The same numbers as the library's samples."""
        if self._bring_up_to_date is not None:
            self._bring_up_to_date()
        values = self._values(metric)
        if not values:
            return []
        keys = _keys(metric, model_labels(self.statistics), self._facts.get(metric, {}))
        found = [
            Sample(name, labels, value) for (name, labels), value in zip(keys, values, strict=True)
        ]
        if metric is table.REQUEST_SECONDS:
            for place, (trace, value, at) in self.statistics.request_histogram.exemplars.items():
                known = Exemplar({"trace_id": trace}, value / _NS_PER_S, at)
                found[place] = found[place]._replace(exemplar=known)
        return found

    def _values(self, metric: Metric) -> list[float]:
        counted = _READERS.get(metric)
        if counted is not None:
            return counted(self.statistics)
        for index, read in self._gauges:
            if MODEL_METRICS[index] is metric:
                return _present(read())
        return list(self._facts.get(metric, {}).values())


def _present(value: float | None) -> list[float]:
    return [] if value is None else [value]


def total_in_flight(models: Iterable[ModelSeries]) -> int:
    """Requests accepted and not yet answered, over all models."""
    return sum([model.statistics.in_flight for model in models])


def total_pending(models: Iterable[ModelSeries]) -> int:
    """Requests accepted and not yet in a batch, over all models."""
    return sum([model.statistics.pending for model in models])
