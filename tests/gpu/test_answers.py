"""Level 0 on the GPU: the same answers as the CPU's, for each kind of model and datatype."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.tensor import DataType

from tests.gpu import checks, networks
from tests.gpu.conftest import Record
from tests.gpu.served import open_on
from tests.models import identity, simple, string_concat

pytestmark = pytest.mark.gpu

EXACT = 1e-4
"""Share of the largest value by which FP32 sums in another order may differ."""
TF32 = 2e-2
"""TF32 keeps 10 bits of a factor's fraction: 1e-3 a product."""


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (networks.cnn(), (4, 3, 32, 32)),
        (networks.transformer(), (4, 7, 64)),
        (networks.launches(), (4, 64)),
    ],
    ids=["cnn", "transformer", "launches"],
)
@pytest.mark.parametrize(("tf32", "allowed"), [("0", EXACT), ("1", TF32)], ids=["fp32", "tf32"])
def test_a_network_answers_as_on_the_cpu(
    tmp_path: Path,
    record_property: Record,
    model: onnx.ModelProto,
    shape: tuple[int, ...],
    tf32: str,
    allowed: float,
) -> None:
    x = networks.random(shape, 1)
    on_gpu = open_on("cuda:0", tmp_path, model, use_tf32=tf32)
    on_cpu = open_on("cpu", tmp_path, model)

    (made,) = on_gpu.run({"x": x}, ["y"])
    (expected,) = on_cpu.run({"x": x}, ["y"])

    apart = checks.distance(made, expected)
    record_property("largest difference", apart)
    on_gpu.close()
    assert on_gpu.device == "cuda:0"
    assert apart <= allowed


def test_rows_of_a_batch_do_not_depend_on_their_number(
    tmp_path: Path, record_property: Record
) -> None:
    session = open_on("cuda:0", tmp_path, networks.cnn(), use_tf32="0")
    x = networks.random((8, 3, 32, 32), 1)

    (whole,) = session.run({"x": x}, ["y"])
    alone = np.concatenate([session.run({"x": x[row : row + 1]}, ["y"])[0] for row in range(8)])

    apart = checks.distance(alone, whole)
    record_property("largest difference", apart)
    session.close()
    assert apart <= EXACT


def test_whole_numbers_are_exact(tmp_path: Path) -> None:
    session = open_on("cuda:0", tmp_path, simple())
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), -7, np.int32)

    total, difference = session.run({"INPUT0": a, "INPUT1": b}, ["OUTPUT0", "OUTPUT1"])

    session.close()
    assert session.device == "cuda:0"
    assert (total == a + b).all()
    assert (difference == a - b).all()


@pytest.mark.parametrize("datatype", [DataType.FP16, DataType.FP64, DataType.INT64, DataType.UINT8])
def test_a_datatype_passes_unchanged(tmp_path: Path, datatype: DataType) -> None:
    session = open_on("cuda:0", tmp_path, identity(datatype))
    x = np.arange(8).reshape(2, 4).astype(datatype.numpy)

    (y,) = session.run({"x": x}, ["y"])

    session.close()
    assert y.dtype == x.dtype
    assert (y == x).all()


def test_bf16_is_exact_where_it_can_be(tmp_path: Path, record_property: Record) -> None:
    session = open_on("cuda:0", tmp_path, networks.bfloat_double())
    values = np.arange(128, dtype=np.float32).reshape(2, 64)

    (y,) = session.run({"x": checks.as_bfloat(values)}, ["y"])

    record_property("device", session.device)
    session.close()
    assert session.device == "cuda:0"
    assert (checks.from_bfloat(y) == 2 * values).all()


def test_text_is_computed_on_the_cpu_and_the_server_says_so(tmp_path: Path) -> None:
    session = open_on("cuda:0", tmp_path, string_concat())
    a, b = (np.array([[text]], object) for text in ("one", "two"))

    (y,) = session.run({"a": a, "b": b}, ["y"])

    assert session.device == "cpu"
    assert y.tolist() == [["onetwo"]]


def test_an_output_is_written_where_the_caller_wants_it(tmp_path: Path) -> None:
    session = open_on("cuda:0", tmp_path, networks.increment())
    x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.empty((2, 4), np.float32)

    (made,) = session.run({"x": x}, ["y"], {"y": y})

    session.close()
    assert made is y
    assert (y == x + 1).all()
