"""Memory of fixed bindings: slabs, device buffers, and what is left when they are closed."""

import gc
import logging

import numpy as np
import pytest
from stoker.errors import DeviceFailed, OutOfMemory
from stoker.runtime.cuda import CudaRuntime
from stoker.runtime.cuda_memory import PINNED_SHARE, CudaMemory, PinnedBudget, pinned_budget
from stoker.runtime.device_memory import ALIGNMENT, LARGE_BYTES, HostMemory

from tests.cudart_stub import CudartStub

NOTHING = {"buffers": 0, "page-locked": 0, "streams": 0, "events": 0}
PAGE = 4096


def gpu(cudart: CudartStub, *, limit: int = 1 << 20, index: int = 0) -> CudaMemory:
    return CudaMemory(CudaRuntime(str(cudart.path)), index, PinnedBudget(limit), model="m")


@pytest.mark.parametrize("nbytes", [1, 63, 64, 100_000])
def test_host_slabs_are_aligned_and_as_long_as_asked(nbytes: int) -> None:
    slab = HostMemory().slab(nbytes)
    assert slab.array.nbytes == nbytes
    assert slab.address % (ALIGNMENT if nbytes < LARGE_BYTES else PAGE) == 0
    assert slab.array.flags.c_contiguous


def test_zeros_reach_exactly_the_bytes_that_are_named() -> None:
    memory = HostMemory()
    slab = memory.slab(16)
    slab.array[:] = 7
    memory.clear(slab.address + 4, 8)
    assert slab.array.tolist() == [7] * 4 + [0] * 8 + [7] * 4


def test_a_gpus_slab_is_page_locked_in_whole_pages(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    slab = memory.slab(PAGE + 1)
    assert slab.is_page_locked
    assert slab.array.nbytes == PAGE + 1
    assert slab.address % PAGE == 0
    assert cudart.calls[-1] == f"host_register {2 * PAGE} 1"
    memory.close()


def test_page_locked_bytes_are_bounded_for_the_process_and_come_back(
    cudart: CudartStub, caplog: pytest.LogCaptureFixture
) -> None:
    budget = PinnedBudget(3 * PAGE)
    cuda = CudaRuntime(str(cudart.path))
    first = CudaMemory(cuda, 0, budget, model="a")
    second = CudaMemory(cuda, 0, budget, model="b")
    assert first.slab(2 * PAGE).is_page_locked
    with caplog.at_level(logging.WARNING):
        pageable = second.slab(2 * PAGE)
    assert not pageable.is_page_locked
    assert "are not page-locked" in caplog.text
    pageable.array[:] = 1  # usable all the same
    assert second.slab(PAGE).is_page_locked
    first.close()
    assert budget.used_bytes == PAGE
    assert second.slab(2 * PAGE).is_page_locked
    second.close()
    assert budget.used_bytes == 0
    assert cudart.left == NOTHING


def test_memory_that_cannot_be_page_locked_is_used_as_it_is(
    cudart: CudartStub, caplog: pytest.LogCaptureFixture
) -> None:
    memory = gpu(cudart)
    cudart.fail("cudaHostRegister", 2)
    with caplog.at_level(logging.WARNING):
        assert not memory.slab(PAGE).is_page_locked
    assert "CUDA failure 2" in caplog.text
    memory.close()


def test_the_budget_is_a_share_of_the_memory_of_the_process() -> None:
    assert pinned_budget(1 << 30).limit_bytes == int((1 << 30) * PINNED_SHARE)


def test_closing_unlocks_and_frees_everything_after_the_stream_is_done(
    cudart: CudartStub,
) -> None:
    memory = gpu(cudart)
    memory.slab(PAGE)
    memory.allocate(100)
    memory.allocate(200)
    cudart.forget()
    memory.close()
    assert cudart.calls == [
        "stream_synchronize",
        f"host_unregister {PAGE}",
        "free 100",
        "free 200",
        "event_destroy",
        "stream_destroy",
    ]
    assert cudart.left == NOTHING


def test_closing_twice_closes_once(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    memory.close()
    cudart.forget()
    memory.close()
    assert cudart.calls == []


def test_a_slab_outlives_its_memory_as_long_as_somebody_reads_it(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    slab = memory.slab(PAGE)
    slab.array[:] = 5
    view = slab.array[100:200]
    memory.close()
    del slab, memory
    gc.collect()
    assert view.tolist() == [5] * 100


def test_closing_goes_on_where_the_device_is_gone(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    memory.slab(PAGE)
    memory.allocate(100)
    cudart.fail("cudaStreamSynchronize", 700)
    memory.close()
    assert cudart.left == NOTHING


def test_a_device_without_room_is_out_of_memory(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    cudart.fail("cudaMalloc", 2)
    with pytest.raises(OutOfMemory, match="model 'm'"):
        memory.allocate(1 << 20)
    memory.close()


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventSynchronize"])
def test_a_device_that_breaks_is_told_without_host_and_file(name: str, cudart: CudartStub) -> None:
    memory = gpu(cudart)
    slab, device = memory.slab(64), memory.allocate(64)
    cudart.fail(name, 700)

    def steps() -> None:
        memory.copy_in(device, slab.address, 64)
        memory.clear(device, 64)
        memory.copy_out(slab.address, device, 64)
        memory.wait()

    with pytest.raises(DeviceFailed, match="CUDA failure 700: an illegal memory access"):
        steps()
    memory.close()


@pytest.mark.parametrize(
    "name", ["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"]
)
def test_a_memory_that_cannot_be_opened_leaves_nothing(name: str, cudart: CudartStub) -> None:
    cudart.fail(name, 100)
    with pytest.raises(DeviceFailed, match="CUDA failure 100"):
        gpu(cudart)
    assert cudart.left == NOTHING


def test_each_thread_that_comes_chooses_the_device_once(cudart: CudartStub) -> None:
    memory = gpu(cudart, index=3)
    memory.enter()
    memory.enter()
    assert cudart.calls.count("set_device 3") == 1
    assert cudart.device == 3
    memory.close()


def test_what_is_copied_out_is_there_after_the_wait_and_not_before(cudart: CudartStub) -> None:
    memory = gpu(cudart)
    given, got = memory.slab(64), memory.slab(64)
    device = memory.allocate(64)
    given.array[:] = np.arange(64)
    got.array[:] = 0
    memory.copy_in(device, given.address, 64)
    memory.copy_out(got.address, device, 64)
    assert not got.array.any()
    memory.wait()
    assert got.array.tolist() == list(range(64))
    memory.close()
