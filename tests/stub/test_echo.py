"""Values go to a GPU's session and come back unchanged, on the real CUDA provider.

Its copies are real here, device memory being host memory; a model that only copies needs no kernel.
"""

from typing import Any

import pytest
from stoker.runtime.onnx_session import COPIED_BYTES
from stoker.runtime.providers import CUDA_PROVIDER
from stoker.tensor import DataType

from tests.stub.libraries import ONE_GPU, Libraries, ask

NUMBERS = [each for each in DataType if each is not DataType.BYTES]


@pytest.fixture(scope="module")
def answers(libraries: Libraries) -> dict[tuple[str, int], dict[str, Any]]:
    """For each datatype and number of rows."""
    cases = [(each.name, rows) for each in NUMBERS for rows in (0, 1, 3)]
    cases += [(each.name, COPIED_BYTES // 4) for each in (DataType.FP32, DataType.BF16)]
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    requests = [{"datatype": name, "rows": rows} for name, rows in cases]
    return dict(zip(cases, ask("echo_probe", requests, environment), strict=True))


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda each: each.wire)
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_every_datatype_goes_through_a_gpu_unchanged(
    answers: dict[tuple[str, int], dict[str, Any]], datatype: DataType, rows: int
) -> None:
    assert answers[datatype.name, rows] == {
        "device": "cuda:0",
        "nodes": {CUDA_PROVIDER: 1},
        "equal": True,
        "written": True,
        "datatype": True,
    }


@pytest.mark.parametrize("name", ["FP32", "BF16"])
def test_large_outputs_are_bound_and_unchanged(
    answers: dict[tuple[str, int], dict[str, Any]], name: str
) -> None:
    answer = answers[name, COPIED_BYTES // 4]
    assert answer["equal"]
    assert answer["written"]
