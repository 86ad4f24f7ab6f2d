"""The rules and the dashboard name metrics and labels that the server has, and are whole."""

import re
from functools import cache
from typing import Final

import pytest
from stoker.deploy.manifest import at
from stoker.telemetry.metric import MetricType
from stoker.telemetry.metric_table import TABLE

from scripts.dashboard.panels import Table
from scripts.dashboard.queries import DEMAND_STEPS
from scripts.make_dashboard import ROWS
from scripts.make_dashboard import text as made_dashboard
from tests.contract import monitoring
from tests.contract.manifests import (
    K8S,
    OVERLAYS,
    number,
    objects,
    pod,
    render,
    strings,
    text,
    the,
)
from tests.contract.promql import Selector, grouping_labels, selectors

DOCUMENT: Final = K8S.parent / "docs" / "metrics.md"

TARGET: Final = {"namespace", "job", "pod", "container", "endpoint", "instance"}
"""What the Prometheus Operator adds to the series of a PodMonitor."""

FOREIGN: Final[dict[str, set[str]]] = {
    "up": set(),  # Prometheus' own
    "kube_horizontalpodautoscaler_status_desired_replicas": {"horizontalpodautoscaler"},
    "kube_horizontalpodautoscaler_spec_max_replicas": {"horizontalpodautoscaler"},
    "kube_pod_container_status_last_terminated_exitcode": set(),
    "kube_pod_container_status_restarts_total": set(),
    "kube_horizontalpodautoscaler_info": {
        *("horizontalpodautoscaler", "scaletargetref_kind", "scaletargetref_name"),
    },
}
"""Series that are not the server's, and the labels that they bring."""


def served() -> dict[str, set[str]]:
    """The names of the server's series, with the labels of each."""
    found: dict[str, set[str]] = {}
    for metric in TABLE:
        if metric.type is MetricType.HISTOGRAM:
            found[f"{metric.name}_bucket"] = {*metric.labels, "le"}
            found |= {f"{metric.name}_{part}": set(metric.labels) for part in ("count", "sum")}
        else:
            found[metric.name] = set(metric.labels)
    return found


def recorded() -> dict[str, set[str]]:
    """The names of the recorded series; their labels are those that they are grouped by."""
    rules = [rule for rule in monitoring.rules() if "record" in rule]
    return {
        text(rule, "record"): set(text(rule, "record").partition(":")[0].split("_"))
        for rule in rules
    }


@cache
def advice() -> dict[str, str]:
    """The last cell of each metric's line in docs/metrics.md: what to alert on."""
    lines = [line.split("|") for line in DOCUMENT.read_text().splitlines() if line[:3] == "| `"]
    return {cells[1].strip(" `"): cells[6].strip() for cells in lines}


def expressions() -> dict[str, str]:
    """Every expression of the rules and the dashboard, by what it stands in."""
    rules = {
        text(rule, "alert" if "alert" in rule else "record"): text(rule, "expr")
        for rule in monitoring.rules()
    }
    panels = {query.name: query.expr for query in monitoring.dashboard_queries()}
    offered = {f"${name}": series for name, (series, _) in monitoring.variables().items()}
    return rules | panels | offered


@pytest.mark.parametrize("place", expressions())
def test_every_series_that_is_read_exists_with_its_labels(place: str) -> None:
    known = served() | recorded() | FOREIGN
    read = selectors(expressions()[place])
    assert read
    unknown = [each.metric for each in read if each.metric not in known]
    assert unknown == []
    for each in read:
        assert each.labels <= known[each.metric] | TARGET, each.metric
    brought = set().union(*(known[each.metric] for each in read))
    assert grouping_labels(expressions()[place]) <= brought | TARGET


@pytest.mark.parametrize("name", monitoring.alerts())
def test_the_table_of_metrics_says_of_what_an_alert_reads_what_to_alert_on(name: str) -> None:
    read = {each.metric for each in selectors(text(monitoring.alerts()[name], "expr"))}
    named = {re.sub("_(bucket|count|sum)$", "", metric) for metric in read} & advice().keys()
    if named:  # others read recorded series only, or Prometheus' own
        assert any(advice()[metric] for metric in named), named


def test_the_names_in_an_expression_are_found() -> None:
    expression = """
        sum by (model, le) (rate(a_bucket{x=~"b{c}",y!="d(e)"}[$__rate_interval])) / on (pod)
        group_left (z) ns:f:rate5m > 1.5e6 and g offset 5m unless absent(h{i="j"})
    """
    assert selectors(expression) == [
        Selector("a_bucket", frozenset({"x", "y"})),
        Selector("ns:f:rate5m", frozenset()),
        Selector("g", frozenset()),
        Selector("h", frozenset({"i"})),
    ]
    assert grouping_labels(expression) == {"model", "le", "pod", "z"}


