"""Runs through fixed bindings: the same answers as plain runs, and the steps on a device."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from stoker.device import DeviceReport
from stoker.errors import DeviceFailed
from stoker.model import ModelConfig
from stoker.runtime.buckets import EXACT, Buckets, powers_of_two
from stoker.runtime.cuda import CudaRuntime
from stoker.runtime.cuda_graphs import GraphSupport
from stoker.runtime.cuda_memory import CudaMemory, PinnedBudget
from stoker.runtime.fixed import COPIED_BYTES, FixedRuns
from stoker.runtime.fixed_shapes import FixedShapes, fixed_shapes
from stoker.runtime.gpu_hot_path import GpuHotPath
from stoker.runtime.onnx import library
from stoker.runtime.onnx_session import OnnxSession
from stoker.runtime.options import session_options
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER, ProviderList, with_stream
from stoker.runtime.session import BoundTensor, OutputMismatch, Session
from stoker.tensor import Array, DataType

from tests import models
from tests.cudart_stub import CudartStub

MOST = 8
WIDE = COPIED_BYTES // 4
"""Floats of a row that is too large to be copied out of a slab of our own."""


def on_device(
    folder: Path, model: onnx.ModelProto, cudart: CudartStub, memory: CudaMemory | None = None
) -> OnnxSession:
    """A session whose tensors live in the memory of the CUDA stub, where ONNX Runtime's CPU
    provider computes."""
    path = models.write_model(folder / "model.onnx", model)
    if memory is None:
        memory = GpuHotPath(1 << 32, library=str(cudart.path), kind="cpu").memory("m", 0)
    assert memory is not None

    def opened() -> object:
        return library().InferenceSession(str(path), providers=["CPUExecutionProvider"])

    return OnnxSession(
        library(),
        opened(),
        path,
        "m",
        DeviceReport("cuda:0", "cuda:0"),
        session_options(ModelConfig("m", 0, (), (), None), intra_op_threads=1),
        memory,
        graphs=GraphSupport(is_wanted=True),
        reopen=opened,
    )


class Scene:
    """A model with fixed bindings, on the host or on the stub of a GPU."""

    def __init__(
        self,
        folder: Path,
        model: onnx.ModelProto,
        cudart: CudartStub | None = None,
        *,
        sizes: Buckets = EXACT,
        max_batch_size: int = MOST,
        memory: CudaMemory | None = None,
    ) -> None:
        self.session: Session = (
            models.open_on_cpu(folder, model)
            if cudart is None
            else on_device(folder, model, cudart, memory)
        )
        self.config = models.config_of(self.session, max_batch_size)
        shapes = fixed_shapes(self.config, self.session, max(1, max_batch_size))
        assert not isinstance(shapes, str), shapes
        self.shapes: FixedShapes = shapes
        assert self.session.memory is not None
        self.runs = FixedRuns(self.session, self.session.memory, shapes, sizes)
        self.outputs = tuple(range(len(shapes.outputs)))

    def lay(self, feeds: Mapping[str, Array]) -> None:
        """Writes rows where an executor gathers them."""
        for place in self.runs.inputs:
            array = feeds[place.tensor.name]
            place.array[: len(array)] = array

    def plain(self, feeds: Mapping[str, Array]) -> list[Array]:
        """What level 0 answers."""
        return self.session.run(feeds, [each.name for each in self.shapes.outputs])


@pytest.fixture(params=["host", "device"])
def stub(request: pytest.FixtureRequest, cudart: CudartStub) -> CudartStub | None:
    return None if request.param == "host" else cudart


def relu(width: int = 4, datatype: DataType = DataType.FP32) -> onnx.ModelProto:
    """x [batch, width] -> y, what is negative becomes 0."""
    return models.build(
        [helper.make_node("Relu", ["x"], ["y"])],
        [models.tensor("x", datatype, ["batch", width])],
        [models.tensor("y", datatype, ["batch", width])],
    )


def rows(count: int, width: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("sizes", [EXACT, Buckets(powers_of_two(MOST))], ids=["exact", "padded"])
def test_every_batch_size_gets_the_answers_of_a_plain_run(
    tmp_path: Path, stub: CudartStub | None, sizes: Buckets
) -> None:
    scene = Scene(tmp_path, models.simple(), stub, sizes=sizes)
    for turn in range(2):  # made, and used again
        for count in (8, 1, 3, 5, 2, 7):
            feeds = {
                name: np.random.default_rng((turn, count, place)).integers(
                    -99, 99, (count, 16), np.int32
                )
                for place, name in enumerate(("INPUT0", "INPUT1"))
            }
            scene.lay(feeds)
            made = scene.runs.run(count, scene.outputs, {}, 0)
            for got, want in zip(made, scene.plain(feeds), strict=True):
                np.testing.assert_array_equal(got, want)
    scene.session.close()


def test_outputs_stay_as_they_are_when_the_next_batch_runs(
    tmp_path: Path, stub: CudartStub | None
) -> None:
    scene = Scene(tmp_path, relu(), stub)
    first, second = rows(3, seed=1), rows(3, seed=2)
    scene.lay({"x": first})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    scene.lay({"x": second})
    scene.runs.run(3, (0,), {}, 0)
    np.testing.assert_array_equal(made, np.maximum(first, 0))
    scene.session.close()


def test_only_outputs_that_are_wanted_are_computed(tmp_path: Path, stub: CudartStub | None) -> None:
    scene = Scene(tmp_path, models.simple(), stub)
    ones = np.ones((2, 16), np.int32)
    scene.lay({"INPUT0": 3 * ones, "INPUT1": ones})
    (difference,) = scene.runs.run(2, (1,), {}, 0)
    np.testing.assert_array_equal(difference, 2 * ones)
    second, first = scene.runs.run(2, (1, 0), {}, 0)
    np.testing.assert_array_equal(first, 4 * ones)
    np.testing.assert_array_equal(second, 2 * ones)
    scene.session.close()


def test_large_outputs_go_into_the_slabs_that_are_lent(
    tmp_path: Path, stub: CudartStub | None
) -> None:
    scene = Scene(tmp_path, relu(WIDE), stub)
    assert scene.runs.needs_slab(0, 1)
    sets = [np.full((MOST, WIDE), -1, np.float32) for _ in range(2)]
    for count in (1, 4, 1):
        for number, slab in enumerate(sets, 1):
            given = rows(count, WIDE, seed=count + number)
            scene.lay({"x": given})
            (made,) = scene.runs.run(count, (0,), {0: slab[:count]}, number)
            assert np.shares_memory(made, slab)
            np.testing.assert_array_equal(made, np.maximum(given, 0))
    scene.session.close()


def test_a_lone_request_is_read_where_it_lies(tmp_path: Path) -> None:
    scene = Scene(tmp_path, relu())
    for seed in range(3):
        given = rows(2, seed=seed)
        (made,) = scene.runs.run(2, (0,), {}, 0, [given])
        np.testing.assert_array_equal(made, np.maximum(given, 0))
    scene.lay({"x": rows(2, seed=9)})
    (made,) = scene.runs.run(2, (0,), {}, 0)  # bindings to the slabs are others
    np.testing.assert_array_equal(made, np.maximum(rows(2, seed=9), 0))


def test_bf16_is_bound_as_any_other_datatype(tmp_path: Path, stub: CudartStub | None) -> None:
    scene = Scene(tmp_path, models.identity(DataType.BF16, ("batch", 4)), stub)
    given = np.arange(12, dtype=np.uint16).reshape(3, 4) + 0x3F80
    scene.lay({"x": given})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(made, given)
    scene.session.close()


def test_a_model_without_batch_dimension_has_one_shape(
    tmp_path: Path, stub: CudartStub | None
) -> None:
    model = models.build(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [models.tensor("x", DataType.FP32, [2, 3])],
        [models.tensor("y", DataType.FP32, [])],
    )
    scene = Scene(tmp_path, model, stub, max_batch_size=0)
    scene.runs.inputs[0].array[0, ...] = np.arange(6).reshape(2, 3)
    (made,) = scene.runs.run(1, (0,), {}, 0)
    assert made.shape == ()
    assert made == 15
    scene.session.close()


def test_an_output_of_another_shape_than_declared_is_a_mismatch(tmp_path: Path) -> None:
    model = models.build(
        [helper.make_node("Compress", ["x", "keep"], ["y"], axis=1)],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [models.tensor("y", DataType.FP32, ["batch", "kept"])],
        {"keep": np.array([True, False, True, True])},
    )
    session = models.open_on_cpu(tmp_path, model)
    memory = session.memory
    assert memory is not None
    given, got = memory.slab(32), memory.slab(32)
    binding = session.bind(
        [BoundTensor("x", DataType.FP32, (2, 4), given.address)],
        [BoundTensor("y", DataType.FP32, (2, 4), got.address)],
    )
    with pytest.raises(OutputMismatch):
        binding.run()


# On a device


def test_a_run_copies_real_rows_in_clears_the_padding_and_copies_real_rows_out(
    tmp_path: Path, cudart: CudartStub
) -> None:
    scene = Scene(tmp_path, relu(), cudart, sizes=Buckets((1, 2, 4, 8)))
    scene.lay({"x": rows(3)})
    scene.runs.run(3, (0,), {}, 0)
    cudart.forget()
    scene.runs.run(3, (0,), {}, 0)
    assert cudart.calls == [
        "copy_in 48",
        "clear 16",
        "copy_out 48",
        "event_record",
        "event_synchronize",
    ]
    cudart.forget()
    scene.runs.run(4, (0,), {}, 0)  # fills its bucket
    assert [call for call in cudart.calls if call.startswith("clear")] == []
    scene.session.close()


def test_padding_is_zero_whatever_an_earlier_batch_left_there(
    tmp_path: Path, stub: CudartStub | None
) -> None:
    total = models.build(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["s"], keepdims=1),
            helper.make_node("Add", ["s", "x"], ["y"]),
        ],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [models.tensor("y", DataType.FP32, ["batch", 4])],
        {"axis": np.array([0], np.int64)},
    )  # rows see each other: what is in the padding shows
    scene = Scene(tmp_path, total, stub, sizes=Buckets((8,)))
    scene.lay({"x": rows(8, seed=1)})
    scene.runs.run(8, (0,), {}, 0)
    given = rows(3, seed=2)
    scene.lay({"x": given})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    np.testing.assert_allclose(made, given + given.sum(axis=0), rtol=1e-6)
    scene.session.close()


def test_device_buffers_are_made_once_for_all_batch_sizes(
    tmp_path: Path, cudart: CudartStub
) -> None:
    scene = Scene(tmp_path, relu(), cudart, sizes=Buckets((1, 2, 4, 8)))
    for count in range(1, 9):
        scene.runs.run(count, (0,), {}, 0)
    sizes = [call for call in cudart.calls if call.startswith("malloc")]
    assert sizes == [f"malloc {MOST * 16}"] * 2
    scene.session.close()
    assert set(cudart.left.values()) == {0}


def test_outputs_of_unknown_shape_are_allocated_by_onnx_runtime(
    tmp_path: Path, cudart: CudartStub
) -> None:
    model = models.build(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Compress", ["x", "keep"], ["z"], axis=1),
        ],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [
            models.tensor("y", DataType.FP32, ["batch", 4]),
            models.tensor("z", DataType.FP32, ["batch", "kept"]),
        ],
        {"keep": np.array([True, False, True, True])},
    )
    scene = Scene(tmp_path, model, cudart, sizes=Buckets((8,)))
    assert [tensor.item for tensor in scene.shapes.outputs] == [(4,), None]
    for seed in range(2):
        given = rows(3, seed=seed)
        scene.lay({"x": given})
        known, unknown = scene.runs.run(3, (0, 1), {}, 0)
        np.testing.assert_array_equal(known, np.maximum(given, 0))
        np.testing.assert_array_equal(unknown, given[:, [0, 2, 3]])
    scene.session.close()


def test_an_output_of_unknown_shape_stays_as_it_is_when_the_next_batch_runs(
    tmp_path: Path, cudart: CudartStub
) -> None:
    model = models.build(
        [helper.make_node("Compress", ["x", "kept"], ["z"], axis=1)],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [models.tensor("z", DataType.FP32, ["batch", "some"])],
        {"kept": np.array([True, False, True, True])},
    )
    scene = Scene(tmp_path, model, cudart)
    first, second = rows(3, seed=1), rows(3, seed=2)
    scene.lay({"x": first})
    (kept,) = scene.runs.run(3, (0,), {}, 0)
    scene.lay({"x": second})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    np.testing.assert_array_equal(kept, first[:, [0, 2, 3]])
    np.testing.assert_array_equal(made, second[:, [0, 2, 3]])
    scene.session.close()


def test_an_output_of_unknown_shape_may_have_another_one_in_the_next_batch(
    tmp_path: Path, cudart: CudartStub
) -> None:
    model = models.build(
        [helper.make_node("NonZero", ["x"], ["z"])],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [models.tensor("z", DataType.INT64, [2, "some"])],
    )
    scene = Scene(tmp_path, model, cudart)
    for count in (1, 3, 2):
        given = np.zeros((1, 4), np.float32)
        given[0, :count] = 1
        scene.lay({"x": given})
        (made,) = scene.runs.run(1, (0,), {}, 0)
        np.testing.assert_array_equal(made, np.nonzero(given))
    scene.session.close()


def test_a_device_copies_outputs_to_a_slab_of_its_own_after_batches_whose_slabs_were_lent(
    tmp_path: Path, cudart: CudartStub
) -> None:
    scene = Scene(tmp_path, relu(WIDE), cudart)
    first, second = rows(2, WIDE, seed=1), rows(2, WIDE, seed=2)
    slab = np.empty((2, WIDE), np.float32)
    scene.lay({"x": first})
    (kept,) = scene.runs.run(2, (0,), {0: slab}, 1)
    scene.lay({"x": second})
    (made,) = scene.runs.run(2, (0,), {}, 0)
    np.testing.assert_array_equal(kept, np.maximum(first, 0))
    np.testing.assert_array_equal(made, np.maximum(second, 0))
    scene.session.close()


def test_on_the_host_a_batch_that_needs_a_lent_slab_is_never_run_without_one(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, relu(WIDE), sizes=Buckets((1, 8)))
    with pytest.raises(ValueError, match="output 'y': 8 rows need a slab that is lent"):
        scene.runs.warm()
    scene.session.close()


def test_the_steps_of_a_capture_are_those_of_a_run_with_the_largest_bucket_first(
    tmp_path: Path, cudart: CudartStub
) -> None:
    scene = Scene(tmp_path, relu(), cudart, sizes=Buckets((1, 4, 8)))
    scene.runs.warm()
    cudart.forget()
    assert scene.runs.capture(1) is None
    assert scene.runs.captured == (1, 4, 8)
    copied = [call for call in cudart.calls if call.startswith("copy_in")]
    assert copied == [f"copy_in {16 * bucket}" for bucket in (8, 4, 1) for _ in range(3)]
    given = rows(3)
    scene.lay({"x": given})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    np.testing.assert_array_equal(made, np.maximum(given, 0))
    scene.session.close()


def test_runs_of_a_capture_are_watched_and_the_wait_for_models_that_are_opened_is_not(
    tmp_path: Path, cudart: CudartStub
) -> None:
    steps: list[str] = []

    class Telling(CudaMemory):
        def capture(self) -> AbstractContextManager[None]:
            steps.append("wait")
            return super().capture()

    @contextmanager
    def watch() -> Iterator[None]:
        steps.append("watch")
        yield

    cuda = CudaRuntime(str(cudart.path))
    memory = Telling(cuda, 0, PinnedBudget(1 << 32), model="m", kind="cpu")
    scene = Scene(tmp_path, relu(), cudart, sizes=Buckets((1, 4)), memory=memory)
    scene.runs.warm(watch)
    assert steps == ["watch", "watch"]
    steps.clear()
    assert scene.runs.capture(1, watch) is None
    assert steps == 2 * ["wait", "watch", "watch", "watch"]
    scene.session.close()


def test_a_session_that_gives_its_graphs_up_is_opened_again_and_bound_anew(
    tmp_path: Path, cudart: CudartStub
) -> None:
    scene = Scene(tmp_path, relu(), cudart, sizes=Buckets((1, 4, 8)))
    assert scene.runs.capture(1) is None
    scene.session.give_up_graphs("a replay was wrong")
    scene.runs.forget()
    assert str(scene.session.graphs) == "not used: a replay was wrong"
    assert scene.runs.captured == ()
    given = rows(3)
    scene.lay({"x": given})
    (made,) = scene.runs.run(3, (0,), {}, 0)
    np.testing.assert_array_equal(made, np.maximum(given, 0))
    scene.session.close()
    assert set(cudart.left.values()) == {0}


def test_a_device_that_breaks_in_a_run_is_told_as_such(tmp_path: Path, cudart: CudartStub) -> None:
    scene = Scene(tmp_path, relu(), cudart)
    scene.runs.run(1, (0,), {}, 0)
    cudart.fail("cudaEventSynchronize", 700)
    with pytest.raises(DeviceFailed, match="CUDA failure 700"):
        scene.runs.run(1, (0,), {}, 0)
    scene.session.close()


def test_without_the_cuda_runtime_there_is_no_memory_for_sessions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert GpuHotPath(None, library="libcudart.so.0").memory("m", 0) is None
    assert "models on GPUs run without streams of their own" in caplog.text


def test_the_server_alone_sets_stream_and_graphs_of_the_cuda_provider() -> None:
    providers: ProviderList = ((CUDA_PROVIDER, {"device_id": "1"}), (CPU_PROVIDER, {}))
    assert with_stream(providers, 0, graphs=False) == providers
    assert with_stream(providers, 4096, graphs=True) == (
        (
            CUDA_PROVIDER,
            {"device_id": "1", "user_compute_stream": "4096", "enable_cuda_graph": "1"},
        ),
        (CPU_PROVIDER, {}),
    )


# Which models have fixed bindings


def refused(tmp_path: Path, model: onnx.ModelProto, max_batch_size: int = MOST) -> str:
    session = models.open_on_cpu(tmp_path, model)
    found = fixed_shapes(models.config_of(session, max_batch_size), session, max_batch_size)
    assert isinstance(found, str)
    return found


def test_models_that_cannot_be_bound_say_why(tmp_path: Path) -> None:
    text = models.identity(DataType.BYTES, ("batch", 4))
    assert "cannot be bound (BYTES" in refused(tmp_path, text)
    variable = models.identity(shape=("batch", "length"))
    assert refused(tmp_path, variable) == "input 'x' has no fixed shape"
    huge = models.identity(shape=("batch", 1 << 25))
    assert "larger than the room for batches" in refused(tmp_path, huge)


def test_on_the_cpu_outputs_of_unknown_shape_are_left_to_level_0(tmp_path: Path) -> None:
    model = models.build(
        [helper.make_node("Compress", ["x", "keep"], ["y"], axis=1)],
        [models.tensor("x", DataType.FP32, ["batch", 4])],
        [models.tensor("y", DataType.FP32, ["batch", "kept"])],
        {"keep": np.array([True, False, True, True])},
    )
    assert refused(tmp_path, model) == "output 'y' has no fixed shape"


def test_batches_beyond_the_room_are_left_to_level_0(tmp_path: Path) -> None:
    scene = Scene(tmp_path, relu(1 << 22), max_batch_size=64)
    assert scene.shapes.max_rows == 4
