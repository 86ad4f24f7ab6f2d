"""ModelInferRequest's bytes -> InferRequest: what protobuf reads, and all that is checked.

Stands between a transport's method table and the engine, behind `known_requests.py`, which reads
requests that are like others before. Protobuf gives each raw entry as `bytes` of its own: tensors
refer to those. Whether a model has these tensors is the engine's to check.

Source: Open Inference Protocol v2 over gRPC, message ModelInferRequest, with Triton's parameters.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from stoker.errors import InvalidRequest, Unsupported
from stoker.protocol.inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
)
from stoker.request import NO_PARAMETERS, InferRequest, Parameters
from stoker.tensor import (
    MAX_RANK,
    DataType,
    Tensor,
    datatype_of,
    element_count,
    from_raw,
    shape_text,
    text_of,
)
from stoker.transport.grpc.call import MessageBytes, parse
from stoker.transport.grpc.wire_form import has_at_most
from stoker.transport.wire.limits import WHOLE_BODY_BYTES

MAX_FIELDS: Final = WHOLE_BODY_BYTES // 2
"""What a message of WHOLE_BODY_BYTES may have, so that only larger ones need a look. Protobuf makes
an object of 40 to 140 bytes out of a field of two: a gigabyte out of 8 MiB, which take 2 s."""

_CONTENTS: Final[dict[DataType, str]] = {
    DataType.BOOL: "bool_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
"""The one typed field of each datatype; FP16 and BF16 have none."""

_NARROWED: Final[dict[DataType, np.dtype[Any]]] = {
    DataType.UINT8: np.dtype("<u4"),
    DataType.UINT16: np.dtype("<u4"),
    DataType.INT8: np.dtype("<i4"),
    DataType.INT16: np.dtype("<i4"),
}
"""Datatypes whose typed field is wider than they are, with the field's own dtype."""

_RESERVED: Final[dict[str, tuple[str, ...]]] = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    "triton_enable_empty_final_response": ("bool_param",),
}
"""Request parameters with a meaning, and the fields they may come in."""

_MAX_SEQUENCE_ID: Final = 128
"""Characters of a sequence id that is text."""

_FORBIDDEN: Final = frozenset({"binary_data_output", "headers"})

_REGION: Final[dict[str, str]] = {
    "shared_memory_region": "string_param",
    "shared_memory_byte_size": "int64_param",
    "shared_memory_offset": "int64_param",
}


def decode_request(
    message: MessageBytes, *, deadline: float = math.inf, is_retry: bool = False
) -> InferRequest:
    """The request that a ModelInferRequest message holds. Raises as `request_of`."""
    return request_of(parse_request(message), deadline=deadline, is_retry=is_retry)


def parse_request(message: MessageBytes) -> ModelInferRequest:
    """What protobuf reads. Raises InvalidRequest."""
    if len(message) > WHOLE_BODY_BYTES and not has_at_most(MAX_FIELDS, message):
        raise InvalidRequest(
            f"expected a protobuf message {ModelInferRequest.DESCRIPTOR.full_name} of at most "
            f"{MAX_FIELDS} fields, got {len(message)} bytes that are none or have more"
        )
    return parse(ModelInferRequest, message)


def request_of(wire: ModelInferRequest, *, deadline: float, is_retry: bool) -> InferRequest:
    """The request that a parsed message means.

    Raises InvalidRequest for anything malformed, Unsupported for well-formed shared memory or
    classification. Inputs are views of protobuf's own `bytes`, or arrays where the data came
    typed or is BYTES or BOOL.
    """
    priority, timeout_us, parameters = 0, 0, NO_PARAMETERS
    if wire.parameters:
        priority, timeout_us, parameters = _request_parameters(wire.parameters)
    inputs = _inputs(wire)
    requested: tuple[str, ...] = ()
    if wire.outputs:
        requested = _requested_outputs(wire)
    return InferRequest.of(
        wire.model_name,
        wire.model_version,
        id=wire.id,
        inputs=inputs,
        requested_outputs=requested,
        priority=priority,
        timeout_us=timeout_us,
        deadline=deadline,
        parameters=parameters,
        is_retry=is_retry,
    )


def _inputs(wire: ModelInferRequest) -> tuple[Tensor, ...]:
    raw = wire.raw_input_contents
    entries, used = len(raw), 0
    inputs: list[Tensor] = []
    for tensor in wire.inputs:
        name = tensor.name
        if tensor.parameters:
            _refuse_shared_memory(f"input '{name}'", tensor.parameters)
        datatype = datatype_of(tensor.datatype, tensor=name)
        if len(tensor.shape) > MAX_RANK:
            raise InvalidRequest(
                f"input '{name}': expected at most {MAX_RANK} dimensions, got {len(tensor.shape)}"
            )
        shape = tuple(tensor.shape)
        if tensor.HasField("contents"):
            if entries:
                raise InvalidRequest(
                    f"input '{name}': expected all data in raw_input_contents, since it is not "
                    "empty, got typed contents too"
                )
            inputs.append(_from_contents(name, datatype, shape, tensor.contents))
        elif used < entries:
            inputs.append(from_raw(name, datatype, shape, raw[used]))
            used += 1
        else:
            raise InvalidRequest(
                f"input '{name}': expected data in contents or raw_input_contents, got none "
                f"({entries} raw entries for {len(wire.inputs)} inputs)"
            )
    if used != entries:
        raise InvalidRequest(
            f"expected one entry of raw_input_contents for each of {used} inputs, got {entries}"
        )
    if len(inputs) > 1:
        _refuse_duplicates("input", (tensor.name for tensor in inputs))
    return tuple(inputs)


