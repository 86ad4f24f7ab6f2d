"""TensorRT without TensorRT: the real provider parses every option that we can pass, and what is
missing is told before ONNX Runtime falls back."""

from pathlib import Path

import pytest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
)
from stoker.runtime.tensorrt_options import tensorrt_request
from stoker.runtime.tensorrt_parameters import KNOWN, OURS, REFUSED

from tests.stub.libraries import ONE_GPU, Libraries, ask
from tests.stub.recording import is_as_recorded
from tests.stub.stub_models import WEIGHTY_BYTES

WITHOUT_NODES = {"trt_op_types_to_exclude": "Relu"}
"""The one operator of the model: then no engine is asked for, which the stub could not build."""

EACH_VALUE = [
    ("precision_mode", "FP16"),
    ("precision_mode", "BF16"),
    ("precision_mode", "INT8"),
    ("max_workspace_size_bytes", "0"),
    ("max_workspace_size_bytes", "1073741824"),
    ("trt_min_subgraph_size", "1"),
    ("trt_max_partition_iterations", "1000"),
    ("int8_use_native_calibration_table", "1"),
    ("trt_dla_enable", "true"),
    ("trt_dla_core", "1"),
    ("trt_layer_norm_fp32_fallback", "1"),
    ("trt_timing_cache_enable", "0"),
    ("trt_force_timing_cache", "1"),
    ("trt_detailed_build_log", "1"),
    ("trt_build_heuristics_enable", "1"),
    ("trt_sparsity_enable", "1"),
    ("trt_builder_optimization_level", "0"),
    ("trt_builder_optimization_level", "5"),
    ("trt_auxiliary_streams", "-1"),
    ("trt_auxiliary_streams", "4"),
    ("trt_tactic_sources", "-CUDNN,+CUBLAS"),
    ("trt_preview_features", "ALIASED_PLUGIN_IO_10_03"),
    ("trt_context_memory_sharing_enable", "1"),
    ("trt_engine_hw_compatible", "1"),
    ("trt_fp16_enable", "1"),
    ("trt_bf16_enable", "1"),
    ("trt_int8_enable", "1"),
]
"""Of each kind of value that `tensorrt_options` lets pass, its ends."""

FLAGS = {"True": "1", "False": "0"}
"""As they are shown of a session."""

PROFILE = {
    "trt_profile_min_shapes": "x:1x4",
    "trt_profile_opt_shapes": "x:8x4",
    "trt_profile_max_shapes": "x:8x4",
}


def environment(libraries: Libraries) -> dict[str, str]:
    return {**libraries.preloaded(runtime=True, tensorrt=True), **ONE_GPU}


def request(options: dict[str, str]) -> dict[str, object]:
    first = [TENSORRT_PROVIDER, {**WITHOUT_NODES, **options}]
    return {"providers": [first, [CUDA_PROVIDER, {"enable_cudnn": "0"}], [CPU_PROVIDER, {}]]}


def passed(**parameters: str) -> dict[str, str]:
    """What a session passes whose model writes these parameters."""
    accelerator = Accelerator("tensorrt", parameters)
    config = ModelConfig(
        "m", 0, (), (), None, optimization=Optimization(gpu_accelerators=(accelerator,))
    )
    asked = tensorrt_request(config)
    assert asked is not None
    return {"device_id": "0", **asked.options}


def test_each_value_of_each_option_is_stored_as_it_was_passed(
    libraries: Libraries, tmp_path: Path
) -> None:
    places = {"trt_engine_cache_path": str(tmp_path), "trt_timing_cache_path": str(tmp_path)}
    given = [passed(**{key: value}) for key, value in EACH_VALUE]
    given.append({**passed(), **places, **PROFILE})
    answers = ask("raw_probe", [request(each) for each in given], environment(libraries))
    for each, answer in zip(given, answers, strict=True):
        assert "text" not in answer, answer["text"]
        stored = answer["options"][TENSORRT_PROVIDER]
        wanted = {key: FLAGS.get(value, value) for key, value in each.items()}
        assert {key: stored[key] for key in wanted} == wanted


def test_a_stream_of_ours_is_taken_by_its_address(libraries: Libraries) -> None:
    (answer,) = ask("raw_probe", [request({"user_compute_stream": "4660"})], environment(libraries))
    stored = answer["options"][TENSORRT_PROVIDER]
    assert (stored["user_compute_stream"], stored["has_user_compute_stream"]) == ("4660", "1")


