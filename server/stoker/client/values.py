"""From what a person writes to a tensor that fits the model: `x=1,2,3`, `x=@a.npy`, `@cat.png`.

The model's metadata say what fits. A missing batch dimension is added, a flat list takes the
input's shape, and numbers change their type only where no value changes its meaning.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from stoker.client.connection import ClientError
from stoker.client.images import read_image
from stoker.tensor import Array, DataType, Tensor, TensorSpec, shape_text

_LARGEST_EXACT_INTEGER: Final = 2**53
"""Above it, a double may stand for another integer than the one that was written."""
_UNREAD: Final = object()


def build_inputs(
    arguments: Sequence[str], specs: Sequence[TensorSpec], *, stdin: TextIO, scale: float
) -> tuple[Tensor, ...]:
    """Tensors of the `--input` arguments for a model with these inputs.

    `scale` multiplies the pixels of images. Raises ClientError for an argument that names no
    input, cannot be read, or does not fit. An input that is not given is the server's to judge.
    """
    by_name = {spec.name: spec for spec in specs}
    tensors: dict[str, Tensor] = {}
    for argument in arguments:
        name, text = _split(argument)
        given: dict[str, object]
        if name:
            given = {name: _UNREAD}
        elif text.startswith("@") and (text == "@-" or text.lower().endswith(".json")):
            parsed = _read_json(text, stdin)
            if isinstance(parsed, dict):
                given = _of_body(parsed) if "inputs" not in by_name else parsed
            else:
                given = {_only(specs): parsed}
        else:
            given = {_only(specs): _UNREAD}
        for key, parsed in given.items():
            if key not in by_name:
                raise ClientError(f"unknown input '{key}'; the model takes {_listed(specs)}")
            if key in tensors:
                raise ClientError(f"input '{key}' is given twice")
            spec = by_name[key]
            is_read = parsed is not _UNREAD
            array = _array(spec, parsed) if is_read else _values(spec, text, stdin, scale)
            tensors[key] = to_tensor(spec, array)
    return tuple(tensors.values())


def to_tensor(spec: TensorSpec, array: Array) -> Tensor:
    """`array` in the input's datatype and a shape that fits. Raises ClientError where none does."""
    fitted = _convert(spec, _fit(spec, array))
    return Tensor(spec.name, spec.datatype, fitted.shape, fitted)


def _of_body(parsed: dict[str, object]) -> dict[str, object]:
    """The inputs by name of a REST request's body; of any other object, itself."""
    listed = parsed.get("inputs")
    if not isinstance(listed, list):
        return parsed
    given: dict[str, object] = {}
    for each in listed:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise ClientError("expected inputs with name, shape and data in the request's body")
        data, shape = each.get("data"), each.get("shape")
        if data is None:
            raise ClientError(f"input '{each['name']}': expected data as JSON, got none")
        try:
            given[each["name"]] = np.array(data).reshape(shape).tolist()
        except (TypeError, ValueError, OverflowError) as error:
            raise ClientError(
                f"input '{each['name']}': expected data that fills its shape, {error}"
            ) from error
    return given


def _split(argument: str) -> tuple[str, str]:
    """Name and value of an argument; no name where it begins with the value."""
    name, equals, text = argument.partition("=")
    if not equals or argument.startswith("@"):
        return "", argument
    return name, text


def _only(specs: Sequence[TensorSpec]) -> str:
    if len(specs) != 1:
        raise ClientError(f"expected --input NAME=..., the model takes {_listed(specs)}")
    return specs[0].name


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs)) or "no inputs"