def _from_contents(
    name: str, datatype: DataType, shape: tuple[int, ...], contents: InferTensorContents
) -> Tensor:
    """A tensor from its typed field, which must be the only one that is filled."""
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidRequest(
            f"input '{name}': expected {datatype.wire} in raw_input_contents, got typed contents, "
            "which have no field for it"
        )
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled not in ([], [field]):
        raise InvalidRequest(
            f"input '{name}': expected {datatype.wire} in {field} alone, got {', '.join(filled)}"
        )
    values = getattr(contents, field)
    count = element_count(shape, tensor=name)
    if len(values) != count:
        raise InvalidRequest(
            f"input '{name}': expected {count} elements for {datatype.wire} {shape_text(shape)}, "
            f"got {len(values)}"
        )
    if datatype is DataType.BYTES:
        array = np.empty(count, object)
        for index, element in enumerate(values):
            array[index] = text_of(element, index, tensor=name)
        return Tensor(name, datatype, shape, array.reshape(shape))
    wide = np.fromiter(values, _NARROWED.get(datatype, datatype.numpy), count)
    if datatype in _NARROWED:
        limits = np.iinfo(datatype.numpy)
        outside = np.flatnonzero((wide < limits.min) | (wide > limits.max))
        if outside.size:
            raise InvalidRequest(
                f"input '{name}': element {outside[0]}: expected {datatype.wire} from "
                f"{limits.min} to {limits.max}, got {wide[outside[0]]}"
            )
    return Tensor(name, datatype, shape, wide.astype(datatype.numpy, copy=False).reshape(shape))


def _request_parameters(
    parameters: Mapping[str, InferParameter],
) -> tuple[int, int, Parameters]:
    """Priority, queue timeout in microseconds, and the custom parameters."""
    priority, timeout_us = 0, 0
    custom: dict[str, bool | int | float | str] = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"parameter '{key}': expected a value, got none")
        value = getattr(parameter, choice)
        allowed = _RESERVED.get(key)
        if allowed is None:
            if key in _FORBIDDEN or key.startswith("triton_"):
                raise InvalidRequest(f"parameter '{key}': the name is reserved by the protocol")
            custom[key] = value
            continue
        if choice not in allowed:
            raise InvalidRequest(
                f"parameter '{key}': expected {' or '.join(allowed)}, got {choice}"
            )
        if key in ("priority", "timeout") and value < 0:
            raise InvalidRequest(f"parameter '{key}': expected 0 or more, got {value}")
        if key == "priority":
            priority = value
        elif key == "timeout":
            timeout_us = value
        elif choice == "string_param" and len(value) > _MAX_SEQUENCE_ID:
            raise InvalidRequest(
                f"parameter '{key}': expected text of up to {_MAX_SEQUENCE_ID} characters, "
                f"got {len(value)}"
            )
    return priority, timeout_us, custom or NO_PARAMETERS


def _requested_outputs(wire: ModelInferRequest) -> tuple[str, ...]:
    for output in wire.outputs:
        if not output.parameters:
            continue
        classification = output.parameters.get("classification")
        if classification is not None:
            if not classification.int64_param > 0:
                raise InvalidRequest(
                    f"output '{output.name}': parameter 'classification': expected an "
                    "int64_param above 0"
                )
            if not _REGION.keys().isdisjoint(output.parameters):
                raise InvalidRequest(
                    f"output '{output.name}': expected classification or shared memory, got both"
                )
            raise Unsupported(f"output '{output.name}': classification is not served")
        _refuse_shared_memory(f"output '{output.name}'", output.parameters)
    names = tuple(output.name for output in wire.outputs)
    if len(names) > 1:
        _refuse_duplicates("output", names)
    return names


def _refuse_shared_memory(tensor: str, parameters: Mapping[str, InferParameter]) -> None:
    """Raises for shared memory parameters: InvalidRequest if malformed, else Unsupported."""
    for key, choice in _REGION.items():
        if key not in parameters:
            continue
        got = parameters[key].WhichOneof("parameter_choice")
        if got != choice:
            raise InvalidRequest(
                f"{tensor}: parameter '{key}': expected {choice}, got {got or 'no value'}"
            )
        if "shared_memory_region" not in parameters:
            raise InvalidRequest(
                f"{tensor}: parameter '{key}': expected shared_memory_region beside it, got none"
            )
    if "shared_memory_region" in parameters:
        raise Unsupported(f"{tensor}: shared memory is not served")


def _refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{kind} '{name}': expected each {kind} once, got it twice")
        seen.add(name)
