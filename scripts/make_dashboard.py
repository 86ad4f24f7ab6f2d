"""Writes the Grafana dashboard (`make dashboard`).

k8s/components/monitoring/dashboards/stoker.json is JSON that Grafana reads as it is; a test holds
it equal to what this script writes. Rows and their queries stand in `scripts/dashboard/`. To try a
change in Grafana first, edit the dashboard there and carry over what you like. Names of metrics are
held against the server's table by `tests/contract/test_monitoring.py`;
`tests/server/test_dashboard.py` asks a real Prometheus every query.
"""

import json
from pathlib import Path
from typing import Final

from scripts.dashboard import machines, overview, queues, records
from scripts.dashboard.grafana import Row, dashboard
from scripts.dashboard.queries import POD, VARIABLES, filled

OUTPUT: Final = (
    Path(__file__).resolve().parent.parent
    / "k8s" / "components" / "monitoring" / "dashboards" / "stoker.json"
)  # fmt: skip

ROWS: Final = tuple(
    Row(row.title, tuple(filled(panel) for panel in row.panels))
    for row in (
        overview.OVERVIEW, overview.LATENCY, queues.BATCHING, queues.REFUSALS,
        machines.MODELS, machines.GPU, machines.PODS, records.RECORDS,
    )
)  # fmt: skip
"""From top to bottom."""


def text() -> str:
    """The file's contents."""
    made = dashboard(
        uid="stoker-inference",
        title="Stoker",
        description="Requests, latency, batching, refusals, models, GPUs and pods of Stoker.",
        variables=VARIABLES,
        rows=ROWS,
        starts=f"stoker_start_time_seconds{{{POD}}} * 1000",
    )
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text())
    print(f"wrote {OUTPUT.name}")
