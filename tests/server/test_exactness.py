"""Answers are right to the bit: batching never changes what a model of exact arithmetic computes,
and what any model was asked to compute can be computed again with the same outcome."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.model import ModelConfig
from stoker.runtime.onnx import OnnxRuntime
from stoker.tensor import Array, DataType

from tests import models
from tests.calls import statistics
from tests.conftest import RunningServer, Serving
from tests.recording_runtime import RecordingRuntime, all_at_once

BATCHING = "max_batch_size: 16\ndynamic_batching { }\n"
REQUESTS = 48


def serving_model(
    serve: Serving, folder: Path, model: onnx.ModelProto, config: str = BATCHING
) -> tuple[RunningServer, RecordingRuntime]:
    repository = models.write_repository(folder, {"m": models.ModelEntry(model, config)})
    runtime = RecordingRuntime()
    return serve(repository, runtime=runtime), runtime


def sizes(seed: int) -> list[int]:
    """Rows of each request."""
    return [int(size) for size in np.random.default_rng(seed).integers(1, 6, REQUESTS)]


def floats(size: int, seed: int, *item: int) -> Array:
    return np.random.default_rng(seed).standard_normal((size, *item)).astype(np.float32)


def same_bits(got: Array, expected: Array) -> bool:
    if got.dtype.hasobject:
        return got.shape == expected.shape and got.tolist() == expected.tolist()
    return (got.dtype, got.shape, got.tobytes()) == (
        expected.dtype,
        expected.shape,
        expected.tobytes(),
    )


@pytest.mark.parametrize("model", [models.mlp(), models.conv()], ids=["mlp", "conv"])
def test_every_batch_can_be_run_again_with_bit_equal_outputs_and_answers_are_its_rows(
    serve: Serving, tmp_path: Path, model: onnx.ModelProto
) -> None:
    server, runtime = serving_model(serve, tmp_path / "repository", model)
    item = {2: (4,), 4: (3, 8, 8)}[len(model.graph.input[0].type.tensor_type.shape.dim)]
    requests = [{"x": floats(size, seed, *item)} for seed, size in enumerate(sizes(1))]
    answers = all_at_once(server, runtime, requests)
    assert len(runtime.runs) < REQUESTS / 2, "the requests were not batched"

    path = models.write_model(tmp_path / "again.onnx", model)
    again = OnnxRuntime("cpu")
    config = ModelConfig("m", 16, (), (), None)
    session = again.open(path, config, again.place(config)[0])
    outputs_of_row: dict[bytes, bytes] = {}
    for run in runtime.runs:
        names = list(run.outputs)
        repeated = dict(zip(names, session.run(run.feeds, names), strict=True))
        for name in names:
            assert same_bits(repeated[name], run.outputs[name])
        for fed, made in zip(run.feeds["x"], repeated["y"], strict=True):
            outputs_of_row[fed.tobytes()] = made.tobytes()
    session.close()
    for request, answer in zip(requests, answers, strict=True):
        output = answer.output()
        assert len(output) == len(request["x"])
        for fed, got in zip(request["x"], output, strict=True):
            assert got.tobytes() == outputs_of_row[fed.tobytes()]


def test_simple_is_bit_equal_under_concurrency(serve: Serving, tmp_path: Path) -> None:
    config = models.SIMPLE_CONFIG.replace('name: "simple"\n', "")
    server, runtime = serving_model(serve, tmp_path / "repository", models.simple(), config)
    random = np.random.default_rng(2)
    requests = [
        {
            name: random.integers(-(1 << 31), 1 << 31, (size, 16)).astype(np.int32)
            for name in ("INPUT0", "INPUT1")
        }
        for size in sizes(2)
    ]
    answers = all_at_once(server, runtime, requests)
    assert len(runtime.runs) < REQUESTS
    for request, answer in zip(requests, answers, strict=True):
        left, right = request["INPUT0"], request["INPUT1"]
        assert same_bits(answer.output("OUTPUT0"), left + right)
        assert same_bits(answer.output("OUTPUT1"), left - right)


def values(datatype: DataType, size: int, seed: int) -> Array:
    """Random bits of a datatype: for floats also infinities and NaN."""
    random = np.random.default_rng(seed)
    if datatype is DataType.BYTES:
        texts = [f"{seed} é {number} " * (number % 5) for number in range(size * 4)]
        return np.array([text.encode() for text in texts], object).reshape(size, 4)
    if datatype is DataType.BOOL:
        return random.integers(0, 2, (size, 4)).astype(np.bool_)
    raw = random.integers(0, 256, size * 4 * datatype.size, np.uint8)
    return raw.view(datatype.numpy).reshape(size, 4)


@pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.wire)
def test_identity_of_every_datatype_is_bit_equal_under_concurrency(
    serve: Serving, tmp_path: Path, datatype: DataType
) -> None:
    server, runtime = serving_model(serve, tmp_path / "repository", models.identity(datatype))
    requests = [{"x": values(datatype, size, seed)} for seed, size in enumerate(sizes(3))]
    answers = all_at_once(server, runtime, requests, {"x": datatype})
    assert len(runtime.runs) < REQUESTS, "the requests were not batched"
    for request, answer in zip(requests, answers, strict=True):
        assert same_bits(answer.output(), request["x"])
    assert statistics(server).success_count == REQUESTS


@pytest.mark.parametrize(
    ("model", "item", "numpy", "tolerance"),
    [
        (models.mlp(), (4,), np.float32, 1e-5),
        (models.conv(), (3, 8, 8), np.float32, 1e-5),
        (models.half_mlp(), (16,), np.float16, 1e-2),
    ],
    ids=["mlp", "conv", "half precision"],
)
def test_float_models_answer_in_batches_as_they_do_alone(
    serve: Serving,
    tmp_path: Path,
    model: onnx.ModelProto,
    item: tuple[int, ...],
    numpy: type[np.floating],
    tolerance: float,
) -> None:
    server, runtime = serving_model(serve, tmp_path / "repository", model)
    requests = [
        {"x": floats(size, seed, *item).astype(numpy)} for seed, size in enumerate(sizes(4))
    ]
    answers = all_at_once(server, runtime, requests)
    session = models.open_on_cpu(tmp_path / "alone", model)
    for request, answer in zip(requests, answers, strict=True):
        (alone,) = session.run(request, ["y"])
        np.testing.assert_allclose(answer.output(), alone, rtol=tolerance, atol=tolerance)
    session.close()


def test_an_output_that_is_an_input_is_each_clients_own(serve: Serving, tmp_path: Path) -> None:
    server, runtime = serving_model(serve, tmp_path / "repository", models.passed_on())
    requests = [{"x": floats(size, seed, 16384)} for seed, size in enumerate(sizes(5))]
    for _ in range(3):  # slabs are lent from the second run on
        for request, answer in zip(requests, all_at_once(server, runtime, requests), strict=True):
            assert same_bits(answer.output("x"), request["x"])
            assert same_bits(answer.output("y"), 2 * request["x"])
    assert len(runtime.runs) < REQUESTS


def test_a_model_that_makes_another_rank_than_it_declares_is_answered_as_it_makes_it(
    serve: Serving, tmp_path: Path
) -> None:
    server, runtime = serving_model(serve, tmp_path / "repository", models.extra_dimension())
    requests = [{"x": floats(size, seed, 16384)} for seed, size in enumerate(sizes(6)[:12])]
    for request, answer in zip(requests, all_at_once(server, runtime, requests), strict=True):
        assert same_bits(answer.output(), request["x"][:, None])
    assert len(runtime.runs) == len(requests), "nobody knows what its first dimension means"
