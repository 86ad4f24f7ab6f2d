"""A hundred megabytes in one gRPC message, both ways, by the clients that people have."""

import asyncio
from typing import Final

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array

from tests import models
from tests.conftest import Endpoints, Serving

ROWS, WIDTH = 100, 250_000
"""FP32: 100 MB."""

NO_LIMIT: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
SLOW_S: Final = 60.0


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    entry = models.ModelEntry(models.identity(shape=("batch", WIDTH)), f"max_batch_size: {ROWS}")
    folder = tmp_path_factory.mktemp("repository")
    return serve_module(models.write_repository(folder, {"m": entry})).at


@pytest.fixture(scope="module")
def given() -> Array:
    return np.random.default_rng(5).random((ROWS, WIDTH), np.float32)


def message(given: Array) -> bytes:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[given.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=list(given.shape))
    return request.SerializeToString()


def assert_comes_back(answer: bytes, given: Array) -> None:
    response = pb.ModelInferResponse.FromString(answer)
    assert list(response.outputs[0].shape) == list(given.shape)
    assert response.raw_output_contents[0] == given.tobytes()


def test_by_grpcio(at: Endpoints, given: Array) -> None:
    with grpc.insecure_channel(at.grpc, options=NO_LIMIT) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        assert_comes_back(infer(message(given), timeout=SLOW_S), given)


def test_by_grpcio_with_compression(at: Endpoints, given: Array) -> None:
    zeros = np.zeros_like(given)
    with grpc.insecure_channel(at.grpc, NO_LIMIT, grpc.Compression.Gzip) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        assert_comes_back(infer(message(zeros), timeout=SLOW_S), zeros)


def test_by_grpcio_on_asyncio_beside_small_calls(at: Endpoints, given: Array) -> None:
    small = given[:1]

    async def call() -> None:
        async with grpc.aio.insecure_channel(at.grpc, options=NO_LIMIT) as channel:
            infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
            large = asyncio.ensure_future(infer(message(given), timeout=SLOW_S))
            for _ in range(20):
                assert_comes_back(await infer(message(small), timeout=SLOW_S), small)
            assert_comes_back(await large, given)

    asyncio.run(call())


def test_by_tritonclient(at: Endpoints, given: Array) -> None:
    with triton_grpc.InferenceServerClient(at.grpc) as client:
        x = triton_grpc.InferInput("x", list(given.shape), "FP32")
        x.set_data_from_numpy(given)
        result = client.infer("m", [x], client_timeout=SLOW_S)
        assert result.as_numpy("y").tobytes() == given.tobytes()
