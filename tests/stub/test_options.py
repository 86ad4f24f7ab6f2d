"""Each CUDA option and value that we can pass is one that ONNX Runtime's parser knows."""

import pytest
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.cuda_options import CUDA_OPTIONS, CudaOption, OptionKind, cuda_options
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER

from tests.stub.libraries import ONE_GPU, Libraries, ask
from tests.stub.recording import is_as_recorded


def values(option: CudaOption) -> tuple[str, ...]:
    if option.kind is OptionKind.FLAG:
        return ("0", "1")
    return option.names or ("1", str(option.most))


SET_BY_MODELS = [option for option in CUDA_OPTIONS if option.kind is not OptionKind.SERVER]
EACH_VALUE = [(option.key, value) for option in SET_BY_MODELS for value in values(option)]
NOT_SHOWN = {"enable_skip_layer_norm_strict_mode"}
"""Deprecated: parsed, and left out of what ONNX Runtime tells of a session."""


def request(options: dict[str, str], **more: object) -> dict[str, object]:
    return {"providers": [[CUDA_PROVIDER, options], [CPU_PROVIDER, {}]], **more}


def passed(key: str, value: str) -> dict[str, str]:
    """What a session passes whose model sets this option."""
    accelerator = Accelerator("cuda", {key: value})
    config = ModelConfig(
        "m", 0, (), (), None, optimization=Optimization(gpu_accelerators=(accelerator,))
    )
    return cuda_options(config, 0)


def test_each_value_of_each_option_is_stored_as_it_was_passed(libraries: Libraries) -> None:
    given = [passed(key, value) for key, value in EACH_VALUE]
    # cuDNN cannot start without a GPU; whether it is wanted is parsed all the same.
    without_cudnn = [{**each, "enable_cudnn": "0"} for each in given]
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    answers = ask("raw_probe", [request(each) for each in without_cudnn], environment)
    for each, answer in zip(without_cudnn, answers, strict=True):
        assert "text" not in answer, answer["text"]
        stored = answer["options"][CUDA_PROVIDER]
        assert {key: stored[key] for key in each.keys() - NOT_SHOWN} == {
            key: value for key, value in each.items() if key not in NOT_SHOWN
        }


def test_the_table_has_every_option_that_a_session_stores(libraries: Libraries) -> None:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    (answer,) = ask("raw_probe", [request({"enable_cudnn": "0"})], environment)
    stored = answer["options"][CUDA_PROVIDER]
    assert set(stored) | NOT_SHOWN == {option.key for option in CUDA_OPTIONS}
    defaults = {option.key: option.default for option in CUDA_OPTIONS}
    unlimited = {"gpu_mem_limit": str((1 << 64) - 1), "enable_cudnn": "0"}
    assert stored == {key: unlimited.get(key, defaults[key]) for key in stored}


def test_options_are_parsed_before_the_driver_is_asked_for_a_gpu(libraries: Libraries) -> None:
    given = {key: value for key, value in passed("use_tf32", "0").items() if key != "device_id"}
    (answer,) = ask("raw_probe", [request(given)], libraries.preloaded())
    assert "CUDA failure 100" in answer["text"]


@pytest.mark.parametrize(
    ("situation", "options", "words"),
    [
        ("option_misspelt", {"cudnn_conv_algo_serach": "HEURISTIC"}, "cudnn_conv_algo_serach"),
        ("option_of_the_plugin_provider", {"arena.max_mem": "1"}, "arena.max_mem"),
        ("number_malformed", {"gpu_mem_limit": "abc"}, "gpu_mem_limit"),
        ("choice_by_number", {"arena_extend_strategy": "1"}, "arena_extend_strategy"),
        ("choice_unknown", {"cudnn_conv_algo_search": "FOO"}, "cudnn_conv_algo_search"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    libraries: Libraries, situation: str, options: dict[str, str], words: str
) -> None:
    (answer,) = ask("raw_probe", [request(options)], libraries.preloaded())
    assert words in answer["text"]
    assert is_as_recorded(situation, answer)
