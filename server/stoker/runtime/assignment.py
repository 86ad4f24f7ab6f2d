"""What ONNX Runtime did with the nodes of a session that asked for a GPU, and whether that will do.

A session on a GPU is not one that runs there: its providers are those registered, not those used.
Only the assignment of nodes tells. Pure; `onnx.py` reads the assignment and asks `settle`.
Source: ONNX Runtime's graph assignment information; its CPU placement of shape sub-graphs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.device import CPU, DeviceReport
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.node_data import AssignedNode, NodeData
from stoker.runtime.options import STRICT, flag
from stoker.runtime.providers import CPU_PROVIDER

_SHAPE_OPERATORS: Final = frozenset(
    {
        "Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Range",
        "ConstantOfShape", "Add", "Sub", "Mul", "Div", "Mod", "Equal", "Where", "Reshape",
        "Constant", "Identity", "Min", "Max", "ReduceProd", "Expand", "Tile",
    }
)  # fmt: skip
"""Operators that ONNX Runtime itself leaves on the CPU where they compute shapes: no loss. Which of
them do, `node_data.py` says."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Operator types of the nodes of a graph by provider, as ONNX Runtime assigned them."""

    operators: Mapping[str, tuple[str, ...]]
    data_on_cpu: tuple[str, ...] = ()
    """Of the operators that may compute shapes: nodes on the CPU that work on data instead."""

    @classmethod
    def of(
        cls,
        parts: Iterable[tuple[str, Iterable[AssignedNode]]],
        look: Callable[[], NodeData | None] = lambda: None,
    ) -> "Assignment":
        """From pairs of a provider and nodes; a provider may come several times. `look` reads what
        the model's nodes work on, where that has to be known; None: it cannot be read."""
        gathered: dict[str, list[AssignedNode]] = {}
        for provider, nodes in parts:
            gathered.setdefault(provider, []).extend(nodes)
        doubtful = [
            node for node in gathered.get(CPU_PROVIDER, ()) if node.operator in _SHAPE_OPERATORS
        ]
        known = look() if doubtful and len(gathered) > 1 else None
        return cls(
            {provider: tuple(each.operator for each in of) for provider, of in gathered.items()},
            () if known is None else known.on_data(doubtful),
        )

    @property
    def nodes(self) -> dict[str, int]:
        """The number of nodes by provider."""
        return {provider: len(each) for provider, each in self.operators.items()}

    @property
    def on_gpu(self) -> int:
        """Nodes of all providers but the CPU's."""
        return sum(count for provider, count in self.nodes.items() if provider != CPU_PROVIDER)

    @property
    def on_cpu(self) -> tuple[str, ...]:
        """Operator types of the nodes on the CPU."""
        return self.operators.get(CPU_PROVIDER, ())

    @property
    def computing_on_cpu(self) -> tuple[str, ...]:
        """Those on the CPU that do more than compute shapes, one entry a node, in order."""
        others = [name for name in self.on_cpu if name not in _SHAPE_OPERATORS]
        return tuple(sorted([*others, *self.data_on_cpu]))


def settle(config: ModelConfig, device: str, assignment: Assignment, *, has_text: bool) -> str:
    """The device that a session asked for a GPU is really on: `device`, or `cpu` for text models.

    Raises InvalidRequest when no node runs on the GPU, and with `strict_placement` when one
    computes on the CPU. A model with BYTES tensors is the one exception: no GPU computes text, so
    the CPU is where it belongs.
    """
    if assignment.on_gpu == 0:
        if has_text or not assignment.on_cpu:
            return CPU
        raise InvalidRequest(
            f"model '{config.name}': asked for {device}, and ONNX Runtime placed none of its nodes "
            f"there (on the CPU: {', '.join(sorted(set(assignment.on_cpu)))}); set KIND_CPU in an "
            "instance group if that is meant"
        )
    remaining = assignment.computing_on_cpu
    if remaining and flag(config, STRICT, default=False):
        raise InvalidRequest(
            f"model '{config.name}' on {device}: {', '.join(sorted(set(remaining)))} would compute "
            f"on the CPU, and its parameter '{STRICT}' forbids that"
        )
    return device


def placement_doubt(report: DeviceReport, share: float) -> str | None:
    """A warning where a session of a GPU computes more on the CPU than `share` of its nodes, or
    runs on the CPU although a GPU was asked for; None where all is well."""
    if report.device != report.requested:
        return (
            f"asked for {report.requested} and runs on the CPU: no node of it can run on a GPU, "
            "which has no text"
        )
    if report.device == CPU or report.cpu_share <= share:
        return None
    copies = report.memcpy_nodes
    with_copies = f", with {copies} copies between CPU and GPU in each run" if copies else ""
    return (
        f"on {report.device}, {len(report.computing_on_cpu)} of {sum(report.nodes.values())} nodes "
        f"compute on the CPU ({', '.join(report.operators_on_cpu)}){with_copies}; each such place "
        "stops the GPU until the CPU has its answer"
    )
