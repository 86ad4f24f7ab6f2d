"""The series of one model version: its numbers as text, kept until they change.

Label prefixes are built when the model is added; a scrape writes only numbers behind them, and
nothing at all for a model whose counters stand still. All series of a model are written in one
step on the loop, so a scrape never shows half of an update.

Knows no other model and no socket.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, TypeAlias

from prometheus_client.samples import Exemplar, Sample

from stoker.telemetry import metric_table as table
from stoker.telemetry.exposition import (
    exemplar_text,
    histogram_keys,
    histogram_values,
    label_name,
    number,
    prefix,
)
from stoker.telemetry.metric import Metric, MetricType
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


def _seconds(histogram: Histogram) -> Sequence[float]:
    return histogram_values(histogram, _NS_PER_S)


_READERS: Final[Mapping[Metric, Callable[[ModelStatistics], Sequence[float]]]] = {
    table.REQUEST_SUCCESS: lambda of: (of.success_count,),
    table.REQUEST_FAILURE: lambda of: tuple(of.failures.values()),
    table.INFERENCE_COUNT: lambda of: (of.inference_count,),
    table.EXEC_COUNT: lambda of: (of.execution_count,),
    table.REQUEST_DURATION: lambda of: (of.success_ns // 1000,),
    table.QUEUE_DURATION: lambda of: (of.queue_ns // 1000,),
    table.INPUT_DURATION: lambda of: (of.input_ns // 1000,),
    table.INFER_DURATION: lambda of: (of.infer_ns // 1000,),
    table.OUTPUT_DURATION: lambda of: (of.output_ns // 1000,),
    table.PENDING: lambda of: (of.pending,),
    table.LOAD_DURATION: lambda of: (of.load_seconds,),
    # A histogram exists from its first observation on: idle models cost no buckets.
    table.REQUEST_SECONDS: lambda of: _seconds(of.request_histogram) if of.success_count else (),
    table.QUEUE_SECONDS: lambda of: _seconds(of.queue_histogram) if of.success_count else (),
    table.COMPUTE_SECONDS: lambda of: _seconds(of.compute_histogram) if of.execution_count else (),
    table.BATCH_ROWS: lambda of: histogram_values(of.batch_rows, 1) if of.execution_count else (),
    table.BATCHES: lambda of: tuple(of.batch_ends.values()),
    table.BISECTIONS: lambda of: (of.bisections,),
    table.OUT_OF_MEMORY: lambda of: (of.out_of_memory,),
    table.DEVICE_RETRIES: lambda of: (of.device_retries,),
    table.HUNG_RUNS: lambda of: (of.hung_runs,),
    table.SLOW_LOOP_RUNS: lambda of: (of.slow_loop_runs,),
    table.REFUSED: lambda of: tuple(of.refusals.values()),
    table.WRONGLY_REFUSED: lambda of: (of.wrong_refusals,),
    table.MODEL_IN_FLIGHT: lambda of: (of.in_flight,),
}

# Every other number of ModelStatistics changes only together with one of these.
_changing: Final = attrgetter(
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


class ModelSeries:
    """One model version. `parts` is its text, one entry for each of MODEL_METRICS;
    `openmetrics_parts` the same with exemplars, which the classic text cannot carry."""

    __slots__ = (
        "_bring_up_to_date", "_facts", "_gauges", "_prefixes", "_seen",
        "openmetrics_parts", "parts", "statistics",
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
        self.parts: tuple[bytes, ...] = ()
        self.openmetrics_parts: tuple[bytes, ...] = ()
        self._bring_up_to_date = bring_up_to_date
        self._gauges = tuple(gauges.items())
        self._facts = facts
        labels = model_labels(statistics)
        self._prefixes = tuple(
            tuple(
                prefix(name, sample_labels)
                for name, sample_labels in _keys(metric, labels, facts.get(metric, {}))
            )
            for metric in MODEL_METRICS
        )
        self._seen: tuple[object, ...] = ()

    def refresh(self) -> int:
        """Writes `parts` anew if a number changed since the last call. Gives the lines written."""
        if self._bring_up_to_date is not None:
            self._bring_up_to_date()
        statistics = self.statistics
        gauges = {metric: read() for metric, read in self._gauges}
        seen = (_changing(statistics), sum(statistics.refusals.values()), gauges)
        if seen == self._seen:
            return 0
        lines = 0
        parts = []
        for values, prefixes in zip(self._values(gauges), self._prefixes, strict=True):
            lines += len(values)
            parts.append(
                "".join(
                    [
                        f"{before}{number(value)}\n"
                        for before, value in zip(prefixes, values, strict=True)
                    ]
                ).encode()
                if values
                else b""
            )
        self.parts = self.openmetrics_parts = tuple(parts)
        if statistics.request_histogram.exemplars:
            parts[_TRACED] = self._with_exemplars(parts[_TRACED])
            self.openmetrics_parts = tuple(parts)
            lines += len(self._prefixes[_TRACED])
        self._seen = seen
        return lines

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
        gauges = {key: read() for key, read in self._gauges}
        values = self._values(gauges)[MODEL_METRICS.index(metric)]
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

    def _values(self, gauges: Mapping[Metric, float | None]) -> list[Sequence[float]]:
        return [
            read(self.statistics)
            if (read := _READERS.get(metric)) is not None
            else tuple(self._facts.get(metric, {}).values())
            if metric in MODEL_FACTS
            else _present(gauges.get(metric))
            for metric in MODEL_METRICS
        ]


def _present(value: float | None) -> Sequence[float]:
    return () if value is None else (value,)


def total_in_flight(models: Iterable[ModelSeries]) -> int:
    """Requests accepted and not yet answered, over all models."""
    return sum([model.statistics.in_flight for model in models])


def total_pending(models: Iterable[ModelSeries]) -> int:
    """Requests accepted and not yet in a batch, over all models."""
    return sum([model.statistics.pending for model in models])
