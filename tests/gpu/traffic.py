"""Many clients at once against a whole server, each answer held against ONNX Runtime on the CPU."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
from stoker.tensor import Array, DataType

from tests.conftest import Endpoints
from tests.gpu import checks, networks
from tests.models import write_model
from tests.triton_client import Given, TritonClient


def largest_difference(
    at: Endpoints,
    name: str,
    model: onnx.ModelProto,
    item: Sequence[int],
    folder: Path,
    *,
    clients: int = 8,
    requests: int = 64,
    max_rows: int = 8,
) -> float:
    """Sends `requests` of 1 to `max_rows` rows, each with values of its own, from `clients` threads
    over REST and gRPC; gives the largest difference of an answer, as a share of its values.

    `model` is FP32 x [batch, *item] -> y, served as `name`; `folder` holds its file for the CPU.
    """
    exact = checks.open_session(write_model(folder / f"{name}.onnx", model), "cpu")

    def ask(number: int) -> float:
        rows = 1 + number % max_rows
        x: Array = networks.random((rows, *item), number)
        client = TritonClient(("http", "grpc")[number // max_rows % 2], at)
        answer = client.infer(name, {"x": Given(x, DataType.FP32)})
        return checks.distance(answer.outputs["y"], exact.run(None, {"x": x})[0])

    with ThreadPoolExecutor(clients) as pool:
        return max(pool.map(ask, range(requests)))
