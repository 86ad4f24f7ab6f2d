"""Requests of different lengths share a batch where a model's file names the dimension."""

from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import Array

from tests import models
from tests.calls import statistics, wait_until
from tests.conftest import Serving
from tests.recording_runtime import RecordingRuntime, all_at_once

LENGTHS = (8, 3, 5, 8, 6)
CONFIG = """
max_batch_size: 8
dynamic_batching { }
parameters { key: "bucket_dimension" value { string_value: "x:1=4,8" } }
"""


def lengths() -> list[dict[str, Array]]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((1, length)).astype(np.float32)} for length in LENGTHS]


def test_requests_of_different_lengths_are_one_batch_and_get_their_own_lengths_back(
    serve: Serving, tmp_path: Path
) -> None:
    runtime = RecordingRuntime()
    entry = models.ModelEntry(models.double(("batch", "length")), CONFIG)
    server = serve(models.write_repository(tmp_path, {"m": entry}), runtime=runtime)
    for _ in range(2):  # at level 0, and by fixed bindings
        asked = lengths()
        answers = all_at_once(server, runtime, asked)
        for answer, inputs in zip(answers, asked, strict=True):
            np.testing.assert_array_equal(answer.output(), 2 * inputs["x"])
        # The first was held alone; 5, 8 and 6 long ones share the bucket of 8, 3 has another.
        assert sorted(run.feeds["x"].shape for run in runtime.runs) == [(1, 4), (1, 8), (3, 8)]
    assert statistics(server).failure_count == 0


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("bucket_dimension", "x:5=4", "expected a dimension of 'x' out of 1..1, got 5"),
        ("batch_buckets", "some", "expected 'off' or batch sizes"),
    ],
)
def test_a_parameter_that_cannot_be_obeyed_keeps_the_model_from_loading(
    key: str, value: str, reason: str, serve: Serving, tmp_path: Path
) -> None:
    parameter = f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
    entry = models.ModelEntry(models.double(("batch", "length")), f"max_batch_size: 8 {parameter}")
    server = serve(models.write_repository(tmp_path, {"m": entry}), wait=False)
    wait_until(lambda: reason in server.at.probe("/readyz")[1], "the reason")
