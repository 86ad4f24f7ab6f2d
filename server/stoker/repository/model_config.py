"""Triton's ModelConfig message on one side, `stoker.model.ModelConfig` on the other.

The only module of `repository/` that knows the generated messages; its neighbours take `Message`
from here. It translates and prints; what a file may say is in `config_checks.py` and
`obedience.py`, what the opened model adds in `completion.py`.

Source: Triton's model configuration; protocol reference, sections 4 and 4.7.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, TypeAlias, cast

import orjson
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from stoker import model
from stoker.protocol import model_config_pb2 as pb
from stoker.repository import pbtxt
from stoker.repository.report import Report
from stoker.repository.version_policy import All, Latest, Specific, VersionPolicy
from stoker.tensor import BY_NUMBER, TensorSpec

Message: TypeAlias = pb.ModelConfig
TensorMessage: TypeAlias = pb.ModelInput | pb.ModelOutput

_KINDS: Final = {
    pb.ModelInstanceGroup.KIND_AUTO: model.InstanceKind.AUTO,
    pb.ModelInstanceGroup.KIND_GPU: model.InstanceKind.GPU,
    pb.ModelInstanceGroup.KIND_CPU: model.InstanceKind.CPU,
    pb.ModelInstanceGroup.KIND_MODEL: model.InstanceKind.MODEL,
}

_SOURCES: Final = {"zero_data": "zero", "random_data": "random", "input_data_file": "file"}

_WIDE: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def read(content: bytes, *, file: str) -> tuple[Message, Report]:
    """The message of a `config.pbtxt`, and every field of it that cannot be understood."""
    message = Message()
    return message, pbtxt.read(content, message, file=file)


def version_policy(message: Message) -> VersionPolicy:
    """The file's version policy; the latest version where it has none."""
    match message.version_policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(message.version_policy.specific.versions))
        case _:
            return Latest(message.version_policy.latest.num_versions or 1)


def describe(into: TensorMessage, spec: TensorSpec, *, batches: bool) -> None:
    """Fills in name, datatype and dims from a model's own tensor; its rows do not count."""
    into.name = spec.name
    into.data_type = cast(pb.DataType, spec.datatype.number)
    into.dims.extend(spec.shape[1:] if batches else spec.shape)


def to_model_config(
    effective: Message, written: Message, *, scalars: frozenset[str] = frozenset()
) -> model.ModelConfig:
    """The noun for a checked message.

    `written` is what the file says: from it come batching and instance groups, whose gaps the
    engine and the runtime fill themselves, and what counts as explicit. Tensors in `scalars` are
    [1] to clients and without dimension to the model.
    """
    return model.ModelConfig(
        name=effective.name,
        max_batch_size=effective.max_batch_size,
        inputs=tuple(_tensor(each, each.optional, "", scalars) for each in effective.input),
        outputs=tuple(
            _tensor(each, False, each.label_filename, scalars) for each in effective.output
        ),
        batching=_batching(effective, written),
        batching_is_explicit=written.HasField("dynamic_batching"),
        batch_size_is_explicit=written.max_batch_size > 0,
        instance_groups=tuple(
            model.InstanceGroup(each.name, _KINDS[each.kind], each.count, tuple(each.gpus))
            for each in written.instance_group
            if not each.passive
        ),
        parameters=MappingProxyType(
            {key: value.string_value for key, value in effective.parameters.items()}
        ),
        optimization=_optimization(effective.optimization),
        warmup=tuple(_warmup(each) for each in effective.model_warmup),
        metric_tags=MappingProxyType(dict(effective.metric_tags)),
        default_model_filename=effective.default_model_filename or "model.onnx",
        message=effective.SerializeToString(deterministic=True),
        json=to_json(effective),
    )


def to_json(message: Message) -> bytes:
    """snake_case keys, enums by name, defaults printed, every 64-bit integer as a number."""
    printed = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return orjson.dumps(_with_numbers(cast(Descriptor, message.DESCRIPTOR), printed))


def to_pbtxt(config: model.ModelConfig) -> str:
    """The effective configuration as the text of a `config.pbtxt`."""
    return text_format.MessageToString(Message.FromString(config.message), as_utf8=True)


def _with_numbers(message: Descriptor, printed: dict[str, object]) -> dict[str, object]:
    """Turns the texts that protobuf's JSON has for 64-bit integers back into numbers."""
    return {
        name: _field_with_numbers(message.fields_by_name[name], value)
        for name, value in printed.items()
    }


def _field_with_numbers(known: FieldDescriptor, value: object) -> object:
    message = known.message_type
    if message is not None and message.GetOptions().map_entry and isinstance(value, dict):
        values = message.fields_by_name["value"]
        return {key: _value_with_numbers(values, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_value_with_numbers(known, each) for each in value]
    return _value_with_numbers(known, value)


def _value_with_numbers(known: FieldDescriptor, value: object) -> object:
    if isinstance(value, dict):
        return _with_numbers(known.message_type, value)
    if isinstance(value, str) and known.cpp_type in _WIDE:
        return int(value)
    return value


def _tensor(
    tensor: TensorMessage, optional: bool, labels: str, scalars: frozenset[str]
) -> model.TensorConfig:
    reshape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
    if reshape is None and tensor.name in scalars:
        reshape = ()
    return model.TensorConfig(
        name=tensor.name,
        datatype=BY_NUMBER[tensor.data_type],
        dims=tuple(tensor.dims),
        reshape=reshape,
        optional=optional,
        label_filename=labels,
    )


def _batching(effective: Message, written: Message) -> model.DynamicBatching | None:
    if not effective.HasField("dynamic_batching"):
        return None
    batching = written.dynamic_batching
    return model.DynamicBatching(
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_queue_policy=_queue_policy(batching.default_queue_policy),
        priority_queue_policies=MappingProxyType(
            {
                level: _queue_policy(policy)
                for level, policy in sorted(batching.priority_queue_policy.items())
            }
        ),
    )


def _queue_policy(policy: pb.ModelQueuePolicy) -> model.QueuePolicy:
    return model.QueuePolicy(
        max_queue_size=policy.max_queue_size,
        default_timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        delays_on_timeout=policy.timeout_action == pb.ModelQueuePolicy.DELAY,
    )


def _optimization(optimization: pb.ModelOptimizationPolicy) -> model.Optimization:
    accelerators = optimization.execution_accelerators
    return model.Optimization(
        graph_level=optimization.graph.level,
        cuda_graphs=optimization.cuda.graphs,
        gpu_accelerators=_accelerators(accelerators.gpu_execution_accelerator),
        cpu_accelerators=_accelerators(accelerators.cpu_execution_accelerator),
    )


def _accelerators(
    accelerators: Iterable[pb.ModelOptimizationPolicy.ExecutionAccelerators.Accelerator],
) -> tuple[model.Accelerator, ...]:
    return tuple(
        model.Accelerator(each.name, MappingProxyType(dict(each.parameters)))
        for each in accelerators
    )


def _warmup(sample: pb.ModelWarmup) -> model.WarmupSample:
    return model.WarmupSample(
        name=sample.name,
        batch_size=sample.batch_size,
        count=max(1, sample.count),
        inputs=MappingProxyType(
            {
                name: model.WarmupInput(
                    datatype=BY_NUMBER[each.data_type],
                    dims=tuple(each.dims),
                    source=_SOURCES[each.WhichOneof("input_data_type") or "zero_data"],
                    file=each.input_data_file,
                )
                for name, each in sorted(sample.inputs.items())
            }
        ),
    )
