"""What a session of ONNX Runtime tells of itself: where its nodes are, what its provider stores.

Read when a session is opened, and again when another takes its place. Clients see the result, so
addresses of this process and paths of this machine are left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from stoker.device import CPU, DeviceReport
from stoker.runtime.assignment import Assignment
from stoker.runtime.gpu_facts import Gpu
from stoker.runtime.node_data import AssignedNode, node_data
from stoker.runtime.providers import CPU_PROVIDER

_ADDRESSES: Final = frozenset(
    {
        "user_compute_stream",
        "gpu_external_alloc",
        "gpu_external_free",
        "gpu_external_empty_cache",
        "trt_engine_cache_path",
        "trt_timing_cache_path",
        "trt_extra_plugin_lib_paths",
        "trt_onnx_bytestream",
        "trt_external_data_bytestream",
    }
)
"""Options whose value is an address or a path: clients are only told whether it is set."""
_UNSET: Final = ("", "0")
_SET: Final = "set"


def assignment_of(session: Any, path: Path) -> Assignment:
    """Which provider runs which node of the model in this file. The session was opened with the
    record of it."""
    return Assignment.of(
        (
            (
                str(part.ep_name),
                [AssignedNode(str(node.op_type), str(node.name)) for node in part.get_nodes()],
            )
            for part in session.get_provider_graph_assignment_info()
        ),
        lambda: node_data(path),
    )


def stored_options(session: Any, provider: str) -> dict[str, str]:
    """A provider's options as ONNX Runtime stores them."""
    stored: Mapping[str, Mapping[str, str]] = session.get_provider_options()
    return {
        key: _SET if key in _ADDRESSES and value not in _UNSET else str(value)
        for key, value in stored.get(provider, {}).items()
    }


def report_of(
    session: Any,
    assignment: Assignment,
    requested: str,
    device: str,
    provider: str,
    copied: int | None = None,
    gpu: Gpu | None = None,
) -> DeviceReport:
    """The truth about a session that is on `device` by this provider. `copied`: the copies between
    devices in its graph, None where they were not counted."""
    if device == CPU:
        return DeviceReport(requested, CPU, CPU_PROVIDER, assignment.nodes)
    known = gpu or Gpu(0)
    return DeviceReport(
        requested=requested,
        device=device,
        provider=provider,
        nodes=assignment.nodes,
        computing_on_cpu=assignment.computing_on_cpu,
        memcpy_nodes=copied,
        options=stored_options(session, provider),
        device_name=known.name,
        compute_capability=known.capability_text,
        memory_bytes=known.memory_bytes,
    )


def reread(report: DeviceReport, session: Any) -> DeviceReport:
    """The report for a session that takes the place of the reported one, on the same device."""
    return replace(report, options=stored_options(session, report.provider))
