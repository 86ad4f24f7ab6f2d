"""docs/metrics.md and the code's table of metrics say the same."""

from pathlib import Path

from stoker.telemetry.metric import Metric
from stoker.telemetry.metric_table import TABLE

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def row(metric: Metric) -> tuple[str, ...]:
    """The first five cells of a metric's line in the document; the sixth is prose."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return (f"`{metric.name}`", metric.type.value, metric.unit, labels, metric.help)


def documented() -> list[tuple[str, ...]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.split("|")[1:6]) for line in lines]


def test_the_documents_table_is_the_codes_in_the_same_order() -> None:
    assert documented() == [row(metric) for metric in TABLE]


def test_each_metric_stands_in_the_table_once() -> None:
    names = [metric.name for metric in TABLE]
    assert sorted(names) == sorted(set(names))


def test_our_names_follow_prometheus_rules() -> None:
    for metric in TABLE:
        if metric.is_triton:
            continue
        assert metric.name.startswith("stoker_")
        assert metric.name.endswith("_total") == (metric.type.value == "counter"), metric.name
        assert not metric.name.endswith(("_us", "_ms", "_ns", "_count", "_sum", "_bucket"))
        assert not metric.per_model or metric.labels[:2] == ("model", "version")
