"""The parameters of the `tensorrt` accelerator: each is obeyed, or refused by name."""

from dataclasses import replace

import pytest
from stoker.errors import InvalidRequest
from stoker.model import Accelerator, Optimization
from stoker.runtime.tensorrt_options import (
    DimensionRange,
    Precision,
    TensorRtRequest,
    tensorrt_request,
)
from stoker.runtime.tensorrt_parameters import KNOWN, REFUSED

from tests.engine_parts import config

OPTIONS_OF_THE_PROVIDER = [
    "device_id",
    "has_user_compute_stream",
    "trt_auxiliary_streams",
    "trt_bf16_enable",
    "trt_build_heuristics_enable",
    "trt_builder_optimization_level",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_detailed_build_log",
    "trt_dla_core",
    "trt_dla_enable",
    "trt_dump_ep_context_model",
    "trt_dump_subgraphs",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_engine_decryption_enable",
    "trt_engine_decryption_lib_path",
    "trt_engine_hw_compatible",
    "trt_ep_context_embed_mode",
    "trt_ep_context_file_path",
    "trt_external_data_bytestream",
    "trt_external_data_bytestream_size",
    "trt_extra_plugin_lib_paths",
    "trt_force_sequential_engine_build",
    "trt_force_timing_cache",
    "trt_fp16_enable",
    "trt_int8_calibration_table_name",
    "trt_int8_enable",
    "trt_int8_use_native_calibration_table",
    "trt_layer_norm_fp32_fallback",
    "trt_load_user_initializer",
    "trt_max_partition_iterations",
    "trt_max_workspace_size",
    "trt_min_subgraph_size",
    "trt_onnx_bytestream",
    "trt_onnx_bytestream_size",
    "trt_onnx_model_folder_path",
    "trt_op_types_to_exclude",
    "trt_preview_features",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_sparsity_enable",
    "trt_tactic_sources",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_weight_stripped_engine_enable",
]
"""As they stand in libonnxruntime_providers_tensorrt.so of 1.31.1."""

TRITONS_KEYS = [
    "max_workspace_size_bytes",
    "trt_max_partition_iterations",
    "trt_min_subgraph_size",
    "precision_mode",
    "int8_calibration_table_name",
    "int8_use_native_calibration_table",
    "trt_dla_enable",
    "trt_dla_core",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_dump_subgraphs",
    "trt_force_sequential_engine_build",
    "trt_context_memory_sharing_enable",
    "trt_layer_norm_fp32_fallback",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_force_timing_cache",
    "trt_detailed_build_log",
    "trt_build_heuristics_enable",
    "trt_sparsity_enable",
    "trt_builder_optimization_level",
    "trt_auxiliary_streams",
    "trt_tactic_sources",
    "trt_extra_plugin_lib_paths",
    "trt_profile_min_shapes",
    "trt_profile_max_shapes",
    "trt_profile_opt_shapes",
    "trt_cuda_graph_enable",
    "trt_dump_ep_context_model",
    "trt_ep_context_file_path",
    "trt_ep_context_embed_mode",
]
"""As Triton's ONNX Runtime backend documents them."""


def asked(**parameters: str) -> TensorRtRequest:
    accelerator = Accelerator("tensorrt", parameters)
    model = replace(config(), optimization=Optimization(gpu_accelerators=(accelerator,)))
    request = tensorrt_request(model)
    assert request is not None
    return request


def test_every_option_of_the_provider_and_every_key_of_triton_is_known() -> None:
    known = {*KNOWN, *REFUSED}
    assert set(OPTIONS_OF_THE_PROVIDER) <= known
    assert set(TRITONS_KEYS) <= known


def test_a_model_without_the_accelerator_asks_for_nothing() -> None:
    assert tensorrt_request(config()) is None
    cuda = Optimization(gpu_accelerators=(Accelerator("cuda", {}),))
    assert tensorrt_request(replace(config(), optimization=cuda)) is None


def test_the_accelerator_alone_caches_engines_and_times_and_builds_one_at_a_time() -> None:
    request = asked()
    assert request.options == {
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_force_sequential_engine_build": "True",
        "trt_min_subgraph_size": "5",
    }
    assert request.is_cached
    assert request.precision is Precision.FP32


