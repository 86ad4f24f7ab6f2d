"""Binary tensor data in requests: the raw blocks behind the JSON, and bodies that are one tensor.

Used by the codec (blocks) and by the service (a body without JSON, which needs the model's
configuration). Tensors are views of a large body and copies of a small one.
Source: Triton's binary tensor data extension.  Hot path.
"""

from collections.abc import Mapping
from math import prod
from typing import Final

import numpy as np

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.request import InferRequest
from stoker.tensor import DataType, Tensor, from_raw, shape_text, text_of

LENGTH_HEADER: Final = "inference-header-content-length"


def json_size(headers: Mapping[str, str]) -> int | None:
    """Bytes of JSON at the body's start as the header says; None without the header.

    Raises InvalidRequest for what is not a decimal number.
    """
    text = headers.get(LENGTH_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidRequest(f"expected {LENGTH_HEADER} to be a decimal number, got '{text[:64]}'")
    return int(text)


def cut(name: str, body: bytes | memoryview, at: int, size: int) -> bytes | memoryview:
    """The raw block of an input. Raises InvalidRequest where bytes are missing."""
    end = at + size
    if end > len(body):
        raise InvalidRequest(
            f"input '{name}': expected {size} bytes of binary data, got {max(len(body) - at, 0)}"
        )
    return body[at:end]


def decode_raw_body(
    model: str, version: str, body: bytes | memoryview, config: ModelConfig
) -> InferRequest:
    """A body that is the data of the model's only input, one row if the model batches.

    One dimension may be variable: the byte count decides it. A BYTES input has one element: the
    body, without its length. Raises InvalidRequest.
    """
    if len(config.inputs) != 1:
        raise InvalidRequest(
            f"expected a model with one input for a body without JSON, "
            f"got '{model}' with {len(config.inputs)}"
        )
    spec = config.client_spec(config.inputs[0])
    shape = ((1,) if config.batches else ()) + config.inputs[0].dims
    if spec.datatype is DataType.BYTES:
        shape = tuple(1 if size < 0 else size for size in shape)
        if prod(shape) != 1:
            raise InvalidRequest(
                f"input '{spec.name}' of '{model}': expected one BYTES element for a body without "
                f"JSON, got the shape {shape_text(shape)}"
            )
        element = np.empty(shape, object)
        element.reshape(-1)[0] = text_of(bytes(body), 0, tensor=spec.name)
        return InferRequest.of(
            model, version, inputs=(Tensor(spec.name, spec.datatype, shape, element),)
        )
    known = prod(size for size in shape if size >= 0) * spec.datatype.size
    variable = sum(size < 0 for size in shape)
    if variable > 1 or (variable and (known == 0 or len(body) % known)):
        raise InvalidRequest(
            f"input '{spec.name}' of '{model}': expected a body without JSON that fills "
            f"{spec.datatype.wire} {shape_text(shape)} with at most one variable dimension, "
            f"got {len(body)} bytes"
        )
    shape = tuple(len(body) // known if size < 0 else size for size in shape)
    return InferRequest.of(
        model, version, inputs=(from_raw(spec.name, spec.datatype, shape, body),)
    )
