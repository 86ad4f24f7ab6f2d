"""From what was measured of the models to the numbers of an overlay, each with its origin.

Pure. `stoker k8s init` measures before and writes afterwards; the sentences go into the files as
comments, so that whoever reads them knows what to measure again.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from stoker.deploy.download import BYTES_PER_S, LEAST_S, download_s
from stoker.deploy.gpu_sizes import SLICES, WHOLE, GpuSize, smallest
from stoker.deploy.measurement import Measurement
from stoker.deploy.memory_need import MemoryNeed, memory_need
from stoker.deploy.models_volume import ModelsVolume, models_volume
from stoker.deploy.quantity import GIB, MIB

STARTUP_FACTOR: Final = 3
"""Startup budget over the measured start: another node is slower and shares its disk."""
LEAST_STARTUP_S: Final = 60
LEAST_GPU_STARTUP_S: Final = 360
"""Above hung_load_timeout (5 min): the server says which model hangs before the kubelet ends it."""
UNMEASURED_GPU_STARTUP_S: Final = 600
"""Least budget where no start on a GPU was measured: that of components/gpu."""
PULL_S: Final = {"cpu": 120, "gpu": 600}
"""What a rollout waits beside the startup budget: pulling 0.1 or 1.7 GB and scheduling."""
GRACE_SLACK_S: Final = 20
"""Beside the drain and 5 s: a busy node is late with signals."""
LIMIT_FACTOR: Final = 1.25
"""Memory limit over the sum of what is known: arenas grow with shapes that warm-up did not send."""
LEAST_BUFFERED_BYTES: Final = 256 * MIB
BATCHES_BUFFERED: Final = 4
"""Largest batches, inputs and outputs, that max_buffered_bytes has room for: one that runs, one
that waits, two whose answers are unsent."""
GPU_MEMORY_SHARE: Final = 0.9
"""Source: settings.py, gpu_memory_share."""
CUDA_CONTEXT_BYTES: Final = 600 * MIB
"""Source: docs/gpu.md, Memory: 300 to 600 MB a process; not measured by us."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user decides: none of it can be measured."""

    device: str = "gpu"
    """`gpu` or `cpu`."""
    least: int = 2
    most: int = 10
    """Replicas; the same as `least` without an autoscaler."""
    has_spare_gpu: bool = False
    drain_delay_s: float = 5.0
    drain_timeout_s: float = 30.0
    buffered_bytes: int | None = None
    demand_target: float = 0.65
    downloads_models: bool = False
    """Whether each pod fetches the models before its server starts."""


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """Memory of the GPU that the models need, and what has so much."""

    nbytes: int
    origin: str
    is_measured: bool
    whole: GpuSize | None
    """The smallest GPU; None: none has so much."""
    slice: GpuSize | None
    """The smallest MIG slice."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Everything that is written into an overlay because of the models."""

    memory: MemoryNeed
    memory_request: int
    memory_limit: int
    buffered_bytes: int
    buffered_origin: str
    startup_period_s: int
    startup_failures: int
    startup_origin: str
    progress_s: int
    progress_origin: str
    grace_s: int
    grace_origin: str
    surge: int
    unavailable: int
    strategy_origin: str
    has_budget: bool
    gpu: GpuNeed | None
    volume: ModelsVolume
    notes: tuple[str, ...]
    """What could not be measured, or what the user should know: on screen and in the files."""

    @property
    def startup_s(self) -> int:
        """The startup probe's budget."""
        return self.startup_period_s * self.startup_failures


def size(measured: Measurement, wishes: Wishes) -> Sizing:
    """The numbers for these models."""
    for_gpu = wishes.device == "gpu"
    buffered, buffered_origin = _buffered(measured, wishes)
    need = memory_need(measured, buffered_bytes=buffered, for_gpu=for_gpu)
    limit = _rounded(int(need.total * LIMIT_FACTOR))
    request = min(limit, _rounded(need.total - buffered))
    period, failures, startup_origin = _startup(measured, for_gpu=for_gpu)
    drain_s = wishes.drain_delay_s + wishes.drain_timeout_s
    grace = ceil(drain_s + 5 + GRACE_SLACK_S)
    surge, unavailable, strategy_origin = _strategy(wishes)
    gpu = _gpu(measured) if for_gpu else None
    waited_s, progress_origin = _before_the_start(measured, wishes)
    return Sizing(
        memory=need,
        memory_request=request,
        memory_limit=limit,
        buffered_bytes=buffered,
        buffered_origin=buffered_origin,
        startup_period_s=period,
        startup_failures=failures,
        startup_origin=startup_origin,
        progress_s=period * failures + waited_s,
        progress_origin=progress_origin,
        grace_s=grace,
        grace_origin=(
            f"drain_delay {wishes.drain_delay_s:g} s + drain_timeout "
            f"{wishes.drain_timeout_s:g} s + 5 s, and {GRACE_SLACK_S} s of slack"
        ),
        surge=surge,
        unavailable=unavailable,
        strategy_origin=strategy_origin,
        has_budget=wishes.most > 1,
        gpu=gpu,
        volume=models_volume(measured),
        notes=tuple(_notes(measured, wishes, gpu)),
    )


