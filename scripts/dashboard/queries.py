"""The PromQL that panels share: selectors, rates, quantiles; the variables; colours.

In an expression <pod> stands for the selectors of the variables namespace, service and pod, <model>
for those and model.
"""

from dataclasses import replace
from typing import Final

from scripts.dashboard.grafana import Variable
from scripts.dashboard.panels import Panel, Steps

POD: Final = 'namespace=~"$namespace",job=~"$job",pod=~"$pod"'
MODEL: Final = f'{POD},model=~"$model"'

VARIABLES: Final = (
    Variable("namespace", "Namespace", "stoker_build_info", "namespace"),
    Variable("job", "Service", 'stoker_build_info{namespace=~"$namespace"}', "job"),
    Variable("pod", "Pod", 'stoker_build_info{namespace=~"$namespace",job=~"$job"}', "pod"),
    Variable("model", "Model", f"nv_inference_count{{{POD}}}", "model"),
)

REFUSED_BY_LOAD: Final = 'reason=~"queue_full|queue_bytes|predicted_late"'
NEVER_QUEUED: Final = 'reason=~"predicted_late|not_ready|draining"'
GREEN, YELLOW, ORANGE, RED, BLUE, GREY, PURPLE = (
    "green", "yellow", "orange", "red", "blue", "#8e8e8e", "purple",
)  # fmt: skip

DEMAND_STEPS: Final[Steps] = ((None, GREEN), (0.65, YELLOW), (0.9, ORANGE), (1.0, RED))
FAILED_STEPS: Final[Steps] = ((None, GREEN), (0.001, ORANGE), (0.01, RED))


def rate(metric: str, labels: str = "<model>") -> str:
    """Increase a second over the window that fits the width of the panel."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(share: float, histogram: str, by: str = "", labels: str = "<model>") -> str:
    """A quantile of a histogram over all chosen pods, by further labels."""
    names = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({names}) ({rate(histogram + '_bucket', labels)}))"


def answered_badly(separator: str = " or ") -> str:
    """The three places that count requests which a server was to answer and did not."""
    return separator.join(
        (
            rate("nv_inference_request_failure", '<model>,reason!="CANCELED"'),
            rate("stoker_requests_refused_total", f"<model>,{NEVER_QUEUED}"),
        )
    )


def mean_seconds(metric: str) -> str:
    """Mean seconds of a request, from one of Triton's sums of microseconds."""
    return f"sum({rate(metric)}) / sum({rate('nv_inference_request_success')}) / 1e6"


def by_version(expression: str) -> str:
    """An expression of a model's series, over all pods."""
    return f"sum by (model, version) ({expression})"


def filled(panel: Panel) -> Panel:
    """The panel with the selectors in its expressions."""
    return replace(
        panel,
        queries=tuple(
            replace(query, expr=query.expr.replace("<model>", MODEL).replace("<pod>", POD))
            for query in panel.queries
        ),
    )
