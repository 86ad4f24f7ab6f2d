"""Where a session of a model really runs: what was asked for, what ONNX Runtime did about it.

`runtime/` finds it out when a session is opened; the log, `stoker check`, the metrics and the
metadata answers show it. Nothing here asks a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The truth about one session. What could not be found out is empty or None, never guessed."""

    requested: str = CPU
    """The device that the placement asked for: `cpu` or `cuda:N`."""
    device: str = CPU
    """The device that it runs on."""
    provider: str = ""
    """The execution provider that runs it: `CUDAExecutionProvider` ..."""
    nodes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Nodes of the graph by provider, as ONNX Runtime assigned them."""
    computing_on_cpu: tuple[str, ...] = ()
    """Operator types of a GPU's session that compute on the CPU, one entry a node, in order."""
    memcpy_nodes: int | None = None
    """Copies between CPU and GPU that ONNX Runtime put into the graph; None: not counted."""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The provider's options as ONNX Runtime stores them."""
    device_name: str = ""
    compute_capability: str = ""
    memory_bytes: int = 0
    """All memory of the GPU; 0: unknown, or no GPU."""
    cuda_graphs: str = ""
    """Of a GPU's session: `on`, `off`, or why they are not used."""
    batch_buckets: str = ""
    """Of a GPU's session: what batches are filled up to, and what decided that."""

    @property
    def cpu_share(self) -> float:
        """Share of the nodes that compute on the CPU although a GPU was asked for, 0 to 1. Nodes
        that compute shapes count as the GPU's: ONNX Runtime keeps them on the CPU for speed."""
        total = sum(self.nodes.values())
        return len(self.computing_on_cpu) / total if total else 0.0

    @property
    def operators_on_cpu(self) -> tuple[str, ...]:
        """`computing_on_cpu`, each type once."""
        return tuple(sorted(set(self.computing_on_cpu)))

    def facts(self) -> dict[str, object]:
        """For JSON, in the order of this class; what is unknown is left out."""
        found: dict[str, object] = {
            "requested": self.requested,
            "device": self.device,
            "provider": self.provider,
            "nodes": dict(self.nodes),
        }
        if self.device != CPU:
            found["computing_on_cpu"] = list(self.operators_on_cpu)
            found["memcpy_nodes"] = self.memcpy_nodes
            found["options"] = dict(sorted(self.options.items()))
            found["device_name"] = self.device_name
            found["compute_capability"] = self.compute_capability
            found["memory_bytes"] = self.memory_bytes or None
            found["cuda_graphs"] = self.cuda_graphs
            found["batch_buckets"] = self.batch_buckets
        return {key: value for key, value in found.items() if value not in ("", None)}

    def __str__(self) -> str:
        """`cuda:0 NVIDIA H100 (120 nodes, 2 on the CPU: Unique; 4 copies)`."""
        total = sum(self.nodes.values())
        words = f"{self.device} {self.device_name}".strip()
        if self.device == CPU:
            return words
        inside = [f"{total} node{'' if total == 1 else 's'}"]
        if self.computing_on_cpu:
            operators = ", ".join(self.operators_on_cpu)
            inside[0] += f", {len(self.computing_on_cpu)} computing on the CPU: {operators}"
        if self.memcpy_nodes:
            inside.append(f"{self.memcpy_nodes} copies between CPU and GPU")
        return f"{words} ({'; '.join(inside)})"
