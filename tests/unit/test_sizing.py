"""From a measurement to the numbers of an overlay."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.deploy.gpu_sizes import SLICES, WHOLE, mig_bytes, smallest
from stoker.deploy.memory_need import memory_need, slab_bytes
from stoker.deploy.quantity import GIB, MIB
from stoker.deploy.sizing import Wishes, size

from tests.broken_manifests import measurement

CPU = Wishes(device="cpu")


def test_memory_is_the_measured_process_with_two_buffers_slabs_and_the_allocator() -> None:
    measured = measurement(on_gpu=False, peak_bytes=1 * GIB, rows=8)
    need = memory_need(measured, buffered_bytes=256 * MIB)
    slabs = 4 * 8 * (600 * 1024 + 4000)
    parts = {part.name: part.nbytes for part in need.parts}
    assert parts == {
        "process": 1 * GIB,
        "buffered": 512 * MIB,
        "slabs": slabs,
        "allocator": 64 * MIB,
    }
    sized = size(measured, CPU)
    assert sized.memory.total == sum(parts.values())
    # 1.25 times the sum, up to 64 MiB.
    assert sized.memory_limit == 2048 * MIB
    assert sized.memory_request == 1408 * MIB


def test_cuda_on_the_host_is_added_only_where_no_gpu_was_measured() -> None:
    def names(*, on_gpu: bool) -> set[str]:
        need = memory_need(measurement(on_gpu=on_gpu), buffered_bytes=MIB, for_gpu=True)
        return {part.name for part in need.parts}

    assert names(on_gpu=False) - names(on_gpu=True) == {"gpu"}


def test_slabs_of_a_side_are_bounded_and_counted_for_each_instance() -> None:
    (model,) = measurement(rows=128).models
    assert slab_bytes(model) == 4 * (32 * MIB + 128 * 4000)
    assert slab_bytes(replace(model, instances=3)) == 3 * slab_bytes(model)


def test_the_buffer_holds_four_of_the_largest_batches() -> None:
    assert size(measurement(rows=8), CPU).buffered_bytes == 256 * MIB
    large = size(measurement(rows=1024), CPU)
    assert 4 * 1024 * 618_400 <= large.buffered_bytes < 4 * 1024 * 618_400 + 64 * MIB
    assert "'resnet'" in large.buffered_origin
    assert size(measurement(), replace(CPU, buffered_bytes=5)).buffered_bytes == 5


@pytest.mark.parametrize(
    ("start_s", "device", "on_gpu", "budget"),
    [
        (2.0, "cpu", False, 60),
        (40.0, "cpu", False, 120),
        (200.0, "cpu", False, 600),
        (40.0, "gpu", True, 360),
        (400.0, "gpu", True, 1200),
        (40.0, "gpu", False, 600),
        (300.0, "gpu", False, 900),
    ],
)
def test_the_startup_budget_is_three_times_the_measured_start(
    start_s: float, device: str, on_gpu: bool, budget: int
) -> None:
    sized = size(measurement(start_s=start_s, on_gpu=on_gpu), Wishes(device=device))
    assert sized.startup_s == budget
    assert sized.progress_s > budget


@pytest.mark.parametrize(
    ("files_bytes", "download_s"),
    [
        (0, 300),  # the weights, 100 MiB: no download is taken to be shorter
        (6000 * MIB, 300),
        (6001 * MIB, 301),
        (400 * GIB, 20480),
    ],
)
def test_a_rollout_waits_for_the_download_too(files_bytes: int, download_s: int) -> None:
    measured = measurement(files_bytes=files_bytes)
    without = size(measured, CPU)
    sized = size(measured, replace(CPU, downloads_models=True))
    assert sized.progress_s == without.progress_s + download_s
    assert f"{download_s} s to download the models" in sized.progress_origin
    assert "download" not in without.progress_origin


@pytest.mark.parametrize(
    ("files_bytes", "volume_gib", "requested_gib"),
    [(0, 20, 1), (1 * GIB, 20, 1), (15 * GIB, 23, 15), (30 * GIB + 1, 46, 31)],
)
def test_a_volume_for_models_holds_them_one_and_a_half_times(
    files_bytes: int, volume_gib: int, requested_gib: int
) -> None:
    volume = size(measurement(files_bytes=files_bytes), CPU).volume
    assert (volume.nbytes, volume.requested_bytes) == (volume_gib * GIB, requested_gib * GIB)
    assert volume.is_known is (files_bytes > 0)
    assert ("not known" in volume.origin) is (files_bytes == 0)


def test_the_memory_that_was_measured_is_told_as_the_screen_tells_it() -> None:
    sized = size(measurement(peak_bytes=int(263.7 * MIB)), CPU)
    assert any(note.startswith("Measured with 264 MiB resident") for note in sized.notes)


def test_the_grace_period_covers_the_drain_and_more() -> None:
    assert size(measurement(), CPU).grace_s == 60
    assert size(measurement(), replace(CPU, drain_delay_s=2, drain_timeout_s=13)).grace_s == 40


@pytest.mark.parametrize(
    ("wishes", "step"),
    [
        (CPU, (1, 0)),
        (Wishes(device="gpu"), (0, 1)),
        (Wishes(device="gpu", has_spare_gpu=True), (1, 0)),
        (Wishes(device="gpu", least=1), (0, 1)),
    ],
)
def test_a_rollout_surges_only_where_there_is_room(wishes: Wishes, step: tuple[int, int]) -> None:
    sized = size(measurement(), wishes)
    assert (sized.surge, sized.unavailable) == step
    assert ("gap" in sized.strategy_origin) is (wishes.least == 1)


def test_a_single_replica_has_no_budget_and_says_so() -> None:
    single = size(measurement(), replace(CPU, least=1, most=1))
    assert not single.has_budget
    assert any("no disruption budget" in note for note in single.notes)
    assert size(measurement(), replace(CPU, least=1, most=2)).has_budget


def test_gpu_memory_is_what_the_models_took_over_their_share() -> None:
    gpu = size(measurement(loaded_bytes=8 * GIB), Wishes()).gpu
    assert gpu is not None
    assert gpu.is_measured
    assert gpu.nbytes == pytest.approx(9 * GIB / 0.9, abs=1)
    assert gpu.whole is not None
    assert gpu.slice is not None
    assert gpu.whole.name == "T4"
    assert gpu.slice.resource == "nvidia.com/mig-2g.20gb"
    assert "measured on NVIDIA L4" in gpu.origin


def test_a_small_model_still_needs_room_for_the_context() -> None:
    gpu = size(measurement(loaded_bytes=0), Wishes()).gpu
    assert gpu is not None
    assert gpu.nbytes == 1 * GIB + 600 * MIB


def test_without_a_gpu_the_memory_is_an_estimate_and_a_note_says_so() -> None:
    sized = size(measurement(on_gpu=False, peak_bytes=9 * GIB), Wishes())
    assert sized.gpu is not None
    assert not sized.gpu.is_measured
    assert sized.gpu.nbytes == pytest.approx(10 * GIB, abs=1)
    assert "not measured on a GPU" in sized.gpu.origin
    assert any(note.startswith("No GPU was measured") for note in sized.notes)
    assert size(measurement(on_gpu=False), CPU).gpu is None


def test_models_that_fit_no_gpu_are_told() -> None:
    sized = size(measurement(loaded_bytes=200 * GIB), Wishes())
    assert sized.gpu is not None
    assert sized.gpu.whole is None
    assert any("split the models" in note for note in sized.notes)


def test_what_the_measurement_cannot_see_is_told() -> None:
    measured = measurement()
    blind = replace(measured.models[0], has_variable_shapes=True, row_seconds=None)
    notes = size(replace(measured, models=(blind,)), CPU).notes
    assert any(note.startswith("Variable dimensions of resnet") for note in notes)
    assert any(note.startswith("No cost curve of resnet") for note in notes)


@given(
    st.integers(1, 64 * GIB), st.integers(1, 1024), st.floats(0.1, 3600), st.integers(1, 4 * GIB)
)
def test_the_limit_always_covers_the_sum_and_the_request(
    peak: int, rows: int, start_s: float, buffered: int
) -> None:
    measured = measurement(peak_bytes=peak, rows=rows, start_s=start_s, on_gpu=False)
    sized = size(measured, replace(CPU, buffered_bytes=buffered))
    assert sized.memory_request <= sized.memory_limit
    assert sized.memory_limit >= 1.25 * sized.memory.total - 1
    assert sized.startup_s >= 3 * start_s


def test_sizes_ascend_and_the_smallest_that_fits_is_chosen() -> None:
    for sizes in (WHOLE, SLICES):
        assert list(sizes) == sorted(sizes, key=lambda each: each.memory_mib)
        assert smallest(1, sizes) is sizes[0]
        assert smallest(sizes[1].memory_mib * MIB, sizes) is sizes[1]
        assert smallest(sizes[-1].memory_mib * MIB + 1, sizes) is None


def test_a_mig_resource_tells_its_memory() -> None:
    assert mig_bytes("nvidia.com/mig-1g.10gb") == 9728 * MIB
    assert mig_bytes("nvidia.com/mig-4g.47gb") == 47 * 1000**3
    assert mig_bytes("nvidia.com/gpu") is None
