"""The JSON part of an inference call as a value: its envelope, and what is refused in it.

Stands inside of the codec: what the parsers made of the text goes in, and what the call says comes
out, its inputs' data untouched. What needs the model's configuration is the engine's business:
names, datatypes and shapes are only well-formed here.
Source: Open Inference Protocol v2, "Inference", with Triton's binary tensor data, schedule policy
and parameters extensions.  Hot path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from stoker.errors import InvalidRequest, Unsupported
from stoker.request import (
    NO_PARAMETERS,
    InferRequest,
    Parameters,
    RequestKind,
    TensorHead,
    kind_of,
)
from stoker.tensor import DataType, datatype_of

_MAX_RANK: Final = 32
"""Dimensions of a shape: more than any model, fewer than the 64 that numpy has."""
_MAX_DIMENSION: Final = (1 << 31) - 1
_MAX_SEQUENCE_ID: Final = 128
_INT64: Final = range(-(1 << 63), 1 << 63)

_SHARED_MEMORY: Final = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)

_REMEMBERED_MODELS: Final = 64
"""Models that one envelope is sent to, whether they exist or not."""
_REMEMBERED_NAME: Final = 256
"""Characters of their names: a path may have 8 KiB, and 1,280 envelopes are kept at most."""


@dataclass(frozen=True, slots=True)
class OutputForms:
    """Which outputs are answered as binary data, and which as JSON."""

    listed: Mapping[str, bool]
    """The outputs that the request names. Not empty: only these are answered."""
    is_binary_by_default: bool
    """Of requests that name none."""
    all_binary: bool
    all_json: bool = False

    def is_binary(self, output: str) -> bool:
        """Whether this output goes out as binary data."""
        return self.listed.get(output, self.is_binary_by_default)


ALL_BINARY: Final = OutputForms(MappingProxyType({}), is_binary_by_default=True, all_binary=True)
ALL_JSON: Final = OutputForms(
    MappingProxyType({}), is_binary_by_default=False, all_binary=False, all_json=True
)

Decoded: TypeAlias = tuple[InferRequest, OutputForms]
"""An inference call. (A tuple: a frozen class costs 0.7 us more, and it is taken apart at once.)"""


@dataclass(slots=True)
class Input:
    """One entry of `inputs`."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    binary_size: int
    """-1: the data stands in the JSON."""
    data: object
    """As `json_data.load` gives it, or the tensor that was made of it."""


@dataclass(slots=True)
class Envelope:
    """Everything that the JSON part says. Nobody changes it but for `kinds`.

    Like `Input` it is not frozen: both are built for each request whose text is new.
    """

    id: str
    inputs: tuple[Input, ...]
    requested_outputs: tuple[str, ...]
    forms: OutputForms
    priority: int
    timeout_us: int
    parameters: Parameters
    sizes: tuple[int, ...] | None = None
    """Bytes of the inputs, which are all binary, of fixed size, as their shapes say, and need no
    decoding; None where one is not."""
    total: int = 0
    """Their sum."""
    kinds: dict[tuple[str, str], RequestKind] = field(default_factory=dict)
    """By model and version: what such requests have in common."""

    def kind(self, model: str, version: str) -> RequestKind:
        """What requests of this envelope to this model have in common."""
        kind = self.kinds.get((model, version))
        if kind is None:
            heads = tuple(
                [TensorHead(each.name, each.datatype, each.shape) for each in self.inputs]
            )
            kind = kind_of(
                model,
                version,
                heads,
                self.requested_outputs,
                self.priority,
                self.timeout_us,
            )
            if len(self.kinds) < _REMEMBERED_MODELS and len(model) <= _REMEMBERED_NAME:
                self.kinds[model, version] = kind
        return kind


def envelope_of(value: object) -> Envelope:
    """What the JSON value says. Raises InvalidRequest and Unsupported."""
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
    return Envelope(
        envelope_id,
        inputs,
        tuple(listed),
        _forms(listed, by_default),
        priority,
        timeout_us,
        parameters,
    )


def _forms(listed: dict[str, bool], by_default: bool) -> OutputForms:
    if not listed:
        return ALL_BINARY if by_default else ALL_JSON
    return OutputForms(
        listed,
        by_default,
        all_binary=all(listed.values()),
        all_json=not any(listed.values()),
    )


def _input(value: object) -> Input:
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
        return Input(name, datatype, shape, -1, entry["data"])
    if type(size) is not int or size < 0:
        raise InvalidRequest(
            f"input '{name}': expected `binary_data_size` to be an integer of 0 or more, "
            f"got {_named(size)}"
        )
    if "data" in entry:
        raise InvalidRequest(
            f"input '{name}': expected `data` or the parameter `binary_data_size`, got both"
        )
    return Input(name, datatype, shape, size, None)


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
