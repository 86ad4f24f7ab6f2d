"""What a model takes of a device, and whether it fits."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.model import TensorConfig
from stoker.runtime.gpu_facts import Gpu
from stoker.runtime.memory import (
    MemoryReading,
    MemoryUse,
    arena_cap,
    engine_misfit,
    host_memory,
    in_words,
    memory_reader,
    misfit,
    shrinks_arena,
    tensor_bytes,
)
from stoker.runtime.weights import Weights
from stoker.tensor import DataType

from tests.engine_parts import config

GIB = 1 << 30
GPU = MemoryReading(total=16 * GIB, used=4 * GIB)


def fits(weights: Weights, device: str, reading: MemoryReading | None, sessions: int = 1) -> bool:
    return misfit(weights, device, reading, sessions=sessions, share=0.75) is None


def test_weights_must_fit_into_what_is_left_of_the_share_of_a_gpu() -> None:
    assert fits(Weights(8 * GIB), "cuda:0", GPU)
    assert not fits(Weights(8 * GIB + 1), "cuda:0", GPU)


def test_a_faster_session_must_fit_beside_those_that_serve_and_the_refusal_has_the_numbers() -> (
    None
):
    assert engine_misfit(8 * GIB, "cuda:0", GPU, share=0.75) is None
    assert engine_misfit(8 * GIB, "cuda:0", None, share=0.75) is None
    assert engine_misfit(8 * GIB + 1, "cuda:0", GPU, share=0.75) == (
        "it does not fit beside the sessions that serve: it takes 8.0 GiB (8589934593 bytes) or "
        "more, and cuda:0 has 8.0 GiB left of 16.0 GiB (17179869184 bytes, of which models may "
        "take 75%; 4294967296 are used)"
    )


def test_weights_in_files_of_their_own_are_copied_to_a_gpu_as_well() -> None:
    assert not fits(Weights(5 * GIB, 5 * GIB), "cuda:0", GPU)


def test_every_session_on_a_gpu_has_its_own_weights() -> None:
    assert fits(Weights(4 * GIB), "cuda:0", GPU, sessions=2)
    assert not fits(Weights(4 * GIB), "cuda:0", GPU, sessions=3)


def test_on_the_cpu_weights_in_files_of_their_own_need_room_for_themselves_only() -> None:
    assert fits(Weights(12 * GIB), "cpu", GPU)
    assert not fits(Weights(12 * GIB + 1), "cpu", GPU)
    assert fits(Weights(0, 16 * GIB), "cpu", GPU)
    assert not fits(Weights(0, 16 * GIB + 1), "cpu", GPU)


def test_a_device_that_cannot_be_read_refuses_nothing() -> None:
    assert fits(Weights(1 << 60), "cuda:0", None)


def test_a_refusal_has_all_the_numbers() -> None:
    weights = Weights(10 * GIB)
    assert misfit(weights, "cuda:1", GPU, sessions=2, share=0.75) == (
        "it does not fit: its weights take 10.0 GiB (10737418240 bytes) in each of 2 sessions, and "
        "cuda:1 has 8.0 GiB left of 16.0 GiB (17179869184 bytes, of which models may take 75%; "
        "4294967296 are used)"
    )
    assert misfit(Weights(20 * GIB), "cpu", GPU, sessions=1, share=0.75) == (
        "it does not fit: its weights take 20.0 GiB (21474836480 bytes), and the memory limit of "
        "this process has 12.0 GiB left of 16.0 GiB (17179869184 bytes; 4294967296 are used)"
    )


def test_a_gpu_that_is_full_has_nothing_left_and_not_less() -> None:
    full = MemoryReading(total=16 * GIB, used=15 * GIB)
    sentence = misfit(Weights(1), "cuda:0", full, sessions=1, share=0.75)
    assert sentence is not None
    assert "0 bytes left" in sentence
    assert arena_cap(full, "cuda:0", sessions=1, share=0.75) == 0


def test_an_arena_may_grow_to_what_is_left_shared_by_the_models_sessions() -> None:
    assert arena_cap(GPU, "cuda:0", sessions=1, share=0.75) == 8 * GIB
    assert arena_cap(GPU, "cuda:0", sessions=2, share=0.75) == 4 * GIB
    assert arena_cap(GPU, "cpu", sessions=1, share=0.75) == 0
    assert arena_cap(None, "cuda:0", sessions=1, share=0.75) == 0


@given(
    st.integers(1, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(1, 8),
    st.floats(0, 1),
    st.integers(0, 1 << 40),
)
def test_what_fits_is_within_its_cap(
    total: int, used: int, sessions: int, share: float, weights: int
) -> None:
    reading = MemoryReading(total, used)
    cap = arena_cap(reading, "cuda:0", sessions=sessions, share=share)
    if misfit(Weights(weights), "cuda:0", reading, sessions=sessions, share=share) is None:
        assert weights <= cap
    assert cap * sessions + used <= total or cap == 0


def test_tensors_of_the_largest_batch_are_counted() -> None:
    assert tensor_bytes(config(max_batch_size=8)) == 2 * 8 * 4 * 4
    assert tensor_bytes(config(max_batch_size=1)) == 2 * 1 * 4 * 4
    wide = TensorConfig("x", DataType.FP16, (-1, 10))
    text = TensorConfig("t", DataType.BYTES, (3,))
    assert tensor_bytes(replace(config(max_batch_size=4), inputs=(wide, text))) == 4 * 20 + 4 * 16


def test_what_was_not_measured_is_left_out() -> None:
    use = MemoryUse(weights=1 << 20, tensors=512)
    assert use.kinds() == {"weights": 1 << 20, "tensors": 512}
    assert str(use) == "weights 1.0 MiB, tensors 512 bytes"
    whole = replace(use, loaded=3 << 30, workspace=-2048)
    assert str(whole) == ("weights 1.0 MiB, tensors 512 bytes, loaded 3.0 GiB, workspace -2.0 KiB")


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB")]
)
def test_bytes_are_told_in_words(nbytes: int, text: str) -> None:
    assert in_words(nbytes) == text


def test_an_arena_is_shrunk_when_asked_and_after_memory_ran_out() -> None:
    def shrinks(asked: str = "", device: str = "cuda:1", *, ran_out: bool = False) -> str:
        return shrinks_arena(asked=asked, device=device, ran_out=ran_out, captures_graphs=False)

    assert shrinks() == ""
    assert shrinks(ran_out=True) == "gpu:1"
    assert shrinks(device="cpu", ran_out=True) == "cpu:0"
    assert shrinks("cpu:0;gpu:0") == "cpu:0;gpu:0"


def test_an_arena_with_captured_graphs_is_never_shrunk() -> None:
    for asked in ("", "gpu:0"):
        assert not shrinks_arena(asked=asked, device="cuda:0", ran_out=True, captures_graphs=True)


def test_a_gpu_is_read_by_its_own_name_and_one_that_does_not_tell_is_not_read() -> None:
    gpus = (Gpu(0, memory_bytes=100), Gpu(1, memory_bytes=200), Gpu(2))
    free = {0: 30, 1: None}
    read = memory_reader(lambda: gpus, None, lambda asked: tuple(free[gpu.index] for gpu in asked))
    assert read("cuda:0") == MemoryReading(100, 70)
    assert read("cuda:1") is None
    assert read("cuda:2") is None
    assert read("cuda:3") is None
    on_host, now = read("cpu"), host_memory(None)
    assert on_host is not None
    assert now is not None
    assert on_host.total == now.total


def machine(root: Path, status: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/status").write_text(status)
    (root / "proc/meminfo").write_text("MemTotal:       1000 kB\nMemFree:  10 kB\n")
    return root


def test_memory_in_files_is_not_used_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, "VmRSS: 90 kB\nRssAnon:\t 40 kB\nRssFile: 45 kB\nRssShmem: 5 kB\n")
    assert host_memory(None, root) == MemoryReading(1000 << 10, 45 << 10)
    assert host_memory(500 << 10, root) == MemoryReading(500 << 10, 45 << 10)
    assert host_memory(5000 << 10, root) == MemoryReading(1000 << 10, 45 << 10)


def test_a_kernel_that_does_not_tell_gives_no_reading(tmp_path: Path) -> None:
    assert host_memory(None, machine(tmp_path, "VmRSS: 90 kB\n")) is None
    assert host_memory(None, tmp_path / "none") is None


def test_this_process_has_some_memory() -> None:
    reading = host_memory(None)
    assert reading is not None
    assert 0 < reading.used < reading.total