def _rounded(nbytes: int) -> int:
    """Up to 64 MiB, or to a quarter GiB from 4 GiB on."""
    step = 64 * MIB if nbytes < 4 * GIB else GIB // 4
    return -(-nbytes // step) * step


def _buffered(measured: Measurement, wishes: Wishes) -> tuple[int, str]:
    if wishes.buffered_bytes is not None:
        return wishes.buffered_bytes, "as --max-buffered-bytes says"
    batches = {
        each.name: each.batch_limit_rows * (each.input_row_bytes + each.output_row_bytes)
        for each in measured.models
    }
    largest = max(batches, key=lambda name: batches[name], default="")
    nbytes = BATCHES_BUFFERED * batches.get(largest, 0)
    if nbytes <= LEAST_BUFFERED_BYTES:
        return LEAST_BUFFERED_BYTES, (
            f"the least that init gives: {BATCHES_BUFFERED} of the largest batches "
            f"({largest!r}) take {nbytes / MIB:.1f} MiB"
        )
    origin = f"{BATCHES_BUFFERED} of the largest batches ({largest!r}), inputs and outputs"
    return _rounded(nbytes), origin


def _startup(measured: Measurement, *, for_gpu: bool) -> tuple[int, int, str]:
    budget = ceil(STARTUP_FACTOR * measured.start_s)
    origin = f"{STARTUP_FACTOR} times the measured start of {measured.start_s:.1f} s"
    least = LEAST_GPU_STARTUP_S if for_gpu else LEAST_STARTUP_S
    if for_gpu and not measured.on_gpu:
        least = UNMEASURED_GPU_STARTUP_S
        origin = f"no start on a GPU was measured (on the CPU {measured.start_s:.1f} s)"
    if budget < least:
        budget = least
        origin += f"; at least {least} s"
    period = 2 if budget <= 300 else 5
    return period, ceil(budget / period), origin


def _before_the_start(measured: Measurement, wishes: Wishes) -> tuple[int, str]:
    """Seconds of a rollout in which no probe counts yet."""
    pull = PULL_S[wishes.device]
    origin = f"the startup probe's budget, and {pull} s to pull the image and be scheduled"
    if not wishes.downloads_models:
        return pull, origin
    seconds = download_s(measured)
    mebibytes = f"{measured.download_bytes / MIB:.0f} MiB"
    return pull + seconds, (
        f"{origin}, and {seconds} s to download the models, of {mebibytes}, at "
        f"{BYTES_PER_S // MIB} MiB/s, at least {LEAST_S} s"
    )


def _strategy(wishes: Wishes) -> tuple[int, int, str]:
    if wishes.device == "cpu":
        return 1, 0, "a new pod is ready before an old one goes"
    if wishes.has_spare_gpu:
        return 1, 0, "there is a spare GPU: a new pod is ready before an old one goes"
    if wishes.least == 1:
        gap = (
            "one pod and no spare GPU: each rollout has a gap of a whole start, in which nothing "
            "answers; two replicas or --spare-gpu close it"
        )
        return 0, 1, gap
    return 0, 1, "no spare GPU: a new pod waits for the GPU of an old one"


def _gpu(measured: Measurement) -> GpuNeed:
    taken = measured.gpu_bytes
    is_measured = measured.on_gpu and taken is not None
    if taken is None:
        # Assumed: weights and arenas take there what they take here, and libraries no more than
        # the rest of the process.
        weights = sum(each.weights_bytes * each.instances for each in measured.models)
        taken = max(weights, measured.peak_bytes)
        origin = (
            f"estimated, not measured on a GPU: the process with weights ({weights / MIB:.0f} MiB) "
            f"and arenas had {measured.peak_bytes / MIB:.0f} MiB resident on the CPU"
        )
    else:
        origin = f"measured on {measured.gpu_name or 'a GPU'}: {taken / MIB:.0f} MiB by the models"
    nbytes = max(ceil(taken / GPU_MEMORY_SHARE), taken + CUDA_CONTEXT_BYTES)
    origin += (
        f"; models may take {GPU_MEMORY_SHARE:.0%} of a GPU, and CUDA's context "
        f"{CUDA_CONTEXT_BYTES // MIB} MiB"
    )
    return GpuNeed(nbytes, origin, is_measured, smallest(nbytes, WHOLE), smallest(nbytes, SLICES))


def _notes(measured: Measurement, wishes: Wishes, gpu: GpuNeed | None) -> list[str]:
    notes = []
    if gpu is not None and not gpu.is_measured:
        notes.append(
            "No GPU was measured: its memory, the start on it and CUDA's share of the host's "
            "memory are estimates. Run `stoker k8s init` on a node with the GPU, or bring its "
            "measured.json and use --measured."
        )
    if gpu is not None and gpu.whole is None:
        notes.append(
            f"No GPU that is known has {gpu.nbytes / GIB:.0f} GiB: split the models over several "
            "deployments."
        )
    variable = sorted({each.name for each in measured.models if each.has_variable_shapes})
    if variable:
        notes.append(
            f"Variable dimensions of {', '.join(variable)} were taken as 1, text as nothing. If "
            "requests are larger, raise --max-buffered-bytes, and let `model_warmup` send the "
            "largest one, so that arenas are measured at that size."
        )
    unknown = sorted({each.name for each in measured.models if each.row_seconds is None})
    if unknown:
        notes.append(
            f"No cost curve of {', '.join(unknown)}: stoker_demand_ratio does not count them, so "
            "an autoscaler does not see their load."
        )
    if wishes.most == 1:
        notes.append("One replica: no disruption budget, which could only block node drains.")
    notes.append(
        f"Measured with {measured.peak_bytes / MIB:.0f} MiB resident on: "
        f"{measured.machine}. The files were in the page cache or on this machine's disk: a cold "
        "volume is slower."
    )
    return notes
