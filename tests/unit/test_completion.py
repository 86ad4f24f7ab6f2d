"""Completion of a configuration from the opened model, and the checks against it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.device import DeviceReport
from stoker.errors import InvalidRequest
from stoker.model import DynamicBatching, InstanceKind, ModelConfig
from stoker.protocol.model_config_pb2 import ModelConfig as Message
from stoker.repository.completion import complete
from stoker.repository.layout import ModelLayout
from stoker.repository.model_config import to_model_config, to_pbtxt
from stoker.repository.model_folder import ModelFolder, read_model_folder
from stoker.repository.report import Report
from stoker.tensor import DataType, TensorSpec

F = DataType.FP32


@dataclass(frozen=True)
class Opened:
    """What a session says of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dimension_names: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    unranked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placement:
    device: str
    instances: int


def opened(*shapes: tuple[int, ...], output: tuple[int, ...] = (-1, 2)) -> Opened:
    inputs = tuple(TensorSpec(f"x{index}", F, shape) for index, shape in enumerate(shapes))
    return Opened(inputs, (TensorSpec("y", F, output),))


BATCHING = opened((-1, 3))


def folder(home: Path, config: str | None, *, default: int = 4) -> ModelFolder:
    model = home / "m"
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1" / "model.onnx").touch()
    file = model / "config.pbtxt"
    if config is not None:
        file.write_text(config)
    layout = ModelLayout("m", model, file if config is not None else None, {1: model / "1"})
    return read_model_folder(layout, default_max_batch_size=default)


def completed(home: Path, config: str | None, model: Opened, *, default: int = 4) -> ModelConfig:
    read = folder(home, config, default=default)
    assert read.problems == ()
    return read.complete(model)


def refused(home: Path, config: str, model: Opened) -> str:
    read = folder(home, config)
    assert read.problems == ()
    with pytest.raises(InvalidRequest) as caught:
        read.complete(model)
    return caught.value.message


def test_without_a_file_everything_comes_from_the_model(tmp_path: Path) -> None:
    config = completed(tmp_path, None, BATCHING)
    assert config.max_batch_size == 4
    assert (config.inputs[0].name, config.inputs[0].datatype, config.inputs[0].dims) == (
        "x0",
        F,
        (3,),
    )
    assert config.outputs[0].dims == (2,)
    assert config.batching == DynamicBatching()
    assert not config.batching_is_explicit
    assert not config.batch_size_is_explicit


def test_the_answer_shows_every_default_filled_in(tmp_path: Path) -> None:
    shown = orjson.loads(completed(tmp_path, None, BATCHING).json)
    assert shown["name"] == "m"
    assert shown["platform"] == "onnxruntime_onnx"
    assert shown["backend"] == "onnxruntime"
    assert shown["version_policy"] == {"latest": {"num_versions": 1}}
    assert shown["dynamic_batching"]["preferred_batch_size"] == [4]
    assert shown["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    assert shown["default_model_filename"] == "model.onnx"
    assert shown["optimization"]["input_pinned_memory"] == {"enable": True}
    assert shown["optimization"]["output_pinned_memory"] == {"enable": True}
    assert [group["name"] for group in shown["instance_group"]] == ["m"]
    assert shown["input"][0]["data_type"] == "TYPE_FP32"
    assert shown["input"][0]["dims"] == [3]
    assert "ensemble_scheduling" not in shown


def test_batching_is_kept_as_written_and_shown_filled_in(tmp_path: Path) -> None:
    config = completed(
        tmp_path,
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 5000000000 }",
        BATCHING,
    )
    assert config.batching == DynamicBatching(max_queue_delay_us=5_000_000_000)
    assert config.batching_is_explicit
    assert config.batch_size_is_explicit
    shown = orjson.loads(config.json)["dynamic_batching"]
    assert shown["preferred_batch_size"] == [8]
    assert shown["max_queue_delay_microseconds"] == 5_000_000_000