def test_recorded_series_are_named_by_what_they_are_grouped_by() -> None:
    """level:metric:operations, as Prometheus' documentation advises; each name once."""
    names = [text(rule, "record") for rule in monitoring.rules() if "record" in rule]
    assert len(names) == len(set(names))
    for rule in monitoring.rules():
        if "record" not in rule:
            continue
        level, metric, operation = text(rule, "record").split(":")
        assert metric.startswith("stoker_")
        assert operation
        direct = grouping_labels(text(rule, "expr"))
        assert not direct or direct - {"le"} == set(level.split("_"))


def test_the_dashboard_is_what_the_script_makes() -> None:
    file = K8S / monitoring.COMPONENT / "dashboards" / "stoker.json"
    assert file.read_text() == made_dashboard(), "run `make dashboard`"


def test_grafana_finds_the_dashboard_and_knows_it_again() -> None:
    found = monitoring.dashboard_config_map()
    assert strings(found, "metadata", "annotations") == {"grafana_folder": "Stoker"}
    assert text(found, "metadata", "name") == "stoker-dashboard"
    assert text(monitoring.dashboard(), "uid") == "stoker-inference"
    size = sum(map(len, strings(found, "data").values()))
    assert size < 200_000, "kubectl apply keeps a copy in an annotation, of 256 KiB at most"


def test_every_query_goes_to_the_chosen_data_source_and_is_narrowed_by_the_variables() -> None:
    names = [text(each, "name") for each in objects(monitoring.dashboard(), "templating", "list")]
    assert names == ["datasource", "namespace", "job", "pod", "model"]
    for panel in monitoring.panels():
        for each in (panel, *objects(panel, "targets")):
            assert text(each, "datasource", "uid") == "${datasource}"
    for query in monitoring.dashboard_queries():
        for read in selectors(query.expr):
            narrowed = {"namespace", "job"} if ":" in read.metric else {"namespace", "job", "pod"}
            assert narrowed <= read.labels, query.name
            if "model" in served().get(read.metric, ()):
                assert "model" in read.labels, query.name


def test_every_panel_says_what_it_shows_in_which_unit() -> None:
    for panel in monitoring.panels():
        title = text(panel, "title")
        assert len(text(panel, "description")) > 10, title
        assert text(panel, "fieldConfig", "defaults", "unit"), title
        several = len(objects(panel, "targets")) > 1
        for target in objects(panel, "targets"):
            assert text(target, "legendFormat") or not several, title


def test_where_demand_is_coloured_it_is_a_pods_and_no_sum_of_pods() -> None:
    """The colours say what one pod can do: three pods at 40 % each are no overload."""
    coloured = [
        query.expr
        for row in ROWS
        for panel in row.panels
        for query in panel.queries
        if panel.steps == DEMAND_STEPS
        or (
            isinstance(panel, Table)
            and any(
                each.steps == DEMAND_STEPS and each.name == query.legend for each in panel.columns
            )
        )
    ]
    assert len(coloured) == 2
    assert all(re.match(r"(avg|max)\b", expression) for expression in coloured), coloured


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    placed = objects(monitoring.dashboard(), "panels")
    numbers = [number(panel, "id") for panel in placed]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in placed:
        x, y, w, h = (number(panel, "gridPos", side) for side in "xywh")
        cells = {(x + right, y + down) for right in range(w) for down in range(h)}
        assert x + w <= 24, text(panel, "title")
        assert not cells & taken, text(panel, "title")
        taken |= cells


def test_overlays_that_are_scraped_by_the_operator_bring_rules_and_dashboard() -> None:
    for overlay in OVERLAYS:
        kinds = {each["kind"] for each in render(f"overlays/{overlay}")}
        assert ("PodMonitor" in kinds) == ("PrometheusRule" in kinds), overlay


def test_series_are_told_apart_by_labels_that_the_pod_monitor_gives() -> None:
    """`up` has only the labels of its target: container and port, by the names in the manifests."""
    monitor = the(monitoring.COMPONENT, "PodMonitor")
    assert "stoker" in [text(each, "name") for each in objects(pod("base"), "spec", "containers")]
    assert at(monitor, "spec", "podMetricsEndpoints", 0, "port") == "management"
    failing = text(monitoring.alerts()["StokerScrapeFailing"], "expr")
    assert failing.startswith('up{container="stoker", endpoint="management"} == 0\nor ')
