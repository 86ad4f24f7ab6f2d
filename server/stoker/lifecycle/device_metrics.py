"""What the metrics show of where a loaded version runs, and of what it takes.

`app.py` gives it to the registry with each version that becomes ready; the reports and the
measurement were made by the loader.
"""

from collections.abc import Mapping, Sequence

from stoker.device import CPU, DeviceReport
from stoker.runtime.memory import MemoryUse
from stoker.telemetry import metric_table as table
from stoker.telemetry.metric import Metric


def device_facts(
    reports: Sequence[DeviceReport], memory: MemoryUse | None
) -> Mapping[Metric, Mapping[tuple[str, ...], float]]:
    """What the metrics show of where a version's sessions run, of several on one device once, and
    of what they take."""
    return {
        table.MODEL_INFO: {
            (
                *(each.device, each.provider, each.requested),
                *(each.device_name, each.compute_capability),
            ): 1.0
            for each in reports
        },
        table.MODEL_NODES: {
            (each.device, provider): count
            for each in reports
            for provider, count in each.nodes.items()
        },
        table.MODEL_COPIES: {
            (each.device,): each.memcpy_nodes for each in reports if each.memcpy_nodes is not None
        },
        table.MODEL_CPU_NODES: {
            (each.device,): len(each.computing_on_cpu) for each in reports if each.device != CPU
        },
        table.MODEL_MEMORY: {
            (kind,): nbytes for kind, nbytes in (memory.kinds() if memory else {}).items()
        },
    }