@pytest.mark.parametrize("model", [opened((1, 3)), opened(()), opened((-1, 3), output=(5,))])
def test_a_model_with_a_fixed_first_dimension_does_not_batch(tmp_path: Path, model: Opened) -> None:
    config = completed(tmp_path, None, model)
    assert config.max_batch_size == 0
    assert config.batching is None


def test_a_model_that_cannot_batch_must_not_be_told_to(tmp_path: Path) -> None:
    assert refused(tmp_path, "max_batch_size: 8", opened((1, 3))).startswith(
        "m/config.pbtxt:1: max_batch_size: expected 0, got 8: the model cannot batch"
    )


def test_a_batch_size_of_one_adds_no_dynamic_batcher(tmp_path: Path) -> None:
    config = completed(tmp_path, "max_batch_size: 1", BATCHING)
    assert (config.max_batch_size, config.batching) == (1, None)
    assert config.client_spec(config.inputs[0]).shape == (-1, 3)


def test_a_default_batch_size_of_zero_leaves_models_unbatched(tmp_path: Path) -> None:
    config = completed(tmp_path, None, BATCHING, default=0)
    assert config.inputs[0].dims == (-1, 3)


WHOLE = (
    'input {{ name: "x0" data_type: TYPE_FP32 dims: {0} }}'
    'output {{ name: "y" data_type: TYPE_FP32 dims: {1} }}'
)


def test_a_file_with_inputs_and_outputs_is_left_as_it_is(tmp_path: Path) -> None:
    config = completed(tmp_path, WHOLE.format("[-1, 3]", "[-1, 2]"), BATCHING)
    assert (config.max_batch_size, config.batching) == (0, None)
    assert config.inputs[0].dims == (-1, 3)


def test_a_scalar_is_one_element_to_clients_of_a_model_without_batches(tmp_path: Path) -> None:
    config = completed(tmp_path, None, opened((), output=()))
    assert (config.inputs[0].dims, config.inputs[0].reshape) == ((1,), ())
    assert (config.outputs[0].dims, config.outputs[0].reshape) == ((1,), ())
    assert "reshape" not in orjson.loads(config.json)["input"][0]


@pytest.mark.parametrize(
    ("dims", "seen"), [("[1]", (1,)), ("[1] reshape { }", (1,)), ("[] reshape { }", ())]
)
def test_a_scalar_may_be_written_with_and_without_reshape(
    tmp_path: Path, dims: str, seen: tuple[int, ...]
) -> None:
    config = completed(tmp_path, WHOLE.format(dims, "[2]"), opened((), output=(2,)))
    assert (config.inputs[0].dims, config.inputs[0].reshape) == (seen, ())


def test_a_tensor_of_rows_only_is_reshaped_for_clients(tmp_path: Path) -> None:
    config = completed(tmp_path, None, opened((-1,), output=(-1,)))
    assert (config.inputs[0].dims, config.inputs[0].reshape) == ((1,), ())
    assert orjson.loads(config.json)["input"][0]["reshape"] == {"shape": []}


def test_reshape_is_what_the_model_itself_gets(tmp_path: Path) -> None:
    config = completed(
        tmp_path,
        WHOLE.format("[3, 8] reshape { shape: [1, 3, 8] }", "[5] reshape { shape: [1, 5, 1] }"),
        opened((1, 3, 8), output=(1, 5, 1)),
    )
    assert config.client_spec(config.inputs[0]).shape == (3, 8)
    assert config.model_spec(config.inputs[0]).shape == (1, 3, 8)
    assert config.model_spec(config.outputs[0]).shape == (1, 5, 1)


def test_a_fixed_dimension_may_narrow_a_variable_one_of_an_input_only(tmp_path: Path) -> None:
    model = opened((-1, 3), output=(-1, 2))
    assert completed(tmp_path, WHOLE.format("[7, 3]", "[-1, 2]"), model).inputs[0].dims == (7, 3)
    assert "output[0].dims: expected [-1,2] as the model has it, got [7,2]" in refused(
        tmp_path, WHOLE.format("[-1, 3]", "[7, 2]"), model
    )


