"""Every way in which ONNX Runtime gives a CPU session to who asked for a GPU, and ours, which never
does. The rows are those of ONNX Runtime 1.31; a new version that differs fails here."""

from typing import Any

import pytest
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER

from tests.stub.libraries import ONE_GPU, Libraries, ask
from tests.stub.recording import is_as_recorded

CUDA = [[CUDA_PROVIDER, {}], [CPU_PROVIDER, {}]]
NO_CPU = {"session.disable_cpu_ep_fallback": "1"}

ON_CPU = [CPU_PROVIDER]


def three_ways(
    providers: list[Any] | None, environment: dict[str, str], **more: object
) -> list[dict[str, Any]]:
    """As it is by default; without fallback in Python; without fallback of the session."""
    alone = None if providers is None else [each for each in providers if each[0] != CPU_PROVIDER]
    return ask(
        "raw_probe",
        [
            {"providers": providers, "fallback": True, **more},
            {"providers": providers, **more},
            {"providers": alone, "fallback": True, "entries": NO_CPU, **more},
        ],
        environment,
    )


def test_missing_cuda_libraries_give_a_cpu_session_even_without_fallback(
    libraries: Libraries,
) -> None:
    default, without, strict = three_ways(CUDA, libraries.preloaded(), preload=False)
    assert default["providers"] == ON_CPU
    assert without["providers"] == ON_CPU
    assert "fallback to CPU EP has been explicitly disabled" in strict["text"]
    assert is_as_recorded("cuda_libraries_missing_strict", strict)


def test_a_missing_driver_gives_a_cpu_session_even_without_fallback() -> None:
    default, without, strict = three_ways(CUDA, {})
    assert default["providers"] == ON_CPU
    assert without["providers"] == ON_CPU
    assert "fallback to CPU EP has been explicitly disabled" in strict["text"]


@pytest.mark.parametrize(
    ("situation", "stub", "code"),
    [
        ("no_device", {}, 100),
        ("driver_too_old", {"STUB_CUDA_DRIVER_VERSION": "12040", **ONE_GPU}, 35),
        ("driver_mismatch", {"STUB_CUDA_INIT": "803"}, 803),
        ("driver_compatibility", {"STUB_CUDA_INIT": "804"}, 804),
        ("system_not_ready", {"STUB_CUDA_INIT": "802"}, 802),
        ("driver_fails", {"STUB_CUDA_INIT": "999"}, 999),
    ],
)
def test_a_driver_without_usable_gpu_gives_a_cpu_session_by_default(
    libraries: Libraries, situation: str, stub: dict[str, str], code: int
) -> None:
    default, without, strict = three_ways(CUDA, {**libraries.preloaded(), **stub})
    assert default["providers"] == ON_CPU
    assert "EP Error" in default["said"]
    assert f"CUDA failure {code}" in without["text"]
    assert is_as_recorded(situation, without)
    assert "Conflicting session configuration" in strict["text"]


def test_a_wrong_option_gives_a_cpu_session_by_default(libraries: Libraries) -> None:
    wrong = [[CUDA_PROVIDER, {"bogus": "1"}], [CPU_PROVIDER, {}]]
    default, without, strict = three_ways(wrong, libraries.preloaded())
    assert default["providers"] == ON_CPU
    assert 'Unknown provider option: "bogus"' in without["text"]
    assert "Conflicting session configuration" in strict["text"]


def test_missing_tensorrt_libraries_drop_the_options_of_cuda_by_default(
    libraries: Libraries,
) -> None:
    providers = [["TensorrtExecutionProvider", {}], [CUDA_PROVIDER, {"use_tf32": "0"}]]
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    default, without = ask(
        "raw_probe",
        [{"providers": providers, "fallback": each, "cudnn": False} for each in (True, False)],
        environment,
    )
    assert default["providers"] == [CUDA_PROVIDER, CPU_PROVIDER]
    assert default["options"][CUDA_PROVIDER]["use_tf32"] == "1"
    assert "Please install TensorRT libraries" in default["said"]
    assert is_as_recorded("tensorrt_libraries_missing", without)


