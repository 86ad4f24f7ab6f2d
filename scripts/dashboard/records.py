"""The row of what is told of single requests: spans and lines of the access log."""

from typing import Final

from scripts.dashboard.grafana import Row
from scripts.dashboard.panels import Query, TimeSeries
from scripts.dashboard.queries import GREEN, ORANGE, RED, rate

RECORDS: Final = Row(
    "Traces and access log",
    (
        TimeSeries(
            "Spans",
            "What became of the spans of traced requests. failed: the receiver did not take them; "
            "dropped: the queue was full. Empty without --tracing.",
            (
                Query(
                    f"sum by (outcome) ({rate('stoker_trace_spans_total', '<pod>')})",
                    "{{outcome}}",
                ),
            ),
            unit="ops",
            width=12,
            stacked=True,
            colours={"exported": GREEN, "failed": RED, "dropped": ORANGE},
        ),
        TimeSeries(
            "Lines of the access log",
            "What became of them. dropped: nobody reads standard output fast enough. Empty without "
            "--access-log.",
            (
                Query(
                    f"sum by (outcome) ({rate('stoker_access_log_lines_total', '<pod>')})",
                    "{{outcome}}",
                ),
            ),
            unit="ops",
            width=12,
            stacked=True,
            colours={"written": GREEN, "dropped": ORANGE},
        ),
    ),
)
