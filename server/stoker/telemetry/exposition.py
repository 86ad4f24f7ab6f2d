"""The two text formats of Prometheus: which one a scraper wants, headers, samples, numbers.

prometheus-client holds the formats: each header is its own output for the family, and numbers and
label values are written as it writes them. One thing differs, on purpose. Triton's counters have no
`_total`, and the library can only write counters that do. They are `unknown` to it: OpenMetrics
says so as well, and the classic text names their true type, `counter`. Declared as counters, an
OpenMetrics scraper would demand or add the suffix and break every dashboard made for Triton.

Knows no model and no value.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import accumulate
from typing import Final

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import (
    UNDERSCORES,
    escape_label_name,
)
from prometheus_client.openmetrics.exposition import (
    generate_latest as generate_openmetrics,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from stoker.telemetry.metric import Metric, MetricType
from stoker.telemetry.statistics import Exemplar, Histogram

END: Final = b"# EOF\n"
"""The last line of OpenMetrics text."""

PLAIN_INTEGERS_BELOW: Final = 1_000_000
"""From here on the library writes an exponent."""


class Format(Enum):
    """A text format; the value is its content type."""

    CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> Format:
    """The format that an Accept header asks for; the classic one unless OpenMetrics is named.

    A scraper that names both gets the one with the higher `q`, OpenMetrics when they are equal. A
    header that names neither gets the classic text: Prometheus' own libraries answer so too.
    """
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type in weights:
            weights[media_type] = max(weights[media_type], _quality(parameters))
    openmetrics = weights["application/openmetrics-text"]
    if openmetrics > 0 and openmetrics >= weights["text/plain"]:
        return Format.OPENMETRICS
    return Format.CLASSIC


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def family(metric: Metric) -> Family:
    """The library's object for a metric, without samples."""
    name = family_name(metric)
    kind = "unknown" if metric.is_triton and metric.type is MetricType.COUNTER else None
    # OpenMetrics wants a unit to be the name's ending; elsewhere the unit stands in the docs only.
    unit = metric.unit if metric.unit and name.endswith("_" + metric.unit) else ""
    return Family(name, metric.help, kind or metric.type.value, unit)


def family_name(metric: Metric) -> str:
    """The name without the suffix that the type adds to each sample: `_total`, `_info`."""
    if metric.type is MetricType.COUNTER:
        return metric.name.removesuffix("_total")
    if metric.type is MetricType.INFO:
        return metric.name.removesuffix("_info")
    return metric.name


class _Alone(Collector):
    """One family, for the library to write."""

    def __init__(self, only: Family) -> None:
        self._only = only

    def collect(self) -> Iterable[Family]:
        return (self._only,)


def header(metric: Metric, form: Format) -> bytes:
    """The HELP, TYPE and UNIT lines of a metric, as the library writes them."""
    alone = _Alone(family(metric))
    if form is Format.OPENMETRICS:
        # The library has no types for it.
        written: bytes = generate_openmetrics(alone)  # type: ignore[no-untyped-call]
        return written.removesuffix(END)
    text: bytes = generate_latest(alone)
    if metric.is_triton and metric.type is MetricType.COUNTER:
        text = text.replace(b" untyped\n", b" counter\n")
    return text


def label_name(name: str) -> str:
    """`name` with every character that a label's name cannot have replaced by `_`."""
    return str(escape_label_name(name, UNDERSCORES))


def prefix(name: str, labels: Mapping[str, str]) -> str:
    """A sample's line up to its number: `name{a="1",b="2"} `, labels in order of their names."""
    if not labels:
        return name + " "
    pairs = ",".join([f'{key}="{_escaped(labels[key])}"' for key in sorted(labels)])
    return f"{name}{{{pairs}}} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    """A value as the library writes it: always a float, exponents from a million on."""
    if type(value) is int and 0 <= value < PLAIN_INTEGERS_BELOW:
        return f"{value}.0"
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # the library has no types


def line(sample: Sample) -> str:
    """One whole line."""
    return f"{prefix(sample.name, sample.labels)}{number(sample.value)}\n"


def histogram_keys(
    name: str, labels: Mapping[str, str], bounds: Iterable[float]
) -> list[tuple[str, dict[str, str]]]:
    """Name and labels of each sample of a histogram: the buckets, the count, the sum."""
    edges = [*(number(float(bound)) for bound in bounds), "+Inf"]
    keys = [(f"{name}_bucket", {**labels, "le": edge}) for edge in edges]
    return [*keys, (f"{name}_count", dict(labels)), (f"{name}_sum", dict(labels))]


def histogram_values(histogram: Histogram, divisor: float) -> list[float]:
    """The numbers for `histogram_keys`; `divisor` turns the observed unit into the metric's."""
    cumulative: list[float] = list(accumulate(histogram.counts))
    total = histogram.total if divisor == 1 else histogram.total / divisor
    return [*cumulative, cumulative[-1], total]


def exemplar_text(exemplar: Exemplar, divisor: float) -> str:
    """What follows a bucket's number in OpenMetrics text; `divisor` as in `histogram_values`."""
    labels = f'{{trace_id="{_escaped(exemplar.trace_id)}"}}'
    return f" # {labels} {number(exemplar.value / divisor)} {exemplar.at}"
