"""The CUDA runtime's calls: what is passed, and what a failure of each becomes."""

from collections.abc import Callable

import pytest
from stoker.runtime.cuda import CudaError, CudaRuntime, CudaUnavailable
from stoker.runtime.faults import Fault, classify

from tests.cudart_stub import CudartStub


@pytest.fixture
def cuda(cudart: CudartStub) -> CudaRuntime:
    return CudaRuntime(str(cudart.path))


CALLS: dict[str, Callable[[CudaRuntime], object]] = {
    "cudaSetDevice": lambda cuda: cuda.set_device(0),
    "cudaStreamCreateWithFlags": lambda cuda: cuda.stream_create(),
    "cudaStreamDestroy": lambda cuda: cuda.stream_destroy(1),
    "cudaStreamSynchronize": lambda cuda: cuda.stream_synchronize(1),
    "cudaStreamQuery": lambda cuda: cuda.stream_is_idle(1),
    "cudaEventCreateWithFlags": lambda cuda: cuda.event_create(),
    "cudaEventDestroy": lambda cuda: cuda.event_destroy(1),
    "cudaEventRecord": lambda cuda: cuda.event_record(1, 1),
    "cudaEventSynchronize": lambda cuda: cuda.event_synchronize(1),
    "cudaMalloc": lambda cuda: cuda.malloc(64),
    "cudaFree": lambda cuda: cuda.free(1),
    "cudaHostRegister": lambda cuda: cuda.host_register(4096, 4096),
    "cudaHostUnregister": lambda cuda: cuda.host_unregister(4096),
    "cudaMemcpyAsync": lambda cuda: cuda.copy_in(1, 1, 1, 1),
    "cudaMemsetAsync": lambda cuda: cuda.clear(1, 1, 1),
    "cudaMemGetInfo": lambda cuda: cuda.memory_info(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_failure_of_any_call_is_raised_with_number_name_and_call(
    name: str, cuda: CudaRuntime, cudart: CudartStub
) -> None:
    cudart.fail(name, 700)
    with pytest.raises(CudaError) as caught:
        CALLS[name](cuda)
    error = caught.value
    assert (error.number, error.name, error.call) == (700, "cudaErrorIllegalAddress", name)
    assert str(error).startswith("CUDA failure 700: an illegal memory access was encountered ;")


def test_copies_out_fail_as_copies_in_do(cuda: CudaRuntime, cudart: CudartStub) -> None:
    cudart.fail("cudaMemcpyAsync", 700)
    with pytest.raises(CudaError, match="CUDA failure 700"):
        cuda.copy_out(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("code", "fault"), [(2, Fault.MEMORY), (100, Fault.STARTUP), (700, Fault.STICKY)]
)
def test_a_failures_text_is_classified_as_those_of_onnx_runtime(
    code: int, fault: Fault, cuda: CudaRuntime, cudart: CudartStub
) -> None:
    cudart.fail("cudaMalloc", code)
    with pytest.raises(CudaError) as caught:
        cuda.malloc(1)
    assert classify(str(caught.value), on_gpu=True) is fault


def test_a_stream_with_work_left_is_no_failure(cuda: CudaRuntime, cudart: CudartStub) -> None:
    stream = cuda.stream_create()
    assert cuda.stream_is_idle(stream)
    cudart.be_busy()
    assert not cuda.stream_is_idle(stream)


def test_streams_do_not_wait_for_the_default_stream_and_waits_sleep(
    cuda: CudaRuntime, cudart: CudartStub
) -> None:
    cuda.stream_create()
    cuda.event_create()
    assert cudart.calls == ["stream_create 1", "event_create 3"]


def test_the_devices_memory_is_told(cuda: CudaRuntime) -> None:
    free, total = cuda.memory_info()
    cuda.malloc(1 << 20)
    assert cuda.memory_info() == (free - (1 << 20), total)


def test_without_the_library_the_reason_names_it() -> None:
    with pytest.raises(CudaUnavailable, match=r"libcudart\.so\.0 cannot be used"):
        CudaRuntime("libcudart.so.0")


def test_a_library_that_lacks_a_function_is_refused() -> None:
    with pytest.raises(CudaUnavailable, match="cudaGetErrorName"):
        CudaRuntime("libc.so.6")
