"""Autoscalers' metrics: names, queries, how they are summed up, and their targets.

What a metric is of, and how the autoscaler divides it, have to fit: AverageValue divides by the
pods there are, so it wants a sum; Value does not, so it wants a mean.
Source: reference, Kubernetes production practice, section 6; HPA's algorithm; KEDA, "Prometheus".
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import Manifest, numbered, objects, text
from stoker.deploy.promql import (
    OUR_METRIC,
    aggregations,
    is_combined,
    is_one_number,
    keeps_apart,
    selected,
)
from stoker.deploy.quantity import parse_quantity
from stoker.deploy.scaled_metric import ScaledMetric, scaled_metrics
from stoker.telemetry import metric_table

HIGHEST_TARGET: Final = Fraction(9, 10)
"""Of demand. Above it there is no room for a burst while the next pod starts."""
LOWEST_TARGET: Final = Fraction(2, 10)
"""Of demand. Below it four fifths of what is paid for wait for a burst of five times the load."""
OF_A_POD: Final = frozenset({"pod", "instance", "pod_name", "kubernetes_pod_name"})
"""Labels of which each pod has a value of its own."""

_SUFFIXES: Final = ("", "_bucket", "_sum", "_count", "_total")
_ON_MANY: Final = ("avg", "min", "max", "quantile")
"""What gives the level of a pod, not the sum of all."""


def _ours(subject: Subject) -> Iterator[ScaledMetric]:
    """The metrics of Stoker that anything is scaled on."""
    for manifest in subject.manifests:
        for metric in scaled_metrics(manifest):
            if OUR_METRIC.search(metric.source):
                yield metric


def _unknown_metric(subject: Subject) -> Iterator[Hit]:
    known = {each.name + suffix for each in metric_table.TABLE for suffix in _SUFFIXES}
    known |= set(_recorded(subject))
    for manifest, path, query in _queries(subject):
        for name in dict.fromkeys(OUR_METRIC.findall(query)):
            if name not in known:
                yield Hit(manifest, path, name)


def _queries(subject: Subject) -> Iterator[tuple[Manifest, str, str]]:
    for metric in _ours(subject):
        yield metric.manifest, metric.path, metric.source
    for manifest in subject.of_kind("PrometheusRule"):
        for group_index, group in numbered(manifest.value, "spec", "groups"):
            for index, rule in numbered(group, "rules"):
                path = f"spec.groups[{group_index}].rules[{index}].expr"
                yield manifest, path, text(rule, "expr")


def _recorded(subject: Subject) -> Iterator[str]:
    for manifest in subject.of_kind("PrometheusRule"):
        for group in objects(manifest.value, "spec", "groups"):
            yield from (text(rule, "record") for rule in objects(group, "rules"))


def _aggregation(subject: Subject) -> Iterator[Hit]:
    for metric in _ours(subject):
        problem = _problem(metric) if metric.is_query else _external(metric)
        if problem:
            yield Hit(metric.manifest, metric.path, problem)


def _external(metric: ScaledMetric) -> str:
    is_sum = metric.is_external and metric.target_type == "Value"
    return "an External metric, the sum over all pods, with the type Value" if is_sum else ""


def _problem(metric: ScaledMetric) -> str:
    operators = aggregations(metric.source)
    if keeps_apart(metric.source, OF_A_POD):
        return "a value for each pod, of which an autoscaler can take none"
    if not operators:
        is_single = is_one_number(metric.source)
        return "" if is_single else "not aggregated: as many values as there are pods"
    if len(operators) > 1 or is_combined(metric.source):
        return ""  # a ratio, say, whose meaning is its author's
    if operators[0] == "sum" and metric.target_type == "Value":
        return "sum with the type Value, which compares it with the target undivided"
    if operators[0] in _ON_MANY and metric.target_type == "AverageValue":
        return f"{operators[0]} with the type AverageValue, which divides by the pods once more"
    return ""


def _namespace(subject: Subject) -> Iterator[Hit]:
    labels = {each.name: set(each.labels) for each in metric_table.TABLE}
    for metric in _ours(subject):
        here = metric.manifest.namespace
        for name, matchers in selected(metric.source) if metric.is_query else ():
            chosen = [each for each in matchers if each.label == "namespace"]
            if chosen:
                wrong = [each for each in chosen if here and not each.matches(here)]
                if wrong:
                    shown = f"namespace{wrong[0].operator}{wrong[0].value!r}"
                    yield Hit(metric.manifest, metric.path, f"{name} of {shown}, from {here}")
            elif metric.namespace:
                if here and metric.namespace != here:
                    found = f"{name} of the namespace {metric.namespace!r}, from {here}"
                    yield Hit(metric.manifest, metric.path, found)
            elif not {each.label for each in matchers} - labels.get(name, set()):
                yield Hit(metric.manifest, metric.path, f"{name} of every namespace")


def _targets(subject: Subject) -> Iterator[tuple[ScaledMetric, Fraction]]:
    """The targets of demand."""
    for metric in _ours(subject):
        target = parse_quantity(metric.target)
        if target is not None and metric_table.DEMAND.name in OUR_METRIC.findall(metric.source):
            yield metric, target


def _high_target(subject: Subject) -> Iterator[Hit]:
    for metric, target in _targets(subject):
        if target > HIGHEST_TARGET:
            yield Hit(metric.manifest, metric.target_path, f"target {float(target):g}")


def _low_target(subject: Subject) -> Iterator[Hit]:
    for metric, target in _targets(subject):
        if target < LOWEST_TARGET:
            yield Hit(metric.manifest, metric.target_path, f"target {float(target):g}")


RULES = (
    Rule(
        "metric-unknown",
        Severity.ERROR,
        "A `stoker_*` or `nv_*` metric, in an autoscaler or a PrometheusRule, that the server does "
        "not have",
        "The autoscaler has no number to act on; the alert never fires.",
        "Names stand in docs/metrics.md.",
        _unknown_metric,
    ),
    Rule(
        "metric-aggregated-wrong",
        Severity.ERROR,
        "A metric of Stoker that is not summed up as its target wants it: a mean or maximum with "
        "AverageValue, a sum with Value, a query that gives a value for each pod",
        "AverageValue divides by the pods there are: a mean falls with each pod that is added, "
        "whatever the load. Value does not divide: a sum is over the target with any two busy "
        "pods, up to the maximum. Of several values an autoscaler takes none.",
        "sum(...) with AverageValue, the type where none is named.",
        _aggregation,
    ),
    Rule(
        "metric-of-another-namespace",
        Severity.ERROR,
        "A query for Stoker's metrics in another namespace than the autoscaler's, or in all",
        "It scales on other pods' load, or on none: every deployment of Stoker that a Prometheus "
        "scrapes has series of these names.",
        'sum(stoker_demand_ratio{namespace="...",pod=~"stoker-.*"}).',
        _namespace,
    ),
    Rule(
        "demand-target-high",
        Severity.WARNING,
        f"A target above {float(HIGHEST_TARGET):g} for stoker_demand_ratio",
        "At 1 requests wait or are refused; a burst has to be borne until the next pod is ready.",
        "0.65 (650m); less where pods start slowly.",
        _high_target,
    ),
    Rule(
        "demand-target-low",
        Severity.WARNING,
        f"A target below {float(LOWEST_TARGET):g} for stoker_demand_ratio",
        "Most of each pod stands idle by intent; 65m, for 650m say, asks for ten times the pods.",
        "0.65 (650m); less where pods start slowly.",
        _low_target,
    ),
)
