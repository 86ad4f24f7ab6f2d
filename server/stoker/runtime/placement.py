"""Where a model's sessions go: instance groups, the operator's wish and the machine, put together.

Pure: `placements` gets what was found out about the machine and gives one `Placement` a session.
  1. What was asked for in words (`--device gpu`, KIND_GPU) and is not there raises; nothing that
     asked for a GPU is ever placed on the CPU.
  2. KIND_CPU in a model's file is obeyed on every machine.
  3. Runs on the CPU share one session, which is thread-safe, so weights lie there once. On a GPU
     each instance is a session of its own: a session has one stream and its own workspaces, and
     only two streams overlap copies with computing. Its weights lie there once for each instance.
  4. Without a count: 1. On a GPU as Triton; on the CPU Triton takes 2, we take 1, because one run
     already uses all CPUs through its intra-op threads, and a second run only halves the batches
     that form while the first is under way. A model with `intra_op_thread_count` 1 gets one
     instance a CPU by writing `count`.
  5. A group without `gpus` goes to each GPU, as in Triton, or to the one that `spread` chose.
Source: Triton's model configuration, "Instance Groups".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from stoker.device import CPU
from stoker.errors import InvalidRequest
from stoker.model import InstanceGroup, InstanceKind, ModelConfig
from stoker.runtime.cpu import threads_per_instance
from stoker.runtime.options import count
from stoker.runtime.session import Placement

DeviceWish: TypeAlias = Literal["auto", "gpu", "cpu"]
GpuPlacement: TypeAlias = Literal["each", "round-robin", "free-memory"]

_THREADS_BESIDE_GPU: Final = 1
"""There the pool computes shapes only."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What sessions can be placed on."""

    gpus: int
    """GPUs that can be used."""
    cpus: int
    absence: str = ""
    """Why there is no GPU, where there is none."""


def placements(
    config: ModelConfig,
    wish: DeviceWish,
    machine: Machine,
    spread: Sequence[int] | None = None,
) -> tuple[Placement, ...]:
    """One placement a session, in the order of the groups. Groups without `gpus` go to the GPUs of
    `spread`; None: to all.

    Raises InvalidRequest for a group that the machine cannot have, with cause and remedy.
    """
    groups = config.instance_groups or (InstanceGroup(),)
    anywhere = range(machine.gpus) if spread is None else spread
    devices = [
        (device, max(1, group.count))
        for group in groups
        for device in _devices(config, group, wish, machine, anywhere)
    ]
    on_cpu = sum(runs for device, runs in devices if device == CPU)
    written = count(config, "intra_op_thread_count")
    placed: list[Placement] = []
    for device, runs in devices:
        if device != CPU:
            threads = written or _THREADS_BESIDE_GPU
            placed += [Placement(device, 1, threads) for _ in range(runs)]
        elif not any(each.device == CPU for each in placed):
            threads = written or threads_per_instance(machine.cpus, on_cpu)
            placed.append(Placement(CPU, on_cpu, threads))
    return tuple(placed)


def asks_for_spread(config: ModelConfig, wish: DeviceWish, machine: Machine) -> bool:
    """Whether a group of the model is to be placed on GPUs that it does not name."""
    return machine.gpus > 1 and any(
        not group.gpus
        and group.kind is not InstanceKind.CPU
        and (wish != "cpu" or group.kind is InstanceKind.GPU)
        for group in config.instance_groups or (InstanceGroup(),)
    )


def spread(
    policy: GpuPlacement,
    gpus: int,
    *,
    turn: int = 0,
    free: Sequence[int | None] = (),
    loading: Sequence[int] = (),
) -> tuple[int, ...]:
    """The GPUs for a model that names none.

    `turn` counts the models before this one. `free` is the free memory of each GPU in bytes, None
    where it is unknown; `loading` how many sessions are about to take some of it: four models that
    load at once would all see the same GPU as the emptiest. Where no free memory is known, and
    between equals, GPUs take turns.
    """
    if policy == "each" or gpus == 0:
        return tuple(range(gpus))
    first = turn % gpus
    in_turn = [*range(first, gpus), *range(first)]
    if policy == "round-robin" or any(each is None for each in free) or len(free) != gpus:
        return (first,)
    under_way = loading if len(loading) == gpus else [0] * gpus
    return (min(in_turn, key=lambda gpu: (under_way[gpu], -(free[gpu] or 0))),)


def _devices(
    config: ModelConfig,
    group: InstanceGroup,
    wish: DeviceWish,
    machine: Machine,
    anywhere: Sequence[int],
) -> Iterator[str]:
    if group.kind in (InstanceKind.CPU, InstanceKind.MODEL) and group.gpus:
        raise InvalidRequest(
            f"{_title(config, group)} is {group.kind.value} and lists GPUs {list(group.gpus)}; "
            "remove one of the two"
        )
    if group.kind is InstanceKind.CPU:
        yield CPU
        return
    if group.kind is InstanceKind.GPU or wish == "gpu":
        _require_gpus(config, group, wish, machine)
    elif wish == "cpu" or not machine.gpus or _absent(group, machine):
        yield CPU
        return
    yield from (f"cuda:{gpu}" for gpu in group.gpus or anywhere)


def _require_gpus(
    config: ModelConfig, group: InstanceGroup, wish: DeviceWish, machine: Machine
) -> None:
    if wish == "cpu":
        raise InvalidRequest(
            f"{_title(config, group)} is KIND_GPU and the server runs with --device cpu; "
            "expected KIND_CPU or KIND_AUTO, or another --device"
        )
    if machine.gpus == 0:
        asked = "the server runs with --device gpu" if wish == "gpu" else "it is KIND_GPU"
        raise InvalidRequest(
            f"{_title(config, group)}: {asked}, and there is no usable GPU: {machine.absence}"
        )
    absent = _absent(group, machine)
    if absent:
        raise InvalidRequest(
            f"{_title(config, group)}: expected GPUs out of 0..{machine.gpus - 1}, got {absent}"
        )


def _absent(group: InstanceGroup, machine: Machine) -> list[int]:
    return [gpu for gpu in group.gpus if not 0 <= gpu < machine.gpus]


def _title(config: ModelConfig, group: InstanceGroup) -> str:
    name = f" '{group.name}'" if group.name else ""
    return f"model '{config.name}': instance group{name}"
