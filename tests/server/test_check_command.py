"""`stoker check` shows what would be served and every problem at once, and serves nothing."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf import text_format
from stoker.app import DEMO
from stoker.check_output import COLUMNS
from stoker.protocol.model_config_pb2 import ModelConfig
from stoker.tensor import DataType

from tests.conftest import PATIENCE
from tests.models import (
    NOT_A_MODEL,
    SIMPLE_CONFIG,
    ModelEntry,
    build,
    double,
    external,
    fails_on_data,
    simple,
    softmax_over_rows,
    tensor,
    write_repository,
)

CONTRADICTIONS: Final = """\
max_batch_size: -1
unknown_field: 7
input [ { name: "x" data_type: TYPE_FP32 dims: [ -2 ] } ]
dynamic_batching {
  preferred_batch_size: [ 0 ]
}
sequence_batching { direct { } }
"""

MISFIT: Final = """\
input [ { name: "x" data_type: TYPE_INT32 dims: [ 4 ] } ]
output [ { name: "z" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def table(output: str) -> dict[str, dict[str, str]]:
    """The rows of the table by model's name, each cell by its column's."""
    lines = output.split("\n\n")[0].splitlines()
    assert tuple(lines[0].split("\t")) == COLUMNS
    rows = [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines[1:]]
    return {row["MODEL"]: row for row in rows}


def test_the_demo_is_fine_and_its_table_tells_how_each_model_is_served() -> None:
    process = check(DEMO)
    assert (process.returncode, process.stderr) == (0, "")
    rows = table(process.stdout)
    assert list(rows) == ["digits", "echo", "simple"]
    assert rows["simple"] == {
        "MODEL": "simple",
        "VERSION": "1",
        "STATE": "ok",
        "MAX BATCH": "8",
        "BATCHING": "dynamic",
        "INSTANCES": "1 on cpu",
        "DEVICE": "cpu",
        "INPUTS": "INPUT0 INT32 [-1,16], INPUT1 INT32 [-1,16]",
        "OUTPUTS": "OUTPUT0 INT32 [-1,16], OUTPUT1 INT32 [-1,16]",
    }
    assert process.stdout.endswith("\n3 of 3 would be served; 0 problems\n")


def test_a_model_whose_rows_are_dependent_is_shown_as_it_will_be_served(tmp_path: Path) -> None:
    process = check(write_repository(tmp_path, {"mixes": softmax_over_rows(), "m": double()}))
    assert process.returncode == 0
    rows = table(process.stdout)
    assert rows["mixes"]["BATCHING"] == "one request at a time, rows are dependent"
    assert rows["m"]["BATCHING"] == "dynamic"
    assert "warning: mixes version 1: rows are dependent: " in process.stdout


def test_a_repository_without_models_is_a_problem(tmp_path: Path) -> None:
    process = check(tmp_path)
    assert process.returncode == 1
    assert f"problem: '{tmp_path}': expected folders of models, found none" in process.stdout


def test_the_completed_configuration_is_a_config_file_again(tmp_path: Path) -> None:
    process = check(write_repository(tmp_path, {"m": double()}))
    (_, _, config) = process.stdout.partition("# m version 1\n")
    parsed = text_format.Parse(config.split("\n\n")[0], ModelConfig())
    assert (parsed.name, parsed.max_batch_size) == ("m", 4)
    assert list(parsed.input[0].dims) == [4]
    write_repository(tmp_path / "again", {"m": ModelEntry(double(), config.split("\n\n")[0])})
    again = check(tmp_path / "again")
    assert again.returncode == 0
    # What stands above it was measured, and differs from one opening to the next.
    assert config[config.index("name: ") :] in again.stdout


def test_every_problem_of_every_file_is_told_with_file_line_and_field(tmp_path: Path) -> None:
    folder = write_repository(
        tmp_path,
        {
            "bad": ModelEntry(double(), CONTRADICTIONS),
            "broken": NOT_A_MODEL,
            "empty": ModelEntry(double(), versions=()),
            "good": ModelEntry(simple(), SIMPLE_CONFIG.replace("simple", "good")),
            "misfit": ModelEntry(double(), MISFIT),
        },
    )
    process = check(folder, tmp_path / "nope")
    assert (process.returncode, process.stderr) == (1, "")
    rows = table(process.stdout)
    assert {name: row["STATE"] for name, row in rows.items()} == {
        "bad": "problem",
        "broken": "problem",
        "empty": "problem",
        "good": "ok",
        "misfit": "problem",
    }
    for words in (
        "problem: bad: bad/config.pbtxt:2: unknown_field: unknown field",
        "problem: bad: bad/config.pbtxt:1: max_batch_size: expected 0 or more, got -1",
        "problem: bad: bad/config.pbtxt:3: input[0].dims: expected sizes, or -1 for any size, "
        "got [-2]",
        "problem: bad: bad/config.pbtxt:5: dynamic_batching.preferred_batch_size: "
        "expected sizes above 0, got [0]",
        'bad/config.pbtxt:7: sequence_batching: Field "sequence_batching" is specified along with '
        'field "dynamic_batching"',
        "problem: broken version 1: model 'broken': ONNX Runtime cannot open 'model.onnx'",
        "empty: expected a version folder",
        "problem: misfit version 1: misfit/config.pbtxt:1: input[0].data_type: "
        "expected TYPE_FP32 as the model has it, got TYPE_INT32",
        "misfit/config.pbtxt:2: output[0].name: the model has no output 'z'; expected 'y'",
        f"problem: '{tmp_path / 'nope'}': no such file or folder",
    ):
        assert words in process.stdout
    assert "\n1 of 5 would be served; " in process.stdout


def test_a_typing_error_is_told_with_its_line(tmp_path: Path) -> None:
    folder = write_repository(
        tmp_path, {"m": ModelEntry(double(), "max_batch_size: 4\ninput [ { name: }\n")}
    )
    process = check(folder)
    assert process.returncode == 1
    assert "problem: m: m/config.pbtxt:2: " in process.stdout


def test_a_warning_is_no_problem(tmp_path: Path) -> None:
    folder = write_repository(
        tmp_path, {"m": ModelEntry(double(), "response_cache { enable: true }")}
    )
    process = check(folder)
    assert process.returncode == 0
    assert "warning: m version 1: m/config.pbtxt:1: response_cache.enable" in process.stdout
    assert "1 of 1 would be served; 0 problems" in process.stdout


OUT_OF_RANGE: Final = """\
model_warmup [ {
  name: "bad" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_INT64 dims: [ 1 ] input_data_file: "row" } }
} ]
"""


def test_a_warm_up_sample_that_fails_is_a_problem_as_it_is_for_the_server(tmp_path: Path) -> None:
    folder = write_repository(tmp_path, {"m": ModelEntry(fails_on_data(), OUT_OF_RANGE)})
    (folder / "m" / "warmup").mkdir()
    (folder / "m" / "warmup" / "row").write_bytes((99).to_bytes(8, "little"))
    process = check(folder)
    assert process.returncode == 1
    assert "problem: m version 1: model 'm' failed on this data" in process.stdout


def test_a_device_that_is_not_there_hides_no_other_problem(tmp_path: Path) -> None:
    config = MISFIT + "instance_group [ { kind: KIND_GPU } ]\n"
    process = check(write_repository(tmp_path, {"m": ModelEntry(double(), config)}), "--device=cpu")
    assert "is KIND_GPU and the server runs with --device cpu" in process.stdout
    assert "the model has no output 'z'; expected 'y'" in process.stdout


def test_no_reason_holds_a_path_of_the_machine_however_the_source_is_named(tmp_path: Path) -> None:
    write_repository(tmp_path / "repository", {"m": external("../weights.bin")})
    process = subprocess.run(
        [sys.executable, "-m", "stoker", "check", "repository"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
    )
    assert process.returncode == 1
    assert "problem: m version 1" in process.stdout
    assert "repository/m" not in process.stdout


def test_what_a_model_takes_of_memory_is_told(tmp_path: Path) -> None:
    weights = np.ones((2048, 1024), np.float32)
    model = build(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", 2048])],
        [tensor("y", DataType.FP32, ["batch", 1024])],
        {"w": weights},
    )
    done = check(write_repository(tmp_path / "repository", {"m": model}))
    told = re.search(
        r"^# memory: weights 8\.0 MiB, tensors 48\.0 KiB, loaded (\S+) MiB, workspace ",
        done.stdout,
        re.MULTILINE,
    )
    assert told is not None, done.stdout
    assert float(told[1]) >= 8


def test_what_imports_made_is_not_gone_through_for_garbage() -> None:
    program = (
        "import gc, sys; from stoker.cli import main; main(['check']); "
        "sys.exit(gc.isenabled() and gc.get_freeze_count() > 50_000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
