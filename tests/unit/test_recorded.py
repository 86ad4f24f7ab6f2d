"""What the real CUDA provider said, recorded by `make test-stub`, and what we make of it."""

import pytest
from stoker.errors import DeviceFailed, InvalidRequest, OutOfMemory, ServingError
from stoker.runtime.faults import Fault, classify, open_error, run_error

from tests.stub.recording import recorded

FAULTS = {
    "arena_out_of_memory": Fault.MEMORY,
    "choice_by_number": Fault.DATA,
    "choice_unknown": Fault.DATA,
    "cublas_not_initialised": Fault.UNKNOWN,
    "cublas_out_of_memory": Fault.MEMORY,
    "cuda_libraries_missing_strict": Fault.DATA,
    "cudnn_missing": Fault.UNSUPPORTED,
    "cudnn_not_initialised": Fault.UNKNOWN,
    "driver_compatibility": Fault.STARTUP,
    "driver_fails": Fault.STICKY,
    "driver_mismatch": Fault.STARTUP,
    "driver_too_old": Fault.STARTUP,
    "illegal_address": Fault.STICKY,
    "kernel_has_no_code": Fault.UNSUPPORTED,
    "kernel_out_of_memory": Fault.MEMORY,
    "launch_failure": Fault.STICKY,
    "memory_limit": Fault.MEMORY,
    "no_device": Fault.STARTUP,
    "number_malformed": Fault.DATA,
    "option_misspelt": Fault.DATA,
    "option_of_the_plugin_provider": Fault.DATA,
    "product_not_launched": Fault.UNKNOWN,
    "product_out_of_memory": Fault.MEMORY,
    "provider_misspelt": Fault.DATA,
    "system_not_ready": Fault.STARTUP,
    "tensorrt_flag_as_a_number": Fault.DATA,
    "tensorrt_flag_malformed": Fault.DATA,
    "tensorrt_libraries_missing": Fault.DATA,
    "tensorrt_option_misspelt": Fault.DATA,
}

each_situation = pytest.mark.parametrize("situation", sorted(FAULTS))


def errors(situation: str) -> list[ServingError]:
    """What a client reads when it happens at opening, and when in a run."""
    text = recorded()[situation]["text"]
    return [
        open_error(text, model="m", filename="model.onnx", on_gpu=True),
        run_error(text, model="m", on_gpu=True),
    ]


def test_every_recorded_situation_has_its_class_here() -> None:
    assert set(recorded()) == set(FAULTS)


@each_situation
def test_what_the_provider_said_is_put_into_its_class(situation: str) -> None:
    assert classify(recorded()[situation]["text"], on_gpu=True) is FAULTS[situation]


@each_situation
def test_no_host_path_or_source_file_reaches_a_client(situation: str) -> None:
    for error in errors(situation):
        for secret in (
            "node-7",
            "hostname",
            "/onnxruntime",
            ".cc",
            "/opt/venv",
            "static ",
            "expr=",
        ):
            assert secret not in error.message, error.message


@pytest.mark.parametrize(
    ("situation", "word"),
    [
        ("option_misspelt", '"cudnn_conv_algo_serach"'),
        ("option_of_the_plugin_provider", '"arena.max_mem"'),
        ("choice_by_number", '"arena_extend_strategy"'),
        ("provider_misspelt", "CudaExecutionProvider"),
    ],
)
def test_a_wrong_option_or_provider_is_named_to_the_operator(situation: str, word: str) -> None:
    at_opening, _ = errors(situation)
    assert isinstance(at_opening, InvalidRequest)
    assert word in at_opening.message


def test_a_driver_that_is_too_old_is_told_with_the_remedy() -> None:
    at_opening, _ = errors("driver_too_old")
    assert isinstance(at_opening, DeviceFailed)
    assert "CUDA failure 35" in at_opening.message
    assert "too old" in at_opening.message


def test_memory_that_ran_out_is_told_as_that() -> None:
    for situation in ("memory_limit", "cublas_out_of_memory", "product_out_of_memory"):
        assert all(isinstance(error, OutOfMemory) for error in errors(situation))
