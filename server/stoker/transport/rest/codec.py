"""The body of an inference call: bytes -> `InferRequest` and the forms its outputs shall have.

Stands between the router and the engine; its counterpart for answers is `encode.py`. The body is
JSON, or JSON followed by the raw bytes of its binary inputs (`binary.py`). What needs the model's
configuration is the engine's business: names, datatypes and shapes are only well-formed here.
Source: Open Inference Protocol v2, "Inference", with Triton's binary tensor data, schedule policy
and parameters extensions.  Hot path.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from stoker.errors import InvalidRequest, ServingError, TooLarge, Unsupported
from stoker.request import (
    NO_PARAMETERS,
    InferRequest,
    Parameters,
    RequestKind,
    TensorHead,
    kind_of,
)
from stoker.tensor import Array, DataType, Raw, Tensor, datatype_of, element_count, from_raw
from stoker.transport.rest import json_data
from stoker.transport.rest.binary import cut
from stoker.transport.rest.json_frame import read_in_steps
from stoker.transport.rest.json_pieces import Pieces, to_tensor_in_steps
from stoker.transport.steps import Steps

_MAX_RANK: Final = 32
"""Dimensions of a shape: more than any model, fewer than the 64 that numpy has."""
_MAX_DIMENSION: Final = (1 << 31) - 1
_MAX_SEQUENCE_ID: Final = 128
_INT64: Final = range(-(1 << 63), 1 << 63)

_REMEMBERED: Final = 256
"""JSON parts that are kept: one per client, model and shape. At the limit all are forgotten."""
_REMEMBERED_BYTES: Final = 2 << 10
_REMEMBERED_MODELS: Final = 64
"""Models that one JSON part is sent to."""

SLOW_BYTES: Final = 256 << 10
"""Raw BYTES of this size take up to 10 ms to become text, raw BOOL 0.1 ms."""
_COPIED: Final = frozenset((DataType.BYTES, DataType.BOOL))

_SHARED_MEMORY: Final = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)


@dataclass(frozen=True, slots=True)
class OutputForms:
    """Which outputs are answered as binary data, and which as JSON."""

    listed: Mapping[str, bool]
    """The outputs that the request names. Not empty: only these are answered."""
    is_binary_by_default: bool
    """Of requests that name none."""
    all_binary: bool

    def is_binary(self, output: str) -> bool:
        """Whether this output goes out as binary data."""
        return self.listed.get(output, self.is_binary_by_default)


ALL_BINARY: Final = OutputForms(MappingProxyType({}), is_binary_by_default=True, all_binary=True)


Decoded: TypeAlias = tuple[InferRequest, OutputForms]
"""An inference call. (A tuple: a frozen class costs 0.7 us more, and it is taken apart at once.)"""


@dataclass(frozen=True, slots=True)
class _Input:
    """One entry of `inputs`."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    binary_size: int
    """-1: the data stands in the JSON."""
    data: object
    """As `json_data.load` gives it, or the tensor that was made of it."""


@dataclass(frozen=True, slots=True)
class _Envelope:
    """Everything that the JSON part says."""

    id: str
    inputs: tuple[_Input, ...]
    requested_outputs: tuple[str, ...]
    forms: OutputForms
    priority: int
    timeout_us: int
    parameters: Parameters
    sizes: tuple[int, ...] | None = None
    """Bytes of the inputs, which are all binary, of fixed size, as their shapes say, and need no
    decoding; None where one is not."""
    kinds: dict[tuple[str, str], RequestKind] = field(default_factory=dict)
    """By model and version: what such requests have in common."""


# Parsing depends on nothing but the text, and a client that sends its tensors as binary data sends
# the same JSON with each request: 11 us become 0.1 us. Texts with an id are not kept.
_remembered: dict[bytes, _Envelope] = {}


