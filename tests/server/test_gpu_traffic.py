"""The traffic of the checks on hardware finds right answers right, and wrong ones wrong."""

from pathlib import Path

import pytest

from tests.conftest import Endpoints, Serving
from tests.gpu import networks
from tests.gpu.traffic import largest_difference
from tests.models import ModelEntry, write_repository

pytestmark = pytest.mark.slow  # a client is opened for each of 64 requests


@pytest.fixture
def at(serve: Serving, tmp_path: Path) -> Endpoints:
    config = "max_batch_size: 8 dynamic_batching { }"
    model = ModelEntry(networks.launches(depth=4), config)
    return serve(write_repository(tmp_path / "models", {"m": model})).at


def test_answers_of_a_server_on_the_cpu_are_those_of_onnx_runtime(
    at: Endpoints, tmp_path: Path
) -> None:
    apart = largest_difference(at, "m", networks.launches(depth=4), (64,), tmp_path)

    assert apart <= 1e-5
    assert at.metric("nv_inference_request_success", model="m") == 64


def test_answers_of_another_model_are_found_out(at: Endpoints, tmp_path: Path) -> None:
    apart = largest_difference(at, "m", networks.launches(depth=5), (64,), tmp_path, requests=8)

    assert apart > 0.01
