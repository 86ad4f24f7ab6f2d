"""Requests that fit any model: inputs as its metadata describe them, for each protocol.

Not a benchmark itself. `locustfile` reads metadata over the protocol that it loads and builds each
request once.
"""

import json
from dataclasses import dataclass

import numpy as np
from stoker.protocol.inference_pb2 import ModelInferRequest
from stoker.tensor import BY_WIRE, DataType, encode_bytes, from_raw
from stoker.transport.rest.json_data import has_json, to_json


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor, ready to send: `raw` is the protocol's raw layout."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def fitting(name: str, datatype: str, shape: list[int], *, rows: int, size: int) -> Input:
    """Values for an input; `rows` for a variable first dimension, `size` for others."""
    sizes = tuple(
        each if each >= 0 else (size if axis else rows) for axis, each in enumerate(shape)
    )
    return Input(name, datatype, sizes, values(BY_WIRE[datatype], sizes))


def values(datatype: DataType, shape: tuple[int, ...]) -> bytes:
    """Numbers in 0 to 1: valid as pixels, as token numbers, as indices and as masks."""
    noise = np.random.default_rng(0).random(shape, np.float32)
    if datatype is DataType.BYTES:
        return encode_bytes(np.full(shape, "stoker", object))
    if datatype is DataType.BF16:  # the upper half of an FP32
        return (noise.view("<u4") >> 16).astype("<u2").tobytes()
    if datatype in (DataType.FP16, DataType.FP32, DataType.FP64):
        return noise.astype(datatype.numpy).tobytes()
    return (noise < 0.5).astype(datatype.numpy).tobytes()


def binary_body(inputs: list[Input]) -> tuple[bytes, int]:
    """A REST body with binary tensors that asks for binary outputs, and its JSON length."""
    head = {
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": each.shape,
                "parameters": {"binary_data_size": len(each.raw)},
            }
            for each in inputs
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    return b"".join([text, *(each.raw for each in inputs)]), len(text)


def without_json(inputs: list[Input]) -> str | None:
    """The first datatype that the protocol has no JSON for; None if all have one."""
    for each in inputs:
        if not has_json(BY_WIRE[each.datatype]):
            return each.datatype
    return None


def json_body(inputs: list[Input]) -> bytes:
    """A REST body with its values in JSON."""
    entries = []
    for each in inputs:
        tensor = from_raw(each.name, BY_WIRE[each.datatype], each.shape, each.raw)
        head = json.dumps({"name": each.name, "datatype": each.datatype, "shape": each.shape})
        entries.append(head[:-1].encode() + b',"data":' + to_json(tensor) + b"}")
    return b'{"inputs":[' + b",".join(entries) + b"]}"


def grpc_message(model: str, inputs: list[Input]) -> bytes:
    """A serialised ModelInferRequest with raw contents."""
    return ModelInferRequest(
        model_name=model,
        inputs=[
            ModelInferRequest.InferInputTensor(
                name=each.name, datatype=each.datatype, shape=each.shape
            )
            for each in inputs
        ],
        raw_input_contents=[each.raw for each in inputs],
    ).SerializeToString()


def weights(text: str) -> dict[str, int]:
    """`digits=3,simple` as {"digits": 3, "simple": 1}. Raises ValueError for other texts."""
    found: dict[str, int] = {}
    for entry in text.split(","):
        name, has_weight, weight = entry.strip().rpartition("=")
        if not has_weight:
            name, weight = weight, "1"
        if not name or not weight.isdecimal():
            raise ValueError(f"expected NAME or NAME=WEIGHT, by commas, got {entry!r}")
        found[name] = int(weight)
    return found
