"""What a GPU answers after a failure, asked of a CUDA runtime that stands in."""

import pytest
from stoker.errors import DeviceFailed, Reach
from stoker.runtime.cuda import CudaRuntime
from stoker.runtime.cuda_memory import CudaMemory, PinnedBudget
from stoker.runtime.device_probe import UNASKED, device_probe
from stoker.runtime.translation import Translation

from tests.cudart_stub import CudartStub

CUBLAS = "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=3"


def load(cudart: CudartStub) -> CudaRuntime:
    return CudaRuntime(str(cudart.path))


def test_a_device_that_is_well_says_so_also_while_it_works(cudart: CudartStub) -> None:
    probe = device_probe(3, lambda: load(cudart))
    assert probe() == 0
    assert cudart.device == 3
    cudart.be_busy()
    assert probe() == 0


@pytest.mark.parametrize("call", ["cudaSetDevice", "cudaStreamQuery"])
def test_a_dead_device_says_of_what(cudart: CudartStub, call: str) -> None:
    cudart.fail(call, 700)
    assert device_probe(3, lambda: load(cudart))() == 700


def test_without_the_cuda_runtime_nothing_is_known() -> None:
    assert device_probe(0, lambda: CudaRuntime("libnothing.so.1"))() == UNASKED


@pytest.mark.parametrize(("state", "reach"), [(0, Reach.RUN), (700, Reach.PROCESS)])
def test_a_failure_that_says_nothing_is_judged_by_the_device(
    cudart: CudartStub, state: int, reach: Reach
) -> None:
    cudart.fail("cudaStreamQuery", state)
    translation = Translation("m", on_gpu=True, probe=device_probe(3, lambda: load(cudart)))
    with pytest.raises(DeviceFailed) as raised, translation:
        raise RuntimeError(CUBLAS)
    assert raised.value.reach is reach


@pytest.mark.parametrize(("code", "reach"), [(1, Reach.RUN), (719, Reach.PROCESS)])
def test_a_copy_that_fails_on_a_device_that_answers_is_of_its_run_only(
    cudart: CudartStub, code: int, reach: Reach
) -> None:
    memory = CudaMemory(load(cudart), 0, PinnedBudget(1 << 20), model="m")
    device, slab = memory.allocate(64), memory.slab(64)
    cudart.fail("cudaMemcpyAsync", code)
    with pytest.raises(DeviceFailed) as raised:
        memory.copy_in(device, slab.address, 64)
    assert raised.value.reach is reach
    memory.close()
