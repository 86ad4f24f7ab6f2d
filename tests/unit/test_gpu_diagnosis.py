"""Why models cannot run on a GPU, in words, for made-up machines."""

from collections.abc import Callable

import pytest
from stoker.runtime.gpu_diagnosis import (
    CAPABILITIES,
    NO_DRIVER,
    NO_PROVIDER,
    CudaNeeds,
    cuda_needs,
    driver_reason,
    gpu_absence,
    gpu_of,
    gpu_unfitness,
    has_code_for,
    lost_provider_reason,
    lost_tensorrt_reason,
    missing_cudnn,
)
from stoker.runtime.gpu_facts import Gpu, GpuFacts

CUDA_13 = cuda_needs("13.0")
L4 = Gpu(0, "NVIDIA L4", (8, 9), 24 << 30)


def machine(
    *gpus: Gpu, code: int = 0, version: int = 13000, visible: str | None = None
) -> GpuFacts:
    return GpuFacts(True, code if gpus or code else 100, version, gpus, visible)


def only(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def everything(name: str) -> bool:
    return True


def test_what_is_needed_follows_from_the_cuda_that_onnx_runtime_was_built_for() -> None:
    assert cuda_needs("13.0") == CudaNeeds(
        13, ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10")
    )
    assert cuda_needs("") is None


def test_a_gpu_with_a_driver_for_this_cuda_can_be_used() -> None:
    assert gpu_absence(machine(L4), CUDA_13) is None
    assert gpu_absence(machine(L4, version=13050), CUDA_13) is None


def test_without_driver_the_container_is_to_get_one() -> None:
    assert gpu_absence(GpuFacts(), CUDA_13) == NO_DRIVER


def test_a_gpu_beside_the_cpu_package_asks_for_the_other_package() -> None:
    assert gpu_absence(machine(L4), None) == NO_PROVIDER


def test_a_driver_for_an_older_cuda_is_told_with_both_versions_and_the_remedy() -> None:
    assert gpu_absence(machine(L4, version=12040), CUDA_13) == (
        "the NVIDIA driver is too old: it is for CUDA 12.4, and this ONNX Runtime is built for "
        "CUDA 13; install a driver of branch R580 or later on the node"
    )


def test_a_driver_of_unknown_version_is_not_called_old() -> None:
    assert gpu_absence(machine(L4, version=0), CUDA_13) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (34, "libcuda.so.1 is the stub of CUDA's development kit"),
        (35, "the NVIDIA driver is too old"),
        (46, "the GPU is busy or in prohibited mode"),
        (100, "the driver sees no GPU; give the container one"),
        (802, "the fabric manager must run on the node"),
        (803, "restart the node's driver"),
        (804, "update the node's driver"),
        (999, "see the node's kernel log"),
        (12345, "the NVIDIA driver failed"),
    ],
)
def test_each_answer_of_the_driver_is_told_in_words_and_by_number(code: int, words: str) -> None:
    reason = driver_reason(machine(code=code))
    assert words in reason
    assert reason.endswith(f"(CUDA error {code})")
    assert gpu_absence(machine(code=code), CUDA_13) == reason


@pytest.mark.parametrize("code", [100, 101])
@pytest.mark.parametrize("visible", ["", "-1", "7", "MIG-0f"])
def test_gpus_that_are_hidden_are_told_by_the_variable_that_hides_them(
    code: int, visible: str
) -> None:
    reason = driver_reason(machine(code=code, visible=visible))
    assert f"CUDA_VISIBLE_DEVICES is '{visible}' and leaves no GPU to this process" in reason


@pytest.mark.parametrize(
    ("capability", "has"),
    [
        *((each, True) for each in CAPABILITIES),
        ((8, 7), True),
        ((7, 0), False),
        ((6, 1), False),
        ((10, 0), False),
        ((10, 3), False),
        ((12, 1), False),
        ((9, 1), False),
    ],
)
def test_code_exists_for_these_compute_capabilities(capability: tuple[int, int], has: bool) -> None:
    assert has_code_for(capability) is has


def test_a_gpu_without_code_is_told_by_name_and_capability() -> None:
    facts = machine(L4, Gpu(1, "NVIDIA B200", (10, 0)))
    assert gpu_unfitness(facts, 0) is None
    assert gpu_unfitness(facts, 1) == (
        "GPU 1 (NVIDIA B200) has compute capability 10.0, and onnxruntime-gpu has code for 7.5, "
        "8.0, 8.6, 8.9, 9.0, 12.0 only; use another GPU, or build ONNX Runtime for this one"
    )


def test_a_gpu_of_unknown_capability_is_not_refused() -> None:
    assert gpu_unfitness(machine(Gpu(0)), 0) is None
    assert gpu_unfitness(machine(L4), 3) is None
    assert gpu_of(machine(L4), 3) is None


def test_a_lost_provider_is_explained_by_the_libraries_that_do_not_load() -> None:
    loaded = only("libcudart.so.13", "libcurand.so.10")
    assert lost_provider_reason(machine(L4), CUDA_13, loaded) == (
        "the CUDA provider could not load libcublas.so.13, libcublasLt.so.13; install stoker with "
        "the extra `gpu`, which brings onnxruntime-gpu[cuda,cudnn]"
    )


def test_a_lost_provider_without_driver_is_explained_by_that() -> None:
    assert lost_provider_reason(GpuFacts(), CUDA_13, only()) == NO_DRIVER


def test_a_lost_provider_that_nothing_explains_is_not_explained() -> None:
    reason = lost_provider_reason(machine(L4), CUDA_13, everything)
    assert reason.startswith("ONNX Runtime did not say why")


def test_a_missing_cudnn_is_told_by_what_will_fail() -> None:
    assert missing_cudnn(CUDA_13, everything) is None
    assert missing_cudnn(None, only()) is None
    assert (missing_cudnn(CUDA_13, only()) or "").startswith(
        "libcudnn.so.9 could not be loaded: models with convolutions, pooling or recurrent layers"
    )


def test_a_tensorrt_of_another_major_is_told_by_both() -> None:
    assert lost_tensorrt_reason(only("libnvinfer.so.11")) == (
        "libnvinfer.so.10, libnvonnxparser.so.10 could not be loaded: libnvinfer.so.11 is there, "
        "but the TensorRT provider of this ONNX Runtime needs TensorRT 10; use an image with it"
    )


def test_a_missing_tensorrt_is_told_by_its_libraries() -> None:
    reason = lost_tensorrt_reason(only("libnvonnxparser.so.10"))
    assert reason.startswith("libnvinfer.so.10 could not be loaded: the TensorRT provider")
    assert lost_tensorrt_reason(everything).startswith("ONNX Runtime did not say why")