def test_a_variable_dimension_is_refused_where_the_model_is_fixed(tmp_path: Path) -> None:
    text = WHOLE.format("[-1, -1]", "[-1, 2]")
    assert "input[0].dims: expected [-1,3]" in refused(tmp_path, text, BATCHING)


def test_every_contradiction_with_the_model_is_told_with_its_line(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        "max_batch_size: 2\n"
        'input { name: "z" data_type: TYPE_FP32 dims: [3] }\n'
        'input { name: "x0" data_type: TYPE_INT64 dims: [4] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [-1, 2] }',
        opened((-1, 3), (-1, 5)),
    )
    assert "m/config.pbtxt:2: input: the model's input 'x1 FP32 [-1,5]' is missing" in message
    assert "m/config.pbtxt:2: input[0].name: the model has no input 'z'" in message
    assert "m/config.pbtxt:3: input[1].data_type: expected TYPE_FP32" in message
    assert "m/config.pbtxt:3: input[1].dims: expected [-1,3] as the model has it, got [-1,4]" in (
        message
    )
    assert "dims are written without the batch dimension" in message


def test_outputs_may_be_left_out(tmp_path: Path) -> None:
    model = Opened(BATCHING.inputs, (*BATCHING.outputs, TensorSpec("more", F, (-1, 9))))
    text = 'output { name: "y" data_type: TYPE_FP32 dims: [2] }'
    assert [each.name for each in completed(tmp_path, text, model).outputs] == ["y"]


def test_initialisers_are_inputs_only_where_they_are_written(tmp_path: Path) -> None:
    model = Opened(
        (TensorSpec("x0", F, (2, 3)), TensorSpec("scale", F, (1,), optional=True)),
        (TensorSpec("y", F, (2, 3)),),
    )
    assert [each.name for each in completed(tmp_path, None, model).inputs] == ["x0"]
    text = (
        'input { name: "x0" data_type: TYPE_FP32 dims: [2, 3] }'
        'input { name: "scale" data_type: TYPE_FP32 dims: [1] optional: true }'
    )
    assert [each.optional for each in completed(tmp_path, text, model).inputs] == [False, True]


def test_an_input_that_the_model_needs_is_not_optional(tmp_path: Path) -> None:
    told: list[str] = []
    text = 'input { name: "x0" data_type: TYPE_FP32 dims: [3] optional: true }'
    config = folder(tmp_path, text).complete(BATCHING, warn=told.append)
    assert not config.inputs[0].optional
    assert "cannot run without 'x0'" in told[0]


def test_different_names_of_first_dimensions_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    model = Opened(
        BATCHING.inputs, BATCHING.outputs, {"x0": ("batch", None), "y": ("num_boxes", None)}
    )
    folder(tmp_path, None).complete(model, warn=told.append)
    assert len(told) == 1
    assert "batch, num_boxes" in told[0]


def test_a_tensor_of_undeclared_rank_takes_the_dims_of_the_file(tmp_path: Path) -> None:
    model = Opened(
        (TensorSpec("x0", F, ()),), (TensorSpec("y", F, ()),), unranked=frozenset({"x0", "y"})
    )
    config = completed(tmp_path, "max_batch_size: 2 " + WHOLE.format("[3, -1]", "[2]"), model)
    assert config.client_spec(config.inputs[0]).shape == (-1, 3, -1)
    assert completed(tmp_path, "", model).max_batch_size == 0


def test_preferred_sizes_are_held_against_the_completed_batch_size(tmp_path: Path) -> None:
    text = "dynamic_batching { preferred_batch_size: [2, 16] }"
    assert "up to max_batch_size, which is 4, got 16" in refused(tmp_path, text, BATCHING)


def test_a_warmup_sample_must_fit_the_inputs(tmp_path: Path) -> None:
    text = """model_warmup { name: "w" batch_size: 1
      inputs { key: "x0" value { data_type: TYPE_FP32 dims: [4] zero_data: true } } }"""
    assert "expected TYPE_FP32 [3], got TYPE_FP32 [4]" in refused(tmp_path, text, BATCHING)
    fitting = completed(tmp_path, text.replace("[4]", "[3]"), BATCHING).warmup[0]
    assert (fitting.count, fitting.inputs["x0"].source) == (1, "zero")


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    assert "at least one input" in refused(tmp_path, "", opened())


