"""Which execution providers are asked for, and why a GPU is not there."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    NO_DRIVER,
    GpuProbe,
    cuda_index,
    cuda_options,
    driver_reason,
    lost_provider_reason,
    probe_gpus,
    provider_list,
)


def config(
    gpu: tuple[Accelerator, ...] = (), cpu: tuple[Accelerator, ...] = (), **parameters: str
) -> ModelConfig:
    optimization = Optimization(gpu_accelerators=gpu, cpu_accelerators=cpu)
    return ModelConfig("m", 0, (), (), None, parameters=parameters, optimization=optimization)


def test_devices_have_an_index_on_gpus_only() -> None:
    assert [cuda_index(device) for device in ("cpu", "cuda:0", "cuda:3")] == [None, 0, 3]


def test_a_session_on_the_cpu_asks_for_nothing_else() -> None:
    assert provider_list(config(), "cpu") == ((CPU_PROVIDER, {}),)


def test_a_session_on_a_gpu_asks_for_cuda_first() -> None:
    (first, options), (second, _) = provider_list(config(), "cuda:1")
    assert (first, second) == (CUDA_PROVIDER, CPU_PROVIDER)
    assert options == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "1",
    }


def test_numbers_of_old_parameters_become_names() -> None:
    options = cuda_options(
        config(
            cudnn_conv_algo_search="0",
            arena_extend_strategy="0",
            gpu_mem_limit="1048576",
            do_copy_in_default_stream="0",
        ),
        0,
    )
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert options["arena_extend_strategy"] == "kNextPowerOfTwo"
    assert options["gpu_mem_limit"] == "1048576"
    assert options["do_copy_in_default_stream"] == "0"


def test_an_accelerators_options_win_over_parameters() -> None:
    cuda = Accelerator("cuda", {"cudnn_conv_algo_search": "2", "prefer_nhwc": "true"})
    options = cuda_options(config((cuda,), cudnn_conv_algo_search="0"), 0)
    assert options["cudnn_conv_algo_search"] == "DEFAULT"
    assert options["prefer_nhwc"] == "1"


@pytest.mark.parametrize("key", ["device_id", "user_compute_stream", "enable_cuda_graph"])
def test_options_of_the_server_cannot_be_configured(key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"option '{key}' of accelerator 'cuda'"):
        cuda_options(config((Accelerator("cuda", {key: "1"}),)), 0)


def test_a_name_that_cuda_does_not_know_is_refused() -> None:
    bad = Accelerator("cuda", {"arena_extend_strategy": "grow"})
    with pytest.raises(InvalidRequest, match="kNextPowerOfTwo, kSameAsRequested, got 'grow'"):
        cuda_options(config((bad,)), 0)


def test_accelerators_that_cannot_be_had_fail_the_load_by_name() -> None:
    with pytest.raises(InvalidRequest, match="gpu_execution_accelerator 'tensorrt'"):
        provider_list(config((Accelerator("tensorrt", {}),)), "cuda:0")
    with pytest.raises(InvalidRequest, match="cpu_execution_accelerator 'magic'"):
        provider_list(config(cpu=(Accelerator("magic", {}),)), "cpu")


def test_gpu_accelerators_do_not_matter_on_the_cpu() -> None:
    assert provider_list(config((Accelerator("tensorrt", {}),)), "cpu") == ((CPU_PROVIDER, {}),)


def test_openvino_falls_back_to_the_plain_cpu_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert provider_list(config(cpu=(Accelerator("openvino", {}),)), "cpu")[0][0] == CPU_PROVIDER
    assert "'openvino', which this ONNX Runtime lacks" in caplog.text


def test_a_machine_without_driver_has_no_gpus_and_a_reason() -> None:
    assert probe_gpus("libcuda-that-is-not-here.so.1") == GpuProbe(0, NO_DRIVER)


def test_a_driver_error_is_told_with_its_number() -> None:
    assert driver_reason(100).startswith("the driver sees no GPU")
    assert driver_reason(100).endswith("(CUDA error 100)")
    assert driver_reason(12345) == "the NVIDIA driver failed (CUDA error 12345)"


def test_a_lost_provider_is_explained_by_what_is_missing() -> None:
    assert lost_provider_reason(GpuProbe(0, "no driver"), ("libcublas.so.13",)) == "no driver"
    reason = lost_provider_reason(GpuProbe(1), ("libcublas.so.13",))
    assert reason.startswith("the CUDA provider could not load libcublas.so.13; install stoker")