def _values(spec: TensorSpec, text: str, stdin: TextIO, scale: float) -> Array:
    if not text.startswith("@"):
        return _literal(spec, text)
    path = text[1:]
    if path == "-" or path.lower().endswith(".json"):
        return _array(spec, _read_json(text, stdin))
    if path.lower().endswith(".npy"):
        try:
            # Object arrays are pickles, and a pickle runs code: never.
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ClientError(f"input '{spec.name}': cannot read {path}: {error}") from error
        return np.asarray(loaded)
    if spec.datatype is DataType.BYTES:
        try:
            return _texts(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ClientError(f"input '{spec.name}': cannot read {path}: {error}") from error
    return read_image(path, spec, scale=scale)


def _read_json(text: str, stdin: TextIO) -> object:
    try:
        source = stdin.read() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8")
        parsed: object = json.loads(source)
    except (OSError, ValueError) as error:
        where = "standard input" if text == "@-" else text[1:]
        raise ClientError(f"cannot read JSON from {where}: {error}") from error
    return parsed


def _literal(spec: TensorSpec, text: str) -> Array:
    """A value of the command line: JSON, or numbers with commas between, or text."""
    if spec.datatype is DataType.BYTES and not text.startswith(("[", '"')):
        return _texts(text)
    try:
        return _array(spec, json.loads(text))
    except ValueError:
        pass
    if spec.datatype is DataType.BYTES:
        return _texts(text)
    try:
        return _array(spec, json.loads(f"[{text}]"))
    except ValueError as error:
        raise ClientError(
            f"input '{spec.name}': expected JSON, numbers separated by commas, or @FILE, "
            f"got {text[:40]!r}"
        ) from error


def _array(spec: TensorSpec, parsed: object) -> Array:
    """A nested JSON list as an array."""
    if isinstance(parsed, dict) or parsed is None:
        raise ClientError(
            f"input '{spec.name}': expected a value or lists of values, "
            f"got {json.dumps(parsed)[:40]}"
        )
    try:
        array = np.array(parsed)
    except (ValueError, OverflowError) as error:
        raise ClientError(
            f"input '{spec.name}': expected lists of equal lengths, got ragged ones"
        ) from error
    if array.size == 0 and array.dtype.kind == "f":
        # An empty list has no type of its own.
        return np.zeros(array.shape, object if spec.datatype is DataType.BYTES else np.int8)
    return array


def _texts(text: str) -> Array:
    return np.array(text)


def _fit(spec: TensorSpec, array: Array) -> Array:
    """The array in a shape that the input takes."""
    if _fits(array.shape, spec.shape):
        return array
    if _fits((1, *array.shape), spec.shape):
        return array.reshape(1, *array.shape)
    if array.ndim <= 1:
        shape = _shape_for(array.size, spec.shape)
        if shape is not None:
            return array.reshape(shape)
    raise ClientError(
        f"input '{spec.name}': expected {spec.datatype.wire} {shape_text(spec.shape)}, "
        f"got {_kind(array)} {shape_text(array.shape)}"
    )


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (-1, size) for size, want in zip(shape, wanted, strict=True)
    )


def _shape_for(count: int, wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The one shape of `count` elements that `wanted` leaves open, None for none or several."""
    fixed = math.prod(size for size in wanted if size != -1)
    variable = sum(size == -1 for size in wanted)
    if variable == 0:
        return tuple(wanted) if count == fixed else None
    if variable > 1 or not fixed or count % fixed:
        return None
    return tuple(count // fixed if size == -1 else size for size in wanted)


def _convert(spec: TensorSpec, array: Array) -> Array:
    """The array in the input's datatype, every value kept."""
    datatype, kind = spec.datatype, array.dtype.kind
    if datatype is DataType.BYTES:
        if kind in "US" or (array.size == 0 and kind == "O"):
            return _to_text(spec, array)
    elif datatype is DataType.BOOL:
        if kind == "b" or (kind in "iu" and bool(np.isin(array, (0, 1)).all())):
            return array.astype(np.bool_)
    elif datatype in (DataType.FP16, DataType.FP32, DataType.FP64, DataType.BF16):
        if kind in "iuf":
            return _to_float(spec, array)
    elif kind in "iuf":
        return _to_integer(spec, array)
    elif kind == "O":
        raise ClientError(
            f"input '{spec.name}': expected {datatype.wire}, got integers that need more bits"
        )
    raise ClientError(f"input '{spec.name}': expected {datatype.wire}, got {_kind(array)}")


def _kind(array: Array) -> str:
    return "text" if array.dtype.kind in "US" else array.dtype.name


def _to_text(spec: TensorSpec, array: Array) -> Array:
    texts = np.empty(array.size, object)
    for index, each in enumerate(array.ravel().tolist()):
        try:
            texts[index] = each.decode() if isinstance(each, bytes) else each
        except UnicodeDecodeError as error:
            raise ClientError(
                f"input '{spec.name}': expected UTF-8 text, element {index} is not"
            ) from error
    return texts.reshape(array.shape)


def _to_integer(spec: TensorSpec, array: Array) -> Array:
    limits = np.iinfo(spec.datatype.numpy)
    if array.dtype.kind == "f":
        exact = (np.abs(array) <= _LARGEST_EXACT_INTEGER) & (np.trunc(array) == array)
        if not exact.all():
            value = array[~exact].flat[0]
            raise ClientError(
                f"input '{spec.name}': expected {spec.datatype.wire}, got {value:g}, which is "
                "not a whole number"
            )
    if array.size:
        least, most = int(array.min()), int(array.max())
        if least < limits.min or most > limits.max:
            raise ClientError(
                f"input '{spec.name}': expected {spec.datatype.wire} from {limits.min} to "
                f"{limits.max}, got {least if least < limits.min else most}"
            )
    return array.astype(spec.datatype.numpy)


def _to_float(spec: TensorSpec, array: Array) -> Array:
    is_bf16 = spec.datatype is DataType.BF16
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32 if is_bf16 else spec.datatype.numpy)
    overflown = np.isinf(converted) & np.isfinite(array)
    if overflown.any():
        value = array[overflown].flat[0]
        raise ClientError(
            f"input '{spec.name}': {value:g} is beyond what {spec.datatype.wire} holds"
        )
    return to_bf16(converted) if is_bf16 else converted


def to_bf16(array: Array) -> Array:
    """The upper halves of FP32 numbers, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).reshape(array.shape)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)
