"""The series of a server with 100 models stay within the budget that docs/metrics.md states."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from stoker.tensor import DataType

from tests.conftest import Serving
from tests.models import double, write_repository
from tests.triton_client import Given, TritonClient

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
MODELS: Final = 100


def budget(what: str) -> int:
    """A number of the document: of a loaded model, a used one, the server."""
    text = " ".join(DOCUMENT.read_text().split())
    found = re.search(rf"{what} (?:has )?at most (\d+)", text)
    assert found is not None, what
    return int(found[1])


def series(scraped: str) -> list[str]:
    return [line for line in scraped.splitlines() if not line.startswith("#")]


@pytest.mark.slow
def test_a_hundred_models_stay_within_the_documented_series(serve: Serving, tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(MODELS)]
    folder = write_repository(tmp_path, dict.fromkeys(names, double()))
    server = serve(folder, profile_seconds=0.01)
    allowed = budget("the server has") + MODELS + 1  # one more for each version, one device

    loaded = series(server.at.metrics())
    client = TritonClient("grpc", server.at)
    for name in names:
        client.infer(name, {"x": Given(np.zeros((1, 4), np.float32), DataType.FP32)})
    used = series(server.at.metrics())

    assert MODELS * 20 < len(loaded) <= MODELS * budget("A loaded model has") + allowed
    assert MODELS * 80 < len(used) <= MODELS * budget("a used one") + allowed
    of_one = [line for line in used if 'model="m7"' in line and "stoker_model_ready" not in line]
    assert len(of_one) <= budget("a used one")
    assert len([line for line in used if "model=" not in line]) <= budget("the server has") + 1
