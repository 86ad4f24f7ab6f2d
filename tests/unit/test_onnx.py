"""Sessions of the real ONNX Runtime: datatypes, shapes, errors, and where their threads run."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from stoker.errors import DeviceFailed, ExecutionFailed, InvalidRequest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.candidate import Stop
from stoker.runtime.cpu import at_low_priority
from stoker.runtime.onnx import OnnxRuntime, library
from stoker.runtime.session import Placement, Session
from stoker.runtime.translation import Translation
from stoker.tensor import Array, DataType

from tests import models

CPU = Placement("cpu", 1, 2)


def config(**parameters: str) -> ModelConfig:
    return ModelConfig("m", 8, (), (), None, parameters=parameters)


def opened(folder: Path, model: onnx.ModelProto | bytes, **parameters: str) -> Session:
    path = models.write_model(folder / "model.onnx", model)
    return OnnxRuntime("cpu").open(path, config(**parameters), CPU)


def values(datatype: DataType) -> Array:
    if datatype is DataType.BYTES:
        return np.array([["a", "é\0b", "", "ß"]], object)
    if datatype is DataType.BOOL:
        return np.array([[True, False, False, True]])
    return np.array([[0, 1, 2, 77]]).astype(datatype.numpy)


each_datatype = pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.wire)


@each_datatype
def test_every_datatype_goes_through_unchanged(tmp_path: Path, datatype: DataType) -> None:
    session = opened(tmp_path, models.identity(datatype))
    assert session.inputs[0].datatype is datatype
    (y,) = session.run({"x": values(datatype)}, ["y"])
    assert y.dtype == datatype.numpy
    np.testing.assert_array_equal(y, values(datatype))


@each_datatype
def test_every_datatype_is_written_into_given_memory(tmp_path: Path, datatype: DataType) -> None:
    session = opened(tmp_path, models.identity(datatype))
    slab = np.zeros((3, 4), datatype.numpy)
    target = slab[1:2]
    (y,) = session.run({"x": values(datatype)}, ["y"], {"y": target})
    assert y is target
    np.testing.assert_array_equal(slab[1:2], values(datatype))
    assert not slab[0].any()
    assert not slab[2].any()


@each_datatype
def test_every_datatype_can_have_no_rows(tmp_path: Path, datatype: DataType) -> None:
    session = opened(tmp_path, models.identity(datatype))
    (y,) = session.run({"x": np.empty((0, 4), datatype.numpy)}, ["y"])
    assert (y.shape, y.dtype) == ((0, 4), datatype.numpy)


@each_datatype
def test_every_datatype_can_be_a_scalar(tmp_path: Path, datatype: DataType) -> None:
    session = opened(tmp_path, models.identity(datatype, ()))
    assert session.inputs[0].shape == ()
    assert session.unranked == frozenset()
    x = values(datatype)[0, 1:2].reshape(())
    (y,) = session.run({"x": x}, ["y"])
    assert (y.shape, y.dtype) == ((), datatype.numpy)
    assert y == x


def test_results_in_bfloat16_outlive_their_run(tmp_path: Path) -> None:
    session = opened(tmp_path, models.identity(DataType.BF16))
    kept = [session.run({"x": np.full((1, 4), n, np.uint16)}, ["y"])[0] for n in range(50)]
    assert [int(y[0, 0]) for y in kept] == list(range(50))


def test_a_rank_that_is_not_declared_is_told_from_a_scalar(tmp_path: Path) -> None:
    session = opened(tmp_path, models.unranked())
    assert session.unranked == {"x", "y"}
    (y,) = session.run({"x": np.ones((2, 3), np.float32)}, ["y"])
    assert y.shape == (2, 3)


def test_a_declared_shape_stands_where_inference_disagrees(tmp_path: Path) -> None:
    session = opened(tmp_path, models.wrong_output_rank())
    assert session.outputs[0].shape == (-1, 4)
    assert session.dimension_names["y"] == ("batch", None)


def test_symbols_name_the_variable_dimensions(tmp_path: Path) -> None:
    session = opened(tmp_path, models.row_sum())
    assert session.inputs[0].shape == (-1, -1)
    assert session.dimension_names == {"x": ("batch", "length"), "y": ("batch",)}


def test_an_initialiser_that_can_be_overridden_is_an_optional_input(tmp_path: Path) -> None:
    session = opened(tmp_path, models.overridable())
    assert [(spec.name, spec.optional) for spec in session.inputs] == [
        ("x", False),
        ("scale", True),
    ]
    x = np.ones((1, 4), np.float32)
    assert session.run({"x": x}, ["y"])[0][0, 0] == 3
    assert session.run({"x": x, "scale": np.zeros(4, np.float32)}, ["y"])[0][0, 0] == 0


def test_only_the_named_outputs_come_in_the_named_order(tmp_path: Path) -> None:
    session = opened(tmp_path, models.simple())
    feeds = {name: np.full((1, 16), 3, np.int32) for name in ("INPUT0", "INPUT1")}
    difference, total = session.run(feeds, ["OUTPUT1", "OUTPUT0"])
    assert (difference[0, 0], total[0, 0]) == (0, 6)
    target = np.empty((1, 16), np.int32)
    difference, total = session.run(feeds, ["OUTPUT1", "OUTPUT0"], {"OUTPUT0": target})
    assert (difference[0, 0], target[0, 0]) == (0, 6)
    assert total is target


def test_data_that_the_graph_cannot_take_fails_its_run_only(tmp_path: Path) -> None:
    session = opened(tmp_path, models.fails_on_data())
    with pytest.raises(ExecutionFailed, match="idx=99 must be within"):
        session.run({"x": np.array([[1], [99]])}, ["y"])
    assert session.run({"x": np.array([[1]])}, ["y"])[0] == 20


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.sequence_output(), r"output 'y' has the type seq\(tensor\(float\)\)"),
        (models.map_output(), "without ZipMap"),
        (models.float8_input(), "input 'x' has the type tensor"),
        (models.unknown_operator(), "NoSuchOperator"),
        (models.NOT_A_MODEL, "Protobuf parsing failed"),
        (b"", "No graph was found"),
        (models.external("weights.bin"), "does not exist"),
        (models.external("../secret.bin"), "escapes model directory"),
        (models.external("/etc/passwd"), "Absolute path not allowed"),
    ],
    ids=["sequence", "map", "float8", "operator", "text", "empty", "lost", "outside", "absolute"],
)
def test_a_model_that_cannot_be_served_says_why_without_paths(
    tmp_path: Path, model: onnx.ModelProto | bytes, reason: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(models.EXTERNAL_WEIGHTS)
    with pytest.raises(InvalidRequest, match=reason) as caught:
        opened(tmp_path / "1", model)
    assert str(tmp_path) not in caught.value.message
    assert "/onnxruntime" not in caught.value.message


def test_a_missing_file_says_so_without_paths(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^model 'm': 'model\.onnx' is not a file$"):
        OnnxRuntime("cpu").open(tmp_path / "model.onnx", config(), CPU)


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(models.EXTERNAL_WEIGHTS)
    session = opened(tmp_path, models.external())
    (y,) = session.run({"x": np.zeros((1, 4), np.float32)}, ["y"])
    np.testing.assert_array_equal(y, [[1, 2, 3, 4]])


def test_weights_behind_a_link_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(models.EXTERNAL_WEIGHTS)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InvalidRequest, match="escapes model directory"):
        opened(tmp_path / "1", models.external())


def test_text_and_bfloat16_in_one_model_are_refused(tmp_path: Path) -> None:
    model = models.identity(DataType.BF16)
    text = models.string_identity().graph
    for part in (text.input[0], text.output[0]):
        part.name = f"text_{part.name}"
    node = text.node[0]
    node.input[0], node.output[0] = "text_x", "text_y"
    model.graph.node.append(node)
    model.graph.input.append(text.input[0])
    model.graph.output.append(text.output[0])
    with pytest.raises(InvalidRequest, match="both BYTES and BF16"):
        opened(tmp_path, model)


@pytest.mark.parametrize("level", [0, 1, -1, 2])
def test_every_level_of_optimisation_gives_the_same_answer(tmp_path: Path, level: int) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.mlp())
    chosen = ModelConfig("m", 8, (), (), None, optimization=Optimization(graph_level=level))
    session = OnnxRuntime("cpu").open(path, chosen, CPU)
    (y,) = session.run({"x": np.ones((1, 4), np.float32)}, ["y"])
    assert y.sum() == pytest.approx(1)


def test_run_options_reach_the_run(tmp_path: Path) -> None:
    shrink = {"memory.enable_memory_arena_shrinkage": "cpu:0"}
    opened(tmp_path, models.double(), **shrink).run({"x": np.ones((1, 4), np.float32)}, ["y"])
    without_arena = opened(tmp_path, models.double(), **shrink, enable_mem_arena="0")
    with pytest.raises(ExecutionFailed, match="arena"):
        without_arena.run({"x": np.ones((1, 4), np.float32)}, ["y"])


def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(tmp_path: Path) -> None:
    runtime = OnnxRuntime("auto")
    if runtime.machine.gpus:
        pytest.skip("a GPU is here")
    path = models.write_model(tmp_path / "model.onnx", models.double())
    with pytest.raises((DeviceFailed, InvalidRequest), match="cuda:0 and did not get it"):
        runtime.open(path, config(), Placement("cuda:0", 1, 1))


class FailingProvider:
    """The inner session of ONNX Runtime's Python layer, whose first run fails in its provider."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, *arguments: Any) -> Any:
        if not self.failed:
            self.failed += 1
            raise library().capi.onnxruntime_pybind11_state.EPFail("the provider failed")
        return self._inner.run(*arguments)


