"""The metrics of what goes on while models are loaded, a part of `metric_table.py`."""

from typing import Final

from stoker.telemetry.metric import Metric, MetricType

HUNG_LOADS: Final = Metric(
    "stoker_hung_load_runs_total",
    MetricType.COUNTER,
    "runs",
    "Runs while the version was loaded or compared that lasted longer than --hung-load-timeout. "
    "Absent for versions that had none.",
    ("model", "version"),
)

LOAD_METRICS: Final = (HUNG_LOADS,)
"""All of them, in the order of the text."""