def decode(
    model: str, version: str, body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> Decoded:
    """The call of `model` whose body this is; `json_size` as the header says, None without it.

    Raises InvalidRequest, Unsupported, or TooLarge for JSON over `max_json_bytes`.
    """
    text = _json_part(body, json_size, max_json_bytes)
    envelope = None
    if type(text) is bytes and len(text) <= _REMEMBERED_BYTES:
        envelope = _remembered.get(text)
    if envelope is None:
        envelope = _parse(text)
    return _call(model, version, body, len(text), envelope)


def decode_in_steps(
    model: str, version: str, body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> Steps[Decoded]:
    """`decode` of large JSON, in steps."""
    text = _json_part(body, json_size, max_json_bytes)
    if len(text) < json_data.PIECES_FROM_BYTES:
        return decode(model, version, body, json_size, max_json_bytes)
    envelope = _envelope((yield from read_in_steps(text)))
    inputs = []
    for each in envelope.inputs:
        if isinstance(each.data, Pieces):
            json_data.check_has_json(each.name, each.datatype)
            tensor = yield from to_tensor_in_steps(each.name, each.datatype, each.shape, each.data)
            inputs.append(replace(each, data=tensor))
        else:
            inputs.append(each)
    return _call(model, version, body, len(text), replace(envelope, inputs=tuple(inputs)))


def is_slow(body: bytes | memoryview, json_size: int) -> bool:
    """Whether a body with small JSON has large binary data that `decode` would copy, not view."""
    try:
        text = _json_part(body, json_size, json_size)
        envelope = _remembered.get(bytes(text)) or _parse(text)
    except ServingError:
        return False  # `decode` says why
    return any(
        each.datatype in _COPIED and each.binary_size >= SLOW_BYTES for each in envelope.inputs
    )


def _json_part(
    body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> bytes | memoryview:
    size = len(body) if json_size is None else json_size
    if size > len(body):
        raise InvalidRequest(
            f"expected inference-header-content-length up to the body's {len(body)} bytes, "
            f"got {size}"
        )
    if size > max_json_bytes:
        raise TooLarge(f"expected JSON of at most {max_json_bytes} bytes, got {size}")
    return body if size == len(body) else body[:size]


def _call(
    model: str, version: str, body: bytes | memoryview, json_size: int, envelope: _Envelope
) -> Decoded:
    """The request, its binary data cut out of the body."""
    if envelope.sizes is not None and len(body) == json_size + sum(envelope.sizes):
        return _known_call(model, version, body, json_size, envelope), envelope.forms
    inputs = []
    at = json_size
    for each in envelope.inputs:
        if each.binary_size < 0:
            data = each.data
            if type(data) is not Tensor:
                data = json_data.to_tensor(each.name, each.datatype, each.shape, data)
            inputs.append(data)
            continue
        block = cut(each.name, body, at, each.binary_size)
        at += each.binary_size
        inputs.append(from_raw(each.name, each.datatype, each.shape, block))
    if at != len(body):
        raise InvalidRequest(
            f"expected the body to end after its last input, got {len(body) - at} bytes more"
        )
    request = InferRequest.of(
        model,
        version,
        envelope.id,
        inputs,
        envelope.requested_outputs,
        priority=envelope.priority,
        timeout_us=envelope.timeout_us,
        parameters=envelope.parameters,
    )
    return request, envelope.forms


def _known_call(
    model: str, version: str, body: bytes | memoryview, json_size: int, envelope: _Envelope
) -> InferRequest:
    """The request of a client that repeats itself: all but the data is known."""
    kind = envelope.kinds.get((model, version))
    if kind is None:
        heads = tuple(
            [TensorHead(each.name, each.datatype, each.shape) for each in envelope.inputs]
        )
        kind = kind_of(
            model,
            version,
            heads,
            envelope.requested_outputs,
            envelope.priority,
            envelope.timeout_us,
            envelope.parameters,
        )
        if len(envelope.kinds) < _REMEMBERED_MODELS:
            envelope.kinds[model, version] = kind
    data: list[Raw | Array] = []
    at = json_size
    for size in envelope.sizes or ():
        data.append(body[at : at + size])
        at += size
    return InferRequest(kind, tuple(data), envelope.id)


def _sizes(inputs: Sequence[_Input]) -> tuple[int, ...] | None:
    """See `_Envelope.sizes`."""
    for each in inputs:
        if each.binary_size < 0 or each.datatype in _COPIED:
            return None
        try:
            count = element_count(each.shape, tensor=each.name)
        except InvalidRequest:  # whoever reads the data says so
            return None
        if count * each.datatype.size != each.binary_size:
            return None
    return tuple([each.binary_size for each in inputs])


def _parse(text: bytes | memoryview) -> _Envelope:
    envelope = _envelope(json_data.load(text))
    if (
        not envelope.id
        and len(text) <= _REMEMBERED_BYTES
        and type(text) is bytes
        and all(each.binary_size >= 0 for each in envelope.inputs)
    ):
        if len(_remembered) >= _REMEMBERED:
            _remembered.clear()
        envelope = replace(envelope, sizes=_sizes(envelope.inputs))
        _remembered[text] = envelope
    return envelope


def _envelope(value: object) -> _Envelope:
    top = _object(value, "the body")
    envelope_id = top.get("id", "")
    if not isinstance(envelope_id, str):
        raise InvalidRequest(f"expected `id` to be a string, got {_named(envelope_id)}")
    if "inputs" not in top:
        raise InvalidRequest("expected a key `inputs` in the body, got none")
    inputs = tuple([_input(each) for each in _array(top["inputs"], "`inputs`")])
    _refuse_duplicates("input", [each.name for each in inputs])
    priority, timeout_us, by_default, parameters = _parameters(top.get("parameters"))
    listed: dict[str, bool] = {}
    for each in _array(top.get("outputs", []), "`outputs`"):
        name, is_binary = _output(each)
        if name in listed:
            _refuse_duplicates("output", [name, name])
        listed[name] = is_binary
    return _Envelope(
        envelope_id,
        inputs,
        tuple(listed),
        OutputForms(listed, by_default, all(listed.values()) if listed else by_default),
        priority,
        timeout_us,
        parameters,
    )


def _input(value: object) -> _Input:
    entry = _object(value, "an element of `inputs`")
    name = _name(entry, "input")
    datatype_text = entry.get("datatype")
    if not isinstance(datatype_text, str):
        raise InvalidRequest(
            f"input '{name}': expected `datatype` to be a string, got {_named(datatype_text)}"
        )
    datatype = datatype_of(datatype_text, tensor=name)
    shape = _shape(name, entry.get("shape"))
    parameters = _object(entry.get("parameters", {}), f"input '{name}': `parameters`")
    _refuse_shared_memory(f"input '{name}'", parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise InvalidRequest(
                f"input '{name}': expected `data` or the parameter `binary_data_size`, got neither"
            )
        return _Input(name, datatype, shape, -1, entry["data"])
    if type(size) is not int or size < 0:
        raise InvalidRequest(
            f"input '{name}': expected `binary_data_size` to be an integer of 0 or more, "
            f"got {_named(size)}"
        )
    if "data" in entry:
        raise InvalidRequest(
            f"input '{name}': expected `data` or the parameter `binary_data_size`, got both"
        )
    return _Input(name, datatype, shape, size, None)


def _shape(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise InvalidRequest(
            f"input '{name}': expected `shape` to be an array, got {_named(value)}"
        )
    if len(value) > _MAX_RANK:
        raise InvalidRequest(
            f"input '{name}': expected a shape of at most {_MAX_RANK} dimensions, got {len(value)}"
        )
    for size in value:
        if type(size) is not int or not 0 <= size <= _MAX_DIMENSION:
            raise InvalidRequest(
                f"input '{name}': expected `shape` to hold integers from 0 to {_MAX_DIMENSION}, "
                f"got {_named(size)}"
            )
    return tuple(value)


def _output(value: object) -> tuple[str, bool]:
    entry = _object(value, "an element of `outputs`")
    name = _name(entry, "output")
    parameters = _object(entry.get("parameters", {}), f"output '{name}': `parameters`")
    if parameters.get("classification"):
        raise Unsupported(f"output '{name}': this server does not serve `classification`")
    _refuse_shared_memory(f"output '{name}'", parameters)
    is_binary = parameters.get("binary_data", False)
    if not isinstance(is_binary, bool):
        raise InvalidRequest(
            f"output '{name}': expected `binary_data` to be a boolean, got {_named(is_binary)}"
        )
    return name, is_binary


def _parameters(value: object) -> tuple[int, int, bool, Parameters]:
    """Priority, queue timeout in microseconds, whether outputs are binary, custom parameters.

    The sequence parameters are checked and ignored: no model here has sequence batching.
    """
    priority, timeout_us, is_binary = 0, 0, False
    custom: dict[str, bool | int | float | str] = {}
    for key, each in _object({} if value is None else value, "`parameters`").items():
        if key in ("priority", "timeout"):
            if type(each) is not int or each < 0:
                raise _wrong(key, "an integer of 0 or more", each)
            priority, timeout_us = (each, timeout_us) if key == "priority" else (priority, each)
        elif key in ("binary_data_output", "sequence_start", "sequence_end"):
            if not isinstance(each, bool):
                raise _wrong(key, "a boolean", each)
            is_binary = each if key == "binary_data_output" else is_binary
        elif key == "sequence_id":
            if not (isinstance(each, str) and len(each) <= _MAX_SEQUENCE_ID) and not (
                type(each) is int and each >= 0
            ):
                raise _wrong(
                    key,
                    f"an integer of 0 or more, or a string of up to {_MAX_SEQUENCE_ID} characters",
                    each,
                )
        elif key == "headers" or key.startswith("triton_"):
            raise InvalidRequest(f"parameter '{key}': the name is reserved by the protocol")
        elif isinstance(each, str | float) or (isinstance(each, int) and each in _INT64):
            custom[key] = each
        else:
            raise _wrong(key, "a string, boolean, number or 64-bit integer", each)
    return priority, timeout_us, is_binary, custom or NO_PARAMETERS


def _refuse_shared_memory(tensor: str, parameters: Mapping[str, Any]) -> None:
    if parameters and not parameters.keys().isdisjoint(_SHARED_MEMORY):
        raise Unsupported(f"{tensor}: this server does not serve shared memory")


def _refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{kind} '{name}': expected each {kind} once, got it twice")
        seen.add(name)


def _name(entry: Mapping[str, Any], kind: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidRequest(f"expected `name` of each {kind} to be a string, got {_named(name)}")
    return name


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"expected {what} to be a JSON object, got {_named(value)}")
    return value


def _array(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"expected {what} to be a JSON array, got {_named(value)}")
    return value


def _wrong(parameter: str, expected: str, got: object) -> InvalidRequest:
    return InvalidRequest(f"parameter '{parameter}': expected {expected}, got {_named(got)}")


def _named(value: object) -> str:
    """A wrong value in a message: as it is when it is short, else its kind."""
    if value is None:
        return "none"
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return str(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 64 else "a long string"
    if isinstance(value, int):
        return "a larger number"
    return "an array" if isinstance(value, list) else "an object"
