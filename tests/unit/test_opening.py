"""Opening a version: what is refused before it is opened, what is told of memory, and what a load
that fails leaves behind."""

import gc
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.errors import DeviceFailed, OutOfMemory, Reach, ServingError
from stoker.lifecycle.memory_fit import MemoryFit
from stoker.lifecycle.opening import ModelDefinition, Opener
from stoker.repository.local import scan
from stoker.runtime.memory import MemoryReading, host_memory
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.onnx_session import OnnxSession
from stoker.runtime.session import Placement
from stoker.tensor import DataType

from tests import models
from tests.fake_runtime import FakeModel, FakeRuntime

ROUNDS = 50
MIB = 1 << 20
WEIGHTS = 8 * MIB
"""Of the model that fails: what each round would leak."""


def definition(folder: Path, model: onnx.ModelProto | bytes, text: str = "") -> ModelDefinition:
    entry = models.ModelEntry(model, text, files={"warmup/short": b"00"})
    return scan([models.write_repository(folder / "repository", {"m": entry})]).models["m"]


def heavy() -> onnx.ModelProto:
    """y = x @ w."""
    weights = np.zeros((WEIGHTS // 4096, 1024), np.float32)
    weights[:] = np.arange(1024)
    return models.build(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", DataType.FP32, ["batch", len(weights)])],
        [models.tensor("y", DataType.FP32, ["batch", 1024])],
        {"w": weights},
    )


CONTRADICTION = 'input { name: "x" data_type: TYPE_INT64 dims: [ 2048 ] }'
BAD_SAMPLE = (
    'max_batch_size: 4 model_warmup { name: "s" batch_size: 1 '
    'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 2048 ] input_data_file: "short" } } }'
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "text", "reason"),
    [
        (heavy(), CONTRADICTION, "INT64"),
        (heavy(), BAD_SAMPLE, "expected 8192 bytes for one row"),
        (heavy().SerializeToString()[:-1000], "", "cannot open"),
    ],
    ids=["after opening", "in warm-up", "while opening"],
)
def test_loads_that_fail_leave_nothing_behind(
    tmp_path: Path, model: onnx.ModelProto | bytes, text: str, reason: str
) -> None:
    found = definition(tmp_path, model, text)
    opener = Opener(OnnxRuntime("cpu"), profile_seconds=0)

    def fail(rounds: int) -> tuple[int, int, int, int]:
        """How many sessions, files, threads and bytes there are after so many failures."""
        for _ in range(rounds):
            with pytest.raises(ServingError, match=reason):
                opener.open(found, 1)
        gc.collect()
        sessions = sum(isinstance(each, OnnxSession) for each in gc.get_objects())
        memory = host_memory(None)
        assert memory is not None
        files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        return sessions, files, threads, memory.used

    sessions, files, threads, used = fail(3)
    sessions_later, files_later, threads_later, used_later = fail(ROUNDS)
    assert (sessions_later, files_later) == (sessions, files)
    # The kernel shows a thread for a moment after it was joined.
    assert threads_later - threads < ROUNDS // 5
    assert used_later - used < ROUNDS * WEIGHTS // 4


GPU = (Placement("cuda:0", 1, 1),)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_before_it_is_opened(
    tmp_path: Path,
) -> None:
    runtime = FakeRuntime(placements=GPU)
    fit = MemoryFit(lambda device: MemoryReading(16 * MIB, 9 * MIB), gpu_memory_share=1.0)
    opener = Opener(runtime, memory=fit)
    with pytest.raises(OutOfMemory, match=r"weights take 8.0 MiB .* cuda:0 has 7.0 MiB left of"):
        opener.open(definition(tmp_path, heavy()), 1)
    assert not runtime.sessions
    report = opener.inspect(definition(tmp_path, heavy()), 1)
    assert "cuda:0 has 7.0 MiB left of 16.0 MiB" in report.problems[0]


def test_the_control_groups_limit_refuses_on_the_cpu(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    opener = Opener(runtime, memory=MemoryFit(lambda device: host_memory(4 * MIB)))
    with pytest.raises(OutOfMemory, match="the memory limit of this process"):
        opener.open(definition(tmp_path, heavy()), 1)
    assert not runtime.sessions


class Recording(FakeRuntime):
    """Keeps the cap of each arena that was asked for."""

    def __init__(self) -> None:
        super().__init__(placements=(Placement("cuda:0", 1, 1), Placement("cuda:0", 1, 1)))
        self.caps: list[str | None] = []

    def open(self, path: Path, config, placement):  # type: ignore[no-untyped-def]  # as the fake's
        self.caps.append(config.parameters.get("gpu_mem_limit"))
        return super().open(path, config, placement)


FAKE = 'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } '


def test_an_arena_is_capped_by_what_the_gpu_has_left_unless_the_file_says_how(
    tmp_path: Path,
) -> None:
    runtime = Recording()
    fit = MemoryFit(lambda device: MemoryReading(100, 40), gpu_memory_share=0.8)
    opener = Opener(runtime, profile_seconds=0, memory=fit)
    opener.open(definition(tmp_path / "a", b"fake"), 1)
    assert runtime.caps == ["20", "20"]
    written = 'parameters { key: "gpu_mem_limit" value { string_value: "77" } }'
    opener.open(definition(tmp_path / "b", b"fake", written), 1)
    assert runtime.caps[2:] == ["77", "77"]


def test_what_a_version_takes_is_measured_while_it_is_opened_and_warmed(tmp_path: Path) -> None:
    used = 0

    def grow(feeds: object) -> None:
        nonlocal used
        used += 3

    class Growing(FakeRuntime):
        def open(self, path: Path, config, placement):  # type: ignore[no-untyped-def]  # as the fake's
            nonlocal used
            used += 1000
            return super().open(path, config, placement)

    runtime = Growing(FakeModel(fail=grow), placements=GPU)
    fit = MemoryFit(lambda device: MemoryReading(1 << 40, used))
    opened = Opener(runtime, profile_seconds=0, memory=fit).open(definition(tmp_path, heavy()), 1)
    assert opened.memory is not None
    assert opened.memory.weights == WEIGHTS
    assert opened.memory.loaded == 1000
    assert opened.memory.workspace == 3 * len(runtime.runs)


@pytest.mark.parametrize("reach", [Reach.MODEL, Reach.PROCESS])
def test_a_session_in_a_dead_context_is_not_freed(tmp_path: Path, reach: Reach) -> None:
    error = DeviceFailed("CUDA failure 700", reach=reach)
    runtime = FakeRuntime(FakeModel(fail=lambda feeds: error), placements=GPU)
    with pytest.raises(DeviceFailed):
        Opener(runtime).open(definition(tmp_path, b"fake"), 1)
    assert [session.closed for session in runtime.sessions] == [reach is Reach.MODEL]
