"""What `stoker k8s init` reads of a server, and how it gives up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stoker.deploy.measuring import (
    MeasuringFailed,
    files_bytes,
    machine,
    measure,
    on_at_most,
    parse_series,
    row_bytes,
)
from stoker.tensor import DataType, TensorSpec


def test_a_machine_is_told_in_words_and_never_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: AMD EPYC 7B13\n")
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    told = machine(4.0, "NVIDIA L4", tmp_path)
    assert told == "4 CPUs (AMD EPYC 7B13), 16 GiB of memory, NVIDIA L4"
    assert machine(1.0, "", tmp_path / "absent") == "1 CPU (of unknown make), no GPU"


def test_a_source_weighs_all_its_files(tmp_path: Path) -> None:
    for name in ("m/1/model.onnx", "m/1/model.data", "m/2/model.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1000))
    assert files_bytes(tmp_path) == 3000
    assert files_bytes(tmp_path / "m" / "2" / "model.onnx") == 1000
    assert files_bytes(tmp_path / "absent") == 0


def test_samples_are_found_by_the_metrics_name() -> None:
    series = parse_series(
        "# TYPE a gauge\n"
        'a{model="m",version="1"} 2.5\n'
        "# TYPE b histogram\n"
        'b_bucket{le="+Inf"} 3\nb_sum 1\nb_count 3\n'
    )
    assert series["a"] == [({"model": "m", "version": "1"}, 2.5)]
    assert series["b_count"] == [({}, 3.0)]


def test_a_row_counts_variable_dimensions_as_one_and_text_as_nothing() -> None:
    specs = [
        TensorSpec("image", DataType.FP32, (-1, 3, 8, 8)),
        TensorSpec("ids", DataType.INT64, (-1, -1)),
        TensorSpec("words", DataType.BYTES, (-1, 5)),
    ]
    assert row_bytes(specs) == 4 * 3 * 8 * 8 + 8


def test_a_server_that_is_not_ready_in_time_is_ended_and_told() -> None:
    with pytest.raises(MeasuringFailed, match="not ready within 0 s; --patience gives it longer"):
        measure((), device="cpu", patience_s=0.01)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the kernel gives processors to no process"
)
def test_a_start_is_measured_on_no_more_processors_than_a_pod_gets() -> None:
    had = os.sched_getaffinity(0)
    code = "import os; print(len(os.sched_getaffinity(0)))"

    def of_a_child() -> int:
        return int(subprocess.check_output([sys.executable, "-c", code]))

    with on_at_most(1):
        assert of_a_child() == 1
    assert os.sched_getaffinity(0) == had
    with on_at_most(len(had) + 1):
        assert of_a_child() == len(had)
    with on_at_most(None):
        assert of_a_child() == len(had)