@pytest.mark.parametrize(
    ("key", "value", "option", "passed"),
    [
        ("max_workspace_size_bytes", "1073741824", "trt_max_workspace_size", "1073741824"),
        ("trt_max_workspace_size", "0", "trt_max_workspace_size", "0"),
        ("trt_max_partition_iterations", "1000", "trt_max_partition_iterations", "1000"),
        ("trt_min_subgraph_size", "1", "trt_min_subgraph_size", "1"),
        ("trt_dla_enable", "false", "trt_dla_enable", "False"),
        ("trt_dla_core", "0", "trt_dla_core", "0"),
        ("trt_context_memory_sharing_enable", "TRUE", "trt_context_memory_sharing_enable", "True"),
        ("trt_layer_norm_fp32_fallback", "0", "trt_layer_norm_fp32_fallback", "False"),
        ("trt_timing_cache_enable", "0", "trt_timing_cache_enable", "False"),
        ("trt_force_timing_cache", "1", "trt_force_timing_cache", "True"),
        ("trt_detailed_build_log", "1", "trt_detailed_build_log", "True"),
        ("trt_build_heuristics_enable", "1", "trt_build_heuristics_enable", "True"),
        ("trt_sparsity_enable", "1", "trt_sparsity_enable", "True"),
        ("trt_builder_optimization_level", "5", "trt_builder_optimization_level", "5"),
        ("trt_auxiliary_streams", "-1", "trt_auxiliary_streams", "-1"),
        ("trt_tactic_sources", "-CUDNN,+CUBLAS", "trt_tactic_sources", "-CUDNN,+CUBLAS"),
        ("trt_op_types_to_exclude", "NonZero,Where", "trt_op_types_to_exclude", "NonZero,Where"),
        ("trt_preview_features", "ALIASED_PLUGIN_IO_10_03", "trt_preview_features",
         "ALIASED_PLUGIN_IO_10_03"),
        ("trt_engine_hw_compatible", "1", "trt_engine_hw_compatible", "True"),
        ("trt_fp16_enable", "1", "trt_fp16_enable", "True"),
    ],
)  # fmt: skip
def test_a_key_becomes_the_option_of_the_provider(
    key: str, value: str, option: str, passed: str
) -> None:
    assert asked(**{key: value}).options[option] == passed


@pytest.mark.parametrize(
    ("mode", "option", "precision"),
    [
        ("FP16", "trt_fp16_enable", Precision.FP16),
        ("bf16", "trt_bf16_enable", Precision.BF16),
        ("INT8", "trt_int8_enable", Precision.INT8),
    ],
)
def test_the_precision_mode_turns_its_option_on(
    mode: str, option: str, precision: Precision
) -> None:
    request = asked(precision_mode=mode)
    assert request.options[option] == "True"
    assert request.precision is precision


def test_fp32_turns_no_option_on() -> None:
    request = asked(precision_mode="FP32")
    assert request.precision is Precision.FP32
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(request.options)


def test_the_coarsest_of_several_precisions_says_what_difference_is_allowed() -> None:
    request = asked(precision_mode="INT8", trt_fp16_enable="1")
    assert request.precision is Precision.INT8
    assert request.allowed_difference > asked(precision_mode="FP16").allowed_difference


def test_layer_norms_of_an_fp16_engine_stay_in_fp32_unless_the_model_says_otherwise() -> None:
    assert asked(precision_mode="FP16").options["trt_layer_norm_fp32_fallback"] == "True"
    off = asked(precision_mode="FP16", trt_layer_norm_fp32_fallback="0")
    assert off.options["trt_layer_norm_fp32_fallback"] == "False"


def test_the_models_own_tolerance_wins() -> None:
    assert asked(trt_tolerance="0.5").allowed_difference == 0.5


def test_a_model_may_leave_its_engine_out_of_the_cache() -> None:
    request = asked(trt_engine_cache_enable="false")
    assert not request.is_cached
    assert request.options["trt_engine_cache_enable"] == "True"  # within the process, for instances


def test_builds_stay_one_at_a_time() -> None:
    options = asked(trt_force_sequential_engine_build="0").options
    assert options["trt_force_sequential_engine_build"] == "True"


def test_ranges_are_read_by_symbol_and_by_axis() -> None:
    request = asked(trt_dimension_ranges="sequence=1..128..512, mask:1=4..8,height=224")
    assert request.ranges == {
        "sequence": DimensionRange(1, 128, 512),
        "mask:1": DimensionRange(4, 8, 8),
        "height": DimensionRange(224, 224, 224),
    }


def test_the_three_shapes_of_a_profile_are_read() -> None:
    request = asked(
        trt_profile_min_shapes="x:1x3,/inner/out:1",
        trt_profile_opt_shapes="x:4x3,/inner/out:2",
        trt_profile_max_shapes="x:8x3,/inner/out:4",
    )
    assert request.shapes == {
        "x": ((1, 3), (4, 3), (8, 3)),
        "/inner/out": ((1,), (2,), (4,)),
    }


