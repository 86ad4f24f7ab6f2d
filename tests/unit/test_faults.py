"""Recorded texts of ONNX Runtime, and what a client may read of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import DeviceFailed, ExecutionFailed, InvalidRequest, OutOfMemory
from stoker.runtime.faults import Fault, classify, open_error, public_reason, run_error

CUDA = (
    "CUDA failure {code}: {words} ; GPU=0 ; hostname=node-7.internal ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc ; line=121 ; "
    "expr=cudaMemcpyAsync(dst, src, bytes, kind, stream); "
)
NO_KERNEL = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. "
    "Name:'conv1' Status Message: CUDA error cudaErrorNoKernelImageForDevice:no kernel image is "
    "available for execution on the device"
)
NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
    "MatMul node. Name:'/block/MatMul' Status Message: /onnxruntime_src/onnxruntime/core/framework/"
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to "
    "allocate memory for requested buffer of size {size}\n"
)
LIMIT_REACHED = (
    "Error in execution: Non-zero status code returned while running Expand node. Name:'' Status "
    "Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:347 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Available memory of 1024 is smaller "
    "than requested bytes of 4096"
)
GATHER = (
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running "
    "Gather node. Name:'/embed/Gather' Status Message: indices element out of data bounds, idx=99 "
    "must be within the inclusive range [-4,3]"
)
LOAD = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /srv/models/secret place/m/1/model.onnx "
    "failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:181 onnxruntime::Model::Model("
    "onnx::ModelProto&&, const onnxruntime::PathString&) Unsupported model IR version: 99, max "
    "supported IR version: 13\n"
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (CUDA.format(code=2, words="out of memory"), Fault.MEMORY),
        (CUDA.format(code=100, words="no CUDA-capable device is detected"), Fault.STARTUP),
        (CUDA.format(code=803, words="system has unsupported driver"), Fault.STARTUP),
        (CUDA.format(code=209, words="no kernel image is available"), Fault.UNSUPPORTED),
        (CUDA.format(code=700, words="an illegal memory access"), Fault.STICKY),
        (CUDA.format(code=719, words="unspecified launch failure"), Fault.STICKY),
        (CUDA.format(code=214, words="uncorrectable ECC error"), Fault.STICKY),
        (CUDA.format(code=999, words="unknown error"), Fault.STICKY),
        (CUDA.format(code=901, words="operation failed due to capture"), Fault.DATA),
        (NO_KERNEL, Fault.UNSUPPORTED),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", Fault.MEMORY),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", Fault.STICKY),
        ("CUDNN failure 4/4000: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0", Fault.MEMORY),
        ("CUDNN_FE failure 8: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", Fault.STICKY),
        ("cuDNN is not available. Install cuDNN, or set enable_cudnn=0", Fault.UNSUPPORTED),
        (NO_MEMORY.format(size=1 << 30), Fault.MEMORY),
        (LIMIT_REACHED, Fault.MEMORY),
        ("std::bad_alloc", Fault.MEMORY),
        (GATHER, Fault.DATA),
        (LOAD, Fault.DATA),
    ],
)
def test_a_failure_text_is_put_into_its_class(text: str, fault: Fault) -> None:
    assert classify(text, on_gpu=True) is fault


def test_an_absurd_size_is_bad_data_on_the_cpu_and_a_broken_gpu_on_a_gpu() -> None:
    text = NO_MEMORY.format(size=4_500_000_000_000_000_000)
    assert classify(text, on_gpu=False) is Fault.DATA
    assert classify(text, on_gpu=True) is Fault.STICKY


def test_a_data_fault_is_the_requests_and_says_which_node() -> None:
    error = run_error(GATHER, model="m", on_gpu=False)
    assert type(error) is ExecutionFailed
    assert error.message == (
        "model 'm' failed on this data: Non-zero status code returned while running Gather node. "
        "Name:'/embed/Gather' Status Message: indices element out of data bounds, idx=99 must be "
        "within the inclusive range [-4,3]"
    )


def test_a_memory_fault_tells_the_size() -> None:
    error = run_error(NO_MEMORY.format(size=4096), model="m", on_gpu=True)
    assert type(error) is OutOfMemory
    assert "4096 bytes" in error.message


def test_a_device_fault_names_the_number_and_neither_host_nor_file() -> None:
    text = CUDA.format(code=700, words="an illegal memory access was encountered")
    error = run_error(text, model="m", on_gpu=True)
    assert type(error) is DeviceFailed
    assert error.message == (
        "model 'm': CUDA failure 700: an illegal memory access was encountered"
    )


def test_a_gpu_without_kernels_is_told_what_would_do() -> None:
    error = open_error(NO_KERNEL, model="m", filename="model.onnx", on_gpu=True)
    assert type(error) is DeviceFailed
    assert "compute capability" in error.message


def test_a_missing_cudnn_is_told_its_remedy() -> None:
    error = run_error("cuDNN is not available. Install cuDNN", model="m", on_gpu=True)
    assert type(error) is DeviceFailed
    assert "extra `gpu`" in error.message


def test_a_model_that_does_not_open_is_named_by_its_file_alone() -> None:
    error = open_error(LOAD, model="m", filename="model.onnx", on_gpu=False)
    assert type(error) is InvalidRequest
    assert error.message == (
        "model 'm': ONNX Runtime cannot open 'model.onnx': Unsupported model IR version: 99, max "
        "supported IR version: 13"
    )


def test_weights_outside_of_the_folder_are_refused_without_the_folder() -> None:
    reason = public_reason(
        "[ONNXRuntimeError] : 1 : FAIL : External data path validation failed for initializer: w. "
        'Error: External data path escapes model directory. External data path: "../s.bin" '
        'resolved path: "/srv/s.bin" allowed directory: "/srv/m"'
    )
    assert "/srv" not in reason
    assert '"../s.bin"' in reason


def test_a_source_file_of_the_runtime_is_left_out() -> None:
    reason = public_reason(
        "[ONNXRuntimeError] : 1 : FAIL : External data path validation failed for initializer: w. "
        "Error: tensorprotoutils.cc:434 ValidateExternalDataPathFromDir Absolute path not allowed"
    )
    assert reason == (
        "External data path validation failed for initializer: w. Error: Absolute path not allowed"
    )


@given(st.text(), st.sampled_from(["/srv/models/a.onnx", "/home/user/x y/w.bin", "/tmp/z"]))
def test_no_path_leaves_whatever_stands_around_it(text: str, path: str) -> None:
    assert path not in public_reason(f"{text} {path}: {text}")


@given(st.text(max_size=2000), st.booleans())
def test_any_text_is_classified(text: str, on_gpu: bool) -> None:
    assert len(public_reason(text)) <= 400
    run_error(text, model="m", on_gpu=on_gpu)
    open_error(text, model="m", filename="model.onnx", on_gpu=on_gpu)