def test_a_limit_of_the_arena_does_not_bind_beside_tensorrt_whose_own_arena_comes_first(
    libraries: Libraries,
) -> None:
    """docs/gpu.md, "Memory". Should this fail at an upgrade: a TensorRT session can be capped."""
    limit = {"enable_cudnn": "0", "gpu_mem_limit": str(WEIGHTY_BYTES // 2)}
    cuda = [[CUDA_PROVIDER, limit], [CPU_PROVIDER, {}]]
    first = [TENSORRT_PROVIDER, {"trt_op_types_to_exclude": "MatMul,Relu"}]
    alone, beside = ask(
        "raw_probe",
        [{"providers": providers, "model": "weighty"} for providers in (cuda, [first, *cuda])],
        environment(libraries),
    )
    assert "is smaller than requested bytes of" in alone["text"]
    assert "text" not in beside
    assert beside["providers"] == [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]


def test_the_keys_that_we_know_are_those_that_a_session_stores(libraries: Libraries) -> None:
    (answer,) = ask("raw_probe", [request({})], environment(libraries))
    tritons = {name for name in KNOWN if not name.startswith("trt_")}
    assert set(answer["options"][TENSORRT_PROVIDER]) | tritons | set(OURS) == {*KNOWN, *REFUSED}


@pytest.mark.parametrize(
    ("situation", "options", "words"),
    [
        ("tensorrt_option_misspelt", {"trt_fp16_enabled": "1"}, "trt_fp16_enabled"),
        ("tensorrt_flag_malformed", {"trt_fp16_enable": "maybe"}, "trt_fp16_enable"),
        ("tensorrt_flag_as_a_number", {"trt_fp16_enable": "1"}, "'True' or 'False'"),
    ],
)
def test_a_wrong_option_is_refused_by_the_provider(
    libraries: Libraries, situation: str, options: dict[str, str], words: str
) -> None:
    (answer,) = ask("raw_probe", [request(options)], environment(libraries))
    assert words in answer["text"]
    assert is_as_recorded(situation, answer)


def test_what_else_is_malformed_is_taken_without_a_word_which_is_why_we_look_first(
    libraries: Libraries,
) -> None:
    given = [
        {"trt_max_workspace_size": "1GiB"},
        {**PROFILE, "trt_profile_min_shapes": "x=1"},
        {"trt_profile_min_shapes": "x:1x4"},
    ]
    number, malformed, incomplete = ask(
        "raw_probe", [request(each) for each in given], environment(libraries)
    )
    assert number["options"][TENSORRT_PROVIDER]["trt_max_workspace_size"] == "1"
    assert TENSORRT_PROVIDER in malformed["providers"]
    assert TENSORRT_PROVIDER in incomplete["providers"]


def test_a_model_on_a_gpu_that_asks_for_tensorrt_serves_by_cuda_and_has_a_candidate(
    libraries: Libraries,
) -> None:
    (answer,) = ask("tensorrt_probe", [{"parameters": {}}], environment(libraries))
    assert answer == {"provider": CUDA_PROVIDER, "corners": [{"x": [4, 4]}, {"x": [1, 4]}]}


def test_a_session_of_which_tensorrt_takes_no_node_is_no_candidates(libraries: Libraries) -> None:
    asked = {"parameters": WITHOUT_NODES, "open": True}
    (answer,) = ask("tensorrt_probe", [asked], environment(libraries))
    assert answer["error"] == "InvalidRequest"
    assert "TensorRT took none of the nodes of 'm'" in answer["message"]
    assert "trt_min_subgraph_size, 5" in answer["message"]


def test_an_opening_that_is_told_to_stop_ends_in_the_middle(libraries: Libraries) -> None:
    asked = {"parameters": WITHOUT_NODES, "open": True, "stopped": True}
    (answer,) = ask("tensorrt_probe", [asked], environment(libraries))
    assert "canceled" in answer["message"]


def test_without_tensorrt_the_model_serves_by_cuda_and_the_missing_libraries_are_named(
    libraries: Libraries,
) -> None:
    without = {**libraries.preloaded(runtime=True), **ONE_GPU}
    (answer,) = ask("tensorrt_probe", [{"parameters": {}}], without)
    assert answer["provider"] == CUDA_PROVIDER
    assert answer["refused"] == (
        "libnvinfer.so.10, libnvonnxparser.so.10 could not be loaded: the TensorRT provider of "
        "this ONNX Runtime needs TensorRT 10; use an image with it"
    )


def test_a_wrong_parameter_fails_the_load_and_not_the_candidate(libraries: Libraries) -> None:
    asked = {"parameters": {"trt_fp16_enabled": "1"}}
    (answer,) = ask("tensorrt_probe", [asked], environment(libraries))
    assert "provider" not in answer
    assert "the nearest known one is 'trt_fp16_enable'" in answer["message"]
