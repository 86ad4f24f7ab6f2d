"""Contradictions in a configuration, found before any model is opened.

Adds every problem to the report, never stops at the first. What can only be said when the model
is open (names, datatypes, shapes) is in `completion.py`.

Source: Triton's model configuration; model repository reference, section 2.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stoker.model import BACKEND, PLATFORM
from stoker.repository.model_config import Message, TensorMessage
from stoker.repository.report import Report
from stoker.tensor import BY_CONFIG, BY_NUMBER, shape_text

_GPU_ACCELERATORS = ("cuda", "tensorrt")
_CPU_ACCELERATORS = ("openvino",)


def is_complete(message: Message) -> bool:
    """Whether nothing is completed from the model: inputs and outputs are both there."""
    return bool(message.input and message.output)


def check_config(message: Message, report: Report, *, name: str | None, folder: Path) -> None:
    """Everything that the file alone can get wrong. `name` None: the file may choose it.

    `folder` is the model's own, where the files stand that the configuration names.
    """
    if name is not None and message.name not in ("", name):
        report.fail(("name",), f"expected '{name}' as the model's folder, got '{message.name}'")
    _check_backend(message, report)
    if message.max_batch_size < 0:
        report.fail(("max_batch_size",), f"expected 0 or more, got {message.max_batch_size}")
    _check_tensors("input", message.input, message, report)
    _check_tensors("output", message.output, message, report)
    _check_batching(message, report)
    _check_instance_groups(message, report)
    _check_accelerators(message, report)
    _check_versions(message, report)
    _check_warmup(message, report, folder)
    if not _is_inside(message.default_model_filename):
        report.fail(
            ("default_model_filename",),
            f"expected a file in the version's folder, got '{message.default_model_filename}'",
        )
    if is_complete(message) or message.max_batch_size > 0:
        check_sizes(message, report)


def check_sizes(message: Message, report: Report) -> None:
    """What depends on `max_batch_size`, which may come from the model only."""
    limit = message.max_batch_size
    sizes = list(message.dynamic_batching.preferred_batch_size)
    if sizes and max(sizes) > limit >= 0:
        report.fail(
            ("dynamic_batching", "preferred_batch_size"),
            f"expected sizes up to max_batch_size, which is {limit}, got {max(sizes)}",
        )
    for index, sample in enumerate(message.model_warmup):
        if sample.batch_size > max(1, limit):
            report.fail(
                ("model_warmup", index, "batch_size"),
                f"expected 1 to {max(1, limit)}, got {sample.batch_size}",
            )


def _check_backend(message: Message, report: Report) -> None:
    if message.platform == "ensemble":
        report.fail(("platform",), "ensembles are not supported yet")
        return
    if message.platform not in ("", PLATFORM):
        report.fail(
            ("platform",),
            f"expected '{PLATFORM}' or none, got '{message.platform}'; only ONNX models are served",
        )
    if message.backend not in ("", BACKEND):
        report.fail(
            ("backend",),
            f"expected '{BACKEND}' or none, got '{message.backend}'; only ONNX models are served",
        )


def _check_tensors(
    kind: str, tensors: Sequence[TensorMessage], message: Message, report: Report
) -> None:
    names = [tensor.name for tensor in tensors]
    for index, tensor in enumerate(tensors):
        path = (kind, index)
        if not tensor.name:
            report.fail(path, "expected a name")
        elif names.index(tensor.name) != index:
            report.fail((*path, "name"), f"expected each name once, got '{tensor.name}' twice")
        if tensor.data_type not in BY_NUMBER:
            report.fail((*path, "data_type"), f"expected one of {', '.join(BY_CONFIG)}, got none")
        dims = tuple(tensor.dims)
        if any(dim < -1 for dim in dims):
            report.fail(
                (*path, "dims"), f"expected sizes, or -1 for any size, got {shape_text(dims)}"
            )
        shape = tuple(tensor.reshape.shape)
        if tensor.HasField("reshape"):
            if any(dim < -1 for dim in shape) or not _reshapes(dims, shape):
                report.fail(
                    (*path, "reshape"),
                    f"expected a shape of as many elements as dims {shape_text(dims)}, with its "
                    f"-1s in the same order, got {shape_text(shape)}",
                )
        elif not dims and is_complete(message):
            report.fail((*path, "dims"), "expected at least one dimension, got none")


def _reshapes(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether the parts between the variable dimensions hold equally many elements."""
    return _parts(dims) == _parts(shape)


def _parts(dims: Sequence[int]) -> list[int]:
    parts = [1]
    for dim in dims:
        if dim == -1:
            parts.append(1)
        else:
            parts[-1] *= dim
    return parts


