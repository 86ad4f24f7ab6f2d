"""What a session on a GPU tells of itself, by the real provider and a GPU that computes nothing."""

from pathlib import Path
from typing import Any

import pytest
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER

from tests.models import ModelEntry, write_repository
from tests.stub import stub_models
from tests.stub.libraries import ONE_GPU, Libraries, ask, free_memory, run_python
from tests.stub.recording import is_as_recorded

WITHOUT_CUDNN = {"enable_cudnn": "0"}


def opened(libraries: Libraries, model: str, **parameters: str) -> dict[str, Any]:
    request = {"model": model, "parameters": {**WITHOUT_CUDNN, **parameters}}
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    (answer,) = ask("open_probe", [request], environment)
    return answer


def test_a_session_on_a_gpu_tells_provider_nodes_and_device(libraries: Libraries) -> None:
    report = opened(libraries, "relu")["report"]
    assert report["device"] == "cuda:0"
    assert report["provider"] == CUDA_PROVIDER
    assert report["nodes"] == {CUDA_PROVIDER: 1}
    assert (report["computing_on_cpu"], report["memcpy_nodes"]) == ([], 0)
    assert (report["device_name"], report["compute_capability"]) == ("Stub GPU", "9.0")
    assert report["memory_bytes"] == 80 << 30


def test_options_are_told_as_onnx_runtime_stores_them(libraries: Libraries) -> None:
    stored = opened(libraries, "relu", use_tf32="0", gpu_mem_limit="1048576")["report"]["options"]
    assert stored["arena_extend_strategy"] == "kSameAsRequested"
    assert stored["cudnn_conv_algo_search"] == "HEURISTIC"
    assert (stored["use_tf32"], stored["gpu_mem_limit"]) == ("0", "1048576")
    assert stored["user_compute_stream"] == "set"  # its address is no client's business


def test_a_node_on_the_cpu_is_told_with_the_copies_around_it(libraries: Libraries) -> None:
    report = opened(libraries, "partly")["report"]
    assert report["nodes"] == {CUDA_PROVIDER: 2, CPU_PROVIDER: 1}
    assert report["computing_on_cpu"] == ["Unique"]
    assert report["memcpy_nodes"] == 2


def test_a_model_may_refuse_to_run_in_part_on_the_cpu(libraries: Libraries) -> None:
    refused = opened(libraries, "partly", strict_placement="1")
    assert "Unique would compute on the CPU" in refused["message"]


def test_a_model_of_which_no_node_runs_on_the_gpu_is_refused(libraries: Libraries) -> None:
    assert (
        "placed none of its nodes there (on the CPU: Unique)"
        in (opened(libraries, "never")["message"])
    )


def test_a_model_of_texts_tells_that_it_is_on_the_cpu(libraries: Libraries) -> None:
    report = opened(libraries, "text")["report"]
    assert (report["requested"], report["device"]) == ("cuda:0", "cpu")
    assert report["nodes"] == {CPU_PROVIDER: 1}


def test_a_run_on_a_gpu_that_died_is_a_device_failure_and_not_run_again_on_the_cpu(
    libraries: Libraries,
) -> None:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU, "STUB_CUDA_LAUNCH": "700"}
    (answer,) = ask("open_probe", [{"parameters": WITHOUT_CUDNN, "run": True}], environment)
    assert answer["error"] == "DeviceFailed"
    assert "an illegal memory access was encountered" in answer["message"]


def test_a_model_without_gpus_goes_to_each_or_to_the_one_that_has_most_memory(
    libraries: Libraries,
) -> None:
    environment = {**libraries.preloaded(runtime=True), "STUB_CUDA_DEVICES": "2"}
    request = {"parameters": WITHOUT_CUDNN}
    (each,) = ask("open_probe", [request], environment)
    assert each["placed"] == ["cuda:0", "cuda:1"]
    by_memory = {**request, "gpu_placement": "free-memory"}
    chosen, *after_one, beside_one = ask(
        "open_probe",
        [
            by_memory,
            {**by_memory, "loads_failed": 1},
            {**by_memory, "loads_done": 1},
            {**by_memory, "loads_under_way": 1},
        ],
        {**environment, **free_memory(1000, 2000)},
    )
    assert chosen["report"]["device"] == "cuda:1"
    assert [each["placed"] for each in (chosen, *after_one)] == [["cuda:1"]] * 3
    assert beside_one["placed"] == ["cuda:0"]  # the emptier one is about to take a model


