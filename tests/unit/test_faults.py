"""Recorded texts of ONNX Runtime, and what a client may read of them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import (
    RESTART_S,
    DeviceFailed,
    ExecutionFailed,
    InvalidRequest,
    OutOfMemory,
    Reach,
)
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
CUBLAS = "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=node-7.internal"
RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "gpu_errors.json").read_text())
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
        (NO_MEMORY.format(size=1 << 30), Fault.MEMORY),
        (LIMIT_REACHED, Fault.MEMORY),
        ("std::bad_alloc", Fault.MEMORY),
        (GATHER, Fault.DATA),
        (LOAD, Fault.DATA),
    ],
)
def test_a_failure_text_is_put_into_its_class(text: str, fault: Fault) -> None:
    assert classify(text, on_gpu=True) is fault


@pytest.mark.parametrize("known", RECORDED["texts"], ids=lambda known: known["text"][:24])
def test_a_failure_text_of_a_gpu_is_put_into_its_class(known: dict[str, str | None]) -> None:
    text = known["text"]
    assert text is not None
    assert classify(text, on_gpu=True) is Fault(known["fault"])
    error = run_error(text, model="m", on_gpu=True)
    if known["fault"] == "memory":
        assert type(error) is OutOfMemory
    else:
        assert type(error) is DeviceFailed
        expected = "process" if known["reach"] == "by probe" else known["reach"]
        assert error.reach is Reach(expected)
    assert not any(secret in error.message for secret in ("node-7", "/onnxruntime_src", ".cc"))


@pytest.mark.parametrize("known", RECORDED["texts"], ids=lambda known: known["text"][:24])
def test_on_the_cpu_no_text_tells_of_a_broken_device(known: dict[str, str]) -> None:
    error = run_error(known["text"], model="m", on_gpu=False)
    assert type(error) in (ExecutionFailed, OutOfMemory)


def test_a_failure_that_a_well_device_knows_nothing_of_is_of_this_run_only() -> None:
    error = run_error(CUBLAS, model="m", on_gpu=True, probe=lambda: 0)
    assert type(error) is DeviceFailed
    assert error.reach is Reach.RUN
    assert error.message == (
        "model 'm': CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED; the device answers well "
        "after it"
    )


def test_a_failure_that_hides_a_sticky_one_is_told_by_the_probe() -> None:
    error = run_error(CUBLAS, model="m", on_gpu=True, probe=lambda: 700)
    assert type(error) is DeviceFailed
    assert error.reach is Reach.PROCESS
    assert "the device answers with CUDA error 700, cudaErrorIllegalAddress" in error.message


def test_who_met_a_dead_device_is_told_when_to_send_again() -> None:
    """Another process can answer; what one run or one model cannot do, no time mends."""
    dead = run_error(CUBLAS, model="m", on_gpu=True, probe=lambda: 700)
    well = run_error(CUBLAS, model="m", on_gpu=True, probe=lambda: 0)
    assert (dead.retry_after, well.retry_after) == (RESTART_S, None)


def test_a_device_that_cannot_be_asked_is_not_trusted() -> None:
    error = run_error(CUBLAS, model="m", on_gpu=True, probe=None)
    assert isinstance(error, DeviceFailed)
    assert error.reach is Reach.PROCESS


def test_only_what_the_text_leaves_open_is_asked_of_the_device() -> None:
    def ask() -> int:
        raise AssertionError("a call into a dead context may hang")

    for code in (700, 719, 999):
        text = CUDA.format(code=code, words="failed")
        error = run_error(text, model="m", on_gpu=True, probe=ask)
        assert isinstance(error, DeviceFailed)
        assert error.reach is Reach.PROCESS


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


def test_a_device_fault_that_is_written_by_name_is_told_by_number() -> None:
    text = "Status Message: CUDA error cudaErrorIllegalAddress:an illegal memory access"
    error = run_error(text, model="m", on_gpu=True)
    assert error.message == "model 'm': CUDA failure 700: an illegal memory access"


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
