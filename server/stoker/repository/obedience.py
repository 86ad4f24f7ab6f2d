"""Fields of a configuration that this server does not obey, and what happens instead.

A field that would change answers makes the model unservable, with a plain sentence; one that only
tunes is a warning. Nothing is ignored in silence. A field leaves this table with the change that
makes the server obey it.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

from google.protobuf.message import Message as AnyMessage

from stoker.repository.model_config import Message
from stoker.repository.places import FieldPath
from stoker.repository.report import Report

REFUSED: Final = MappingProxyType(
    {
        "sequence_batching": "sequence batching is not supported yet",
        "ensemble_scheduling": "ensembles are not supported yet",
        "batch_input": "ragged batching is not supported yet",
        "batch_output": "ragged batching is not supported yet",
        "input.allow_ragged_batch": "ragged batching is not supported yet",
        "input.is_shape_tensor": "shape tensors are not supported; only TensorRT models have them",
        "output.is_shape_tensor": "shape tensors are not supported; only TensorRT models have them",
        "model_operations.op_library_filename": "libraries of custom operators are not "
        "supported yet",
        "model_transaction_policy.decoupled": "decoupled models are not supported; "
        "an ONNX model gives one response to each request",
    }
)

NOT_OBEYED: Final = MappingProxyType(
    {
        "cc_model_filenames": "one model file serves every GPU; this is ignored",
        "runtime": "there is one runtime, ONNX Runtime; this is ignored",
        "model_repository_agents.agents": "repository agents are not supported yet; "
        "the files are served as they are",
        "response_cache.enable": "the response cache is not supported yet; "
        "every request runs the model",
        "model_metrics.metric_control": "histogram buckets are fixed; this is ignored",
        "optimization.priority": "all models of a device share it by time; this is ignored",
        "optimization.cuda.busy_wait_events": "not supported by ONNX Runtime; this is ignored",
        "optimization.cuda.graph_spec": "shapes of CUDA graphs are not configurable yet; "
        "this is ignored",
        "optimization.cuda.output_copy_stream": "not supported by ONNX Runtime; this is ignored",
        "optimization.gather_kernel_buffer_threshold": "not supported by ONNX Runtime; "
        "this is ignored",
        "optimization.eager_batching": "executors take requests when they are free; "
        "this is ignored",
        "instance_group.passive": "a passive group is never given work; it is not loaded",
        "instance_group.profile": "only TensorRT models have profiles; this is ignored",
        "instance_group.rate_limiter": "the rate limiter is not supported yet; "
        "instances run without asking for resources",
        "instance_group.secondary_devices": "secondary devices are not supported; this is ignored",
        "instance_group.host_policy": "host policies are not supported yet; this is ignored",
        "input.is_non_linear_format_io": "only TensorRT models have such formats; this is ignored",
        "output.is_non_linear_format_io": "only TensorRT models have such formats; this is ignored",
    }
)


def check_obedience(message: Message, report: Report) -> None:
    """Reports every field that is set and not obeyed."""
    for name, sentence in REFUSED.items():
        for path in _set(message, name.split(".")):
            report.fail(path, sentence)
    for name, sentence in NOT_OBEYED.items():
        for path in _set(message, name.split(".")):
            report.warn(path, sentence)
    for name in ("input_pinned_memory", "output_pinned_memory"):
        optimization = message.optimization
        if optimization.HasField(name) and not getattr(optimization, name).enable:
            report.warn(
                ("optimization", name),
                "whether memory is pinned follows from the device; this is ignored",
            )


def _set(message: AnyMessage, names: list[str]) -> Iterator[FieldPath]:
    """The places where the field is set to anything but its default."""
    name, *deeper = names
    known = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if not deeper:
        if message.HasField(name) if known.has_presence else value:
            yield (name,)
    elif known.is_repeated:
        for index, item in enumerate(value):
            for path in _set(item, deeper):
                yield (name, index, *path)
    elif message.HasField(name):
        for path in _set(value, deeper):
            yield (name, *path)
