"""Which execution providers are asked for."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    cuda_index,
    provider_list,
    tensorrt_provider_list,
    with_stream,
)


def config(gpu: tuple[Accelerator, ...] = (), cpu: tuple[Accelerator, ...] = ()) -> ModelConfig:
    optimization = Optimization(gpu_accelerators=gpu, cpu_accelerators=cpu)
    return ModelConfig("m", 0, (), (), None, optimization=optimization)


def test_devices_have_an_index_on_gpus_only() -> None:
    assert [cuda_index(device) for device in ("cpu", "cuda:0", "cuda:3")] == [None, 0, 3]


def test_a_session_on_the_cpu_asks_for_nothing_else() -> None:
    assert provider_list(config(), "cpu") == ((CPU_PROVIDER, {}),)


def test_a_session_on_a_gpu_asks_for_cuda_first_with_its_options() -> None:
    cuda = Accelerator("cuda", {"prefer_nhwc": "1"})
    (first, options), (second, _) = provider_list(config((cuda,)), "cuda:1")
    assert (first, second) == (CUDA_PROVIDER, CPU_PROVIDER)
    assert (options["device_id"], options["prefer_nhwc"]) == ("1", "1")


def test_accelerators_that_cannot_be_had_fail_the_load_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"gpu_execution_accelerator 'tensor_rt'.*'tensorrt'"):
        provider_list(config((Accelerator("tensor_rt", {}),)), "cuda:0")
    with pytest.raises(InvalidRequest, match="cpu_execution_accelerator 'magic'"):
        provider_list(config(cpu=(Accelerator("magic", {}),)), "cpu")


def test_a_model_that_asks_for_tensorrt_is_opened_without_it_once_its_parameters_are_right() -> (
    None
):
    asking = config((Accelerator("tensorrt", {"precision_mode": "FP16"}),))
    assert [name for name, _ in provider_list(asking, "cuda:0")] == [CUDA_PROVIDER, CPU_PROVIDER]
    with pytest.raises(InvalidRequest, match="'precison_mode' of accelerator 'tensorrt'"):
        provider_list(config((Accelerator("tensorrt", {"precison_mode": "FP16"}),)), "cuda:0")


def test_a_tensorrt_session_leaves_what_it_does_not_take_to_cuda_with_the_models_options() -> None:
    both = (Accelerator("tensorrt", {}), Accelerator("cuda", {"prefer_nhwc": "1"}))
    listed = tensorrt_provider_list(config(both), "cuda:1", {"trt_fp16_enable": "1"})
    assert [name for name, _ in listed] == [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]
    assert listed[0][1] == {"device_id": "1", "trt_fp16_enable": "1"}
    assert listed[1][1]["prefer_nhwc"] == "1"


def test_a_tensorrt_session_computes_in_one_stream_with_cudas_part_of_it_and_captures_nothing() -> (
    None
):
    listed = tensorrt_provider_list(config((Accelerator("tensorrt", {}),)), "cuda:0", {})
    (_, first), (_, second), _ = with_stream(listed, 4660, graphs=False)
    assert first["user_compute_stream"] == second["user_compute_stream"] == "4660"
    assert "enable_cuda_graph" not in second
    (_, first), (_, second), _ = with_stream(listed, 0, graphs=True)
    assert "user_compute_stream" not in first
    assert "enable_cuda_graph" not in first
    assert second["enable_cuda_graph"] == "1"


def test_gpu_accelerators_do_not_matter_on_the_cpu() -> None:
    assert provider_list(config((Accelerator("tensorrt", {}),)), "cpu") == ((CPU_PROVIDER, {}),)


def test_a_misspelt_option_is_refused_on_the_cpu_too() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'use_tf32'"):
        provider_list(config((Accelerator("cuda", {"use_tf_32": "0"}),)), "cpu")


def test_openvino_falls_back_to_the_plain_cpu_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert provider_list(config(cpu=(Accelerator("openvino", {}),)), "cpu")[0][0] == CPU_PROVIDER
    assert "'openvino', which this ONNX Runtime lacks" in caplog.text
