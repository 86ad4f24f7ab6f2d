"""Options of the CUDA provider: who sets them, what they take, what is refused."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.cuda_options import CUDA_OPTIONS, CudaOption, OptionKind, cuda_options, nearest


def config(*gpu: Accelerator, **parameters: str) -> ModelConfig:
    optimization = Optimization(gpu_accelerators=gpu)
    return ModelConfig("m", 0, (), (), None, parameters=parameters, optimization=optimization)


def cuda(**parameters: str) -> Accelerator:
    return Accelerator("cuda", parameters)


SET_BY_MODELS = [option for option in CUDA_OPTIONS if option.kind is not OptionKind.SERVER]
SET_BY_SERVER = [option for option in CUDA_OPTIONS if option.kind is OptionKind.SERVER]


def test_a_session_passes_what_is_recommended_and_its_device() -> None:
    assert cuda_options(config(), 1) == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "1",
    }


@pytest.mark.parametrize("option", SET_BY_MODELS, ids=lambda each: each.key)
def test_every_option_of_models_is_set_by_parameter_and_by_accelerator(option: CudaOption) -> None:
    given = {option.key: option.names[-1] if option.names else "1"}
    assert given.items() <= cuda_options(config(**given), 0).items()
    assert given.items() <= cuda_options(config(cuda(**given)), 0).items()


def test_an_accelerators_options_win_over_parameters() -> None:
    chosen = cuda(cudnn_conv_algo_search="DEFAULT", prefer_nhwc="true")
    options = cuda_options(config(chosen, cudnn_conv_algo_search="EXHAUSTIVE"), 0)
    assert options["cudnn_conv_algo_search"] == "DEFAULT"
    assert options["prefer_nhwc"] == "1"


def test_numbers_of_old_configurations_become_names() -> None:
    options = cuda_options(config(cudnn_conv_algo_search="0", arena_extend_strategy=" 1 "), 0)
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert cuda_options(config(cuda(arena_extend_strategy="0")), 0)["arena_extend_strategy"] == (
        "kNextPowerOfTwo"
    )


def test_names_are_understood_in_any_case() -> None:
    options = cuda_options(config(cuda(cudnn_conv_algo_search="heuristic")), 0)
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_no_memory_limit_is_passed_as_none() -> None:
    assert "gpu_mem_limit" not in cuda_options(config(gpu_mem_limit="0"), 0)
    assert cuda_options(config(gpu_mem_limit="1048576"), 0)["gpu_mem_limit"] == "1048576"


@pytest.mark.parametrize("option", SET_BY_SERVER, ids=lambda each: each.key)
def test_options_of_the_server_cannot_be_configured(option: CudaOption) -> None:
    refusal = f"option '{option.key}' of accelerator 'cuda' is set by the server"
    with pytest.raises(InvalidRequest, match=refusal):
        cuda_options(config(cuda(**{option.key: "1"})), 0)
    assert cuda_options(config(**{option.key: "7"}), 0).get(option.key) in (None, "0")


def test_an_unknown_option_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidRequest) as refused:
        cuda_options(config(cuda(cudnn_conv_algo_serach="HEURISTIC")), 0)
    assert refused.value.message == (
        "model 'm': option 'cudnn_conv_algo_serach' of accelerator 'cuda': ONNX Runtime's CUDA "
        "provider has no such option; did you mean 'cudnn_conv_algo_search'?"
    )


def test_an_option_that_resembles_none_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match="known are gpu_mem_limit, arena_extend_strategy, "):
        cuda_options(config(cuda(zzz="1")), 0)


def test_parameters_of_other_readers_are_left_alone() -> None:
    assert "batching_proof" not in cuda_options(config(batching_proof="off"), 0)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("gpu_mem_limit", "1GB", "a whole number from 0 to 18446744073709551615"),
        ("gpu_mem_limit", "-1", "a whole number from 0 to 18446744073709551615"),
        ("external_data_loader_reading_threads", "65", "a whole number from 0 to 64"),
        ("use_tf32", "yes", "0 or 1"),
        ("arena_extend_strategy", "grow", "one of kNextPowerOfTwo, kSameAsRequested"),
        ("cudnn_conv_algo_search", "3", "one of EXHAUSTIVE, HEURISTIC, DEFAULT"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(
    key: str, value: str, expected: str
) -> None:
    for chosen in (config(cuda(**{key: value})), config(**{key: value})):
        with pytest.raises(InvalidRequest, match=f"'{key}'.*: expected {expected}, got '{value}'"):
            cuda_options(chosen, 0)


def test_the_nearest_name_is_found_only_where_one_is_near() -> None:
    known = ("use_tf32", "prefer_nhwc")
    assert nearest("USE_TF_32", known) == "use_tf32"
    assert nearest("prefer_nchw", known) == "prefer_nhwc"
    assert nearest("threads", known) is None