def test_instance_groups_show_where_the_model_runs(tmp_path: Path) -> None:
    placements = (Placement("cuda:0", 2), Placement("cuda:1", 2))
    shown = orjson.loads(folder(tmp_path, None).complete(BATCHING, placements=placements).json)
    (group,) = shown["instance_group"]
    assert (group["name"], group["kind"], group["count"], group["gpus"]) == (
        "m",
        "KIND_GPU",
        2,
        [0, 1],
    )


def test_written_instance_groups_stay_in_the_noun_and_are_named_in_the_answer(
    tmp_path: Path,
) -> None:
    read = folder(tmp_path, "instance_group [ { }, { kind: KIND_CPU count: 3 } ]")
    config = read.complete(BATCHING, placements=(Placement("cpu", 4),))
    assert [(each.kind, each.count) for each in config.instance_groups] == [
        (InstanceKind.AUTO, 0),
        (InstanceKind.CPU, 3),
    ]
    shown = orjson.loads(config.json)["instance_group"]
    assert [(each["name"], each["kind"], each["count"]) for each in shown] == [
        ("m_0", "KIND_CPU", 1),
        ("m_1", "KIND_CPU", 3),
    ]


def test_message_json_and_text_say_the_same(tmp_path: Path) -> None:
    config = completed(tmp_path, 'parameters { key: "a" value { string_value: "1" } }', BATCHING)
    message = Message.FromString(config.message)
    assert message.parameters["a"].string_value == "1"
    assert orjson.loads(config.json)["parameters"] == {"a": {"string_value": "1"}}
    again = completed(tmp_path, to_pbtxt(config), BATCHING)
    assert again.message == config.message
    assert again.inputs == config.inputs


dims = st.lists(st.sampled_from([-1, 0, 1, 3]), max_size=3).map(tuple)


@given(dims, dims, st.sampled_from([DataType.FP32, DataType.BYTES, DataType.BF16]))
@settings(max_examples=50, deadline=None)
def test_whatever_the_model_is_its_completed_configuration_fits_it_and_completes_to_itself(
    taken: tuple[int, ...], given_back: tuple[int, ...], datatype: DataType
) -> None:
    model = Opened((TensorSpec("x", datatype, taken),), (TensorSpec("y", datatype, given_back),))
    report = Report("m")
    done = complete(Message(name="m"), model, report, default_max_batch_size=4)
    assert report.problems == []
    config = to_model_config(done.message, Message(name="m"), scalars=done.scalars)
    assert config.model_spec(config.inputs[0]).shape == taken
    assert config.model_spec(config.outputs[0]).shape == given_back
    assert config.inputs[0].datatype is datatype
    again = complete(done.message, model, report, default_max_batch_size=4)
    assert report.problems == []
    assert again == done


def test_several_sessions_on_a_gpu_are_instances_of_one_group(tmp_path: Path) -> None:
    placements = [Placement(f"cuda:{gpu}", 1) for gpu in (0, 0, 1, 1)] + [Placement("cpu", 3)]
    shown = orjson.loads(folder(tmp_path, None).complete(BATCHING, placements=placements).json)
    gpu, cpu = shown["instance_group"]
    assert (gpu["kind"], gpu["count"], gpu["gpus"]) == ("KIND_GPU", 2, [0, 1])
    assert (cpu["kind"], cpu["count"]) == ("KIND_CPU", 3)


def test_where_sessions_really_run_is_shown_as_a_parameter_and_not_obeyed(tmp_path: Path) -> None:
    report = DeviceReport("cuda:0", "cuda:0", "CUDAExecutionProvider", {"P": 3})
    config = folder(tmp_path, None).complete(BATCHING, reports=[report, report])
    shown = orjson.loads(config.json)["parameters"]["stoker.devices"]["string_value"]
    assert orjson.loads(shown) == [report.facts(), report.facts()]
    assert "stoker.devices" not in folder(tmp_path, None).complete(BATCHING).parameters
