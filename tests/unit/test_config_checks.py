"""Contradictions and unsupported fields of a configuration, before any model is opened."""

from pathlib import Path

import pytest
from stoker.protocol.model_config_pb2 import ModelConfig
from stoker.repository.config_checks import check_config
from stoker.repository.model_config import read
from stoker.repository.obedience import NOT_OBEYED, REFUSED, check_obedience
from stoker.repository.report import Report

BOTH = (
    'input { name: "x" data_type: TYPE_FP32 dims: [3] %s } '
    'output { name: "y" data_type: TYPE_FP32 dims: [3] %s }'
)


def check(text: str, folder: Path = Path("nowhere")) -> Report:
    message, report = read(text.encode(), file="m/config.pbtxt")
    assert report.problems == []
    check_config(message, report, name="m", folder=folder)
    check_obedience(message, report)
    return report


def test_a_plain_configuration_has_no_problem_and_no_warning() -> None:
    report = check(
        'name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime" max_batch_size: 8 '
        + BOTH % ("", "reshape { shape: [1, 3] }")
        + "version_policy { all { } } instance_group [ { count: 2 kind: KIND_CPU } ]"
        "dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 "
        "preserve_ordering: true priority_levels: 1 default_priority_level: 1 }"
        "optimization { graph { level: 1 } input_pinned_memory { enable: true } "
        'execution_accelerators { gpu_execution_accelerator { name: "cuda" } } }'
        'parameters { key: "a" value { string_value: "b" } }'
        'model_warmup { name: "w" batch_size: 8 inputs { key: "x" value '
        "{ data_type: TYPE_FP32 dims: [3] random_data: true } } }"
    )
    assert (report.problems, report.warnings) == ([], [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name: "other"', "name: expected 'm' as the model's folder, got 'other'"),
        ('backend: "python"', "backend: expected 'onnxruntime' or none, got 'python'"),
        ('platform: "tensorrt_plan"', "platform: expected 'onnxruntime_onnx' or none"),
        ('platform: "ensemble"', "platform: ensembles are not supported yet"),
        ("max_batch_size: -1", "max_batch_size: expected 0 or more, got -1"),
        ("input { data_type: TYPE_FP32 }", "input[0]: expected a name"),
        ('input { name: "x" }', "input[0].data_type: expected one of TYPE_BOOL"),
        ('input { name: "x" data_type: 99 }', "input[0].data_type: expected one of TYPE_BOOL"),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [-2] }',
            "input[0].dims: expected sizes, or -1 for any size, got [-2]",
        ),
        (
            'input [ { name: "x" data_type: 11 }, { name: "x" data_type: 11 } ]',
            "input[1].name: expected each name once, got 'x' twice",
        ),
        (BOTH % ("reshape { shape: [4] }", ""), "input[0].reshape: expected a shape of as many"),
        (BOTH.replace("[3]", "[]") % ("", ""), "input[0].dims: expected at least one dimension"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [8] }",
            "dynamic_batching.preferred_batch_size: expected sizes up to max_batch_size, "
            "which is 4, got 8",
        ),
        (
            "dynamic_batching { preferred_batch_size: [0] }",
            "dynamic_batching.preferred_batch_size: expected sizes above 0, got [0]",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "dynamic_batching.default_priority_level: expected 1 to priority_levels",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
            "priority_queue_policy { key: 3 value { } } }",
            'dynamic_batching.priority_queue_policy["3"]: expected a level from 1 to 2, got 3',
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 "
            "default_priority_level: 1 }",
            "dynamic_batching.preserve_ordering: expected at most one priority level",
        ),
        (
            "dynamic_batching { preserve_ordering: true "
            "default_queue_policy { timeout_action: DELAY } }",
            "dynamic_batching.preserve_ordering: expected timeout_action REJECT",
        ),
        ("instance_group { count: -1 }", "instance_group[0].count: expected 1 or more, got -1"),
        (
            "instance_group { kind: KIND_CPU gpus: [0] }",
            "instance_group[0].gpus: expected none for KIND_CPU, got [0]",
        ),
        ("instance_group { gpus: [-1] }", "instance_group[0].gpus: expected indices from 0"),
        ("instance_group { passive: true }", "instance_group: expected a group that is not"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "tpu" } } }',
            "optimization.execution_accelerators.gpu_execution_accelerator[0]: expected one of",
        ),
        (
            "version_policy { specific { versions: [0] } }",
            "version_policy.specific.versions: expected version numbers from 1, got [0]",
        ),
        (
            'default_model_filename: "../x.onnx"',
            "default_model_filename: expected a file in the version's folder",
        ),
        ('model_warmup { name: "w" }', "model_warmup[0].batch_size: expected 1 or more, got 0"),
        (
            'model_warmup { batch_size: 1 inputs { key: "x" value { dims: [-1] '
            "zero_data: true data_type: TYPE_FP32 } } }",
            'model_warmup[0].inputs["x"]: expected dims without variable sizes, got [-1]',
        ),
        (
            'model_warmup { batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 } } }',
            'model_warmup[0].inputs["x"]: expected zero_data, random_data or input_data_file',
        ),
        (
            'model_warmup { batch_size: 1 inputs { key: "x" value '
            '{ data_type: TYPE_FP32 input_data_file: "../secret" } } }',
            'model_warmup[0].inputs["x"]: expected a file in the folder warmup, got',
        ),
    ],
)
def test_a_contradiction_is_a_problem_with_line_and_field(text: str, problem: str) -> None:
    problems = check("\n" + text).problems
    assert len([each for each in problems if each.startswith(f"m/config.pbtxt:2: {problem}")]) == 1


