"""Fills the gaps of a completed configuration, so that an answer shows what is in force.

Only the message that clients see is filled. The engine and the runtime get batching and instance
groups as the file has them, because a written value and a default are not obeyed alike.

Source: model repository reference, section 2 "Default filling" and section 13.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from stoker.device import CPU, DeviceReport
from stoker.model import BACKEND, PLATFORM
from stoker.repository.model_config import Message

DEVICES: Final = "stoker.devices"
"""The parameter of an answered configuration that tells where the version's sessions really run."""


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


def show_devices(effective: Message, reports: Sequence[DeviceReport]) -> None:
    """The reports as JSON in the parameter DEVICES, as REST's metadata have them: gRPC's metadata
    have no place for them."""
    if reports:
        facts = orjson.dumps([report.facts() for report in reports])
        effective.parameters[DEVICES].string_value = facts.decode()


def _fill_instance_groups(effective: Message, placements: Sequence[Placed]) -> None:
    """Names, counts and kinds as the runtime really uses them; one group where none is written."""
    runs = Counter[str]()
    for each in placements:
        runs[each.device] += each.instances
    gpus = [int(device.partition(":")[2] or 0) for device in runs if device != CPU]
    for index, group in enumerate(effective.instance_group):
        group.name = group.name or f"{effective.name}_{index}"
        group.count = group.count or 1
        if group.kind == group.KIND_AUTO and placements:
            group.kind = group.KIND_GPU if gpus else group.KIND_CPU
        if group.kind == group.KIND_GPU and not group.gpus:
            group.gpus.extend(gpus)
    if effective.instance_group:
        return
    on_gpus = [count for device, count in runs.items() if device != CPU]
    if on_gpus:
        group = effective.instance_group.add(name=effective.name, count=on_gpus[0])
        group.kind = group.KIND_GPU
        group.gpus.extend(gpus)
    if runs[CPU]:
        group = effective.instance_group.add(name=effective.name, count=runs[CPU])
        group.kind = group.KIND_CPU
    if not effective.instance_group:
        effective.instance_group.add(name=effective.name, count=1)
