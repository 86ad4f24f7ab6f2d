"""Where a model's sessions go: instance groups, the operator's wish and the machine, put together.

Pure: `placements` gets what was found out about the machine and gives one `Placement` a device.
Runs that share a device share one session, which is thread-safe, so weights lie there once; the
count is the number of runs at once.
  1. What was asked for in words (`--device gpu`, KIND_GPU) and is not there raises; nothing that
     asked for a GPU is ever placed on the CPU.
  2. KIND_CPU in a model's file is obeyed on every machine.
  3. Without a count: 1. On a GPU as Triton; on the CPU Triton takes 2, we take 1, because one run
     already uses all CPUs through its intra-op threads, and a second run only halves the batches
     that form while the first is under way. A model with `intra_op_thread_count` 1 gets one
     instance a CPU by writing `count`.
Source: Triton's model configuration, "Instance Groups".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from stoker.errors import InvalidRequest
from stoker.model import InstanceGroup, InstanceKind, ModelConfig
from stoker.runtime.cpu import threads_per_instance
from stoker.runtime.options import count
from stoker.runtime.providers import GpuProbe
from stoker.runtime.session import Placement

DeviceWish: TypeAlias = Literal["auto", "gpu", "cpu"]

CPU: Final = "cpu"


@dataclass(frozen=True, slots=True)
class Machine:
    """What sessions can be placed on."""

    gpus: GpuProbe
    cpus: int


def placements(config: ModelConfig, wish: DeviceWish, machine: Machine) -> tuple[Placement, ...]:
    """One placement a device, in the order of the groups.

    Raises InvalidRequest for a group that the machine cannot have, with cause and remedy.
    """
    instances: dict[str, int] = {}
    for group in config.instance_groups or (InstanceGroup(),):
        for device in _devices(config, group, wish, machine.gpus):
            instances[device] = instances.get(device, 0) + max(1, group.count)
    written = count(config, "intra_op_thread_count")
    placed = []
    for device, runs in instances.items():
        if device == CPU:
            threads = written or threads_per_instance(machine.cpus, runs)
        else:
            threads = written or 1  # beside a GPU the pool computes shapes only
        placed.append(Placement(device, runs, threads))
    return tuple(placed)


def _devices(
    config: ModelConfig, group: InstanceGroup, wish: DeviceWish, gpus: GpuProbe
) -> Iterator[str]:
    if group.kind in (InstanceKind.CPU, InstanceKind.MODEL) and group.gpus:
        raise InvalidRequest(
            f"{_title(config, group)} is {group.kind.value} and lists GPUs {list(group.gpus)}; "
            "remove one of the two"
        )
    if group.kind is InstanceKind.CPU:
        yield CPU
    elif group.kind is InstanceKind.GPU or wish == "gpu":
        yield from _required_gpus(config, group, wish, gpus)
    elif wish == "auto" and gpus.count > 0 and all(0 <= gpu < gpus.count for gpu in group.gpus):
        yield from _on_gpus(group, gpus)
    else:
        yield CPU


def _required_gpus(
    config: ModelConfig, group: InstanceGroup, wish: DeviceWish, gpus: GpuProbe
) -> Iterator[str]:
    if wish == "cpu":
        raise InvalidRequest(
            f"{_title(config, group)} is KIND_GPU and the server runs with --device cpu; "
            "expected KIND_CPU or KIND_AUTO, or another --device"
        )
    if gpus.count == 0:
        asked = "the server runs with --device gpu" if wish == "gpu" else "it is KIND_GPU"
        raise InvalidRequest(
            f"{_title(config, group)}: {asked}, and there is no usable GPU: {gpus.reason}"
        )
    absent = [gpu for gpu in group.gpus if not 0 <= gpu < gpus.count]
    if absent:
        raise InvalidRequest(
            f"{_title(config, group)}: expected GPUs out of 0..{gpus.count - 1}, got {absent}"
        )
    yield from _on_gpus(group, gpus)


def _on_gpus(group: InstanceGroup, gpus: GpuProbe) -> Iterator[str]:
    for gpu in group.gpus or range(gpus.count):
        yield f"cuda:{gpu}"


def _title(config: ModelConfig, group: InstanceGroup) -> str:
    name = f" '{group.name}'" if group.name else ""
    return f"model '{config.name}': instance group{name}"


_SHAPE_OPERATORS: Final = frozenset(
    {
        "Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Range",
        "ConstantOfShape", "Add", "Sub", "Mul", "Div", "Mod", "Equal", "Where", "Reshape",
        "Constant", "Identity",
    }
)  # fmt: skip
"""Operators that ONNX Runtime itself leaves on the CPU where they compute shapes: no loss."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What ONNX Runtime really did with the nodes of a session that asked for a GPU."""

    on_gpu: int
    on_cpu: tuple[str, ...]
    """Operator types of the nodes on the CPU."""

    @property
    def misplaced(self) -> tuple[str, ...]:
        """Operator types on the CPU that do more than compute shapes."""
        return tuple(sorted(set(self.on_cpu) - _SHAPE_OPERATORS))


def settle(model: str, device: str, assignment: Assignment, *, has_text: bool) -> str:
    """The device that a session asked for a GPU is really on: `device`, or `cpu` for text models.

    Raises InvalidRequest when no node runs on the GPU. A model with BYTES tensors is the one
    exception: no GPU computes text, so the CPU is where it belongs.
    """
    if assignment.on_gpu > 0:
        return device
    if has_text or not assignment.on_cpu:
        return CPU
    raise InvalidRequest(
        f"model '{model}': asked for {device}, and ONNX Runtime placed none of its nodes there "
        f"(on the CPU: {', '.join(sorted(set(assignment.on_cpu)))}); set KIND_CPU in an instance "
        "group if that is meant"
    )
