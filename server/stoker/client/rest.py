"""Calls a server by REST, with tensors in the binary extension.

`encode_request` and `decode_response` are functions of bytes; the class moves the bytes.
Source: Open Inference Protocol v2, "HTTP/REST", and Triton's "Binary tensor data" extension.
"""

import http.client
import json
from typing import Final
from urllib.parse import quote

import numpy as np

from stoker.address import joined
from stoker.client.connection import ClientError
from stoker.errors import ServingError
from stoker.model import ModelMetadata
from stoker.request import InferRequest, InferResponse
from stoker.tensor import Array, DataType, Tensor, TensorSpec, datatype_of, from_raw, to_raw
from stoker.units import format_duration

JSON_LENGTH_HEADER: Final = "Inference-Header-Content-Length"


class RestConnection:
    """One HTTP/1.1 connection, opened by the first call."""

    def __init__(
        self, host: str, port: int, *, path: str, is_secure: bool, timeout_s: float
    ) -> None:
        kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=timeout_s)
        self._address = joined(host, port)
        self._path = path
        self._timeout_s = timeout_s

    def metadata(self, model: str, version: str) -> ModelMetadata:
        body, _ = self._call("GET", _model_path(model, version), b"", {})
        return decode_metadata(body)

    def infer(self, request: InferRequest) -> InferResponse:
        body, json_length = encode_request(request)
        headers = {
            "Content-Type": "application/octet-stream",
            JSON_LENGTH_HEADER: str(json_length),
        }
        path = _model_path(request.kind.model, request.kind.version) + "/infer"
        answer, length_text = self._call("POST", path, body, headers)
        return decode_response(answer, length_text)

    def close(self) -> None:
        self._connection.close()

    def _call(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[bytes, str | None]:
        """The answer's body and the length of its JSON part."""
        try:
            self._connection.request(method, self._path + path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except TimeoutError as error:
            waited = format_duration(self._timeout_s)
            raise ClientError(f"no answer from {self._address} within {waited}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ClientError(f"cannot reach {self._address} by HTTP: {reason}") from error
        if response.status != 200:
            raise ClientError(f"{_error_text(answer)} (HTTP {response.status})")
        return answer, response.getheader(JSON_LENGTH_HEADER)


def encode_request(request: InferRequest) -> tuple[bytes, int]:
    """The body with every tensor in binary form, and the length of its JSON part."""
    raws = [bytes(to_raw(tensor)) for tensor in request.inputs]
    head: dict[str, object] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype.wire,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(raw)},
            }
            for tensor, raw in zip(request.inputs, raws, strict=True)
        ],
        "parameters": {"binary_data_output": True},
    }
    if request.kind.requested_outputs:
        head["outputs"] = [
            {"name": name, "parameters": {"binary_data": True}}
            for name in request.kind.requested_outputs
        ]
    text = json.dumps(head).encode()
    return b"".join((text, *raws)), len(text)


def decode_response(body: bytes, json_length: str | None) -> InferResponse:
    """The answer in `body`, whose first `json_length` bytes are JSON (None: all of it).

    Raises ClientError for anything that is no answer of the protocol.
    """
    try:
        at = len(body) if json_length is None else int(json_length)
        head = json.loads(body[:at])
        outputs = []
        for each in head["outputs"]:
            name = str(each["name"])
            datatype = datatype_of(str(each["datatype"]), tensor=name)
            shape = tuple(map(int, each["shape"]))
            size = each.get("parameters", {}).get("binary_data_size")
            if size is None:
                outputs.append(Tensor(name, datatype, shape, _array(each["data"], datatype, shape)))
            else:
                outputs.append(from_raw(name, datatype, shape, body[at : at + int(size)]))
                at += int(size)
        return InferResponse.of(
            str(head["model_name"]), str(head.get("model_version", "")), "", tuple(outputs)
        )
    except (KeyError, TypeError, ValueError, AttributeError, ServingError) as error:
        raise ClientError(f"the server's answer is malformed: {error!r}") from error


def decode_metadata(body: bytes) -> ModelMetadata:
    """The model's metadata. Raises ClientError for anything else."""
    try:
        head = json.loads(body)
        inputs, outputs = (
            tuple(
                TensorSpec(
                    str(each["name"]),
                    datatype_of(str(each["datatype"]), tensor=str(each["name"])),
                    tuple(map(int, each["shape"])),
                )
                for each in head[side]
            )
            for side in ("inputs", "outputs")
        )
        versions = tuple(map(str, head.get("versions", ())))
        return ModelMetadata(
            str(head["name"]), versions, str(head.get("platform", "")), inputs, outputs
        )
    except (KeyError, TypeError, ValueError, AttributeError, ServingError) as error:
        raise ClientError(f"the server's model metadata is malformed: {error!r}") from error


def _array(data: list[object], datatype: DataType, shape: tuple[int, ...]) -> Array:
    return np.array(data, datatype.numpy).reshape(shape)


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (KeyError, TypeError, ValueError):
        return body[:200].decode(errors="replace").strip() or "the server sent no reason"
