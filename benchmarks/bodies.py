"""Requests and answers as bytes, for servers and references alike.

Not a benchmark itself. Load tools send the same bytes again and again; they are built here once,
from arrays by tensor name.
"""

import json

from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array

INFER = "/inference.GRPCInferenceService/ModelInfer"
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
_WIRE = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}


def _described(arrays: dict[str, Array]) -> list[dict[str, object]]:
    return [
        {"name": name, "shape": list(array.shape), "datatype": _WIRE[str(array.dtype)]}
        for name, array in arrays.items()
    ]


def _binary(key: str, head: dict[str, object], arrays: dict[str, Array]) -> tuple[bytes, int]:
    tensors = _described(arrays)
    for each, array in zip(tensors, arrays.values(), strict=True):
        each["parameters"] = {"binary_data_size": array.nbytes}
    text = json.dumps({key: tensors, **head}, separators=(",", ":")).encode()
    return text + b"".join(array.tobytes() for array in arrays.values()), len(text)


def _json(key: str, head: dict[str, object], arrays: dict[str, Array]) -> bytes:
    tensors = _described(arrays)
    for each, array in zip(tensors, arrays.values(), strict=True):
        each["data"] = array.ravel().tolist()
    return json.dumps({**head, key: tensors}, separators=(",", ":")).encode()


def rest_request(**inputs: Array) -> tuple[bytes, int]:
    """A REST body in the binary extension that asks for binary outputs, and its JSON length."""
    return _binary("inputs", {"parameters": {"binary_data_output": True}}, inputs)


def binary_headers(json_length: int) -> dict[str, str]:
    """The header of a REST request with binary tensors."""
    return {"Inference-Header-Content-Length": str(json_length)}


def json_request(**inputs: Array) -> bytes:
    """A REST body with its numbers as JSON."""
    return _json("inputs", {}, inputs)


def binary_answer(model: str, **outputs: Array) -> bytes:
    """A REST answer with binary tensors, as the reference gives it."""
    return _binary("outputs", {"model_name": model, "model_version": "1"}, outputs)[0]


def json_answer(model: str, **outputs: Array) -> bytes:
    """A REST answer with its numbers as JSON, as the reference gives it."""
    return _json("outputs", {"model_name": model, "model_version": "1"}, outputs)


def grpc_request(model: str, **inputs: Array) -> bytes:
    """A serialised ModelInferRequest with raw contents."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_WIRE[str(array.dtype)], shape=list(array.shape))
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def grpc_answer(model: str, **outputs: Array) -> bytes:
    """A serialised ModelInferResponse, as the reference answers it."""
    answer = pb.ModelInferResponse(model_name=model, model_version="1")
    for name, array in outputs.items():
        answer.outputs.add(name=name, datatype=_WIRE[str(array.dtype)], shape=list(array.shape))
        answer.raw_output_contents.append(array.tobytes())
    return answer.SerializeToString()


def framed(message: bytes) -> bytes:
    """A gRPC message with its length before it, as it stands in the body of a call."""
    return b"\0" + len(message).to_bytes(4, "big") + message