def test_a_calibration_table_is_a_plain_file_of_the_model() -> None:
    request = asked(precision_mode="INT8", int8_calibration_table_name="table.flatbuffers")
    assert request.calibration_table == "table.flatbuffers"
    assert request.options["trt_int8_calibration_table_name"] == "table.flatbuffers"


@pytest.mark.parametrize("name", ["../table", "/etc/passwd", "a/b", ".hidden", ".."])
def test_a_calibration_table_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="plain name of a file in the model's folder"):
        asked(precision_mode="INT8", int8_calibration_table_name=name)


def test_a_calibration_table_without_int8_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected precision_mode INT8"):
        asked(int8_calibration_table_name="table")


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(InvalidRequest, match=r"'trt_fp16_enabled'.*'trt_fp16_enable'"):
        asked(trt_fp16_enabled="1")


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("trt_extra_plugin_lib_paths", "--trt-plugin-libraries"),
        ("trt_engine_cache_path", "--trt-cache-dir"),
        ("trt_engine_cache_prefix", "--trt-cache-dir"),
        ("trt_timing_cache_path", "--trt-cache-dir"),
        ("trt_ep_context_file_path", "--trt-cache-dir"),
        ("trt_engine_decryption_lib_path", "native code"),
        ("trt_onnx_model_folder_path", "the server sets it itself"),
        ("device_id", "the server sets it itself"),
        ("user_compute_stream", "the server sets it itself"),
    ],
)
def test_what_only_the_operator_may_choose_is_refused_with_what_replaces_it(
    key: str, remedy: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"'{key}'.*{remedy}"):
        asked(**{key: "/somewhere"})


@pytest.mark.parametrize(
    "key",
    [
        "trt_cuda_graph_enable",
        "trt_dump_subgraphs",
        "trt_dump_ep_context_model",
        "trt_engine_decryption_enable",
        "trt_weight_stripped_engine_enable",
    ],
)
def test_a_flag_that_must_stay_off_may_be_written_off_and_not_on(key: str) -> None:
    assert key not in asked(**{key: "0"}).options
    with pytest.raises(InvalidRequest, match=f"'{key}'.*is not supported"):
        asked(**{key: "1"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("precision_mode", "FP8", "expected one of FP32, FP16, BF16, INT8"),
        ("trt_fp16_enable", "yes", "expected 1, true, 0 or false"),
        ("trt_engine_cache_enable", "maybe", "expected 1, true, 0 or false"),
        ("max_workspace_size_bytes", "-1", "a whole number, 0 or more"),
        ("max_workspace_size_bytes", "1GiB", "a whole number, 0 or more"),
        ("trt_min_subgraph_size", "0", "a whole number, 1 or more"),
        ("trt_builder_optimization_level", "6", "a whole number, 0 to 5"),
        ("trt_auxiliary_streams", "-2", "a whole number, -1 or more"),
        ("trt_tactic_sources", "CUDNN", "such as '-CUDNN"),
        ("trt_op_types_to_exclude", "a b", "operator types"),
        ("trt_tolerance", "0", "a number above 0"),
        ("trt_tolerance", "nan", "a number above 0"),
        ("trt_tolerance", "wide", "a number above 0"),
        ("trt_dimension_ranges", "sequence=8..4", "in order"),
        ("trt_dimension_ranges", "sequence=0..4", "at least 1"),
        ("trt_dimension_ranges", "sequence", "symbol=least..most"),
        ("trt_profile_min_shapes", "x=1x3", "input1:1x3x224x224"),
        ("trt_profile_min_shapes", "x:0:1x3", "input1:1x3x224x224"),
        ("trt_profile_min_shapes", "x:1x3,x:1x4", "expected one shape for 'x'"),
        ("trt_profile_min_shapes", "x:1x3", "all three of the profile's shapes"),
    ],
)
def test_a_value_of_another_kind_is_refused(key: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        asked(**{key: value})


def test_a_profile_out_of_order_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="min <= opt <= max, got 2x3, 4x3, 1x3"):
        asked(
            trt_profile_min_shapes="x:2x3",
            trt_profile_opt_shapes="x:4x3",
            trt_profile_max_shapes="x:1x3",
        )


def test_a_profile_whose_three_shapes_name_different_tensors_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected 'y' in all three"):
        asked(
            trt_profile_min_shapes="x:2x3",
            trt_profile_opt_shapes="x:4x3",
            trt_profile_max_shapes="x:4x3,y:1",
        )


def test_the_accelerator_given_twice_is_refused() -> None:
    twice = Optimization(gpu_accelerators=(Accelerator("tensorrt", {}),) * 2)
    with pytest.raises(InvalidRequest, match="expected one gpu_execution_accelerator"):
        tensorrt_request(replace(config(), optimization=twice))
