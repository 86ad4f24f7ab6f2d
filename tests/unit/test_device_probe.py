"""What a GPU answers after a failure, asked of a CUDA runtime that stands in."""

from collections.abc import Iterator

import pytest
from stoker.errors import DeviceFailed, Reach
from stoker.runtime.cuda import CudaRuntime
from stoker.runtime.cuda_memory import CudaMemory, PinnedBudget
from stoker.runtime.device_probe import UNASKED, device_probe
from stoker.runtime.translation import Translation

from tests.cudart_stub import CudartStub
from tests.tools import require_tool

CUBLAS = "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=3"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> CudartStub:
    require_tool("gcc")
    stub = CudartStub.build(tmp_path_factory.mktemp("cudart"))
    assert stub is not None
    return stub


@pytest.fixture
def stub(built: CudartStub) -> Iterator[CudartStub]:
    """A CUDA runtime that has been asked nothing yet."""
    built.reset()
    yield built
    built.reset()


def load(stub: CudartStub) -> CudaRuntime:
    return CudaRuntime(str(stub.path))


def test_a_device_that_is_well_says_so_also_while_it_works(stub: CudartStub) -> None:
    probe = device_probe(3, lambda: load(stub))
    assert probe() == 0
    assert stub.device == 3
    stub.be_busy()
    assert probe() == 0


@pytest.mark.parametrize("call", ["cudaSetDevice", "cudaStreamQuery"])
def test_a_dead_device_says_of_what(stub: CudartStub, call: str) -> None:
    stub.fail(call, 700)
    assert device_probe(3, lambda: load(stub))() == 700


def test_without_the_cuda_runtime_nothing_is_known() -> None:
    assert device_probe(0, lambda: CudaRuntime("libnothing.so.1"))() == UNASKED


@pytest.mark.parametrize(("state", "reach"), [(0, Reach.RUN), (700, Reach.PROCESS)])
def test_a_failure_that_says_nothing_is_judged_by_the_device(
    stub: CudartStub, state: int, reach: Reach
) -> None:
    stub.fail("cudaStreamQuery", state)
    translation = Translation("m", on_gpu=True, probe=device_probe(3, lambda: load(stub)))
    with pytest.raises(DeviceFailed) as raised, translation:
        raise RuntimeError(CUBLAS)
    assert raised.value.reach is reach


@pytest.mark.parametrize(("code", "reach"), [(1, Reach.RUN), (719, Reach.PROCESS)])
def test_a_copy_that_fails_on_a_device_that_answers_is_of_its_run_only(
    stub: CudartStub, code: int, reach: Reach
) -> None:
    memory = CudaMemory(load(stub), 0, PinnedBudget(1 << 20), model="m")
    device, slab = memory.allocate(64), memory.slab(64)
    stub.fail("cudaMemcpyAsync", code)
    with pytest.raises(DeviceFailed) as raised:
        memory.copy_in(device, slab.address, 64)
    assert raised.value.reach is reach
    memory.close()
