"""Which execution providers are asked for."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER, cuda_index, provider_list


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
    with pytest.raises(InvalidRequest, match="gpu_execution_accelerator 'tensorrt'"):
        provider_list(config((Accelerator("tensorrt", {}),)), "cuda:0")
    with pytest.raises(InvalidRequest, match="cpu_execution_accelerator 'magic'"):
        provider_list(config(cpu=(Accelerator("magic", {}),)), "cpu")


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
