"""The steps of the checks on hardware, on the CPU: what they measure is known there."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.driver_stubs import CUDART, build
from tests.gpu import checks, networks
from tests.gpu.cudart import CudaError, Cudart, pages
from tests.models import identity, write_model


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Cudart:
    """A CUDA runtime whose device memory is the host's."""
    return Cudart(str(build(tmp_path_factory.mktemp("driver"), CUDART) / CUDART))


@pytest.fixture
def stream(cuda: Cudart) -> Iterator[int]:
    made = cuda.stream()
    yield made
    cuda.destroy(made)


def test_operators_are_counted_by_provider(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", networks.transformer())

    found = checks.operators_by_provider(checks.open_session(path, "cpu"))

    assert set(found) == {checks.CPU}
    assert found[checks.CPU]["Softmax"] == 2


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (networks.cnn(), (2, 3, 32, 32)),
        (networks.transformer(), (2, 5, 64)),
        (networks.launches(), (3, 64)),
        (networks.heavy(8), (1, 1024)),
    ],
    ids=["cnn", "transformer", "launches", "heavy"],
)
def test_a_network_runs_and_its_values_stay_within_reason(
    tmp_path: Path, model: onnx.ModelProto, shape: tuple[int, ...]
) -> None:
    onnx.checker.check_model(model)
    session = checks.open_session(write_model(tmp_path / "m.onnx", model), "cpu")

    (y,) = session.run(None, {"x": networks.random(shape, 3)})

    assert np.isfinite(y).all()
    assert 0.01 < np.abs(y).max() < 100
    assert y.std() > 0.001


def test_the_heavy_network_weighs_what_it_says() -> None:
    assert networks.heavy(16).ByteSize() == pytest.approx(16 << 20, rel=0.01)


def test_a_session_that_did_not_get_its_provider_is_an_error(tmp_path: Path) -> None:
    if checks.CUDA in checks.runtime().get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    path = write_model(tmp_path / "m.onnx", networks.increment())

    with pytest.raises(RuntimeError, match="asked for CUDAExecutionProvider"):
        checks.open_session(path, "cuda")


def test_on_the_cpu_a_bound_array_is_read_at_the_run(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", identity())

    assert checks.sees_changes_after_binding(checks.open_session(path, "cpu"))


def test_fixed_buffers_give_what_a_plain_run_gives(
    cuda: Cudart, stream: int, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.onnx", networks.launches())
    session = checks.open_session(path, "cpu")
    tensors = {"x": ((4, 64), np.float32)}, {"y": ((4, 64), np.float32)}
    before = checks.used_bytes(cuda)
    with checks.FixedRun(cuda, session, "cpu", stream, *tensors) as fixed:
        assert checks.used_bytes(cuda) - before == 2 * 4 * 64 * 4
        for seed in range(3):
            x = networks.random((4, 64), seed)
            fixed.inputs["x"][:] = x
            assert (fixed.run()["y"] == session.run(None, {"x": x})[0]).all()
    assert checks.used_bytes(cuda) == before


def test_what_a_copy_brings_is_there_only_after_the_wait(cuda: Cudart, stream: int) -> None:
    there = cuda.malloc(64)
    sent, back = pages(64), pages(64)
    sent[:] = 7
    cuda.copy_in(there, sent, stream)
    cuda.copy_out(back, there, stream)
    assert not back.any()

    cuda.wait(stream)

    assert (back == 7).all()
    cuda.free(there)


def test_a_call_that_fails_is_told_with_its_number(
    cuda: Cudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDART_STUB_FAILS", "cudaMalloc:2")

    with pytest.raises(CudaError, match="cudaMalloc: CUDA failure 2: ") as caught:
        cuda.malloc(1)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("left", "told"), [("cudaStreamQuery:700", 700), ("cudaStreamQuery:600", 0)]
)
def test_a_query_tells_a_dead_device_from_one_at_work(
    cuda: Cudart, stream: int, monkeypatch: pytest.MonkeyPatch, left: str, told: int
) -> None:
    monkeypatch.setenv("CUDART_STUB_FAILS", left)

    assert cuda.query(stream) == told


@pytest.mark.alone
@pytest.mark.slow
def test_the_share_of_the_gil_tells_calls_that_hold_it_from_those_that_do_not() -> None:
    holding, freeing = ctypes.PyDLL(None).usleep, ctypes.CDLL(None).usleep

    # Whoever else uses the cores can take the other thread's turns, with or without the calls, and
    # never add some: of several shares, one near the truth will do.
    assert any(checks.gil_share(lambda: holding(20_000), 0.2) > 0.7 for _ in range(5))
    assert any(checks.gil_share(lambda: freeing(20_000), 0.2) < 0.5 for _ in range(5))


def test_a_distance_is_a_share_of_the_largest_value() -> None:
    assert checks.distance(np.array([1.0, 2.5]), np.array([1.0, -2.0])) == pytest.approx(2.25)
    with pytest.raises(ValueError, match="expected one shape"):
        checks.distance(np.zeros(2), np.zeros(3))


def test_bfloat_bits_and_values_are_one_another() -> None:
    values = np.array([[0.0, -1.5, 256.0]], np.float32)

    assert (checks.from_bfloat(checks.as_bfloat(values)) == values).all()


def test_only_the_calls_that_count_are_timed() -> None:
    calls: list[None] = []

    times = checks.seconds_of(lambda: calls.append(None), repeats=4, warm=2)

    assert (len(times), len(calls)) == (4, 6)
    assert checks.gigabytes_per_second(3_000_000_000, [1.0, 1.5, 9.0]) == 2.0