def test_a_misspelt_provider_gives_a_cpu_session_by_default() -> None:
    default, without, _ = three_ways([["CudaExecutionProvider", {}], [CPU_PROVIDER, {}]], {})
    assert default["providers"] == ON_CPU
    assert default["warned"]
    assert "Unknown Provider Type: CudaExecutionProvider" in without["text"]
    assert is_as_recorded("provider_misspelt", without)


def test_a_provider_that_is_not_built_in_gives_a_cpu_session_even_without_fallback() -> None:
    default, without, strict = three_ways(
        [["NvTensorRTRTXExecutionProvider", {}], [CPU_PROVIDER, {}]], {}
    )
    assert default["providers"] == ON_CPU
    assert without["providers"] == ON_CPU
    assert "fallback to CPU EP has been explicitly disabled" in strict["text"]


def test_no_wish_at_all_gives_a_cpu_session_in_the_gpu_package(libraries: Libraries) -> None:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    (answer,) = ask("raw_probe", [{"providers": None}], environment)
    assert answer["providers"] == ON_CPU


# --- ours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stub", "words"),
    [
        (None, "libcuda.so.1 was not found"),
        ({}, "the driver sees no GPU"),
        ({"STUB_CUDA_DRIVER_VERSION": "12040", **ONE_GPU}, "the NVIDIA driver is too old: it is"),
        ({"STUB_CUDA_INIT": "803"}, "of different versions; restart the node's driver"),
        ({"STUB_CUDA_INIT": "999"}, "failed for an unknown reason"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is '' and leaves no GPU"),
        ({"STUB_CUDA_CAPABILITY": "10.0", **ONE_GPU}, "has compute capability 10.0, and onnx"),
        ({"STUB_CUDA_CAPABILITY": "7.0", **ONE_GPU}, "has compute capability 7.0, and onnx"),
    ],
)
def test_a_model_that_insists_on_a_gpu_is_refused_with_the_cause(
    libraries: Libraries, stub: dict[str, str] | None, words: str
) -> None:
    preloaded = {} if stub is None else libraries.preloaded(runtime=True)
    (refused,) = ask("open_probe", [{"device": "gpu"}], {**preloaded, **(stub or {})})
    assert refused["gpus"] == 0
    assert "there is no usable GPU: " in refused["message"]
    assert words in refused["message"]


def test_a_model_on_the_one_gpu_without_code_is_refused_before_it_is_loaded(
    libraries: Libraries,
) -> None:
    two = {"STUB_CUDA_DEVICES": "2", "STUB_CUDA_CAPABILITY": "9.0,10.0"}
    environment = {**libraries.preloaded(runtime=True), **two}
    (refused,) = ask("open_probe", [{"gpus": [1]}], environment)
    assert refused["error"] == "DeviceFailed"
    assert (
        "asked for cuda:1 and did not get it: GPU 1 (Stub GPU) has compute capability 10.0"
        in (refused["message"])
    )


def test_a_session_that_lost_its_provider_is_refused_with_the_library(libraries: Libraries) -> None:
    environment = {**libraries.preloaded(), **ONE_GPU}
    (refused,) = ask("open_probe", [{"finds_libraries": False}], environment)
    assert refused["error"] == "DeviceFailed"
    assert "did not get it: the CUDA provider could not load " in refused["message"]
    assert "libcublas.so.13" in refused["message"]
    assert "onnxruntime-gpu[cuda,cudnn]" in refused["message"]


def test_what_the_cuda_runtime_says_at_opening_is_told_without_the_host(
    libraries: Libraries,
) -> None:
    environment = {**libraries.preloaded(), **ONE_GPU}
    (refused,) = ask("open_probe", [{"device": "gpu"}], environment)
    # The driver of this test has a GPU and no context: CUDA's own runtime fails on it.
    assert refused["error"] == "DeviceFailed"
    assert "CUDA failure 100" in refused["message"]
    assert "hostname" not in refused["message"]


def test_auto_takes_the_cpu_where_no_gpu_can_be_used(libraries: Libraries) -> None:
    environment = {**libraries.preloaded(), **ONE_GPU, "STUB_CUDA_DRIVER_VERSION": "12040"}
    (answer,) = ask("open_probe", [{"device": "auto"}], environment)
    assert answer["placed"] == ["cpu"]
    assert answer["report"]["provider"] == CPU_PROVIDER
    assert "too old" in answer["absence"]