def _check_batching(message: Message, report: Report) -> None:
    batching = message.dynamic_batching
    path = ("dynamic_batching",)
    if any(size <= 0 for size in batching.preferred_batch_size):
        report.fail(
            (*path, "preferred_batch_size"),
            f"expected sizes above 0, got {shape_text(batching.preferred_batch_size)}",
        )
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        report.fail(
            (*path, "default_priority_level"),
            f"expected 1 to priority_levels, which is {levels}, got {default}",
        )
    for level in sorted(batching.priority_queue_policy):
        if levels and not 1 <= level <= levels:
            report.fail(
                (*path, "priority_queue_policy", f'"{level}"'),
                f"expected a level from 1 to {levels}, got {level}",
            )
    if not levels and (default or batching.priority_queue_policy):
        report.warn(path, "without priority_levels, levels and their policies have no effect")
    if not batching.preserve_ordering:
        return
    if levels > 1:
        report.fail(
            (*path, "preserve_ordering"),
            f"expected at most one priority level where order is kept, got {levels}",
        )
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    if any(policy.timeout_action == policy.DELAY for policy in policies):
        report.fail(
            (*path, "preserve_ordering"),
            "expected timeout_action REJECT where order is kept, got DELAY",
        )


def _check_instance_groups(message: Message, report: Report) -> None:
    groups = message.instance_group
    for index, group in enumerate(groups):
        path = ("instance_group", index)
        if group.count < 0:
            report.fail((*path, "count"), f"expected 1 or more, got {group.count}")
        if group.kind not in group.Kind.values():
            report.fail((*path, "kind"), f"expected a kind, got {group.kind}")
        elif group.kind in (group.KIND_CPU, group.KIND_MODEL) and group.gpus:
            report.fail(
                (*path, "gpus"),
                f"expected none for {group.Kind.Name(group.kind)}, got {shape_text(group.gpus)}",
            )
        if any(gpu < 0 for gpu in group.gpus):
            report.fail((*path, "gpus"), f"expected indices from 0, got {shape_text(group.gpus)}")
    if groups and all(group.passive for group in groups):
        report.fail(("instance_group",), "expected a group that is not passive, got none")


def _check_accelerators(message: Message, report: Report) -> None:
    accelerators = message.optimization.execution_accelerators
    path = ("optimization", "execution_accelerators")
    for index, gpu in enumerate(accelerators.gpu_execution_accelerator):
        here = (*path, "gpu_execution_accelerator", index)
        if gpu.name not in _GPU_ACCELERATORS:
            report.fail(here, f"expected one of {', '.join(_GPU_ACCELERATORS)}, got '{gpu.name}'")
    for index, cpu in enumerate(accelerators.cpu_execution_accelerator):
        here = (*path, "cpu_execution_accelerator", index)
        if cpu.name not in _CPU_ACCELERATORS:
            report.fail(here, f"expected one of {', '.join(_CPU_ACCELERATORS)}, got '{cpu.name}'")
        else:
            report.warn(here, f"'{cpu.name}' is not supported yet; the plain CPU provider runs")


def _check_versions(message: Message, report: Report) -> None:
    policy = message.version_policy
    if policy.WhichOneof("policy_choice") != "specific":
        return
    versions = policy.specific.versions
    if not versions or min(versions) < 1:
        report.fail(
            ("version_policy", "specific", "versions"),
            f"expected version numbers from 1, got {shape_text(versions)}",
        )


def _check_warmup(message: Message, report: Report, folder: Path) -> None:
    for index, sample in enumerate(message.model_warmup):
        path = ("model_warmup", index)
        if sample.batch_size < 1:
            report.fail((*path, "batch_size"), "expected 1 or more, got 0")
        for name, data in sorted(sample.inputs.items()):
            here = (*path, "inputs", f'"{name}"')
            if data.data_type not in BY_NUMBER:
                report.fail(here, f"expected a data_type out of {', '.join(BY_CONFIG)}, got none")
            if any(dim < 0 for dim in data.dims):
                report.fail(
                    here, f"expected dims without variable sizes, got {shape_text(data.dims)}"
                )
            source = data.WhichOneof("input_data_type")
            if source is None:
                report.fail(here, "expected zero_data, random_data or input_data_file, got none")
            elif source == "input_data_file" and not (
                data.input_data_file
                and _is_inside(data.input_data_file)
                and _is_file(folder / "warmup" / data.input_data_file)
            ):
                report.fail(
                    here, f"expected a file in the folder warmup, got '{data.input_data_file}'"
                )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
