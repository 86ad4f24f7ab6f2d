"""The four stock Triton clients behind one call: a test says once what each of them must get.

`CLIENTS` names them, HTTP and gRPC, synchronous and asyncio. A `TritonClient` opens the client
anew for each call, as short programs do; nothing of tritonclient is changed or patched.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
import tritonclient.grpc.aio as triton_grpc_aio  # type: ignore[import-untyped]  # ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # ships no types
import tritonclient.http.aio as triton_http_aio  # type: ignore[import-untyped]  # ships no types
from stoker.tensor import Array, DataType
from tritonclient.utils import (  # type: ignore[import-untyped]  # ships no types
    InferenceServerException,
)

from tests.conftest import Endpoints

CLIENTS: Final = ("http", "http-aio", "grpc", "grpc-aio")
PROTOCOLS: Final = ("http", "grpc")

Refused = InferenceServerException
"""What a client raises for every answer that is an error."""

_PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Given:
    """One input as a program gives it."""

    array: Array
    datatype: DataType
    is_binary: bool = True
    """As the binary extension of REST; gRPC knows no other way."""


@dataclass(frozen=True)
class Answer:
    """What the client understood of an answer."""

    model: str
    version: str
    id: str
    """Empty when the answer has none."""
    outputs: Mapping[str, Array]
    """In the order of the answer."""
    datatypes: Mapping[str, str]


class TritonClient:
    """One of CLIENTS, pointed at a server."""

    def __init__(self, kind: str, at: Endpoints) -> None:
        self.is_http = kind.startswith("http")
        self._is_async = kind.endswith("-aio")
        self._address = at.http if self.is_http else at.grpc
        self._module = {
            "http": triton_http,
            "http-aio": triton_http_aio,
            "grpc": triton_grpc,
            "grpc-aio": triton_grpc_aio,
        }[kind]

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """`client.method(...)`; of gRPC's answers the message as JSON where there is one."""
        if method.startswith("get_") and not self.is_http:
            options["as_json"] = True
        client = self._module.InferenceServerClient
        if self._is_async:

            async def ask() -> Any:
                async with client(self._address) as opened:
                    return await getattr(opened, method)(*arguments, **options)

            return asyncio.run(asyncio.wait_for(ask(), _PATIENCE_S))
        with client(self._address) as opened:
            return getattr(opened, method)(*arguments, **options)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Given],
        outputs: Sequence[str] | None = None,
        *,
        binary_outputs: bool = True,
        **options: Any,
    ) -> Answer:
        """One inference; `options` are those of tritonclient's `infer`."""
        if outputs is not None:
            how = {"binary_data": binary_outputs} if self.is_http else {}
            wanted = self._module.InferRequestedOutput
            options["outputs"] = [wanted(each, **how) for each in outputs]
        given = [self._input(name, each) for name, each in inputs.items()]
        result = self.call("infer", model, given, **options)
        answer = result.get_response() if self.is_http else result.get_response(as_json=True)
        tensors = answer["outputs"]
        return Answer(
            answer["model_name"],
            answer["model_version"],
            answer.get("id", ""),
            {each["name"]: result.as_numpy(each["name"]) for each in tensors},
            {each["name"]: each["datatype"] for each in tensors},
        )

    def _input(self, name: str, given: Given) -> Any:
        how = {"binary_data": given.is_binary} if self.is_http else {}
        tensor = self._module.InferInput(name, list(given.array.shape), given.datatype.wire)
        return tensor.set_data_from_numpy(given.array, **how)


def samples(datatype: DataType, count: int = 8) -> Array:
    """`count` values of a datatype, its extremes among them, as tritonclient wants them."""
    if datatype is DataType.BYTES:
        texts = [b"", "é".encode(), b"a\0b", b"plain", "漢字🎉".encode(), b" ", b"x" * 300, b"0"]
        return np.array([texts[index % len(texts)] for index in range(count)], object)
    if datatype is DataType.BOOL:
        return np.array([index % 3 == 0 for index in range(count)], np.bool_)
    if datatype is DataType.BF16:
        numbers = [0.0, -0.0, 1.0, -2.5, 3.0e38, -1e-38, np.inf, 0.15625]
        return np.resize(np.array(numbers, ml_dtypes.bfloat16), count)
    if datatype.numpy.kind == "f":
        limits = np.finfo(datatype.numpy)
        floats = [0.0, -0.0, 1.5, limits.max, limits.min, limits.tiny, -1 / 3, np.pi]
        return np.resize(np.array(floats, datatype.numpy), count)
    bounds = np.iinfo(datatype.numpy)
    integers = [bounds.min, bounds.max, 0, 1, bounds.max - 1, bounds.min + 1, 100, 7]
    return np.resize(np.array(integers, datatype.numpy), count)


def same_bits(got: Array | None, expected: Array) -> bool:
    """Whether two arrays are equal to the last bit, shapes too; -0.0 is not 0.0."""
    if got is None or got.shape != expected.shape:
        return False
    if expected.dtype.hasobject:
        return bool(got.tolist() == expected.tolist())
    return got.dtype == expected.dtype and got.tobytes() == expected.tobytes()
