"""What a model takes of a device's memory, and whether it fits: estimated, measured, decided.

Before a model is opened only its weights are known, from the file. They must fit; what ONNX
Runtime needs besides (the workspace of the largest batch, its arena's fragments) is measured by
loading and warming the model up, and shown. Pure but for `host_memory`.

On a GPU models may take a share of the memory together, and the rest is left to what no arena
counts: CUDA's context, the kernels of cuBLAS and cuDNN, their workspaces. A session's arena is
capped by what its device has left of that share when it is loaded, so that no model grows into
what was there before it; those that grow later are bound by their own caps, and by running out.
On the CPU the control group's limit is the device's size, and only memory that the kernel cannot
drop counts as used.  Source: reference, ONNX Runtime on NVIDIA GPUs, section 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

from stoker.device import CPU
from stoker.model import ModelConfig, TensorConfig
from stoker.runtime.gpu_facts import Gpu, read_free_memory
from stoker.runtime.weights import Weights


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """A device's memory at one moment, in bytes."""

    total: int
    used: int
    """By everyone, and so that nothing can take it back."""


ReadMemory: TypeAlias = Callable[[str], MemoryReading | None]
"""Reads a device's memory, by its name; None where that cannot be read. May take milliseconds."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What one model version takes, in bytes, over all its devices and sessions."""

    weights: int
    """Of its initialisers and constants, from the file."""
    tensors: int
    """Of inputs and outputs of the largest batch, variable dimensions taken as 1."""
    loaded: int | None = None
    """What opening it added to its devices; None: not measured, other models were loaded too."""
    workspace: int | None = None
    """What warm-up and measuring added to that; None as above."""

    def kinds(self) -> dict[str, int]:
        """By the label `kind` of `stoker_model_memory_bytes`; what is unknown is left out."""
        found = {
            "weights": self.weights,
            "tensors": self.tensors,
            "loaded": self.loaded,
            "workspace": self.workspace,
        }
        return {kind: nbytes for kind, nbytes in found.items() if nbytes is not None}

    def __str__(self) -> str:
        """`weights 1.2 GiB, tensors 4.0 MiB, loaded 1.3 GiB, workspace 220.0 MiB`."""
        return ", ".join(f"{kind} {in_words(nbytes)}" for kind, nbytes in self.kinds().items())


def in_words(nbytes: int) -> str:
    """For people: one decimal of the largest unit that fits."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes} bytes"


def tensor_bytes(config: ModelConfig) -> int:
    """Bytes of all inputs and outputs of the largest batch; text counts nothing."""
    rows = max(1, config.max_batch_size)
    return sum(_bytes(config, tensor, rows) for tensor in (*config.inputs, *config.outputs))


def _bytes(config: ModelConfig, tensor: TensorConfig, rows: int) -> int:
    shape = config.model_spec(tensor).shape[config.batches :]
    return prod(max(1, size) if size < 0 else size for size in shape) * rows * tensor.datatype.size


def room(reading: MemoryReading, device: str, share: float) -> int:
    """What models may still take of a device; negative where they have more than their share."""
    total = reading.total if device == CPU else int(reading.total * share)
    return total - reading.used


def misfit(
    weights: Weights,
    device: str,
    reading: MemoryReading | None,
    *,
    sessions: int,
    share: float,
) -> str | None:
    """Why a model that has so many sessions on a device cannot be loaded; None: it may fit.

    On the CPU weights in files of their own are mapped, so they need room for themselves only; on
    a GPU they are copied as the others are.
    """
    if reading is None:
        return None
    left = room(reading, device, share)
    copied = weights.embedded if device == CPU else weights.total
    if copied * sessions <= left and weights.total <= reading.total:
        return None
    times = f" in each of {sessions} sessions" if sessions > 1 else ""
    part = "" if device == CPU else f", of which models may take {share:.0%}"
    where = "the memory limit of this process" if device == CPU else device
    return (
        f"it does not fit: its weights take {in_words(weights.total)} ({weights.total} bytes)"
        f"{times}, and {where} has {in_words(max(0, left))} left of "
        f"{in_words(reading.total)} ({reading.total} bytes{part}; {reading.used} are used)"
    )


def engine_misfit(
    least: int, device: str, reading: MemoryReading | None, *, share: float
) -> str | None:
    """Why another session beside those that serve cannot be opened, which takes `least` bytes of a
    device or more; None: it may fit."""
    if reading is None or least <= room(reading, device, share):
        return None
    return (
        f"it does not fit beside the sessions that serve: it takes {in_words(least)} ({least} "
        f"bytes) or more, and {device} has {in_words(max(0, room(reading, device, share)))} left "
        f"of {in_words(reading.total)} ({reading.total} bytes, of which models may take "
        f"{share:.0%}; {reading.used} are used)"
    )


def arena_cap(reading: MemoryReading | None, device: str, *, sessions: int, share: float) -> int:
    """Bytes that the arena of one of a model's sessions on a GPU may grow to; 0: no cap."""
    if reading is None or device == CPU:
        return 0
    return max(0, room(reading, device, share)) // max(1, sessions)


def shrinks_arena(*, asked: str, device: str, ran_out: bool, captures_graphs: bool) -> str:
    """The arenas that ONNX Runtime shall shrink at the end of a run, in its words; empty: none.

    `asked` is what the model's configuration says, which holds for every run. Otherwise the run
    after one that ran out of memory shrinks: what other batches' shapes left behind in the arena
    may be what was missing. Never where CUDA graphs are captured: their buffers have fixed
    addresses in it. An arena keeps its first region whatever is asked.
    """
    if captures_graphs:
        return ""
    if asked or not ran_out:
        return asked
    return "cpu:0" if device == CPU else f"gpu:{device.partition(':')[2]}"


def host_memory(limit: int | None, root: Path = Path("/")) -> MemoryReading | None:
    """The CPU's memory for this process: `limit` bytes, or all of the machine's without one.

    Used is what the process holds that is in no file (Linux: RssAnon and RssShmem).
    """
    used = _kibibytes(root / "proc/self/status", ("RssAnon:", "RssShmem:"))
    total = _kibibytes(root / "proc/meminfo", ("MemTotal:",))
    if used is None or total is None:
        return None
    return MemoryReading(min(limit, total) if limit else total, used)


def memory_reader(
    gpus: Callable[[], Sequence[Gpu]],
    limit: int | None,
    read_free: Callable[[tuple[Gpu, ...]], tuple[int | None, ...]] = read_free_memory,
) -> ReadMemory:
    """Reads the CPU's memory, bounded by `limit`, and that of these GPUs, which are asked for only
    when one of them is read."""

    def read(device: str) -> MemoryReading | None:
        if device == CPU:
            return host_memory(limit)
        gpu = next((gpu for gpu in gpus() if device == f"cuda:{gpu.index}"), None)
        if gpu is None or not gpu.memory_bytes:
            return None
        (free,) = read_free((gpu,))
        if free is None:
            return None
        return MemoryReading(gpu.memory_bytes, max(0, gpu.memory_bytes - free))

    return read


def _kibibytes(path: Path, keys: Sequence[str]) -> int | None:
    """The sum of these lines of a file of the kernel, in bytes; None where one is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(tuple(keys))]
    if len(found) != len(keys):
        return None
    return sum(int(words[1]) for words in found) * 1024