def test_warmup_data_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.raw").touch()
    text = (
        'model_warmup { batch_size: 1 inputs { key: "x" value '
        '{ data_type: TYPE_FP32 input_data_file: "x.raw" } } }'
    )
    assert check(text, tmp_path).problems == []


def test_all_problems_are_told_together() -> None:
    report = check('name: "x"\nmax_batch_size: -2\nsequence_batching { }\nbackend: "dali"')
    assert [problem.split(": ")[0] for problem in sorted(report.problems)] == [
        f"m/config.pbtxt:{line}" for line in (1, 2, 3, 4)
    ]


REFUSING = {
    "sequence_batching": "sequence_batching { }",
    "ensemble_scheduling": "ensemble_scheduling { }",
    "batch_input": "batch_input { }",
    "batch_output": "batch_output { }",
    "input.allow_ragged_batch": 'input { name: "x" allow_ragged_batch: true }',
    "input.is_shape_tensor": 'input { name: "x" is_shape_tensor: true }',
    "output.is_shape_tensor": 'output { name: "x" is_shape_tensor: true }',
    "model_operations.op_library_filename": 'model_operations { op_library_filename: "a.so" }',
    "model_transaction_policy.decoupled": "model_transaction_policy { decoupled: true }",
}

WARNING = {
    "cc_model_filenames": 'cc_model_filenames { key: "7.5" value: "x.onnx" }',
    "runtime": 'runtime: "x.so"',
    "model_repository_agents.agents": "model_repository_agents { agents { } }",
    "response_cache.enable": "response_cache { enable: true }",
    "model_metrics.metric_control": "model_metrics { metric_control { } }",
    "optimization.priority": "optimization { priority: PRIORITY_MAX }",
    "optimization.cuda.busy_wait_events": "optimization { cuda { busy_wait_events: true } }",
    "optimization.cuda.graph_spec": "optimization { cuda { graph_spec { } } }",
    "optimization.cuda.output_copy_stream": "optimization { cuda { output_copy_stream: true } }",
    "optimization.gather_kernel_buffer_threshold": (
        "optimization { gather_kernel_buffer_threshold: 1 }"
    ),
    "optimization.eager_batching": "optimization { eager_batching: true }",
    "instance_group.passive": "instance_group [ { }, { passive: true } ]",
    "instance_group.profile": 'instance_group { profile: "0" }',
    "instance_group.rate_limiter": "instance_group { rate_limiter { } }",
    "instance_group.secondary_devices": "instance_group { secondary_devices { } }",
    "instance_group.host_policy": 'instance_group { host_policy: "cpu" }',
    "input.is_non_linear_format_io": 'input { name: "x" is_non_linear_format_io: true }',
    "output.is_non_linear_format_io": 'output { name: "x" is_non_linear_format_io: true }',
}


def test_the_examples_cover_both_tables() -> None:
    assert REFUSING.keys() == REFUSED.keys()
    assert WARNING.keys() == NOT_OBEYED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_would_change_answers_is_refused(name: str) -> None:
    assert any(REFUSED[name] in problem for problem in check(REFUSING[name]).problems)


@pytest.mark.parametrize("name", NOT_OBEYED)
def test_a_field_that_only_tunes_is_told_and_harmless(name: str) -> None:
    report = check(WARNING[name])
    assert any(NOT_OBEYED[name] in warning for warning in report.warnings)
    assert all("data_type" in problem for problem in report.problems)


def test_a_switch_that_is_off_is_not_told() -> None:
    report = check("response_cache { enable: false } model_transaction_policy { }")
    assert (report.problems, report.warnings) == ([], [])


def test_every_field_of_the_tables_exists() -> None:
    for name in (*REFUSED, *NOT_OBEYED):
        descriptor = ModelConfig.DESCRIPTOR
        for step in name.split("."):
            known = descriptor.fields_by_name[step]
            descriptor = known.message_type
