"""Memory of a GPU: ONNX Runtime's real arena on a device whose memory is counted."""

from collections.abc import Mapping
from typing import Any

from tests.stub.libraries import ONE_GPU, Libraries, ask
from tests.stub.stub_models import WEIGHTY_BYTES

ROW_BYTES = 1024 * 4
LARGE = 4096
SLACK = 1 << 16
"""Alignment and small buffers."""
DOUBLING = {"arena_extend_strategy": "kNextPowerOfTwo"}
SHRINKING = {"memory.enable_memory_arena_shrinkage": "gpu:0"}


def took(
    libraries: Libraries,
    *rows: int,
    memory: int | None = None,
    parameters: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a session with these parameters took for runs of so many rows."""
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    if memory is not None:
        environment["STUB_CUDA_MEMORY"] = str(memory)
    request = {"parameters": parameters or {}, "rows": rows}
    (answer,) = ask("memory_probe", [request], environment)
    return answer


def test_a_session_that_is_closed_gives_all_of_its_memory_back(libraries: Libraries) -> None:
    found = took(libraries, 1, LARGE)
    assert found["refused"] == []
    assert WEIGHTY_BYTES <= found["open"] - found["before"] <= WEIGHTY_BYTES + SLACK
    assert found["after"][1] - found["open"] >= LARGE * ROW_BYTES
    assert found["closed"] == found["before"]


def test_our_arena_takes_less_than_one_that_doubles(libraries: Libraries) -> None:
    ours = took(libraries, 1, LARGE)["after"][-1]
    doubling = took(libraries, 1, LARGE, parameters=DOUBLING)["after"][-1]
    assert ours < doubling


def test_a_model_that_does_not_fit_is_refused_and_leaves_nothing_behind(
    libraries: Libraries,
) -> None:
    found = took(libraries, memory=WEIGHTY_BYTES // 2)
    assert found["refused"] == ["OutOfMemory: model 'm': its weights did not fit into memory"]
    assert found["closed"] == found["before"]


def test_a_batch_that_does_not_fit_fails_and_smaller_ones_still_run(libraries: Libraries) -> None:
    found = took(libraries, 1, LARGE, 1, memory=WEIGHTY_BYTES * 2)
    (refused,) = found["refused"]
    assert refused.startswith("OutOfMemory: model 'm': an allocation of ")
    assert found["closed"] == found["before"]


def test_the_memory_limit_of_a_model_is_kept(libraries: Libraries) -> None:
    limit = WEIGHTY_BYTES * 2
    found = took(libraries, 1, LARGE, 1, parameters={"gpu_mem_limit": str(limit)})
    (refused,) = found["refused"]
    assert refused.startswith("OutOfMemory: model 'm': an allocation of ")
    assert max(found["after"]) <= limit + SLACK


def test_shrinkage_gives_back_what_a_large_run_took(libraries: Libraries) -> None:
    kept = took(libraries, LARGE, 1)["after"][-1]
    shrunk = took(libraries, LARGE, 1, parameters=SHRINKING)["after"][-1]
    assert kept - shrunk >= LARGE * ROW_BYTES