@pytest.mark.parametrize(
    ("situation", "model", "stub"),
    [
        ("kernel_has_no_code", "relu", {"STUB_CUDA_LAUNCH": "209"}),
        ("kernel_out_of_memory", "relu", {"STUB_CUDA_LAUNCH": "2"}),
        ("illegal_address", "relu", {"STUB_CUDA_LAUNCH": "700"}),
        ("launch_failure", "relu", {"STUB_CUDA_LAUNCH": "719"}),
        ("product_not_launched", "product", {"STUB_CUBLAS_COMPUTE": "13"}),
        ("product_out_of_memory", "product", {"STUB_CUBLAS_COMPUTE": "3"}),
        ("cublas_not_initialised", "product", {"STUB_CUBLAS_CREATE": "1"}),
        ("cublas_out_of_memory", "product", {"STUB_CUBLAS_CREATE": "3"}),
        ("arena_out_of_memory", "product", {"STUB_CUDA_MALLOC": "2"}),
        ("cudnn_missing", "convolution", {}),
    ],
)
def test_a_failure_of_the_gpu_reads_as_recorded(
    libraries: Libraries, situation: str, model: str, stub: dict[str, str]
) -> None:
    providers = [[CUDA_PROVIDER, WITHOUT_CUDNN], [CPU_PROVIDER, {}]]
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU, **stub}
    request = {"providers": providers, "model": model, "run": True}
    (answer,) = ask("raw_probe", [request], environment)
    assert is_as_recorded(situation, answer)


def test_cudnn_that_cannot_start_reads_as_recorded(libraries: Libraries) -> None:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    providers = [[CUDA_PROVIDER, {}], [CPU_PROVIDER, {}]]
    (answer,) = ask("raw_probe", [{"providers": providers}], environment)
    assert is_as_recorded("cudnn_not_initialised", answer)


def test_a_memory_limit_reads_as_recorded(libraries: Libraries) -> None:
    limited = {**WITHOUT_CUDNN, "gpu_mem_limit": "1", "arena_extend_strategy": "kSameAsRequested"}
    request = {"providers": [[CUDA_PROVIDER, limited], [CPU_PROVIDER, {}]], "model": "product"}
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    (answer,) = ask("raw_probe", [{**request, "run": True}], environment)
    assert is_as_recorded("memory_limit", answer)


def test_check_tells_where_each_model_would_run(libraries: Libraries, tmp_path: Path) -> None:
    config = 'parameters { key: "enable_cudnn" value { string_value: "0" } }'
    write_repository(tmp_path, {"m": ModelEntry(stub_models.partly(), config)})
    done = run_python(
        *("-m", "stoker", "check", "--device", "gpu", str(tmp_path)),
        environment={**libraries.preloaded(runtime=True), **ONE_GPU},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cuda:0 Stub GPU (3 nodes, 1 computing on the CPU: Unique; 2 copies" in done.stdout
    assert "# cuda:0: nodes: 2 CUDAExecutionProvider, 1 CPUExecutionProvider; " in done.stdout
    assert "cudnn_conv_algo_search=HEURISTIC" in done.stdout
    assert "warning: m version 1: on cuda:0, 1 of 3 nodes compute on the CPU (Unique)" in (
        done.stdout
    )


def test_a_convolution_without_cudnn_does_not_load(libraries: Libraries, tmp_path: Path) -> None:
    config = 'parameters { key: "enable_cudnn" value { string_value: "0" } }'
    write_repository(tmp_path, {"m": ModelEntry(stub_models.convolution(), config)})
    done = run_python(
        *("-m", "stoker", "check", "--device", "gpu", str(tmp_path)),
        environment={**libraries.preloaded(runtime=True), **ONE_GPU},
    )
    assert done.returncode == 1
    assert "model 'm': it needs cuDNN, which this installation lacks" in done.stdout