def sessions_that_fail_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session(library().InferenceSession):  # type: ignore[misc]  # the package has no types
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            inner: Any = self._sess  # type: ignore[has-type]  # the package has no types
            self._sess = FailingProvider(inner)
            self._fallback_providers = ["CPUExecutionProvider"]

    monkeypatch.setattr(library(), "InferenceSession", Session)


def test_onnx_runtime_itself_runs_again_on_the_cpu_after_its_provider_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next test would prove nothing."""
    sessions_that_fail_once(monkeypatch)
    path = models.write_model(tmp_path / "model.onnx", models.double())
    session = library().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(y, np.full((1, 4), 2, np.float32))


def test_a_run_whose_provider_failed_is_not_silently_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions_that_fail_once(monkeypatch)
    session = opened(tmp_path, models.double())
    with pytest.raises(ExecutionFailed, match="the provider failed"):
        session.run({"x": np.ones((1, 4), np.float32)}, ["y"])


def test_cuda_counts_gpus_as_nvidia_smi_does_unless_the_user_chose() -> None:
    program = "import os; from stoker.runtime.onnx import library; library(); "
    program += "print(os.environ['CUDA_DEVICE_ORDER'])"
    for chosen, expected in (("", "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")):
        environment = {key: os.environ[key] for key in os.environ if key != "CUDA_DEVICE_ORDER"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, **({"CUDA_DEVICE_ORDER": chosen} if chosen else {})},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have no nice value")
def test_pool_threads_run_below_the_event_loop(tmp_path: Path) -> None:
    def niceness() -> dict[str, int]:
        tasks = Path("/proc/self/task").iterdir()
        stats = {task.name: (task / "stat").read_text().rpartition(")")[2] for task in tasks}
        return {name: int(text.split()[16]) for name, text in stats.items()}

    before = niceness()
    session = opened(tmp_path, models.slow())
    started = {name: nice for name, nice in niceness().items() if name not in before}
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert started
    assert set(started.values()) == {min(19, own + 10)}
    session.close()
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_what_fails_at_low_priority_is_raised_to_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        at_low_priority(lambda: 1 // 0)


def test_a_serving_error_passes_the_translation_as_it_is() -> None:
    with pytest.raises(InvalidRequest, match=r"^mine$"), Translation("m", on_gpu=False):
        raise InvalidRequest("mine")


def test_an_interrupt_passes_the_translation() -> None:
    with pytest.raises(KeyboardInterrupt), Translation("m", on_gpu=False):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_nothing_is_written_home_when_the_runtime_is_imported(tmp_path: Path) -> None:
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    code = (
        "import sys, stoker.runtime.onnx as ours\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "ours.OnnxRuntime('cpu')\n"
        "assert 'onnxruntime' in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert list(tmp_path.rglob("*")) == []


def test_large_outputs_of_one_run_are_untouched_by_the_next(tmp_path: Path) -> None:
    # From the second run on, large outputs are views of ONNX Runtime's memory.
    session = opened(tmp_path, models.identity(DataType.FP32, ["batch", 65536]))
    inputs = [np.full((2, 65536), number, np.float32) for number in range(4)]
    outputs = [session.run({"x": x}, ["y"])[0] for x in inputs]
    session.close()
    for x, y in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not any(np.shares_memory(x, y) for x, y in zip(inputs, outputs, strict=True))


@pytest.mark.parametrize("shape", [("batch", 16384), ("batch", "width")], ids=["fixed", "variable"])
def test_an_output_that_is_an_input_is_a_copy_of_its_own(
    tmp_path: Path, shape: tuple[str | int, ...]
) -> None:
    # ONNX Runtime gives the feed's own memory for it, and leaves a bound buffer as it was.
    session = opened(tmp_path, models.passed_on(shape))
    for number in range(3):
        x = np.full((2, 16384), number + 1, np.float32)
        slab = np.zeros((2, 16384), np.float32)
        kept, doubled = session.run({"x": x}, ["x", "y"])
        written, _ = session.run({"x": x}, ["x", "y"], {"x": slab, "y": np.empty_like(x)})
        assert written is slab
        x[:] = 99
        np.testing.assert_array_equal(kept, np.full_like(x, number + 1))
        np.testing.assert_array_equal(slab, np.full_like(x, number + 1))
        np.testing.assert_array_equal(doubled, np.full_like(x, 2 * (number + 1)))


def test_an_output_in_bfloat16_that_is_an_input_is_a_copy_too(tmp_path: Path) -> None:
    x = models.tensor("x", DataType.BF16, ["batch", 4])
    cast = helper.make_node("Cast", ["x"], ["y"], to=1)
    model = models.build([cast], [x], [models.tensor("y", DataType.FP32, ["batch", 4]), x])
    session = opened(tmp_path, model)
    fed = np.full((1, 4), 7, np.uint16)
    kept, _ = session.run({"x": fed}, ["x", "y"])
    fed[:] = 99
    assert kept.tolist() == [[7] * 4]


def test_a_tensorrt_session_of_the_cpu_package_is_refused_with_the_package_to_install(
    tmp_path: Path,
) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.double())
    with pytest.raises(DeviceFailed, match="TensorRT is not to be had: the installed ONNX Runtime"):
        OnnxRuntime("cpu").open_tensorrt(path, config(), Placement("cuda:0", 1, 1), {}, Stop())


def test_a_model_on_the_cpu_has_no_candidate_and_its_parameters_are_checked_all_the_same(
    tmp_path: Path,
) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.double())
    runtime = OnnxRuntime("cpu")
    session = runtime.open(path, config(), CPU)

    def asking(**parameters: str) -> ModelConfig:
        accelerator = Accelerator("tensorrt", parameters)
        return replace(config(), optimization=Optimization(gpu_accelerators=(accelerator,)))

    assert runtime.candidate(path, tmp_path, asking(), session, max_rows=8) is None
    with pytest.raises(InvalidRequest, match="'trt_fp16'"):
        runtime.candidate(path, tmp_path, asking(trt_fp16="1"), session, max_rows=8)
