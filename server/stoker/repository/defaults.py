"""Fills the gaps of a completed configuration, so that an answer shows what is in force.

Only the message that clients see is filled. The engine and the runtime get batching and instance
groups as the file has them, because a written value and a default are not obeyed alike.

Source: model repository reference, section 2 "Default filling" and section 13.
"""

from collections.abc import Sequence
from typing import Protocol

from stoker.model import BACKEND, PLATFORM
from stoker.repository.model_config import Message


class Placed(Protocol):
    """Where runs of the model really go: `runtime.session.Placement` has it."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda:N`."""

    @property
    def instances(self) -> int:
        """Runs at once."""


def fill_defaults(effective: Message, placements: Sequence[Placed]) -> None:
    """`placements` say where the model's runs go; without them groups stay as written."""
    effective.platform = PLATFORM
    effective.backend = BACKEND
    if effective.version_policy.WhichOneof("policy_choice") is None:
        effective.version_policy.latest.num_versions = 1
    batching = effective.dynamic_batching
    fills = effective.HasField("dynamic_batching") and effective.max_batch_size > 0
    if fills and not batching.preferred_batch_size:
        batching.preferred_batch_size.append(effective.max_batch_size)
    optimization = effective.optimization
    if not optimization.HasField("input_pinned_memory"):
        optimization.input_pinned_memory.enable = True
    if not optimization.HasField("output_pinned_memory"):
        optimization.output_pinned_memory.enable = True
    if not effective.default_model_filename:
        effective.default_model_filename = "model.onnx"
    _fill_instance_groups(effective, placements)


def _fill_instance_groups(effective: Message, placements: Sequence[Placed]) -> None:
    """Names, counts and kinds as the runtime really uses them; one group where none is written."""
    gpus = [int(each.device.partition(":")[2] or 0) for each in placements if _on_gpu(each)]
    for index, group in enumerate(effective.instance_group):
        group.name = group.name or f"{effective.name}_{index}"
        group.count = group.count or 1
        if group.kind == group.KIND_AUTO and placements:
            group.kind = group.KIND_GPU if gpus else group.KIND_CPU
        if group.kind == group.KIND_GPU and not group.gpus:
            group.gpus.extend(gpus)
    if effective.instance_group:
        return
    on_cpu = [each for each in placements if not _on_gpu(each)]
    for of_kind in ([each for each in placements if _on_gpu(each)], on_cpu):
        if of_kind:
            group = effective.instance_group.add(name=effective.name, count=of_kind[0].instances)
            group.kind = group.KIND_CPU if of_kind is on_cpu else group.KIND_GPU
            if of_kind is not on_cpu:
                group.gpus.extend(gpus)
    if not effective.instance_group:
        effective.instance_group.add(name=effective.name, count=1)


def _on_gpu(placed: Placed) -> bool:
    return placed.device != "cpu"
